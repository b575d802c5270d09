"""Attacks on and through IMA measurement lists, rows I1 to I20 and I22 of the catalogue.

Each one runs the whole way a list takes: parsed, replayed against a quoted PCR 10, appraised under rules.
"""

import hashlib
from collections.abc import Callable
from struct import pack
from typing import Any

import pytest

from tests.support.ima_machine import Machine, file_digest
from tests.support.pace import at_most
from tpm.errors import EvidenceError
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import ImaAppraisal, appraise_ima
from tpm.ima_replay import ImaState, replay
from tpm.ima_rules import ImaRules
from tpm.ima_writer import ima_entry
from tpm.reasons import EvidenceReason

INITIAL = ImaState.initial()
LEGACY = frozenset({"ima", "ima-ng"})


def judge(machine: Machine, data: bytes | None = None, *, state: ImaState = INITIAL, **options: Any) -> ImaAppraisal:
    """Appraise ``data``, or what the machine's kernel wrote, against the machine's real PCR 10."""
    offset, bank = options.pop("offset", 0), options.pop("bank", "sha256")
    pcr10 = options.pop("pcr10", machine.pcr10[bank])
    rules = ImaRules.of(machine.allow, **options)
    entries = parse_ima_list(machine.ascii(offset) if data is None else data).entries
    result = replay(state, entries, bank=bank, pcr10=pcr10, offset=offset, padded_sha1=rules.padded_sha1)
    return appraise_ima(result.verified, rules)


def refused(reason: EvidenceReason, call: Callable[[], object]) -> str:
    with pytest.raises(EvidenceError) as caught:
        call()
    assert caught.value.reason is reason
    return caught.value.detail


@pytest.fixture
def machine() -> Machine:
    machine = Machine().measure("/usr/bin/bash", "/usr/bin/python3")
    judge(machine)
    return machine


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
def test_I1_a_line_showing_bash_with_the_hash_of_a_rootkit(machine: Machine, bank: str) -> None:
    """PCR 10 really holds the rootkit, and a replay of the hash column alone would be content."""
    innocent = machine.entries[1].ascii
    machine.measure("/tmp/rootkit", allow=False)
    forged = innocent[:3] + machine.entries[-1].ascii[3:43] + innocent[43:]
    data = machine.ascii()[: -len(machine.entries[-1].ascii)] + forged
    refused(EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH, lambda: judge(machine, data, bank=bank))


@pytest.mark.parametrize("damage", ["removed", "withheld", "swapped"])
def test_I2_lines_removed_withheld_or_swapped(machine: Machine, damage: str) -> None:
    lines = machine.ascii().splitlines(keepends=True)
    changed = {
        "removed": [lines[0], lines[2]],
        "withheld": lines[:2],
        "swapped": [lines[0], lines[2], lines[1]],
    }[damage]
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, lambda: judge(machine, b"".join(changed)))


@pytest.mark.parametrize("name", [b"ima-foo", b"evm-sig", b"d-ng|n-ng", b"", b"ima-ng\0"])
def test_I3_templates_nobody_knows(machine: Machine, name: bytes) -> None:
    entry = machine.entries[1].binary
    renamed = entry[:24] + pack("<I", len(name)) + name + entry[34:]
    data = machine.entries[0].binary + renamed + machine.entries[2].binary
    refused(EvidenceReason.IMA_TEMPLATE_UNKNOWN, lambda: judge(machine, data))


@pytest.mark.parametrize(
    ("template", "reason"),
    [
        (b"ima-ngv2", EvidenceReason.IMA_DIGEST_ALG),
        (b"ima-sig", EvidenceReason.IMA_MALFORMED),
        (b"ima-buf", EvidenceReason.IMA_MALFORMED),
        (b"ima-modsig", EvidenceReason.IMA_MALFORMED),
        (b"ima", EvidenceReason.IMA_MALFORMED),
    ],
)
def test_I3_an_entry_relabelled_as_another_template(machine: Machine, template: bytes, reason: EvidenceReason) -> None:
    refused(reason, lambda: judge(machine, machine.ascii().replace(b"ima-ng", template)))


def test_I3_a_signed_file_relabelled_as_a_buffer() -> None:
    """Both templates hash the same fields, so the replay cannot tell; the appraisal must."""
    machine = Machine("ima-sig").measure("/usr/bin/evil")
    judge(machine)
    data = machine.ascii().replace(b"ima-sig", b"ima-buf").replace(b"ima-buf", b"ima-sig", 1)
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(machine, data))


