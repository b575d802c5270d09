"""Cases for the parts that replay event logs and measurement lists; see ``tests.vectors.parts``."""

from collections.abc import Iterator
from typing import Any

from tests.support.eventlog_builder import NO_ACTION, Log, event, spec_id
from tests.support.ima_machine import Machine
from tests.vectors.operations import _splice
from tpm.ima_replay import ImaState, replayed_pcr10

Made = Iterator[tuple[str, str, dict[str, Any]]]
_DIGESTS = 12 + 2 + 20 + 2 + 32  # of an event with two banks, from its beginning to the size of its data
_SPEC = 32 + 24 + 4  # where the algorithms of the Spec ID event begin


def blobs() -> dict[str, str]:
    """What most cases are changed from."""
    return {"boot": Log().data().hex()}


def event_logs() -> Made:
    """An honest boot, and logs that are wrong in one thing."""
    whole, log = Log().data(), Log()
    start = 32 + len(spec_id(log.banks))  # of the first event
    values = log.pcrs(only=range(10))

    def case(data: bytes, pcrs: dict[int, bytes] | None = None, bank: str = "sha256") -> dict[str, Any]:
        change = _splice(whole.hex(), data.hex(), [])
        at, end = change["at"] // 2, -(-(change["at"] + change["remove"]) // 2)
        inserted = data[at : len(data) - (len(whole) - end)] if data != whole else b""
        found = {str(pcr): value.hex() for pcr, value in (values if pcrs is None else pcrs).items()}
        splices = [[at, end - at, inserted.hex()]] if data != whole else []
        return {"log": {"blob": "boot", "splices": splices}, "bank": bank, "pcrs": found}

    def put(at: int, data: bytes) -> bytes:
        return whole[:at] + data + whole[at + len(data) :]

    yield "event_log", "as it is", case(whole)
    yield "event_log", "with no PCR quoted", case(whole, {})
    yield "event_log", "for another value", case(whole, values | {4: bytes(32)})
    yield "event_log", "for a PCR that has no events", case(whole, values | {16: b"\1" * 32})
    yield "event_log", "for a PCR at its reset value", case(whole, values | {16: bytes(32), 17: b"\xff" * 32})
    yield "event_log", "for a dynamic PCR at nought", case(whole, values | {17: bytes(32)})
    yield "event_log", "for a bank that it has not", case(whole, {4: bytes(48)}, "sha384")
    head = whole[:start]
    changed = {
        "empty": b"",
        "cut short": whole[:-1],
        "cut short in its head": whole[:40],
        "in another PCR": put(0, b"\1"),
        "that begins with something measured": put(4, b"\4"),
        "that begins with a digest": put(20, b"\1"),
        "of another signature": put(32, b"X"),
        "of version 3": put(32 + 21, b"\3"),
        "of no algorithm": put(32 + 24, b"\0"),
        "of nine algorithms": put(32 + 24, b"\x09"),
        "of a digest of another size": put(_SPEC + 2, b"\x15"),
        "of an unknown algorithm of 65 bytes": put(_SPEC, b"\x99\0\x41\0"),
        "of an algorithm twice": put(_SPEC + 4, b"\4\0\x14\0"),
        "of an event in PCR 24": put(start, b"\x18"),
        "of an event without digests": put(start + 8, b"\0"),
        "of an event with three digests": put(start + 8, b"\3"),
        "of an event with a digest twice": put(start + 12 + 22, b"\4\0"),
        "of an event with an undeclared digest": put(start + 12, b"\x0c\0"),
        "of an event with another digest": put(start + 50, bytes([whole[start + 50] ^ 1])),
        "of nothing measured": head,
    }
    for title, data in changed.items():
        yield "event_log", title, case(data)
    vendor = spec_id(log.banks)
    grown = vendor[:-1] + b"\0\0"
    yield (
        "event_log",
        "with a byte behind its head's end",
        case(whole[:28] + len(grown).to_bytes(4, "little") + grown + whole[start:]),
    )
    one = log.encode(log.records[0])
    without = one[:8] + b"\1" + one[9:34] + one[68:]
    yield "event_log", "of an event without the bank's digest", case(head + without + whole[start + len(one) :])
    bare = one[:8] + b"\0" + one[9:12] + one[68:]
    yield "event_log", "of an event that has no digest", case(head + bare + whole[start + len(one) :])
    nothing = spec_id(())
    yield "event_log", "of no bank at all", case(whole[:28] + len(nothing).to_bytes(4, "little") + nothing)
    alone = Log(banks=("sha256",))
    small, declared = alone.encode(event(4, 0x80000007, b"")), spec_id(("sha256",))
    begin = whole[:28] + len(declared).to_bytes(4, "little") + declared
    for title, times in (("of 8,192 events", 8192), ("over a megabyte", 1 << 15)):
        given = {
            "log": {"pieces": [[begin.hex(), 1], [small.hex(), times]]},
            "bank": "sha256",
            "pcrs": {"4": "ab" * 32},
        }
        yield "event_log", title, given
    yield from _no_action(case, head, whole[start:])


