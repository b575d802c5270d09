"""Executors: who they are, how far their evidence was followed, and what was found last."""

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from gateway.storage.database import Transaction
from tpm.attestation_key import AttestationKey, accept_attestation_key
from tpm.public import parse_public
from ztrooted.evidence import Evidence
from ztrooted.progress import Progress

_COLUMNS = (
    "id, class, virtual, manufacturer, ak_public, session_key, enrollment, event_log, progress, pcrs, trusted, verdict,"
    " proved_at, proof_due"
)


@dataclass(frozen=True, slots=True)
class Executor:
    """One enrolled machine. ``enrollment`` is the index of its ``executor.enrolled`` record; times in ms."""

    id: str
    executor_class: str
    virtual: bool
    manufacturer: str
    ak_public: bytes
    session_key: bytes
    enrollment: int
    event_log: str
    progress: Progress
    pcrs: Mapping[int, bytes]
    trusted: bool
    verdict: Mapping[str, Any]
    proved_at: int
    proof_due: int

    def attestation_key(self) -> AttestationKey:
        """The key its quotes must be signed with, checked again on the way out of the database."""
        return _attestation_key(self.ak_public)


def store(tx: Transaction, executor: Executor) -> None:
    """Insert or replace the row of one executor."""
    row = _to_row(executor)
    tx.execute(
        f"INSERT OR REPLACE INTO executors({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
        row,
    )


def store_verdict(tx: Transaction, executor: Executor) -> None:
    """Write what a round changes of an executor that is stored: the verdict, and what the next round starts from."""
    row = _to_row(executor)
    tx.execute(
        "UPDATE executors SET class = ?, progress = ?, pcrs = ?, trusted = ?, verdict = ?, proved_at = ?, proof_due = ?"
        " WHERE id = ?",
        (row[1], *row[8:], row[0]),
    )


def find(connection: sqlite3.Connection, executor: str) -> Executor | None:
    """One executor, or None."""
    query = f"SELECT {_COLUMNS} FROM executors WHERE id = ?"  # noqa: S608 -- a constant
    row = connection.execute(query, (executor,)).fetchone()
    return None if row is None else _from_row(row)


def find_labelled(connection: sqlite3.Connection, executor: str) -> tuple[Executor, Mapping[str, str]] | None:
    """One executor with its labels, or None."""
    query = (
        f"SELECT {_COLUMNS}, l.labels FROM executors"  # noqa: S608 -- a constant
        " LEFT JOIN labels l ON l.executor = id WHERE id = ?"
    )
    row = connection.execute(query, (executor,)).fetchone()
    return None if row is None else (_from_row(row[:-1]), _labels(row[-1]))


def labels_of(connection: sqlite3.Connection, executor: str) -> Mapping[str, str]:
    """What operators labelled an executor with, enrolled or not."""
    row = connection.execute("SELECT labels FROM labels WHERE executor = ?", (executor,)).fetchone()
    return _labels(None if row is None else row[0])


def set_labels(tx: Transaction, executor: str, labels: Mapping[str, str]) -> None:
    """Replace all labels of an executor."""
    tx.execute("INSERT OR REPLACE INTO labels(executor, labels) VALUES (?, ?)", (executor, json.dumps(dict(labels))))


def every(connection: sqlite3.Connection, *, after: str = "", limit: int = 200) -> list[Executor]:
    """A page of executors in the order of their ids."""
    query = f"SELECT {_COLUMNS} FROM executors WHERE id > ? ORDER BY id LIMIT ?"  # noqa: S608 -- a constant
    return [_from_row(row) for row in connection.execute(query, (after, limit))]


def of_class(connection: sqlite3.Connection, executor_class: str) -> list[Executor]:
    """Every executor whose last round was judged by the rules of a class."""
    query = f"SELECT {_COLUMNS} FROM executors WHERE class = ? ORDER BY id"  # noqa: S608 -- a constant
    return [_from_row(row) for row in connection.execute(query, (executor_class,))]


