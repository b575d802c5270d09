"""The policies that people start from: each does what it says, and passes its own cases."""

import json
from pathlib import Path

import pytest

from tests.support.commands import run
from ztrooted import ready_made
from ztrooted.appraisal import required_checks
from ztrooted.policies import FILES, Policies
from ztrooted.policy_cases import parse_cases, run_cases
from ztrooted.policy_check import check_folder
from ztrooted.results import tier


def documents(name: str) -> dict[str, bytes]:
    return {role: ready_made.files(name)[file] for role, file in FILES.items()}


@pytest.mark.parametrize("name", ready_made.NAMES)
def test_it_passes_its_own_cases(name: str) -> None:
    policies = Policies.load(documents(name))
    results = run_cases(parse_cases(ready_made.files(name)[ready_made.CASES_FILE], "cases"), policies)
    assert len(results) >= 4
    assert [one for one in results if not one.passed] == []
    assert {rule.id for rule in policies.dispatch.rules} == {policy for one in results for policy in one.by}
    assert check_folder(documents(name), dict(FILES)).errors == ()


@pytest.mark.parametrize(
    ("name", "best", "checks"),
    [
        ("observe", 1, ("quote", "clock", "event_log", "ima")),
        ("boot", 3, ("quote", "clock", "event_log", "boot", "baseline")),
        ("strict", 4, ("quote", "clock", "event_log", "baseline", "ima", "files")),
    ],
)
def test_it_requires_what_it_says(name: str, best: int, checks: tuple[str, ...]) -> None:
    rules = Policies.load(documents(name)).appraisal.for_class("default")
    assert required_checks(rules) == checks
    assert tier(rules, trusted=True, virtual=False) == best


def test_only_observing_is_shown_as_trusting_everything() -> None:
    warned = {name: Policies.load(documents(name)).trusts_everything() for name in ready_made.NAMES}
    assert warned == {"observe": ("appraisal class 'default' only observes",), "boot": (), "strict": ()}


@pytest.mark.parametrize("name", ready_made.NAMES)
def test_what_it_has_commented_out_is_a_policy_too(name: str) -> None:
    """Comments that are examples must stay usable: taking them in gives documents that load."""
    for role, file in FILES.items():
        text = ready_made.files(name)[file].decode()
        mark = "// " if role == "dispatch" else "# "
        taken = [
            line.removeprefix(mark)
            if line.startswith(
                (
                    f"{mark}@",
                    f"{mark}forbid",
                    f"{mark}[",
                    f"{mark}members",
                    f"{mark}labels",
                    f"{mark}events",
                    f"{mark}varying",
                    f"{mark}  ",
                    f"{mark}]",
                )
            )
            else line
            for line in text.split("\n")
        ]
        changed = "\n".join(taken)
        if role == "appraisal" and "events = [1, 5]" in changed:
            changed = changed.replace(
                "pinned = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 14]", "pinned = [0, 2, 3, 4, 6, 7, 8, 9, 14]"
            )
        Policies.load(documents(name) | {role: changed.encode()})


def test_a_new_folder_is_written_checked_tested_and_never_overwritten(tmp_path: Path) -> None:
    folder = tmp_path / "policy"
    assert run("policy", "new", "strict", str(folder)).returncode == 0
    assert run("policy", "check", str(folder)).returncode == 0
    assert run("policy", "test", str(folder)).returncode == 0
    told = json.loads(run("policy", "check", str(folder), "--json").stdout)
    assert told["ok"] is True
    again = run("policy", "new", "strict", str(folder))
    assert again.returncode == 3
    assert "environment.data_folder" in again.stderr
    assert run("policy", "new", "lenient", str(tmp_path / "x")).returncode == 2
    observed = run("policy", "new", "observe", str(tmp_path / "o"))
    assert observed.returncode == 0
    assert "appraisal class 'default' only observes" in run("policy", "check", str(tmp_path / "o")).stdout
