"""Judges of attack entries: context in the words of the corpus, verdict by the public API.

Each ``judge_*`` returns where the evidence is acceptable and raises what the verifier raises. A context that says
something we don't know raises NotApplicableError.
"""

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from tpm.attestation_key import accept_attestation_key
from tpm.ek_template import parse_ek_public
from tpm.endorsement import EkPolicy, EkQuirk, EkRoots, split_pem, verify_ek_certificate
from tpm.errors import MalformedError
from tpm.eventlog import EventLogRules, Quirk, parse_event_log, verify_event_log
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_replay import ImaState, replay
from tpm.ima_rules import STRONG_DIGESTS, TEMPLATES, ImaRules
from tpm.pcr import PcrSelection
from tpm.public import parse_public
from tpm.quote import DEFAULT_BANKS, Clock, check_clock, parse_quote, verify_quote
from tpm.reasons import EvidenceReason
from tpm.signature import DEFAULT_SIGNATURES
from ztrooted.conformance.index import Fields

Files = Mapping[str, bytes]


def judge_ak_public(files: Files, context: Fields) -> None:
    """A ``TPM2B_PUBLIC`` offered as an attestation key."""
    allowed = frozenset(context.take("allowed_sig", DEFAULT_SIGNATURES))
    context.done()
    accept_attestation_key(parse_public(files["file"]), allowed=allowed)


def judge_quote(files: Files, context: Fields) -> None:
    """A quote with its challenge, the values claimed, and the clock of the round before."""
    nonce = bytes.fromhex(context.need("nonce"))
    selection = PcrSelection.of(context.need("want_selection"))
    values = {bank: pcr_values(pcrs) for bank, pcrs in context.need("claimed_pcrs").items()}
    signatures = frozenset(context.take("allowed_sig", DEFAULT_SIGNATURES))
    banks = frozenset(context.take("allowed_banks", DEFAULT_BANKS))
    signer = context.take("qualified_signer")
    previous = context.take("prev_clock")
    context.done()
    verified = verify_quote(
        parse_quote(files["attest"], files["sig"]),
        accept_attestation_key(parse_public(files["ak_public"])),
        nonce=nonce,
        selection=selection,
        pcr_values=values,
        allowed_signatures=signatures,
        allowed_banks=banks,
        qualified_signer=None if signer is None else bytes.fromhex(signer),
    )
    if previous is not None:
        check_clock(_clock(Fields(previous, "previous clock"), verified.firmware_version), verified.clock)


def _clock(told: Fields, firmware_version: int) -> Clock:
    """The clock before; a context without firmware version says nothing about it, so it is the one quoted now."""
    clock = Clock(
        told.need("clock"),
        told.need("resetCount"),
        told.need("restartCount"),
        safe=told.need("safe") == 1,
        firmware_version=told.take("firmwareVersion", firmware_version),
    )
    told.done()
    return clock


def judge_ek_certificate(files: Files, context: Fields) -> None:
    """An EK certificate with its chain, the roots trusted, and the public area of the EK."""
    at = datetime.fromisoformat(context.need("now"))
    policy = ek_policy(context.nested("policy"))
    context.done()
    verify_ek_certificate(
        files["leaf"],
        split_pem(files["chain"]) if "chain" in files else (),
        EkRoots.from_pem(files["roots"], quirks=policy.quirks),
        at=at,
        ek_public=parse_ek_public(files["ek_public"]) if "ek_public" in files else None,
        policy=policy,
        crls=split_pem(files["crls"], "X509 CRL") if "crls" in files else (),
    )


def ek_policy(told: Fields) -> EkPolicy:
    """A policy from the corpus' words."""
    default = EkPolicy()
    vendors = told.take("vendors")
    policy = EkPolicy(
        vendors=None if vendors is None else frozenset(vendors),
        require_eku=told.take("require_eku", default.require_eku),
        allow_expired_leaf=told.take("allow_expired_leaf", default.allow_expired_leaf),
        require_crl=told.take("require_crl", default.require_crl),
        quirks=frozenset(map(EkQuirk, told.take("quirks", ()))),
        max_certificate_bytes=told.take("max_certificate_bytes", default.max_certificate_bytes),
        max_intermediates=told.take("max_intermediates", default.max_intermediates),
    )
    told.done()
    return policy


