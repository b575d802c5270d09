"""Parsing of IMA measurement lists."""

import hashlib
from struct import pack

import pytest

from tests.support.ima_machine import Machine, file_digest
from tpm import ima
from tpm.errors import EvidenceError, MalformedError, RejectedError
from tpm.ima import parse_ima_line, parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_rules import ImaRules
from tpm.ima_template import MAX_PATH
from tpm.ima_writer import ima_entry
from tpm.reasons import EvidenceReason

TEMPLATES = ("ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf")


def refused(data: bytes, reason: EvidenceReason, **options: str) -> str:
    with pytest.raises(EvidenceError) as caught:
        parse_ima_list(data, **options)
    assert caught.value.reason is reason
    return caught.value.detail


def line(hash_: bytes = b"01" * 20, rest: bytes = b"ima-ng sha256:" + b"ab" * 32 + b" /bin/x") -> bytes:
    return b"10 " + hash_ + b" " + rest + b"\n"


@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("alg", ["sha1", "sha256", "sha512"])
def test_both_formats_say_the_same(template: str, alg: str) -> None:
    """An entry is the same entry whether the kernel showed it as text or as bytes."""
    blob = b"\x03\x02" + bytes(30) if template not in {"ima-ng", "ima-ngv2"} else b""
    written = ima_entry("/usr/bin/tool", file_digest("x", alg), alg, template, blob=blob)
    from_text, from_bytes = parse_ima_list(written.ascii), parse_ima_list(written.binary)
    assert (from_text.format, from_bytes.format) == ("ascii", "binary")
    entry = from_text.entries[0]
    assert entry == from_bytes.entries[0]
    assert (entry.pcr, entry.template, entry.path, entry.digest_alg) == (10, template, "/usr/bin/tool", alg)
    assert (entry.digest, entry.digest_type, entry.violation) == (file_digest("x", alg), "ima", False)
    assert entry.signature == (blob if "sig" in template else b"")
    assert entry.buffer == (blob if template == "ima-buf" else b"")
    assert entry.template_hash_matches
    assert written.extends["sha384"] == hashlib.sha384(entry.data).digest()


@pytest.mark.parametrize("template", ["ima-sig", "ima-sigv2", "ima-buf"])
def test_an_empty_last_field_is_a_space_before_the_line_end(template: str) -> None:
    written = ima_entry("/bin/x", file_digest("x"), template=template)
    assert written.ascii.endswith(b" /bin/x \n")
    assert parse_ima_list(written.ascii).entries[0] == parse_ima_list(written.binary).entries[0]


def test_the_old_template_pads_its_name_to_256_bytes() -> None:
    digest = file_digest("x", "sha1")
    data = digest + b"/sbin/init".ljust(256, b"\0")
    shown = hashlib.sha1(data, usedforsecurity=False).digest()
    text = b"10 " + shown.hex().encode() + b" ima " + digest.hex().encode() + b" /sbin/init\n"
    binary = pack("<I", 10) + shown + pack("<I", 3) + b"ima" + digest + pack("<I", 10) + b"/sbin/init"
    entry = parse_ima_list(text).entries[0]
    assert entry == parse_ima_list(binary).entries[0]
    assert (entry.data, entry.template_hash_matches, entry.digest_alg) == (data, True, "sha1")


def test_modsig_has_five_fields_of_which_three_may_be_empty() -> None:
    head = b"ima-modsig sha256:" + b"ab" * 32 + b" /lib/m.ko "
    empty = parse_ima_list(line(rest=head + b"  ")).entries[0]
    assert (empty.path, empty.signature, empty.modsig_digest, empty.modsig) == ("/lib/m.ko", b"", "", b"")
    full = parse_ima_list(line(rest=head + b"0302 sha512:" + b"cd" * 64 + b" 3082")).entries[0]
    assert (full.path, full.signature, full.modsig) == ("/lib/m.ko", b"\x03\x02", b"\x30\x82")
    assert full.modsig_digest == "sha512:" + "cd" * 64
    binary = pack("<I", 10) + full.template_hash + pack("<I", 10) + b"ima-modsig" + pack("<I", len(full.data))
    assert parse_ima_list(binary + full.data).entries[0] == full
    refused(line(rest=b"ima-modsig sha256:" + b"ab" * 32 + b" /lib/m.ko"), EvidenceReason.IMA_MALFORMED)