def test_I3_a_buffer_relabelled_as_a_signed_file() -> None:
    machine = Machine("ima-sig")
    digest = hashlib.sha256(b"quiet").digest()
    machine.append(ima_entry("kexec-cmdline", digest, template="ima-buf", blob=b"quiet"))
    machine.allow["kexec-cmdline"] = [digest.hex()]
    judge(machine)
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(machine, machine.ascii().replace(b"ima-buf", b"ima-sig")))


def legacy(path: bytes) -> tuple[bytes, bytes]:
    digest = file_digest("x", "sha1")
    data = digest + path[:255].ljust(256, b"\0")
    shown = hashlib.sha1(data, usedforsecurity=False).digest()
    binary = pack("<I", 10) + shown + pack("<I", 3) + b"ima" + digest + pack("<I", len(path)) + path
    return binary, shown


def test_I4_the_old_template_is_not_accepted_unasked() -> None:
    binary, shown = legacy(b"/usr/bin/bash")
    machine = Machine()
    machine.allow["/usr/bin/bash"] = [file_digest("x", "sha1").hex()]
    pcr10 = hashlib.sha1(machine.pcr10["sha1"] + shown, usedforsecurity=False).digest()
    given: dict[str, Any] = {"data": machine.binary() + binary, "bank": "sha1", "pcr10": pcr10}
    strong = frozenset({"sha256", "sha1"})
    assert judge(machine, templates=LEGACY, digest_algs=strong, **given).listed == 2
    refused(EvidenceReason.IMA_TEMPLATE_UNKNOWN, lambda: judge(machine, digest_algs=strong, **given))
    refused(EvidenceReason.IMA_DIGEST_ALG, lambda: judge(machine, templates=LEGACY, **given))


@pytest.mark.parametrize(
    ("length", "reason"),
    [
        (254, None),
        (255, EvidenceReason.IMA_NOT_ALLOWED),
        (256, EvidenceReason.IMA_MALFORMED),
        (400, EvidenceReason.IMA_MALFORMED),
    ],
)
def test_I4_the_old_template_cuts_names(length: int, reason: EvidenceReason | None) -> None:
    """All longer names with one beginning have one template hash, so a name of full length is nobody's."""
    path = b"/usr/lib/" + b"a" * (length - 9)
    binary, shown = legacy(path)
    assert (shown == legacy(path + b"/evil")[1]) is (length >= 255)
    machine = Machine()
    machine.allow[path.decode()] = [file_digest("x", "sha1").hex()]
    given: dict[str, Any] = {
        "bank": "sha1",
        "pcr10": hashlib.sha1(machine.pcr10["sha1"] + shown, usedforsecurity=False).digest(),
        "templates": LEGACY,
        "digest_algs": frozenset({"sha1", "sha256"}),
    }
    if reason is None:
        assert judge(machine, machine.binary() + binary, **given).listed == 2
    else:
        refused(reason, lambda: judge(machine, machine.binary() + binary, **given))


def test_I5_a_real_violation(machine: Machine) -> None:
    machine.measure("/usr/bin/bash", violation=True)
    refused(EvidenceReason.IMA_VIOLATION, lambda: judge(machine))
    assert judge(machine, allow_violations=True).violations == 1


def test_I5_an_entry_disguised_as_a_violation(machine: Machine) -> None:
    machine.measure("/tmp/evil", allow=False)
    line = machine.entries[-1].ascii
    data = machine.ascii().replace(line, line[:3] + b"0" * 40 + line[43:])
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, lambda: judge(machine, data, allow_violations=True))


@pytest.mark.parametrize("digits", [b"f" * 40, b"0" * 39 + b"1"])
def test_I5_a_literal_violation_value(machine: Machine, digits: bytes) -> None:
    """What a violation extends is not what the list shows for it."""
    machine.measure("/usr/bin/bash", violation=True)
    data = machine.ascii().replace(b"0" * 40, digits)
    refused(EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH, lambda: judge(machine, data, allow_violations=True))


def test_I5_a_violation_hides_what_was_executed(machine: Machine) -> None:
    """Accepting violations of log files does not accept one of an executable."""
    machine.measure("/usr/bin/hidden", allow=False, violation=True)
    refused(EvidenceReason.IMA_VIOLATION, lambda: judge(machine, violations=["/var/log/**"]))


