"""Authorizations: the state machine of each dispatch, moved only together with its lineage record."""

import json
import sqlite3
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from gateway.storage import lineage
from gateway.storage.database import Transaction
from gateway.storage.lineage import Appended
from ztrooted import limits
from ztrooted.delegation import Delegation
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.lifecycle import FINAL, LIVE, RECORD_EVENTS, TRANSITIONS, State, advance
from ztrooted.models import Job
from ztrooted.reasons import GateReason, Reason
from ztrooted.records import Link, Record

_COLUMNS = (
    "id, executor, orchestrator, state, job, job_digest, max_runtime_s, enrollment, requested_at, activated_at,"
    " lease_expires, renewals, artifact, reason, last_seq, last_leaf, parent, place, depth, delegation, tier"
)
_MARKS = ", ".join("?" * 21)
_CHANGING = (
    "max_runtime_s",
    "enrollment",
    "activated_at",
    "lease_expires",
    "renewals",
    "artifact",
    "reason",
    "last_seq",
    "last_leaf",
    "place",
    "depth",
    "tier",
)
_UPDATE = (
    f"UPDATE authorizations SET state = ?, {', '.join(f'{name} = ?' for name in _CHANGING)}"  # noqa: S608 -- constants
    " WHERE id = ?"
)
_OVER = ", ".join(f"'{state.value}'" for state in sorted(FINAL))
_LIVE = ", ".join(f"'{state.value}'" for state in sorted(LIVE))


@dataclass(frozen=True, slots=True)
class Authorization:
    """One dispatch. ``artifact`` is the digest of the artifact issued last; times in milliseconds since the epoch.

    ``max_runtime_s`` is 0 for a dispatch that asked for what its parent has left, until that is decided. ``place`` is its
    number among its parent's children, from 0 on, once it is one; ``depth`` how many are above it; ``tier`` that of its
    artifacts, None before the first.
    """

    id: str
    executor: str
    orchestrator: str
    state: State
    job: Job
    job_digest: str
    max_runtime_s: int
    enrollment: int | None
    requested_at: int
    activated_at: int | None = None
    lease_expires: int | None = None
    renewals: int = 0
    artifact: str | None = None
    reason: str | None = None
    last_seq: int | None = None
    last_leaf: bytes | None = None
    parent: str | None = None
    place: int | None = None
    depth: int = 0
    delegation: Delegation = field(default_factory=Delegation)
    tier: int | None = None

    @property
    def live(self) -> bool:
        """Whether its artifact may be acted upon."""
        return self.state in LIVE

    def link(self) -> Link | None:
        """Names its latest record."""
        if self.last_seq is None or self.last_leaf is None:
            return None
        return Link(self.last_seq, self.last_leaf)


def check(connection: sqlite3.Connection) -> None:
    """The stored state of each authorization must be what its records lead to. EnvironmentProblem for the first that is not.

    The lineage proves its records; a state that somebody edited beside them would otherwise be acted upon. The same goes
    for whose child a live one is, and what it may hand on. Of a lineage of more than ``lineage.WHOLE`` records only those
    are looked at that are stored as anything but over: whatever else was changed would be a denial, and is for
    ``gateway.fsck``.
    """
    states: dict[str, State] = {}
    if lineage.size(connection) <= lineage.WHOLE:
        stored = dict(connection.execute("SELECT id, state FROM authorizations").fetchall())
        query = "SELECT authorization, type FROM records WHERE authorization IS NOT NULL ORDER BY seq"
        _follow(states, connection.execute(query))
    else:
        query = f"SELECT id, state FROM authorizations WHERE state NOT IN ({_OVER})"  # noqa: S608 -- constants
        stored = dict(connection.execute(query).fetchall())
        query = "SELECT authorization, type FROM records WHERE authorization = ? ORDER BY seq"
        for authorization in stored:
            _follow(states, connection.execute(query, (authorization,)))
    for authorization in sorted(states.keys() | stored.keys()):
        said, led_to = stored.get(authorization, "missing"), states.get(authorization, "missing")
        if said != led_to:
            raise _altered(
                f"authorization {authorization!r:.60} is stored as {said!r:.20}, and its records say {led_to}"
            )
    _check_chains(connection)


