"""A quote with everything its verification takes."""

from dataclasses import dataclass

from tpm.pcr import PcrSelection, PcrValues
from tpm.quote import DEFAULT_BANKS, Clock, check_clock, parse_quote, verify_quote
from tpm.signature import DEFAULT_SIGNATURES
from ztrooted.inspect.akpub import describe_key, load_key
from ztrooted.inspect.attest import describe_attest
from ztrooted.inspect.plain import Report, plain


@dataclass(frozen=True, slots=True)
class QuoteChallenge:
    """What was asked for, the values claimed, and the clock of the round before where it is known."""

    nonce: bytes
    selection: PcrSelection
    pcr_values: PcrValues
    previous: Clock | None = None
    allowed_signatures: frozenset[str] = DEFAULT_SIGNATURES
    allowed_banks: frozenset[str] = DEFAULT_BANKS


def inspect_quote(attest: bytes, signature: bytes, ak: bytes, challenge: QuoteChallenge) -> Report:
    """Verify a quote and, where the clock of the round before is given, that the machine was not reset since.

    ``attest`` is a ``TPMS_ATTEST``, ``signature`` a ``TPMT_SIGNATURE``, ``ak`` a public area or PEM. Raises
    EvidenceError with an ``ak.*`` or ``quote.*`` code.
    """
    parsed = parse_quote(attest, signature)
    key = load_key(ak)
    verified = verify_quote(
        parsed,
        key,
        nonce=challenge.nonce,
        selection=challenge.selection,
        pcr_values=challenge.pcr_values,
        allowed_signatures=challenge.allowed_signatures,
        allowed_banks=challenge.allowed_banks,
    )
    if challenge.previous is not None:
        check_clock(challenge.previous, verified.clock)
    return {
        "verified": True,
        "signature": parsed.signature.scheme_name,
        "key": describe_key(key),
        "clock_compared": challenge.previous is not None,
        "clock": verified.clock.to_dict(),
        "pcrs": plain(verified.pcr_values),
        "attest": describe_attest(parsed.attest),
    }
