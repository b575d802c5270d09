"""Collects what proves one authorization from the database into a bundle."""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig
from gateway.storage import authorizations, executors, lineage
from gateway.storage.database import Database
from ztrooted import merkle
from ztrooted.bundle import Bundle, ProvenRecord
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

# Records that a story rests on besides its own, found by what the story's records name.
CONTEXT = ("gateway.started", "policy.activated", "baseline.approved", "key.introduced")


class Bundles:
    """Makes bundles. Sealing comes first, so that the last record of the story is covered too."""

    def __init__(self, config: GatewayConfig, database: Database, checkpointer: Checkpointer) -> None:
        self._config = config
        self._database = database
        self._checkpointer = checkpointer

    async def export(self, authorization: str) -> bytes:
        """The bundle of one authorization. GateError ``artifact.unknown`` when there is none."""
        connection = self._database.reading
        authorizations.get(connection, authorization)
        size, note = await self._checkpointer.seal()
        story = _story(connection, authorization, size)
        own = [parse_record(data) for _, data in story]
        enrollments = sorted({index for record in own for index in _enrollments(record.body)})
        context = [_at(connection, index) for index in enrollments]
        context += _context(connection, own[-1].at, size)
        records = dict(sorted([*story, *context]))
        reader = lineage.Reader(connection)
        proven = tuple(
            ProvenRecord(index, data, tuple(merkle.inclusion_proof(size, index, reader.read)))
            for index, data in sorted(records.items())
        )
        named = sorted({name for data in records.values() for name in _named(json.loads(data))})
        ima = self._ima(connection, own, enrollments)
        artifacts = self._artifacts(connection, authorization)
        blobs = {
            digest: blob for digest in (*named, *ima, *artifacts) if (blob := _blob(connection, digest)) is not None
        }
        return Bundle(authorization, self._config.origin, note, proven, tuple(artifacts), ima, blobs).encode()

    def _ima(self, connection: sqlite3.Connection, own: list[Any], enrollments: list[int]) -> tuple[str, ...]:
        if not enrollments:
            return ()
        return executors.ima_blobs(connection, own[0].body["executor"], enrollments[-1])

    def _artifacts(self, connection: sqlite3.Connection, authorization: str) -> list[str]:
        rows = connection.execute("SELECT digest FROM artifacts WHERE authorization = ? ORDER BY n", (authorization,))
        return [row[0] for row in rows]


def _story(connection: sqlite3.Connection, authorization: str, size: int) -> list[tuple[int, bytes]]:
    rows = connection.execute(
        "SELECT seq, bytes FROM records WHERE authorization = ? AND seq < ? ORDER BY seq", (authorization, size)
    )
    return [(int(seq), bytes(data)) for seq, data in rows]


def _context(connection: sqlite3.Connection, until_ms: int, size: int) -> list[tuple[int, bytes]]:
    marks = ", ".join("?" * len(CONTEXT))
    rows = connection.execute(
        f"SELECT seq, bytes FROM records WHERE type IN ({marks}) AND at <= ? AND seq < ?",  # noqa: S608 -- constants
        (*CONTEXT, until_ms, size),
    )
    return [(int(seq), bytes(data)) for seq, data in rows]


def _at(connection: sqlite3.Connection, index: int) -> tuple[int, bytes]:
    row = connection.execute("SELECT bytes FROM records WHERE seq = ?", (index,)).fetchone()
    if row is None:
        raise GateError(GateReason.LINEAGE_TRUNCATED, f"record {index} is missing")
    return index, bytes(row[0])


def _enrollments(body: dict[str, Any]) -> Iterator[int]:
    """The enrollment records that a record's rounds name."""
    for part in (body, body.get("round")):
        if isinstance(part, dict) and isinstance(part.get("enrollment"), int):
            yield part["enrollment"]


def _named(value: Any) -> Iterator[str]:
    """Every digest anywhere in a record: what is one of our blobs goes along."""
    if isinstance(value, str):
        if len(value) == 64:
            yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)


def _blob(connection: sqlite3.Connection, digest: str) -> bytes | None:
    row = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else bytes(row[0])