def _no_action(case: Any, head: bytes, rest: bytes) -> Made:
    """Events that extend nothing: the locality of the start, and what hides among them."""
    log = Log()
    three, four = (log.encode(event(0, NO_ACTION, b"StartupLocality\0" + bytes([value]))) for value in (3, 4))
    later = Log(locality=3).pcrs(only=range(10))
    first = log.encode(log.records[0])
    yield "event_log", "of a start at locality 3", case(head + three + rest, later)
    yield "event_log", "of a start at locality 3, for one at 0", case(head + three + rest)
    hcrtm = log.encode(event(0, 0x80000010, b"HCRTM", b"x"))
    elsewhere = log.encode(event(1, 0x80000010, b"HCRTM", b"x"))
    two = log.encode(event(0, NO_ACTION, b"StartupLocality\0\2"))
    long = log.encode(event(0, NO_ACTION, b"StartupLocality\0\3\0"))
    away = log.encode(event(1, NO_ACTION, b"StartupLocality\0\3"))
    for title, data in {
        "of a start told twice": three + three + rest,
        "of a start told late": first + three + rest[len(first) :],
        "of a start at locality 2": two + rest,
        "of a start told at length": long + rest,
        "of a start told in PCR 1": away + rest,
        "of an H-CRTM in PCR 1": elsewhere + rest,
        "of an H-CRTM told late": first + hcrtm + rest[len(first) :],
        "of an H-CRTM after locality 3": three + hcrtm + rest,
    }.items():
        yield "event_log", title, case(head + data)
    with_digest = log.encode(event(0, NO_ACTION, b"remark", b"x"))
    second = log.encode(event(0, NO_ACTION, b"Spec ID Event03\0"))
    yield "event_log", "of nothing with a digest", case(head + with_digest + rest)
    yield "event_log", "of a second log", case(head + second + rest)
    yield "event_log", "of a remark alone", case(head + log.encode(event(0, NO_ACTION, b"remark")))
    assert four


