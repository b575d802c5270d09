"""What has to hold for decisions whatever the policies say."""

import json
from dataclasses import replace
from typing import Any

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.ztrooted.test_policy import ATTRIBUTES, CONTEXT, asked, load
from ztrooted.cedar_schema import SCHEMA
from ztrooted.entities import Entities
from ztrooted.errors import PolicyError
from ztrooted.policy import Request, ask_cedar

GROUPS, POOLS, ORCHESTRATORS = ("a", "b", "c"), ("p", "q"), ("ci", "nightly")
EXECUTORS = tuple("ex-" + f"{number:032x}" for number in range(2))

scopes = st.tuples(
    st.sampled_from(
        ["principal", *(f'principal in Group::"{name}"' for name in GROUPS), 'principal == Orchestrator::"ci"']
    ),
    st.sampled_from(["action", 'action == Action::"dispatch"', 'action in [Action::"renew", Action::"delegate"]']),
    st.sampled_from(
        ["resource", *(f'resource in Pool::"{name}"' for name in POOLS), f'resource == Executor::"{EXECUTORS[0]}"']
    ),
).map(", ".join)
conditions = st.sampled_from(
    [
        "context.trusted",
        "context.tier >= 3",
        "context.virtual",
        'context.workflow == "nightly"',
        'resource.class == "default"',
        'resource.hasTag("gpu") && resource.getTag("gpu") == "yes"',
        'resource in Pool::"q"',
        'principal in Group::"b"',
        'context has parent && context.parent.orchestrator in Group::"a"',
        "context has parent && context.parent.orchestrator == principal",
        "context.tier + 9223372036854775807 > 0",
        "context.vector.executables < 32",
        "context.time.hour < 6",
    ]
)
policies = st.builds(
    lambda effect, scope, holds, unless: (
        f"{effect} ({scope}) when {{ context.trusted }} when {{ {holds} }} unless {{ {unless} }};"
        if effect == "permit"
        else f"{effect} ({scope}) when {{ {holds} }};"
    ),
    st.sampled_from(["permit", "permit", "forbid"]),
    scopes,
    conditions,
    conditions,
)
sets = st.lists(policies, min_size=1, max_size=8)
parents = st.fixed_dictionaries(
    {
        "authorization": st.just("0" * 32),
        "orchestrator": st.sampled_from(ORCHESTRATORS).map(
            lambda name: {"__entity": {"type": "Orchestrator", "id": name}}
        ),
        "executor": st.sampled_from(EXECUTORS),
        "workflow": st.just("nightly"),
        "step": st.just("build"),
        "depth": st.integers(0, 8),
        "children": st.integers(0, 8),
        "tier": st.integers(0, 4),
    }
)


@st.composite
def requests(draw: st.DrawFn, entities: Entities | None = None) -> Request:
    context: dict[str, Any] = {
        **CONTEXT,
        "trusted": draw(st.booleans()),
        "tier": draw(st.integers(0, 4)),
        "virtual": draw(st.booleans()),
        "workflow": draw(st.sampled_from(["nightly", "other"])),
        "vector": {**CONTEXT["vector"], "executables": draw(st.sampled_from([0, 2, 33, 99]))},
    }
    if (parent := draw(st.none() | parents)) is not None:
        context["parent"] = parent
    orchestrator, executor = draw(st.sampled_from(ORCHESTRATORS)), draw(st.sampled_from(EXECUTORS))
    labels = draw(st.sampled_from([{}, {"gpu": "yes"}, {"gpu": "no"}]))
    executor_class = draw(st.sampled_from(["default", "other"]))
    names = st.lists(st.sampled_from(GROUPS), unique=True).map(lambda found: tuple(sorted(found)))
    groups = draw(names) if entities is None else entities.groups_of(orchestrator)
    pools = draw(st.sampled_from([(), ("p",), ("p", "q")]))
    above = ()
    if parent is not None:
        name = parent["orchestrator"]["__entity"]["id"]
        above = groups if name == orchestrator else draw(names) if entities is None else entities.groups_of(name)
    return Request(
        action=draw(st.sampled_from(["dispatch", "delegate", "renew"])),
        orchestrator=orchestrator,
        groups=groups,
        executor=executor,
        pools=pools if entities is None else entities.pools_of(executor, executor_class, labels),
        executor_attributes={**ATTRIBUTES, "class": executor_class},
        context=context,
        labels=labels,
        parent_groups=above,
    )


def named(texts: list[str]) -> str:
    return "\n".join(f'@id("p{number}") {text}' for number, text in enumerate(texts))


fuzz = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow], deadline=None)


@fuzz
@given(sets, requests(), st.randoms(use_true_random=False))
def test_the_order_of_policies_changes_nothing(texts: list[str], request: Request, random: Any) -> None:
    lines = named(texts).splitlines()
    shuffled = list(lines)
    random.shuffle(shuffled)
    assert load("\n".join(lines)).decide(request) == load("\n".join(shuffled)).decide(request)


@fuzz
@given(sets, requests())
def test_a_forbid_wins(texts: list[str], request: Request) -> None:
    decision = load(f"{named(texts)}\nforbid (principal, action, resource);").decide(request)
    assert not decision.permitted
    assert decision.errors or f"line {len(texts) + 1}" in decision.determining


@fuzz
@given(sets, requests())
def test_without_a_permit_nothing_is_permitted_and_with_one_less_nothing_more(
    texts: list[str], request: Request
) -> None:
    decision = load(named(texts)).decide(request)
    permits = [one for one in texts if one.startswith("permit")]
    assert not decision.permitted or permits
    without = [one for one in texts if not one.startswith("permit")]
    if without:
        assert not load(named(without)).decide(request).permitted


