"""What inspections report and refuse, through the command line as a person and a script use it."""

import base64
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.support.attestation import NONCE, VALUES, SoftwareAk, changed
from tests.support.endorsement import INTEL, crl, ek_certificate, ek_public, vendor
from tests.support.eventlog_builder import IPL, Log
from tests.support.ima_machine import Machine
from tpm.public import ObjectAttributes
from ztrooted.cli import main
from ztrooted.inspect import inspect_event_log
from ztrooted.inspect.plain import printable

Inspect = Callable[..., tuple[int, Any]]


@pytest.fixture
def inspect(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Inspect:
    """Run ``ztrooted inspect …``; gives the exit code, and what --json printed or the text."""

    def run(*words: object) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["ztrooted", "inspect", *map(str, words)])
        with pytest.raises(SystemExit) as exited:
            main.main()
        code = exited.value.code
        printed = capsys.readouterr()
        text = printed.out
        if "--json" in words and text.startswith("{"):
            return int(code or 0), json.loads(text)
        return int(code or 0), text + printed.err

    return run


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes | dict[str, Any]], Path]:
    def put(name: str, data: bytes | dict[str, Any]) -> Path:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else json.dumps(data).encode())
        return path

    return put


Write = Callable[[str, bytes | dict[str, Any]], Path]


def refused(outcome: tuple[int, Any], reason: str) -> None:
    code, told = outcome
    assert (code, set(told), told["error"]["reason"]) == (1, {"error"}, reason)
    assert set(told["error"]) == {"reason", "detail", "remedy"}
    assert all(isinstance(value, str) and value for value in told["error"].values())


# Event logs


def hexadecimal(values: dict[int, bytes]) -> dict[str, str]:
    return {str(index): value.hex() for index, value in values.items()}


def test_a_log_is_replayed_in_every_bank(inspect: Inspect, write: Write) -> None:
    log = Log(banks=("sha1", "sha256"))
    code, report = inspect("eventlog", write("log", log.data()), "--json")
    assert code == 0
    for bank in ("sha1", "sha256"):
        told = report["pcrs"][bank]
        assert told == {pcr: value for pcr, value in hexadecimal(log.pcrs(bank)).items() if pcr in told}
    assert not report["verified"]
    assert report["secure_boot"] is True
    assert len(report["events"]) == len(log.records) + 1
    assert {event["type"] for event in report["events"]} >= {"EV_SEPARATOR", "EV_EFI_VARIABLE_AUTHORITY"}


@pytest.mark.parametrize("nested", [lambda v: v, lambda v: {"sha256": v}, lambda v: {"pcrs": {"sha256": v}}])
def test_expected_pcrs_are_judged_in_every_form_they_come_in(inspect: Inspect, write: Write, nested: Any) -> None:
    log = Log()
    pcrs, file = hexadecimal(log.pcrs()), write("log", log.data())
    code, report = inspect("eventlog", file, "--pcrs", json.dumps(nested(pcrs)), "--json")
    assert (code, report["verified"], report["verified_banks"]) == (0, True, ["sha256"])
    code, report = inspect("eventlog", file, "--pcrs", write("pcrs.json", nested(pcrs)), "--json")
    assert (code, report["verified"]) == (0, True)
    pcrs["4"] = "00" * 32
    refused(inspect("eventlog", file, "--pcrs", json.dumps(nested(pcrs)), "--json"), "log.replay_mismatch")


def test_only_selected_pcrs_are_judged(inspect: Inspect, write: Write) -> None:
    log = Log()
    pcrs = json.dumps(hexadecimal(log.pcrs()) | {"10": "11" * 32})
    file = write("log", log.data())
    refused(inspect("eventlog", file, "--pcrs", pcrs, "--json"), "log.pcr_without_events")
    code, _ = inspect("eventlog", file, "--pcrs", pcrs, "--select", "0-9,14", "--json")
    assert code == 0


def test_a_bank_that_has_no_value_is_not_passed_over(inspect: Inspect, write: Write) -> None:
    log = Log(banks=("sha1", "sha256"))
    pcrs = json.dumps({"sha256": hexadecimal(log.pcrs())})
    refused(
        inspect("eventlog", write("log", log.data()), "--pcrs", pcrs, "--bank", "sha1", "--json"), "evidence.missing"
    )


