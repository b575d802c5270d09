"""Event logs and measurement lists, by both verifiers: what published collections hold, and what changed ones become."""

import random
from itertools import product
from typing import Any

from tests.support import corpus
from tests.support.eventlog_builder import Log
from tests.support.ima_machine import Machine
from tests.vectors.node import called
from tpm.errors import EvidenceError
from tpm.eventlog import parse_event_log
from tpm.ima import parse_ima_list
from tpm.ima_replay import ImaState, replay, replayed_pcr10

CHANGES = 150


def changed(data: bytes, chosen: random.Random) -> bytes:
    """A byte, a range, an end or a beginning that is another."""
    at = chosen.randrange(len(data))
    match chosen.randrange(5):
        case 0:
            return data[:at]
        case 1:
            return data[:at] + data[at + chosen.randrange(1, 40) :]
        case 2:
            return data[:at] + chosen.randbytes(chosen.randrange(1, 5)) + data[at:]
        case 3:
            return data + data[at:]
        case _:
            return data[:at] + bytes([data[at] ^ (1 << chosen.randrange(8))]) + data[at + 1 :]


def _logs() -> list[bytes]:
    chosen = random.Random(5)  # noqa: S311
    found = [Log().data()]
    folder = corpus.ROOT / "attacks" / "eventlogs"
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    found += [file.read_bytes() for file in files if file.is_file() and file.stat().st_size < 1 << 17]
    return found[:60] + [changed(found[number % min(8, len(found))], chosen) for number in range(CHANGES)]


def _replayed(data: bytes) -> tuple[dict[int, str] | None, str | None]:
    try:
        log = parse_event_log(data)
        return {pcr: value.hex() for pcr, value in log.replay("sha256").items()}, None
    except EvidenceError as error:
        return None, str(error.reason)


def test_event_logs_are_replayed_to_the_same_values_or_refused() -> None:
    """Logs of the SHA-1 form are refused here as a whole; what events mean is not judged, so those values are compared."""
    logs = _logs()
    wanted = [_replayed(data) for data in logs]
    values = [
        {str(pcr): bytes.fromhex(value) for pcr, value in (found or {0: "00" * 32}).items()} for found, _ in wanted
    ]
    answers = called(
        "eventlog.js", [("verifyLogBytes", [data, "sha256", said]) for data, said in zip(logs, values, strict=True)]
    )
    agreed = 0
    for data, (found, reason), answer in zip(logs, wanted, answers, strict=True):
        if found is None:
            assert "reason" in answer, (reason, data[:80])
        elif "value" in answer:
            agreed += 1
        else:  # stricter: another form, abuse of EV_NO_ACTION, nothing measured
            assert answer["reason"] in {"log.malformed", "log.no_action_abuse", "log.empty"}, (answer, data[:80])
    assert agreed > 20
    wrong = [{pcr: bytes([value[0] ^ 1]) + value[1:] for pcr, value in said.items()} for said in values]
    again = called(
        "eventlog.js", [("verifyLogBytes", [data, "sha256", said]) for data, said in zip(logs, wrong, strict=True)]
    )
    assert all("reason" in answer for answer in again)


def _lists() -> list[bytes]:
    chosen = random.Random(6)  # noqa: S311
    machine = Machine()
    for number in range(6):
        machine.measure(f"/usr/bin/program {number}")
    found = [machine.ascii()]
    folder = corpus.ROOT / "attacks" / "ima"
    files = sorted(folder.rglob("*")) if folder.is_dir() else []
    found += [
        data
        for file in files
        if file.is_file() and (data := file.read_bytes()).startswith(b"10 ") and len(data) < 1 << 16
    ]
    return found[:80] + [changed(found[number % min(8, len(found))], chosen) for number in range(CHANGES)]


def _listed(data: bytes) -> tuple[bytes | None, str | None]:
    try:
        entries = parse_ima_list(data, format="ascii").entries
        value = replayed_pcr10(entries, "sha256")
        replay(ImaState.initial(), entries, bank="sha256", pcr10=value, offset=0)
    except EvidenceError as error:
        return None, str(error.reason)
    return value, None


def test_measurement_lists_are_replayed_to_the_same_value_or_refused() -> None:
    lists = _lists()
    wanted = [_listed(data) for data in lists]
    calls: list[tuple[str, list[Any]]] = [
        ("replayListBytes", [data, "sha256", value or b"\1" * 32])
        for data, (value, _) in zip(lists, wanted, strict=True)
    ]
    answers = called("ima.js", calls)
    for data, (value, reason), answer in zip(lists, wanted, answers, strict=True):
        assert ("value" in answer) is (value is not None), (reason, answer, data[:200])
    corpus.folder("attacks")  # the comparison above holds without it; that enough was compared takes its lists
    assert sum(value is not None for value, _ in wanted) > 5
    assert (
        sum(
            answer.get("reason") == reason
            for (value, reason), answer in zip(wanted, answers, strict=True)
            if value is None
        )
        > 20
    )


def test_a_list_goes_on_where_it_ended_or_is_refused_alike() -> None:
    machine = Machine()
    for number in range(5):
        machine.measure(f"/usr/bin/{number}")
    entries = parse_ima_list(machine.ascii(), format="ascii").entries
    value = replayed_pcr10(entries, "sha256")
    calls: list[tuple[str, list[Any]]] = []
    wanted: list[str | None] = []
    for offset, known in product((0, 2, 3, 9), (0, 2, 3)):
        state = ImaState(known, {"sha256": replayed_pcr10(entries[:known], "sha256")} if known else {}, 0)
        part = b"".join(line + b"\n" for line in machine.ascii().split(b"\n")[offset:-1])
        calls.append(("replayListBytes", [part, "sha256", value, state.to_dict(), offset]))
        try:
            replay(state, parse_ima_list(part, format="ascii").entries, bank="sha256", pcr10=value, offset=offset)
            wanted.append(None)
        except EvidenceError as error:
            wanted.append(str(error.reason))
    assert [answer.get("reason") for answer in called("ima.js", calls)] == wanted
    assert None in wanted
    assert len(set(wanted)) > 1
