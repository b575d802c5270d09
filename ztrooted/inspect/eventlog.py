"""Measured boot logs: every event decoded, every bank replayed, and with PCR values the verdict on them."""

from dataclasses import replace

from tpm.algorithms import BANK_BY_NAME
from tpm.errors import EvidenceError, MalformedError
from tpm.eventlog import (
    Claims,
    Coverage,
    Event,
    EventLog,
    EventLogRules,
    Quirk,
    SignatureDatabase,
    VariableEvent,
    VerifiedEventLog,
    decode,
    parse_event_log,
    verify_event_log,
)
from tpm.eventlog_uefi import guid_text
from tpm.pcr import PcrValues
from ztrooted.inspect.plain import Report, plain

ALL_QUIRKS = frozenset(Quirk)
# What other verifiers accept: machines without Secure Boot or DMA protection, logs that end early, logs of the SHA-1
# form, separators of either value.
LENIENT = EventLogRules(
    secure_boot=False,
    exit_boot_services=False,
    separators=False,
    separator_ones=True,
    legacy_format=True,
    dma_unprotected=True,
)


def read_event_log(data: bytes) -> EventLog:
    """Parse a log with every quirk of real firmware allowed; the log and what verifies it name those that were needed.

    For reading alone: a log that is to be believed is parsed with the quirks its policy allows.
    """
    return parse_event_log(data, quirks=ALL_QUIRKS)


def inspect_event_log(
    data: bytes,
    *,
    pcrs: PcrValues | None = None,
    rules: EventLogRules | None = None,
    quirks: frozenset[Quirk] | None = None,
) -> Report:
    """Read a log and, with ``pcrs``, verify it against the values of each bank in it.

    1. The log parses: with exactly ``quirks`` where they are given or there is something to verify, else with those it
       needs.
    2. Each bank that we can compute is replayed.
    3. With ``pcrs`` the log is verified in each of their banks under ``rules``; without, what the rules would refuse
       is a finding.

    Raises EvidenceError with a ``log.*`` code: for what does not parse or replay, and with ``pcrs`` for whatever is
    refused.
    """
    # 1. Parsing
    reading = quirks is None and pcrs is None
    log = read_event_log(data) if reading else parse_event_log(data, quirks=quirks or frozenset())
    # 2. Replay
    findings: list[Report] = []
    replayed = _replay(log, findings)
    # 3. Verification
    rules = rules or EventLogRules()
    if pcrs is None:
        verified = [found for bank in replayed if (found := _look(log, bank, replayed[bank], rules, findings))]
    else:
        verified = [verify_event_log(log, bank=bank, pcrs=values, rules=rules) for bank, values in pcrs.items()]
    used = log.quirks_used.union(*(result.quirks_used for result in verified))
    for quirk in sorted(used):
        _add(findings, f"log.quirk_{quirk}", None, "tolerated in this log")
    for result in verified:
        for finding in result.findings:
            _add(findings, f"log.{finding.code}", finding.event, finding.detail)
    report = _report(log, replayed, verified, findings)
    return report | {"quirks_used": plain(used), "verified": pcrs is not None}


def _replay(log: EventLog, findings: list[Report]) -> dict[str, dict[int, bytes]]:
    """All banks we can compute. A bank that does not replay is a finding, unless none does."""
    replayed: dict[str, dict[int, bytes]] = {}
    refusal: EvidenceError | None = None
    for bank in log.banks:
        if bank not in BANK_BY_NAME:
            _add(findings, "log.bank_unknown", None, f"the digests of {bank} cannot be computed here")
            continue
        try:
            replayed[bank] = log.replay(bank)
        except EvidenceError as error:
            refusal = error
            _add(findings, str(error.reason), None, f"{bank}: {error.detail}")
    if refusal is not None and not replayed:
        raise refusal
    return replayed


def _look(
    log: EventLog, bank: str, values: dict[int, bytes], rules: EventLogRules, findings: list[Report]
) -> VerifiedEventLog | None:
    """The log against its own replay: under ``rules``, or else under lenient ones, so that its claims can be shown."""
    for chosen in (rules, LENIENT):
        try:
            return verify_event_log(log, bank=bank, pcrs=values, rules=chosen)
        except EvidenceError as error:
            _add(findings, str(error.reason), None, error.detail)
    return None


def _report(
    log: EventLog, replayed: dict[str, dict[int, bytes]], verified: list[VerifiedEventLog], findings: list[Report]
) -> Report:
    first = verified[0] if verified else None
    return {
        "format": log.format,
        "size": log.size,
        "banks": list(log.banks),
        "spec_id": plain(log.spec_id),
        "pcrs": {bank: {str(pcr): values[pcr].hex() for pcr in sorted(values)} for bank, values in replayed.items()},
        "verified_banks": [result.bank for result in verified],
        "startup_locality": first.startup_locality if first else None,
        "secure_boot": first.secure_boot if first else None,
        "exit_boot_services": first.exit_boot_services if first else None,
        "claims": _claims(first.claims) if first else None,
        "findings": findings,
        "events": [_event(event, first) for event in log.events],
    }


def _event(event: Event, verified: VerifiedEventLog | None) -> Report:
    covered = verified.coverage.get(event.number) if verified else None
    shown: Report = {
        "number": event.number,
        "pcr": event.pcr,
        "type": event.type_name,
        "digests": {bank: value.hex() for bank, value in event.digests.items()},
        "data": event.data.hex(),
        "measured": None if covered is None else Coverage(covered).name.lower(),
    }
    try:
        content = decode(event)
    except MalformedError as error:
        return shown | {"content": None, "undecoded": {"reason": str(error.reason), "detail": error.detail}}
    value = plain(content)
    if isinstance(content, VariableEvent) and isinstance(content.value, SignatureDatabase):
        value["value"] = _database(content.value)
    return shown | {"content": {"kind": type(content).__name__, **value}}


def _database(database: SignatureDatabase) -> Report:
    return {
        "certificates": list(database.subjects),
        "hashes": plain(database.hashes),
        "lists": [
            {
                "type": guid_text(found.type),
                "entries": [{"owner": guid_text(owner), "data": data.hex()} for owner, data in found.entries],
            }
            for found in database.lists
        ],
    }


def _claims(claims: Claims) -> Report:
    # Tables of partitions are long and stand with their events.
    shown: Report = plain(replace(claims, partition_tables=()))
    del shown["partition_tables"]
    return shown


def _add(findings: list[Report], reason: str, event: int | None, detail: str) -> None:
    """Banks tell the same story; what was found in one is not told again for the next."""
    found = {"reason": reason, "event": event, "detail": detail}
    if found not in findings:
        findings.append(found)