def _follow(states: dict[str, State], records: Iterable[tuple[str, str]]) -> None:
    """Move ``states`` as (authorization, type) of records in their order say."""
    for authorization, kind in records:
        event = RECORD_EVENTS.get(kind)
        if kind == "dispatch.requested":
            states[authorization] = State.REQUESTED
        elif event is not None and authorization in states:
            states[authorization] = TRANSITIONS.get((states[authorization], event), State.DENIED)


def _check_chains(connection: sqlite3.Connection) -> None:
    """No live child has a parent that is not, and each has the parent and the delegation that it asked for."""
    rows = connection.execute(
        "SELECT a.id, a.parent, a.delegation, r.bytes, p.state FROM authorizations a"  # noqa: S608 -- constants
        " JOIN records r ON r.authorization = a.id AND r.type = 'dispatch.requested'"
        f" LEFT JOIN authorizations p ON p.id = a.parent WHERE a.state IN ({_LIVE})"
    )
    for authorization, parent, delegation, data, above in rows:
        if parent is not None and above not in LIVE:
            raise _altered(f"authorization {authorization!r:.60} is live, and its parent is {above!r:.20}")
        asked = json.loads(bytes(data))["body"]
        nothing = Delegation().model_dump()  # what was not asked for was not granted
        try:
            same = (parent, json.loads(delegation)) == (asked.get("parent"), asked.get("delegation", nothing))
        except ValueError:
            same = False
        if not same:
            raise _altered(f"authorization {authorization!r:.60} has another parent or delegation than it asked for")


def _altered(detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.LINEAGE_CHAIN_BROKEN,
        detail,
        "the database was altered or damaged; restore a backup, and keep this file as evidence",
    )


def create(tx: Transaction, authorization: Authorization, body: dict[str, Any]) -> Authorization:
    """Store a new authorization with its ``dispatch.requested``. ``lifecycle.transition`` where its id is taken."""
    if tx.execute("SELECT 1 FROM authorizations WHERE id = ?", (authorization.id,)).fetchone() is not None:
        raise GateError(
            GateReason.LIFECYCLE_TRANSITION, f"the authorization {authorization.id} exists, and can't begin again"
        )
    record = Record("dispatch.requested", authorization.requested_at, body, authorization.id)
    stored = _at(authorization, tx.append(record))
    values = {
        **{name: getattr(stored, name) for name in _COLUMNS.split(", ")},
        "state": stored.state.value,
        "job": stored.job.model_dump_json(),
        "delegation": stored.delegation.model_dump_json(),
    }
    tx.execute(f"INSERT INTO authorizations({_COLUMNS}) VALUES ({_MARKS})", tuple(values.values()))  # noqa: S608
    return stored


def note(
    tx: Transaction, authorization: Authorization, kind: str, now_ms: int, body: dict[str, Any], **changes: Any
) -> tuple[Authorization, Appended]:
    """Append the record ``kind`` and move the authorization as the lifecycle table says.

    ``lifecycle.transition`` when the table has no such step from the state that is *stored*: what the caller holds may
    be older, and a revocation is never overwritten. One that is not live after it takes its descendants along: see ``end``.
    """
    moved, appended, _ = _move(tx, authorization, kind, now_ms, body, changes)
    return moved, appended


def end(
    tx: Transaction, authorization: Authorization, kind: str, now_ms: int, body: dict[str, Any], **changes: Any
) -> list[Authorization]:
    """``note`` for a record that may end an authorization: it as it is now, and the descendants that ended with it.

    Their revocations stand right behind its record, parents before children.
    """
    moved, _, descendants = _move(tx, authorization, kind, now_ms, body, changes)
    return [moved, *descendants]