def test_what_the_rules_refuse_is_a_finding_where_nothing_is_verified(inspect: Inspect, write: Write) -> None:
    log = Log()
    log.records = [record for record in log.records if b"Exit Boot" not in record.data]
    file, pcrs = write("log", log.data()), json.dumps(hexadecimal(log.pcrs()))
    code, report = inspect("eventlog", file, "--json")
    assert code == 0
    assert "log.ebs_missing" in [finding["reason"] for finding in report["findings"]]
    refused(inspect("eventlog", file, "--pcrs", pcrs, "--json"), "log.ebs_missing")
    code, report = inspect("eventlog", file, "--pcrs", pcrs, "--no-exit-boot-services", "--json")
    assert (code, report["exit_boot_services"]) == (0, False)


def test_quirks_are_named_when_reading_and_asked_for_when_verifying(inspect: Inspect, write: Write) -> None:
    log = Log()
    file, pcrs = write("log", log.data(tail=b"\xff" * 64)), json.dumps(hexadecimal(log.pcrs()))
    code, report = inspect("eventlog", file, "--json")
    assert (code, report["quirks_used"]) == (0, ["ff_padding"])
    assert {"reason": "log.quirk_ff_padding", "event": None, "detail": "tolerated in this log"} in report["findings"]
    code, told = inspect("eventlog", file, "--pcrs", pcrs, "--json")
    assert (code, told["error"]["reason"].partition(".")[0]) == (1, "log")
    code, report = inspect("eventlog", file, "--pcrs", pcrs, "--quirk", "ff_padding", "--json")
    assert (code, report["quirks_used"]) == (0, ["ff_padding"])


def test_a_log_that_does_not_parse_is_refused(inspect: Inspect, write: Write) -> None:
    refused(inspect("eventlog", write("log", Log().data()[:-1]), "--json"), "log.malformed")
    refused(inspect("eventlog", write("log", b""), "--json"), "log.empty")
    code, text = inspect("eventlog", write("log", b""))
    assert code == 1
    assert "log.empty" in text


