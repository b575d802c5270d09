"""``ztrooted policy check``, ``test`` and ``explain``, and the table of cases they read."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from ztrooted.cli.policy import app
from ztrooted.dispatch_context import time_of_day
from ztrooted.errors import EnvironmentProblem, GateError, PolicyError
from ztrooted.policies import FILES, Policies
from ztrooted.policy_cases import decide_case, make_case, parse_cases, run_cases
from ztrooted.reasons import GateReason
from ztrooted.risk import TIER

APPRAISAL = """format = "ztrooted-appraisal/1"
[class.gpu]
match = { labels = { gpu = "yes" } }
pcrs = [0, 1, 2, 3, 4, 5, 6, 7]
pinned = [0, 7]
event_log = { secure_boot = true }

[class.small]
match = { virtual = true }
pcrs = [0, 7]
pinned = [7]
"""
DISPATCH = """@id("nightly")
permit (
  principal in Group::"release",
  action in [Action::"dispatch", Action::"renew"],
  resource in Pool::"gpu"
)
when { context.trusted && context.tier >= 3 && context.workflow == "nightly" }
unless { context.time.hour >= 6 || context.time.weekday > 5 };

@id("children")
permit (principal, action == Action::"delegate", resource)
when { context.trusted && context has parent && context.parent.orchestrator in Group::"release" };

@id("no-risk")
forbid (principal, action, resource)
when { context.risk > 50 };
"""
ENTITIES = """format = "ztrooted-entities/1"
[group.release]
members = ["ci"]
[pool.gpu]
labels = { gpu = "yes" }
"""
HEAD = 'format = "ztrooted-cases/1"\n'
CASES = (
    HEAD
    + """
[[case]]
name = "nightly"
orchestrator = "ci"
labels = { gpu = "yes" }
workflow = "nightly"
time = "wed 02:30"
expect = "permit"
by = ["nightly"]

[[case]]
name = "risky"
labels = { gpu = "yes" }
vector = { executables = 99, configuration = 99, hardware = 99 }
expect = "deny"
by = ["no-risk"]

[[case]]
name = "by default"
labels = { gpu = "yes" }
expect = "deny"
by = []

[[case]]
name = "a child"
action = "delegate"
labels = { gpu = "yes" }
parent = { orchestrator = "ci" }
expect = "permit"
by = ["children"]

[[class_case]]
name = "a GPU"
labels = { gpu = "yes" }
expect = "gpu"

