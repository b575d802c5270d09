"""The eight phases of a dispatch as one transition table.

=====  ============================  =====================================================
phase  what happens                  state it leaves behind
=====  ============================  =====================================================
1      intent generated              ``requested``
2      policy evaluated              ``requested``
3      authorization established     ``authorized``, or ``denied``
4      runtime trust activated       ``activated``
5      governed execution begins     ``running``
6      verification continues        ``running``
7      interrupted if trust fails    ``revoked``, then ``interrupted``
8      proof persisted               ``closed``
=====  ============================  =====================================================

While it is live, an authorization may be given children; each is an event of its own story, so that what has ended has
none.

The table is the only place that knows which step may follow which. A pair that is not in it is refused, so a revoked
authorization can't be renewed, a denied one can't be activated, and nothing runs twice.
"""

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType

from ztrooted.errors import GateError
from ztrooted.reasons import GateReason


class State(StrEnum):
    """Where an authorization stands."""

    REQUESTED = "requested"
    AUTHORIZED = "authorized"
    DENIED = "denied"
    ACTIVATED = "activated"
    RUNNING = "running"
    REVOKED = "revoked"
    INTERRUPTED = "interrupted"
    CLOSED = "closed"


class Event(StrEnum):
    """What can happen to an authorization."""

    EVALUATE = "evaluate"
    PERMIT = "permit"
    DENY = "deny"
    ACTIVATE = "activate"
    START = "start"
    ATTEST = "attest"
    RENEW = "renew"
    DELEGATE = "delegate"
    REVOKE = "revoke"
    INTERRUPT = "interrupt"
    CLOSE = "close"


TRANSITIONS: Mapping[tuple[State, Event], State] = MappingProxyType(
    {
        (State.REQUESTED, Event.EVALUATE): State.REQUESTED,
        (State.REQUESTED, Event.PERMIT): State.AUTHORIZED,
        (State.REQUESTED, Event.DENY): State.DENIED,
        (State.AUTHORIZED, Event.ATTEST): State.AUTHORIZED,
        (State.AUTHORIZED, Event.ACTIVATE): State.ACTIVATED,
        (State.AUTHORIZED, Event.DELEGATE): State.AUTHORIZED,
        (State.AUTHORIZED, Event.REVOKE): State.REVOKED,
        (State.ACTIVATED, Event.ATTEST): State.ACTIVATED,
        (State.ACTIVATED, Event.START): State.RUNNING,
        (State.ACTIVATED, Event.RENEW): State.ACTIVATED,
        (State.ACTIVATED, Event.DELEGATE): State.ACTIVATED,
        (State.ACTIVATED, Event.REVOKE): State.REVOKED,
        (State.RUNNING, Event.ATTEST): State.RUNNING,
        (State.RUNNING, Event.RENEW): State.RUNNING,
        (State.RUNNING, Event.DELEGATE): State.RUNNING,
        (State.RUNNING, Event.REVOKE): State.REVOKED,
        (State.RUNNING, Event.CLOSE): State.CLOSED,
        (State.REVOKED, Event.INTERRUPT): State.INTERRUPTED,
        (State.REVOKED, Event.CLOSE): State.CLOSED,
        (State.INTERRUPTED, Event.CLOSE): State.CLOSED,
    }
)

# States in which an artifact may be acted upon; everything else means stop.
LIVE = frozenset({State.AUTHORIZED, State.ACTIVATED, State.RUNNING})
# States that nothing leaves.
FINAL = frozenset({State.DENIED, State.CLOSED})

# The lineage records that are steps of the table. Offline verification replays a dispatch from these alone.
# `attestation.failed` and `attestation.overdue` move nothing themselves; the revocation behind them does.
RECORD_EVENTS: Mapping[str, Event] = MappingProxyType(
    {
        "policy.evaluated": Event.EVALUATE,
        "authorization.issued": Event.PERMIT,
        "authorization.denied": Event.DENY,
        "authorization.activated": Event.ACTIVATE,
        "attestation.passed": Event.ATTEST,
        "execution.started": Event.START,
        "authorization.renewed": Event.RENEW,
        "authorization.delegated": Event.DELEGATE,
        "authorization.revoked": Event.REVOKE,
        "execution.interrupted": Event.INTERRUPT,
        "execution.closed": Event.CLOSE,
    }
)


def advance(state: State, event: Event) -> State:
    """The state after ``event``. GateError ``lifecycle.transition`` when the table has no such step."""
    after = TRANSITIONS.get((state, event))
    if after is None:
        raise GateError(GateReason.LIFECYCLE_TRANSITION, f"an authorization that is {state} cannot {event}")
    return after
