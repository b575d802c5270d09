"""Attacks on measured boot logs: rows H1 to H26, and every log of the attack corpus.

Each case spoils one thing in an honest boot. Where the attacker controls the machine after the spoiling, the quoted PCR
values follow it (``log.pcrs()`` after the change); where the hardware would not have, they are the honest ones.
"""

import struct
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import corpus
from tests.support.eventlog_builder import (
    APPLICATION,
    CALLING,
    CERTIFICATE,
    CRTM_VERSION,
    DATABASE,
    EFI_ACTION,
    EXIT,
    EXIT_FAILED,
    EXIT_OK,
    GLOBAL,
    IPL,
    NO_ACTION,
    OWNER,
    SEPARATOR,
    SHA256,
    VAR_AUTHORITY,
    VAR_BOOT,
    VAR_DRIVER,
    X509,
    Log,
    Record,
    configuration,
    event,
    signature_list,
    spec_id,
    variable,
)
from tests.support.judged import check_attack
from tests.support.pace import at_most
from tpm.errors import EvidenceError, MalformedError, RejectedError
from tpm.eventlog import (
    Coverage,
    EventLogRules,
    FindingCode,
    Quirk,
    VerifiedEventLog,
    parse_event_log,
    verify_event_log,
)
from ztrooted.boot_reference import boot_reference

ACTION = 5


def verify(log: Log, pcrs: dict[int, bytes] | None = None, **rules: Any) -> VerifiedEventLog:
    return verify_event_log(
        parse_event_log(log.data()),
        bank="sha256",
        pcrs=log.pcrs() if pcrs is None else pcrs,
        rules=EventLogRules(**rules),
    )


def refused(log: Log, pcrs: dict[int, bytes] | None = None, **rules: Any) -> str:
    with pytest.raises(EvidenceError) as caught:
        verify(log, pcrs, **rules)
    return str(caught.value.reason)


def unparsed(data: bytes) -> str:
    with pytest.raises(EvidenceError) as caught:
        parse_event_log(data)
    return str(caught.value.reason)


def test_the_honest_boot_is_accepted() -> None:
    verified = verify(Log())
    assert verified.secure_boot is True
    assert verified.exit_boot_services
    assert verified.claims.kernel_command_lines == ("/vmlinuz ro",)


@pytest.mark.parametrize("entry", corpus.entries("attacks", "event_log"))
def test_attack_corpus(entry: corpus.Entry) -> None:
    """Every log of the corpus gets the verdict its index names, for the reason it names."""
    check_attack(entry)


# H1: the log does not add up.

H1: dict[str, Callable[[Log], object]] = {
    "dropped": lambda log: log.remove(4, APPLICATION),
    "duplicated": lambda log: log.insert(log.find(4, APPLICATION), log.records[log.find(4, APPLICATION)]),
    "swapped": lambda log: log.records.insert(log.find(7, VAR_DRIVER), log.records.pop(log.find(7, VAR_AUTHORITY))),
    "other_digest": lambda log: log.change(log.find(4, APPLICATION), measured=b"another image"),
    "moved": lambda log: log.change(log.find(9, IPL), pcr=8),
    "last_dropped": lambda log: log.records.pop(),
}


@pytest.mark.parametrize("spoil", H1.values(), ids=H1)
def test_H1_log_that_does_not_replay_is_refused(spoil: Callable[[Log], object]) -> None:
    log = Log()
    honest = log.pcrs(only=range(9))
    spoil(log)
    assert refused(log, honest) == "log.replay_mismatch"


@pytest.mark.parametrize("pcr", [4, 7])
def test_H2_pcr_without_events_must_hold_its_reset_value(pcr: int) -> None:
    log = Log()
    honest = log.pcrs()
    log.records = [record for record in log.records if record.pcr != pcr]
    assert refused(log, honest) == "log.pcr_without_events"


@pytest.mark.parametrize("pcr", [16, 17, 23])
def test_H2_reset_value_is_zero_or_ones_by_pcr(pcr: int) -> None:
    log = Log()
    values = log.pcrs()
    verify(log, values)
    values[pcr] = bytes(32) if pcr == 17 else b"\xff" * 32
    assert refused(log, values) == "log.pcr_without_events"


def test_H3_no_bytes_are_refused() -> None:
    assert unparsed(b"") == "log.empty"


def test_H3_log_of_a_header_only_is_refused() -> None:
    assert refused(Log(records=[])) == "log.empty"


def test_H3_log_that_measures_nothing_is_refused() -> None:
    assert refused(Log(records=[event(0, NO_ACTION, b"StartupLocality\x00\x00")])) == "log.empty"


@pytest.mark.parametrize("records", [[], None], ids=["no events", "a usual log"])
def test_E15_pcrs_that_nothing_was_ever_extended_into_are_refused(records: list[Any] | None) -> None:
    """Firmware that leaves a bank out lets whoever comes after it extend what they like (CVE-2021-42299)."""
    log = Log() if records is None else Log(records=records)
    assert refused(log, dict.fromkeys(range(8), bytes(32))) == (
        "log.replay_mismatch" if records is None else "log.empty"
    )


