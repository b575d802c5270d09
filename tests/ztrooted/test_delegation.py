"""Chains of work as pure rules: each refusal by itself, and that no chain of them ever gets wider."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ztrooted import limits
from ztrooted.delegation import MAX_RUNTIME_S, Delegation, Granted, Wanted, ends_ms, narrow
from ztrooted.errors import GateError
from ztrooted.lifecycle import LIVE, State
from ztrooted.reasons import GateReason

A, B, C = (f"ex-{letter * 32}" for letter in "abc")
NOW = 1_000_000
PARENT = Granted(
    authorization="parent-0001",
    orchestrator="ci",
    executor=A,
    workflow="w",
    run="1",
    step="all",
    delegation=Delegation(depth=2, children=3, steps=["build", "test"], executors=[A, B]),
    depth=0,
    children=0,
    tier=2,
    state=State.RUNNING,
    lease_expires=NOW + 30_000,
    activated_at=NOW - 10_000,
    max_runtime_s=100,
    above=None,
)
CHILD = Wanted(B, "w", "1", "build", Delegation(), None)


def refusal(parent: Granted = PARENT, wanted: Wanted = CHILD, now_ms: int = NOW) -> GateReason | None:
    try:
        narrow(parent, wanted, now_ms)
    except GateError as error:
        assert isinstance(error.reason, GateReason)  # noqa: PT017 -- the caller asserts which
        return error.reason
    return None


def test_a_child_inside_of_what_its_parent_may_hand_on_is_accepted() -> None:
    assert narrow(PARENT, CHILD, NOW) == 90
    assert narrow(PARENT, replace(CHILD, max_runtime_s=90), NOW) == 90
    assert narrow(replace(PARENT, max_runtime_s=7 * 86400), CHILD, NOW) == MAX_RUNTIME_S


@pytest.mark.parametrize("state", State)
def test_only_a_live_parent_has_children(state: State) -> None:
    expected = None if state in LIVE else GateReason.PARENT_ENDED
    assert refusal(replace(PARENT, state=state)) == expected


@pytest.mark.parametrize("lease", [None, NOW - 1, 0])
def test_a_parent_without_a_lease_is_not_live(lease: int | None) -> None:
    assert refusal(replace(PARENT, lease_expires=lease)) is GateReason.PARENT_ENDED
    assert refusal(replace(PARENT, lease_expires=NOW)) is None


def test_everything_above_has_to_be_live() -> None:
    for above in (replace(PARENT, state=State.REVOKED), replace(PARENT, lease_expires=NOW - 1)):
        assert refusal(replace(PARENT, authorization="below", above=above)) is GateReason.PARENT_ENDED


@pytest.mark.parametrize(
    "change", [{"workflow": "v"}, {"run": "2"}, {"step": "deploy"}, {"step": "all"}, {"executor": C}]
)
def test_L12_a_child_outside_of_the_scope_is_refused(change: dict[str, Any]) -> None:
    assert refusal(wanted=replace(CHILD, **change)) is GateReason.PARENT_SCOPE


def test_L12_an_empty_list_allows_nothing() -> None:
    nobody = replace(PARENT, delegation=Delegation(depth=1, children=1, steps=[]))
    assert refusal(nobody) is GateReason.PARENT_SCOPE
    anybody = replace(PARENT, delegation=Delegation(depth=1, children=1))
    assert refusal(anybody, replace(CHILD, step="anything", executor=C)) is None


def test_an_authorization_that_did_not_ask_to_delegate_has_no_children() -> None:
    assert refusal(replace(PARENT, delegation=Delegation())) is GateReason.PARENT_DEPTH
    assert refusal(replace(PARENT, delegation=Delegation(children=5))) is GateReason.PARENT_DEPTH
    assert refusal(replace(PARENT, delegation=Delegation(depth=5))) is GateReason.PARENT_CHILDREN
    assert refusal(replace(PARENT, children=3)) is GateReason.PARENT_CHILDREN
    assert refusal(replace(PARENT, children=2)) is None


WIDER = [
    {"depth": 2},
    {"children": 4},
    {"depth": 1, "children": 1},
    {"depth": 1, "children": 1, "steps": ["build"]},
    {"depth": 1, "children": 1, "executors": [A]},
    {"depth": 1, "children": 1, "steps": ["build", "deploy"], "executors": [A]},
    {"depth": 1, "children": 1, "steps": ["build"], "executors": [A, C]},
]


@pytest.mark.parametrize("asked", WIDER)
def test_L12_a_child_can_not_hand_on_more_than_its_parent(asked: dict[str, Any]) -> None:
    assert refusal(wanted=replace(CHILD, delegation=Delegation(**asked))) is GateReason.PARENT_DELEGATION


def test_a_child_may_hand_on_less() -> None:
    for asked in ({"depth": 1, "children": 3, "steps": ["test"], "executors": [B]}, {"children": 3}, {"steps": ["x"]}):
        assert refusal(wanted=replace(CHILD, delegation=Delegation(**asked))) is None


def test_a_child_ends_with_whatever_is_above_it() -> None:
    assert refusal(wanted=replace(CHILD, max_runtime_s=91)) is GateReason.PARENT_LIFETIME
    assert refusal(replace(PARENT, max_runtime_s=10)) is GateReason.PARENT_LIFETIME
    below = replace(PARENT, authorization="below", above=replace(PARENT, max_runtime_s=50))
    assert narrow(below, CHILD, NOW) == 40
    waiting = replace(PARENT, activated_at=None)
    assert narrow(waiting, CHILD, NOW) == 100


@given(st.lists(st.one_of(st.none(), st.integers(0, 10**6)), min_size=1, max_size=8), st.integers(0, 10**6))
def test_the_end_only_moves_on_while_something_above_is_not_activated(began: list[int | None], later: int) -> None:
    """So a lease that is renewed never ends earlier than the one before."""
    chain = None
    for activated in began:
        chain = replace(PARENT, activated_at=activated, above=chain)
    assert chain is not None
    assert ends_ms(chain, NOW + later) >= ends_ms(chain, NOW)


@pytest.mark.parametrize(
    "wrong",
    [
        {"depth": -1},
        {"depth": limits.DELEGATION_DEPTH + 1},
        {"children": limits.DELEGATION_CHILDREN + 1},
        {"children": "3"},
        {"depth": True},
        {"steps": "build"},
        {"steps": ["*"]},
        {"steps": ["a"] * (limits.DELEGATION_NAMES + 1)},
        {"executors": ["ex-1"]},
        {"other": 1},
    ],
)
def test_J7_a_delegation_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Delegation.model_validate(wrong)


# --- chains ------------------------------------------------------------------------------------------------------
STEPS, EXECUTORS = ["s1", "s2", "s3"], [A, B, C]
delegations = st.builds(
    Delegation,
    depth=st.integers(0, limits.DELEGATION_DEPTH),
    children=st.integers(0, 6),
    steps=st.none() | st.lists(st.sampled_from(STEPS), unique=True),
    executors=st.none() | st.lists(st.sampled_from(EXECUTORS), unique=True),
)
wishes = st.builds(
    Wanted,
    executor=st.sampled_from(EXECUTORS),
    workflow=st.sampled_from(["w", "w", "w", "v"]),
    run=st.just("1"),
    step=st.sampled_from(STEPS),
    delegation=delegations,
    max_runtime_s=st.none() | st.integers(1, 120),
)


def allowed(listed: list[str] | None, every: list[str]) -> set[str]:
    return set(every if listed is None else listed)


@given(
    st.builds(
        Delegation,
        depth=st.integers(1, limits.DELEGATION_DEPTH),
        children=st.integers(1, 6),
        steps=st.none() | st.lists(st.sampled_from(STEPS), min_size=2, unique=True),
        executors=st.none() | st.lists(st.sampled_from(EXECUTORS), min_size=2, unique=True),
    ),
    st.lists(st.tuples(wishes, st.integers(0, 5), st.booleans()), max_size=24),
)
def test_no_chain_of_narrowings_ever_widens_anything(root: Delegation, asked: list[tuple[Wanted, int, bool]]) -> None:
    """Each accepted wish becomes a parent in turn: against everything above it, not only against the next."""
    parent = replace(PARENT, delegation=root, max_runtime_s=120, lease_expires=NOW * 2)
    now_ms, last = NOW, 0
    for wanted, waited_s, activated in asked:
        now_ms += waited_s * 1000
        # However greedy a wish is, what it can be given at most is tried too.
        able = replace(
            wanted,
            workflow="w",
            delegation=wanted.delegation.model_copy(
                update={
                    "depth": max(parent.delegation.depth - 1, 0),
                    "children": min(wanted.delegation.children, parent.delegation.children),
                    "steps": parent.delegation.steps,
                    "executors": parent.delegation.executors,
                }
            ),
            max_runtime_s=None,
        )
        for wish in (wanted, able):
            if refusal(parent, wish, now_ms) is not None:
                continue
            runtime_s = narrow(parent, wish, now_ms)
            above = list(parent.chain())
            for one in above:
                assert (wish.workflow, wish.run) == (one.workflow, one.run)
                assert wish.step in allowed(one.delegation.steps, STEPS)
                assert wish.executor in allowed(one.delegation.executors, EXECUTORS)
                assert wish.delegation.children <= one.delegation.children
                if wish.delegation.grants:
                    assert allowed(wish.delegation.steps, STEPS) <= allowed(one.delegation.steps, STEPS)
                    assert allowed(wish.delegation.executors, EXECUTORS) <= allowed(one.delegation.executors, EXECUTORS)
                if one.activated_at is not None:
                    assert now_ms + runtime_s * 1000 <= one.activated_at + one.max_runtime_s * 1000
            assert wish.delegation.depth + len(above) <= root.depth
            parent = replace(
                parent,
                authorization=f"child-{last}",
                executor=wish.executor,
                step=wish.step,
                delegation=wish.delegation,
                depth=parent.depth + 1,
                activated_at=now_ms if activated else None,
                max_runtime_s=runtime_s,
                above=parent,
            )
            last += 1
            break
    assert parent.depth <= root.depth
