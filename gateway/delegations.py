"""Children: dispatches that name a parent. Everything here only ever refuses more than a dispatch by itself would be.

What a child may be is decided in the transaction that issues it, on the parent as it is then: a parent that ends in the
same moment, or a sibling that takes the last place, came either before or after.

Whose authorizations there are is nobody else's business. A parent that somebody else's orchestrator was given is unknown,
in the same words as one that does not exist and after the same round of proof, unless the dispatch policy permits this
dispatch under it.
"""

import sqlite3
from dataclasses import dataclass, replace

from gateway.decisions import facts
from gateway.rounds import Round
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Transaction
from ztrooted import limits
from ztrooted.delegation import Granted, Wanted, narrow, require_live
from ztrooted.dispatch_context import policy_request
from ztrooted.errors import GateError
from ztrooted.policies import Policies
from ztrooted.policy import Decision, Request
from ztrooted.reasons import GateReason

UNKNOWN = "there is no such authorization, or you may not delegate this under it"


@dataclass(frozen=True, slots=True)
class Asked:
    """What the dispatch policy said about a dispatch; ``parent`` is None for one that names none."""

    request: Request
    decision: Decision
    parent: Granted | None
    max_runtime_s: int


def ask(connection: sqlite3.Connection, authorization: Authorization, done: Round, policies: Policies) -> Asked:
    """Ask the dispatch policy about a dispatch, as a child where it names a parent.

    GateError ``parent.*`` where it can't be a child of it, whatever the policy says.
    """
    if authorization.parent is None:
        request = policy_request("dispatch", facts(authorization, done), policies.entities)
        return Asked(request, policies.dispatch.decide(request), None, authorization.max_runtime_s)
    parent = _find(connection, authorization.parent)
    if parent is None:
        raise GateError(GateReason.PARENT_UNKNOWN, UNKNOWN)
    refusal, max_runtime_s = None, authorization.max_runtime_s
    try:
        max_runtime_s = narrow(parent, _wanted(authorization), done.now_ms)
    except GateError as error:  # told below, to those who may know of this parent
        refusal = error
    child = replace(authorization, max_runtime_s=max_runtime_s)
    request = policy_request("delegate", facts(child, done, parent.facts(parent.children)), policies.entities)
    decision = policies.dispatch.decide(request)
    own = parent.orchestrator == authorization.orchestrator
    if not own and not (done.trusted and decision.permitted):
        raise GateError(GateReason.PARENT_UNKNOWN, UNKNOWN)
    if refusal is not None:
        raise refusal
    return Asked(request, decision, parent, max_runtime_s)


def refuse_early(connection: sqlite3.Connection, authorization: Authorization, now_ms: int) -> None:
    """Spare an executor the question where the caller's own parent rules the child out anyway. GateError ``parent.*``."""
    parent = None if authorization.parent is None else _find(connection, authorization.parent)
    if parent is not None and parent.orchestrator == authorization.orchestrator:
        narrow(parent, _wanted(authorization), now_ms)


def take_place(tx: Transaction, parent: Granted, child: Authorization, now_ms: int) -> None:
    """Note in the parent's story that it has this child now. The lifecycle table refuses where it is not live."""
    *_, root = parent.chain()
    if authorizations.count_live_descendants(tx.connection, root.authorization) >= limits.LIVE_DESCENDANTS:
        detail = f"{limits.LIVE_DESCENDANTS} are live below {root.authorization} already"
        raise GateError(GateReason.PARENT_CHILDREN, detail)
    held = authorizations.get(tx.connection, parent.authorization)
    body = {"child": child.id, "place": parent.children}
    authorizations.note(tx, held, "authorization.delegated", now_ms, body)


def ask_again(connection: sqlite3.Connection, child: Authorization, done: Round, policies: Policies) -> Asked:
    """The question at a renewal. GateError ``parent.ended`` for a child whose parent is not live any more."""
    parent = None if child.parent is None else granted(connection, authorizations.get(connection, child.parent))
    told = None
    if parent is not None:
        require_live(parent, done.now_ms)
        told = parent.facts(child.place or 0)
    request = policy_request("renew", facts(child, done, told), policies.entities)
    return Asked(request, policies.dispatch.decide(request), parent, child.max_runtime_s)


def granted(connection: sqlite3.Connection, authorization: Authorization) -> Granted:
    """A stored authorization as a parent, with everything above it."""
    return _chain(connection, [authorization, *authorizations.above(connection, authorization)])


def _chain(connection: sqlite3.Connection, upwards: list[Authorization]) -> Granted:
    one, *above = upwards
    return Granted(
        authorization=one.id,
        orchestrator=one.orchestrator,
        executor=one.executor,
        workflow=one.job.workflow,
        run=one.job.run,
        step=one.job.step,
        delegation=one.delegation,
        depth=one.depth,
        children=authorizations.count_children(connection, one.id),
        tier=one.tier or 0,
        state=one.state,
        lease_expires=one.lease_expires,
        activated_at=one.activated_at,
        max_runtime_s=one.max_runtime_s,
        above=_chain(connection, above) if above else None,
    )


def _find(connection: sqlite3.Connection, parent: str) -> Granted | None:
    found = authorizations.find(connection, parent)
    return None if found is None else granted(connection, found)


def _wanted(authorization: Authorization) -> Wanted:
    job = authorization.job
    return Wanted(
        authorization.executor,
        job.workflow,
        job.run,
        job.step,
        authorization.delegation,
        authorization.max_runtime_s or None,
    )