def test_H3_no_pcr_values_are_refused() -> None:
    assert refused(Log(), {}) == "evidence.missing"


@pytest.mark.parametrize(
    ("pcr", "kind", "data"),
    [
        (7, VAR_DRIVER, variable(GLOBAL, "SecureBoot", b"\x00")),
        (7, VAR_AUTHORITY, variable(DATABASE, "db", OWNER + b"\x30\x82\x00\x10" + bytes(15) + b"\x01")),
        (8, IPL, b"kernel_cmdline: /vmlinuz rw\x00"),
        (0, CRTM_VERSION, b"v2"),
        (4, EFI_ACTION, b"Returning from EFI Application from Boot Option"),
        (1, VAR_BOOT, variable(GLOBAL, "BootOrder", b"\x01\x00\x02\x00")),
        (5, SEPARATOR, b"\x01\x00\x00\x00"),
    ],
)
def test_H4_data_that_was_not_measured_is_refused(pcr: int, kind: int, data: bytes) -> None:
    log = Log()
    marker = b"kernel_cmdline" if kind == IPL else b""
    log.change(log.find(pcr, kind, marker), data=data)
    assert refused(log) == "log.digest_data_mismatch"


def test_H5_device_path_is_accepted_and_never_a_claim() -> None:
    log = Log()
    index = log.find(4, APPLICATION)
    path = struct.pack("<BBH", 4, 4, 4 + 18) + "\\evil.efi".encode("utf-16-le") + b"\x7f\xff\x04\x00"
    log.change(index, data=struct.pack("<QQQQ", 0, 0, 0, len(path)) + path)
    verified = verify(log)
    assert verified.coverage[index + 1] is Coverage.NOTHING
    assert "evil" not in repr(verified.claims)
    assert FindingCode.DATA_NOT_MEASURED in {finding.code for finding in verified.findings}


def test_H5_broken_device_path_changes_nothing() -> None:
    log = Log()
    log.change(log.find(4, APPLICATION), data=b"not an image load event")
    assert verify(log).claims.applications == verify(Log()).claims.applications


def test_H6_unused_with_appended_copies_is_refused() -> None:
    log = Log()
    copies = [record for record in log.records if record.pcr == 7]
    for index, record in enumerate(log.records):
        if record.pcr == 7:
            log.change(index, kind=2)
    log.records += copies
    assert refused(log) == "log.unknown_event_type"


@pytest.mark.parametrize("kind", [0x80000008, 0x8000000A, 1, 6, IPL, 0x7FFFFFFF, 0x80000011])
@pytest.mark.parametrize("pcr", [7])
def test_H6_type_that_has_no_business_in_its_pcr_is_refused(pcr: int, kind: int) -> None:
    log = Log()
    honest = log.pcrs()
    log.change(log.find(pcr, VAR_DRIVER, "SecureBoot".encode("utf-16-le")), kind=kind)
    assert refused(log, honest) == "log.unknown_event_type"


@pytest.mark.parametrize("pcr", [4, 8, 14, 23])
@pytest.mark.parametrize("kind", [0, 2, 0x7FFFFFFF, 0xFFFFFFFF])
def test_H6_undefined_type_is_refused_in_any_pcr(pcr: int, kind: int) -> None:
    log = Log()
    log.insert(len(log.records) - 2, event(pcr, kind, b"anything"))
    assert refused(log) == "log.unknown_event_type"


def test_H7_measured_event_relabelled_no_action_is_refused() -> None:
    log = Log()
    honest = log.pcrs()
    log.change(log.find(4, APPLICATION), kind=NO_ACTION)
    assert refused(log, honest) == "log.no_action_abuse"


def test_H7_no_action_with_a_digest_is_refused() -> None:
    log = Log()
    log.insert(0, event(0, NO_ACTION, b"StartupLocality\x00\x00", b"anything"))
    assert refused(log) == "log.no_action_abuse"


def test_H7_second_spec_id_is_refused() -> None:
    log = Log()
    log.insert(5, event(0, NO_ACTION, spec_id(("sha1",))))
    assert refused(log) == "log.no_action_abuse"


@pytest.mark.parametrize("pcr", range(8))
def test_H8_missing_separator_is_refused(pcr: int) -> None:
    assert refused(Log().remove(pcr, SEPARATOR)) == "log.separator_missing"


@pytest.mark.parametrize("pcr", range(8))
def test_H8_second_separator_is_refused(pcr: int) -> None:
    log = Log()
    log.insert(log.find(5, EFI_ACTION, EXIT), event(pcr, SEPARATOR, bytes(4)))
    assert refused(log) == "log.separator_duplicate"


@pytest.mark.parametrize("value", [b"\x01\x00\x00\x00", b"\xff\xff\xff\xff", b"", bytes(5), b"\x00\x00\x00\x01"])
def test_H8_separator_of_another_value_is_refused(value: bytes) -> None:
    log = Log()
    assert refused(log.change(log.find(2, SEPARATOR), data=value, measured=value)) == "log.separator_invalid"