def revoke(
    tx: Transaction, authorization: Authorization, now_ms: int, reason: Reason, detail: str
) -> list[Authorization]:
    """End a live authorization and its descendants: all that ended, itself first.

    Nothing when it is not live any more, so that revoking twice is harmless.
    """
    if not get(tx.connection, authorization.id).live:
        return []
    body = {"reason": str(reason), "detail": detail}
    return end(tx, authorization, "authorization.revoked", now_ms, body, reason=str(reason))


def _move(
    tx: Transaction, authorization: Authorization, kind: str, now_ms: int, body: dict[str, Any], changes: dict[str, Any]
) -> tuple[Authorization, Appended, list[Authorization]]:
    current = get(tx.connection, authorization.id)
    event = RECORD_EVENTS.get(kind)
    state = current.state if event is None else advance(current.state, event)
    appended = tx.append(Record(kind, now_ms, body, current.id, current.link()))
    moved = _store(tx, replace(current, state=state, **changes), appended)
    return moved, appended, _end_descendants(tx, moved, now_ms) if current.live and not moved.live else []


def _end_descendants(tx: Transaction, ended: Authorization, now_ms: int) -> list[Authorization]:
    """Revoke what is below, breadth first. A live one has live parents only, so what is dead hides nothing."""
    found: list[Authorization] = []
    parents = deque([ended])
    while parents:
        parent = parents.popleft()
        for child in children(tx.connection, parent.id):
            if not child.live:
                continue
            reason = str(GateReason.PARENT_ENDED)
            body = {"reason": reason, "detail": f"its parent {parent.id} is {parent.state}"}
            appended = tx.append(Record("authorization.revoked", now_ms, body, child.id, child.link()))
            state = advance(child.state, RECORD_EVENTS["authorization.revoked"])
            found.append(_store(tx, replace(child, state=state, reason=reason), appended))
            parents.append(found[-1])
    return found


def children(connection: sqlite3.Connection, parent: str) -> list[Authorization]:
    """Those that were authorized under ``parent``, in the order in which they were."""
    query = (
        f"SELECT {_COLUMNS} FROM authorizations"  # noqa: S608 -- a constant
        " WHERE parent = ? AND place IS NOT NULL ORDER BY place"
    )
    return [_from_row(row) for row in connection.execute(query, (parent,))]


def count_children(connection: sqlite3.Connection, parent: str) -> int:
    """How many there are of ``children``, ended ones included."""
    query = "SELECT COUNT(*) FROM authorizations WHERE parent = ? AND place IS NOT NULL"
    return int(connection.execute(query, (parent,)).fetchone()[0])


def count_live_descendants(connection: sqlite3.Connection, root: str) -> int:
    """How many would end with ``root``."""
    query = (
        "WITH RECURSIVE tree(id) AS (VALUES (?) UNION ALL"  # noqa: S608 -- constants
        " SELECT a.id FROM authorizations a JOIN tree ON a.parent = tree.id"
        f" WHERE a.place IS NOT NULL AND a.state IN ({_LIVE})) SELECT COUNT(*) - 1 FROM tree"
    )
    return int(connection.execute(query, (root,)).fetchone()[0])


def above(connection: sqlite3.Connection, authorization: Authorization) -> list[Authorization]:
    """Everything above an authorization, its parent first. ``lineage.chain_broken`` where that has no end."""
    found: list[Authorization] = []
    parent = authorization.parent
    while parent is not None:
        if len(found) >= limits.DELEGATION_DEPTH:
            raise GateError(GateReason.LINEAGE_CHAIN_BROKEN, f"too many are above authorization {authorization.id}")
        found.append(get(connection, parent))
        parent = found[-1].parent
    return found


