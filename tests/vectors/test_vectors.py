"""The vectors, with both verifiers. They are data for anybody's verifier; see docs/bundle-format.md."""

import json
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gateway.console.saved import saved_viewer
from tests.vectors.node import VERIFIER, failure, first_report, judged, node, require_no_wrong_pass
from tests.vectors.operations import apply
from ztrooted.verify import Report

DATA = Path(__file__).parent / "data"
INDEX: dict[str, Any] = json.loads((DATA / "index.json").read_text())
CASES: dict[str, dict[str, Any]] = {case["name"]: case for case in INDEX["cases"]}
CHECKS = [one["name"] for one in first_report(b"", (DATA / "anchors.toml").read_bytes()).encode()["checks"]]  # type: ignore[union-attr]
# Of these the second verifier does a part only, and says so.
IN_PART = {"executor", "policies", "appraisals", "decisions", "artifacts"}
# It reads hexadecimal strictly everywhere, so that it refuses the form of what Python refuses for its meaning.
OTHER_REASON = {"grant: quote used twice": "lineage.record_malformed"}
# What it leaves to Python is found later here, by another check.
FOUND_LATER = {
    "grant: quote after the lease": "continuity",
    "grant: artifact past its runtime": "artifacts",
    "grant: no time was asked for": "artifacts",
}


@cache
def inputs(name: str) -> tuple[bytes, bytes]:
    case = CASES[name]
    return apply((DATA / case["bundle"]).read_bytes(), case["operations"]), (DATA / case["anchors"]).read_bytes()


@cache
def first(name: str) -> Report:
    report = first_report(*inputs(name))
    assert report is not None
    return report


@pytest.fixture(scope="module")
def second() -> dict[str, dict[str, Any]]:
    """The second verifier's reports by case."""
    return dict(zip(CASES, judged(map(inputs, CASES)), strict=True))


def test_the_vectors_are_many_and_small() -> None:
    assert INDEX["format"] == "ztrooted-vectors/1"
    assert len(CASES) == len(INDEX["cases"]) > 200
    assert sum(file.stat().st_size for file in DATA.iterdir()) < 3 << 20
    assert {case["check"] for case in CASES.values()} == {*CHECKS, None}


def test_python_finds_what_the_index_says() -> None:
    """If this is red because the format changed, run scripts/vectors and read what it changes."""
    for name, case in CASES.items():
        report = first(name)
        found = None if report.failed is None else (report.failed.name, report.failed.reason)
        assert report.verified is case["verified"], name
        assert found == (None if case["verified"] else (case["check"], case["reason"])), name


def test_the_second_verifier_finds_the_same_or_says_what_it_left(second: dict[str, dict[str, Any]]) -> None:
    for name, case in CASES.items():
        report = second[name]
        found, reason = failure(report)
        if case["verified"]:
            assert found is None, name
            assert report["word"] in {"verified", "partial"}
        elif found is None:
            assert case["check"] in IN_PART, name
            assert report["word"] == "partial", name
        else:
            assert report["word"] == "not verified"
            assert found == FOUND_LATER.get(name, case["check"]), (name, report)
            if name not in FOUND_LATER:
                assert reason == OTHER_REASON.get(name, case["reason"]), (name, report)


def test_what_python_fails_the_second_verifier_never_passes(second: dict[str, dict[str, Any]]) -> None:
    for name in CASES:
        require_no_wrong_pass(first(name).encode(), second[name], name)


def test_partial_is_said_where_something_was_left_and_nowhere_else(second: dict[str, dict[str, Any]]) -> None:
    for name, report in second.items():
        statuses = {one["status"] for one in report["checks"]}
        expected = "not verified" if "fail" in statuses else "partial" if "not_checked" in statuses else "verified"
        assert report["word"] == expected, name
        if report["word"] == "partial":
            left = {one["name"] for one in report["checks"] if one["status"] == "not_checked"}
            assert left <= IN_PART
            assert all(one["detail"] for one in report["checks"] if one["name"] in left)
    assert second["grant"]["word"] == second["drift"]["word"] == second["chain"]["word"] == "partial"


def test_both_state_the_same_facts(second: dict[str, dict[str, Any]]) -> None:
    before, after = "resealed, in the state before", "resealed, in the state after"
    for name in ("grant", "chain", "drift", "denial", "unasked", before, after):
        report = first(name)
        shared = report.facts.keys() & second[name]["facts"].keys()
        assert {"largest_gap_ms", "allowed_gap_ms", "outcome", "argv", "lineage_size"} <= shared
        assert {one: report.facts[one] for one in shared} == {one: second[name]["facts"][one] for one in shared}
    assert second["drift"]["facts"]["exposure_at_most_ms"] >= 0
    assert second["drift"]["facts"]["reason"] == second["denial"]["facts"]["reason"] == "ima.not_allowed"


def test_a_replaced_state_is_believed_up_to_its_size_and_by_its_approver_alone(
    second: dict[str, dict[str, Any]],
) -> None:
    found = {name: failure(report) for name, report in second.items() if name.startswith("resealed, ")}
    good = {name for name, failed in found.items() if failed[0] is None}
    assert good == {name for name in found if CASES[name]["verified"]}
    assert all(second[name]["word"] == "verified" for name in good)
    assert {failed for failed in found.values() if failed[0]} == {
        ("seal", "checkpoint.seal"),
        ("log_key", "checkpoint.seal"),
        ("log_key", "ak.attributes"),
    }


def test_each_check_of_the_second_verifier_can_fail(second: dict[str, dict[str, Any]]) -> None:
    """A check that no vector makes fail could be a check that never does."""
    assert {failure(report)[0] for report in second.values()} == {*CHECKS, None}


def test_as_one_file_it_is_the_same_verifier(tmp_path: Path, second: dict[str, dict[str, Any]]) -> None:
    """What a browser opens from a saved file, as far as it needs no page."""
    script = saved_viewer().split('<script type="module">\n')[1].split('modules["viewer/')[0]
    module = tmp_path / "single.mjs"
    module.write_text(f'{script}export const {{ verifyBundle }} = modules["verifier/verify.js"];\n')
    chosen = ["grant", "drift", "chain", "grant, packed", "blob changed", "grant: tier", "chain: more time"]
    assert judged(map(inputs, chosen), module) == [second[name] for name in chosen]


@pytest.mark.parametrize(
    ("bundle", "anchors", "code"),
    [
        ("unasked.json", "anchors.toml", 0),
        ("grant.json", "anchors-other-domain.toml", 1),
        ("grant.json", "anchors-other-state.toml", 1),
        ("grant.json", "anchors.toml", 4),
        ("grant.json", "grant.json", 3),
        ("no-such-file", "anchors.toml", 3),
        ("grant.json", "--anchors", 2),
    ],
)
def test_its_command_line_says_how_it_ended(bundle: str, anchors: str, code: int) -> None:
    files = [str(DATA / name) if not name.startswith("-") else name for name in (bundle, anchors)]
    done = subprocess.run(
        [node(), str(VERIFIER / "cli.js"), *files, "--json"], capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    if code in {0, 1, 4}:
        assert json.loads(done.stdout)["word"] == {0: "verified", 1: "not verified", 4: "partial"}[code]
    else:
        assert done.stderr
        assert not done.stdout
