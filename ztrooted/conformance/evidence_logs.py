"""Boot logs of other projects, held to what those projects' own tests expect of them."""

import re
from collections.abc import Mapping

from tpm.errors import EvidenceError, MalformedError, RejectedError
from tpm.eventlog import (
    EventLog,
    EventLogRules,
    EventType,
    Format,
    VerifiedEventLog,
    append_events,
    parse_event,
    parse_event_log,
    parse_spec_id,
    verify_event_log,
)
from tpm.eventlog_claims import FILE_PCR
from tpm.reasons import EvidenceReason
from ztrooted.conformance.attacks import pcr_values
from ztrooted.conformance.index import Entry, Fields, decode_item
from ztrooted.conformance.results import Checks, MissingFileError, NotApplicableError
from ztrooted.inspect.eventlog import ALL_QUIRKS, LENIENT, read_event_log

# IMA extends this PCR, and has its own log.
_IMA_PCR = 10
_APPLICATION = EventType.EFI_BOOT_SERVICES_APPLICATION


def judge_log(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kinds ``tpm_event_log`` and ``tpm_event_log_fragment``. Raises what refuses the log."""
    data = entry.bytes_of()
    policy = expected.take("mb_policy")
    if policy is not None and not expected.left():
        try:
            verify_by_default_rules(data)
        except RejectedError as error:
            _excuse_secure_boot(error, policy)
            raise
        checks.names.append("mb_policy")
        return
    if policy is not None:
        _check_default_rules(data, policy, checks)
    if expected.take("parse_single_event") is not None:
        parse_single(data)
        checks.names.append("parse_single_event")
        return
    log = read_event_log(data)
    if expected.take("parse") is not None:
        checks.true("parse", bool(log.events), "no events")
    _check_replay(log, expected, checks)
    _check_claims(log, expected, checks)
    _check_listing(entry, log, expected, checks)
    _check_appended(entry, log, expected, checks)


def _excuse_secure_boot(error: RejectedError, policy: str) -> None:
    """The origin makes policies for machines without Secure Boot where it is asked to; our rules ask for it."""
    if policy == "valid" and error.reason is EvidenceReason.LOG_SECURE_BOOT_OFF:
        raise NotApplicableError(
            "Secure Boot is off, which the origin allows when asked and our rules refuse"
        ) from None


def parse_single(data: bytes) -> None:
    """One record that stands alone: it must be one in exactly one of the two forms."""
    refusals: list[EvidenceError] = []
    forms: tuple[Format, ...] = ("sha1", "crypto-agile")
    for form in forms:
        try:
            parse_event(data, form=form)
        except EvidenceError as error:
            refusals.append(error)
    if not refusals:
        raise MalformedError(EvidenceReason.LOG_MALFORMED, "the record can be read in both forms")
    if len(refusals) == 2:
        raise refusals[0]


def verify_by_default_rules(data: bytes) -> None:
    """A log under the origin's policy, which is about as strict as our default rules; against its own replay."""
    log = parse_event_log(data)
    for bank in log.banks:
        verify_event_log(log, bank=bank, pcrs=log.replay(bank))


def _check_default_rules(data: bytes, policy: str, checks: Checks) -> None:
    """The same, where it is one of several expectations."""
    try:
        verify_by_default_rules(data)
    except EvidenceError as error:
        checks.true("mb_policy", policy == "invalid", f"refused: {error}")
    else:
        checks.true("mb_policy", policy == "valid", "accepted by the default rules")


def _check_replay(log: EventLog, expected: Fields, checks: Checks) -> None:
    for bank, pcrs in (expected.take("pcr_replay") or {}).items():
        values = log.replay(bank)
        for pcr, value in pcrs.items():
            checks.equal(f"pcr_replay {bank}:{pcr}", values.get(int(pcr), b"").hex(), value)
    for bank, pcrs in (expected.take("pcr_verify") or {}).items():
        values = {pcr: value for pcr, value in pcr_values(pcrs).items() if pcr != _IMA_PCR}
        found = verify_event_log(log, bank=bank, pcrs=values, rules=LENIENT)
        checks.equal(f"pcr_verify {bank}", dict(found.pcrs), values)


def _lenient(log: EventLog) -> dict[str, VerifiedEventLog]:
    return {
        bank: verify_event_log(log, bank=bank, pcrs=log.replay(bank), rules=LENIENT)
        for bank in log.banks
        if not bank.startswith("alg-")
    }


def _check_claims(log: EventLog, expected: Fields, checks: Checks) -> None:
    """What the origin reads out of the log; ours is read in every bank."""
    state = [(name, expected.take(name)) for name in ("full_machine_state", "secure_boot_state")]
    grub = expected.take("grub_state")
    told = {name: expected.take(name) for name in _CLAIMS}
    if not any(value is not None for value in (grub, *told.values(), *(value for _, value in state))):
        return
    for name, value in state:
        if value is not None:
            _check_state(log, name, value, checks)
    for bank, verified in _lenient(log).items():
        claims = verified.claims
        if grub is not None:
            wanted = isinstance(grub, str) and grub.startswith("ok")
            checks.equal(f"grub_state {bank}", bool(claims.grub_commands), wanted)
        for name, value in told.items():
            if value is not None:
                _check_claim(name, value, bank, verified, checks)


_CLAIMS = (
    "efi_app_digests_pcr4",
    "grub_commands_min",
    "grub_files",
    "kernel_cmdline",
    "secure_boot_db",
    "post_separator_authority",
)


def _check_state(log: EventLog, name: str, value: object, checks: Checks) -> None:
    """``ok…``: the origin reads the state. Anything else: it finds the log contradictory, as strict rules must."""
    if isinstance(value, str) and value.startswith("ok"):
        checks.true(name, bool(_lenient(log)), "no bank can be verified")
        return
    rules = EventLogRules(secure_boot=False, exit_boot_services=False, legacy_format=True)
    try:
        for bank in log.banks:
            verify_event_log(log, bank=bank, pcrs=log.replay(bank), rules=rules)
    except EvidenceError:
        checks.names.append(name)
    else:
        checks.skip(name, "the origin cannot read this log, and its rules are not ours")


def _check_claim(name: str, value: object, bank: str, verified: VerifiedEventLog, checks: Checks) -> None:
    claims, found = verified.claims, f"{name} {bank}"
    if name == "efi_app_digests_pcr4" and isinstance(value, Mapping):
        if bank in value:
            checks.equal(found, [digest.hex() for digest in _measured(verified, 4, _APPLICATION)], value[bank])
    elif name == "grub_commands_min" and isinstance(value, int):
        checks.true(found, len(claims.grub_commands) >= value, f"{len(claims.grub_commands)}, expected {value} or more")
    elif name == "grub_files":
        checks.equal(found, len(_measured(verified, FILE_PCR, EventType.IPL)), value)
    elif name == "kernel_cmdline" and isinstance(value, str):
        checks.equal(found, list(claims.kernel_command_lines), [value.rstrip("\x00")])
    elif name == "post_separator_authority":
        checks.equal(found, len(verified.secure_boot_state.authorities_after), value)
    elif name == "secure_boot_db" and isinstance(value, Mapping):
        database = verified.secure_boot_state.databases.get("db")
        checks.equal(f"{found} hashes", len(database.hashes) if database else None, value.get("hashes"))
        subjects = set(database.subjects) if database else set()
        checks.equal(f"{found} certificates", subjects, set(value.get("well_known_certs", ())))
    else:
        checks.skip(name, "in a form that is not understood")


def _measured(verified: VerifiedEventLog, pcr: int, kind: int) -> list[bytes]:
    """Digests by PCR and by what the log calls them, as origins count; our claims leave nothing out by its type."""
    events = (event for event in verified.log.events if (event.pcr, event.type) == (pcr, kind))
    return [event.digests[verified.bank] for event in events]


def _check_listing(entry: Entry, log: EventLog, expected: Fields, checks: Checks) -> None:
    """Another tool's listing: as many events, of the same PCRs. One without events could not list this form of log."""
    count, name = expected.take("events_in_yaml_including_header"), expected.take("yaml")
    if count:
        checks.equal("events_in_yaml_including_header", len(log.events), count)
    if name is None:
        return
    try:
        text = entry.read(name).decode()
    except MissingFileError as error:
        checks.skip("yaml", str(error))
        return
    listed = [int(pcr) for pcr in re.findall(r"^\s*PCRIndex: (\d+)\s*$", text, re.MULTILINE)]
    if listed:
        checks.equal("yaml PCRIndex", [event.pcr for event in log.events], listed)


def _check_appended(entry: Entry, log: EventLog, expected: Fields, checks: Checks) -> None:
    """A log that a later stage started anew, behind the log it belongs to."""
    count = expected.take("combined_events_minus_base")
    if count is None:
        return
    try:
        base = read_event_log(entry.read_upstream(str(entry.vector().get("base", ""))))
    except MissingFileError as error:
        checks.skip("combined_events_minus_base", str(error))
        return
    checks.equal("combined_events_minus_base", len(append_events(base, log).events) - len(base.events), count)


def judge_spec_id(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``spec_id_event_data``."""
    expected.take("parse_spec_id")
    spec = parse_spec_id(entry.bytes_of())
    checks.names.append("parse_spec_id")
    algorithms = expected.take("algs")
    if algorithms is not None:
        checks.equal("algs", [algorithm for algorithm, _ in spec.algorithms], algorithms)


def judge_negative(entry: Entry, expected: Fields, checks: Checks) -> None:
    """Kind ``negative_case``: a log, and values it must not add up to."""
    case = Fields(entry.vector(), "item")
    expected.take("replay")
    calculated = expected.take("calculated")
    inline = case.take("log_hex")
    data = entry.read(case.need("log")) if inline is None else decode_item(inline)
    log = parse_event_log(data, quirks=ALL_QUIRKS)
    index, given = case.take("index"), case.take("given")
    pcrs = case.take("pcrs")
    if index is not None and given is not None:
        # Registers of confidential machines: SHA-384, numbered like PCRs in their logs.
        found = log.replay("sha384").get(index, b"")
        if calculated is not None:
            checks.equal("calculated", found.hex(), calculated)
        if found.hex() != given:
            detail = f"register {index} is {found.hex()}, given is {given}"
            raise RejectedError(EvidenceReason.LOG_REPLAY_MISMATCH, detail)
    elif pcrs is not None:
        for bank, values in pcrs.items():
            verify_event_log(log, bank=bank, pcrs=pcr_values(values), rules=LENIENT)
    else:
        raise NotApplicableError("the case names no values to compare the log with")