def find(connection: sqlite3.Connection, authorization: str) -> Authorization | None:
    """One authorization, if there is one."""
    query = f"SELECT {_COLUMNS} FROM authorizations WHERE id = ?"  # noqa: S608 -- a constant
    row = connection.execute(query, (authorization,)).fetchone()
    return None if row is None else _from_row(row)


def get(connection: sqlite3.Connection, authorization: str) -> Authorization:
    """One authorization; GateError ``artifact.unknown`` when there is none."""
    found = find(connection, authorization)
    if found is None:
        raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {authorization!r}")
    return found


def unfinished(connection: sqlite3.Connection, executor: str | None = None) -> list[Authorization]:
    """Those that still need somebody's attention: live, or revoked and not yet known to be dead."""
    query = (
        f"SELECT {_COLUMNS} FROM authorizations"  # noqa: S608 -- a constant
        " WHERE state IN ('authorized', 'activated', 'running', 'revoked')"
    )
    if executor is None:
        return [_from_row(row) for row in connection.execute(query)]
    return [_from_row(row) for row in connection.execute(query + " AND executor = ?", (executor,))]


def activated(connection: sqlite3.Connection, executor: str) -> list[Authorization]:
    """Those of an executor that a good quote renews."""
    return [one for one in unfinished(connection, executor) if one.state in {State.ACTIVATED, State.RUNNING}]


def undecided(connection: sqlite3.Connection) -> list[Authorization]:
    """Those that a stopped gateway left in the middle of a decision."""
    query = f"SELECT {_COLUMNS} FROM authorizations WHERE state = 'requested'"  # noqa: S608 -- a constant
    return [_from_row(row) for row in connection.execute(query)]


def page(
    connection: sqlite3.Connection, *, orchestrator: str | None, limit: int, after: tuple[Any, ...] | None = None
) -> list[Authorization]:
    """The latest ones, newest first; only those of one orchestrator where it is named.

    ``after`` is the time (ms) and id of one; those behind it are listed.
    """
    at, name = after or (1 << 53, "")  # later than any
    index, own = ("authorizations_by_time", "1")
    if orchestrator is not None:
        index, own = ("authorizations_by_orchestrator", "orchestrator = :own")
    query = (
        f"SELECT {_COLUMNS} FROM authorizations INDEXED BY {index} WHERE {own}"  # noqa: S608 -- constants
        " AND requested_at <= :at AND (requested_at < :at OR id > :name) ORDER BY requested_at DESC, id LIMIT :limit"
    )
    values = {"own": orchestrator, "at": at, "name": name, "limit": limit}
    return [_from_row(row) for row in connection.execute(query, values)]


def _at(authorization: Authorization, appended: Appended) -> Authorization:
    return replace(authorization, last_seq=appended.index, last_leaf=appended.leaf)


def _store(tx: Transaction, authorization: Authorization, appended: Appended) -> Authorization:
    """Write what changes after an authorization was made; what was asked for does not."""
    stored = _at(authorization, appended)
    values = [getattr(stored, name) for name in _CHANGING]
    tx.execute(_UPDATE, (stored.state.value, *values, stored.id))
    return stored


@lru_cache(maxsize=4096)
def _job(text: str) -> Job:
    return Job.model_validate_json(text)


@lru_cache(maxsize=4096)
def _delegation(text: str) -> Delegation:
    return Delegation.model_validate_json(text)


def _from_row(row: tuple[Any, ...]) -> Authorization:
    return Authorization(
        id=row[0],
        executor=row[1],
        orchestrator=row[2],
        state=State(row[3]),
        job=_job(row[4]),
        job_digest=row[5],
        max_runtime_s=row[6],
        enrollment=row[7],
        requested_at=row[8],
        activated_at=row[9],
        lease_expires=row[10],
        renewals=row[11],
        artifact=row[12],
        reason=row[13],
        last_seq=row[14],
        last_leaf=None if row[15] is None else bytes(row[15]),
        parent=row[16],
        place=row[17],
        depth=row[18],
        delegation=_delegation(row[19]),
        tier=row[20],
    )