def lists() -> Made:
    """Measurement lists, whole and from some entry on."""
    machine = Machine()
    for number in range(4):
        machine.measure(f"/usr/bin/{number}")
    entries, text, value = machine.parsed(), machine.ascii(), machine.pcr10["sha256"]
    nothing: dict[str, Any] = ImaState.initial().to_dict()

    def after(count: int, pending: int = 0) -> dict[str, Any]:
        return ImaState(
            count, {"sha256": replayed_pcr10(entries[:count], "sha256")} if count else {}, pending
        ).to_dict()

    def case(
        data: bytes, state: Any = nothing, offset: int = 0, pcr10: bytes = value, bank: str = "sha256"
    ) -> dict[str, Any]:
        return {"list": data.hex(), "bank": bank, "pcr10": pcr10.hex(), "state": state, "offset": offset}

    lines = text.split(b"\n")[:-1]
    tail = b"".join(line + b"\n" for line in lines[3:])
    line = lines[1]
    yield "measurements", "as it is", case(text)
    yield "measurements", "from where it ended", case(tail, after(3), 3)
    yield "measurements", "whole, again", case(text, after(3))
    yield (
        "measurements",
        "with an entry more than the quote covers",
        case(text, pcr10=replayed_pcr10(entries[:4], "sha256")),
    )
    yield "measurements", "from elsewhere", case(tail, after(3), 2)
    yield (
        "measurements",
        "from the middle, of an unknown bank",
        case(tail, {"entries": 3, "pcrs": {"sha1": "ab" * 20}, "pending": 0}, 3),
    )
    yield "measurements", "empty", case(b"")
    yield "measurements", "with PCR 10 at nought", case(text, pcr10=bytes(32))
    yield "measurements", "shorter than before", case(b"".join(one + b"\n" for one in lines[:2]), after(3))
    yield (
        "measurements",
        "shorter than before, as quoted",
        case(b"".join(one + b"\n" for one in lines[:2]), after(3), pcr10=replayed_pcr10(entries[:2], "sha256")),
    )
    yield "measurements", "of another history", case(text, after(3) | {"pcrs": {"sha256": "ab" * 32}})
    yield "measurements", "for another value", case(text, pcr10=b"\1" * 32)
    yield (
        "measurements",
        "of fewer entries than before",
        case(text, after(4), pcr10=replayed_pcr10(entries[:3], "sha256")),
    )
    yield (
        "measurements",
        "without what was pending",
        case(text, after(3, 2), pcr10=replayed_pcr10(entries[:4], "sha256")),
    )
    yield (
        "measurements",
        "in another bank than before",
        case(text, {"entries": 2, "pcrs": {"sha1": _sha1(machine, 2)}, "pending": 0}),
    )
    yield (
        "measurements",
        "in another bank, of fewer entries",
        case(
            text,
            {"entries": 4, "pcrs": {"sha1": _sha1(machine, 4)}, "pending": 0},
            pcr10=replayed_pcr10(entries[:3], "sha256"),
        ),
    )
    fields = line.split(b" ")
    broken = {
        "without an end": line,
        "with a control character": line + b"\t\n",
        "in PCR 11": line.replace(b"10 ", b"11 ", 1) + b"\n",
        "of no template": line.replace(b"ima-ng", b"ima-xx") + b"\n",
        "of a template hash of 5 bytes": b" ".join([fields[0], b"ab" * 5, *fields[2:]]) + b"\n",
        "of a template hash of odd digits": b" ".join([fields[0], b"abc", *fields[2:]]) + b"\n",
        "of three fields": b"10 abcd ima-ng\n",
        "of an unknown digest": line.replace(b"sha256:", b"sha257:") + b"\n",
        "of a digest too short": line.replace(b"sha256:", b"sha256:abcd")[:-2] + b"\n",
        "of a digest of odd digits": line.replace(b"sha256:", b"sha256:a") + b"\n",
        "without a path": b" ".join(fields[:4]) + b" \n",
        "with a path of 4096 bytes": line + b"x" * 4096 + b"\n",
        "of another file": line + b"x\n",
        "with a digest of another template": line.replace(b"ima-ng", b"ima-ngv2") + b"\n",
        "of hashes of two lengths": lines[0] + b"\n" + b" ".join([b"10", b"ab" * 32, *fields[2:]]) + b"\n",
        "ima-sig without its signature": b" ".join([b"10", fields[1], b"ima-sig", fields[3]]) + b"\n",
        "ima without a name": b"10 " + fields[1] + b" ima " + b"ab" * 20 + b" \n",
        "ima with a name too long": b"10 " + fields[1] + b" ima " + b"ab" * 20 + b" /" + b"x" * 255 + b"\n",
        "ima with a digest of 32 bytes": b"10 " + fields[1] + b" ima " + b"ab" * 32 + b" /x\n",
        "ima-sig with a signature of odd digits": b" ".join([b"10", fields[1], b"ima-sig", fields[3], b"/x", b"abc"])
        + b"\n",
        "of a violation with a digest": b" ".join([b"10", b"00" * 20, b"ima-ng", b"sha256:" + b"ab" * 31, b"/x"])
        + b"\n",
        "ima-modsig without fields": b" ".join([b"10", fields[1], b"ima-modsig", fields[3], b"/x", b""]) + b"\n",
    }
    for title, data in broken.items():
        yield "measurements", title, case(data)
    signed = b" ".join([b"10", fields[1], b"ima-sig", fields[3], b"/x "]).hex()
    yield (
        "measurements",
        "ima-sig with a signature of over 64 KiB",
        {**case(b""), "list": {"pieces": [[signed, 1], ["6162", 65537], ["0a", 1]]}},
    )
    for template in ("ima-sig", "ima-ngv2", "ima-modsig", "ima-buf", "ima-sigv2", "ima"):
        yield from _template(template, case)


def _template(template: str, case: Any) -> Made:
    try:
        machine = Machine(template=template)
        machine.measure("/usr/bin/one")
    except (KeyError, ValueError):
        return
    yield "measurements", f"of {template}", case(machine.ascii(), pcr10=machine.pcr10["sha256"])


def _sha1(machine: Machine, count: int) -> str:
    return replayed_pcr10(machine.parsed()[:count], "sha1").hex()
