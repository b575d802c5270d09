"""``scripts/conformance``: that it runs what an index says, tells every difference, and takes nothing for granted."""

import base64
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typer import Typer
from typer.testing import CliRunner

from tests.support import corpus
from tests.support.attestation import CLOCK, NONCE, VALUES, SoftwareAk, ecc_key
from tests.support.eventlog_builder import Log
from tests.support.ima_machine import Machine
from tests.support.notes import NoteSigner, checkpoint_text
from ztrooted import merkle
from ztrooted.conformance import Result, Status, attacks, count_by_kind, run_index
from ztrooted.conformance.__main__ import conformance
from ztrooted.conformance.index import Fields
from ztrooted.conformance.results import NotApplicableError
from ztrooted.errors import EnvironmentProblem
from ztrooted.note import format_note
from ztrooted.note_keys import SignatureType

Write = Callable[..., Path]


@pytest.fixture
def index(tmp_path: Path) -> Write:
    """Write an index of entries, or another value, and files beside it."""

    def put(value: Any, **files: bytes) -> Path:
        for name, data in files.items():
            (tmp_path / name).write_bytes(data)
        path = tmp_path / "INDEX.json"
        path.write_text(json.dumps(value))
        return path

    return put


def only(path: Path) -> Result:
    (result,) = run_index(path)
    return result


def command(*words: object) -> tuple[int, dict[str, Any]]:
    app = Typer()
    app.command()(conformance)
    done = CliRunner().invoke(app, [*map(str, words), "--json"])
    return done.exit_code, json.loads(done.stdout)


# Attacks


def quote_entry(**changes: Any) -> dict[str, Any]:
    values = {str(pcr): value.hex() for pcr, value in VALUES["sha256"].items()}
    context = {"nonce": NONCE.hex(), "want_selection": {"sha256": [0, 1, 10]}, "claimed_pcrs": {"sha256": values}}
    return {
        "id": "some quote",
        "kind": "quote",
        "file": "attest",
        "files": {"attest": "attest", "sig": "sig", "ak_public": "ak"},
        "expect": "accept",
        "reason": "ok",
        "how": "made here",
        **changes,
        "context": {**context, **changes.get("context", {})},
    }


def quote_files() -> dict[str, bytes]:
    ak = SoftwareAk.ecc()
    attest, signature = ak.quote()
    return {"attest": attest, "sig": signature, "ak": ak.public.marshal()}


def clock(**changes: int) -> dict[str, int]:
    before = {"clock": CLOCK.clock - 1, "resetCount": CLOCK.reset_count, "restartCount": CLOCK.restart_count, "safe": 1}
    return {**before, **changes}


@pytest.mark.parametrize(
    ("changes", "actual", "reason"),
    [
        ({}, "accept", ""),
        ({"context": {"nonce": "00" * 32}}, "reject", "quote.nonce_mismatch"),
        ({"context": {"want_selection": {"sha256": [0]}}}, "reject", "quote.selection_mismatch"),
        ({"context": {"claimed_pcrs": {"sha256": {}}}}, "reject", "quote.pcr_values_missing"),
        ({"context": {"allowed_sig": ["rsassa-sha256"]}}, "reject", "quote.sig_alg_not_allowed"),
        ({"context": {"allowed_banks": ["sha384"]}}, "reject", "quote.bank_not_allowed"),
        ({"context": {"qualified_signer": "00" * 34}}, "reject", "quote.qualified_signer"),
        ({"context": {"prev_clock": clock()}}, "accept", ""),
        ({"context": {"prev_clock": clock(resetCount=1)}}, "reject", "quote.reset_detected"),
        ({"context": {"prev_clock": clock(firmwareVersion=1)}}, "reject", "quote.firmware_changed"),
    ],
)
def test_each_member_of_a_context_counts(index: Write, changes: dict[str, Any], actual: str, reason: str) -> None:
    expect = {"expect": actual, "reason": reason or "ok"}
    result = only(index([quote_entry(**changes, **expect)], **quote_files()))
    assert (result.status, result.actual, result.reason) == (Status.PASS, actual, reason)
    other = {"expect": "reject" if actual == "accept" else "accept", "reason": "quote.magic"}
    result = only(index([quote_entry(**changes, **other)], **quote_files()))
    assert (result.status, result.actual) == (Status.FAIL, actual)


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ({"reason": "quote.nonce_mismatch"}, Status.PASS),
        ({"reason": "quote.stale"}, Status.PASS),
        ({"reason": "ak.name_mismatch"}, Status.FAIL),
        ({"reason": "ak.name_mismatch", "reason_alternatives": ["quote.nonce_mismatch"]}, Status.PASS),
    ],
)
def test_a_refusal_has_to_be_of_the_right_family(index: Write, expected: dict[str, Any], status: Status) -> None:
    entry = quote_entry(expect="reject", context={"nonce": "00" * 32}, **expected)
    result = only(index([entry], **quote_files()))
    assert (result.status, result.reason) == (status, "quote.nonce_mismatch")