@pytest.mark.parametrize("value", [bytes(4), b"\xff\xff\xff\xff", b"\x01\x00\x00\x00"])
@pytest.mark.parametrize(("pcr", "kind"), [(2, EFI_ACTION), (4, IPL), (0, 0x0A), (7, 0x800000E3)])
def test_H9_separator_under_another_type_is_refused(pcr: int, kind: int, value: bytes) -> None:
    log = Log()
    log.insert(log.find(5, EFI_ACTION, EXIT), event(pcr, kind, b"a name", value))
    assert refused(log) == "log.separator_disguised"


def test_H9_boot_order_that_looks_like_the_error_separator_is_none() -> None:
    value = b"\x01\x00\x00\x00"
    log = Log()
    log.change(log.find(1, VAR_BOOT), data=variable(GLOBAL, "BootOrder", value), measured=value)
    assert verify(log).claims.boot_order == (1, 0)


def secure_boot(log: Log) -> int:
    return log.find(7, VAR_DRIVER, "SecureBoot".encode("utf-16-le"))


def test_H10_secure_boot_twice_is_refused() -> None:
    log = Log()
    log.insert(secure_boot(log), configuration("SecureBoot", b"\x00"))
    assert refused(log) == "log.dup_variable"


def test_H10_secure_boot_after_the_separator_is_refused() -> None:
    log = Log()
    late = log.records.pop(secure_boot(log))
    log.insert(log.find(7, SEPARATOR) + 1, late)
    assert refused(log) == "log.var_after_separator"


@pytest.mark.parametrize("value", [b"", b"\x02", b"\xff", b"\x01\x00", b"\x01\x01"])
def test_H10_secure_boot_of_an_odd_value_is_refused(value: bytes) -> None:
    log = Log()
    data = variable(GLOBAL, "SecureBoot", value)
    assert refused(log.change(secure_boot(log), data=data, measured=data)) == "log.secure_boot_value"


def test_H10_secure_boot_of_another_namespace_is_refused() -> None:
    log = Log()
    data = variable(OWNER, "SecureBoot", b"\x01")
    assert refused(log.change(secure_boot(log), data=data, measured=data)) == "log.secure_boot_value"


def test_H10_secure_boot_off_is_refused_where_asked_for() -> None:
    log = Log()
    data = variable(GLOBAL, "SecureBoot", b"\x00")
    log.change(secure_boot(log), data=data, measured=data)
    assert refused(log) == "log.secure_boot_off"
    assert verify(log, secure_boot=False).secure_boot is False


def test_H10_no_secure_boot_variable_is_refused() -> None:
    log = Log()
    del log.records[secure_boot(log)]
    assert refused(log) == "log.secure_boot_missing"


def test_H10_secure_boot_is_unknown_without_pcr_7() -> None:
    log = Log()
    pcrs = log.pcrs()
    del pcrs[7]
    assert refused(log, pcrs) == "log.secure_boot_missing"
    assert verify(log, pcrs, secure_boot=False).secure_boot is None


@pytest.mark.parametrize("name", ["PK", "KEK", "db", "dbx"])
def test_H10_secure_boot_without_its_keys_is_refused(name: str) -> None:
    log = Log()
    start = variable(DATABASE if name in ("db", "dbx") else GLOBAL, name, b"")[:24]
    log.records = [record for record in log.records if record.kind != VAR_DRIVER or record.data[:24] != start]
    assert refused(log) == "log.secure_boot_missing"


@pytest.mark.parametrize(("name", "guid"), [("db", GLOBAL), ("PK", DATABASE), ("dbx", OWNER)])
def test_H10_database_of_another_namespace_is_refused(name: str, guid: bytes) -> None:
    log = Log()
    log.insert(log.find(7, SEPARATOR), event(7, VAR_DRIVER, variable(guid, name, b"")))
    assert refused(log) == "log.variable"


def test_H10_variables_out_of_order_are_refused() -> None:
    log = Log()
    log.records.insert(log.find(7, SEPARATOR) - 1, log.records.pop(secure_boot(log)))
    assert refused(log) == "log.variable"


def test_H10_bytes_behind_a_variable_are_refused() -> None:
    log = Log()
    data = variable(GLOBAL, "SecureBoot", b"\x01") + b"\x00"
    assert refused(log.change(secure_boot(log), data=data, measured=data)) == "log.variable"


def test_H11_repeated_authority_is_refused() -> None:
    log = Log()
    index = log.find(7, VAR_AUTHORITY)
    assert refused(log.insert(index, log.records[index])) == "log.authority_duplicate"


def test_H11_bytes_behind_an_authority_are_refused() -> None:
    log = Log()
    index = log.find(7, VAR_AUTHORITY)
    data = log.records[index].data + b"\x00"
    assert refused(log.change(index, data=data, measured=data)) == "log.variable"


