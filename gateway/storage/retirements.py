"""Who is out of service for good: what the newest record about each says."""

import sqlite3
from dataclasses import dataclass

from gateway.storage.database import Transaction
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record


@dataclass(frozen=True, slots=True)
class Retirement:
    """Who was retired, by whom, why and when (ms); and who comes in its place, if anybody."""

    executor: str
    successor: str | None
    operator: str
    reason: str
    at: int


def store(tx: Transaction, retirement: Retirement) -> None:
    """Insert it, or replace the one that named no successor."""
    tx.execute(
        "INSERT OR REPLACE INTO retirements(executor, successor, operator, reason, at) VALUES (?, ?, ?, ?, ?)",
        (retirement.executor, retirement.successor, retirement.operator, retirement.reason, retirement.at),
    )


def find(connection: sqlite3.Connection, executor: str) -> Retirement | None:
    """The retirement of one executor, or None while it is in service."""
    row = connection.execute(
        "SELECT executor, successor, operator, reason, at FROM retirements WHERE executor = ?", (executor,)
    ).fetchone()
    return None if row is None else Retirement(*row)


def require_in_service(connection: sqlite3.Connection, executor: str) -> None:
    """GateError ``enroll.retired`` for an executor that was retired."""
    found = find(connection, executor)
    if found is not None:
        instead = "" if found.successor is None else f"; {found.successor} is in its place"
        raise GateError(
            GateReason.ENROLL_RETIRED, f"{executor} was retired by {found.operator}: {found.reason}{instead}"
        )


def check(connection: sqlite3.Connection) -> None:
    """They must be what the records lead to, and nobody enrolled afterwards. EnvironmentProblem where it is otherwise."""
    led_to: dict[str, Retirement] = {}
    retired_in: dict[str, int] = {}
    rows = connection.execute(
        "SELECT seq, at, bytes FROM records WHERE authorization IS NULL AND type = 'executor.retired' ORDER BY seq"
    )
    for seq, at, data in rows:
        body = parse_record(bytes(data)).body
        led_to[body["id"]] = Retirement(body["id"], body["successor"], body["operator"], body["reason"], at)
        retired_in[body["id"]] = seq
    back = [] if not retired_in else _enrolled_again(connection, retired_in)
    stored = {
        row[0]: Retirement(*row)
        for row in connection.execute("SELECT executor, successor, operator, reason, at FROM retirements")
    }
    differing = sorted(name for name in stored.keys() | led_to.keys() if stored.get(name) != led_to.get(name))
    if differing or back:
        said = (
            f"the retirement of {differing[0]:.80} is not what its records say"
            if differing
            else f"{back[0]:.80} was enrolled after it was retired"
        )
        raise EnvironmentProblem(
            GateReason.LINEAGE_CHAIN_BROKEN,
            said,
            "the database was altered or damaged; restore a backup, and keep this file as evidence",
        )


def _enrolled_again(connection: sqlite3.Connection, retired_in: dict[str, int]) -> list[str]:
    """Who enrolled behind the record of their retirement. SQLite looks: there may be very many enrollments."""
    rows = connection.execute(
        "SELECT seq, CASE WHEN json_valid(CAST(bytes AS TEXT)) THEN json_extract(CAST(bytes AS TEXT), '$.body.executor') END"
        " FROM records WHERE authorization IS NULL AND type = 'executor.enrolled' AND seq > ? ORDER BY seq",
        (min(retired_in.values()),),
    )
    return [executor for seq, executor in rows if seq > retired_in.get(executor, seq)]
