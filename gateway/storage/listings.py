"""Executors and authorizations as people look for them: by how they stand, in pages, counted. Nothing decides by these."""

import sqlite3
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from gateway.storage import authorizations, executors
from gateway.storage.authorizations import Authorization
from gateway.storage.executors import Executor
from ztrooted.lifecycle import State

# The latest of an executor or orchestrator that are looked at for what has no index of its own: a million would hold up all.
LOOKED_AT = 5000
END_OF_TIME = 1 << 53  # ms; canonical records know no later time
_IN_SERVICE = "id NOT IN (SELECT executor FROM retirements)"
# How an executor stands at :now, each as a condition; the first four exclude each other.
STANDINGS: Mapping[str, str] = MappingProxyType(
    {
        "trusted": f"trusted = 1 AND proof_due >= :now AND {_IN_SERVICE}",
        "overdue": f"trusted = 1 AND proof_due < :now AND {_IN_SERVICE}",
        "untrusted": f"trusted = 0 AND {_IN_SERVICE}",
        "retired": "id IN (SELECT executor FROM retirements)",
        "quarantined": "id IN (SELECT id FROM quarantines WHERE kind = 'executor')",
    }
)
# Which authorizations, each with the index that finds them: a million others are not looked at.
CHOICES: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "all": ("authorizations_by_time", "1"),
        "live": (
            "authorizations_live",
            "state IN ('authorized', 'activated', 'running', 'revoked') AND state <> 'revoked'",
        ),
        "refused": ("authorizations_refused", "reason IS NOT NULL"),
    }
)


def count_executors(connection: sqlite3.Connection, now_ms: int) -> dict[str, int]:
    """How many stand how, and how many are in quarantine."""
    rows = connection.execute(
        "SELECT CASE WHEN r.executor IS NOT NULL THEN 'retired' WHEN e.trusted = 0 THEN 'untrusted'"
        " WHEN e.proof_due < ? THEN 'overdue' ELSE 'trusted' END AS standing, COUNT(*)"
        " FROM executors e LEFT JOIN retirements r ON r.executor = e.id GROUP BY standing",
        (now_ms,),
    )
    (quarantined,) = connection.execute("SELECT COUNT(*) FROM quarantines WHERE kind = 'executor'").fetchone()
    return {**dict.fromkeys(STANDINGS, 0), **dict(rows.fetchall()), "quarantined": int(quarantined)}


def list_executors(
    connection: sqlite3.Connection, *, now_ms: int, standing: str, beginning: str, after: str, limit: int
) -> list[Executor]:
    """A page of executors by id: those that stand so (all, where it is empty) and whose ids begin with ``beginning``."""
    condition = STANDINGS.get(standing, "1")
    rows = connection.execute(
        f"SELECT id FROM executors WHERE id > :after AND id >= :low AND id < :high AND {condition}"  # noqa: S608
        " ORDER BY id LIMIT :limit",
        {"after": after, "low": beginning, "high": beginning + "\x7f", "now": now_ms, "limit": limit},
    ).fetchall()
    found = [executors.find(connection, row[0]) for row in rows]
    return [one for one in found if one is not None]


def stands(connection: sqlite3.Connection, name: str, state: str, reason: str | None) -> str:
    """How an authorization stands, in a word: its state; ``killed`` where it is closed since its job was interrupted.

    ``execution.interrupted`` is recorded right before ``execution.closed``, so two of its records are looked at.
    """
    if state != State.CLOSED or reason is None:
        return str(state)
    latest = connection.execute(
        "SELECT type FROM records WHERE authorization = ? ORDER BY seq DESC LIMIT 2", (name,)
    ).fetchall()
    return "killed" if ("execution.interrupted",) in [tuple(row) for row in latest] else str(state)


def list_authorizations(
    connection: sqlite3.Connection,
    *,
    choice: str = "all",
    orchestrator: str | None = None,
    executor: str | None = None,
    after: tuple[Any, ...] | None = None,
    limit: int,
) -> list[Authorization]:
    """A page of authorizations, the latest first: of one orchestrator or executor where it is named.

    ``after`` is the time (ms) and id of one; those behind it are listed. What one orchestrator has on an executor, or was
    refused, is looked for among the ``LOOKED_AT`` latest of that executor or orchestrator.
    """
    index, condition = CHOICES[choice]
    source = "authorizations INDEXED BY {} WHERE {} AND {}"
    behind = "requested_at <= :at AND (requested_at < :at OR id > :name)"  # an index is entered there, not walked to it
    order = "ORDER BY requested_at DESC, id LIMIT"
    own = "(:own IS NULL OR orchestrator = :own)"
    if executor is not None:
        source = source.format("authorizations_by_executor", "executor = :executor", behind)
    elif orchestrator is not None and choice != "live":
        source = source.format("authorizations_by_orchestrator", "orchestrator = :own", behind)
    else:
        source = source.format(index, condition, behind)
    if orchestrator is not None and (executor is not None or choice == "refused"):
        source = f"(SELECT * FROM {source} {order} :looked) WHERE 1"  # noqa: S608 -- constants
    at, name = after or (END_OF_TIME, "")
    rows = connection.execute(
        f"SELECT id FROM {source} AND {condition} AND {own} {order} :limit",  # noqa: S608 -- constants
        {
            "own": orchestrator,
            "executor": executor,
            "at": at,
            "name": name,
            "limit": limit,
            "looked": LOOKED_AT,
        },
    ).fetchall()
    return [authorizations.get(connection, row[0]) for row in rows]


def count_live(connection: sqlite3.Connection, orchestrator: str | None) -> int:
    """How many artifacts may be acted upon, of one orchestrator where it is named."""
    condition = CHOICES["live"][1]
    query = (
        "SELECT COUNT(*) FROM authorizations INDEXED BY authorizations_live"  # noqa: S608 -- constants
        f" WHERE {condition} AND (:own IS NULL OR orchestrator = :own)"
    )
    return int(connection.execute(query, {"own": orchestrator}).fetchone()[0])


def latest_records(connection: sqlite3.Connection, kinds: tuple[str, ...], limit: int) -> list[tuple[int, str, bytes]]:
    """The latest records of some types that are about no authorization: number, type and bytes, the newest first."""
    found: list[tuple[int, str, bytes]] = []
    for kind in kinds:
        found += connection.execute(
            "SELECT seq, type, bytes FROM records WHERE authorization IS NULL AND type = ? ORDER BY seq DESC LIMIT ?",
            (kind, limit),
        ).fetchall()
    return sorted(found, reverse=True)[:limit]


def story(connection: sqlite3.Connection, authorization: str, limit: int) -> list[tuple[int, str, int, bytes]]:
    """The latest records of one authorization in their order: number, type, time (ms), bytes."""
    rows = connection.execute(
        "SELECT seq, type, at, bytes FROM records WHERE authorization = ? ORDER BY seq DESC LIMIT ?",
        (authorization, limit),
    ).fetchall()
    return rows[::-1]