def test_what_an_index_calls_possible_is_no_difference(index: Write) -> None:
    entry = quote_entry(expect="reject", reason="quote.magic", lenient_ok=True)
    assert only(index([entry], **quote_files())).status is Status.PASS
    assert only(index([{**entry, "lenient_ok": False}], **quote_files())).status is Status.FAIL


@pytest.mark.parametrize("where", ["context", "prev_clock", "entry"])
def test_a_member_that_is_not_understood_is_not_passed_over(index: Write, where: str) -> None:
    entry = quote_entry(context={"prev_clock": clock()})
    place = {"context": entry["context"], "prev_clock": entry["context"]["prev_clock"], "entry": entry}[where]
    place["locality"] = 3
    result = only(index([entry], **quote_files()))
    assert result.status is Status.NOT_APPLICABLE
    assert "locality" in result.detail
    place["locality"] = None
    assert only(index([entry], **quote_files())).status is Status.PASS


NEEDED: dict[str, dict[str, Any]] = {
    "ak_public": {},
    "ek_cert": {"now": "2026-06-01T00:00:00Z"},
    "event_log": {"bank": "sha256", "pcrs": {"0": "00" * 32}},
    "ima_list": {"bank": "sha256", "pcr10": {}},
    "quote": {"nonce": "00", "want_selection": {}, "claimed_pcrs": {}},
}


@pytest.mark.parametrize("kind", sorted(attacks.JUDGES))
def test_no_judge_passes_over_what_it_does_not_know(kind: str) -> None:
    files = dict.fromkeys(("file", "leaf", "roots", "attest", "sig", "ak_public"), b"")
    for told in ({"surprise": 1}, {"policy": {"surprise": 1}}):
        with pytest.raises(NotApplicableError, match=r"surprise|has policy"):
            attacks.JUDGES[kind](files, Fields({**NEEDED[kind], **told}, "context"))


def test_files_that_are_missing_or_others_are_reported(index: Write, tmp_path: Path) -> None:
    files = quote_files()
    entry = quote_entry(sha256=hashlib.sha256(files["attest"]).hexdigest())
    assert only(index([entry], **files)).status is Status.PASS
    (tmp_path / "attest").write_bytes(b"another")
    assert only(index([entry])).status is Status.MISSING
    (tmp_path / "sig").unlink()
    assert only(index([quote_entry()])).status is Status.MISSING


def test_a_verdict_that_comes_too_late_is_a_difference(index: Write) -> None:
    assert only(index([quote_entry(budget_ms=60_000)], **quote_files())).status is Status.PASS
    result = only(index([quote_entry(budget_ms=0)], **quote_files()))
    assert (result.status, result.actual) == (Status.FAIL, "error")
    assert "budget" in result.detail


