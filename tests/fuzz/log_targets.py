"""The parsers of the ``tpm`` room that read event logs and measurement lists."""

import struct
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random

from cryptography.hazmat.primitives.asymmetric import ec

from tests.fuzz.corpus_seeds import files
from tests.fuzz.mutation import mutate_bytes
from tests.fuzz.target import Target
from tests.support.eventlog_builder import (
    ALGORITHMS,
    CALLING,
    DATABASE,
    EXIT,
    GLOBAL,
    NO_ACTION,
    SHA256,
    VAR_DRIVER,
    X509,
    Log,
    event,
    signature_list,
    spec_id,
    variable,
)
from tests.support.ima_machine import Machine, file_digest
from tpm.errors import EvidenceError
from tpm.eventlog import (
    EventLogRules,
    EventType,
    ImageLoad,
    Quirk,
    append_events,
    decode,
    parse_event,
    parse_event_log,
    parse_spec_id,
    verify_event_log,
)
from tpm.ima import parse_ima_line, parse_ima_list
from tpm.ima_appraisal import appraise_ima, collect_ima_findings
from tpm.ima_replay import ImaState, VerifiedImaEntries, replay, replayed_pcr10
from tpm.ima_rules import AllowList, ImaRules
from tpm.ima_signature import ImaKeyring, parse_ima_signature
from tpm.ima_template import FROM_TEXT
from tpm.ima_writer import ima_entry

LENIENT = EventLogRules(
    secure_boot=False, exit_boot_services=False, separators=False, legacy_format=True, boot_attempts=9
)
EVENT_TOKENS = (
    *(struct.pack("<I", kind) for kind in EventType),
    *(struct.pack("<H", alg) for alg in ALGORITHMS.values()),
    *(
        b"Spec ID Event03\0",
        b"Spec ID Event02\0",
        b"StartupLocality\0",
        b"SP800-155 Event\0",
        b"EFI PART",
        CALLING,
        EXIT,
    ),
    *(
        GLOBAL,
        DATABASE,
        X509,
        SHA256,
        b"d\0b\0x\0",
        b"S\0e\0c\0u\0r\0e\0B\0o\0o\0t\0",
        b"grub_cmd: ",
        b"kernel_cmdline: ",
    ),
    *(b"\x7f\xff\x04\x00", b"\x04\x04", b"\x01\0\0\0", b"\xff\xff\xff\xff", bytes(20), bytes(32)),
)
_mutate_log = mutate_bytes(EVENT_TOKENS)


def exercise_log(data: bytes, rules: EventLogRules | None = None) -> None:
    """Everything the public interface does with a log. The first refusal of each step ends that step only."""
    log = parse_event_log(data, quirks=frozenset(Quirk))
    assert log.size == len(data)
    assert [item.number for item in log.events] == list(range(len(log.events)))
    for item in log.events:
        try:
            content = decode(item)
            if isinstance(content, ImageLoad):
                assert isinstance(content.path, str)
        except EvidenceError:
            continue
    refused: EvidenceError | None = None
    for bank in log.banks:
        values = log.replay(bank)
        for tried in (rules,) if rules else (LENIENT, None):
            try:
                verified = verify_event_log(log, bank=bank, pcrs=values, rules=tried)
            except EvidenceError as error:
                refused = error
                continue
            assert verified.pcrs == values
    append_events(log, log)
    if refused is not None:
        raise refused


@cache
def logs() -> tuple[bytes, ...]:
    made = [
        Log().data(),
        Log().data(legacy=True),
        Log(banks=("sha1", "sha256", "sha384", "sha512")).data(),
        Log(records=Log().records[:6]).data(),
        Log(records=[event(0, NO_ACTION, b"StartupLocality\0\x03"), *Log().records[:3]]).data(),
    ]
    return (*made, *files("attacks/eventlogs", ".bin"), *files("evidence", ".bin", "eventlog"))