_LOG_RULES = (
    "boot_attempts",
    "debugger",
    "dma_unprotected",
    "exit_boot_services",
    "legacy_format",
    "max_bytes",
    "max_events",
    "secure_boot",
    "separators",
)


def judge_event_log(files: Files, context: Fields) -> None:
    """A boot log against the PCR values of one bank."""
    bank, pcrs = context.need("bank"), pcr_values(context.need("pcrs"))
    told = context.nested("policy")
    quirks = frozenset(map(Quirk, told.take("quirks", ())))
    given = {name: value for name in _LOG_RULES if (value := told.take(name)) is not None}
    told.done()
    context.done()
    log = parse_event_log(files["file"], quirks=quirks)
    verify_event_log(log, bank=bank, pcrs=pcrs, rules=EventLogRules(**given))


def judge_ima_list(files: Files, context: Fields) -> None:
    """A measurement list against PCR 10, the state of the round before, and a policy."""
    bank, pcr10, form = context.need("bank"), context.need("pcr10"), context.take("format")
    state, offset = _ima_state(context.take("prev"))
    padded, pending = context.take("padded_sha1", False), context.take("allow_pending", False)
    told = context.nested("policy")
    max_bytes, max_line = told.take("max_bytes"), told.take("max_line")
    context.done()
    rules = ima_rules(told)
    data = files["file"]
    result = replay(
        state,
        parse_ima_list(data, format=form).entries,
        bank=bank,
        pcr10=bytes.fromhex(pcr10[bank]),
        offset=offset,
        padded_sha1=padded,
        allow_pending=pending,
    )
    appraise_ima(result.verified, rules)
    _check_size(data, max_bytes, max_line, form)


def _check_size(data: bytes, max_bytes: int | None, max_line: int | None, form: str | None) -> None:
    """A context may bound lists more tightly than our parser does; the one who receives a list then does that."""
    if max_bytes is not None and len(data) > max_bytes:
        raise MalformedError(EvidenceReason.IMA_TOO_LARGE, f"{len(data)} bytes; at most {max_bytes} are accepted")
    if max_line is not None and form != "binary" and max(map(len, data.split(b"\n"))) > max_line:
        raise MalformedError(EvidenceReason.IMA_TOO_LARGE, f"a line is over {max_line} bytes")


def _ima_state(previous: Mapping[str, Any] | None) -> tuple[ImaState, int]:
    """What is known of the rounds before, and where the list starts."""
    if not previous:
        return ImaState.initial(), 0
    told = Fields(previous, "previous round")
    entries, offset, pcr10 = told.need("entries"), told.need("offset"), told.need("pcr10")
    pending = told.take("pending", 0)
    told.done()
    return ImaState(entries, {bank: bytes.fromhex(value) for bank, value in pcr10.items()}, pending), offset


def ima_rules(told: Fields) -> ImaRules:
    """Rules from the corpus' words."""
    rules = ImaRules.of(
        told.take("allow", {}),
        excludes=told.take("excludes", ()),
        templates=frozenset(told.take("templates", TEMPLATES)),
        digest_algs=frozenset(told.take("digest_algs", STRONG_DIGESTS)),
        allow_violations=told.take("allow_violations", False),
    )
    told.done()
    return rules


def pcr_values(pcrs: Mapping[str, str]) -> dict[int, bytes]:
    """``{"0": "<hex>"}`` as indices and bytes."""
    return {int(index): bytes.fromhex(value) for index, value in pcrs.items()}


JUDGES: Mapping[str, Callable[[Files, Fields], None]] = {
    "ak_public": judge_ak_public,
    "ek_cert": judge_ek_certificate,
    "event_log": judge_event_log,
    "ima_list": judge_ima_list,
    "quote": judge_quote,
}
