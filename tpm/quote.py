"""TPM2_Quote: bytes -> ``Quote`` -> ``VerifiedQuote``, and the comparison of its clock with the previous round's.

A ``VerifiedQuote`` says: the TPM that holds this key signed these PCR values for this nonce. Whether the values are
good is policy's question; whether the machine was reset since the last round is ``check_clock``'s.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tpm.algorithms import DIGEST_SIZE
from tpm.attest import Attest, AttestReasons, AttestType, ClockInfo, QuoteInfo, parse_attest
from tpm.attestation_key import AttestationKey, VouchedKey
from tpm.errors import RejectedError
from tpm.pcr import PcrSelection, PcrValues, pcr_digest
from tpm.reasons import EvidenceReason
from tpm.signature import DEFAULT_SIGNATURES, Signature, parse_signature, verify_signature

# A quote over 16 banks, with the longest nonce and digest, has 367 bytes.
MAX_QUOTE = 1024

# SHA-1 PCRs can be made to hold a chosen collision, so they prove nothing.
DEFAULT_BANKS = frozenset({"sha256", "sha384", "sha512"})

_QUOTE = AttestReasons(
    malformed=EvidenceReason.QUOTE_MALFORMED,
    magic=EvidenceReason.QUOTE_MAGIC,
    type=EvidenceReason.QUOTE_TYPE,
    trailing=EvidenceReason.QUOTE_TRAILING_BYTES,
    too_large=EvidenceReason.QUOTE_TOO_LARGE,
    selection=EvidenceReason.QUOTE_SELECTION_MISMATCH,
)

# Keys outside the endorsement and platform hierarchies show resetCount, restartCount and firmwareVersion with a constant
# added, modulo 2^32 and 2^64 (Part 1, Timing Components): differences mean something and sizes do not.
_COUNTER = 1 << 32


@dataclass(frozen=True, slots=True)
class Quote:
    """A parsed quote and its signature: a claim."""

    attest: Attest
    info: QuoteInfo
    signature: Signature


@dataclass(frozen=True, slots=True)
class Clock:
    """What is kept of a quote to compare the next one with: milliseconds, counters, firmware version."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool
    firmware_version: int

    def to_dict(self) -> dict[str, int]:
        """Plain integers, for storage."""
        return {
            "clock": self.clock,
            "reset_count": self.reset_count,
            "restart_count": self.restart_count,
            "safe": int(self.safe),
            "firmware_version": self.firmware_version,
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, int]) -> "Clock":
        """Read what ``to_dict`` wrote; KeyError where a field is absent, because absent is never equal."""
        return cls(
            stored["clock"],
            stored["reset_count"],
            stored["restart_count"],
            stored["safe"] == 1,
            stored["firmware_version"],
        )

    @classmethod
    def of(cls, info: ClockInfo, firmware_version: int) -> "Clock":
        """The clock of an attestation."""
        return cls(info.clock, info.reset_count, info.restart_count, info.safe, firmware_version)


@dataclass(frozen=True, slots=True)
class VerifiedQuote:
    """A quote whose every claim was checked. ``pcr_values`` holds the quoted PCRs and no other."""

    quote: Quote
    pcr_values: PcrValues

    @property
    def clock(self) -> Clock:
        """The clock to keep for the next round."""
        return Clock.of(self.quote.attest.clock, self.quote.attest.firmware_version)

    @property
    def firmware_version(self) -> int:
        """As shown to this key; obfuscated for keys outside the endorsement hierarchy."""
        return self.quote.attest.firmware_version

    @property
    def qualified_signer(self) -> bytes:
        """Name of the key together with its ancestors, constant for one key in one place."""
        return self.quote.attest.qualified_signer


def parse_quote(attest: bytes, signature: bytes) -> Quote:
    """Parse a ``TPMS_ATTEST`` of type quote and its ``TPMT_SIGNATURE``; ``quote.*`` codes."""
    parsed = parse_attest(attest, expected=AttestType.QUOTE, reasons=_QUOTE, maximum=MAX_QUOTE)
    if not isinstance(parsed.attested, QuoteInfo):
        raise RejectedError(EvidenceReason.QUOTE_TYPE, "the attested structure is not a quote")
    return Quote(parsed, parsed.attested, parse_signature(signature))