def test_verity_digests_are_told_from_file_digests() -> None:
    entry = parse_ima_list(line(rest=b"ima-sigv2 verity:sha256:" + b"ab" * 32 + b" /bin/x 0603")).entries[0]
    assert (entry.digest_type, entry.digest_alg, entry.signature) == ("verity", "sha256", b"\x06\x03")


def test_lists_per_bank_show_longer_template_hashes() -> None:
    """Newer kernels offer the list once per bank, with that bank's hash in the second column."""
    written = ima_entry("/bin/x", file_digest("x"))
    longer = written.extends["sha256"]
    text = b"10 " + longer.hex().encode() + written.ascii[43:]
    binary = written.binary[:4] + longer + written.binary[24:]
    for data in (text, binary):
        parsed = parse_ima_list(data)
        assert parsed.hash_alg == "sha256"
        assert parsed.entries[0].template_hash_matches
    refused(text + written.ascii, EvidenceReason.IMA_MALFORMED)


def test_a_violation_is_an_entry_without_a_hash() -> None:
    """The kernel leaves room for a SHA-1 digest in a violation, whatever its algorithm."""
    for size in (20, 32):
        entry = parse_ima_list(ima_entry("/var/log/x", bytes(size), violation=True).ascii).entries[0]
        assert entry.violation
        assert not entry.template_hash_matches
        assert parse_ima_list(ima_entry("/var/log/x", bytes(size), violation=True).binary).entries[0] == entry
    refused(ima_entry("/var/log/x", bytes(20)).ascii, EvidenceReason.IMA_DIGEST_ALG)
    refused(ima_entry("/var/log/x", b"\1" * 20, violation=True).ascii, EvidenceReason.IMA_DIGEST_ALG)


def test_paths_keep_bytes_that_are_not_utf8() -> None:
    path = b"/srv/caf\xe9".decode("utf-8", "surrogateescape")
    written = ima_entry(path, file_digest("x"))
    assert b"\xe9" in written.ascii
    assert parse_ima_list(written.ascii).entries[0].path == path


def test_entries_are_a_sequence_with_slices() -> None:
    entries = Machine().measure("/bin/a", "/bin/b", "/bin/c").parsed()
    assert len(entries) == 4
    assert [entry.path for entry in entries] == ["boot_aggregate", "/bin/a", "/bin/b", "/bin/c"]
    assert [entry.path for entry in entries[1:3]] == ["/bin/a", "/bin/b"]
    assert entries[-1].path == "/bin/c"
    assert entries[0] in entries


def test_an_empty_list_is_a_list() -> None:
    assert len(parse_ima_list(b"").entries) == 0
    assert len(parse_ima_list(b"", format="binary").entries) == 0


def test_formats_have_two_names() -> None:
    with pytest.raises(ValueError, match="cbor"):
        parse_ima_list(b"", format="cbor")


def test_one_line_is_one_entry() -> None:
    assert parse_ima_line(line()[:-1]).path == "/bin/x"
    with pytest.raises(MalformedError):
        parse_ima_line(line() + line()[:-1])
    with pytest.raises(MalformedError):
        parse_ima_line(b"")


@pytest.mark.parametrize(
    ("data", "detail"),
    [
        (b"\n", "line 1"),
        (line() + b"\n" + line(), "line 2"),
        (line()[:-1], "not ended"),
        (line() + line()[:40], "not ended"),
        (line().replace(b" ", b"\t"), "line 1: control"),
        (line() + line().replace(b"\n", b"\r\n"), "line 2: control"),
        (b"\xef\xbb\xbf" + line(), "PCR"),
        (b" " + line(), "PCR"),
        (line().replace(b" ", b"  "), "0 bytes"),
        (line(b"01" * 19), "19 bytes"),
        (line(b""), "0 bytes"),
        (line() + line(b""), "0 bytes"),
        (line(b"01" * 19 + b"0"), "hexadecimal"),
        (line(b"01" * 19 + b"0g"), "hexadecimal"),
        (line(b"AB" * 20), "upper-case"),
        (line(rest=b"ima-ng sha256:" + b"AB" * 32 + b" /bin/x"), "upper-case"),
        (line(rest=b"ima-ng sha256:" + b"ab" * 31 + b"a" + b" /bin/x"), "hexadecimal"),
        (line(rest=b"ima-ng sha256:" + b"ab" * 31 + b"zz" + b" /bin/x"), "hexadecimal"),
        (line(rest=b"ima-ng sha256:" + b"ab" * 32 + b" "), "0 bytes"),
        (line(rest=b"ima-ng sha256:" + b"ab" * 32), "0 bytes"),
        (line(rest=b"ima-ng sha256:" + b"ab" * 32 + b" /" + b"a" * (MAX_PATH - 1)), "4096 bytes"),
        (line(rest=b"ima-sig sha256:" + b"ab" * 32 + b" /bin/x"), "missing"),
        (line(rest=b"ima-sig sha256:" + b"ab" * 32 + b" /bin/x 0"), "hexadecimal"),
        (line(rest=b"ima-sig sha256:" + b"ab" * 32 + b" /bin/x 0A"), "upper-case"),
        (line(rest=b"ima-sig sha256:" + b"ab" * 32 + b" /bin/x " + b"00" * 65537), "longer"),
        (line(rest=b"ima " + b"ab" * 32 + b" /bin/x"), "20 digest bytes"),
        (line(rest=b"ima " + b"ab" * 20 + b" /" + b"a" * 255), "255"),
    ],
)
def test_malformed_text_is_refused(data: bytes, detail: str) -> None:
    with pytest.raises(MalformedError, match=detail) as caught:
        parse_ima_list(data, format="ascii")
    assert caught.value.reason is EvidenceReason.IMA_MALFORMED