def test_H11_missing_authority_is_refused() -> None:
    assert refused(Log().remove(7, VAR_AUTHORITY)) == "log.authority_missing"


def test_H11_authority_before_the_separator_is_refused() -> None:
    log = Log()
    early = log.records.pop(log.find(7, VAR_AUTHORITY))
    assert refused(log.insert(log.find(7, SEPARATOR), early)) == "log.authority_early"


def test_H11_authority_that_is_not_in_db_is_told() -> None:
    log = Log()
    data = variable(DATABASE, "db", OWNER + b"\x30\x82\x00\x10" + b"\x07" * 16)
    log.change(log.find(7, VAR_AUTHORITY), data=data, measured=data)
    assert FindingCode.AUTHORITY_NOT_IN_DB in {finding.code for finding in verify(log).findings}
    assert FindingCode.AUTHORITY_NOT_IN_DB not in {finding.code for finding in verify(Log()).findings}


def locality(value: int, pcr: int = 0) -> Record:
    return event(pcr, NO_ACTION, b"StartupLocality\x00" + bytes((value,)))


@pytest.mark.parametrize("value", [0, 3, 4])
def test_H12_startup_locality_is_the_start_value_of_pcr_0(value: int) -> None:
    log = Log(locality=value)
    log.insert(0, locality(value))
    assert verify(log).startup_locality == value


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda log: log.insert(0, locality(5)), id="five"),
        pytest.param(lambda log: log.insert(0, locality(3), locality(3)), id="twice"),
        pytest.param(lambda log: log.insert(1, locality(3)), id="late"),
        pytest.param(lambda log: log.insert(0, locality(3, pcr=1)), id="other_pcr"),
        pytest.param(lambda log: log.insert(0, event(0, NO_ACTION, b"StartupLocality\x00")), id="short"),
        pytest.param(lambda log: log.insert(0, locality(3), event(0, 0x80000010, b"HCRTM")), id="contradiction"),
        pytest.param(lambda log: log.insert(1, event(0, 0x80000010, b"HCRTM")), id="late_hcrtm"),
    ],
)
def test_H12_doubtful_startup_locality_is_refused(spoil: Callable[[Log], Log]) -> None:
    assert refused(spoil(Log(locality=3))) == "log.startup_locality"


def test_H12_wrong_startup_locality_does_not_replay() -> None:
    log = Log()
    assert refused(log.insert(0, locality(3))) == "log.replay_mismatch"


def test_H12_hcrtm_opens_pcr_0_at_locality_4() -> None:
    log = Log(locality=4)
    log.insert(0, event(0, 0x80000010, b"HCRTM", b"the first code"))
    assert verify(log).startup_locality == 4


@pytest.mark.parametrize("pcr", [0, 1, 4, 5, 7])
def test_H13_firmware_pcr_extended_after_boot_services_is_refused(pcr: int) -> None:
    log = Log()
    kind = VAR_AUTHORITY if pcr == 7 else EFI_ACTION
    data = variable(DATABASE, "db", b"") if pcr == 7 else b"something"
    log.records.append(event(pcr, kind, data))
    assert refused(log) == "log.event_after_ebs"


def test_H13_event_between_request_and_answer_is_refused() -> None:
    log = Log()
    log.insert(log.find(5, EFI_ACTION, EXIT_OK), event(4, EFI_ACTION, b"something"))
    assert refused(log) == "log.event_after_ebs"


def test_H13_boot_services_that_did_not_end_are_refused() -> None:
    log = Log()
    del log.records[-2:]
    assert refused(log) == "log.ebs_missing"
    assert not verify(log, exit_boot_services=False).exit_boot_services


def test_H13_boot_services_that_failed_to_end_are_refused() -> None:
    log = Log()
    assert refused(log.change(-1, data=EXIT_FAILED, measured=EXIT_FAILED)) == "log.ebs_missing"


def test_H13_answer_without_a_request_is_refused() -> None:
    log = Log()
    del log.records[-2]
    assert refused(log) == "log.ebs_missing"


def test_H13_boot_services_that_end_twice_are_refused() -> None:
    log = Log()
    log.records += [event(5, EFI_ACTION, EXIT), event(5, EFI_ACTION, EXIT_OK)]
    assert refused(log) == "log.event_after_ebs"


def test_H13_request_that_succeeds_at_the_second_try_is_accepted() -> None:
    log = Log()
    log.insert(-2, event(5, EFI_ACTION, EXIT), event(5, EFI_ACTION, EXIT_FAILED))
    assert verify(log).exit_boot_services


@pytest.mark.parametrize("told", [(EXIT_FAILED, EXIT, EXIT_OK), (EXIT, EXIT_FAILED, EXIT_OK)])
def test_H13_refusal_before_the_end_is_told_in_several_ways(told: tuple[bytes, ...]) -> None:
    """EDK2 measures a refusal without its request; others measure one request for both answers."""
    log = Log()
    log.records[-2:] = [event(5, EFI_ACTION, text) for text in told]
    assert verify(log).exit_boot_services