def test_a_file_far_over_the_limit_is_not_read_to_its_end(inspect: Inspect, tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    refused(inspect("eventlog", path, "--json"), "log.too_large")
    refused(inspect("akpub", path, "--json"), "ak.malformed")
    refused(inspect("attest", path, "--json"), "attest.malformed")


def test_the_table_of_a_log_is_worth_reading(inspect: Inspect, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    code, text = inspect("eventlog", write("log", Log().data()))
    assert code == 0
    for word in ("SecureBoot: True", "/vmlinuz ro", "Exit Boot Services Returned with Success", "Read, not verified"):
        assert word in text


def test_evidence_cannot_write_to_the_terminal(inspect: Inspect, write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """Escape sequences and markup in measured text are shown, not obeyed."""
    monkeypatch.setenv("COLUMNS", "200")
    log = Log()
    log.change(log.find(8, IPL), data=b"kernel_cmdline: \x1b[31m/evil\x07[red]x\x00")
    _, text = inspect("eventlog", write("log", log.data()))
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "\\x1b[31m/evil" in text
    assert "[red]x" in text
    assert printable("a\u202eb\n\ud800") == "a\\u202eb\\n\\ud800"


def test_a_bank_nobody_can_compute_is_named() -> None:
    data = bytearray(Log(banks=("sha256",)).data())
    at = data.index(b"Spec ID Event03\0") + 28
    assert data[at : at + 2] == b"\x0b\0"
    rest = bytes(data).replace(b"\x0b\x00", b"\x99\x00")
    report = inspect_event_log(rest)
    assert report["pcrs"] == {}
    assert [finding["reason"] for finding in report["findings"]] == ["log.bank_unknown"]


# IMA


@pytest.mark.parametrize("form", ["ascii", "binary"])
def test_a_list_is_replayed_and_verified(inspect: Inspect, write: Write, form: str) -> None:
    machine = Machine().measure("/usr/bin/a", "/usr/bin/b")
    file = write("list", machine.ascii() if form == "ascii" else machine.binary())
    code, report = inspect("ima", file, "--json")
    assert (code, report["format"], report["verified"], report["count"]) == (0, form, False, 3)
    assert report["pcrs"] == {bank: {"10": value.hex()} for bank, value in machine.pcr10.items()}
    pcr10 = {bank: value.hex() for bank, value in machine.pcr10.items()}
    for words in (pcr10["sha256"], json.dumps(pcr10), json.dumps({"sha1": {"10": pcr10["sha1"]}})):
        code, report = inspect("ima", file, "--pcr10", words, "--format", form, "--json")
        assert (code, report["verified"], report["matched"], report["pending"]) == (0, True, 3, 0)
    wrong = json.dumps({**pcr10, "sha1": "11" * 20})
    refused(inspect("ima", file, "--pcr10", wrong, "--json"), "ima.replay_mismatch")
    assert inspect("ima", file, "--pcr10", wrong, "--bank", "sha256", "--json")[0] == 0


def test_banks_that_disagree_about_the_reach_of_the_quote_are_refused(inspect: Inspect, write: Write) -> None:
    machine = Machine().measure("/usr/bin/a")
    before = machine.pcr10["sha1"].hex()
    machine.measure("/usr/bin/b")
    told = json.dumps({"sha1": before, "sha256": machine.pcr10["sha256"].hex()})
    outcome = inspect("ima", write("list", machine.ascii()), "--pcr10", told, "--allow-pending", "--json")
    refused(outcome, "ima.replay_mismatch")


def test_entries_behind_the_quote_are_refused_unless_allowed(inspect: Inspect, write: Write) -> None:
    machine = Machine().measure("/usr/bin/a")
    pcr10 = machine.pcr10["sha256"].hex()
    file = write("list", machine.measure("/usr/bin/b").ascii())
    refused(inspect("ima", file, "--pcr10", pcr10, "--json"), "ima.unverified_tail")
    code, report = inspect("ima", file, "--pcr10", pcr10, "--allow-pending", "--json")
    assert (code, report["matched"], report["pending"]) == (0, 2, 1)


def test_a_later_round_goes_on_from_a_reported_state(inspect: Inspect, write: Write) -> None:
    machine = Machine().measure("/usr/bin/a")
    pcr10 = machine.pcr10["sha256"].hex()
    _, report = inspect("ima", write("list", machine.ascii()), "--pcr10", pcr10, "--json")
    machine.measure("/usr/bin/b")
    words = [
        "--state",
        json.dumps(report["state"]),
        "--offset",
        "2",
        "--pcr10",
        machine.pcr10["sha256"].hex(),
        "--json",
    ]
    code, report = inspect("ima", write("more", machine.ascii(2)), *words)
    assert (code, [entry["number"] for entry in report["entries"]]) == (0, [2])
    refused(inspect("ima", write("more", machine.ascii(1)), *words), "ima.replay_mismatch")


@pytest.mark.parametrize("form", ["mapping", "checksums", "policy"])
def test_what_may_be_measured_is_read_in_every_form(inspect: Inspect, write: Write, form: str) -> None:
    machine = Machine().measure("/usr/bin/a")
    lists = {
        "mapping": machine.allow,
        "policy": {"digests": machine.allow, "meta": {"version": 1}, "keyrings": {}},
        "checksums": "".join(f"{d[0].rpartition(':')[2]}  {path}\n" for path, d in machine.allow.items()).encode(),
    }
    allow, pcr10 = write("allow", lists[form]), machine.pcr10["sha256"].hex()  # type: ignore[arg-type]
    code, report = inspect("ima", write("list", machine.ascii()), "--pcr10", pcr10, "--allow", allow, "--json")
    assert (code, report["appraisal"]["listed"], report["findings"]) == (0, 2, [])
    machine.measure("/usr/bin/evil", allow=False)
    words = ["--pcr10", machine.pcr10["sha256"].hex(), "--allow", allow]
    refused(inspect("ima", write("list", machine.ascii()), *words, "--json"), "ima.not_allowed")
    code, text = inspect("ima", write("list", machine.ascii()), *words)
    assert code == 1
    assert "/usr/bin/evil" in text


def test_a_policy_with_an_unknown_member_is_wrong_usage(inspect: Inspect, write: Write) -> None:
    machine = Machine()
    allow = write("allow", {"digests": machine.allow, "deny": ["/tmp/**"]})
    assert inspect("ima", write("list", machine.ascii()), "--allow", allow, "--json")[0] == 2


def test_an_empty_list_is_refused(inspect: Inspect, write: Write) -> None:
    refused(inspect("ima", write("list", b""), "--json"), "ima.empty")


# Quotes, keys, attestations


def quote_words(write: Write, ak: SoftwareAk, key: bytes | None = None, **changes: str) -> list[object]:
    attest, signature = ak.quote()
    told = {
        "nonce": NONCE.hex(),
        "pcrs": json.dumps({"sha256": hexadecimal(VALUES["sha256"])}),
        "selection": "sha256:0-1,10",
        **changes,
    }
    files = {"attest": attest, "signature": signature, "ak": key or ak.public.marshal()}
    words = [word for name, data in files.items() for word in (f"--{name}", write(name, data))]
    return ["quote", *words, *(word for name, value in told.items() for word in (f"--{name.replace('_', '-')}", value))]


def keys_of(ak: SoftwareAk) -> dict[str, bytes]:
    return {
        "tpm2b": ak.public.marshal(),
        "tpmt": ak.public.marshal_tpmt(),
        "pem": ak.key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": ak.key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
    }


@pytest.mark.parametrize("form", ["tpm2b", "tpmt", "pem", "der"])
@pytest.mark.parametrize("make", [SoftwareAk.ecc, SoftwareAk.rsa])
def test_a_quote_is_verified_with_its_key_in_every_form(
    inspect: Inspect, write: Write, make: Callable[[], SoftwareAk], form: str
) -> None:
    ak = make()
    code, report = inspect(*quote_words(write, ak, keys_of(ak)[form]), "--json")
    assert (code, report["verified"]) == (0, True)
    assert report["pcrs"] == {"sha256": hexadecimal(VALUES["sha256"])}
    assert report["key"]["accepted_by"] == ("vouched" if form in ("pem", "der") else "attributes")
    other = SoftwareAk.ecc(fresh=True)
    reason = "quote.sig_alg_not_allowed" if ak.public.bits else "quote.sig_invalid"
    refused(inspect(*quote_words(write, ak, keys_of(other)[form]), "--json"), reason)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": "00" * 32}, "quote.nonce_mismatch"),
        ({"nonce": ""}, "quote.nonce_mismatch"),
        ({"selection": "sha256:0,1"}, "quote.selection_mismatch"),
        ({"selection": '{"sha1": [0, 1, 10]}'}, "quote.bank_not_allowed"),
        ({"pcrs": '{"0": "00"}', "selection": "sha256:0,1,10"}, "quote.pcr_value_length"),
        ({"allow_signature": "rsassa-sha256"}, "quote.sig_alg_not_allowed"),
        ({"allow_bank": "sha384"}, "quote.bank_not_allowed"),
    ],
)
def test_each_part_of_a_challenge_is_judged(
    inspect: Inspect, write: Write, changes: dict[str, str], reason: str
) -> None:
    refused(inspect(*quote_words(write, SoftwareAk.ecc(), **changes), "--json"), reason)


def test_the_clock_of_the_round_before_is_compared(inspect: Inspect, write: Write) -> None:
    ak = SoftwareAk.ecc()
    _, report = inspect(*quote_words(write, ak), "--json")
    assert not report["clock_compared"]
    clock = report["clock"]
    before = json.dumps({**clock, "clock": clock["clock"] - 1})
    code, report = inspect(*quote_words(write, ak, previous=before), "--json")
    assert (code, report["clock_compared"]) == (0, True)
    reset = json.dumps({**clock, "clock": 1, "reset_count": clock["reset_count"] - 1})
    refused(inspect(*quote_words(write, ak, previous=reset), "--json"), "quote.reset_detected")
    assert inspect(*quote_words(write, ak, previous='{"clock": 1}'), "--json")[0] == 2


def test_a_public_area_is_judged_by_its_attributes(inspect: Inspect, write: Write) -> None:
    ak = SoftwareAk.ecc()
    code, report = inspect("akpub", write("ak", ak.public.marshal()), "--json")
    assert (code, report["name"], report["scheme"]) == (0, ak.public.name.hex(), "ecdsa-sha256")
    assert "restricted" in report["public"]["attributes"]
    free = changed(ak.public, attributes=ak.public.attributes & ~ObjectAttributes.RESTRICTED)
    refused(inspect("akpub", write("ak", free.marshal()), "--json"), "ak.not_restricted")
    tpmt = write("ak", ak.public.marshal_tpmt())
    refused(inspect("akpub", tpmt, "--json"), "ak.malformed")
    assert inspect("akpub", tpmt, "--tpmt", "--json")[0] == 0
    refused(
        inspect("akpub", write("ak", ak.public.marshal()), "--allow-signature", "rsapss-sha256", "--json"),
        "ak.scheme_not_allowed",
    )


def test_any_attestation_is_decoded_and_none_is_called_verified(inspect: Inspect, write: Write) -> None:
    attest, _ = SoftwareAk.ecc().quote()
    code, report = inspect("attest", write("attest", attest), "--json")
    assert (code, report["verified"], report["type"]) == (0, False, "quote")
    assert report["attested"]["selection"] == {"sha256": [0, 1, 10]}
    assert report["extra_data"] == NONCE.hex()
    refused(inspect("attest", write("attest", b"\0" + attest[1:]), "--json"), "attest.magic")
    refused(inspect("attest", write("attest", attest + b"\0"), "--json"), "attest.trailing_bytes")


# EK certificates


def test_an_ek_certificate_is_verified_up_to_its_roots(inspect: Inspect, write: Write) -> None:
    made = vendor()
    words = ["ekcert", write("leaf", ek_certificate(made.issuer)), "--at", "2026-06-01", "--json"]
    words += ["--chain", write("chain", made.issuer.der), "--ek-public", write("ek", ek_public())]
    roots = ["--roots", write("roots", made.root.pem)]
    code, report = inspect(*words, *roots, "--vendor", INTEL)
    assert (code, report["verified"], report["tpm"]["vendor"], len(report["chain"])) == (0, True, "Intel", 3)
    assert report["template"]
    refused(inspect(*words, *roots, "--vendor", "id:414D4400"), "ek.vendor")
    refused(inspect(*words, *roots, "--require-crl"), "ek.crl_missing")
    lists: list[object] = []
    for number, authority in enumerate((made.issuer, made.root)):
        lists += ["--crl", write(f"crl{number}", crl(authority))]
    assert inspect(*words, *roots, "--require-crl", *lists)[0] == 0
    code, report = inspect(*words)
    assert (code, report["verified"]) == (0, False)


def test_an_ek_certificate_is_judged_at_the_time_given(inspect: Inspect, write: Write) -> None:
    made = vendor()
    words = ["ekcert", write("leaf", ek_certificate(made.issuer)), "--json", "--roots", write("roots", made.root.pem)]
    words += ["--chain", write("chain", made.issuer.pem)]
    refused(inspect(*words, "--at", "2035-01-01T00:00:00Z"), "ek.expired")
    code, report = inspect(*words, "--at", "2035-01-01T00:00:00Z", "--allow-expired-leaf")
    assert code == 0
    assert any("allows" in note for note in report["notes"])
    assert inspect(*words, "--at", "yesterday")[0] == 2


def test_pem_where_der_is_expected_is_refused_unless_said(inspect: Inspect, write: Write) -> None:
    encoded = base64.encodebytes(ek_certificate(vendor().issuer))
    pem = write("leaf", b"-----BEGIN CERTIFICATE-----\n" + encoded + b"-----END CERTIFICATE-----\n")
    refused(inspect("ekcert", pem, "--json"), "ek.malformed")
    assert inspect("ekcert", pem, "--pem", "--json")[0] == 0


# Usage and environment


def test_a_file_that_is_not_there_is_the_environments_fault(inspect: Inspect, tmp_path: Path) -> None:
    for words in (["eventlog"], ["ima"], ["akpub"], ["attest"], ["ekcert"]):
        code, told = inspect(*words, tmp_path / "none", "--json")
        assert (code, told["error"]["reason"]) == (3, "config.missing")
    assert inspect("eventlog", tmp_path, "--json")[0] == 3
    assert inspect("eventlog", __file__, "--pcrs", tmp_path / "none.json", "--json")[0] == 3
    assert inspect("ekcert", __file__, "--roots", tmp_path / "none", "--json")[0] == 3


@pytest.mark.parametrize(
    "words",
    [
        ["eventlog", __file__, "--pcrs", "{}"],
        ["eventlog", __file__, "--pcrs", '{"0": "xyz"}'],
        ["eventlog", __file__, "--pcrs", '{"0": "00", "0": "11"}'],
        ["eventlog", __file__, "--pcrs", '{"24": "00"}'],
        ["eventlog", __file__, "--pcrs", '{"md5": {"0": "00"}}'],
        ["eventlog", __file__, "--pcrs", '{"0": "00"}', "--select", "x"],
        ["eventlog", __file__, "--quirk", "anything"],
        ["ima", __file__, "--pcr10", "abc"],
        ["ima", __file__, "--pcr10", "00" * 7],
        ["ima", __file__, "--pcr10", "00" * 32, "--state", '{"entries": 1}'],
        ["quote"],
        ["akpub", __file__, "--allow-signature", "rsassa-sha1"],
        ["nothing"],
    ],
)
def test_wrong_usage_is_no_verdict(inspect: Inspect, words: list[str]) -> None:
    assert inspect(*words)[0] == 2


def test_inspection_needs_no_tss_no_server_and_no_database(tmp_path: Path) -> None:
    """An auditor's laptop has the core alone."""
    path = tmp_path / "log"
    path.write_bytes(Log().data())
    program = (
        "import sys\n"
        "for name in ('tpm2_pytss', 'aiohttp', 'structlog', 'sqlite_utils'): sys.modules[name] = None\n"
        "from ztrooted.cli.main import command_line\n"
        f"command_line(['inspect'])(['inspect', 'eventlog', {str(path)!r}, '--json'])\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr.decode()
    assert json.loads(done.stdout)["pcrs"]["sha256"]
