"""Parsing, replay and the logs of real machines, each held to what its own project expects of it."""

import base64
import json
import struct
import time

import pytest

from tests.support import corpus
from tests.support.eventlog_builder import CRTM_VERSION, IPL, NO_ACTION, Log, event, spec_id
from tests.support.judged import check_evidence
from tpm.errors import MalformedError, RejectedError
from tpm.eventlog import (
    MAX_EVENTS,
    Event,
    EventLog,
    EventLogRules,
    Quirk,
    append_events,
    decode,
    parse_event,
    parse_event_log,
    parse_spec_id,
    verify_event_log,
)
from tpm.reasons import EvidenceReason

EVERY_QUIRK = frozenset(Quirk)
# Other projects accept machines without Secure Boot, logs cut short and SHA-1 logs.
LENIENT = EventLogRules(secure_boot=False, exit_boot_services=False, separators=False, legacy_format=True)


def load(entry: corpus.Entry) -> bytes:
    """The log of a corpus entry: a file, base64 of one, or one item of a file of vectors."""
    data = corpus.read("evidence", entry["file"])
    if "pointer" not in entry:
        return base64.b64decode(data) if entry["format"].startswith("base64") else data
    item = json.loads(data)[entry["pointer"]]
    return bytes.fromhex(item["hex"]) if "hex" in item else base64.b64decode(item["base64"])


@pytest.mark.parametrize(
    "entry",
    [
        parameter
        for kind in ("tpm_event_log", "tpm_event_log_fragment", "spec_id_event_data", "negative_case")
        for parameter in corpus.entries("evidence", kind)
    ],
)
def test_corpus_log_is_what_its_origin_expects(entry: corpus.Entry) -> None:
    """Whether it parses, what it replays to, which PCRs it explains, what it claims: all that an origin asserts."""
    check_evidence(entry)


@pytest.mark.parametrize("entry", corpus.entries("evidence", "tpm_event_log"))
def test_corpus_log_decodes_but_for_what_firmware_spoilt(entry: corpus.Entry) -> None:
    """Every event of every real log has typed content; the refusals are counted, so that none creeps in."""
    if (entry["expected"] or {}).get("parse") == "error" or (entry["expected"] or {}).get("mb_policy") == "invalid":
        pytest.skip("no log")
    log = parse_event_log(load(entry), quirks=EVERY_QUIRK)
    refusals = []
    for item in log.events:
        try:
            decode(item)
        except MalformedError as error:
            refusals.append((item.number, str(error)))
    assert not refusals


def test_events_keep_order_number_and_bytes() -> None:
    log = Log()
    parsed = parse_event_log(log.data())
    assert parsed.format == "crypto-agile"
    assert parsed.banks == ("sha1", "sha256")
    assert parsed.size == len(log.data())
    assert [item.number for item in parsed.events] == list(range(len(log.records) + 1))
    for item, record in zip(parsed.events[1:], log.records, strict=True):
        assert (item.pcr, item.type, item.data) == (record.pcr, record.kind, record.data)
        assert item.digests == {"sha1": record.digest("sha1"), "sha256": record.digest("sha256")}


@pytest.mark.parametrize("bank", ["sha1", "sha256", "sha384", "sha512"])
def test_replay_follows_the_rule_of_the_tpm_in_every_bank(bank: str) -> None:
    log = Log(banks=("sha1", "sha256", "sha384", "sha512"))
    values = parse_event_log(log.data()).replay(bank)
    expected = log.pcrs(bank)
    assert values == {pcr: expected[pcr] for pcr in values}
    assert set(values) == {0, 1, 2, 3, 4, 5, 6, 7, 8, 9}


def test_replay_of_a_sha1_log() -> None:
    log = Log()
    parsed = parse_event_log(log.data(legacy=True))
    expected = log.pcrs("sha1")
    values = parsed.replay("sha1")
    assert values == {pcr: expected[pcr] for pcr in values}
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        parsed.replay("sha256")


@pytest.mark.parametrize("bank", ["sha384", "sm3", "", "md5"])
def test_replay_of_a_bank_that_is_not_there_is_refused(bank: str) -> None:
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        parse_event_log(Log().data()).replay(bank)


def test_a_bank_nobody_here_can_compute_is_carried_along() -> None:
    """A log with SM3 beside SHA-256 is read, and replayed in the bank that can be computed."""
    header = b"Spec ID Event03\x00" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, 2)
    header += struct.pack("<HHHH", 0x12, 32, 0x0B, 32) + b"\x00"
    first = struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(header)) + header
    second = struct.pack("<IIIH32sH32sI", 4, IPL, 2, 0x12, b"\x01" * 32, 0x0B, b"\x02" * 32, 1) + b"x"
    log = parse_event_log(first + second)
    assert log.banks == ("alg-0012", "sha256")
    assert set(log.replay("sha256")) == {4}
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        log.replay("alg-0012")


