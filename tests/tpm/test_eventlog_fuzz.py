"""A short, repeatable slice of fuzzing: whatever the bytes, only ``EvidenceError`` comes out, soon and in little memory."""

import random
import struct
import tracemalloc
from collections.abc import Callable

import pytest

from tests.support import corpus
from tests.support.eventlog_builder import DATABASE, NO_ACTION, SHA256, Log, event, signature_list, variable
from tests.support.pace import at_most
from tpm.errors import EvidenceError
from tpm.eventlog import EventLogRules, ImageLoad, Quirk, decode, parse_event_log, verify_event_log

MUTATIONS = 3000
INTERESTING = (0, 1, 4, 0x7F, 0x80, 0xFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFF0, 0xFFFFFFFF)
RULES = EventLogRules(
    secure_boot=False, exit_boot_services=False, separators=False, legacy_format=True, boot_attempts=9
)


def exercise(data: bytes) -> None:
    """Everything the public interface does with a log; an ``EvidenceError`` ends a step, anything else fails the test."""
    try:
        log = parse_event_log(data, quirks=frozenset(Quirk))
    except EvidenceError:
        return
    for item in log.events:
        try:
            content = decode(item)
            if isinstance(content, ImageLoad):
                assert isinstance(content.path, str)
        except EvidenceError:
            continue
    for bank in log.banks:
        try:
            verify_event_log(log, bank=bank, pcrs=log.replay(bank), rules=RULES)
        except EvidenceError:
            continue


def mutate(seed: bytes, source: random.Random) -> bytes:
    """One to four changes: bytes, whole integers, cuts, repetitions."""
    data = bytearray(seed)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(data)) if data else 0
        match source.randrange(6):
            case 0 if data:
                data[at] ^= 1 << source.randrange(8)
            case 1 if len(data) - at >= 4:
                struct.pack_into("<I", data, at, source.choice(INTERESTING))
            case 2 if len(data) - at >= 8:
                struct.pack_into("<Q", data, at, source.choice(INTERESTING))
            case 3:
                del data[at : at + source.randint(1, 64)]
            case 4:
                data[at:at] = data[at : at + source.randint(1, 64)]
            case _:
                del data[at:]
    return bytes(data)


def seeds() -> list[bytes]:
    """Logs made here, and the smallest real ones where the corpus is present."""
    found = [Log().data(), Log().data(legacy=True), Log(banks=("sha1", "sha256", "sha384", "sha512")).data()]
    root = corpus.ROOT
    real = [
        path
        for part in ("attacks/eventlogs", "evidence")
        for path in sorted((root / part).rglob("*event*"))
        if path.is_file()
    ]
    found += [path.read_bytes() for path in real if path.stat().st_size < 20_000 and path.suffix in ("", ".bin")]
    return found


def test_mutated_logs_raise_nothing_else() -> None:
    source = random.Random(20)  # noqa: S311 -- repeatable on purpose
    logs = seeds()
    for number in range(MUTATIONS):
        exercise(mutate(logs[number % len(logs)], source))


def test_random_bytes_raise_nothing_else() -> None:
    source = random.Random(21)  # noqa: S311
    for size in range(400):
        exercise(source.randbytes(size))


def test_mutated_data_of_every_event_type_raises_nothing_else() -> None:
    """Mutations inside one event keep the framing, so that the decoders are reached."""
    source = random.Random(22)  # noqa: S311
    for _ in range(300):
        log = Log()
        for index, record in enumerate(log.records):
            data = mutate(record.data, source)
            log.change(index, data=data, measured=data)
        exercise(log.data())


WORST = {
    "many_events": lambda: Log(records=[event(8, 0x0D, b"grub_cmd: x", b"x")] * 8000),
    "one_large_event": lambda: Log(records=[event(8, 0x0D, b"\x00" * 1_000_000)]),
    "many_hashes": lambda: Log(
        records=[event(7, 0x80000001, variable(DATABASE, "dbx", signature_list(SHA256, [bytes(32)] * 16_000)))]
    ),
    "many_lists": lambda: Log(
        records=[
            event(7, 0x80000001, variable(DATABASE, "dbx", (bytes(16) + struct.pack("<III", 28, 0, 17)) * 1024))
            for _ in range(35)
        ]
    ),
    "many_tags": lambda: Log(
        records=[event(12, 6, struct.pack("<II", 0x40000000, 8 * 4000) + struct.pack("<II", 0x40000000, 0) * 4000)] * 30
    ),
    "many_localities": lambda: Log(records=[event(0, NO_ACTION, b"StartupLocality\x00\x00")] * 8000),
    "many_variables": lambda: Log(
        records=[event(7, 0x80000001, variable(DATABASE, f"name{number}", b"")) for number in range(5000)]
    ),
}


@pytest.mark.parametrize("make", WORST.values(), ids=WORST)
def test_no_log_below_a_mebibyte_is_expensive(make: Callable[[], Log]) -> None:
    data = make().data()
    assert len(data) < 1 << 20
    with at_most(1):
        exercise(data)
    tracemalloc.start()
    try:
        exercise(data)
        assert tracemalloc.get_traced_memory()[1] < 64 << 20
    finally:
        tracemalloc.stop()