def test_an_undeclared_exception_is_a_difference_whatever_was_expected(
    index: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setattr(attacks, "verify_quote", broken)
    for expect in ("accept", "reject"):
        result = only(index([quote_entry(expect=expect, reason="quote.malformed")], **quote_files()))
        assert (result.status, result.actual) == (Status.FAIL, "error")
        assert "IndexError" in result.detail


def test_lists_and_logs_are_judged_with_their_context(index: Write) -> None:
    machine, log = Machine().measure("/usr/bin/a"), Log()
    pcr10 = {bank: value.hex() for bank, value in machine.pcr10.items()}
    ima = {"id": "l", "kind": "ima_list", "file": "list", "expect": "accept", "reason": "ok"}
    ima["context"] = {"bank": "sha256", "pcr10": pcr10, "format": "ascii", "policy": {"allow": machine.allow}}
    pcrs = {str(pcr): value.hex() for pcr, value in log.pcrs().items()}
    boot = {"id": "b", "kind": "event_log", "file": "log", "expect": "accept", "reason": "ok"}
    boot["context"] = {"bank": "sha256", "pcrs": pcrs, "policy": {"secure_boot": True}}
    path = index([ima, boot], list=machine.ascii(), log=log.data())
    assert [result.status for result in run_index(path)] == [Status.PASS, Status.PASS]
    ima["context"]["policy"]["max_line"] = 10  # type: ignore[index]
    boot["context"]["policy"]["max_events"] = 1  # type: ignore[index]
    results = list(run_index(index([ima, boot])))
    assert [(result.status, result.reason) for result in results] == [
        (Status.FAIL, "ima.too_large"),
        (Status.FAIL, "log.too_large"),
    ]


# Evidence


def log_entry(expected: Any, **changes: Any) -> dict[str, Any]:
    return {"id": "log", "kind": "tpm_event_log", "format": "binary", "file": "log", "expected": expected, **changes}


def replayed() -> dict[str, str]:
    return {str(pcr): value.hex() for pcr, value in Log().pcrs(only=range(16)).items() if any(value)}


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ({"parse": "ok"}, Status.PASS),
        ({"parse": "error"}, Status.FAIL),
        ({"pcr_replay": {"sha256": replayed()}}, Status.PASS),
        ({"pcr_replay": {"sha256": {**replayed(), "4": "00" * 32}}}, Status.FAIL),
        ({"pcr_verify": {"sha256": replayed()}}, Status.PASS),
        ({"pcr_verify": {"sha256": {**replayed(), "4": "00" * 32}}}, Status.FAIL),
        ({"mb_policy": "valid"}, Status.PASS),
        ({"mb_policy": "invalid"}, Status.FAIL),
        ({"kernel_cmdline": "/vmlinuz ro"}, Status.PASS),
        ({"kernel_cmdline": "/vmlinuz rw"}, Status.FAIL),
        ({"grub_state": {"error_contains": "none"}}, Status.FAIL),
        ({"secure_boot_db": {"hashes": 99, "well_known_certs": []}}, Status.FAIL),
        ({"post_separator_authority": 99}, Status.FAIL),
        ({"efi_app_digests_pcr4": {"sha256": []}}, Status.FAIL),
        ({"events_in_yaml_including_header": 1}, Status.FAIL),
        ({"firmware_mood": "good"}, Status.NOT_APPLICABLE),
        (None, Status.NO_ORACLE),
    ],
)
def test_everything_an_origin_expects_of_a_log_is_compared(index: Write, expected: Any, status: Status) -> None:
    assert only(index({"entries": [log_entry(expected)]}, log=Log().data())).status is status


def test_without_an_oracle_it_is_told_whether_it_was_read(index: Write) -> None:
    result = only(index([log_entry(None)], log=Log().data()[:-1]))
    assert (result.status, result.actual, result.reason) == (Status.NO_ORACLE, "reject", "log.malformed")


def test_items_of_vector_files_are_found_by_their_pointer(index: Write) -> None:
    vectors = {"one": {"hex": Log().data().hex()}, "two": {"base64": base64.b64encode(Log().data()).decode()}}
    entries = [log_entry({"parse": "ok"}, pointer=name, file="vectors") for name in ("one", "two", "three")]
    results = list(run_index(index(entries, vectors=json.dumps(vectors).encode())))
    assert [result.status for result in results] == [Status.PASS, Status.PASS, Status.MISSING]


def test_one_wrong_check_spoils_a_refusal_that_was_expected(index: Write) -> None:
    case = {"log": "log", "index": 4, "given": "00" * 48}
    entry = {"id": "n", "kind": "negative_case", "file": "vectors", "pointer": "x", "expected": {"replay": "error"}}
    log = Log(banks=("sha384",))
    files = {"log": log.data(), "vectors": json.dumps({"x": case}).encode()}
    assert only(index([entry], **files)).status is Status.PASS
    entry["expected"] = {"replay": "error", "calculated": "11" * 48}
    assert only(index([entry], **files)).status is Status.FAIL
    files["vectors"] = json.dumps({"x": {**case, "given": log.pcrs("sha384")[4].hex()}}).encode()
    entry["expected"] = {"replay": "error"}
    assert only(index([entry], **files)).status is Status.FAIL