def test_I6_a_file_kept_open_for_writing(machine: Machine) -> None:
    """Measured as itself first, and again as a violation when the writer shows."""
    machine.measure("/opt/agent").measure("/opt/agent", violation=True)
    refused(EvidenceReason.IMA_VIOLATION, lambda: judge(machine))


def test_I7_a_shorter_list(machine: Machine) -> None:
    state = machine.replayed().state
    machine.measure("/usr/bin/ls")
    lines = machine.ascii().splitlines(keepends=True)
    refused(EvidenceReason.IMA_SHRUNK, lambda: judge(machine, b"".join(lines[:2]), state=state))


@pytest.mark.parametrize("offset", [1, 2, 4, 5, 10_000])
def test_I7_a_gap_or_an_offset_beyond(machine: Machine, offset: int) -> None:
    state = machine.replayed().state
    machine.measure("/usr/bin/ls", "/usr/bin/id")
    refused(EvidenceReason.IMA_OFFSET, lambda: judge(machine, state=state, offset=offset))
    assert judge(machine, state=state, offset=3).entries == 2


@pytest.mark.parametrize("extra", [0, 1, 4])
def test_I7_another_history(machine: Machine, extra: int) -> None:
    """The quote fits the list, but not what the machine showed before."""
    state = machine.replayed().state
    other = Machine().measure("/usr/bin/other", *[f"/usr/bin/{number}" for number in range(extra)])
    refused(EvidenceReason.IMA_FORK, lambda: judge(other, state=state))


def test_I8_nothing_new_while_the_pcr_moved(machine: Machine) -> None:
    state = machine.replayed().state
    assert judge(machine, b"", state=state, offset=3).entries == 0
    machine.measure("/tmp/evil", allow=False)
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, lambda: judge(machine, b"", state=state, offset=3))


def test_I9_a_tail_that_stays_pending(machine: Machine) -> None:
    quoted = machine.pcr10["sha256"]
    machine.measure("/tmp/evil", allow=False)
    first = replay(INITIAL, machine.parsed(), bank="sha256", pcr10=quoted, offset=0)
    assert first.pending == 1
    again: dict[str, Any] = {"state": first.state, "offset": 3, "pcr10": quoted}
    refused(EvidenceReason.IMA_NO_PROGRESS, lambda: judge(machine, **again))
    # Nor does it help to keep quiet about it, or to send everything once more.
    refused(EvidenceReason.IMA_NO_PROGRESS, lambda: judge(machine, b"", **again))
    refused(EvidenceReason.IMA_NO_PROGRESS, lambda: judge(machine, **{**again, "offset": 0}))


def test_I10_a_line_the_quote_does_not_cover(machine: Machine) -> None:
    """It is neither held against the machine nor counted as measured."""
    quoted = machine.pcr10["sha256"]
    machine.measure("/opt/agent")
    result = replay(INITIAL, machine.parsed(), bank="sha256", pcr10=quoted, offset=0)
    assert (result.matched, result.pending) == (3, 1)
    assert "/opt/agent" not in [entry.path for entry in result.verified.entries]
    refused(
        EvidenceReason.IMA_UNVERIFIED_TAIL,
        lambda: replay(INITIAL, machine.parsed(), bank="sha256", pcr10=quoted, offset=0, allow_pending=False),
    )


@pytest.mark.parametrize("how", ["later", "other", "missing"])
def test_I11_a_boot_aggregate_by_name_only(machine: Machine, how: str) -> None:
    pcrs = {"sha256": {index: bytes([index]) * 32 for index in range(10)}}
    right = hashlib.sha256(b"".join(pcrs["sha256"].values())).digest()
    good = Machine(boot_digest=right)
    assert appraise_ima(good.verified(), ImaRules.of({}), pcrs=pcrs).listed == 1
    if how == "later":
        subject = Machine(boot_digest=right)
        subject.append(ima_entry("boot_aggregate", right))
    elif how == "other":
        subject = machine
    else:
        subject = Machine()
        subject.entries.clear()
        subject.pcr10["sha256"] = bytes(32)
        subject.measure("/usr/bin/bash")
    refused(
        EvidenceReason.IMA_BOOT_AGGREGATE,
        lambda: appraise_ima(subject.verified(), ImaRules.of(subject.allow), pcrs=pcrs),
    )