def test_digests_in_another_order_than_declared_are_read() -> None:
    log = Log()
    record = log.encode(log.records[0])
    swapped = record[:12] + record[34:68] + record[12:34] + record[68:]
    parsed = parse_event_log(log.data().replace(record, swapped))
    assert parsed.replay("sha256") == parse_event_log(log.data()).replay("sha256")


def test_an_event_without_a_declared_digest_is_read_and_has_no_replay_in_that_bank() -> None:
    log = Log()
    record = log.encode(log.records[0])
    lacking = record[:8] + struct.pack("<I", 1) + record[12:34] + record[68:]
    parsed = parse_event_log(log.data().replace(record, lacking))
    assert parsed.replay("sha1") == parse_event_log(log.data()).replay("sha1")
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        parsed.replay("sha256")


def test_locality_other_than_zero_starts_pcr_0_elsewhere() -> None:
    log = Log(locality=3)
    log.insert(0, event(0, NO_ACTION, b"StartupLocality\x00\x03"))
    assert parse_event_log(log.data()).replay("sha256")[0] == log.pcrs()[0]
    assert parse_event_log(log.data()).replay("sha256")[0] != parse_event_log(Log().data()).replay("sha256")[0]


def test_type_names() -> None:
    assert parse_event_log(Log().data()).events[0].type_name == "EV_NO_ACTION"
    assert Event(0, 0, 0x80000001, {}, b"").type_name == "EV_EFI_VARIABLE_DRIVER_CONFIG"
    assert Event(0, 0, 0x12345678, {}, b"").type_name == "0x12345678"


def test_decoding_happens_once() -> None:
    item = parse_event_log(Log().data()).events[1]
    assert item.decoded is None
    assert decode(item) is decode(item)


def test_equal_events_are_equal_whether_decoded_or_not() -> None:
    first, second = parse_event_log(Log().data()), parse_event_log(Log().data())
    decode(first.events[1])
    assert first == second


def test_results_of_other_rules_are_other_results() -> None:
    """Rules are values: they can key a cache."""
    assert hash(EventLogRules()) == hash(EventLogRules())
    assert EventLogRules() != EventLogRules(secure_boot=False)


# Quirks: each defect is refused without its quirk, and accepted and told with it.


def accepted_only_with(quirk: Quirk, data: bytes, reason: EvidenceReason) -> EventLog:
    for quirks in (frozenset(), EVERY_QUIRK - {quirk}):
        with pytest.raises(MalformedError) as caught:
            parse_event_log(data, quirks=quirks)
        assert caught.value.reason is reason
    log = parse_event_log(data, quirks=frozenset({quirk}))
    assert log.quirks_used == {quirk}
    return log


def test_quirk_padding_of_ones() -> None:
    honest = Log().data()
    log = accepted_only_with(Quirk.FF_PADDING, honest + b"\xff" * 100, EvidenceReason.LOG_MALFORMED)
    assert log.events == parse_event_log(honest).events


def test_quirk_padding_of_ones_ends_the_log() -> None:
    with pytest.raises(MalformedError):
        parse_event_log(Log().data() + b"\xff" * 100 + b"\x00", quirks=EVERY_QUIRK)


def test_quirk_event_without_a_pcr() -> None:
    log = Log()
    log.records.append(event(0xFFFFFFFF, NO_ACTION, b"a trust point", b"anything"))
    parsed = accepted_only_with(Quirk.NO_ACTION_WITHOUT_PCR, log.data(), EvidenceReason.LOG_PCR_INDEX)
    verified = verify_event_log(parsed, bank="sha256", pcrs=log.pcrs())
    assert verified.quirks_used == {Quirk.NO_ACTION_WITHOUT_PCR}


def test_quirks_of_padding_and_of_events_without_a_pcr_do_not_cost_more_together() -> None:
    """Each such event begins like padding; looking at all that follows each of them took fifty times as long."""

    def cost(quirks: frozenset[Quirk]) -> float:
        started = time.process_time()
        assert len(parse_event_log(data, quirks=quirks).events) == MAX_EVENTS
        return time.process_time() - started

    record = struct.pack("<II20sI", 0xFFFFFFFF, NO_ACTION, bytes(20), 90) + bytes(90)
    data = record * MAX_EVENTS
    alone = min(cost(EVERY_QUIRK - {Quirk.FF_PADDING}) for _ in range(5))
    assert min(cost(EVERY_QUIRK) for _ in range(5)) < 10 * alone
    assert len(parse_event_log(record + b"\xff" * 7, quirks=EVERY_QUIRK).events) == 1