@pytest.mark.parametrize(
    ("expected", "status"),
    [
        ({"with_policy": "accept", "with_empty_policy": "reject"}, Status.PASS),
        ({"with_policy": "reject", "with_empty_policy": "reject"}, Status.FAIL),
        ({"with_policy": "accept", "with_empty_policy": "accept"}, Status.FAIL),
        ({"with_policy": "reject"}, Status.FAIL),
        ({"with_empty_policy": "reject"}, Status.PASS),
        ({"with_policy": "perhaps"}, Status.NOT_APPLICABLE),
    ],
)
def test_lists_are_judged_with_and_without_their_policy(index: Write, expected: Any, status: Status) -> None:
    machine = Machine().measure("/usr/bin/a")
    item = {"list": machine.ascii().decode(), "policy": {"digests": machine.allow}}
    entry = {"id": "l", "kind": "ima_log", "file": "vectors", "pointer": "x", "expected": expected}
    assert only(index([entry], vectors=json.dumps({"x": item}).encode())).status is status


def bundle(**changes: Any) -> bytes:
    files, spki = quote_files(), SoftwareAk.ecc().key.key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    attest, signature = files["attest"], files["sig"]
    pcrs = [VALUES["sha256"][index].hex() for index in (0, 1)] + ["00" * 32] * 8 + [VALUES["sha256"][10].hex()]
    quote = {
        "message": base64.b64encode(attest).decode(),
        "signature": base64.b64encode(signature).decode(),
        "pcrs": pcrs,
    }
    return json.dumps({"ak_public": base64.b64encode(spki).decode(), "tpm_quote": {**quote, **changes}}).encode()


def test_a_value_beside_a_quote_that_it_does_not_cover_is_a_difference(index: Write) -> None:
    entry = {"id": "q", "kind": "quote_bundle", "file": "bundle", "expected": {"parse": "ok", "pcr_count": 11}}
    result = only(index([entry], bundle=bundle()))
    assert (result.status, result.reason) == (Status.FAIL, "quote.selection_mismatch")


@pytest.mark.parametrize("kind", ["attribute_certificate", "ek_certificate_rule", "expected_output", "hologram"])
def test_kinds_outside_the_product_are_said_to_be(index: Write, kind: str) -> None:
    entry = {"id": "x", "kind": kind, "file": "x", "expected": {"verify": "ok"}}
    result = only(index([entry], x=b"{}"))
    assert result.status is Status.NOT_APPLICABLE
    assert result.detail


# Lineage


def encoded(value: bytes) -> str:
    return base64.b64encode(value).decode()


def inclusion(**changes: Any) -> dict[str, Any]:
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(2)]
    case = {"leafIdx": 0, "treeSize": 2, "leafHash": encoded(leaves[0]), "proof": [encoded(leaves[1])]}
    return {**case, "root": encoded(merkle.root(leaves)), "wantErr": False, **changes}


def subtree() -> list[dict[str, Any]]:
    """Proofs that the first two leaves are a subtree of four, and that leaf 1 is in it."""
    leaves = [merkle.leaf_hash(bytes([number])) for number in range(4)]
    halves = [merkle.root(leaves[:2]), merkle.root(leaves[2:])]
    roots = {"root1": encoded(halves[0]), "root2": encoded(merkle.root(leaves))}
    return [
        {"start": 0, "end": 2, "size": 4, **roots, "proof": [encoded(halves[1])], "wantErr": False},
        {"leafIdx": 1, "start": 0, "end": 2, "root": roots["root1"], "leafHash": encoded(leaves[1])}
        | {"proof": [encoded(leaves[0])], "wantErr": False},
        {"size1": 2, "size2": 4, **roots, "proof": [encoded(halves[1])], "wantErr": False},
        inclusion(),
    ]


@pytest.mark.parametrize("form", ["set", "entry", "pointer"])
def test_proofs_are_judged_by_the_members_they_have(index: Write, tmp_path: Path, form: str) -> None:
    for case in subtree():
        for spoilt in (False, True):
            for told in (False, True):
                proof = [encoded(bytes(32))] if spoilt else case["proof"]
                document = {**case, "proof": proof, "wantErr": told}
                (tmp_path / "proofs").mkdir(exist_ok=True)
                (tmp_path / "proofs" / "a.json").write_text(
                    json.dumps({"x": document} if form == "pointer" else document)
                )
                entry = {"id": "p", "kind": "merkle_inclusion", "file": "proofs/a.json"}
                value: Any = {
                    "set": {"sets": [{"dir": "proofs"}]},
                    "entry": [entry],
                    "pointer": [{**entry, "pointer": "x"}],
                }
                result = only(index(value[form]))
                assert result.status is (Status.PASS if spoilt is told else Status.FAIL), result
                assert result.actual == ("reject" if spoilt else "accept")