@pytest.mark.parametrize(
    ("measured", "listed"),
    [
        ("/opt/my_agent", "/opt/my agent"),
        ("/opt/caf\u0065\u0301", "/opt/caf\u00e9"),
        ("/opt/caf\udce9", "/opt/caf\u00e9"),
        ("/opt/agent\u200b", "/opt/agent"),
        ("/OPT/agent", "/opt/agent"),
        ("opt/agent", "/opt/agent"),
        ("/opt/x/../agent", "/opt/agent"),
        ("/opt//agent", "/opt/agent"),
        ("//opt/agent", "/opt/agent"),
        ("/opt/agent/", "/opt/agent"),
        ("/opt/agent_(deleted)", "/opt/agent"),
    ],
)
def test_I12_another_spelling_of_a_listed_path(machine: Machine, measured: str, listed: str) -> None:
    machine.measure(measured, allow=False)
    machine.allow[listed] = [file_digest(measured).hex()]
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(machine))
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(machine, machine.binary()))


def test_I12_an_underscore_shown_for_a_space(machine: Machine) -> None:
    """The text shows another name than the one that was hashed."""
    machine.measure("/opt/my_agent")
    spaced = machine.entries[-1].ascii.replace(b"my_agent", b"my agent")
    data = machine.ascii().replace(machine.entries[-1].ascii, spaced)
    refused(EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH, lambda: judge(machine, data))


def test_I12_a_name_that_holds_a_line_of_its_own(machine: Machine) -> None:
    fake = machine.entries[1].ascii.decode().rstrip("\n").replace(" ", "\u00a0")
    machine.measure(f"/tmp/x\n{fake}", allow=False)
    refused(EvidenceReason.IMA_MALFORMED, lambda: judge(machine))
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(machine, machine.binary()))


@pytest.mark.parametrize("path", ["/opt/a\x00b", "/opt/" + "a" * 100_000])
def test_I12_a_zero_or_too_long_a_name(machine: Machine, path: str) -> None:
    machine.measure(path, allow=False)
    refused(EvidenceReason.IMA_MALFORMED, lambda: judge(machine))
    refused(EvidenceReason.IMA_MALFORMED, lambda: judge(machine, machine.binary()))


@pytest.mark.parametrize("pattern", ["/tmp/.*", "/tmp/**", "/usr/bin/.*", "/**", "/var/**", "/home/**", "/tmp/evil"])
def test_I13_exclusions_never_cover_executables(machine: Machine, pattern: str) -> None:
    machine.measure("/tmp/evil", allow=False)
    refused(EvidenceReason.IMA_EXCLUDE_TOO_BROAD, lambda: judge(machine, excludes=[pattern]))


@pytest.mark.parametrize("path", ["/var/log/../../tmp/evil", "/var/log/./evil", "/var/log//evil", "var/log/evil"])
def test_I13_exclusions_do_not_follow_other_spellings(machine: Machine, path: str) -> None:
    assert judge(machine.measure("/var/log/app.log", allow=False), excludes=["/var/log/.*"]).excluded == 1
    machine.measure(path, allow=False)
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(machine, excludes=["/var/log/.*"]))


@pytest.mark.parametrize("alg", ["sha1", "md5"])
def test_I14_weak_digests(machine: Machine, alg: str) -> None:
    machine.measure("/opt/agent", alg=alg)
    refused(EvidenceReason.IMA_DIGEST_ALG, lambda: judge(machine))


@pytest.mark.parametrize("label", ["sha512", "sha1", "md5", "sha224", "crc32", ""])
def test_I14_a_label_that_is_not_the_digests(machine: Machine, label: str) -> None:
    machine.append(ima_entry("/usr/bin/bash", file_digest("/usr/bin/bash"), label))
    refused(EvidenceReason.IMA_DIGEST_ALG, lambda: judge(machine))
    refused(EvidenceReason.IMA_DIGEST_ALG, lambda: judge(machine, machine.binary()))


def test_I14_a_label_of_the_same_length(machine: Machine) -> None:
    """SHA3-256 bytes listed as SHA-256 are another file."""
    machine.append(ima_entry("/usr/bin/bash", file_digest("/usr/bin/bash"), "sha3-256"))
    refused(EvidenceReason.IMA_DIGEST_ALG, lambda: judge(machine))
    both = frozenset({"sha256", "sha3-256"})
    refused(EvidenceReason.IMA_DIGEST_NOT_ALLOWED, lambda: judge(machine, digest_algs=both))


def test_I15_padded_sha1_is_never_guessed(machine: Machine) -> None:
    value = bytes(32)
    for written in machine.entries:
        value = hashlib.sha256(value + written.extends["sha1"].ljust(32, b"\0")).digest()
    refused(EvidenceReason.IMA_REPLAY_MISMATCH, lambda: judge(machine, pcr10=value))
    assert judge(machine, pcr10=value, padded_sha1=True).listed == 3


