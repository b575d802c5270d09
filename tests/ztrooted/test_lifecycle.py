"""The transition table: every pair that is in it, and the refusal of every pair that is not."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted.errors import GateError
from ztrooted.lifecycle import FINAL, LIVE, RECORD_EVENTS, TRANSITIONS, Event, State, advance
from ztrooted.reasons import GateReason
from ztrooted.records import TYPES

ENDED = frozenset({State.REVOKED, State.INTERRUPTED, State.CLOSED, State.DENIED})


def step(state: State, event: Event) -> State:
    """The next state, where a refused event leaves the state as it was."""
    try:
        return advance(state, event)
    except GateError as refusal:
        assert refusal.reason is GateReason.LIFECYCLE_TRANSITION  # noqa: PT017 -- either way is right
        return state


@given(st.sampled_from(State), st.sampled_from(Event))
def test_a_pair_is_in_the_table_or_refused(state: State, event: Event) -> None:
    if (state, event) in TRANSITIONS:
        assert advance(state, event) is TRANSITIONS[state, event]
        return
    with pytest.raises(GateError) as refusal:
        advance(state, event)
    assert refusal.value.reason is GateReason.LIFECYCLE_TRANSITION


@pytest.mark.parametrize("state", State)
def test_the_table_written_out_by_hand(state: State) -> None:
    """A second, independent statement of the eight phases: changing the table by accident changes only one of them."""
    expected = {
        State.REQUESTED: {Event.EVALUATE, Event.PERMIT, Event.DENY},
        State.AUTHORIZED: {Event.ATTEST, Event.ACTIVATE, Event.DELEGATE, Event.REVOKE},
        State.DENIED: set(),
        State.ACTIVATED: {Event.ATTEST, Event.START, Event.RENEW, Event.DELEGATE, Event.REVOKE},
        State.RUNNING: {Event.ATTEST, Event.RENEW, Event.DELEGATE, Event.REVOKE, Event.CLOSE},
        State.REVOKED: {Event.INTERRUPT, Event.CLOSE},
        State.INTERRUPTED: {Event.CLOSE},
        State.CLOSED: set(),
    }
    assert {event for event in Event if (state, event) in TRANSITIONS} == expected[state]


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_no_walk_leaves_a_final_state_or_brings_an_ended_authorization_back(events: list[Event]) -> None:
    state, ended = State.REQUESTED, False
    for event in events:
        before, state = state, step(state, event)
        if before in FINAL:
            assert state is before
        ended = ended or state in ENDED
        assert not (ended and state in LIVE)


@given(st.lists(st.sampled_from(Event), max_size=60))
def test_nothing_runs_that_was_not_permitted_and_activated_before(events: list[Event]) -> None:
    state, happened = State.REQUESTED, []
    for event in events:
        if (state, event) in TRANSITIONS:
            happened.append(event)
        state = step(state, event)
        if state is State.RUNNING:
            order = [happened.index(one) for one in (Event.PERMIT, Event.ACTIVATE, Event.START)]
            assert order == sorted(order)
    for once in (Event.PERMIT, Event.ACTIVATE, Event.START, Event.REVOKE, Event.CLOSE):
        assert happened.count(once) <= 1


def test_every_live_state_can_be_revoked_at_once() -> None:
    assert {state for state in State if (state, Event.REVOKE) in TRANSITIONS} == LIVE
    assert all(advance(state, Event.REVOKE) is State.REVOKED for state in LIVE)


def test_only_what_is_live_can_be_given_a_child() -> None:
    assert {state for state in State if (state, Event.DELEGATE) in TRANSITIONS} == LIVE
    assert all(advance(state, Event.DELEGATE) is state for state in LIVE)


def test_final_states_are_exactly_those_without_a_way_out() -> None:
    assert {state for state in State if not any(before is state for before, _ in TRANSITIONS)} == FINAL


def test_every_event_is_told_by_exactly_one_record_type() -> None:
    assert sorted(RECORD_EVENTS.values()) == sorted(Event)
    assert set(RECORD_EVENTS) <= TYPES


def test_the_table_cannot_be_changed_at_run_time() -> None:
    with pytest.raises(TypeError):
        TRANSITIONS[State.REVOKED, Event.RENEW] = State.RUNNING  # type: ignore[index]