def test_proofs_from_nothing_are_not_judged(index: Write) -> None:
    entry = {"id": "p", "kind": "merkle_consistency", "file": "proof.json"}
    case = {"size1": 0, "size2": 2, "root1": encoded(merkle.EMPTY_ROOT), "root2": "", "proof": []}
    files = {"proof.json": json.dumps({**case, "wantErr": False}).encode()}
    assert only(index([entry], **files)).status is Status.NOT_APPLICABLE
    files = {"proof.json": json.dumps({**case, "wantErr": True}).encode()}
    assert only(index([entry], **files)).status is Status.PASS


def test_notes_and_their_keys_are_judged(index: Write) -> None:
    signer = NoteSigner.of("log.test", SignatureType.ED25519)
    text = checkpoint_text()
    note = format_note(text, [signer.sign(text)]).decode()
    cases = [
        {"name": "good", "note": note, "vkeys": [signer.key.vkey], "valid": True},
        {"name": "bad", "note": note.replace("7", "8"), "vkeys": [signer.key.vkey], "valid": False},
        {"name": "lie", "note": note, "vkeys": [signer.key.vkey], "valid": False},
    ]
    name, _, rest = signer.key.vkey.partition("+")
    vkeys = [
        {"name": "its own id", "vkey": signer.key.vkey, "upstream_accepts": True},
        {"name": "another id", "vkey": f"{name}+00000000+{rest.partition('+')[2]}", "upstream_accepts": True},
        {"name": "no key", "vkey": f"{name}+00000000+!", "upstream_accepts": False},
    ]
    data = json.dumps({"cases": cases, "vkeys": vkeys}).encode()
    results = list(run_index(index([{"id": "n", "kind": "notes", "file": "n.json"}], **{"n.json": data})))
    assert [result.status for result in results] == [
        *(Status.PASS, Status.PASS, Status.FAIL),
        *(Status.PASS, Status.NOT_APPLICABLE, Status.PASS),
    ]
    assert results[0].id == "n#good"


def signature_group(der: bool) -> dict[str, Any]:
    key = ecc_key()
    made = key.sign(b"message", ec.ECDSA(hashes.SHA256()))
    if not der:
        made = b"".join(value.to_bytes(32, "big") for value in decode_dss_signature(made))
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    message = b"message".hex()
    tests = [
        {"tcId": 1, "msg": message, "sig": made.hex(), "result": "valid"},
        {"tcId": 2, "msg": message, "sig": made[:-1].hex() + f"{made[-1] ^ 1:02x}", "result": "invalid"},
        {"tcId": 3, "msg": message, "sig": made.hex() + "00", "result": "invalid"},
        {"tcId": 4, "msg": message, "sig": made.hex(), "result": "invalid"},
        {"tcId": 5, "msg": message, "sig": made.hex(), "result": "acceptable"},
    ]
    kind = "EcdsaVerify" if der else "EcdsaP1363Verify"
    return {"type": kind, "sha": "SHA-256", "publicKeyDer": public.hex(), "tests": tests}


@pytest.mark.parametrize("der", [True, False])
def test_signature_vectors_go_through_every_path_that_takes_them(index: Write, tmp_path: Path, der: bool) -> None:
    groups = [signature_group(der), {"type": "MlKem", "tests": [{"tcId": 6, "result": "valid"}]}]
    (tmp_path / "signatures").mkdir()
    (tmp_path / "signatures" / "v.json").write_text(json.dumps({"testGroups": groups}))
    results = list(run_index(index({"sets": [{"dir": "signatures"}, {"dir": "nowhere"}]})))
    assert [result.status for result in results] == [
        *(Status.PASS, Status.PASS, Status.PASS, Status.FAIL, Status.PASS),
        *(Status.NOT_APPLICABLE, Status.MISSING),
    ]


def test_canonical_json_is_compared_byte_for_byte(index: Write, tmp_path: Path) -> None:
    for folder, text in (("input", b'{"b": 1.0, "a": [ ]}'), ("output", b'{"a":[],"b":1}')):
        (tmp_path / "jcs" / folder).mkdir(parents=True)
        (tmp_path / "jcs" / folder / "one.json").write_bytes(text)
    path = index({"sets": [{"dir": "jcs"}]})
    assert only(path).status is Status.PASS
    (tmp_path / "jcs" / "output" / "one.json").write_bytes(b'{"a":[],"b":2}')
    assert only(path).status is Status.FAIL