def test_quirk_vendor_bytes_outside_the_event() -> None:
    body = spec_id(("sha1", "sha256"), vendor=b"\xde\xad")
    first = struct.pack("<II20sI", 0, NO_ACTION, bytes(20), len(body) - 2) + body
    data = first + b"".join(Log().encode(record) for record in Log().records)
    log = accepted_only_with(Quirk.SPEC_ID_VENDOR_SIZE, data, EvidenceReason.LOG_MALFORMED)
    assert log.spec_id is not None
    assert log.spec_id.vendor_info == b"\xde\xad"
    assert log.replay("sha256") == parse_event_log(Log().data()).replay("sha256")


def test_quirk_spec_id_in_a_register() -> None:
    data = Log().data()
    log = accepted_only_with(Quirk.SPEC_ID_REGISTER, b"\x01" + data[1:], EvidenceReason.LOG_MALFORMED)
    assert log.replay("sha256") == parse_event_log(data).replay("sha256")
    for wrong in (b"\x18" + data[1:], b"\x01" + data[1:8] + b"\x01" + data[9:]):
        with pytest.raises(MalformedError, match=r"log\.malformed"):
            parse_event_log(wrong, quirks=EVERY_QUIRK)


def test_quirk_spec_id_without_version() -> None:
    data = Log().data().replace(b"Spec ID Event03\x00", b"Spec ID Event\x00\x00\x00", 1)
    log = accepted_only_with(Quirk.SPEC_ID_UNVERSIONED, data, EvidenceReason.LOG_MALFORMED)
    assert log.banks == ("sha1", "sha256")


@pytest.mark.parametrize("pcr", [0, 1, 2, 3, 6])
def test_quirk_types_of_a_maker(pcr: int) -> None:
    log = Log()
    log.insert(-2, event(pcr, 0x8401, b"\x01"))
    with pytest.raises(RejectedError, match=r"log\.unknown_event_type"):
        verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs())
    quirk = Quirk.VENDOR_EVENT_TYPE
    verified = verify_event_log(parse_event_log(log.data(), quirks=frozenset({quirk})), bank="sha256", pcrs=log.pcrs())
    assert verified.quirks_used == {quirk}


@pytest.mark.parametrize(("pcr", "kind"), [(4, 0x8401), (5, 0x8401), (7, 0x8401), (8, 0x8401), (2, 2), (2, 0x0D)])
def test_quirk_types_of_a_maker_are_nowhere_else(pcr: int, kind: int) -> None:
    """Known types keep to their PCRs, and loaders, partitions and keys have no types of a maker."""
    log = Log()
    log.insert(-2, event(pcr, kind, b"\x01"))
    with pytest.raises(RejectedError, match=r"log\.unknown_event_type"):
        verify_event_log(parse_event_log(log.data(), quirks=EVERY_QUIRK), bank="sha256", pcrs=log.pcrs())


def test_quirk_authority_repeated() -> None:
    log = Log()
    index = log.find(7, 0x800000E0)
    log.insert(index, log.records[index])
    used = {Quirk.AUTHORITY_REPEATED}
    parsed = parse_event_log(log.data(), quirks=frozenset(used))
    verified = verify_event_log(parsed, bank="sha256", pcrs=log.pcrs())
    assert verified.quirks_used == used
    assert len(verified.secure_boot_state.authorities_after) == 2


def test_quirk_authority_before_the_separator() -> None:
    log = Log()
    log.insert(log.find(7, 4), log.records.pop(log.find(7, 0x800000E0)))
    used = {Quirk.AUTHORITY_BEFORE_SEPARATOR}
    parsed = parse_event_log(log.data(), quirks=frozenset(used))
    verified = verify_event_log(parsed, bank="sha256", pcrs=log.pcrs())
    assert verified.quirks_used == used
    assert len(verified.secure_boot_state.authorities_before) == 1


@pytest.mark.parametrize(
    ("trailing", "accepted"), [(b"\xaf", True), (b"\x00\x00\x00\x00\x00\xaf", True), (bytes(9), False)]
)
def test_quirk_authority_with_trailing_bytes(trailing: bytes, accepted: bool) -> None:
    log = Log()
    index = log.find(7, 0x800000E0)
    data = log.records[index].data + trailing
    log.change(index, data=data, measured=data[:-1])
    parsed = parse_event_log(log.data(), quirks=EVERY_QUIRK)
    if accepted:
        verified = verify_event_log(parsed, bank="sha256", pcrs=log.pcrs())
        assert verified.quirks_used == {Quirk.AUTHORITY_TRAILING_BYTES}
    else:
        with pytest.raises(RejectedError, match=r"log\.digest_data_mismatch"):
            verify_event_log(parsed, bank="sha256", pcrs=log.pcrs())
    with pytest.raises(RejectedError, match=r"log\.digest_data_mismatch"):
        verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs())