@fuzz
@given(sets, requests())
def test_a_slice_of_the_policies_decides_as_all_of_them(texts: list[str], request: Request) -> None:
    """The index by scope leaves out only what can neither decide nor fail."""
    decision = load(named(texts)).decide(request)
    whole = ask_cedar(cedarpy.PolicySet.from_str(named(texts)), request)
    assert len(decision.errors) == len(whole.diagnostics.errors)
    assert decision.permitted is (whole.allowed and not whole.diagnostics.errors)
    reasons = {f"p{one.removeprefix('policy')}" for one in whole.diagnostics.reasons}
    assert set(decision.determining) == reasons


@fuzz
@given(requests(), st.data())
def test_a_request_fits_exactly_when_it_fits_cedars_schema(request: Request, data: st.DataObject) -> None:
    """Our check of a request's shape, compared with the library's."""
    context = json.loads(json.dumps(dict(request.context)))
    where = context
    for _ in range(data.draw(st.integers(0, 3))):
        # Of a reference to an entity Cedar reads more spellings than the one that we write.
        inner = [name for name in sorted(where) if isinstance(where[name], dict) and name != "orchestrator"]
        if not inner:
            break
        where = where[data.draw(st.sampled_from(inner))]
    name = data.draw(st.sampled_from([*sorted(where), "another"]))
    odd = st.sampled_from([True, 1, -1, 1 << 62, 1 << 63, "x", "", None, [], ["a"], [1], {}, {"a": 1}, 1.5])
    if data.draw(st.booleans()):
        where.pop(name, None)
    elif data.draw(st.booleans()):
        where[name] = data.draw(odd)
    changed = replace(request, context=context)
    policy = load("forbid (principal, action, resource);")
    whole = cedarpy.is_authorized(
        {
            "principal": {"type": "Orchestrator", "id": request.orchestrator},
            "action": {"type": "Action", "id": request.action},
            "resource": {"type": "Executor", "id": request.executor},
            "context": context,
        },
        "forbid (principal, action, resource);",
        [],
        SCHEMA,
    )
    assert bool(policy.decide(changed).errors) is bool(whole.diagnostics.errors), whole.diagnostics.errors


ENTITIES = Entities(
    (
        'format = "ztrooted-entities/1"\n[group.a]\nmembers = ["ci"]\nin = ["b"]\n[group.b]\nmembers = ["nightly"]\n'
        f'in = ["c"]\n[group.c]\n[pool.p]\nexecutors = ["{EXECUTORS[0]}"]\nin = ["q"]\n[pool.q]\nclasses = ["other"]\n'
    ).encode(),
    "entities.toml",
)


def everybody(request: Request) -> list[dict[str, Any]]:
    """All entities that there are, each group in its groups: what the slice of a request is taken from."""

    def uid(kind: str, name: str) -> dict[str, str]:
        return {"type": kind, "id": name}

    found = []
    for kind, known in (("Group", ENTITIES.groups), ("Pool", ENTITIES.pools)):
        for name, entry in known.items():
            found.append({"uid": uid(kind, name), "attrs": {}, "parents": [uid(kind, above) for above in entry.within]})
    for name in (*ORCHESTRATORS, *(f"other{number}" for number in range(20))):
        direct = [group for group, entry in ENTITIES.groups.items() if name in entry.members]
        found.append({"uid": uid("Orchestrator", name), "attrs": {}, "parents": [uid("Group", one) for one in direct]})
    for name in EXECUTORS:
        own = name == request.executor
        attributes = request.executor_attributes if own else {**ATTRIBUTES, "class": "other"}
        direct = [
            pool
            for pool, entry in ENTITIES.pools.items()
            if name in entry.executors or attributes["class"] in entry.classes
        ]
        found.append(
            {
                "uid": uid("Executor", name),
                "attrs": {**attributes, "id": name},
                "parents": [uid("Pool", one) for one in direct],
                "tags": dict(request.labels) if own else {"gpu": "yes"},
            }
        )
    return found


@fuzz
@given(sets, requests(ENTITIES))
def test_the_slice_of_a_request_decides_as_all_entities_together(texts: list[str], request: Request) -> None:
    """Entities that a request is not about change nothing, however many there are."""
    decision = load(named(texts)).decide(request)
    question = {
        "principal": {"type": "Orchestrator", "id": request.orchestrator},
        "action": {"type": "Action", "id": request.action},
        "resource": {"type": "Executor", "id": request.executor},
        "context": dict(request.context),
    }
    whole = cedarpy.is_authorized(question, named(texts), everybody(request))
    assert decision.permitted is (whole.allowed and not whole.diagnostics.errors)
    assert bool(decision.errors) is bool(whole.diagnostics.errors)
    assert set(decision.determining) == set(whole.diagnostics.id_annotations_by_reason.values())


@fuzz
@given(sets, requests())
def test_deciding_again_gives_equal_bytes(texts: list[str], request: Request) -> None:
    one, other = load(named(texts)), load(named(texts))
    again = Request.decode(json.loads(json.dumps(request.encode())))
    assert again.digest() == request.digest()
    assert one.decide(request).encode() == other.decide(again).encode() == one.decide(request).encode()


def test_errors_name_the_policy_that_failed() -> None:
    policy = load(
        '@id("sum") permit (principal, action, resource) when { context.trusted }'
        " when { context.tier + 9223372036854775807 > 0 };"
    )
    (error,) = policy.decide(asked()).errors
    assert "`sum`" in error


@pytest.mark.parametrize("name", ["\ud800", "a\ud800"])
def test_a_name_that_is_no_text_is_denied(name: str) -> None:
    decision = load("forbid (principal, action, resource);").decide(replace(asked(), orchestrator=name))
    assert decision.errors
    with pytest.raises(PolicyError):
        load("")
