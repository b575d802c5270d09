"""UEFI structures: what is read, and every way in which one can be too short, too long or wrong."""

import struct

import pytest

from tests.support.eventlog_builder import CERTIFICATE, DATABASE, GLOBAL, OWNER, SHA256, X509, signature_list, variable
from tpm.errors import MalformedError
from tpm.eventlog_uefi import (
    MAX_NAME_CHARACTERS,
    MAX_PARTITIONS,
    MAX_PATH_NODES,
    MAX_SIGNATURE_LISTS,
    MAX_SIGNATURES,
    SIGNATURE_SIZES,
    certificate_name,
    device_path_text,
    guid_text,
    parse_boot_option,
    parse_partition_table,
    parse_signature_database,
    parse_variable,
)

END = b"\x7f\xff\x04\x00"


def node(kind: int, sub: int, body: bytes) -> bytes:
    return struct.pack("<BBH", kind, sub, 4 + len(body)) + body


def test_guids_print_in_registry_form() -> None:
    assert guid_text(GLOBAL) == "8be4df61-93ca-11d2-aa0d-00e098032b8c"
    assert guid_text(DATABASE) == "d719b2cb-3d3a-4596-a3bc-dad00e67656f"
    assert guid_text(X509) == "a5c059a1-94e4-4aa7-87b5-ab155c2bf072"


def test_signature_database_keeps_order_owner_and_kind() -> None:
    first = signature_list(X509, [CERTIFICATE])
    second = signature_list(SHA256, [bytes(32), b"\x01" * 32])
    database = parse_signature_database(first + second)
    assert database.certificates == (CERTIFICATE,)
    assert database.hashes == (bytes(32), b"\x01" * 32)
    assert database.lists[0].entries == ((OWNER, CERTIFICATE),)


def test_no_bytes_are_an_empty_database() -> None:
    assert parse_signature_database(b"").lists == ()


@pytest.mark.parametrize(("kind", "size"), SIGNATURE_SIZES.items(), ids=lambda value: str(value)[:8])
def test_signature_of_a_known_type_has_its_size(kind: bytes, size: int) -> None:
    assert parse_signature_database(signature_list(kind, [bytes(size)])).lists[0].type == kind
    for wrong in (size - 1, size + 1):
        with pytest.raises(MalformedError, match=r"log\.siglist"):
            parse_signature_database(signature_list(kind, [bytes(wrong)]))


def test_signature_lists_are_bounded() -> None:
    empty = OWNER + struct.pack("<III", 28, 0, 17)
    assert len(parse_signature_database(empty * MAX_SIGNATURE_LISTS).lists) == MAX_SIGNATURE_LISTS
    with pytest.raises(MalformedError, match=r"log\.siglist"):
        parse_signature_database(empty * (MAX_SIGNATURE_LISTS + 1))
    small = signature_list(OWNER, [b"x"] * (MAX_SIGNATURES + 1))
    with pytest.raises(MalformedError, match=r"log\.siglist"):
        parse_signature_database(small)


def test_what_is_no_certificate_is_named_by_its_digest() -> None:
    assert certificate_name(CERTIFICATE).startswith("sha256:")


def test_variable_is_name_namespace_and_value() -> None:
    parsed = parse_variable(variable(GLOBAL, "SecureBoot", b"\x01"))
    assert (parsed.guid, parsed.name, parsed.data, parsed.trailing) == (GLOBAL, "SecureBoot", b"\x01", b"")


def test_variable_keeps_what_follows_it_apart() -> None:
    assert parse_variable(variable(GLOBAL, "x", b"y") + b"zz").trailing == b"zz"


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(bytes(31), id="short"),
        pytest.param(GLOBAL + struct.pack("<QQ", 0, 0), id="no_name"),
        pytest.param(variable(GLOBAL, "x", b"y")[:-1], id="cut"),
        pytest.param(GLOBAL + struct.pack("<QQ", 2**64 - 1, 0) + b"x\x00", id="huge_name"),
        pytest.param(GLOBAL + struct.pack("<QQ", 1, 2**64 - 1) + b"x\x00", id="huge_value"),
        pytest.param(variable(GLOBAL, "x" * (MAX_NAME_CHARACTERS + 1), b""), id="long_name"),
        pytest.param(GLOBAL + struct.pack("<QQ", 1, 0) + b"\x00\xd8", id="surrogate"),
        pytest.param(variable(GLOBAL, "Secure\x00Boot", b"\x01"), id="nul"),
    ],
)
def test_variable_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"log\.variable"):
        parse_variable(data)