def test_quirks_that_were_not_needed_are_not_told() -> None:
    parsed = parse_event_log(Log().data(), quirks=EVERY_QUIRK)
    assert not verify_event_log(parsed, bank="sha256", pcrs=Log().pcrs()).quirks_used


# Verification beyond the attacks of tests/adversarial/test_eventlog.py.


def test_only_quoted_pcrs_are_judged_and_believed() -> None:
    log = Log()
    log.change(log.find(0, CRTM_VERSION), measured=b"something else")
    log.insert(-2, event(8, IPL, b"kernel_cmdline: evil\x00", b"not evil"))
    quoted = {pcr: value for pcr, value in log.pcrs().items() if pcr in (4, 5, 7)}
    verified = verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=quoted)
    assert verified.claims.kernel_command_lines == ()
    assert verified.claims.crtm_version is None
    assert all(verified.log.events[number].pcr in quoted for number in verified.coverage)
    assert {finding.detail.split("PCR ")[1].split()[0] for finding in verified.findings if "quote" in finding.detail} == {
        "0", "1", "2", "3", "6", "8", "9",
    }  # fmt: skip


@pytest.mark.parametrize("pcrs", [{24: bytes(32)}, {-1: bytes(32)}, {4: bytes(20)}, {4: b""}])
def test_impossible_pcr_values_are_refused(pcrs: dict[int, bytes]) -> None:
    with pytest.raises(RejectedError, match=r"pcr\.malformed"):
        verify_event_log(parse_event_log(Log().data()), bank="sha256", pcrs=pcrs)


def test_claims_of_an_honest_boot() -> None:
    log = Log()
    verified = verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs())
    claims = verified.claims
    assert claims.crtm_version == "v1"
    assert claims.applications == (log.records[log.find(4, 0x80000003)].digest("sha256"),)
    assert claims.boot_order == (2, 1)
    assert claims.grub_commands == ("linux /vmlinuz ro",)
    assert claims.kernel_command_lines == ("/vmlinuz ro",)
    assert claims.loader_files == (log.records[log.find(9, IPL)].digest("sha256"),)
    assert set(verified.secure_boot_state.databases) == {"PK", "KEK", "db", "dbx"}
    assert len(verified.secure_boot_state.databases["dbx"].hashes) == 2


def test_a_variable_with_two_values_has_none() -> None:
    log = Log()
    index = log.find(1, 0x80000002)
    second = log.records[index].data[:-4] + b"\x03\x00\x04\x00"
    for count in (1, 2):
        log.insert(index, event(1, 0x80000002, second))
        verified = verify_event_log(parse_event_log(log.data()), bank="sha256", pcrs=log.pcrs())
        assert verified.claims.boot_order is None, count


def test_events_of_the_cc_log_vectors_decode() -> None:
    """Confidential-computing logs carry the same events; their expected parse names the text of each."""
    folder = corpus.folder("evidence") / "trustee" / "ccel"
    codes = {"EV_EFI_PLATFORM_FIRMWARE_BLOB2": 0x8000000A, "EV_EFI_HANDOFF_TABLES2": 0x8000000B, "EV_IPL": 0x0D}
    for path in sorted(folder.glob("*_out.json")):
        for item in json.loads(path.read_text())["uefi_event_logs"]:
            if item["type_name"] not in codes:
                continue
            content = decode(Event(1, 1, codes[item["type_name"]], {}, base64.b64decode(item["event"])))
            text = str(item["details"]["string"])
            shown = str(getattr(content, "description", None) or getattr(content, "text", ""))
            assert shown in text
            assert shown


def test_log_of_a_windows_machine_explains_its_pcrs() -> None:
    """A log of the SHA-1 form with the PCR values of the machine it came from, both from one recorded attestation."""
    path = corpus.folder("evidence") / "go-attestation" / "windows_gcp_shielded_vm.json"
    if not path.exists():
        pytest.skip(f"no {path.name} in this corpus")
    recorded = json.loads(path.read_text())["Log"]
    sha1 = 3  # Go's number for the algorithm
    values = {item["Index"]: base64.b64decode(item["Digest"]) for item in recorded["PCRs"] if item["DigestAlg"] == sha1}
    log = parse_event_log(base64.b64decode(recorded["Raw"]))
    verified = verify_event_log(log, bank="sha1", pcrs=values, rules=LENIENT)
    assert verified.secure_boot is True
    assert {tag.name for tag in verified.claims.tags} >= {"trust_boundary"}
    values[7] = bytes(20)
    with pytest.raises(RejectedError, match=r"log\.replay_mismatch"):
        verify_event_log(log, bank="sha1", pcrs=values, rules=LENIENT)


