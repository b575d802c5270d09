"""Looking for authorizations among very many: by job, executor, orchestrator, reason and time, each by an index.

Where several things are asked for at once, the one that the fewest have leads, and the others are looked at row by row. A
job is named by its workflow, run, step, digest, or the authorization itself, whichever a text is.
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
MANY = 20_000  # rows: nobody waits for a closer look at what is this frequent
_COLUMNS = (
    "id, requested_at, executor, orchestrator, state, reason, parent, json_extract(job, '$.workflow'),"
    " json_extract(job, '$.run'), json_extract(job, '$.step')"
)
_SPAN = "requested_at >= :since AND requested_at < :until"
_BEHIND = " AND requested_at <= :at AND (requested_at < :at OR id > :name)"
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
    until = _END_OF_TIME if wanted.until is None else wanted.until
    values: Values = {"since": wanted.since or 0, "until": until, "at": at, "name": name, "limit": limit}
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
    expressions = {name: INDEXED[name][1] if name in INDEXED else name for name in named}
    conditions = "".join(f" AND {expression} = :is_{name}" for name, expression in expressions.items())
    leading = "" if "id" in named else f" INDEXED BY {_leading(connection, named, wanted)}"
    query = (
        f"SELECT {_COLUMNS} FROM authorizations{leading} WHERE {_SPAN}{_BEHIND}{conditions}"  # noqa: S608 -- constants
        " ORDER BY requested_at DESC, id LIMIT :limit"
    )
    return [Found(*row) for row in connection.execute(query, wanted)]


def _leading(connection: sqlite3.Connection, named: dict[str, str], wanted: Values) -> str:
    """The index of what the fewest have."""
    if not named:
        return "authorizations_by_time"
    if len(named) == 1:
        return INDEXED[next(iter(named))][0]
    counts = {}
    for name in named:
        index, expression = INDEXED[name]
        query = (
            f"SELECT COUNT(*) FROM (SELECT 1 FROM authorizations INDEXED BY {index}"  # noqa: S608 -- constants
            f" WHERE {_SPAN} AND {expression} = :is_{name} LIMIT {MANY})"
        )
        counts[index] = connection.execute(query, wanted).fetchone()[0]
    return min(counts, key=lambda index: counts[index])


def reasons(connection: sqlite3.Connection) -> list[str]:
    """Every reason that there is, in order; read by jumps through its index."""
    query = (
        "WITH RECURSIVE one(code) AS (SELECT MIN(reason) FROM authorizations WHERE reason IS NOT NULL UNION ALL"
        " SELECT (SELECT MIN(reason) FROM authorizations WHERE reason > one.code) FROM one WHERE one.code IS NOT NULL)"
        " SELECT code FROM one WHERE code IS NOT NULL"
    )
    return [code for (code,) in connection.execute(query)]