def test_the_longest_path_is_read() -> None:
    path = "/" + "a" * (MAX_PATH - 2)
    written = ima_entry(path, file_digest("x"))
    assert parse_ima_list(written.ascii).entries[0].path == path
    assert parse_ima_list(written.binary).entries[0].path == path
    refused(ima_entry(path + "a", file_digest("x")).binary, EvidenceReason.IMA_MALFORMED)


def binary(data: bytes, template: bytes = b"ima-ng", size: int | None = None) -> bytes:
    header = pack("<I", 10) + b"\1" * 20 + pack("<I", len(template)) + template
    return header + pack("<I", len(data) if size is None else size) + data


DIGEST = pack("<I", 40) + b"sha256:\0" + b"\xab" * 32
NAME = pack("<I", 7) + b"/bin/x\0"


def test_the_binary_builder_of_these_tests_is_right() -> None:
    assert parse_ima_list(binary(DIGEST + NAME)).entries[0].path == "/bin/x"


@pytest.mark.parametrize(
    "data",
    [
        binary(DIGEST + NAME)[:-1],
        binary(DIGEST + NAME)[:20],
        binary(DIGEST + NAME)[:30],
        binary(DIGEST + NAME) + b"\x0a",
        binary(DIGEST + NAME, size=2**32 - 1),
        binary(DIGEST + NAME, size=len(DIGEST + NAME) - 1),
        binary(DIGEST + NAME + b"\0"),
        binary(DIGEST),
        binary(DIGEST + NAME[:2]),
        binary(pack("<I", 2**32 - 1) + DIGEST[4:] + NAME),
        binary(DIGEST + pack("<I", 2**32 - 1) + NAME[4:]),
        binary(DIGEST + pack("<I", 8) + b"/bin/x\0x"),
        binary(DIGEST + pack("<I", 6) + b"/bin/x"),
        binary(DIGEST + pack("<I", 7) + b"/b\0n/x\0"),
        binary(DIGEST + pack("<I", 1) + b"\0"),
        binary(DIGEST + pack("<I", 0)),
        binary(pack("<I", 33) + b":" + b"\xab" * 32 + NAME),
        binary(pack("<I", 70000) + b"sha256:\0" + bytes(70000 - 8) + NAME),
        pack("<I", 10) + b"\1" * 20 + pack("<I", 256) + b"a" * 256,
        pack("<I", 24) + binary(DIGEST + NAME)[4:],
        pack("<I", 10) + b"\1" * 20 + pack("<I", 3) + b"ima" + bytes(20) + pack("<I", 256) + b"a" * 256,
        pack("<I", 10) + b"\1" * 20 + pack("<I", 3) + b"ima" + bytes(20) + pack("<I", 3) + b"a\0b",
        pack("<I", 10) + b"\1" * 20 + pack("<I", 3) + b"ima" + bytes(10),
    ],
)
def test_malformed_bytes_are_refused(data: bytes) -> None:
    refused(data, EvidenceReason.IMA_MALFORMED, format="binary")


def test_a_field_that_overruns_is_named() -> None:
    data = binary(pack("<I", 5000) + DIGEST[4:] + NAME)
    assert "a field of 5000 bytes" in refused(data, EvidenceReason.IMA_MALFORMED)