def mutate_event_data(random: Random, _data: bytes, _pool: Sequence[bytes]) -> bytes:
    """Change what some events show and measure it, so that framing and digests hold and the decoders are reached."""
    log = Log(banks=("sha256",))
    for _ in range(1 + int(random.expovariate(0.7))):
        index = int(random.random() * len(log.records))
        old = log.records[index]
        if random.random() < 0.2:
            log.change(index, kind=int(random.choice(tuple(EventType))), pcr=int(random.random() * 24))
        else:
            changed = _mutate_log(random, old.data, [other.data for other in log.records])
            log.change(index, data=changed, measured=None if old.kind == NO_ACTION else changed)
    return log.data()


def run_event(data: bytes) -> None:
    """One record that stands alone, and its typed form."""
    form = "sha1" if data[:1] == b"\1" else "crypto-agile"
    decode(parse_event(data[1:], form=form))  # type: ignore[arg-type]


def events() -> Sequence[bytes]:
    log = Log()
    return [b"\0" + log.encode(record) for record in log.records] + [
        b"\1" + Log(records=[r]).data(legacy=True) for r in log.records
    ]


def run_spec_id(data: bytes) -> None:
    """The event that opens a log."""
    parse_spec_id(data, quirks=frozenset(Quirk))


@cache
def log_bombs() -> Mapping[str, bytes]:
    """Logs of at most a mebibyte with as much of one thing as fits."""
    tags = struct.pack("<II", 0x40000000, 8 * 4000) + struct.pack("<II", 0x40000000, 0) * 4000
    empty_lists = (bytes(16) + struct.pack("<III", 28, 0, 17)) * 1024
    hashes = signature_list(SHA256, [bytes(32)] * 16_000)
    path = b"\x04\x04\x04\x00" * 30_000 + b"\x7f\xff\x04\x00"
    image = struct.pack("<QQQQ", 0, 0, 0, len(path)) + path
    certificates = signature_list(X509, [b"\x30\x82\x00\x10" + bytes(16)] * 15_000)
    one = Log(banks=("sha256",))
    shortest = struct.pack("<III", 0, 1, 0) + struct.pack("<I", 0)
    records: dict[str, list[object]] = {
        "many_events": [event(8, 0x0D, b"grub_cmd: x", b"x")] * 8000,
        "one_large_event": [event(8, 0x0D, b"\0" * 1_000_000)],
        "large_utf16": [event(8, 0x0D, b"a\0" * 500_000)],
        "many_hashes": [event(7, VAR_DRIVER, variable(DATABASE, "dbx", hashes))],
        "many_certificates": [event(7, VAR_DRIVER, variable(DATABASE, "db", certificates))],
        "many_lists": [event(7, VAR_DRIVER, variable(DATABASE, "dbx", empty_lists))] * 35,
        "many_tags": [event(12, 6, tags)] * 30,
        "nested_tags": [event(12, 6, struct.pack("<II", 0x40000000, 1 << 19) * 60_000)],
        "many_localities": [event(0, NO_ACTION, b"StartupLocality\0\0")] * 8000,
        "many_variables": [event(7, VAR_DRIVER, variable(DATABASE, f"name{number}", b"")) for number in range(5000)],
        "same_variable": [event(7, VAR_DRIVER, variable(DATABASE, "db", b""))] * 5000,
        "long_name": [event(7, VAR_DRIVER, variable(GLOBAL, "n" * 400_000, b""))],
        "long_paths": [event(4, 0x80000003, image)] * 7,
        "authorities": [event(7, 0x800000E0, variable(DATABASE, "db", bytes(16) + b"\x30" * 40))] * 5000,
    }
    made = {name: Log(records=list(some)).data() for name, some in records.items()}  # type: ignore[arg-type]
    made["no_digests"] = one.data() + shortest * ((1 << 20) // len(shortest) - 100)
    made["algorithms"] = one.data()[:28] + struct.pack("<I", 1 << 19) + spec_id(("sha256",))[:24] + b"\xff" * (1 << 19)
    return {name: data for name, data in made.items() if len(data) <= 1 << 20}


# --- measurement lists -------------------------------------------------------------------------------------------
_KEY = ec.derive_private_key(20240607, ec.SECP256R1()).public_key()
IMA_TOKENS = (
    *FROM_TEXT,
    *(b" ", b"\n", b"\0", b":", b"10", b"/", b"..", b"boot_aggregate", b"sha256:", b"verity:", b"ima:sha1:", b"md5:"),
    *(
        b"\xff\xff\xff\xff",
        b"\0\0\0\0",
        b"\0\0\0\x80",
        b"\x0a\0\0\0",
        b"0" * 40,
        b"\xc3\x28",
        b"sha3-512:",
        b"\r",
        b"\t",
    ),
)
_mutate_list = mutate_bytes(IMA_TOKENS)


@cache
def rules() -> ImaRules:
    """Rules that let as much through as rules can, so that everything after the parser is reached."""
    return ImaRules.of(
        Machine().measure("/bin/a").allow,
        excludes=["/var/log/**"],
        templates=frozenset(name.decode() for name in FROM_TEXT),
        digest_algs=frozenset({"sha1", "sha256", "sha3-512", "md5", "sm3"}),
        keyring=ImaKeyring([(b"abcd", _KEY)]),
    )


def exercise_list(data: bytes, form: str | None = None) -> None:
    """Everything that is done with a list: entries, appraisal, a baseline from it, replay whole and in two parts."""
    entries = parse_ima_list(data, format=form).entries
    for index in range(0, len(entries), 1 + len(entries) // 8):
        assert entries[index].path.encode("utf-8", "surrogateescape") == entries.rows[index][3]
    collect_ima_findings(VerifiedImaEntries(0, entries), rules())
    AllowList(AllowList.of_entries(entries))
    pcr10 = replayed_pcr10(entries, "sha256")
    whole = replay(ImaState.initial(), entries, bank="sha256", pcr10=pcr10, offset=0)
    assert whole.matched == len(entries)
    half = entries[: len(entries) // 2]
    if len(half):
        state = replay(ImaState.initial(), half, bank="sha256", pcr10=replayed_pcr10(half, "sha256"), offset=0).state
        state = ImaState.from_dict(state.to_dict())
        rest = replay(state, entries[len(half) :], bank="sha256", pcr10=pcr10, offset=len(half))
        assert rest.state == whole.state
    appraise_ima(whole.verified, rules())


def run_ascii(data: bytes) -> None:
    """A list as text."""
    exercise_list(data, "ascii")


def run_binary(data: bytes) -> None:
    """A list in its binary form."""
    exercise_list(data, "binary")


def run_line(data: bytes) -> None:
    """A line of a list that stands alone."""
    parse_ima_line(data)


def run_ima_signature(data: bytes) -> None:
    """The extended attribute that an entry carries."""
    assert parse_ima_signature(data).version in {2, 3}


def _machine() -> Machine:
    machine = Machine("ima-sig").measure("/bin/a", "/bin/caf\u00e9").measure("/var/log/x", violation=True)
    machine.append(ima_entry("/bin/b", file_digest("b", "sha1"), "sha1", "ima-ng"))
    machine.append(ima_entry("/bin/c", file_digest("c"), template="ima-sigv2", blob=b"\x03\x02\x04abcd\0\x04wxyz"))
    machine.append(ima_entry("cmdline", file_digest("d"), template="ima-buf", blob=b"quiet"))
    return machine


@cache
def ascii_lists() -> tuple[bytes, ...]:
    legacy = b"10 " + b"01" * 20 + b" ima " + b"02" * 20 + b" /bin/d\n"
    modsig = b"10 " + b"01" * 20 + b" ima-modsig sha256:" + b"ab" * 32 + b" /m 03 sha1:" + b"cd" * 20 + b" 30\n"
    whole = _machine().ascii()
    return (whole, whole + legacy + modsig, legacy, modsig, b"", *files("attacks/ima", ".ascii"))


@cache
def binary_lists() -> tuple[bytes, ...]:
    return (_machine().binary(), Machine().measure("/bin/a").binary(), b"", *files("attacks/ima", ".binary"))


def written_machine(random: Random) -> Machine:
    """A machine with changed fields that are hashed again: what a kernel that was taken over could have measured."""
    machine = Machine(random.choice(("ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2"))).measure("/bin/a")
    for _ in range(1 + int(random.random() * 3)):
        path = _mutate_list(random, b"/usr/bin/thing", ()).replace(b"\0", b"0").decode("utf-8", "surrogateescape")
        template = random.choice(("ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf"))
        blob = (
            _mutate_list(random, b"\x03\x02\x04abcd\0\x04wxyz", ()) if template not in {"ima-ng", "ima-ngv2"} else b""
        )
        alg, size = random.choice((("sha256", 32), ("sha1", 20), ("md5", 16), ("sha3-512", 64), ("sha256", 20)))
        made = ima_entry(path, random.randbytes(size), alg, template, blob=blob, violation=random.random() < 0.1)
        machine.append(made)
    return machine


def mutate_ascii_fields(random: Random, _data: bytes, _pool: Sequence[bytes]) -> bytes:
    """The list of a ``written_machine``."""
    return written_machine(random).ascii()


def mutate_binary_fields(random: Random, _data: bytes, _pool: Sequence[bytes]) -> bytes:
    """The list of a ``written_machine``."""
    return written_machine(random).binary()


@cache
def ascii_bombs() -> Mapping[str, bytes]:
    """The shortest lines, the longest ones, and nothing but separators."""
    shortest = b"10 " + b"0" * 40 + b" ima-ng md5:" + b"0" * 32 + b" /\n"
    signed = ima_entry("/s", bytes(32), template="ima-sig", blob=b"\x03\x02\x04abcd\0\x40" + b"\x30" * 64).ascii
    buffer = ima_entry("b", bytes(32), template="ima-buf", blob=bytes(60_000)).ascii
    return {
        "short_lines": shortest * ((1 << 20) // len(shortest)),
        "newlines": b"\n" * (1 << 20),
        "spaces": b" " * (1 << 20),
        "one_line": b"10 " + b"0" * 40 + b" ima-ng sha256:" + b"0" * 64 + b" /" + b"a" * 1_040_000 + b"\n",
        "slashes": b"10 " + b"0" * 40 + b" ima-ng sha256:" + b"0" * 64 + b" /" + b"/" * 4000 + b"\n",
        "signatures": signed * ((1 << 20) // len(signed)),
        "buffers": buffer * ((1 << 20) // len(buffer)),
        "digits": b"1" * (1 << 20) + b"\n",
        "pcr": b"9" * 1_000_000 + b" " + b"0" * 40 + b" ima-ng sha256:" + b"0" * 64 + b" /a\n",
    }


def binary_bombs() -> Mapping[str, bytes]:
    """The shortest entries, lengths that lie, and the longest fields."""
    one = ima_entry("/", bytes(16), "md5").binary
    zero = struct.pack("<I", 10) + bytes(20) + struct.pack("<I", 0)
    return {
        "short_entries": one * ((1 << 20) // len(one)),
        "no_templates": zero * ((1 << 20) // len(zero)),
        "long_length": one[:36] + b"\xff\xff\xff\x7f" + bytes(1 << 19),
        "zeros": bytes(1 << 20),
    }


_SIGNED = (
    b"\x03\x02\x04abcd\0\x04wxyz",
    b"\x03\x02\x04abcd\1\0" + bytes(256),
    b"\x06\x04" + bytes(32),
    b"\x01" + bytes(20),
)

TARGETS = (
    Target("event_log", exercise_log, logs, (_mutate_log, mutate_event_data), log_bombs),
    Target("event", run_event, events, (_mutate_log,), lambda: {"large": events()[0] + bytes(1 << 20)}),
    Target(
        "spec_id", run_spec_id, lambda: [spec_id(("sha1", "sha256")), spec_id(("sha256",), vendor=b"v")], (_mutate_log,)
    ),
    Target("ima_ascii", run_ascii, ascii_lists, (_mutate_list, mutate_ascii_fields), ascii_bombs),
    Target("ima_binary", run_binary, binary_lists, (_mutate_list, mutate_binary_fields), binary_bombs),
    Target(
        "ima_line", run_line, lambda: [line for one in ascii_lists()[:4] for line in one.splitlines()], (_mutate_list,)
    ),
    Target(
        "ima_signature",
        run_ima_signature,
        lambda: _SIGNED,
        (_mutate_list,),
        lambda: {"large": b"\x03\x02\x04" * 300_000},
    ),
)