def test_I16_ima_that_is_not_active(machine: Machine) -> None:
    refused(EvidenceReason.IMA_EMPTY, lambda: judge(machine, b"", pcr10=bytes(32)))
    refused(EvidenceReason.IMA_EMPTY, lambda: judge(machine, b""))
    refused(EvidenceReason.IMA_EMPTY, lambda: judge(machine, pcr10=bytes(32)))


@pytest.mark.parametrize(
    "pcr",
    [b"010", b"+10", b"-10", b" 10", b"1_0", b"0x0a", b"1e1", b"10.0", b"\xd9\xa1\xd9\xa0", b"", b"24", b"999999999"],
)
def test_I17_numbers_that_only_look_like_10(machine: Machine, pcr: bytes) -> None:
    refused(EvidenceReason.IMA_MALFORMED, lambda: judge(machine, pcr + machine.ascii()[2:]))


@pytest.mark.parametrize("pcr", [b"0", b"9", b"11", b"23"])
def test_I17_measurements_in_another_pcr(machine: Machine, pcr: bytes) -> None:
    refused(EvidenceReason.IMA_WRONG_PCR, lambda: judge(machine, pcr + machine.ascii()[2:]))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.replace(b" ", b"\t"),
        lambda data: data.replace(b"\n", b"\r\n"),
        lambda data: data.replace(b"\n", b"\r"),
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.replace(b"\n", b"\n\n", 1),
        lambda data: data + b"\n",
        lambda data: b"\n" + data,
        lambda data: data[:-1],
        lambda data: data[:-20],
        lambda data: data.replace(b" ", b"  "),
        lambda data: data.replace(b"\n", b"\0\n"),
        lambda data: data.decode().encode("utf-16"),
        lambda data: b"# list\n" + data,
    ],
)
def test_I18_other_syntax(machine: Machine, change: Callable[[bytes], bytes]) -> None:
    refused(EvidenceReason.IMA_MALFORMED, lambda: judge(machine, change(machine.ascii())))


@pytest.mark.parametrize("where", [24, 34, 38, 82])
@pytest.mark.parametrize("size", [0, 1, 5000, 2**31, 2**32 - 1])
def test_I19_lengths_of_the_binary_list(machine: Machine, where: int, size: int) -> None:
    """The lengths of the template's name, its data, its digest and its path."""
    data = machine.binary()
    assert int.from_bytes(data[where : where + 4], "little") < 100
    changed = data[:where] + pack("<I", size) + data[where + 4 :]
    with pytest.raises(EvidenceError) as caught:
        judge(machine, changed)
    assert caught.value.reason in {EvidenceReason.IMA_MALFORMED, EvidenceReason.IMA_TEMPLATE_UNKNOWN}


@pytest.mark.parametrize("tail", [b"\0", b"\n", b"\x0a\0\0\0", bytes(60)])
def test_I19_bytes_after_the_binary_list(machine: Machine, tail: bytes) -> None:
    with pytest.raises(EvidenceError):
        judge(machine, machine.binary() + tail)


def test_I19_bytes_after_the_fields(machine: Machine) -> None:
    entry = machine.entries[0].binary
    longer = entry[:34] + pack("<I", len(entry) - 38 + 1) + entry[38:] + b"\0"
    refused(EvidenceReason.IMA_MALFORMED, lambda: judge(machine, longer))


def test_I20_a_listed_path_with_a_second_digest(machine: Machine) -> None:
    """The same path in a container or an overlay is another file."""
    machine.append(ima_entry("/usr/bin/bash", file_digest("the container's bash")))
    detail = refused(EvidenceReason.IMA_DIGEST_NOT_ALLOWED, lambda: judge(machine))
    assert "/usr/bin/bash" in detail


@pytest.mark.parametrize("pattern", ["(a+)+$", "/var/log/(a+)+$", "/var/log/(.*)*x", "/var/log/[a-z]*[a-z]*[a-z]*$"])
def test_I22_regular_expressions_that_never_end(machine: Machine, pattern: str) -> None:
    machine.measure("/var/log/" + "a" * 4000 + "!", allow=False)
    with at_most(0.05):
        refused(EvidenceReason.IMA_EXCLUDE_TOO_BROAD, lambda: judge(machine, excludes=[pattern]))
