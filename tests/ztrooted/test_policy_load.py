"""What is refused when a dispatch policy is loaded: with its line, a hint, and nothing of it used."""

import subprocess
import sys
from contextlib import suppress

import pytest

from tests.ztrooted.test_policy import asked, load
from ztrooted.cedar_text import MAX_BRACKETS, MAX_OPERATORS, MAX_POLICIES, MAX_STATEMENT
from ztrooted.errors import PolicyError
from ztrooted.policy import STARTER
from ztrooted.policy_checks import MAX_REFUSALS
from ztrooted.reasons import GateReason

GOOD = '@id("good") permit (principal, action, resource) when { context.trusted };\n'


def refused(text: str, reason: GateReason = GateReason.POLICY_INVALID) -> str:
    with pytest.raises(PolicyError) as refusal:
        load(text)
    assert refusal.value.reason is reason, refusal.value.detail
    return refusal.value.detail


def condition(text: str) -> str:
    return f"permit (principal, action, resource) when {{ {text} }};"


PLACED = {
    "a token that nothing can make good": (
        GOOD + "// a comment; with a semicolon\npermit (principal, action, resource)\nwhen { context.trusted }\n&& x;",
        "dispatch.cedar:5: unexpected token `&&`",
    ),
    "another language": (GOOD + "allow { x }", "dispatch.cedar:2: unexpected token `{`; a policy begins with"),
    "a slip of the pen": (
        GOOD + "\npermti (principal, action, resource);",
        "dispatch.cedar:3: invalid policy effect: permti; did you mean permit?",
    ),
    "a text that does not end": (GOOD + condition('context.step == "x').replace("when", "\nwhen"), "dispatch.cedar:3:"),
    "no semicolon": (GOOD + "permit (principal, action, resource)", "dispatch.cedar:2: unexpected end of input"),
    "attribute": (
        GOOD + "permit (principal, action, resource)\nwhen { context.trustd };",
        "dispatch.cedar:3: this policy: attribute `trustd` in context not found; did you mean context.trusted?",
    ),
    "attribute of another record": (
        GOOD + condition("context.hour < 6"),
        "attribute `hour` in context not found; did you mean context.time.hour?",
    ),
    "attribute of the executor": (GOOD + condition('resource.clas == "a"'), "did you mean resource.class?"),
    "action": (
        'permit (principal, action == Action::"dispach", resource);',
        'did you mean Action::"dispatch"?',
    ),
    "type": ('permit (principal in Groups::"a", action, resource);', "did you mean Group?"),
    "parent that may be missing": (condition("context.parent.depth == 1"), "ask 'context has parent' before"),
    "label that may be missing": (condition('resource.getTag("gpu") == "yes"'), 'ask resource.hasTag("…") before'),
    "policy with an id": (
        '\n@id("odd") permit (principal, action, resource) when { context.tier == "2" };',
        'dispatch.cedar:2: policy "odd": the types Long and String are not compatible',
    ),
    "id twice": (GOOD + "\n" + GOOD, 'dispatch.cedar:3: @id("good") is that of the policy on line 1 already'),
    "id that a line has": (
        '@id("line 2") permit (principal, action, resource) when { context.trusted };\n' + condition("context.virtual"),
        'dispatch.cedar:2: @id("line 2") is that of the policy on line 1 already',
    ),
    "id that is empty": ('@id("") forbid (principal, action, resource);', "an @id is one line of 1 to 128 characters"),
    "id with a line break": ('@id("a\\nb") forbid (principal, action, resource);', "an @id is one line"),
    "annotation": ('@i("a") forbid (principal, action, resource);', "unknown annotation @i; did you mean @id?"),
    "template": (
        GOOD + "forbid (principal == ?principal, action, resource);",
        "dispatch.cedar:2: this policy is a template",
    ),
}


@pytest.mark.parametrize(("text", "detail"), PLACED.values(), ids=PLACED.keys())
def test_J3_what_is_wrong_is_named_with_its_line(text: str, detail: str) -> None:
    assert detail in refused(text)


