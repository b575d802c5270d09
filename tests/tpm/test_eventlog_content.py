"""Typed decoding, type by type."""

import struct

import pytest

from tests.support.eventlog_builder import CERTIFICATE, DATABASE, GLOBAL, OWNER, SHA256, X509, signature_list, variable
from tpm.errors import MalformedError
from tpm.eventlog import (
    Authority,
    BootOption,
    Content,
    Event,
    FirmwareBlob,
    HandoffTables,
    ImageLoad,
    Informational,
    LoaderEntry,
    PartitionTable,
    Raw,
    Separator,
    SignatureDatabase,
    StartupLocality,
    Tag,
    Text,
    VariableEvent,
    decode,
)
from tpm.eventlog import EventType as T
from tpm.eventlog_loader import MAX_TAG_DEPTH, parse_tags
from tpm.eventlog_uefi import SHIM_LOCK


def content(kind: int, data: bytes) -> Content:
    return decode(Event(1, 7, kind, {}, data))


def tag(number: int, data: bytes) -> bytes:
    return struct.pack("<II", number, len(data)) + data


@pytest.mark.parametrize(
    ("kind", "data", "expected"),
    [
        (T.SEPARATOR, bytes(4), Separator(bytes(4))),
        (T.SEPARATOR, b"WBCL", Separator(b"WBCL")),
        (T.EFI_ACTION, b"Exit Boot Services Invocation", Text("Exit Boot Services Invocation")),
        (T.S_CRTM_VERSION, "1.0\x00".encode("utf-16-le"), Text("1.0")),
        (T.S_CRTM_CONTENTS, b"Boot Guard Measured S-CRTM\x00", Text("Boot Guard Measured S-CRTM")),
        (T.CPU_MICROCODE, b"\xff\xfe\x80", Text("\xff\xfe\x80")),
        (T.NO_ACTION, b"StartupLocality\x00\x03", StartupLocality(3)),
        (T.NO_ACTION, b"SP800-155 Event3rest", Informational("SP800-155 Event3", b"rest")),
        (T.NO_ACTION, b"", Informational("", b"")),
        (T.POST_CODE, b"ACPI DATA", Text("ACPI DATA")),
        (T.POST_CODE, struct.pack("<QQ", 1, 2), FirmwareBlob(None, 1, 2)),
        (T.EFI_PLATFORM_FIRMWARE_BLOB, struct.pack("<QQ", 3, 4), FirmwareBlob(None, 3, 4)),
        (T.EFI_PLATFORM_FIRMWARE_BLOB2, b"\x02hi" + struct.pack("<QQ", 3, 4), FirmwareBlob("hi", 3, 4)),
        (T.EFI_HANDOFF_TABLES, struct.pack("<Q", 1) + OWNER + struct.pack("<Q", 5), HandoffTables(None, ((OWNER, 5),))),
        (T.EFI_HANDOFF_TABLES2, b"\x02hi" + bytes(8), HandoffTables("hi", ())),
        (T.IPL, b"grub_cmd: set x=1\x00", LoaderEntry("grub_cmd", "set x=1")),
        (T.IPL, b"grub_cmd set x=1\x00", LoaderEntry("grub_cmd", "set x=1")),
        (T.IPL, b"kernel_cmdline: /vmlinuz a b: c\x00\x8b", LoaderEntry("kernel_cmdline", "/vmlinuz a b: c")),
        (T.IPL, b"grub_kernel_cmdline /vmlinuz\x00", LoaderEntry("grub_kernel_cmdline", "/vmlinuz")),
        (T.IPL, b"MokList\x00", LoaderEntry(None, "MokList")),
        (T.IPL, b"grub_linuxefi Kernel\x00l", LoaderEntry(None, "grub_linuxefi Kernel")),
        (T.IPL, "quiet ro\x00".encode("utf-16-le"), LoaderEntry(None, "quiet ro")),
        (T.EVENT_TAG, tag(0x8F3B22EC, b"Linux initrd\x00"), Tag(0x8F3B22EC, b"Linux initrd\x00")),
        (T.EVENT_TAG, b"no tag", Raw(b"no tag")),
        (T.COMPACT_HASH, b"\x10\x00\x00\x00", Raw(b"\x10\x00\x00\x00")),
        (0x12345678, b"x", Raw(b"x")),
    ],
)
def test_content(kind: int, data: bytes, expected: Content) -> None:
    assert content(kind, data) == expected


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("SecureBoot", b"\x01", True),
        ("SecureBoot", b"\x00", False),
        ("SecureBoot", b"\x02", b"\x02"),
        ("SecureBoot", b"", b""),
        ("BootOrder", b"\x01\x00\x00\x01", (1, 256)),
        ("Boot0001", struct.pack("<IH", 1, 0) + b"a\x00\x00\x00", BootOption(1, "a", b"", b"")),
        ("BootNext", b"\x01\x00", b"\x01\x00"),
        ("Boot00ZZ", b"\x01\x00", b"\x01\x00"),
    ],
)
def test_global_variables(name: str, value: bytes, expected: object) -> None:
    decoded = content(T.EFI_VARIABLE_BOOT, variable(GLOBAL, name, value))
    assert isinstance(decoded, VariableEvent)
    assert decoded.value == expected


