"""Which data a digest covers, type by type, and what becomes a claim because of it."""

import struct

import pytest

from tests.support.eventlog_builder import GLOBAL, OWNER, Log, Record, event, variable
from tpm.errors import RejectedError
from tpm.eventlog import Coverage, EventLogRules, Quirk, parse_event_log, verify_event_log
from tpm.eventlog import EventType as T
from tpm.eventlog_digests import verify_data

TAG = struct.pack("<II", 0xF5BC582A, 4) + b"conf"


def coverage(record: Record) -> Coverage:
    parsed = parse_event_log(Log(records=[record]).data()).events[1]
    return verify_data(parsed, "sha256")


@pytest.mark.parametrize(
    ("kind", "data", "measured", "expected"),
    [
        (T.EFI_ACTION, b"action", b"action", Coverage.WHOLE),
        (T.EFI_ACTION, b"action\x00", b"action", Coverage.WHOLE),
        (T.EFI_ACTION, b"action\x00", b"action\x00", Coverage.WHOLE),
        (
            T.EFI_VARIABLE_BOOT,
            variable(GLOBAL, "BootOrder", b"ab"),
            variable(GLOBAL, "BootOrder", b"ab"),
            Coverage.WHOLE,
        ),
        (T.EFI_VARIABLE_BOOT, variable(GLOBAL, "BootOrder", b"ab"), b"ab", Coverage.VALUE),
        (T.IPL, b"grub_cmd: x\x00", b"x", Coverage.VALUE),
        (T.IPL, b"grub_cmd x\x00", b"x\x00", Coverage.VALUE),
        (T.IPL, b"grub_cmd x\x00", b"grub_cmd x\x00", Coverage.WHOLE),
        (T.IPL, b"name\x00", b"name", Coverage.WHOLE),
        (T.IPL, b"name\x00", b"the file", Coverage.NOTHING),
        (T.IPL, b"name", b"nam", Coverage.NOTHING),
        (T.IPL, b"r\0w\0\0", b"r\0w\0\0\0", Coverage.WHOLE),
        (T.IPL, b"r\0w\0", b"r\0w\0\0", Coverage.WHOLE),
        (T.IPL, b"rw", b"rw\0", Coverage.NOTHING),
        (T.EVENT_TAG, b"r\0w\0\0", b"r\0w\0\0\0", Coverage.NOTHING),
        (T.EVENT_TAG, TAG, TAG, Coverage.WHOLE),
        (T.EVENT_TAG, TAG, b"conf", Coverage.VALUE),
        (T.EVENT_TAG, TAG, b"the file", Coverage.NOTHING),
        (T.EVENT_TAG, TAG[:8], b"", Coverage.NOTHING),
        (T.COMPACT_HASH, TAG, b"conf", Coverage.NOTHING),
        (T.COMPACT_HASH, b"x\x00", b"x", Coverage.NOTHING),
        (T.COMPACT_HASH, b"x", b"x", Coverage.WHOLE),
        (T.EFI_BOOT_SERVICES_APPLICATION, b"x", b"x", Coverage.NOTHING),
        (T.EFI_PLATFORM_FIRMWARE_BLOB, b"x", b"x", Coverage.NOTHING),
    ],
)
def test_coverage(kind: int, data: bytes, measured: bytes, expected: Coverage) -> None:
    assert coverage(event(8, kind, data, measured)) is expected