def test_everything_that_is_wrong_is_told_at_once_and_within_bounds() -> None:
    lines = refused("".join(f"{condition('context.x')}\n" for _ in range(3))).splitlines()
    assert [line.partition(" ")[0] for line in lines] == [f"dispatch.cedar:{number}:" for number in (1, 2, 3)]
    assert len(refused((condition("context.x") + "\n") * 40).splitlines()) == MAX_REFUSALS + 1


@pytest.mark.parametrize("separator", ["\n", "\r\n", "\r", "\u2028"])
def test_the_end_of_a_comment_is_where_the_library_sees_it(separator: str) -> None:
    """Otherwise something would be in force that was never looked at."""
    hidden = f"{GOOD}// nothing{separator}forbid (principal, action, resource);"
    with suppress(PolicyError):
        policy = load(hidden)
        assert policy.decide(asked()).permitted is (len(policy.rules) == 1)


def test_a_policy_without_an_id_is_called_by_its_line() -> None:
    policy = load("\n" + condition("context.trusted") + condition("context.tier > 1") + GOOD)
    assert [rule.id for rule in policy.rules] == ["line 2", "line 2, policy 2", "good"]
    assert policy.decide(asked()).determining == ("good", "line 2", "line 2, policy 2")


REACHING = {
    "attribute": 'Executor::"a".virtual',
    "groups": 'Orchestrator::"a" in Group::"b"',
    "groups of a group": 'Group::"a" in Group::"b"',
    "labels": 'Executor::"a".hasTag("x")',
    "by a choice": '(if context.trusted then Orchestrator::"a" else principal) in Group::"b"',
    "by a record": '{a: Executor::"a"}.a.virtual',
}


@pytest.mark.parametrize("text", REACHING.values(), ids=REACHING.keys())
def test_a_policy_asks_about_nobody_but_those_of_the_request(text: str) -> None:
    """A request says nothing of others, so any answer about them would be an invention."""
    assert "and not about" in refused(condition(f"context.trusted && {text}"))


def test_names_may_be_compared_with() -> None:
    text = 'context.trusted && ([Orchestrator::"ci"].contains(principal) || resource == Executor::"a")'
    assert load(condition(text)).decide(asked()).permitted


EVERYTHING = {
    "no condition": "permit (principal, action, resource);",
    "types only": "permit (principal is Orchestrator, action, resource is Executor);",
    "all actions": (
        'permit (principal, action in [Action::"dispatch", Action::"delegate", Action::"renew"], resource);'
    ),
    "when true": condition("true"),
    "unless false": "permit (principal, action, resource) unless { false };",
    "not false": condition("!false"),
    "a or not a": condition("context.trusted || !context.trusted"),
    "a is a": condition("context.workflow == context.workflow"),
    "is true or is false": condition("context.trusted == true || context.trusted == false"),
    "at most or above": condition("context.tier <= 2 || context.tier > 2"),
    "equal or unequal": condition('context.step == "a" || "a" != context.step'),
    "if": condition("if context.trusted then true else !context.trusted"),
    "within its range": condition("context.tier >= 0 && context.risk <= 100"),
    "any text": condition('context.workflow like "*"'),
    "what is always there": condition("context has trusted"),
    "numbers": condition("1 < 2"),
    "distribution": condition(
        "(context.trusted && context.virtual) || (context.trusted && !context.virtual) || !context.trusted"
    ),
    "beside a forbid": "forbid (principal, action, resource) unless { context.trusted };" + condition("true"),
    # These are found by asking.
    "every dispatch": 'permit (principal, action == Action::"dispatch", resource);',
    "every renewal": 'permit (principal, action == Action::"renew", resource);',
    "every child": 'permit (principal, action == Action::"delegate", resource) when { context has parent };',
    "all but one workflow": condition('context.workflow != "secret"'),
    "untrusted ones": condition("!context.trusted"),
    "at night": condition("context.time.hour < 6"),
    "on Sundays": condition("context.time.weekday == 7"),
    "one permit for each half": condition("context.trusted") + condition("!context.trusted"),
}


