"""Looking for authorizations among very many: by job, executor, orchestrator, reason and time, each by an index.

Where several things are asked for at once, and few have one of them, the others are looked at row by row; where many have
each, their indexes are read side by side, which have all of them in the same order, and no row is looked at but those found.
A job is named by its workflow, run, step, digest, or the authorization itself, whichever a text is.
"""

import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeAlias

# Each named thing with its index, all of which go on with (requested_at DESC, id): see m0004 of the migrations.
INDEXED = {
    "executor": ("authorizations_by_executor", "executor"),
    "orchestrator": ("authorizations_by_orchestrator", "orchestrator"),
    "reason": ("authorizations_by_reason", "reason"),
    "workflow": ("authorizations_by_workflow", "json_extract(job, '$.workflow')"),
    "run": ("authorizations_by_run", "json_extract(job, '$.run')"),
    "step": ("authorizations_by_step", "json_extract(job, '$.step')"),
    "job_digest": ("authorizations_by_job", "job_digest"),
}
JOB = ("workflow", "run", "step", "job_digest")
FEW = 2000  # rows that may be looked at one by one
_COLUMNS = (
    "id, requested_at, executor, orchestrator, state, reason, parent, json_extract(job, '$.workflow'),"
    " json_extract(job, '$.run'), json_extract(job, '$.step')"
)
# One bound at each end: an index is entered at the later one, however far down a list or back in time that is.
_SPAN = "requested_at >= :since AND requested_at <= :last AND (requested_at < :at OR id > :name)"
_ORDER = "ORDER BY requested_at DESC, id LIMIT :limit"
_END_OF_TIME = 1 << 53
Values: TypeAlias = dict[str, int | str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is looked for; None for whatever it is. ``since`` and ``until`` in milliseconds since the epoch."""

    job: str | None = None
    executor: str | None = None
    orchestrator: str | None = None
    reason: str | None = None
    since: int | None = None
    until: int | None = None

    def fixed(self) -> dict[str, str]:
        """What has one column."""
        named = {"executor": self.executor, "orchestrator": self.orchestrator, "reason": self.reason}
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True, slots=True)
class Found:
    """One authorization, as far as a list shows it."""

    id: str
    requested_at: int
    executor: str
    orchestrator: str
    state: str
    reason: str | None
    parent: str | None
    workflow: str
    run: str
    step: str


def search(
    connection: sqlite3.Connection, wanted: Wanted, *, limit: int, after: tuple[int | str, ...] | None = None
) -> list[Found]:
    """The latest that are as wanted, newest first, ``limit`` at most; behind the one with the time and id ``after``."""
    at, name = after or (_END_OF_TIME, "")
    last = min(int(at), _END_OF_TIME if wanted.until is None else wanted.until - 1)
    values: Values = {"since": wanted.since or 0, "last": last, "at": at, "name": name, "limit": limit}
    found = {one.id: one for named in _alternatives(wanted) for one in _matching(connection, named, values)}
    return sorted(found.values(), key=lambda one: (-one.requested_at, one.id))[:limit]


def _alternatives(wanted: Wanted) -> Iterator[dict[str, str]]:
    if wanted.job is None:
        yield wanted.fixed()
        return
    yield {**wanted.fixed(), "id": wanted.job}
    for name in JOB:
        yield {**wanted.fixed(), name: wanted.job}


def _matching(connection: sqlite3.Connection, named: dict[str, str], values: Values) -> list[Found]:
    wanted = {**values, **{f"is_{name}": value for name, value in named.items()}}
    if "id" in named:
        return _looked_at(connection, named, wanted, "")
    counts = {name: _count(connection, name, wanted) for name in named} if len(named) > 1 else {}
    if not counts or min(counts.values()) < FEW:
        leading = min(counts, key=lambda name: counts[name]) if counts else next(iter(named), "time")
        index = INDEXED[leading][0] if named else "authorizations_by_time"
        return _looked_at(connection, named, wanted, f" INDEXED BY {index}")
    sides = " INTERSECT ".join(_side(name, "requested_at, id") for name in named)
    both = connection.execute(f"SELECT id FROM ({sides} {_ORDER})", wanted).fetchall()  # noqa: S608 -- constants
    query = f"SELECT {_COLUMNS} FROM authorizations WHERE id = ?"  # noqa: S608 -- constants
    return [Found(*connection.execute(query, one).fetchone()) for one in both]


def _looked_at(connection: sqlite3.Connection, named: dict[str, str], wanted: Values, index: str) -> list[Found]:
    """Row by row, in the order of an index."""
    expressions = {name: INDEXED[name][1] if name in INDEXED else name for name in named}
    conditions = "".join(f" AND {expression} = :is_{name}" for name, expression in expressions.items())
    query = f"SELECT {_COLUMNS} FROM authorizations{index} WHERE {_SPAN}{conditions} {_ORDER}"  # noqa: S608 -- constants
    return [Found(*row) for row in connection.execute(query, wanted)]


def _side(name: str, columns: str) -> str:
    """Everything that has one thing, read from its index alone."""
    index, expression = INDEXED[name]
    return (
        f"SELECT {columns} FROM authorizations INDEXED BY {index}"  # noqa: S608 -- constants
        f" WHERE {_SPAN} AND {expression} = :is_{name}"
    )


def _count(connection: sqlite3.Connection, name: str, wanted: Values) -> int:
    """How many have it; no more than ``FEW`` are counted."""
    query = f"SELECT COUNT(*) FROM ({_side(name, '1')} LIMIT {FEW})"  # noqa: S608 -- constants
    return int(connection.execute(query, wanted).fetchone()[0])


def reasons(connection: sqlite3.Connection) -> list[str]:
    """Every reason that there is, in order; read by jumps through its index."""
    query = (
        "WITH RECURSIVE one(code) AS (SELECT MIN(reason) FROM authorizations WHERE reason IS NOT NULL UNION ALL"
        " SELECT (SELECT MIN(reason) FROM authorizations WHERE reason > one.code) FROM one WHERE one.code IS NOT NULL)"
        " SELECT code FROM one WHERE code IS NOT NULL"
    )
    return [code for (code,) in connection.execute(query)]