@pytest.mark.parametrize(
    ("kind", "data", "measured"),
    [
        (T.EFI_ACTION, b"action", b"actio"),
        (T.EFI_ACTION, b"action\x00", b"other"),
        (T.SEPARATOR, bytes(4), b"\x00\x00\x00"),
        (T.S_CRTM_VERSION, b"x\x00", b"x"),
        (T.EFI_GPT_EVENT, b"x", b"y"),
        (T.EFI_VARIABLE_BOOT2, variable(GLOBAL, "BootOrder", b"ab"), b"ab"),
        (T.EFI_VARIABLE_DRIVER_CONFIG, variable(GLOBAL, "PK", b"ab"), b"ab"),
        (T.EFI_VARIABLE_AUTHORITY, variable(GLOBAL, "db", b"ab"), b"ab"),
        (T.IPL, b"kernel_cmdline: x\x00", b"y"),
        (T.IPL, b"kernel_cmdline: x\x00", b"kernel_cmdline: "),
    ],
)
def test_data_that_must_be_measured(kind: int, data: bytes, measured: bytes) -> None:
    with pytest.raises(RejectedError, match=r"log\.digest_data_mismatch"):
        coverage(event(8, kind, data, measured))


def test_an_authority_cut_short_is_no_quirk() -> None:
    data = variable(GLOBAL, "db", b"ab")
    parsed = parse_event_log(Log(records=[event(7, T.EFI_VARIABLE_AUTHORITY, data, data[:-1])]).data())
    with pytest.raises(RejectedError, match=r"log\.digest_data_mismatch"):
        verify_data(parsed.events[1], "sha256", frozenset(Quirk))


def test_claims_of_later_stages() -> None:
    """Drivers, partition tables, the stub's command line and tags; none of them from a PCR that is not theirs."""
    log = Log()
    driver = event(2, T.EFI_BOOT_SERVICES_DRIVER, b"", b"a driver")
    stub = event(12, T.IPL, "quiet\x00".encode("utf-16-le"))
    log.insert(
        -2,
        driver,
        event(2, T.EFI_ACTION, b"no driver"),
        stub,
        event(14, T.IPL, b"MokList\x00", b"MokList\x00"),
        event(12, T.EVENT_TAG, TAG),
        event(6, T.EVENT_TAG, TAG[:-1] + b"g"),
        event(13, T.EVENT_TAG, struct.pack("<II", 1, 4) + b"conf", b"conf"),
        event(9, T.IPL, b"grub_cmd: elsewhere", b"elsewhere"),
    )
    claims = verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs()).claims
    assert claims.drivers == (driver.digest("sha256"),)
    assert claims.kernel_command_lines == ("/vmlinuz ro", "quiet")
    assert claims.grub_commands == ("linux /vmlinuz ro",)
    assert [tag.name for tag in claims.tags] == ["loader_conf"]
    assert [table.disk for table in claims.partition_tables] == [OWNER]


@pytest.mark.parametrize("text", ["root=/dev/vda rw", "rw", "ro quiet"])
def test_command_line_of_older_systemd_boot_is_read_in_pcr_8(text: str) -> None:
    """It measures UTF-16 with its NUL and logs half of that; there is no label. What is not measured is no claim."""
    wide = f"{text}\x00".encode("utf-16-le")
    log = Log()
    log.insert(-2, event(8, T.IPL, wide[:-1], wide), event(8, T.IPL, b"n\x00", b"a file"))
    claims = verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs()).claims
    assert claims.kernel_command_lines == ("/vmlinuz ro", text)
    assert claims.grub_commands == ("linux /vmlinuz ro",)


def test_limits_are_the_largest_accepted() -> None:
    log = Log()
    data = log.data()
    exact = EventLogRules(max_bytes=len(data), max_events=len(log.records) + 1)
    verify_event_log(parse_event_log(data), bank="sha256", pcrs=log.pcrs(), rules=exact)


def test_rules_without_types_for_a_pcr_allow_none() -> None:
    log = Log()
    rules = EventLogRules(allowed_types=EventLogRules().allowed_types[:8])
    with pytest.raises(RejectedError, match=r"log\.unknown_event_type"):
        verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs(), rules=rules)


def test_quirk_of_early_authorities_does_not_replace_authorities() -> None:
    log = Log().remove(7, T.EFI_VARIABLE_AUTHORITY)
    with pytest.raises(RejectedError, match=r"log\.authority_missing"):
        verify_event_log(parse_event_log(log.data(), quirks=frozenset(Quirk)), bank="sha256", pcrs=log.pcrs())