def test_the_digest_of_an_appended_signature_is_checked_like_the_other() -> None:
    signature = pack("<I", 0)
    for inner, reason in ((b"\xab" * 31, EvidenceReason.IMA_DIGEST_ALG), (b"\xab" * 32, None)):
        field = b"sha256:\0" + inner
        data = binary(DIGEST + NAME + signature + pack("<I", len(field)) + field + signature, b"ima-modsig")
        if reason:
            refused(data, reason)
        else:
            assert parse_ima_list(data).entries[0].modsig_digest == "sha256:" + "ab" * 32


@pytest.mark.parametrize("name", [b"ima-foo", b"evm-sig", b"d-ng|n-ng", b"IMA-NG", b"not-ima", b"ima-ng2"])
def test_templates_we_cannot_hash_are_refused(name: bytes) -> None:
    refused(line(rest=name + b" sha256:" + b"ab" * 32 + b" /bin/x"), EvidenceReason.IMA_TEMPLATE_UNKNOWN)
    refused(binary(DIGEST + NAME, name), EvidenceReason.IMA_TEMPLATE_UNKNOWN)


@pytest.mark.parametrize("label", [b"", b"sha", b"SHA256", b"sha256:sha256", b"ima:sha256", b"whirlpool", b"\xff"])
def test_unknown_digest_algorithms_are_refused(label: bytes) -> None:
    refused(line(rest=b"ima-ng " + label + b":" + b"ab" * 32 + b" /bin/x"), EvidenceReason.IMA_DIGEST_ALG)
    field = label + b":\0" + b"\xab" * 32
    refused(binary(pack("<I", len(field)) + field + NAME), EvidenceReason.IMA_DIGEST_ALG)


@pytest.mark.parametrize(
    ("label", "size"),
    [("sm3", 32), ("sm3-256", 32), ("sm3_256", 32), ("streebog256", 32), ("streebog512", 64), ("wp512", 64)],
)
def test_algorithms_of_other_kernels_are_read_and_not_accepted_unasked(label: str, size: int) -> None:
    """A list holds what a machine measured; whether that is enough is for the rules."""
    machine = Machine()
    machine.append(ima_entry("/bin/x", bytes(range(size)), label))
    read = machine.verified()
    assert read.entries[1].digest_alg == label
    allow = {**machine.allow, "/bin/x": [f"{label}:{bytes(range(size)).hex()}"]}
    with pytest.raises(RejectedError, match=r"ima\.digest_alg"):
        appraise_ima(read, ImaRules.of(allow))
    appraise_ima(read, ImaRules.of(allow, digest_algs=frozenset({"sha256", label})))


def test_the_new_templates_name_the_kind_of_digest() -> None:
    refused(line(rest=b"ima-ngv2 sha256:" + b"ab" * 32 + b" /bin/x"), EvidenceReason.IMA_DIGEST_ALG)
    refused(line(rest=b"ima-ngv2 tree:sha256:" + b"ab" * 32 + b" /bin/x"), EvidenceReason.IMA_DIGEST_ALG)


@pytest.mark.parametrize("size", [0, 20, 31, 33])
def test_a_digest_has_the_length_of_its_algorithm(size: int) -> None:
    refused(line(rest=b"ima-ng sha256:" + b"ab" * size + b" /bin/x"), EvidenceReason.IMA_DIGEST_ALG)
    field = b"sha256:\0" + b"\xab" * size
    refused(binary(pack("<I", len(field)) + field + NAME), EvidenceReason.IMA_DIGEST_ALG)


def test_other_pcrs_are_another_list() -> None:
    assert "PCR 11" in refused(b"11" + line()[2:], EvidenceReason.IMA_WRONG_PCR)
    with pytest.raises(RejectedError):
        parse_ima_list(pack("<I", 11) + binary(DIGEST + NAME)[4:])


def test_a_list_has_a_largest_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ima, "MAX_LIST_BYTES", len(line()))
    parse_ima_list(line())
    refused(line() + line(), EvidenceReason.IMA_TOO_LARGE)


def test_the_writer_refuses_templates_it_does_not_write() -> None:
    with pytest.raises(ValueError, match="ima-modsig"):
        ima_entry("/bin/x", b"", template="ima-modsig")


def test_spaces_become_underscores_as_in_the_kernel() -> None:
    written = ima_entry("/srv/my file", file_digest("x"))
    assert parse_ima_list(written.ascii).entries[0].path == "/srv/my_file"
    assert parse_ima_list(written.binary).entries[0].path == "/srv/my_file"