def verify_quote(
    quote: Quote,
    key: AttestationKey | VouchedKey,
    *,
    nonce: bytes,
    selection: PcrSelection,
    pcr_values: PcrValues,
    allowed_signatures: frozenset[str] = DEFAULT_SIGNATURES,
    allowed_banks: frozenset[str] = DEFAULT_BANKS,
    qualified_signer: bytes | None = None,
) -> VerifiedQuote:
    """Verify that the TPM holding ``key`` quoted ``pcr_values`` of ``selection`` for ``nonce``.

    1. The challenge asks for something: neither nonce nor selection is empty. How long a nonce is, its maker decides.
    2. Scheme and hash of the signature are allowed, and are those fixed in the key's public area.
    3. The signature is the key's, over exactly the bytes that were parsed.
    4. The qualified signer is a Name by the key's nameAlg, and equals ``qualified_signer`` where that is known.
    5. The nonce is the challenge's, all of it.
    6. The selection is the challenge's, exactly, in ``allowed_banks``.
    7. There is a value for each selected PCR, as long as its bank's digest, and no other value.
    8. Their digest is the quoted one.

    Raises RejectedError with a ``quote.*`` code at the first that fails.
    """
    attest, info, signature = quote.attest, quote.info, quote.signature
    # 1. The challenge
    if not nonce:
        raise RejectedError(EvidenceReason.QUOTE_NONCE_MISMATCH, "a quote for no nonce is not fresh")
    if selection.is_empty:
        raise RejectedError(EvidenceReason.QUOTE_SELECTION_MISMATCH, "a quote of no PCR proves nothing")
    # 2. Scheme and hash
    _check_scheme(signature, key, allowed_signatures)
    # 3. Signature
    verify_signature(signature, key.key, attest.raw)
    # 4. Qualified signer
    _check_qualified_signer(attest.qualified_signer, key, qualified_signer)
    # 5. Nonce
    if not hmac.compare_digest(attest.extra_data, nonce):
        found = f"{len(attest.extra_data)} bytes, expected {len(nonce)}"
        raise RejectedError(EvidenceReason.QUOTE_NONCE_MISMATCH, f"extraData is not the challenge's nonce ({found})")
    # 6. Selection
    _check_selection(info.selection, selection, allowed_banks)
    # 7. Values
    computed = pcr_digest(info.selection, pcr_values, signature.hash_alg)
    _check_no_extra(info.selection, pcr_values)
    # 8. Digest
    if not hmac.compare_digest(computed, info.pcr_digest):
        detail = f"the PCR values hash to {computed.hex()}, quoted is {info.pcr_digest.hex() or 'nothing'}"
        raise RejectedError(EvidenceReason.QUOTE_PCR_DIGEST_MISMATCH, detail)
    frozen = {bank: MappingProxyType(dict(values)) for bank, values in pcr_values.items() if values}
    return VerifiedQuote(quote, MappingProxyType(frozen))


def _check_scheme(signature: Signature, key: AttestationKey | VouchedKey, allowed: frozenset[str]) -> None:
    if key.alg not in (None, signature.alg):
        detail = f"the signature is {signature.alg.name}, the key's scheme is {key.alg.name}"
        raise RejectedError(EvidenceReason.QUOTE_SIG_ALG_NOT_ALLOWED, detail)
    if key.hash_alg not in (None, signature.hash_alg):
        detail = f"the signature is by {signature.hash_alg.name}, the key's scheme by {key.hash_alg.name}"
        raise RejectedError(EvidenceReason.QUOTE_HASH_ALG_NOT_ALLOWED, detail)
    if signature.scheme_name not in allowed:
        raise RejectedError(EvidenceReason.QUOTE_SIG_ALG_NOT_ALLOWED, f"{signature.scheme_name} is not allowed")