def test_a_variable_of_another_namespace_is_bytes() -> None:
    for name, value in (("SecureBoot", b"\x01"), ("BootOrder", b"\x01\x00"), ("db", b"anything")):
        decoded = content(T.EFI_VARIABLE_DRIVER_CONFIG, variable(OWNER, name, value))
        assert isinstance(decoded, VariableEvent)
        assert decoded.value == value


def test_databases() -> None:
    data = variable(DATABASE, "dbx", signature_list(SHA256, [bytes(32)]))
    decoded = content(T.EFI_VARIABLE_DRIVER_CONFIG, data)
    assert isinstance(decoded, VariableEvent)
    assert isinstance(decoded.value, SignatureDatabase)
    assert decoded.value.hashes == (bytes(32),)


@pytest.mark.parametrize(
    ("guid", "name", "data", "owner", "certificate"),
    [
        (DATABASE, "db", OWNER + CERTIFICATE, OWNER, CERTIFICATE),
        (DATABASE, "db", OWNER + bytes(32), OWNER, None),
        (DATABASE, "db", CERTIFICATE, None, CERTIFICATE),
        (SHIM_LOCK, "Shim", CERTIFICATE, None, CERTIFICATE),
        (SHIM_LOCK, "SbatLevel", b"sbat,1,2021030218\n", None, None),
        (SHIM_LOCK, "MokListTrusted", b"\x01", None, None),
    ],
)
def test_authorities(guid: bytes, name: str, data: bytes, owner: bytes | None, certificate: bytes | None) -> None:
    decoded = content(T.EFI_VARIABLE_AUTHORITY, variable(guid, name, data))
    assert isinstance(decoded, Authority)
    assert (decoded.owner, decoded.certificate) == (owner, certificate)
    assert decoded.entry == (data if owner is None else data[16:])


def test_image_load() -> None:
    path = struct.pack("<BBH", 4, 4, 8) + "a\x00".encode("utf-16-le") + b"\x7f\xff\x04\x00"
    decoded = content(T.EFI_BOOT_SERVICES_APPLICATION, struct.pack("<QQQQ", 1, 2, 3, len(path)) + path + b"\xaf")
    assert isinstance(decoded, ImageLoad)
    assert (decoded.address, decoded.length, decoded.link_time_address, decoded.path) == (1, 2, 3, "a")


def test_partition_table() -> None:
    data = b"EFI PART" + bytes(48) + OWNER + bytes(20) + bytes(8)
    assert content(T.EFI_GPT_EVENT, data) == PartitionTable(OWNER, ())


def test_tags_nest_to_a_limit() -> None:
    data = tag(0x00050001, b"\x00")
    for _ in range(MAX_TAG_DEPTH + 2):
        data = tag(0x40010001, data)
    depth, tags = 0, parse_tags(data)
    while tags:
        depth, tags = depth + 1, tags[0].children
    assert depth == MAX_TAG_DEPTH
    nested = content(T.EVENT_TAG, tag(0x40010001, tag(0x00050001, b"\x00") + tag(0x99, b"")))
    assert isinstance(nested, Tag)
    assert [(child.name, child.data) for child in nested.children] == [
        ("os_kernel_debug", b"\x00"),
        ("0x00000099", b""),
    ]


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        (T.SEPARATOR, bytes(3), "log.separator_invalid"),
        (T.EFI_VARIABLE_DRIVER_CONFIG, b"", "log.variable"),
        (T.EFI_VARIABLE_BOOT, variable(GLOBAL, "BootOrder", b"\x01"), "log.variable"),
        (T.EFI_VARIABLE_BOOT2, variable(GLOBAL, "Boot0000", b"\x01"), "log.variable"),
        (T.EFI_VARIABLE_DRIVER_CONFIG, variable(DATABASE, "db", b"\x01"), "log.siglist"),
        (T.EFI_VARIABLE_AUTHORITY, X509, "log.variable"),
        (T.EFI_BOOT_SERVICES_DRIVER, bytes(31), "log.malformed"),
        (T.EFI_RUNTIME_SERVICES_DRIVER, struct.pack("<QQQQ", 0, 0, 0, 1), "log.malformed"),
        (T.EFI_GPT_EVENT, bytes(100), "log.malformed"),
        (T.EFI_PLATFORM_FIRMWARE_BLOB2, b"", "log.malformed"),
        (T.EFI_PLATFORM_FIRMWARE_BLOB2, b"\x05hi", "log.malformed"),
        (T.EFI_PLATFORM_FIRMWARE_BLOB2, b"\x02hi" + bytes(15), "log.malformed"),
        (T.EFI_HANDOFF_TABLES, struct.pack("<Q", 2**63), "log.malformed"),
        (T.EFI_HANDOFF_TABLES2, b"\x00", "log.malformed"),
        (T.NO_ACTION, b"Spec ID Event03\x00", "log.malformed"),
    ],
)
def test_content_that_does_not_follow_its_type_is_refused(kind: int, data: bytes, reason: str) -> None:
    with pytest.raises(MalformedError) as caught:
        content(kind, data)
    assert caught.value.reason == reason
