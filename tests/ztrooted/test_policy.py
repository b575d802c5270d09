"""The dispatch policy: deny by default, and an error is a denial."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted import canonical
from ztrooted.cedar_schema import VECTOR
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.policy import STARTER, Decision, DispatchPolicy, Request
from ztrooted.reasons import GateReason

CONTEXT = {
    "trusted": True,
    "tier": 2,
    "virtual": False,
    "vector": dict.fromkeys(VECTOR, 2),
    "risk": 15,
    "workflow": "nightly",
    "run": "17",
    "step": "build",
    "attempt": 1,
    "job": "ab" * 32,
    "job_files": ["cd" * 32],
    "env": "ef" * 32,
    "max_runtime_s": 3600,
    "time": {"hour": 12, "minute": 30, "weekday": 3, "day_minutes": 750},
    "delegation": {"depth": 0, "children": 0},
}
ATTRIBUTES = {"class": "default", "virtual": False, "manufacturer": "id:494E5443"}


def load(text: str) -> DispatchPolicy:
    return DispatchPolicy(text.encode(), "dispatch.cedar")


def asked(action: str = "dispatch", attributes: dict[str, Any] | None = None, **context: Any) -> Request:
    return Request(
        action=action,
        orchestrator="ci",
        groups=("engineering",),
        executor="ex-" + "0" * 32,
        pools=("gpu",),
        executor_attributes=ATTRIBUTES if attributes is None else attributes,
        context={**CONTEXT, **context},
    )


@pytest.mark.parametrize("action", ["dispatch", "renew"])
def test_the_starter_policy_permits_a_trusted_machine(action: str) -> None:
    decision = load(STARTER).decide(asked(action))
    assert decision == Decision(True, ("trusted-machines-only",), (), None)


@pytest.mark.parametrize("action", ["dispatch", "renew"])
def test_the_starter_policy_denies_an_untrusted_machine(action: str) -> None:
    decision = load(STARTER).decide(asked(action, trusted=False))
    assert decision == Decision(False, (), (), GateReason.POLICY_DENIED)


@given(
    trusted=st.booleans(),
    tier=st.integers(-(2**63), 2**63 - 1),
    virtual=st.booleans(),
    attempt=st.integers(1, 10**6),
    workflow=st.text(st.characters(codec="utf-8"), max_size=20),
)
def test_the_starter_policy_asks_for_trust_and_nothing_else(trusted: bool, **context: Any) -> None:
    assert load(STARTER).decide(asked(trusted=trusted, **context)).permitted is trusted


def test_a_forbid_overrides_every_permit() -> None:
    policy = load(STARTER + '@id("no-virtual") forbid (principal, action, resource) when { context.virtual };')
    assert policy.decide(asked()).permitted
    decision = policy.decide(asked(virtual=True))
    assert (decision.permitted, decision.determining) == (False, ("no-virtual",))
    assert decision.reason is GateReason.POLICY_DENIED


def test_a_policy_with_only_a_forbid_denies_everything() -> None:
    assert not load("forbid (principal, action, resource);").decide(asked()).permitted


def test_a_narrow_policy_permits_only_what_it_names() -> None:
    policy = load(
        'permit (principal == Orchestrator::"ci", action == Action::"dispatch", resource)'
        ' when { context.trusted && context.workflow == "nightly" && resource.class == "default" };'
    )
    assert policy.decide(asked()).permitted
    assert not policy.decide(asked("renew")).permitted
    assert not policy.decide(asked(workflow="nightly2")).permitted
    assert not policy.decide(asked(attributes={"class": "other", "virtual": False})).permitted
    other = replace(asked(), orchestrator="other")
    assert not policy.decide(other).permitted


INVALID = {
    "J14 half a statement": "permit (principal, action, resource",
    "another language": "allow { input.trusted }",
    "attribute the context lacks": "permit (principal, action, resource) when { context.trustd };",
    "attribute the executor lacks": 'permit (principal, action, resource) when { resource.clas == "a" };',
    "entity type we don't have": 'permit (principal == User::"a", action, resource);',
    "action we don't have": 'permit (principal, action == Action::"run", resource);',
    "number compared with text": 'permit (principal, action, resource) when { context.tier == "2" };',
    "condition that is no truth value": "permit (principal, action, resource) when { context.tier };",
    "one bad policy among good ones": STARTER + "permit (principal, action, resource) when { context.x };",
}


@pytest.mark.parametrize("text", INVALID.values(), ids=INVALID.keys())
def test_J3_a_policy_that_does_not_parse_or_fit_the_schema_is_refused(text: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        load(text)
    assert refusal.value.reason is GateReason.POLICY_INVALID
    assert refusal.value.detail.startswith("dispatch.cedar")


def test_bytes_that_are_no_text_are_refused() -> None:
    with pytest.raises(PolicyError) as refusal:
        DispatchPolicy(b"\xff" + STARTER.encode(), "dispatch.cedar")
    assert refusal.value.reason is GateReason.POLICY_INVALID


@pytest.mark.parametrize(
    "text",
    ["", "\n", "// permit (principal, action, resource);", "permit (principal == ?principal, action, resource);"],
)
def test_J2_a_policy_without_a_rule_is_refused(text: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        load(text)
    assert refusal.value.reason is GateReason.POLICY_EMPTY


OVERFLOW = "context.trusted && context.tier + 9223372036854775807 > 0"
FAILING = {
    "the only permit": f"permit (principal, action, resource) when {{ {OVERFLOW} }};",
    "a forbid beside a permit": f"{STARTER} forbid (principal, action, resource) when {{ {OVERFLOW} }};",
    "a permit beside a permit": f"{STARTER} permit (principal, action, resource) when {{ {OVERFLOW} }};",
}


@pytest.mark.parametrize("text", FAILING.values(), ids=FAILING.keys())
def test_J1_an_error_in_evaluation_denies(text: str) -> None:
    """Cedar skips a policy that fails; a forbid that is skipped would be a permit, so we deny instead."""
    policy = load(text)
    decision = policy.decide(asked())
    assert (decision.permitted, decision.reason) == (False, GateReason.POLICY_ERROR)
    assert decision.errors
    if "permit" in text:
        assert not policy.decide(asked(tier=3)).permitted


EVERYTHING = '@permits_everything("intended") permit (principal, action, resource);'
REQUESTS: dict[str, Request] = {
    "unknown action": asked("run"),
    "trusted as text": asked(trusted="true"),
    "trusted is 1": asked(trusted=1),
    "trusted is null": asked(trusted=None),
    "tier as a fraction": asked(tier=2.5),
    "tier beyond 64 bits": asked(tier=1 << 63),
    "workflow is a list": asked(workflow=["nightly"]),
    "half a surrogate pair": asked(workflow="\ud800"),
    "an extra member": asked(extra=True),
    "trusted missing": Request(
        "dispatch",
        "ci",
        (),
        "ex",
        (),
        ATTRIBUTES,
        {name: value for name, value in CONTEXT.items() if name != "trusted"},
    ),
    "no context": Request("dispatch", "ci", (), "ex", (), ATTRIBUTES, {}),
    "no class": asked(attributes={"virtual": False}),
    "class is a number": asked(attributes={"class": 1, "virtual": False}),
    "an extra attribute": asked(attributes={**ATTRIBUTES, "admin": True}),
    "a label that is no text": replace(asked(), labels={"gpu": 1}),
    "a claim is missing": asked(vector={}),
    "a parent that is nobody": asked(parent={"orchestrator": "ci"}),
    "half a surrogate pair as a name": replace(asked(), orchestrator="\ud800"),
    "an entity in the attributes": asked(attributes={"class": {"__entity": {"type": "Pool", "id": "p"}}}),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_J7_a_request_that_does_not_fit_the_schema_is_denied_as_an_error(request_: Request) -> None:
    decision = load(EVERYTHING).decide(request_)
    assert (decision.permitted, decision.reason) == (False, GateReason.POLICY_ERROR)


@pytest.mark.parametrize("name", ['a"b', "a\\b", "a\nb", "a\0b", '"); permit (principal, action, resource', "✓"])
def test_a_name_is_data_and_never_policy(name: str) -> None:
    policy = load('permit (principal == Orchestrator::"ci", action, resource);')
    assert not policy.decide(
        Request("dispatch", name, (name,), name, (name,), ATTRIBUTES, {**CONTEXT, "workflow": name})
    ).permitted


def test_equal_requests_give_equal_bytes_and_any_other_another_digest() -> None:
    request = asked()
    assert Request.decode(canonical.decode(canonical.encode(request.encode()))) == request
    assert asked().digest() == request.digest()
    others = [asked("renew"), asked(trusted=False), asked(attributes={"class": "b", "virtual": False}), asked(job="")]
    assert len({one.digest() for one in [request, *others]}) == 5


def test_a_decision_can_be_recorded() -> None:
    for decision in (load(STARTER).decide(asked()), load(FAILING["the only permit"]).decide(asked())):
        encoded = canonical.decode(canonical.encode(decision.encode()))
        assert encoded["permitted"] is decision.permitted
        assert encoded["reason"] == decision.reason


def test_a_policy_is_named_by_its_exact_bytes() -> None:
    assert load(STARTER).digest == sha256(STARTER.encode())
    assert load(STARTER + "\n").digest != load(STARTER).digest


@pytest.mark.parametrize(("labels", "permitted"), [({"gpu": "yes"}, True), ({"gpu": "no"}, False), ({}, False)])
def test_labels_of_an_executor_are_its_tags(labels: dict[str, str], permitted: bool) -> None:
    policy = load(
        "permit (principal, action, resource)"
        ' when { context.trusted && resource.hasTag("gpu") && resource.getTag("gpu") == "yes" };'
    )
    assert policy.decide(replace(asked(), labels=labels)).permitted is permitted


PARENT = {
    "authorization": "0" * 32,
    "orchestrator": {"__entity": {"type": "Orchestrator", "id": "above"}},
    "executor": "ex-" + "0" * 32,
    "workflow": "nightly",
    "step": "plan",
    "depth": 0,
    "children": 0,
    "tier": 3,
}


@pytest.mark.parametrize(("groups", "permitted"), [(("release",), True), (("engineering",), False), ((), False)])
def test_the_orchestrator_of_a_parent_belongs_to_its_own_groups(groups: tuple[str, ...], permitted: bool) -> None:
    policy = load(
        'permit (principal, action == Action::"delegate", resource) when { context.trusted && context has parent'
        ' && context.parent.orchestrator in Group::"release" && context.parent.executor == resource.id };'
    )
    request = replace(asked("delegate", parent=PARENT), groups=("release",), parent_groups=groups)
    assert policy.decide(request).permitted is permitted


def test_user_and_limits_can_be_asked_about_where_a_job_has_them() -> None:
    policy = load(
        "permit (principal, action, resource) when { context.trusted"
        ' && context has user && !(context.user like "0:*")'
        " && context has limits && context.limits has memory && context.limits.memory <= 1000000000 };"
    )
    assert policy.decide(asked(user="1000:1000", limits={"memory": 64 << 20, "pids": 5})).permitted
    for refused in (
        asked(),
        asked(user="1000:1000"),
        asked(user="0:0", limits={"memory": 64 << 20}),
        asked(user="1000:1000", limits={"pids": 5}),
        asked(user="1000:1000", limits={"memory": 64 << 30}),
    ):
        decision = policy.decide(refused)
        assert (decision.permitted, decision.errors) == (False, ())


def test_a_policy_that_forgets_that_limits_may_be_missing_is_refused() -> None:
    with pytest.raises(PolicyError, match="limits"):
        load("permit (principal, action, resource) when { context.trusted && context.limits.memory <= 1000000000 };")


@pytest.mark.parametrize(
    ("condition", "permitted"),
    [
        ("context.vector.executables < 32 && context.vector.file_system >= 2", True),
        ("context.time.weekday == 3 && context.time.day_minutes == 750", True),
        ("context.risk <= 14", False),
        ('["' + "cd" * 32 + '"].containsAll(context.job_files)', True),
        ('["' + "ce" * 32 + '"].containsAll(context.job_files)', False),
        ('context.env == "' + "ef" * 32 + '" && context.max_runtime_s <= 3600', True),
        ('resource.manufacturer == "id:494E5443" && resource.id like "ex-*"', True),
    ],
)
def test_everything_that_was_verified_can_be_asked_about(condition: str, permitted: bool) -> None:
    policy = load(f"permit (principal, action, resource) when {{ context.trusted && {condition} }};")
    assert policy.decide(asked()).permitted is permitted