@pytest.mark.parametrize("text", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_J2_a_permit_for_everything_is_refused(text: str) -> None:
    detail = refused(text, GateReason.POLICY_PERMITS_ALL)
    assert detail.startswith("dispatch.cedar:1: policy ")
    assert '@permits_everything("intended")' in detail


@pytest.mark.parametrize("text", EVERYTHING.values(), ids=EVERYTHING.keys())
def test_a_permit_for_everything_that_says_so_is_known_as_one(text: str) -> None:
    policy = load(text.replace("permit (", '@permits_everything("intended") permit ('))
    assert policy.permits_everything


def test_J13_the_word_is_needed_and_only_before_a_permit() -> None:
    for text in (
        '@permits_everything("yes") permit (principal, action, resource);',
        "@permits_everything permit (principal, action, resource);",
        '@permits_everything("intended") forbid (principal, action, resource);' + GOOD,
    ):
        assert "is all it can say" in refused(text)


def test_one_that_says_so_does_not_excuse_another() -> None:
    text = '@permits_everything("intended") permit (principal, action, resource);\n' + condition("!context.trusted")
    assert "dispatch.cedar:2:" in refused(text, GateReason.POLICY_PERMITS_ALL)


@pytest.mark.parametrize(
    "text",
    [
        STARTER,
        GOOD,
        condition('context.workflow == "nightly"'),
        condition("context.tier >= 1"),
        'permit (principal == Orchestrator::"ci", action, resource);',
        condition("context.tier >= 2 || context.tier <= 3").replace("2 ||", "2 &&"),
    ],
)
def test_a_permit_with_a_condition_is_none_for_everything(text: str) -> None:
    assert not load(text).permits_everything


HEAVY = {
    "brackets": condition("(" * 1000 + "true" + ")" * 1000),
    "sets": condition("[" * 1000 + "]" * 1000 + " == []"),
    "and": condition("context.trusted && " * 5000 + "true"),
    "if": condition("if context.trusted then true else " * 5000 + "true"),
    "attributes": condition("context" + ".a" * 5000),
    "sum": condition("1 + " * 5000 + "1 == 2"),
    "open": "(" * 100_000,
    "hidden behind a comment": "// a\r" + condition("(" * 1000 + "true" + ")" * 1000),
}


@pytest.mark.parametrize("text", HEAVY.values(), ids=HEAVY.keys())
def test_nesting_that_would_end_the_process_is_refused_before(text: str) -> None:
    """The library overflows its stack on it, which nobody can catch."""
    assert "nested too deep" in refused(GOOD + text)


@pytest.mark.parametrize(
    "text",
    [
        condition("(" * (MAX_BRACKETS - 3) + "true" + ")" * (MAX_BRACKETS - 3)),
        condition("true && " * (MAX_OPERATORS - 3) + "true"),
        condition("context" + ".a" * (MAX_OPERATORS - 3)),
        condition("(true && " * (MAX_BRACKETS - 3) + "true" + " && true" * 100 + ")" * (MAX_BRACKETS - 3)),
    ],
)
def test_what_is_let_through_ends_no_process_on_a_small_stack(text: str) -> None:
    program = (
        "import sys, threading\nfrom ztrooted.policy import DispatchPolicy\nfrom ztrooted.errors import PolicyError\n"
        "def run():\n    try:\n        DispatchPolicy(sys.stdin.buffer.read(), 'x')\n    except PolicyError:\n"
        "        print('refused')\nthreading.stack_size(1 << 20)\nthread = threading.Thread(target=run)\n"
        "thread.start()\nthread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], input=text.encode(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout == b"refused\n"


def test_a_set_of_many_names_is_no_deep_nesting() -> None:
    names = ", ".join(f'"{number:064}"' for number in range(256))
    assert load(condition(f"context.trusted && [{names}].containsAll(context.job_files)")).decide(asked()).errors == ()


def test_files_have_a_size() -> None:
    assert f"more than {MAX_POLICIES}" in refused(GOOD.replace('@id("good")', "") * (MAX_POLICIES + 1))
    assert f"over {MAX_STATEMENT}" in refused(condition(f'context.step == "{"x" * MAX_STATEMENT}"'))