[[class_case]]
name = "nobody's"
expect = ""
"""
)


@dataclass
class Ran:
    code: int
    out: str
    error: GateError | None

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: str | Path) -> Ran:
    """The command, with the exit code that ``ztrooted`` gives an error of ours."""
    result = CliRunner().invoke(app, [str(one) for one in arguments])
    error = result.exception
    if isinstance(error, GateError):
        return Ran(3 if isinstance(error, EnvironmentProblem) else 1, result.output, error)
    assert error is None or isinstance(error, SystemExit), error
    return Ran(result.exit_code, result.output, None)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in ((FILES["appraisal"], APPRAISAL), (FILES["dispatch"], DISPATCH), (FILES["entities"], ENTITIES)):
        (tmp_path / name).write_text(text)
    (tmp_path / "policy.cases.toml").write_text(CASES)
    return tmp_path


def policies() -> Policies:
    return Policies.load(
        {"appraisal": APPRAISAL.encode(), "dispatch": DISPATCH.encode(), "entities": ENTITIES.encode()}
    )


# --- check -------------------------------------------------------------------------------------------------------
def test_a_good_folder_is_told_as_it_is(folder: Path) -> None:
    ran = run("check", folder, "--json")
    assert ran.code == 0
    assert ran.json["ok"] is True
    assert [one["id"] for one in ran.json["policies"]] == ["nightly", "children", "no-risk"]
    assert ran.json["policies"][2]["where"] == f"{folder / 'dispatch.cedar'}:14"
    assert [(one["class"], one["best_tier"]) for one in ran.json["classes"]] == [("gpu", "A3"), ("small", "A2")]
    text = run("check", folder)
    assert text.code == 0
    assert "these policies can be activated" in text.out


def test_everything_that_is_wrong_in_three_documents_is_told_at_once(folder: Path) -> None:
    (folder / "dispatch.cedar").write_text("permit (principal, action, resource) when { context.trustd };")
    (folder / "appraisal.toml").write_text(APPRAISAL + "oberve = true\n")
    (folder / "entities.toml").write_text(ENTITIES + 'in = ["x"]\n')
    ran = run("check", folder, "--json")
    assert ran.code == 1
    assert [one.rpartition("/")[2].partition(" ")[0] for one in ran.json["errors"]] == [
        "appraisal.toml:12:",
        "dispatch.cedar:1:",
        "entities.toml:6:",
    ]


UNKNOWN = {
    "group": (
        'Group::"release"',
        'Group::"releas"',
        "dispatch.cedar:3: policy \"nightly\": {entities} has no group 'releas'",
    ),
    "pool": ('Pool::"gpu"', 'Pool::"gpus"', "dispatch.cedar:5:"),
    "class": ("context.risk > 50", 'resource.class == "gup"', "dispatch.cedar:16:"),
    "one class of several": ("context.risk > 50", '["gpu", "gup"].contains(resource.class)', "did you mean 'gpu'?"),
    "class behind the comparison": ("context.risk > 50", '"gup" != resource.class', "has no class 'gup'"),
}


@pytest.mark.parametrize(("old", "new", "detail"), UNKNOWN.values(), ids=UNKNOWN.keys())
def test_J4_a_name_that_no_document_has_is_an_error(folder: Path, old: str, new: str, detail: str) -> None:
    (folder / "dispatch.cedar").write_text(DISPATCH.replace(old, new, 1))
    ran = run("check", folder, "--json")
    assert ran.code == 1
    assert detail.format(entities=folder / "entities.toml") in ran.json["errors"][0]


def test_J4_a_pool_of_a_class_that_is_not_there_is_an_error(folder: Path) -> None:
    (folder / "entities.toml").write_text(ENTITIES + 'classes = ["gpu", "gup"]\n')
    ran = run("check", folder)
    assert ran.code == 1
    assert "entities.toml:6: pool 'gpu'" in ran.out


def test_what_trusts_everything_is_said(folder: Path) -> None:
    (folder / "appraisal.toml").write_text(APPRAISAL + "[class.rest]\npcrs = [0]\nobserve = true\n")
    everything = '@id("all") @permits_everything("intended") permit (principal, action, resource);\n'
    (folder / "dispatch.cedar").write_text(DISPATCH + everything)
    for command in (["check", folder], ["test", folder], ["explain", folder, "--case", "nightly"]):
        out = run(*command).out
        assert "appraisal class 'rest' only observes" in out
        assert "dispatch policy 'all' permits everything" in out


def test_a_folder_without_a_document_is_a_problem_of_the_environment(folder: Path) -> None:
    (folder / "entities.toml").unlink()
    assert run("check", folder).code == 3
    assert run("check").code == 2


# --- test --------------------------------------------------------------------------------------------------------
def test_cases_that_come_out_as_expected_pass(folder: Path) -> None:
    ran = run("test", folder, "--json")
    assert ran.code == 0, ran.out
    assert (ran.json["passed"], ran.json["failed"], ran.json["untried_policies"]) == (6, 0, [])
    assert "6 passed, 0 failed" in run("test", folder).out


FAILING = {
    "another answer": (
        'time = "wed 02:30"',
        'time = "wed 06:00"',
        "expected permit, and it is deny (no permit matches)",
    ),
    "on another day": ('time = "wed 02:30"', 'time = "sat 02:30"', "expected permit, and it is deny"),
    "another policy": ('by = ["nightly"]', 'by = ["children"]', "expected by children, and it is by nightly"),
    "no policy expected": ('by = ["no-risk"]', "by = []", "expected by no policy at all, and it is by no-risk"),
    "another class": ('expect = "gpu"', 'expect = "small"', "expected class 'small', and it is 'gpu'"),
    "a class after all": ('expect = ""', 'expect = "gpu"', "expected class 'gpu', and it is 'none'"),
    "a class that is none": ('workflow = "nightly"', 'class = "none"', "the appraisal policy has no class 'none'"),
    "trust without a class": (
        'labels = { gpu = "yes" }\nworkflow = "nightly"',
        "trusted = true",
        "no class is for this executor",
    ),
}


@pytest.mark.parametrize(("old", "new", "detail"), FAILING.values(), ids=FAILING.keys())
def test_a_case_that_comes_out_otherwise_fails_and_comes_first(folder: Path, old: str, new: str, detail: str) -> None:
    assert old in CASES
    (folder / "policy.cases.toml").write_text(CASES.replace(old, new, 1))
    ran = run("test", folder, "--json")
    assert (ran.code, ran.json["failed"]) == (1, 1)
    assert detail in ran.json["cases"][0]["detail"]
    text = run("test", folder)
    assert text.out.startswith("FAIL")
    assert f"policy.cases.toml:{ran.json['cases'][0]['line']}: " in text.out


def test_a_policy_that_fails_while_it_is_evaluated_fails_its_case(folder: Path) -> None:
    broken = '@id("sum") forbid (principal, action, resource) when { context.tier + 9223372036854775807 > 0 };'
    (folder / "dispatch.cedar").write_text(DISPATCH + broken)
    ran = run("test", folder, "--json")
    assert ran.code == 1
    assert "a policy failed" in ran.json["cases"][0]["detail"]


def test_J2_a_table_without_cases_fails(folder: Path) -> None:
    for text in (HEAD, HEAD + "case = []\n"):
        (folder / "policy.cases.toml").write_text(text)
        ran = run("test", folder)
        assert ran.code == 1
        assert ran.error is not None
        assert ran.error.reason is GateReason.POLICY_EMPTY
    (folder / "policy.cases.toml").unlink()
    assert run("test", folder).code == 3


def test_policies_that_no_case_tries_are_named(folder: Path) -> None:
    (folder / "dispatch.cedar").write_text(
        DISPATCH + '@id("idle") forbid (principal, action, resource) when { false };'
    )
    assert run("test", folder, "--json").json["untried_policies"] == ["idle"]
    assert "no case was decided by: idle" in run("test", folder).out


REFUSED = {
    "J3 unknown key": (
        'orchestrater = "ci"\n',
        "cases:3: case.0.orchestrater: unknown key; did you mean 'orchestrator'?",
    ),
    "J3 unknown claim": ("vector = { executable = 1 }\n", "cases:3: case.0.vector.executable"),
    "J7 a number as text": ('tier = "3"\n', "cases:3: case.0.tier"),
    "J10 a tier that is none": ("tier = 5\n", "cases:3: case.0.tier"),
    "a time that is none": ('time = "24:00"\n', "'time' is a day and a time in UTC"),
    "a child without a parent": ('action = "delegate"\n', "a 'delegate' has a 'parent'"),
    "a parent without a child": ("parent = {}\n", "is a 'delegate'"),
    "trust at tier 0": ("trusted = true\ntier = 0\n", "a machine that is trusted has a tier from 1 on"),
    "no trust at tier 1": ("trusted = false\ntier = 1\n", "a machine that is not trusted has tier 0"),
}


@pytest.mark.parametrize(("text", "detail"), REFUSED.values(), ids=REFUSED.keys())
def test_a_table_that_says_something_else_is_refused_whole(text: str, detail: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        parse_cases((HEAD + "[[case]]\n" + text + 'name = "a"\nexpect = "deny"\n').encode(), "cases")
    assert detail in refusal.value.detail


def test_a_name_is_there_once_and_an_expectation_always() -> None:
    one = '[[case]]\nname = "a"\nexpect = "deny"\n'
    with pytest.raises(PolicyError, match="cases:5: 'a' is the name of the case on line 2 already"):
        parse_cases((HEAD + one + one).encode(), "cases")
    with pytest.raises(PolicyError, match="expect"):
        parse_cases((HEAD + one.replace('expect = "deny"\n', "")).encode(), "cases")


def test_the_defaults_of_a_case_are_those_of_a_machine_in_good_order() -> None:
    facts, request, _ = decide_case(make_case({"labels": {"gpu": "yes"}}), policies())
    assert (request.context["trusted"], request.context["tier"]) == (True, 3)
    assert facts.risk().total == TIER[3]
    facts, request, _ = decide_case(make_case({}), policies())
    assert (facts.executor_class, request.context["trusted"], request.context["tier"]) == ("", False, 0)
    _, request, _ = decide_case(make_case({"virtual": True}), policies())
    assert (request.executor_attributes["class"], request.context["tier"]) == ("small", 2)


@pytest.mark.parametrize(("day", "number"), [("mon", 1), ("wed", 3), ("sun", 7)])
def test_a_time_is_the_one_that_is_written(day: str, number: int) -> None:
    _, request, _ = decide_case(make_case({"time": f"{day} 23:05"}), policies())
    assert request.context["time"] == {"hour": 23, "minute": 5, "weekday": number, "day_minutes": 23 * 60 + 5}


@pytest.mark.parametrize("now_ms", [0, 86_399_999, 951_782_400_000, 1_709_164_800_000, 4_102_444_799_999])
def test_the_time_of_an_instant_is_that_of_the_calendar(now_ms: int) -> None:
    known = datetime.fromtimestamp(now_ms / 1000, UTC)
    assert time_of_day(now_ms) == {
        "hour": known.hour,
        "minute": known.minute,
        "weekday": known.isoweekday(),
        "day_minutes": known.hour * 60 + known.minute,
    }


def test_results_come_in_the_order_of_the_file() -> None:
    results = run_cases(parse_cases(CASES.encode(), "cases"), policies())
    assert [one.line for one in results] == sorted(one.line for one in results)


# --- explain -----------------------------------------------------------------------------------------------------
def test_a_permit_is_explained_by_its_policy(folder: Path) -> None:
    ran = run("explain", folder, "--case", "nightly")
    assert ran.code == 0
    assert f"permit nightly {folder / 'dispatch.cedar'}:1" in ran.out
    assert 'principal in Group::"release"' in ran.out
    found = run("explain", folder, "--case", "nightly", "--json").json
    assert [one["id"] for one in found["deciding"]] == ["nightly"]
    assert found["risk"] == {"total": 5, "parts": [{"name": "tier", "points": 5, "because": "A3"}]}


def test_a_forbid_is_explained_by_itself(folder: Path) -> None:
    found = run("explain", folder, "--case", "risky", "--json")
    assert found.code == 1
    assert [one["id"] for one in found.json["deciding"]] == ["no-risk"]
    assert found.json["closest"] == []
    assert {part["name"] for part in found.json["risk"]["parts"]} >= {"vector.executables", "tier"}


def test_a_denial_by_default_names_what_was_missing(folder: Path) -> None:
    ran = run("explain", folder, "--case", "nightly", "--time", "sat 07:00", "--workflow", "other", "--json")
    assert ran.code == 1
    first, second = ran.json["closest"]
    assert (first["id"], second["id"]) == ("nightly", "children")
    assert [part["text"] for part in first["failing"]] == [
        'context.workflow == "nightly"',
        "unless context.time.hour >= 6",
        "unless context.time.weekday > 5",
    ]
    assert {"text": 'action == Action::"delegate"', "holds": False} in second["failing"]
    assert any(part["holds"] is None for part in second["failing"])  # asks about a parent that is not there
    assert "is not so: context.workflow" in run("explain", folder, "--case", "nightly", "--workflow", "other").out


def test_options_make_a_case_of_their_own(folder: Path) -> None:
    options = ("--orchestrator", "ci", "--label", "gpu=yes", "--workflow", "nightly", "--time", "mon 00:00")
    assert run("explain", folder, *options).code == 0
    assert run("explain", folder, *options, "--untrusted").code == 1
    assert run("explain", folder, "--action", "delegate", "--label", "gpu=yes", "--parent", "ci").code == 0
    assert run("explain", folder, "--action", "delegate", "--label", "gpu=yes", "--parent", "other").code == 1


def test_a_case_or_a_label_that_is_none_is_wrong_usage(folder: Path) -> None:
    assert run("explain", folder, "--case", "no such case").code == 2
    assert run("explain", folder, "--label", "gpu").code == 2
    assert run("explain", folder, "--time", "noon").code == 1