def keep_entries(tx: Transaction, executor: Executor, evidence: Evidence, count: int) -> None:
    """Keep the first ``count`` measurement list entries of a trusted round, so that a bundle can show the whole list."""
    if evidence.ima_offset == 0:  # the list was judged anew from its start, so this covers all there was
        tx.execute("DELETE FROM ima_entries WHERE executor = ? AND enrollment = ?", (executor.id, executor.enrollment))
    lines = evidence.ima.split(b"\n")
    data = b"".join(line + b"\n" for line in lines[:count])
    tx.execute(
        "INSERT INTO ima_entries(executor, enrollment, offset, count, blob) VALUES (?, ?, ?, ?, ?)"
        " ON CONFLICT DO NOTHING",
        (executor.id, executor.enrollment, evidence.ima_offset, count, tx.blob(data)),
    )


def ima_blobs(connection: sqlite3.Connection, executor: str, enrollment: int) -> tuple[str, ...]:
    """The blobs that make up the measurement list of one enrollment, as far as trusted rounds followed it."""
    rows = connection.execute(
        "SELECT offset, count, blob FROM ima_entries WHERE executor = ? AND enrollment = ? ORDER BY offset",
        (executor, enrollment),
    )
    listed, have = [], 0
    for offset, count, blob in rows:
        if offset == have:
            listed.append(str(blob))
            have += count
    return tuple(listed)


def forget_file_checks(tx: Transaction, executor_class: str) -> None:
    """After a new baseline: every file of every executor of the class has to be judged again, from the first entry on."""
    fresh = Progress().encode()["ima"]
    tx.execute(
        "UPDATE executors SET progress = json_set(progress, '$.ima', json(?)) WHERE class = ?",
        (json.dumps(fresh), executor_class),
    )


def forget_every_file_check(tx: Transaction) -> None:
    """After a new policy: likewise, for every executor."""
    fresh = json.dumps(Progress().encode()["ima"])
    tx.execute("UPDATE executors SET progress = json_set(progress, '$.ima', json(?))", (fresh,))


@lru_cache(maxsize=16384)
def _attestation_key(public: bytes) -> AttestationKey:
    return accept_attestation_key(parse_public(public))


@lru_cache(maxsize=4096)
def _pcrs(text: str) -> Mapping[int, bytes]:
    """Machines of one kind have the same values, so the text is read once for all of them."""
    return MappingProxyType({int(index): bytes.fromhex(value) for index, value in json.loads(text).items()})


@lru_cache(maxsize=4096)
def _pcrs_text(pcrs: tuple[tuple[int, bytes], ...]) -> str:
    return json.dumps({str(index): value.hex() for index, value in pcrs})


@lru_cache(maxsize=4096)
def _labels(text: str | None) -> Mapping[str, str]:
    return MappingProxyType({} if text is None else dict(json.loads(text)))


# The last row seen of each executor, and what it was read as: a row that is the same is not parsed again. The database is
# what counts; a row that is another, for whatever reason, is another executor here.
_READ: dict[str, tuple[tuple[Any, ...], Executor]] = {}
_READ_MOST = 16384


def _to_row(executor: Executor) -> tuple[Any, ...]:
    row = (
        executor.id,
        executor.executor_class,
        int(executor.virtual),
        executor.manufacturer,
        executor.ak_public,
        executor.session_key,
        executor.enrollment,
        executor.event_log,
        json.dumps(executor.progress.encode()),
        _pcrs_text(tuple(executor.pcrs.items())),
        int(executor.trusted),
        json.dumps(executor.verdict),
        executor.proved_at,
        executor.proof_due,
    )
    _remember(row, executor)
    return row


def _remember(row: tuple[Any, ...], executor: Executor) -> None:
    if len(_READ) >= _READ_MOST:
        _READ.clear()
    _READ[executor.id] = (row, executor)


def _from_row(row: tuple[Any, ...]) -> Executor:
    known = _READ.get(row[0])
    if known is not None and known[0] == row:
        return known[1]
    executor = _parsed(row)
    _remember(row, executor)
    return executor


def _parsed(row: tuple[Any, ...]) -> Executor:
    return Executor(
        id=row[0],
        executor_class=row[1],
        virtual=bool(row[2]),
        manufacturer=row[3],
        ak_public=bytes(row[4]),
        session_key=bytes(row[5]),
        enrollment=row[6],
        event_log=row[7],
        progress=Progress.decode(json.loads(row[8])),
        pcrs=_pcrs(row[9]),
        trusted=bool(row[10]),
        verdict=json.loads(row[11]),
        proved_at=row[12],
        proof_due=row[13],
    )
