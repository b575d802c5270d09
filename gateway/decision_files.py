"""Finds one recorded decision and everything it rests on, and makes a decision file of it."""

import asyncio
import json
import re
import sqlite3
from collections.abc import Iterator
from typing import Any

from gateway.storage import authorizations
from gateway.storage.database import Database
from ztrooted.decision_file import DecisionFile
from ztrooted.errors import GateError
from ztrooted.names import EXECUTOR_ID
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

_DECISIONS = ("policy.evaluated", "attestation.passed", "attestation.failed", "attestation.overdue")
_OUTCOMES = ("authorization.denied", "authorization.revoked")
_OF_EXECUTORS = ("executor.enrolled", "executor.trust_changed")

Found = tuple[int, Record]


class DecisionFiles:
    """Decisions by the number of their record, by authorization (the latest), or by executor (the latest on record)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def find(self, name: str, *, orchestrator: str | None) -> DecisionFile:
        """GateError ``decision.unknown`` for what is none, or is not one of ``orchestrator``'s where that is named."""
        return await asyncio.to_thread(self._find, self._database.reading, name, orchestrator)

    def _find(self, connection: sqlite3.Connection, name: str, orchestrator: str | None) -> DecisionFile:
        if name.isascii() and name.isdigit() and len(name) < 16:
            found, outcome = self._by_index(connection, int(name))
        elif EXECUTOR_ID.fullmatch(name):
            found, outcome = _latest_of_executor(connection, name), None
        else:
            found, outcome = _latest_of_authorization(connection, name)
        first = found or outcome
        if first is None:
            raise _unknown(name)
        authorization = first[1].authorization
        if orchestrator is not None and (
            authorization is None or authorizations.get(connection, authorization).orchestrator != orchestrator
        ):
            raise _unknown(name)
        return _collect(connection, found, outcome)

    def _by_index(self, connection: sqlite3.Connection, index: int) -> tuple[Found | None, Found | None]:
        row = connection.execute("SELECT bytes FROM records WHERE seq = ?", (index,)).fetchone()
        record = None if row is None else parse_record(bytes(row[0]))
        if record is not None and record.type in (*_DECISIONS, *_OF_EXECUTORS):
            return (index, record), _next_outcome(connection, record, index)
        if record is not None and record.type in _OUTCOMES:
            return None, (index, record)
        return None, None


def _unknown(name: str) -> GateError:
    return GateError(GateReason.DECISION_UNKNOWN, f"there is no decision {name[:80]!r}, or it is not yours")


def _latest_of_authorization(connection: sqlite3.Connection, name: str) -> tuple[Found | None, Found | None]:
    found = outcome = None
    rows = connection.execute("SELECT seq, bytes FROM records WHERE authorization = ? ORDER BY seq", (name,))
    for seq, data in rows:
        record = parse_record(bytes(data))
        if record.type in _DECISIONS and ("round" in record.body or record.body.get("verdict") is not None):
            found, outcome = (int(seq), record), None
        elif record.type in _OUTCOMES:
            outcome = int(seq), record
    return found, outcome


def _latest_of_executor(connection: sqlite3.Connection, executor: str) -> Found | None:
    rows = connection.execute("SELECT seq, bytes FROM records WHERE type IN (?, ?) ORDER BY seq DESC", _OF_EXECUTORS)
    for seq, data in rows:
        record = parse_record(bytes(data))
        if record.body["executor"] == executor:
            return int(seq), record
    return None


def _next_outcome(connection: sqlite3.Connection, record: Record, index: int) -> Found | None:
    """The denial or revocation directly behind a decision."""
    row = connection.execute(
        "SELECT seq, bytes FROM records WHERE authorization = ? AND seq > ? ORDER BY seq LIMIT 1",
        (record.authorization, index),
    ).fetchone()
    if row is None:
        return None
    after = parse_record(bytes(row[1]))
    return (int(row[0]), after) if after.type in _OUTCOMES else None


def _collect(connection: sqlite3.Connection, found: Found | None, outcome: Found | None) -> DecisionFile:
    index, record = found or outcome or (0, None)
    record = record if found else None
    body = {} if record is None else record.body.get("round", record.body)
    enrolled = None
    if record is not None:
        enrolled = record if record.type == "executor.enrolled" else _record(connection, body["enrollment"])
    asked = None
    story = (found or outcome or (0, None))[1]
    if story is not None and story.authorization is not None:
        asked = _first(connection, story.authorization)
    approved = _approved(connection, body["baseline"], body["class"], index) if body.get("baseline") else None
    activated = _activated(connection, body["appraisal_policy"], index) if body else None
    named = {
        text
        for one in (record, activated, enrolled if record is not enrolled else None)
        if one is not None
        for text in _digests(one.body)
    }
    blobs = {}
    for digest in sorted(named):
        row = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is not None:
            blobs[digest] = bytes(row[0])
    return DecisionFile(
        index=index,
        record=record,
        asked=asked,
        enrolled=enrolled,
        approved=approved,
        activated=activated,
        outcome=None if outcome is None else outcome[1],
        blobs=blobs,
    )


def _record(connection: sqlite3.Connection, index: int) -> Record:
    row = connection.execute("SELECT bytes FROM records WHERE seq = ?", (index,)).fetchone()
    if row is None:
        raise GateError(GateReason.LINEAGE_TRUNCATED, f"record {index} is missing")
    return parse_record(bytes(row[0]))


def _first(connection: sqlite3.Connection, authorization: str) -> Record | None:
    row = connection.execute(
        "SELECT bytes FROM records WHERE authorization = ? ORDER BY seq LIMIT 1", (authorization,)
    ).fetchone()
    return None if row is None else parse_record(bytes(row[0]))


def _approved(connection: sqlite3.Connection, digest: str, executor_class: str, before: int) -> Record | None:
    rows = connection.execute(
        "SELECT bytes FROM records WHERE authorization IS NULL AND type = 'baseline.approved' AND seq < ? ORDER BY seq DESC",
        (before,),
    )
    for (data,) in rows:
        record = parse_record(bytes(data))
        if (record.body["baseline"], record.body["class"]) == (digest, executor_class):
            return record
    return None


def _activated(connection: sqlite3.Connection, appraisal: str, before: int) -> Record | None:
    rows = connection.execute(
        "SELECT bytes FROM records WHERE authorization IS NULL AND type = 'policy.activated' AND seq < ? ORDER BY seq DESC",
        (before,),
    )
    for (data,) in rows:
        record = parse_record(bytes(data))
        if record.body["appraisal"] == appraisal:
            return record
    return None


def _digests(value: Any) -> Iterator[str]:
    return iter(re.findall(r'"([0-9a-f]{64})"', json.dumps(value)))