def test_H13_nothing_is_measured_between_a_request_and_its_answer() -> None:
    log = Log()
    log.insert(-1, event(4, IPL, b"loader"))
    assert refused(log) == "log.event_after_ebs"
    log.insert(-2, event(5, EFI_ACTION, EXIT_FAILED))
    assert verify(log).exit_boot_services


UNLOGGED_ENDS = (
    (EXIT, EXIT_OK),
    (EXIT_FAILED, EXIT, EXIT_OK),
    (EXIT, EXIT_FAILED, EXIT_OK),
    (EXIT, EXIT_FAILED, EXIT, EXIT_OK),
)


@pytest.mark.parametrize("bank", ["sha1", "sha256"])
@pytest.mark.parametrize("texts", UNLOGGED_ENDS)
def test_H13_end_that_the_log_leaves_out_is_read_from_the_pcr_where_that_is_allowed(
    texts: tuple[bytes, ...], bank: str
) -> None:
    """An operating system that does not read the table of final events has a log without the last events."""
    log, whole = Log(), Log()
    whole.records[-2:] = [event(5, EFI_ACTION, text) for text in texts]
    del log.records[-2:]
    with pytest.raises(RejectedError, match=r"log\.replay_mismatch"):
        verify_event_log(parse_event_log(log.data()), bank=bank, pcrs=whole.pcrs(bank))
    parsed = parse_event_log(log.data(), quirks=frozenset({Quirk.EXIT_NOT_LOGGED}))
    verified = verify_event_log(parsed, bank=bank, pcrs=whole.pcrs(bank))
    assert verified.exit_boot_services
    assert verified.quirks_used == {Quirk.EXIT_NOT_LOGGED}
    assert [item.data for item in verified.log.events[-len(texts) :]] == list(texts)
    assert verified.log.replay("sha256") == parse_event_log(whole.data()).replay("sha256")


def test_H13_end_is_made_up_for_no_other_value() -> None:
    quirks = frozenset({Quirk.EXIT_NOT_LOGGED})
    log, more, untold = Log(), Log(), Log()
    more.records.append(event(5, IPL, b"more"))
    with pytest.raises(RejectedError, match=r"log\.replay_mismatch"):
        verify_event_log(parse_event_log(log.data(), quirks=quirks), bank="sha256", pcrs=more.pcrs())
    # A log that tells of the end is taken at its word: what follows is not a second one.
    more.records[-1:] = [event(5, EFI_ACTION, EXIT), event(5, EFI_ACTION, EXIT_OK)]
    with pytest.raises(RejectedError, match=r"log\.replay_mismatch"):
        verify_event_log(parse_event_log(log.data(), quirks=quirks), bank="sha256", pcrs=more.pcrs())
    # One that stops early under a PCR that stops there too does not say that boot services ended.
    del untold.records[-2:]
    with pytest.raises(RejectedError, match=r"log\.ebs_missing"):
        verify_event_log(parse_event_log(untold.data(), quirks=quirks), bank="sha256", pcrs=untold.pcrs())


def test_H8_separator_of_ones_is_accepted_where_the_rules_say_so() -> None:
    log = Log()
    for index, record in enumerate(log.records):
        if record.kind == SEPARATOR:
            log.change(index, data=b"\xff" * 4, measured=b"\xff" * 4)
    assert refused(log) == "log.separator_invalid"
    assert verify(log, separator_ones=True).exit_boot_services
    log.change(log.find(3, SEPARATOR), data=b"\x01\x00\x00\x00", measured=b"\x01\x00\x00\x00")
    assert refused(log, separator_ones=True) == "log.separator_invalid"


def test_H13_event_told_after_the_end_counts_and_is_told() -> None:
    """Nothing proves that it happened later: who hides a file or a command line tells it last."""
    log = Log()
    log.records.append(event(8, IPL, b"kernel_cmdline: /other\x00", b"/other"))
    log.records.append(event(9, IPL, b"/initrd\x00", b"another initrd"))
    verified = verify(log)
    assert verified.claims.kernel_command_lines == ("/vmlinuz ro", "/other")
    assert len(verified.claims.loader_files) == 2
    assert FindingCode.AFTER_EXIT_BOOT_SERVICES in {finding.code for finding in verified.findings}


# H6: the type of an event is not measured, nor is data that its digest does not cover. Nothing may hide behind them.

EVENT_TAG, COMPACT_HASH, PARTITION_DATA, OMITTED, DRIVER = 6, 0x0C, 0x0E, 0x12, 0x80000004
SPDM_POLICY, SPDM_AUTHORITY = 0x800000E3, 0x800000E4
DEVICES = bytes.fromhex("f4b4c2b95fbf2d468adfc5c70ac35dad")
HIDDEN = b"MZ\x90\x00 what was really started"