def _check_qualified_signer(found: bytes, key: AttestationKey | VouchedKey, expected: bytes | None) -> None:
    """A qualified Name is nameAlg || H_nameAlg(parent's || Name), by the key's own nameAlg (Part 1, Names)."""
    if expected is not None and not hmac.compare_digest(found, expected):
        raise RejectedError(EvidenceReason.QUOTE_QUALIFIED_SIGNER, f"qualified signer is {found.hex() or 'empty'}")
    name_alg = key.name_alg
    if name_alg is None:
        return
    if int.from_bytes(found[:2], "big") != name_alg or len(found) != 2 + DIGEST_SIZE[name_alg]:
        detail = f"qualified signer {found.hex() or 'empty'} is not a Name by {name_alg.name}"
        raise RejectedError(EvidenceReason.QUOTE_QUALIFIED_SIGNER, detail)


def _check_selection(quoted: PcrSelection, wanted: PcrSelection, allowed_banks: frozenset[str]) -> None:
    asked = {name for name, _ in wanted.banks}
    for name, _ in quoted.banks:
        if name not in asked or name not in allowed_banks:
            raise RejectedError(
                EvidenceReason.QUOTE_BANK_NOT_ALLOWED, f"bank {name} was not asked for or is not allowed"
            )
    if not quoted.same_pcrs(wanted):
        detail = f"quoted is {quoted.as_dict()}, asked for was {wanted.as_dict()}"
        raise RejectedError(EvidenceReason.QUOTE_SELECTION_MISMATCH, detail)


def _check_no_extra(selection: PcrSelection, values: PcrValues) -> None:
    """A value next to a valid quote that the quote does not cover would be believed by somebody.

    ``pcr_digest`` found a value for each selected PCR, so that more values than those are extra ones.
    """
    selected = dict(selection.banks)
    for bank, listed in values.items():
        indices = selected.get(bank, ())
        if len(listed) != len(indices):
            extra = sorted(listed.keys() - set(indices))
            raise RejectedError(EvidenceReason.QUOTE_PCR_VALUES_EXTRA, f"{bank}:{extra} is not in the quote")


def check_clock(previous: Clock, current: Clock) -> None:
    """Compare a verified quote's clock with that of the round before; RejectedError with the first rule it breaks.

    1. The firmware is the same.
    2. The TPM was not reset: the counter is equal. One step on is a reset, one step back a rollback, modulo 2^32.
    3. Nor restarted, by the same rule.
    4. The clock is safe: it cannot have lost time.
    5. The clock advanced: equal is a replay, lower a rollback. Only within one reset epoch, see 2. The clock counts
       milliseconds, so rounds of one TPM are ordered and further apart than that.
    """
    # 1. Firmware
    if current.firmware_version != previous.firmware_version:
        detail = f"firmware version 0x{current.firmware_version:016x}, was 0x{previous.firmware_version:016x}"
        raise RejectedError(EvidenceReason.QUOTE_FIRMWARE_CHANGED, detail)
    # 2. Resets
    _check_counter("resetCount", previous.reset_count, current.reset_count, EvidenceReason.QUOTE_RESET_DETECTED)
    # 3. Restarts
    _check_counter("restartCount", previous.restart_count, current.restart_count, EvidenceReason.QUOTE_RESTART_DETECTED)
    # 4. Safe
    if not current.safe:
        raise RejectedError(EvidenceReason.QUOTE_CLOCK_UNSAFE, "the clock may have been set back by a power loss")
    # 5. Progress
    if current.clock <= previous.clock:
        detail = f"clock is {current.clock} ms, was {previous.clock} ms"
        raise RejectedError(EvidenceReason.QUOTE_CLOCK_ROLLBACK, detail)


def _check_counter(name: str, previous: int, current: int, advanced: EvidenceReason) -> None:
    """Counters may be obfuscated by a constant, so 0xffffffff to 0 is one step on."""
    step = (current - previous) % _COUNTER
    if step == 0:
        return
    forward = step < _COUNTER // 2
    reason = advanced if forward else EvidenceReason.QUOTE_CLOCK_ROLLBACK
    raise RejectedError(reason, f"{name} is {current}, was {previous}")