def pairs(*algorithms: tuple[int, int]) -> bytes:
    head = b"Spec ID Event03\x00" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(algorithms))
    return head + b"".join(struct.pack("<HH", *pair) for pair in algorithms) + b"\x00"


def test_spec_id_declares_banks_in_order() -> None:
    assert parse_spec_id(pairs((0x0B, 32), (4, 20), (0x99, 28))).algorithms == ((0x0B, 32), (4, 20), (0x99, 28))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(pairs(), id="no_algorithm"),
        pytest.param(pairs(*((number, 32) for number in range(0x50, 0x59))), id="too_many"),
        pytest.param(pairs((0x0B, 32), (0x0B, 32)), id="twice"),
        pytest.param(pairs((0x0B, 20)), id="size_of_another"),
        pytest.param(pairs((0x99, 0)), id="no_size"),
        pytest.param(pairs((0x99, 65)), id="large_size"),
        pytest.param(pairs((0x0B, 32))[:-1], id="cut"),
        pytest.param(pairs((0x0B, 32)) + b"\x00", id="trailing"),
        pytest.param(pairs((0x0B, 32))[:20], id="short"),
    ],
)
def test_spec_id_that_cannot_be_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        parse_spec_id(data)


@pytest.mark.parametrize(("offset", "value"), [(0, 1), (8, 1), (27, 1)])
def test_spec_id_event_is_in_pcr_0_with_no_digest(offset: int, value: int) -> None:
    data = bytearray(Log().data())
    data[offset] = value
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        parse_event_log(bytes(data))


def test_spec_id_event_ends_inside_the_log() -> None:
    data = bytearray(Log(records=[]).data())
    data[28] += 1
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        parse_event_log(bytes(data))


@pytest.mark.parametrize("count", [0, 2])
def test_one_record_is_one_record(count: int) -> None:
    log = Log(banks=("sha256",))
    one = log.encode(log.records[0])
    assert parse_event(one).data == log.records[0].data
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        parse_event(one * count)


def test_logs_without_a_common_bank_are_not_joined() -> None:
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        append_events(parse_event_log(Log(banks=("sha1",)).data()), parse_event_log(Log(banks=("sha256",)).data()))


def test_a_log_without_events_has_no_replay_in_a_bank_it_does_not_have() -> None:
    log = parse_event_log(Log(records=[]).data())
    assert log.replay("sha256") == {}
    with pytest.raises(RejectedError, match=r"log\.bank_missing"):
        log.replay("sha384")


@pytest.mark.parametrize("version", [b"00", b"02"])
def test_a_log_of_tpm_1_2_is_of_the_sha1_form(version: bytes) -> None:
    log = Log()
    log.insert(0, event(0, NO_ACTION, b"Spec ID Event" + version + b"\x00" + bytes(8)))
    parsed = parse_event_log(log.data(legacy=True))
    assert parsed.format == "sha1"
    assert len(parsed.events) == len(log.records)


def test_a_log_of_an_unknown_version_is_refused() -> None:
    log = Log()
    log.insert(0, event(0, NO_ACTION, b"Spec ID Event04\x00" + bytes(24)))
    with pytest.raises(MalformedError, match=r"log\.malformed"):
        parse_event_log(log.data(legacy=True))


def test_a_sha1_log_may_begin_with_any_informational_event() -> None:
    log = Log()
    log.insert(0, event(0, NO_ACTION, b"StartupLocality\x00\x00"))
    assert parse_event_log(log.data(legacy=True)).format == "sha1"


def test_only_measured_events_are_appended() -> None:
    base, extra = (
        Log(),
        Log(records=[event(0, NO_ACTION, b"SP800-155 Event3"), event(11, IPL, b"x"), event(12, IPL, b"y")]),
    )
    both = append_events(parse_event_log(base.data()), parse_event_log(extra.data()))
    assert [item.pcr for item in both.events[len(base.records) + 1 :]] == [11, 12]


def test_the_smallest_record_at_the_end_is_read() -> None:
    log = Log(records=[event(8, IPL, b"")])
    assert parse_event_log(log.data()).events[-1].data == b""
