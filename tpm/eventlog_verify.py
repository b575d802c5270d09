"""Verify a parsed boot log against quoted PCR values: the numbered plan of ``verify_event_log``.

The order of events of *different* PCRs is not authenticated by anything. What happened "after" is therefore known
only within one PCR; a log that is honest about the order is held to it, a log that is not gains nothing: every claim
rests on the events of its own PCR.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE, digest
from tpm.errors import RejectedError
from tpm.eventlog_claims import IMAGE_PCR, Claims, Finding, FindingCode, collect_claims
from tpm.eventlog_content import CLOSED
from tpm.eventlog_digests import Coverage, verify_data
from tpm.eventlog_exit import EXIT_FAILURE, EXIT_INVOCATION, EXIT_PCR, EXIT_SUCCESS, with_unlogged_exit
from tpm.eventlog_format import NO_PCR, PCR_COUNT, Event, EventLog, startup_locality
from tpm.eventlog_quirks import Quirk
from tpm.eventlog_rules import EventLogRules
from tpm.eventlog_secure_boot import SecureBoot, verify_secure_boot
from tpm.eventlog_types import TYPE_NAMES, EventType
from tpm.reasons import EvidenceReason

# PCRs that belong to the firmware until it hands over.
FIRMWARE_PCRS = range(8)
# Those of them that hold a maker's firmware and settings, and nothing from which claims are drawn by type.
VENDOR_PCRS = (0, 1, 2, 3, 6)
# PCRs that TPM2_Startup sets to ones (PC Client Platform TPM Profile §4.6.2).
DRTM_PCRS = range(17, 23)

CALLING = b"Calling EFI Application from Boot Option"
DEBUG_MODE = b"UEFI Debug Mode"
DMA_DISABLED = b"DMA Protection Disabled"

_CLOSED, _CLOSED_ALTERNATIVE = CLOSED
_ERROR = b"\x01\x00\x00\x00"
_SEPARATORS = (_CLOSED, _CLOSED_ALTERNATIVE, _ERROR)
# Honest events with the digest of a separator: startup code measures an absent part of the firmware interface table as
# four zero bytes, and a boot order of 1, 0 is the four bytes of the error separator.
_LOOK_ALIKES = frozenset(
    {
        (EventType.S_CRTM_CONTENTS, _CLOSED),
        (EventType.EFI_VARIABLE_BOOT, _ERROR),
    }
)


@dataclass(frozen=True, slots=True)
class VerifiedEventLog:
    """A log whose events add up to the quoted PCRs, and what follows from it.

    ``pcrs`` are the verified values. ``coverage`` tells by event number how much of its data was measured; what is
    missing there, or covered by nothing, is a remark of the machine's and never a fact. ``findings`` did not lead to
    refusal. ``quirks_used`` had to be tolerated.
    """

    log: EventLog
    bank: str
    pcrs: Mapping[int, bytes]
    startup_locality: int
    secure_boot_state: SecureBoot
    claims: Claims
    exit_boot_services: bool
    coverage: Mapping[int, Coverage]
    findings: tuple[Finding, ...]
    quirks_used: frozenset[Quirk]

    @property
    def secure_boot(self) -> bool | None:
        """On, off, or None where PCR 7 was not quoted or does not say."""
        return self.secure_boot_state.enabled


def verify_event_log(
    log: EventLog, *, bank: str, pcrs: Mapping[int, bytes], rules: EventLogRules | None = None
) -> VerifiedEventLog:
    """Verify ``log`` against the quoted ``pcrs`` of ``bank`` ("sha256", …); only quoted PCRs are judged and believed.

    1. The log is of an allowed form and size and measured anything at all.
    2. EV_NO_ACTION events, which extend nothing, carry no digests and open no second log; StartupLocality is
       unambiguous.
    3. Every quoted PCR is what its events add up to; one without events holds its reset value. Under the quirk
       ``exit_not_logged`` PCR 5 may go on to the end of boot services, which the result's log then tells.
    4. Each event's type belongs into its PCR, and none hides a separator under another type.
    5. Data that is measured is what was measured.
    6. Firmware closed each of its quoted PCRs once, without an error.
    7. One boot option was tried, no debugger or open DMA was admitted, boot services ended once, and firmware was
       silent after.
    8. PCR 7 tells one story about Secure Boot, and the one the rules ask for.
    9. Claims are drawn from measured data only.

    Raises ``RejectedError`` with a ``log.*`` reason, ``pcr.malformed`` for impossible PCR values,
    ``evidence.missing`` for none; ``MalformedError`` for a variable or signature list that cannot be parsed.
    """
    rules = rules or EventLogRules()
    findings: list[Finding] = []
    used = set(log.quirks_used)

    # 1. Form and size.
    _verify_form(log, rules)

    # 2. Events that extend nothing.
    _verify_no_action(log)
    locality = startup_locality(log)

    # 3. The PCRs.
    log = _complete(log, bank, pcrs, used)
    _verify_replay(log, bank, pcrs, locality)
    measured = [event for event in log.events if event.type != EventType.NO_ACTION]
    quoted = [event for event in measured if event.pcr in pcrs]
    findings.extend(_unquoted(measured, pcrs))

    # 4. Types.
    _verify_types(quoted, bank, rules, log.quirks, used)

    # 5. Data.
    coverage = {event.number: verify_data(event, bank, log.quirks) for event in quoted}

    # 6. Separators.
    _verify_separators(quoted, pcrs, rules)

    # 7. Actions.
    exited = _verify_actions(quoted, rules)

    # 8. Secure Boot.
    secure_boot = verify_secure_boot((event for event in quoted if event.pcr == 7), bank, rules, log.quirks, used)
    findings.extend(_unlisted(secure_boot))

    # 9. Claims.
    claims = collect_claims(quoted, bank, coverage, exited, findings)
    used_quirks, ended = frozenset(used), exited is not None
    return VerifiedEventLog(
        log, bank, dict(pcrs), locality, secure_boot, claims, ended, coverage, tuple(findings), used_quirks
    )


def _reject(reason: EvidenceReason, detail: str) -> None:
    raise RejectedError(reason, detail)


def _verify_form(log: EventLog, rules: EventLogRules) -> None:
    if log.size > rules.max_bytes:
        _reject(EvidenceReason.LOG_TOO_LARGE, f"{log.size} bytes are over the maximum of {rules.max_bytes}")
    if len(log.events) > rules.max_events:
        _reject(EvidenceReason.LOG_TOO_LARGE, f"{len(log.events)} events are over the maximum of {rules.max_events}")
    if log.format == "sha1" and not rules.legacy_format:
        _reject(EvidenceReason.LOG_FORMAT_LEGACY, "a log of the SHA-1 form proves nothing about other banks")
    if all(event.type == EventType.NO_ACTION for event in log.events):
        _reject(EvidenceReason.LOG_EMPTY, "no event of the log measures anything")


def _verify_no_action(log: EventLog) -> None:
    for event in log.events:
        if event.type != EventType.NO_ACTION or event.pcr == NO_PCR:
            continue
        if any(any(value) for value in event.digests.values()):
            _reject(EvidenceReason.LOG_NO_ACTION_ABUSE, f"event {event.number} is EV_NO_ACTION and has a digest")
        if event.number and event.data.startswith(b"Spec ID Event"):
            _reject(EvidenceReason.LOG_NO_ACTION_ABUSE, f"event {event.number} begins a second log")


def _complete(log: EventLog, bank: str, pcrs: Mapping[int, bytes], used: set[Quirk]) -> EventLog:
    """The log, or where PCR 5 needs it and the quirk allows it, the log up to the end of boot services."""
    if Quirk.EXIT_NOT_LOGGED not in log.quirks or EXIT_PCR not in pcrs:
        return log
    completed = with_unlogged_exit(log, bank, pcrs[EXIT_PCR])
    if completed is None:
        return log
    used.add(Quirk.EXIT_NOT_LOGGED)
    return completed


def _verify_replay(log: EventLog, bank: str, pcrs: Mapping[int, bytes], locality: int) -> None:
    if not pcrs:
        _reject(EvidenceReason.EVIDENCE_MISSING, "no PCR values to verify the log against")
    values = log.replay(bank)
    size = DIGEST_SIZE[BANK_BY_NAME[bank]]
    for pcr, value in sorted(pcrs.items()):
        if not 0 <= pcr < PCR_COUNT or len(value) != size:
            _reject(EvidenceReason.PCR_MALFORMED, f"PCR {pcr} of {len(value)} bytes, expected {size}")
    for pcr, value in sorted(pcrs.items()):
        if pcr in values:
            continue
        reset = (b"\xff" if pcr in DRTM_PCRS else b"\x00") * size
        if pcr == 0:
            reset = reset[:-1] + bytes((locality,))
        if value != reset:
            _reject(EvidenceReason.LOG_PCR_WITHOUT_EVENTS, f"PCR {pcr} is not at its reset value and has no events")
    wrong = [pcr for pcr, value in sorted(pcrs.items()) if pcr in values and values[pcr] != value]
    if wrong:
        listed = ", ".join(map(str, wrong))
        _reject(EvidenceReason.LOG_REPLAY_MISMATCH, f"the events of PCR {listed} do not add up to the quoted value")


def _unquoted(measured: Iterable[Event], pcrs: Mapping[int, bytes]) -> list[Finding]:
    ignored = Counter(event.pcr for event in measured if event.pcr not in pcrs)
    return [
        Finding(FindingCode.PCR_NOT_QUOTED, None, f"{count} events of PCR {pcr} are not covered by the quote")
        for pcr, count in sorted(ignored.items())
    ]


def _unlisted(secure_boot: SecureBoot) -> list[Finding]:
    return [
        Finding(FindingCode.AUTHORITY_NOT_IN_DB, None, f"an authority named {authority.variable.name} is not in db")
        for authority in secure_boot.unlisted()
    ]


def _verify_types(
    quoted: Iterable[Event], bank: str, rules: EventLogRules, quirks: frozenset[Quirk], used: set[Quirk]
) -> None:
    separators = {digest(BANK_BY_NAME[bank], value): value for value in _SEPARATORS}
    for event in quoted:
        if event.type == EventType.SEPARATOR:
            continue
        hidden = separators.get(event.digests[bank]) if event.pcr in FIRMWARE_PCRS else None
        if hidden is not None and (event.type, hidden) not in _LOOK_ALIKES:
            _reject(
                EvidenceReason.LOG_SEPARATOR_DISGUISED, f"event {event.number} measures a separator under another type"
            )
        allowed = rules.allowed_types[event.pcr] if event.pcr < len(rules.allowed_types) else frozenset()
        if event.type in allowed:
            continue
        if Quirk.VENDOR_EVENT_TYPE in quirks and event.pcr in VENDOR_PCRS and event.type not in TYPE_NAMES:
            used.add(Quirk.VENDOR_EVENT_TYPE)
        else:
            _reject(
                EvidenceReason.LOG_UNKNOWN_EVENT_TYPE,
                f"event {event.number} of type {event.type_name} has no business in PCR {event.pcr}",
            )


def _verify_separators(quoted: Iterable[Event], pcrs: Mapping[int, bytes], rules: EventLogRules) -> None:
    found: set[int] = set()
    for event in quoted:
        if event.type != EventType.SEPARATOR or event.pcr not in FIRMWARE_PCRS:
            continue
        if event.pcr in found:
            _reject(EvidenceReason.LOG_SEPARATOR_DUPLICATE, f"event {event.number} closes PCR {event.pcr} again")
        if event.data != _CLOSED and not (rules.separator_ones and event.data == _CLOSED_ALTERNATIVE):
            shown = event.data[:16].hex()
            _reject(
                EvidenceReason.LOG_SEPARATOR_INVALID, f"the separator of PCR {event.pcr} is 0x{shown}, expected zero"
            )
        found.add(event.pcr)
    if rules.separators:
        for pcr in sorted(pcrs):
            if pcr in FIRMWARE_PCRS and pcr not in found:
                _reject(EvidenceReason.LOG_SEPARATOR_MISSING, f"firmware did not close PCR {pcr}")


def _verify_actions(quoted: Iterable[Event], rules: EventLogRules) -> int | None:
    """The number of the event with which boot services ended, or None.

    A loader may ask for the end and be refused, then ask again (UEFI 2.10 §7.4.6). Between a request and its answer
    nothing is measured; EDK2 tells a refusal without the request, other firmware an end after a refusal without a new
    one. An end that nobody ever asked for is none.
    """
    attempts = 0
    asked = pending = False
    ended: int | None = None
    for event in quoted:
        if event.pcr not in FIRMWARE_PCRS:
            continue
        action = event.type in (EventType.EFI_ACTION, EventType.ACTION)
        text = event.data.rstrip(b"\x00") if action else b""
        if action and event.pcr == IMAGE_PCR and not (text.isascii() and text.decode().isprintable()):
            # An image under the type of an action would be none of the images that were started.
            _reject(EvidenceReason.LOG_UNKNOWN_EVENT_TYPE, f"event {event.number} is an action that is no text")
        if ended is not None or (pending and text not in (EXIT_SUCCESS, EXIT_FAILURE)):
            _reject(
                EvidenceReason.LOG_EVENT_AFTER_EBS,
                f"event {event.number} extends PCR {event.pcr} after boot services ended",
            )
        if text == EXIT_INVOCATION and event.pcr == EXIT_PCR:
            asked = pending = True
        elif text in (EXIT_SUCCESS, EXIT_FAILURE) and event.pcr == EXIT_PCR:
            if text == EXIT_SUCCESS and not asked:
                _reject(EvidenceReason.LOG_EBS_MISSING, f"event {event.number} answers a request nobody made")
            pending = False
            ended = event.number if text == EXIT_SUCCESS else None
        elif text == CALLING:
            attempts += 1
            if attempts > rules.boot_attempts:
                _reject(EvidenceReason.LOG_DUP_ACTION, f"event {event.number} is boot attempt {attempts}")
        elif (text == DEBUG_MODE and not rules.debugger) or (text == DMA_DISABLED and not rules.dma_unprotected):
            _reject(EvidenceReason.LOG_UEFI_DEBUGGER, f"event {event.number} says: {text.decode()}")
        elif event.pcr == 7 and text and text not in (DEBUG_MODE, DMA_DISABLED):
            _reject(EvidenceReason.LOG_UNKNOWN_EVENT_TYPE, f"event {event.number} is an action unknown in PCR 7")
    if rules.exit_boot_services and ended is None:
        _reject(EvidenceReason.LOG_EBS_MISSING, "PCR 5 was not quoted, or does not say that boot services ended")
    return ended
