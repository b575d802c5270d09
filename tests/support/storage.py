"""A database of the gateway for tests: opened, filled, and damaged by hand."""

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database
from gateway.storage.migrations import APPEND_ONLY
from ztrooted.lifecycle import RECORD_EVENTS, State, advance
from ztrooted.models import Job
from ztrooted.records import Link, Record, parse_record


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Database]:
    """A database that is closed at the end. A writer that dies fails the test through its unhandled exception."""
    database = Database(path, on_failure=lambda: None)
    try:
        yield database
    finally:
        await database.close()


def record(number: int, authorization: str | None = None) -> Record:
    """Some record, another one for each number."""
    return Record("executor.trust_changed", number, {"number": number}, authorization)


async def fill(database: Database, count: int, *, start: int = 0) -> None:
    """Append ``count`` records in one transaction."""
    await database.write(lambda tx: [tx.append(record(start + number)) for number in range(count)])


def by_hand(path: Path, *statements: str) -> None:
    """What somebody with an SQLite shell can do to a closed database: the triggers don't stop him."""
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for table in APPEND_ONLY:
            for verb in ("update", "delete"):
                connection.execute(f"DROP TRIGGER IF EXISTS {table}_no_{verb}")
        for statement in statements:
            connection.execute(statement)


def leaves(connection: sqlite3.Connection) -> list[bytes]:
    """The leaf hashes as stored."""
    return [bytes(leaf) for (leaf,) in connection.execute("SELECT leaf FROM records ORDER BY seq")]


JOB = Job(workflow="nightly", run="17", step="build", argv=["/bin/true"], env="0" * 64)


def requested(name: str) -> Authorization:
    """A new authorization, not stored yet."""
    return Authorization(
        id=name,
        executor="ex-" + "0" * 32,
        orchestrator="ci",
        state=State.REQUESTED,
        job=JOB,
        job_digest=JOB.digest(),
        max_runtime_s=60,
        enrollment=None,
        requested_at=1,
    )


def assert_replays(connection: sqlite3.Connection) -> None:
    """The stored state of each authorization is what its records, replayed by the lifecycle table, lead to."""
    states: dict[str, State] = {}
    latest: dict[str, Link] = {}
    for seq, leaf, data in connection.execute("SELECT seq, leaf, bytes FROM records ORDER BY seq"):
        one = parse_record(bytes(data))
        if one.authorization is None:
            continue
        assert one.prev == latest.get(one.authorization)
        latest[one.authorization] = Link(seq, bytes(leaf))
        if one.type == "dispatch.requested":
            assert one.authorization not in states
            states[one.authorization] = State.REQUESTED
        elif (event := RECORD_EVENTS.get(one.type)) is not None:
            states[one.authorization] = advance(states[one.authorization], event)
    stored = authorizations.page(connection, orchestrator=None, limit=1 << 30)
    assert {one.id: one.state for one in stored} == states
    assert {one.id: one.link() for one in stored} == latest
