"""Chains of work: what an authorization may hand on, and why a child can never be more than its parent.

Nothing here knows a database or a bundle: the gateway asks ``narrow`` before it issues, and an auditor asks it again with
what the parent's records say. A child is refused unless, in this order:

1. its parent and everything above are live, their leases included: ``parent.ended``;
2. it is of the same workflow and run, its step and executor are among those the parent may hand on to: ``parent.scope``;
3. the parent has a level below it left: ``parent.depth``;
4. the parent has a child left: ``parent.children``;
5. what the child asks to hand on itself is narrower than what the parent may: ``parent.delegation``;
6. it ends no later than the parent and everything above would by their maximum runtime: ``parent.lifetime``.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from ztrooted import dispatch_context, limits
from ztrooted.entities import ExecutorId, Name
from ztrooted.errors import GateError
from ztrooted.lifecycle import LIVE, State
from ztrooted.reasons import GateReason

MAX_RUNTIME_S = 3600  # of a dispatch that does not say how long it may run


class Delegation(BaseModel):
    """What a dispatch asks to hand on; nothing, unless it says so.

    ``depth`` is how many levels there may be below it, ``children`` how many it may be given in its whole life. ``steps``
    and ``executors`` narrow what those may be; null is any.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    depth: Annotated[int, Field(ge=0, le=limits.DELEGATION_DEPTH)] = 0
    children: Annotated[int, Field(ge=0, le=limits.DELEGATION_CHILDREN)] = 0
    steps: Annotated[list[Name], Field(max_length=limits.DELEGATION_NAMES)] | None = None
    executors: Annotated[list[ExecutorId], Field(max_length=limits.DELEGATION_NAMES)] | None = None

    @property
    def grants(self) -> bool:
        """Whether there can be a child at all."""
        return self.depth > 0 and self.children > 0

    def facts(self) -> dispatch_context.Delegation:
        """As far as the dispatch policy is told."""
        return dispatch_context.Delegation(self.depth, self.children)


@dataclass(frozen=True, slots=True)
class Wanted:
    """A dispatch that names a parent. ``max_runtime_s`` is None where it asked for whatever its parent has left."""

    executor: str
    workflow: str
    run: str
    step: str
    delegation: Delegation
    max_runtime_s: int | None


@dataclass(frozen=True, slots=True)
class Granted:
    """An authorization as a parent, at one instant. Times in milliseconds since the epoch.

    ``children`` counts those it has been given; ``depth`` is 0 for one without a parent, which then is ``above``; ``tier``
    is that of its last artifact; ``lease_expires`` is None before the first.
    """

    authorization: str
    orchestrator: str
    executor: str
    workflow: str
    run: str
    step: str
    delegation: Delegation
    depth: int
    children: int
    tier: int
    state: State
    lease_expires: int | None
    activated_at: int | None
    max_runtime_s: int
    above: "Granted | None"

    def live_at(self, now_ms: int) -> bool:
        """Whether its artifact may be acted upon: an absent lease is none."""
        return self.state in LIVE and self.lease_expires is not None and now_ms <= self.lease_expires

    def chain(self) -> "Iterator[Granted]":
        """Itself and everything above, nearest first."""
        one: Granted | None = self
        while one is not None:
            yield one
            one = one.above

    def facts(self, place: int) -> dispatch_context.Parent:
        """What the dispatch policy is told when the child is asked about that came after ``place`` others."""
        return dispatch_context.Parent(
            authorization=self.authorization,
            orchestrator=self.orchestrator,
            executor=self.executor,
            workflow=self.workflow,
            step=self.step,
            depth=self.depth,
            children=place,
            tier=self.tier,
        )


def ends_ms(parent: Granted, now_ms: int) -> int:
    """When a child of ``parent`` has to end at the latest, by the maximum runtimes of all that is above it.

    One that is not activated yet can be at ``now_ms`` at the earliest, so this only grows until all are.
    """
    return min(
        (now_ms if one.activated_at is None else one.activated_at) + one.max_runtime_s * 1000 for one in parent.chain()
    )


def require_live(parent: Granted, now_ms: int) -> None:
    """GateError ``parent.ended`` unless the parent and everything above it are live now.

    What is above may be past the end of its lease for a moment before that is recorded.
    """
    for one in parent.chain():
        if not one.live_at(now_ms):
            how = one.state.value if one.state not in LIVE else "past the end of its lease"
            raise GateError(GateReason.PARENT_ENDED, f"the parent {one.authorization} is {how}")


def narrow(parent: Granted, wanted: Wanted, now_ms: int) -> int:
    """Whether ``wanted`` may be a child of ``parent``; the maximum runtime, in seconds, that it gets. GateError if not."""
    # 1.
    require_live(parent, now_ms)
    # 2.
    _check_scope(parent, wanted)
    # 3.
    if parent.delegation.depth < 1:
        raise GateError(GateReason.PARENT_DEPTH, f"there may be no level below the parent {parent.authorization}")
    # 4.
    if parent.children >= parent.delegation.children:
        most = parent.delegation.children
        raise GateError(
            GateReason.PARENT_CHILDREN, f"the parent {parent.authorization} may have {most} children, and has"
        )
    # 5.
    _check_delegation(parent.delegation, wanted.delegation)
    # 6.
    left_s = (ends_ms(parent, now_ms) - now_ms) // 1000
    if left_s < 1 or (wanted.max_runtime_s or 0) > left_s:
        raise GateError(GateReason.PARENT_LIFETIME, f"the parent leaves {max(left_s, 0)} s; ask for no more than that")
    return wanted.max_runtime_s or min(MAX_RUNTIME_S, left_s)


def _check_scope(parent: Granted, wanted: Wanted) -> None:
    def refuse(detail: str) -> GateError:
        return GateError(GateReason.PARENT_SCOPE, detail)

    if (wanted.workflow, wanted.run) != (parent.workflow, parent.run):
        raise refuse(f"the parent belongs to run {parent.run} of {parent.workflow}, and its children must too")
    allowed = parent.delegation
    if allowed.steps is not None and wanted.step not in allowed.steps:
        raise refuse(f"the parent may not hand on to step {wanted.step}")
    if allowed.executors is not None and wanted.executor not in allowed.executors:
        raise refuse(f"the parent may not hand on to executor {wanted.executor}")


def _check_delegation(parent: Delegation, child: Delegation) -> None:
    def refuse(detail: str) -> GateError:
        return GateError(GateReason.PARENT_DELEGATION, detail)

    if child.depth >= parent.depth:
        raise refuse(f"a child may hand on {parent.depth - 1} levels at most, and asks for {child.depth}")
    if child.children > parent.children:
        raise refuse(f"a child may have {parent.children} children at most, and asks for {child.children}")
    if not child.grants:
        return
    for what, above, below in (
        ("steps", parent.steps, child.steps),
        ("executors", parent.executors, child.executors),
    ):
        if above is not None and (below is None or not set(below) <= set(above)):
            raise refuse(f"a child may only name {what} that its parent may hand on to, and has to name them")
