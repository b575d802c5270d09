"""Collects what proves one authorization from the database into a bundle."""

import asyncio
import json
import sqlite3
from collections.abc import Iterator
from functools import cache
from typing import Any

from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig
from gateway.storage import authorizations, executors, lineage
from gateway.storage.database import Database
from ztrooted import merkle
from ztrooted.bundle import Bundle, ProvenRecord
from ztrooted.errors import GateError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

# Records that a story rests on besides its own, found by what the story's records name.
CONTEXT = ("gateway.started", "policy.activated", "baseline.approved", "key.introduced")


class Bundles:
    """Makes bundles. Sealing comes first, so that the last record of the story is covered too."""

    def __init__(self, config: GatewayConfig, database: Database, checkpointer: Checkpointer) -> None:
        self._config = config
        self._database = database
        self._checkpointer = checkpointer

    async def export(self, authorization: str) -> bytes:
        """The bundle of one authorization.

        GateError ``artifact.unknown`` when there is none, ``checkpoint.unwitnessed`` when its last records are not published
        because witnesses are missing.
        """
        connection = self._database.reading
        authorizations.get(connection, authorization)
        size, note = await self._published(authorization)
        # On a thread: a job of a day has thousands of records, and other executors wait for their answers meanwhile.
        return await asyncio.to_thread(self._collect, connection, authorization, size, note)

    async def _published(self, authorization: str) -> tuple[int, bytes]:
        """A published checkpoint over the whole story; where witnesses are needed, they are asked only if there is none."""
        if self._config.witness_quorum:
            query = "SELECT MAX(seq) FROM records WHERE authorization = ?"
            (last,) = self._database.reading.execute(query, (authorization,)).fetchone()
            latest = self._checkpointer.latest()
            if latest is not None and last < latest[0]:
                return latest
        return await self._checkpointer.publish()

    def _collect(self, connection: sqlite3.Connection, authorization: str, size: int, note: bytes) -> bytes:
        story = _story(connection, authorization, size)
        own = [parse_record(data) for _, data in story]
        enrollments = sorted({index for record in own for index in _enrollments(record.body)})
        context = [_at(connection, index) for index in enrollments]
        context += _context(connection, sorted([*context, *story]))
        context += _labels(connection, own[0].body["executor"], story[-1][0])
        # What is above is told by its records alone: what those rest on is in the bundle of their own authorization.
        above = [record for name in _above(connection, own) for record in _story(connection, name, story[-1][0])]
        read = cache(lineage.Reader(connection).read)  # neighbours share most of their way to the root
        proven = tuple(
            ProvenRecord(index, data, tuple(merkle.inclusion_proof(size, index, read)))
            for index, data in sorted({*story, *context, *above})
        )
        named = sorted({name for _, data in [*story, *context] for name in _named(json.loads(data))})
        artifacts = self._artifacts(connection, authorization)
        blobs = {digest: blob for digest in (*named, *artifacts) if (blob := _blob(connection, digest)) is not None}
        ima = _measurement_list(connection, own, enrollments)
        blobs |= {sha256(part): part for part in ima}
        listed = tuple(sha256(part) for part in ima)
        return Bundle(authorization, self._config.origin, note, proven, tuple(artifacts), listed, blobs).encode()

    def _artifacts(self, connection: sqlite3.Connection, authorization: str) -> list[str]:
        rows = connection.execute("SELECT digest FROM artifacts WHERE authorization = ? ORDER BY n", (authorization,))
        return [row[0] for row in rows]


def _story(connection: sqlite3.Connection, authorization: str, size: int) -> list[tuple[int, bytes]]:
    rows = connection.execute(
        "SELECT seq, bytes FROM records WHERE authorization = ? AND seq < ? ORDER BY seq", (authorization, size)
    )
    return [(int(seq), bytes(data)) for seq, data in rows]


def _above(connection: sqlite3.Connection, own: list[Record]) -> list[str]:
    """The authorizations above, as far as they are the business of whoever may see this one.

    Where the dispatch policy was not asked, the parent that was named is none that its orchestrator may know of.
    """
    if not any(record.type == "policy.evaluated" for record in own):
        return []
    authorization = authorizations.get(connection, str(own[0].authorization))
    return [one.id for one in authorizations.above(connection, authorization)]


def _context(connection: sqlite3.Connection, story: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """The records that name what the story rests on: the last approval, activation or introduction before its first use."""
    first_use: dict[str, int] = {}
    for seq, data in story:
        for text in _texts(json.loads(data)["body"]):
            first_use.setdefault(text, seq)
    marks = ", ".join("?" * len(CONTEXT))
    rows = connection.execute(
        f"SELECT seq, bytes FROM records WHERE authorization IS NULL AND type IN ({marks})"  # noqa: S608 -- constants
        " AND seq < ? ORDER BY seq",
        (*CONTEXT, story[-1][0]),
    )
    found: dict[str, tuple[int, bytes]] = {}
    for seq, data in rows:
        record = parse_record(bytes(data))
        if record.type == "gateway.started":
            found.setdefault(record.type, (seq, bytes(data)))  # its keys are the same at every start
        for subject in _subjects(record):
            if record.type == "baseline.approved" and subject in first_use:
                found[f"{subject} {seq}"] = seq, bytes(data)  # each approval has its own end
            elif seq < first_use.get(subject, 0):
                found[subject] = seq, bytes(data)
    return list(found.values())


def _labels(connection: sqlite3.Connection, executor: str, before: int) -> list[tuple[int, bytes]]:
    """What operators labelled the executor with, each time."""
    rows = connection.execute(
        "SELECT seq, bytes FROM records WHERE authorization IS NULL AND type = 'executor.labelled' AND seq < ?",
        (before,),
    )
    return [(int(seq), bytes(data)) for seq, data in rows if parse_record(bytes(data)).body["executor"] == executor]


def _subjects(record: Record) -> list[str]:
    """What a record of the context makes usable, by its name."""
    body = record.body
    if record.type == "gateway.started":
        return []
    if record.type == "policy.activated":
        return [body["appraisal"], body["dispatch"], body["entities"]]
    if record.type == "baseline.approved":
        return [body["baseline"]]
    return [json.loads(body["statement"])["kid"]]


def _measurement_list(connection: sqlite3.Connection, own: list[Record], enrollments: list[int]) -> list[bytes]:
    """The executor's measurement list as far as the story's rounds went on from it, and no further."""
    left = max((count for record in own for count in _followed(record.body)), default=0)
    parts = []
    for digest in executors.ima_blobs(connection, own[0].body["executor"], enrollments[-1]) if left else ():
        lines = (_blob(connection, digest) or b"").split(b"\n")[:-1][:left]  # each ends with one; a name may hold a \r
        left -= len(lines)
        parts += [b"".join(line + b"\n" for line in lines)] if lines else []
    return parts


def _followed(body: dict[str, Any]) -> Iterator[int]:
    """How many entries had been verified before each round of a record."""
    for part in (body, body.get("round")):
        if isinstance(part, dict) and isinstance(part.get("previous"), dict):
            yield part["previous"]["ima"]["entries"]


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
    return (text for text in _texts(value) if len(text) == 64)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item)


def _blob(connection: sqlite3.Connection, digest: str) -> bytes | None:
    row = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
    return None if row is None else bytes(row[0])