def test_a_vector_file_of_another_make_is_reported(index: Write, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.json").write_text('{"riddles": []}')
    (tmp_path / "other" / "b.json").write_text("{")
    (tmp_path / "other" / "c.yaml").write_text("logs: []")
    results = list(run_index(index({"sets": [{"dir": "other"}]})))
    assert [result.status for result in results] == [Status.NOT_APPLICABLE, Status.FAIL, Status.NOT_APPLICABLE]


# The command


def test_the_exit_code_says_whether_a_verdict_differs(index: Write, tmp_path: Path) -> None:
    code, report = command(index([quote_entry()], **quote_files()))
    assert (code, report["summary"]["pass"], report["totals"]["quote"]["pass"]) == (0, 1, 1)
    assert report["results"][0]["actual"] == "accept"
    code, report = command(index([quote_entry(), quote_entry(expect="reject", reason="quote.magic")]))
    assert (code, report["summary"]) == (1, {"pass": 1, "fail": 1, "no_oracle": 0, "not_applicable": 0, "missing": 0})
    code, report = command(index([quote_entry(kind="hologram")]))
    assert (code, report["summary"]["not_applicable"]) == (3, 1)
    code, report = command(tmp_path / "none.json")
    assert (code, report["error"]["reason"]) == (3, "config.missing")


@pytest.mark.parametrize("value", [{}, [1], "text", {"entries": {}}])
def test_what_is_no_index_is_refused(index: Write, value: Any) -> None:
    with pytest.raises(EnvironmentProblem):
        list(run_index(index(value)))


# The corpora


def indices() -> list[Any]:
    found = [corpus.ROOT / part / "INDEX.json" for part in ("attacks", "evidence", "lineage")]
    missing = pytest.mark.skip(reason=f"corpus not found at {corpus.ROOT}; set ZTROOTED_CORPUS")
    return [pytest.param(path, marks=() if path.exists() else missing, id=path.parent.name) for path in found]


@pytest.mark.parametrize("path", indices())
def test_no_verdict_over_a_corpus_differs(path: Path) -> None:
    results = list(run_index(path))
    assert [result for result in results if result.status is Status.FAIL] == []
    judged = {kind for kind, counted in count_by_kind(results).items() if counted["pass"]}
    assert judged


@pytest.fixture
def attack_copy(tmp_path: Path) -> Path:
    """The attacks under other names and ids."""
    source = corpus.folder("attacks")
    listed = json.loads((source / "INDEX.json").read_text())
    entries = listed["entries"] if isinstance(listed, dict) else listed
    renamed: dict[str, str] = {}

    def rename(name: str) -> str:
        if name not in renamed:
            renamed[name] = f"{len(renamed)}"
            if (source / name).exists():
                shutil.copyfile(source / name, tmp_path / renamed[name])
        return renamed[name]

    for number, entry in enumerate(entries):
        entry["id"], entry["file"] = f"case {number}", rename(entry["file"])
        entry["files"] = {role: rename(name) for role, name in entry.get("files", {}).items()}
        if "jwks" in entry.get("context", {}):
            entry["context"]["jwks"] = rename(entry["context"]["jwks"])
    (tmp_path / "x.json").write_text(json.dumps(entries))
    return tmp_path / "x.json"


def test_no_verdict_depends_on_ids_and_file_names(attack_copy: Path) -> None:
    assert {result.status for result in run_index(attack_copy)} == {Status.PASS}


def test_every_verdict_is_compared(attack_copy: Path) -> None:
    """With each expectation turned round, nothing passes."""
    before = {result.id: result.actual for result in run_index(attack_copy)}
    entries = json.loads(attack_copy.read_text())
    for entry in entries:
        entry["expect"] = "reject" if before[entry["id"]] == "accept" else "accept"
        entry.pop("lenient_ok", None)
    # Without its accepted tokens a sample tells no issuer key, so tokens keep the key set they came with.
    attack_copy.write_text(json.dumps([entry for entry in entries if entry["kind"] != "jws"]))
    assert {result.status for result in run_index(attack_copy)} == {Status.FAIL}