def test_boot_option() -> None:
    text = "Linux".encode("utf-16-le") + b"\x00\x00"
    option = parse_boot_option(struct.pack("<IH", 1, 4) + text + END + b"more")
    assert option.attributes == 1
    assert option.description == "Linux"
    assert option.device_path == END
    assert option.optional_data == b"more"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        struct.pack("<IH", 1, 0) + "no end".encode("utf-16-le"),
        struct.pack("<IH", 1, 5) + b"\x00\x00" + END,
        struct.pack("<IH", 1, 0) + b"\x00\xd8\x00\x00",
    ],
)
def test_boot_option_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"log\.variable"):
        parse_boot_option(data)


def table(count: int, entries: bytes) -> bytes:
    return b"EFI PART" + bytes(48) + OWNER + bytes(20) + struct.pack("<Q", count) + entries


def test_partition_table() -> None:
    name = "root".encode("utf-16-le").ljust(72, b"\x00")
    parsed = parse_partition_table(table(1, X509 + SHA256 + struct.pack("<QQQ", 34, 99, 0) + name))
    assert parsed.disk == OWNER
    assert [(p.type, p.guid, p.first_block, p.last_block, p.name) for p in parsed.partitions] == [
        (X509, SHA256, 34, 99, "root")
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        table(0, b"")[:-1],
        table(1, bytes(127)),
        table(0, bytes(128)),
        table(2**63, b""),
        b"EFI FART" + table(0, b"")[8:],
        table(MAX_PARTITIONS + 1, bytes(128 * (MAX_PARTITIONS + 1))),
    ],
)
def test_partition_table_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        parse_partition_table(data)


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"", ""),
        (END, ""),
        (node(2, 1, struct.pack("<II", 0x0A0341D0, 1)) + node(1, 1, b"\x02\x1f") + END, "PciRoot(0x1)/Pci(0x1f,0x2)"),
        (node(4, 4, "\\EFI\\a.efi\x00".encode("utf-16-le")) + END, "\\EFI\\a.efi"),
        (
            node(4, 1, struct.pack("<IQQ16sBB", 2, 0x800, 0x1000, X509, 2, 2)) + END,
            "HD(2,GPT,a5c059a1-94e4-4aa7-87b5-ab155c2bf072,0x800,0x1000)",
        ),
        (
            node(4, 1, struct.pack("<IQQ16sBB", 1, 1, 2, b"\x78\x56\x34\x12" + bytes(12), 1, 1)),
            "HD(1,MBR,0x12345678,0x1,0x2)",
        ),
        (node(3, 18, struct.pack("<HHH", 1, 0xFFFF, 0)), "Sata(0x1,0xffff,0x0)"),
        (node(3, 23, struct.pack("<I", 1) + bytes(range(8))), "NVMe(0x1,00-01-02-03-04-05-06-07)"),
        (node(3, 5, b"\x03\x01") + node(3, 2, bytes(4)), "USB(0x3,0x1)/Scsi(0x0,0x0)"),
        (node(4, 6, X509) + node(4, 7, X509), f"FvFile({guid_text(X509)})/Fv({guid_text(X509)})"),
        (node(2, 1, struct.pack("<II", 5, 6)), "Acpi(0x00000005,0x6)"),
        (node(3, 11, bytes(range(6)) + bytes(27)), "MAC(000102030405)"),
        (node(9, 9, b"\xab") + node(1, 1, b"\x01"), "Path(9,9,ab)/Path(1,1,01)"),
    ],
)
def test_device_path_prints(path: bytes, text: str) -> None:
    assert device_path_text(path) == text


@pytest.mark.parametrize(
    "path",
    [
        b"\x01",
        b"\x01\x01\x00\x00",
        b"\x01\x01\x03\x00",
        node(1, 1, b"xx")[:-1],
        node(1, 1, b"xx") * (MAX_PATH_NODES + 1),
    ],
)
def test_device_path_that_cannot_be_is_refused(path: bytes) -> None:
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        device_path_text(path)
