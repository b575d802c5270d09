"""Authorizations: the state machine of each dispatch, moved only together with its lineage record."""

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from gateway.storage.database import Transaction
from gateway.storage.lineage import Appended
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.lifecycle import LIVE, RECORD_EVENTS, TRANSITIONS, State, advance
from ztrooted.models import Job
from ztrooted.reasons import GateReason, Reason
from ztrooted.records import Link, Record

_COLUMNS = (
    "id, executor, orchestrator, state, job, job_digest, max_runtime_s, enrollment, requested_at, activated_at,"
    " lease_expires, renewals, artifact, reason, last_seq, last_leaf"
)
_MARKS = ", ".join("?" * 16)


@dataclass(frozen=True, slots=True)
class Authorization:
    """One dispatch. ``artifact`` is the digest of the artifact issued last; times in milliseconds since the epoch."""

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

    The lineage proves its records; a state that somebody edited beside them would otherwise be acted upon.
    """
    states: dict[str, State] = {}
    rows = connection.execute("SELECT authorization, type FROM records WHERE authorization IS NOT NULL ORDER BY seq")
    for authorization, kind in rows:
        event = RECORD_EVENTS.get(kind)
        if kind == "dispatch.requested":
            states[authorization] = State.REQUESTED
        elif event is not None and authorization in states:
            states[authorization] = TRANSITIONS.get((states[authorization], event), State.DENIED)
    stored = dict(connection.execute("SELECT id, state FROM authorizations").fetchall())
    for authorization in sorted(states.keys() | stored.keys()):
        said, led_to = stored.get(authorization, "missing"), states.get(authorization, "missing")
        if said != led_to:
            raise EnvironmentProblem(
                GateReason.LINEAGE_CHAIN_BROKEN,
                f"authorization {authorization!r:.60} is stored as {said!r:.20}, and its records say {led_to}",
                "the database was altered or damaged; restore a backup, and keep this file as evidence",
            )


def create(tx: Transaction, authorization: Authorization, body: dict[str, Any]) -> Authorization:
    """Store a new authorization with its ``dispatch.requested``. ``lifecycle.transition`` where its id is taken."""
    if tx.execute("SELECT 1 FROM authorizations WHERE id = ?", (authorization.id,)).fetchone() is not None:
        raise GateError(
            GateReason.LIFECYCLE_TRANSITION, f"the authorization {authorization.id} exists, and can't begin again"
        )
    record = Record("dispatch.requested", authorization.requested_at, body, authorization.id)
    return _store(tx, authorization, tx.append(record))


def note(
    tx: Transaction, authorization: Authorization, kind: str, now_ms: int, body: dict[str, Any], **changes: Any
) -> tuple[Authorization, Appended]:
    """Append the record ``kind`` and move the authorization as the lifecycle table says.

    ``lifecycle.transition`` when the table has no such step from the state that is *stored*: what the caller holds may
    be older, and a revocation is never overwritten.
    """
    current = get(tx.connection, authorization.id)
    event = RECORD_EVENTS.get(kind)
    state = current.state if event is None else advance(current.state, event)
    appended = tx.append(Record(kind, now_ms, body, current.id, current.link()))
    return _store(tx, replace(current, state=state, **changes), appended), appended


def revoke(
    tx: Transaction, authorization: Authorization, now_ms: int, reason: Reason, detail: str
) -> Authorization | None:
    """End a live authorization; None when it is not live any more, so that revoking twice is harmless."""
    if not get(tx.connection, authorization.id).live:
        return None
    body = {"reason": str(reason), "detail": detail}
    return note(tx, authorization, "authorization.revoked", now_ms, body, reason=str(reason))[0]


def get(connection: sqlite3.Connection, authorization: str) -> Authorization:
    """One authorization; GateError ``artifact.unknown`` when there is none."""
    query = f"SELECT {_COLUMNS} FROM authorizations WHERE id = ?"  # noqa: S608 -- a constant
    row = connection.execute(query, (authorization,)).fetchone()
    if row is None:
        raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {authorization!r}")
    return _from_row(row)


def unfinished(connection: sqlite3.Connection, executor: str | None = None) -> list[Authorization]:
    """Those that still need somebody's attention: live, or revoked and not yet known to be dead."""
    query = (
        f"SELECT {_COLUMNS} FROM authorizations"  # noqa: S608 -- a constant
        " WHERE state IN ('authorized', 'activated', 'running', 'revoked') AND (? IS NULL OR executor = ?)"
    )
    rows = connection.execute(query, (executor, executor))
    return [_from_row(row) for row in rows]


def undecided(connection: sqlite3.Connection) -> list[Authorization]:
    """Those that a stopped gateway left in the middle of a decision."""
    query = f"SELECT {_COLUMNS} FROM authorizations WHERE state = 'requested'"  # noqa: S608 -- a constant
    return [_from_row(row) for row in connection.execute(query)]


def page(connection: sqlite3.Connection, *, orchestrator: str | None, limit: int) -> list[Authorization]:
    """The latest ones, newest first; only those of one orchestrator where it is named."""
    query = (
        f"SELECT {_COLUMNS} FROM authorizations WHERE ? IS NULL OR orchestrator = ?"  # noqa: S608 -- a constant
        " ORDER BY requested_at DESC, id LIMIT ?"
    )
    return [_from_row(row) for row in connection.execute(query, (orchestrator, orchestrator, limit))]


def _store(tx: Transaction, authorization: Authorization, appended: Appended) -> Authorization:
    stored = replace(authorization, last_seq=appended.index, last_leaf=appended.leaf)
    tx.execute(
        f"INSERT OR REPLACE INTO authorizations({_COLUMNS}) VALUES ({_MARKS})",  # noqa: S608 -- constants
        (
            stored.id,
            stored.executor,
            stored.orchestrator,
            stored.state.value,
            stored.job.model_dump_json(),
            stored.job_digest,
            stored.max_runtime_s,
            stored.enrollment,
            stored.requested_at,
            stored.activated_at,
            stored.lease_expires,
            stored.renewals,
            stored.artifact,
            stored.reason,
            stored.last_seq,
            stored.last_leaf,
        ),
    )
    return stored


def _from_row(row: tuple[Any, ...]) -> Authorization:
    return Authorization(
        id=row[0],
        executor=row[1],
        orchestrator=row[2],
        state=State(row[3]),
        job=Job.model_validate_json(row[4]),
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
    )
