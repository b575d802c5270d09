"""Tables of cases, the ready-made policies with theirs, and the commands that run them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import run
from ztrooted import ready_made
from ztrooted.errors import PolicyError
from ztrooted.policies import FILES, Policies
from ztrooted.policy_cases import FILE, Cases
from ztrooted.policy_check import problems
from ztrooted.reasons import GateReason

GOOD = """\
format = "ztrooted-cases/1"

[[case]]
name = "good"
expect = "permit"
by = ["trusted-machines-only"]

[[case]]
name = "bad"
trusted = false
expect = "deny"

[[class_case]]
name = "class"
expect = "default"
"""


def policies(name: str, **changed: str) -> Policies:
    files = ready_made.files(name)
    return Policies.load({role: changed.get(role, files[file].decode()).encode() for role, file in FILES.items()})


def load(text: str) -> Cases:
    return Cases(text.encode(), "cases.toml")


@pytest.mark.parametrize("name", ready_made.NAMES)
def test_a_ready_made_policy_passes_its_own_cases(name: str) -> None:
    cases = Cases(ready_made.files(name)[FILE], FILE)
    outcomes = cases.run(policies(name))
    assert len(outcomes) >= 4
    assert [one for one in outcomes if not one.passed] == []
    assert {one.expected.split()[0] for one in outcomes} >= {"permit", "deny"}
    assert problems(policies(name)) == []


def test_only_observing_is_shown_as_trusting_everything() -> None:
    warned = {name: policies(name).trusts_everything() for name in ready_made.NAMES}
    assert warned == {"observe": ("appraisal class 'default' only observes",), "boot": (), "strict": ()}


def test_a_case_that_comes_out_otherwise_fails() -> None:
    wrong = load(GOOD.replace('expect = "deny"', 'expect = "permit"')).run(policies("strict"))
    assert [one.name for one in wrong if not one.passed] == ["bad"]
    by_another = load(GOOD.replace("trusted-machines-only", "somebody")).run(policies("strict"))
    assert [one.name for one in by_another if not one.passed] == ["good"]
    other_class = load(GOOD.replace('expect = "default"', 'expect = "none"')).run(policies("strict"))
    assert [one.name for one in other_class if not one.passed] == ["class"]


POLICY = """\
@id("day") permit (principal in Group::"ci", action, resource in Pool::"gpu")
when { context.trusted && context.time.hour >= 8 && context.time.weekday <= 5 && context.risk < 50 };
@id("child") permit (principal, action == Action::"delegate", resource)
when { context.trusted && context has parent && context.parent.orchestrator == principal && context.parent.depth < 2 };
@id("no-file") forbid (principal, action, resource) when { context.files.contains("%s") };
@id("hardware") forbid (principal, action, resource) when { context.vector.hardware >= 32 };
""" % ("f" * 64)
ENTITIES = (
    'format = "ztrooted-entities/1"\n[group.ci]\nmembers = ["orchestrator"]\n[pool.gpu]\nlabels = { gpu = "yes" }\n'
)
CONDITIONS: dict[str, tuple[str, str]] = {
    "by day": ('labels = { gpu = "yes" }', "permit"),
    "by night": ('labels = { gpu = "yes" }\nat = 2026-01-05T03:00:00Z', "deny"),
    "by night elsewhere": ('labels = { gpu = "yes" }\nat = 2026-01-05T09:30:00+02:00', "deny"),
    "on Sunday": ('labels = { gpu = "yes" }\nat = 2026-01-04T12:00:00Z', "deny"),
    "another pool": ("", "deny"),
    "another group": ('labels = { gpu = "yes" }\norchestrator = "x"', "deny"),
    "too risky": ('labels = { gpu = "yes" }\ntier = 1\nattempt = 4', "deny"),
    "own child": ('action = "delegate"\nparent = {}', "permit"),
    "somebody's child": ('action = "delegate"\nparent = { orchestrator = "y" }', "deny"),
    "deep child": ('action = "delegate"\nparent = { depth = 2 }', "deny"),
    "forbidden file": (f'labels = {{ gpu = "yes" }}\nfiles = ["{"f" * 64}"]', "deny"),
    "warned of": ('labels = { gpu = "yes" }\nvector = { hardware = 32 }', "deny"),
}


@pytest.mark.parametrize(("members", "expect"), CONDITIONS.values(), ids=CONDITIONS.keys())
def test_a_case_can_say_everything_that_a_policy_can_ask(members: str, expect: str) -> None:
    text = f'format = "ztrooted-cases/1"\n[[case]]\nname = "x"\nexpect = "{expect}"\n{members}\n'
    (outcome,) = load(text).run(policies("strict", dispatch=POLICY, entities=ENTITIES))
    assert outcome.passed, outcome


BROKEN: dict[str, tuple[Callable[[str], str], str]] = {
    "J3 unknown key": (
        lambda text: text.replace("trusted =", "trused ="),
        "cases.toml:10: case.1.trused: unknown key; did you mean 'trusted'?",
    ),
    "J2 no case": (lambda _: 'format = "ztrooted-cases/1"\n', "has no case"),
    "J7 trusted as text": (lambda text: text.replace("= false", '= "no"'), "cases.toml:10: case.1.trusted"),
    "two of one name": (lambda text: text.replace('"bad"', '"good"'), "two cases have the name 'good'"),
    "another verdict": (lambda text: text.replace('"deny"', '"perhaps"'), "cases.toml:11: case.1.expect"),
    "an unknown action": (
        lambda text: text.replace("trusted = false", 'action = "run"'),
        "cases.toml:10: case.1.action",
    ),
    "a child without parent": (lambda text: text.replace("trusted = false", 'action = "delegate"'), "has a 'parent'"),
    "a time without zone": (
        lambda text: text.replace("trusted = false", "at = 2026-01-05T12:00:00"),
        "needs a time zone",
    ),
    "a claim there is not": (
        lambda text: text.replace("trusted = false", "vector = { virtue = 2 }"),
        "cases.toml:10: case.1.vector",
    ),
    "no format": (lambda text: text.partition("\n")[2], "format: Field required"),
}


@pytest.mark.parametrize(("change", "says"), BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_table_is_refused_whole_with_its_line(change: Callable[[str], str], says: str) -> None:
    with pytest.raises(PolicyError) as refused:
        load(change(GOOD))
    assert refused.value.reason is GateReason.POLICY_INVALID
    assert says in refused.value.detail


def test_names_that_do_not_exist_are_problems() -> None:
    text = (
        '@id("x") permit (principal in Group::"ci",\n action, resource in Pool::"p")\n'
        'when { context.trusted && resource.class == "c" };'
    )
    found = problems(policies("strict", dispatch=text))
    assert [(one.where, one.what) for one in found] == [
        ("dispatch.cedar:1", "x: there is no group 'ci' in entities.toml"),
        ("dispatch.cedar:2", "x: there is no pool 'p' in entities.toml"),
        ("dispatch.cedar:3", "x: there is no class 'c' in appraisal.toml"),
    ]


# --- the commands ------------------------------------------------------------------------------------------------
@pytest.fixture
def folder(tmp_path: Path) -> Path:
    done = run("policy", "new", "strict", str(tmp_path / "policy"))
    assert done.returncode == 0, done
    return tmp_path / "policy"


def test_a_new_folder_is_checked_and_tested(folder: Path) -> None:
    assert run("policy", "check", str(folder)).returncode == 0
    assert run("policy", "test", str(folder)).returncode == 0
    told = json.loads(run("policy", "check", str(folder), "--json").stdout)
    assert (told["ok"], told["classes"], told["policies"]) == (True, ["default"], ["trusted-machines-only"])
    again = run("policy", "new", "strict", str(folder))
    assert again.returncode == 3
    assert "environment.data_folder" in again.stderr


def test_a_failing_case_fails_the_command(folder: Path) -> None:
    table = folder / FILE
    table.write_text(table.read_text().replace('expect = "deny"', 'expect = "permit"', 1))
    done = run("policy", "test", str(folder))
    assert done.returncode == 1
    assert "FAILED" in done.stdout
    assert json.loads(run("policy", "test", str(folder), "--json").stdout)["passed"] is False


def test_what_decides_is_explained(folder: Path) -> None:
    no = run("policy", "explain", str(folder), "--case", "a machine that drifted may not", "--json")
    assert no.returncode == 1
    told = json.loads(no.stdout)
    assert told["decision"]["permitted"] is False
    assert [one["came"] for one in told["policies"]] == ["does not match"]
    assert told["risk"] == {"total": 100, "parts": {"tier A0": 100}}
    yes = run("policy", "explain", str(folder), "--case", "a machine that proved everything may work")
    assert yes.returncode == 0
    assert "permit, decided" in yes.stdout
    unknown = run("policy", "explain", str(folder), "--case", "x")
    assert unknown.returncode == 2


@pytest.mark.parametrize("command", ["check", "test"])
def test_a_broken_document_names_file_and_line(folder: Path, command: str) -> None:
    path = folder / "appraisal.toml"
    text = path.read_text().replace("lease_s", "leese_s")
    path.write_text(text)
    line = text.split("\n").index("leese_s = 30.0") + 1
    done = run("policy", command, str(folder))
    assert done.returncode == 1
    assert f"{path}:{line}: class.default.leese_s: unknown key; did you mean 'lease_s'?" in done.stderr.replace(
        "\n", ""
    )
    path.unlink()
    missing = run("policy", command, str(folder))
    assert missing.returncode == 3
    assert "config.missing" in missing.stderr


def test_a_policy_that_trusts_everything_is_shown(tmp_path: Path) -> None:
    run("policy", "new", "observe", str(tmp_path / "p"))
    done = run("policy", "check", str(tmp_path / "p"))
    assert "appraisal class 'default' only observes" in done.stdout