@pytest.mark.parametrize("data", [b"", b"a remark", HIDDEN])
@pytest.mark.parametrize("kind", [EVENT_TAG, COMPACT_HASH, IPL, PARTITION_DATA, OMITTED, DRIVER, APPLICATION])
def test_H6_image_is_an_image_under_every_type(kind: int, data: bytes) -> None:
    log = Log()
    hidden = event(4, kind, data, HIDDEN)
    log.insert(-2, hidden)
    assert hidden.digest("sha256") in verify(log).claims.applications
    assert hidden.digest("sha256").hex() in boot_reference(verify(log)).images


@pytest.mark.parametrize("kind", [EFI_ACTION, ACTION])
def test_H6_image_is_no_action(kind: int) -> None:
    log = Log()
    log.insert(-2, event(4, kind, HIDDEN))
    assert refused(log) == "log.unknown_event_type"
    log.change(-3, data=b"Returning from EFI Application from Boot Option", measured=None)
    log.change(-3, measured=log.records[-3].data)
    assert len(verify(log).claims.applications) == 1


@pytest.mark.parametrize("data", [b"/initrd\x00", HIDDEN, HIDDEN + b"\x00", b"grub_cmd: " + HIDDEN])
@pytest.mark.parametrize("kind", [EVENT_TAG, COMPACT_HASH, IPL, APPLICATION, VAR_BOOT, SEPARATOR, EFI_ACTION])
def test_H6_file_is_a_file_under_every_type(kind: int, data: bytes) -> None:
    log = Log()
    hidden = event(9, kind, data, HIDDEN)
    log.insert(-2, hidden)
    try:
        verified = verify(log)
    except EvidenceError:  # data that is not what was measured, of a type that says it is
        assert kind in (VAR_BOOT, SEPARATOR, EFI_ACTION) or data.startswith(b"grub_cmd")
        return
    assert hidden.digest("sha256") in verified.claims.loader_files
    assert hidden.digest("sha256").hex() in boot_reference(verified).files


TOLD = b"linux /vmlinuz init=/bin/sh"


@pytest.mark.parametrize("pcr", [8, 12])
@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (IPL, b"another\x00"),
        (IPL, b""),
        (COMPACT_HASH, TOLD),
        (COMPACT_HASH, b""),
        (EVENT_TAG, TOLD),
        (EVENT_TAG, struct.pack("<II", 1, len(TOLD)) + TOLD),
        (APPLICATION, TOLD),
        (EFI_ACTION, TOLD),
        (SEPARATOR, TOLD),
    ],
)
def test_H6_command_is_told_or_stands_for_itself(pcr: int, kind: int, data: bytes) -> None:
    log = Log()
    hidden = event(pcr, kind, data, TOLD)
    log.insert(-2, hidden)
    verified = verify(log)
    assert verified.claims.unread == (hidden.digest("sha256"),)
    assert f"sha256:{hidden.digest('sha256').hex()}" in boot_reference(verified).texts


def test_H6_separator_of_the_loader_tells_nothing() -> None:
    log = Log()
    log.insert(-2, event(12, SEPARATOR, bytes(4)), event(8, SEPARATOR, b"boot"))
    assert verify(log).claims.unread == (log.records[-3].digest("sha256"),)


@pytest.mark.parametrize("pcr", [9, 12])
@pytest.mark.parametrize("whole", [False, True])
def test_load_options_of_a_stub_are_a_command_line(pcr: int, whole: bool) -> None:
    options = "root=/dev/vda quiet\x00".encode("utf-16-le")
    tag = struct.pack("<II", 0x8F3B22ED, len(options)) + options
    log = Log()
    log.insert(-2, event(pcr, EVENT_TAG, tag, tag if whole else options))
    claims = verify(log).claims
    assert claims.kernel_command_lines == ("/vmlinuz ro", "root=/dev/vda quiet")
    assert not claims.unread
    assert len(claims.loader_files) == (2 if pcr == 9 else 1)


@pytest.mark.parametrize("kind", [SPDM_POLICY, SPDM_AUTHORITY])
def test_H11_authority_is_no_authority_for_devices(kind: int) -> None:
    """Else an image that a key of the attacker vouched for would be hidden among cards and disks."""
    honest = variable(DEVICES, "devdb", OWNER + CERTIFICATE)
    shim = variable(bytes(16), "Shim", b"another key")
    log = Log()
    log.insert(-2, event(7, kind, honest))
    assert len(verify(log).secure_boot_state.authorities_after) == 1
    for data, measured in (
        (shim, shim),
        (variable(DEVICES, "devdb", shim), shim),
        (variable(DEVICES, "db", shim), variable(DEVICES, "db", shim)),
        (variable(bytes(16), "devdb", shim), variable(bytes(16), "devdb", shim)),
        (honest + b"\x00", honest + b"\x00"),
        (honest, shim),
    ):
        assert refused(log.change(-3, data=data, measured=measured)) == "log.variable"


def test_H13_second_boot_attempt_is_refused() -> None:
    log = Log()
    log.insert(-2, event(4, EFI_ACTION, CALLING))
    assert refused(log) == "log.dup_action"
    verify(log, boot_attempts=2)


