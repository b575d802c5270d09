"""The dispatch policy: deny by default, and an error is a denial."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted import canonical
from ztrooted.ar4si import TrustVector
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.policy import STARTER, Decision, DispatchPolicy, Request
from ztrooted.reasons import GateReason

CONTEXT = {
    "trusted": True,
    "tier": 2,
    "virtual": False,
    "vector": dict.fromkeys(TrustVector().as_context(), 0),
    "risk": 10,
    "workflow": "nightly",
    "run": "17",
    "step": "build",
    "attempt": 1,
    "job": "ab" * 32,
    "env": "cd" * 32,
    "files": [],
    "max_runtime_s": 600,
    "time": {"hour": 3, "minute": 190, "weekday": 1},
    "delegation": {"depth": 0, "children": 0},
}
ATTRIBUTES = {"class": "default", "virtual": False, "manufacturer": "id:494E5443", "labels": ["zone=eu"]}
OPEN = '@permits_everything("intended") permit (principal, action, resource);'


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
    assert not policy.decide(asked(attributes={**ATTRIBUTES, "class": "other"})).permitted
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
    "no class": asked(attributes={name: ATTRIBUTES[name] for name in ("virtual", "manufacturer", "labels")}),
    "class is a number": asked(attributes={**ATTRIBUTES, "class": 1}),
    "an extra attribute": asked(attributes={**ATTRIBUTES, "admin": True}),
    "an entity in the attributes": asked(attributes={**ATTRIBUTES, "class": {"__entity": {"type": "Pool", "id": "p"}}}),
}


@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS.keys())
def test_J7_a_request_that_does_not_fit_the_schema_is_denied_as_an_error(request_: Request) -> None:
    decision = load(OPEN).decide(request_)
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
    others = [asked("renew"), asked(trusted=False), asked(attributes={**ATTRIBUTES, "class": "b"}), asked(job="")]
    assert len({one.digest() for one in [request, *others]}) == 5


def test_a_decision_can_be_recorded() -> None:
    for decision in (load(STARTER).decide(asked()), load(FAILING["the only permit"]).decide(asked())):
        encoded = canonical.decode(canonical.encode(decision.encode()))
        assert encoded["permitted"] is decision.permitted
        assert encoded["reason"] == decision.reason


def test_a_policy_is_named_by_its_exact_bytes() -> None:
    assert load(STARTER).digest == sha256(STARTER.encode())
    assert load(STARTER + "\n").digest != load(STARTER).digest


# --- what would permit everything --------------------------------------------------------------------------------
OPEN_TEXTS = {
    "no condition": "permit (principal, action, resource);",
    "when true": "permit (principal, action, resource) when { true };",
    "unless false": "permit (principal, action, resource) unless { false };",
    "or true": "permit (principal, action, resource) when { context.trusted || true };",
    "not never": "permit (principal, action, resource) when { !(context.trusted && false) };",
    "equal to itself": "permit (principal, action, resource) when { context.tier == context.tier };",
    "every type": "permit (principal is Orchestrator, action, resource is Executor);",
    "every action": 'permit (principal, action in [Action::"dispatch", Action::"delegate", Action::"renew"], resource);',
    "what a machine that proved nothing fulfils": "permit (principal, action, resource) when { context.tier >= 0 };",
    "who is not trusted": "permit (principal, action, resource) unless { context.trusted };",
}


@pytest.mark.parametrize("text", OPEN_TEXTS.values(), ids=OPEN_TEXTS.keys())
def test_J2_a_policy_that_permits_everything_needs_the_explicit_word(text: str) -> None:
    with pytest.raises(PolicyError) as refusal:
        load(f"{STARTER}\n{text}")
    assert refusal.value.reason is GateReason.POLICY_PERMITS_ALL
    line = STARTER.count("\n") + 2
    assert refusal.value.detail.startswith(f"dispatch.cedar:{line}: line {line}: ")
    meant = load(f'{STARTER}\n@permits_everything("intended")\n{text}')
    assert meant.permits_everything == (f"line {line}",)
    with pytest.raises(PolicyError):
        load(f'{STARTER}\n@permits_everything("yes")\n{text}')


@pytest.mark.parametrize(
    "text",
    [
        STARTER,
        "permit (principal, action, resource) when { context.tier >= 1 };",
        'permit (principal == Orchestrator::"ci", action, resource);',
        'permit (principal, action == Action::"renew", resource) when { context.trusted };',
        "permit (principal, action, resource) when { context.trusted } unless { context.virtual };",
        "forbid (principal, action, resource);",
    ],
)
def test_a_policy_with_conditions_needs_no_word(text: str) -> None:
    assert load(text).permits_everything == ()


# --- where an error is -------------------------------------------------------------------------------------------
PLACES = {
    "half a statement": ("// first\npermit (principal, action, resource", 3),
    "another attribute": ("\npermit (principal, action, resource)\nwhen { context.trustd };", 3),
    "text with a semicolon": ('permit (principal, action, resource) when { context.step == "a;" && context.x };', 2),
    "the same name": ('@id("trusted-machines-only") forbid (principal, action, resource);', 2),
}


@pytest.mark.parametrize(("text", "below"), PLACES.values(), ids=PLACES.keys())
def test_an_error_names_its_line(text: str, below: int) -> None:
    with pytest.raises(PolicyError) as refusal:
        load(f"{STARTER}\n{text}")
    line = STARTER.count("\n") + below
    assert refusal.value.detail.startswith(f"dispatch.cedar:{line}: ")


def test_an_error_says_what_was_probably_meant() -> None:
    with pytest.raises(PolicyError) as refusal:
        load("permit (principal, action, resource) when { context.trustd };")
    assert "did you mean 'trusted'?" in refusal.value.detail


def test_a_policy_without_a_name_is_called_by_its_line() -> None:
    policy = load("\n\npermit (principal, action, resource) when { context.trusted };")
    assert policy.decide(asked()).determining == ("line 3",)


@given(st.permutations([STARTER, OPEN, '@id("f") forbid (principal, action, resource) when { context.attempt > 3 };']))
def test_the_order_of_policies_decides_nothing(texts: list[str]) -> None:
    policy = load("\n".join(texts))
    assert policy.decide(asked()).permitted
    assert not policy.decide(asked(attempt=4)).permitted


# --- only what can decide is asked -------------------------------------------------------------------------------
SCOPES = st.sampled_from(
    [
        ("principal", "action", "resource"),
        ('principal == Orchestrator::"a"', "action", "resource"),
        ('principal in Group::"g"', "action", "resource"),
        ('principal in Orchestrator::"b"', "action", 'resource in Pool::"p"'),
        ("principal is Orchestrator", 'action == Action::"renew"', "resource"),
        ('principal is Orchestrator in Group::"h"', "action", "resource is Executor"),
        ("principal", 'action in [Action::"dispatch", Action::"renew"]', 'resource == Executor::"x"'),
        ("principal", 'action in Action::"delegate"', 'resource in Executor::"y"'),
    ]
)
CONDITIONS = st.sampled_from(["context.trusted", "context.attempt > 2", "context.tier + 9223372036854775807 > 0"])
RULES = st.lists(st.tuples(st.sampled_from(["permit", "forbid"]), SCOPES, CONDITIONS), min_size=1, max_size=6)


@given(
    RULES,
    st.sampled_from(["a", "b", "c"]),
    st.sets(st.sampled_from(["g", "h"])),
    st.sampled_from(["x", "y", "z"]),
    st.sets(st.sampled_from(["p", "q"])),
    st.sampled_from(["dispatch", "delegate", "renew"]),
    st.booleans(),
    st.integers(1, 4),
)
def test_leaving_out_policies_whose_scope_does_not_fit_decides_nothing(
    rules: list[tuple[str, tuple[str, str, str], str]],
    orchestrator: str,
    groups: set[str],
    executor: str,
    pools: set[str],
    action: str,
    trusted: bool,
    attempt: int,
) -> None:
    text = "\n".join(
        f'@permits_everything("intended") @id("r{number}") {effect} ({", ".join(scope)}) when {{ {condition} }};'
        for number, (effect, scope, condition) in enumerate(rules)
    )
    policy = load(text)
    request = replace(
        asked(action, trusted=trusted, attempt=attempt),
        orchestrator=orchestrator,
        groups=tuple(sorted(groups)),
        executor=executor,
        pools=tuple(sorted(pools)),
    )
    sliced = policy.decide(request)
    policy._fitting.clear()
    policy._scopes = [{"principal": {"op": "All"}, "action": {"op": "All"}, "resource": {"op": "All"}}] * len(rules)
    assert policy.decide(request) == sliced