def database(value: bytes) -> Log:
    log = Log()
    data = variable(DATABASE, "dbx", value)
    return log.change(log.find(7, VAR_DRIVER, "dbx".encode("utf-16-le")), data=data, measured=data)


def test_H14_hash_hidden_in_a_signature_header_is_refused() -> None:
    """The header has the size of an entry, so that the sizes add up for a reader that takes it for one."""
    assert refused(database(signature_list(SHA256, [bytes(32)], header=OWNER + b"\x66" * 32))) == "log.siglist"
    hidden = SHA256 + struct.pack("<III", 28 + 48, 0, 48) + OWNER + bytes(32)
    assert refused(database(signature_list(X509, [CERTIFICATE], header=hidden))) == "log.siglist"


@pytest.mark.parametrize("kind", [SHA256, X509, OWNER])
def test_H14_any_signature_header_is_refused(kind: bytes) -> None:
    assert refused(database(signature_list(kind, [bytes(32)], header=b"\x00"))) == "log.siglist"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(signature_list(SHA256, [bytes(32)], each=0xFFFFFFF0), id="huge_signature"),
        pytest.param(signature_list(SHA256, [bytes(32)], size=0xFFFFFFFF), id="huge_list"),
        pytest.param(signature_list(SHA256, [bytes(32)], size=27), id="underflow"),
        pytest.param(signature_list(SHA256, [bytes(32)], size=0), id="zero_list"),
        pytest.param(signature_list(OWNER, [bytes(32)], each=16), id="no_signature"),
        pytest.param(X509 + struct.pack("<III", 28, 0, 0), id="zero_signature"),
        pytest.param(signature_list(SHA256, [bytes(31)]), id="short_hash"),
        pytest.param(signature_list(SHA256, [bytes(48)]), id="long_hash"),
        pytest.param(signature_list(SHA256, [bytes(32)]) + b"\x00", id="trailing"),
        pytest.param(signature_list(SHA256, [bytes(32)])[:-1], id="cut"),
        pytest.param(b"\x00" * 27, id="short"),
    ],
)
def test_H15_signature_list_that_lies_about_sizes_is_refused(value: bytes) -> None:
    log = database(value)
    with at_most(0.1):
        assert refused(log) == "log.siglist"


def test_H16_J9_true_bank_does_not_vouch_for_another() -> None:
    """The SHA-1 digests are the machine's, the SHA-256 digests are a lie: each bank is judged alone."""
    honest, lie = Log(), Log()
    index = lie.find(4, APPLICATION)
    lie.change(index, measured=b"another image")
    true_sha1 = honest.records[index].digest("sha1")
    data = lie.data().replace(lie.records[index].digest("sha1"), true_sha1)
    log = parse_event_log(data)
    verify_event_log(log, bank="sha1", pcrs=honest.pcrs("sha1"))
    with pytest.raises(RejectedError, match=r"log\.replay_mismatch"):
        verify_event_log(log, bank="sha256", pcrs=honest.pcrs("sha256"))


def test_H17_two_digests_of_one_bank_are_refused() -> None:
    log = Log()
    record = log.encode(log.records[0])
    twice = record[:12] + record[34:68] + record[34:68] + record[68:]
    assert unparsed(log.data().replace(record, twice)) == "log.malformed"


def test_H17_missing_digest_is_refused() -> None:
    log = Log()
    record = log.encode(log.records[0])
    lacking = record[:8] + struct.pack("<I", 1) + record[12:34] + record[68:]
    parsed = parse_event_log(log.data().replace(record, lacking))
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        verify_event_log(parsed, bank="sha256", pcrs=log.pcrs())


def test_H17_bank_the_log_does_not_have_is_refused() -> None:
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        verify_event_log(parse_event_log(Log().data()), bank="sha384", pcrs=Log().pcrs("sha384"))


def test_H18_sha1_log_is_refused_unless_allowed() -> None:
    log = Log()
    parsed = parse_event_log(log.data(legacy=True))
    assert parsed.format == "sha1"
    with pytest.raises(RejectedError, match=r"log\.format_legacy"):
        verify_event_log(parsed, bank="sha1", pcrs=log.pcrs("sha1"))
    verify_event_log(parsed, bank="sha1", pcrs=log.pcrs("sha1"), rules=EventLogRules(legacy_format=True))


@pytest.mark.parametrize("quirks", [frozenset(), frozenset(Quirk)], ids=["strict", "all_quirks"])
@pytest.mark.parametrize("pcr", [24, 1_000_000, 2**32 - 1])
def test_H19_pcr_that_does_not_exist_is_refused(pcr: int, quirks: frozenset[Quirk]) -> None:
    log = Log()
    log.insert(1, event(pcr, CRTM_VERSION, b"x"))
    for data in (log.data(), log.data(legacy=True)):
        with pytest.raises(MalformedError, match=r"log\.pcr_index"):
            parse_event_log(data, quirks=quirks)


@pytest.mark.parametrize(
    ("offset", "form", "value"),
    [
        pytest.param(32 + 16 + 8, "<I", 0xFFFFFFFF, id="algorithms"),
        pytest.param(32 + 16 + 8, "<I", 0, id="no_algorithms"),
        pytest.param(32 + 16 + 8, "<I", 3, id="one_algorithm_more"),
        pytest.param(32 + 16 + 12 + 2, "<H", 0xFFFF, id="digest_size"),
        pytest.param(32 + 16 + 12 + 2, "<H", 0, id="no_digest_size"),
        pytest.param(32 + 16 + 12, "<H", 0x0B, id="algorithm_twice"),
        pytest.param(32 + 16 + 12 + 8, "<B", 4, id="vendor_bytes"),
        pytest.param(32 + 16 + 5, "<B", 1, id="version"),
        pytest.param(28, "<I", 0xFFFFFFFF, id="spec_id_size"),
        pytest.param(69 + 8, "<I", 0xFFFFFFFF, id="digest_count"),
        pytest.param(69 + 8, "<I", 0, id="no_digests"),
        pytest.param(69 + 8, "<I", 3, id="one_digest_more"),
        pytest.param(69 + 12, "<H", 0x27, id="undeclared_algorithm"),
        pytest.param(69 + 12 + 22 + 34, "<I", 0xFFFFFFFF, id="event_size"),
    ],
)
def test_H20_count_or_size_that_lies_is_refused(offset: int, form: str, value: int) -> None:
    data = bytearray(Log().data())
    struct.pack_into(form, data, offset, value)
    assert unparsed(bytes(data)) == "log.malformed"


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("tail", [bytes(1), bytes(40), bytes(512), b"\xff", b"\xff" * 40, b"\xff" * 512])
def test_H21_padding_is_refused(tail: bytes, legacy: bool) -> None:
    assert unparsed(Log().data(legacy=legacy, tail=tail)) in ("log.malformed", "log.pcr_index")


@pytest.mark.parametrize("size", [1, 31, 32, 500])
def test_H21_log_of_padding_only_is_refused(size: int) -> None:
    for byte in (b"\x00", b"\xff"):
        assert unparsed(byte * size) in ("log.malformed", "log.pcr_index")


def test_H22_every_truncation_is_refused_or_does_not_replay() -> None:
    log = Log()
    data, honest = log.data(), log.pcrs()
    for size in range(1, len(data)):
        with pytest.raises(EvidenceError):
            verify_event_log(parse_event_log(data[:size]), bank="sha256", pcrs=honest)


def test_H22_large_log_is_refused() -> None:
    log = Log()
    log.insert(1, event(1, 0x0A, bytes(300_000)))
    assert refused(log) == "log.too_large"


def test_H22_log_of_many_events_is_refused() -> None:
    log = Log()
    log.insert(1, *[event(1, 0x0A, b"x")] * 4000)
    assert refused(log, max_bytes=1 << 20, max_events=4000) == "log.too_large"
    verify(log, max_bytes=1 << 20, max_events=4096)


def test_H22_parser_has_limits_of_its_own() -> None:
    assert unparsed(bytes((1 << 20) + 1)) == "log.too_large"
    assert unparsed(Log(banks=("sha1",), records=[event(1, 0x0A, b"")] * 9000).data()) == "log.too_large"


def test_H23_order_across_pcrs_is_not_authenticated_and_not_relied_on() -> None:
    log = Log()
    log.records.insert(log.find(4, APPLICATION), log.records.pop(log.find(9, IPL)))
    assert verify(log).claims == verify(Log()).claims


@pytest.mark.parametrize(
    ("text", "option"), [(b"UEFI Debug Mode", "debugger"), (b"DMA Protection Disabled", "dma_unprotected")]
)
@pytest.mark.parametrize("closing", [b"", b"\x00"])
def test_H24_debugger_and_open_dma_are_refused(text: bytes, option: str, closing: bytes) -> None:
    log = Log()
    log.insert(1, event(7, EFI_ACTION, text + closing))
    assert refused(log) == "log.uefi_debugger"
    rules: dict[str, Any] = {option: True}
    verify(log, **rules)


def test_H24_unknown_action_in_pcr_7_is_refused() -> None:
    log = Log()
    log.insert(1, event(7, EFI_ACTION, b"anything else"))
    assert refused(log) == "log.unknown_event_type"


def test_H25_another_boot_with_the_same_log_is_refused() -> None:
    """After a reset into another kernel the PCRs differ, and the log that was judged once no longer explains them."""
    before, after = Log(), Log()
    after.change(after.find(9, IPL), measured=b"the image of another kernel")
    verify(before)
    assert refused(before, after.pcrs()) == "log.replay_mismatch"
    assert verify(after).claims.loader_files != verify(before).claims.loader_files


def test_H26_log_of_an_earlier_boot_is_refused() -> None:
    earlier, now = Log(), Log()
    now.insert(-2, event(8, IPL, b"grub_cmd: boot\x00", b"boot"))
    assert refused(earlier, now.pcrs()) == "log.replay_mismatch"
