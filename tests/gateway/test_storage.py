"""The database: who may open it, what a commit means, and what happens when the disk or we ourselves fail."""

import asyncio
import os
import shutil
import sqlite3
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.storage import database as module
from gateway.storage import lineage
from gateway.storage.database import Database, Transaction
from tests.support.storage import by_hand, fill, leaves, opened, record
from ztrooted import merkle
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason

NOBODY = 65534


@pytest.fixture
def path(quick_path: Path) -> Path:
    return quick_path / "gateway.db"


@pytest_asyncio.fixture
async def database(path: Path) -> AsyncIterator[Database]:
    async with opened(path) as one:
        yield one


def refuse(tx: Transaction) -> None:
    raise GateError(GateReason.POLICY_DENIED, "on purpose")


def root(database: Database) -> bytes:
    """The root as the writer believes it to be."""
    return database._log.snapshot().root()


def assert_whole(database: Database) -> None:
    """Memory, records and tiles agree, with each other and with a naive computation."""
    assert root(database) == merkle.root(leaves(database.reading))
    assert lineage.check(database.reading).root() == root(database)


@asynccontextmanager
async def grouped(database: Database) -> AsyncIterator[Callable[[], None]]:
    """Holds the writer back, so that whatever is asked for meanwhile shares one commit. Yields what lets it go."""
    entered, go = asyncio.Event(), threading.Event()
    loop = asyncio.get_running_loop()

    def hold(tx: Transaction) -> None:
        loop.call_soon_threadsafe(entered.set)
        assert go.wait(10)

    held = asyncio.ensure_future(database.write(hold))
    await entered.wait()
    try:
        yield go.set
    finally:
        go.set()
    await held


# --- opening -----------------------------------------------------------------------------------------------------
async def test_O16_every_connection_is_durable_and_a_write_ahead_log(database: Database) -> None:
    for connection in (database._writing, database.reading):
        assert connection.execute("PRAGMA synchronous").fetchone() == (module.FULL,)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_O16_a_build_that_keeps_another_synchronous_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Stubborn(sqlite3.Connection):
        def execute(self, sql: str, *arguments: Any) -> sqlite3.Cursor:
            return super().execute(sql.replace("synchronous = FULL", "synchronous = NORMAL"), *arguments)

    connect = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda *args, **options: connect(*args, **options, factory=Stubborn))
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(path, on_failure=lambda: None)
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    monkeypatch.undo()
    async with opened(path):
        pass  # and nothing was left open


async def test_O20_P3_a_second_gateway_on_the_same_file_is_refused(path: Path) -> None:
    async with opened(path) as first:
        with pytest.raises(EnvironmentProblem) as refusal:
            Database(path, on_failure=lambda: None)
        assert refusal.value.reason is GateReason.DATABASE_IN_USE
        assert refusal.value.remedy
        await fill(first, 1)  # the first doesn't mind
    async with opened(path) as again:
        assert lineage.size(again.reading) == 1


async def test_O20_a_link_to_the_file_is_the_same_file(path: Path, quick_path: Path) -> None:
    link = quick_path / "elsewhere.db"
    async with opened(path):
        link.symlink_to(path)
        with pytest.raises(EnvironmentProblem) as refusal:
            Database(link, on_failure=lambda: None)
        assert refusal.value.reason is GateReason.DATABASE_IN_USE


async def test_what_was_stored_is_there_again(path: Path) -> None:
    async with opened(path) as first:
        await fill(first, 300)
        before = root(first)
    async with opened(path) as second:
        assert root(second) == before
        await fill(second, 300, start=300)
        assert_whole(second)


@pytest.mark.parametrize("table", ["records", "tiles", "blobs", "checkpoints", "artifacts"])
@pytest.mark.parametrize("verb", ["UPDATE", "DELETE"])
async def test_what_may_only_grow_refuses_to_be_changed(path: Path, table: str, verb: str) -> None:
    async with opened(path) as database:
        await fill(database, 256)

        def add(tx: Transaction) -> None:
            tx.blob(b"some bytes")
            tx.execute("INSERT INTO checkpoints(size, root, at, note) VALUES (1, x'00', 1, x'00')")
            tx.execute("INSERT INTO artifacts(authorization, n, digest) VALUES ('a', 0, 'd')")

        await database.write(add)
        (column,) = database.reading.execute(f"SELECT name FROM pragma_table_info('{table}') LIMIT 1").fetchone()  # noqa: S608
        statement = f"UPDATE {table} SET {column} = {column}" if verb == "UPDATE" else f"DELETE FROM {table}"  # noqa: S608
        before = database.reading.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608
        assert before
        with pytest.raises(GateError, match="append-only"):
            await database.write(lambda tx: tx.execute(statement))
        with pytest.raises(sqlite3.IntegrityError, match="append-only"):
            database._writing.execute(statement)
        assert database.reading.execute(f"SELECT * FROM {table}").fetchall() == before  # noqa: S608


async def test_an_inserted_row_replaces_nothing(database: Database) -> None:
    """A second record of the same number is refused; nothing of ours inserts or replaces there."""
    await fill(database, 1)
    with pytest.raises(GateError) as refusal:
        await database.write(
            lambda tx: tx.execute(
                "INSERT INTO records(seq, leaf, type, at, bytes) VALUES (0, x'00', 'gateway.stopped', 0, x'00')"
            )
        )
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    assert_whole(database)


async def test_the_reading_connection_only_reads(database: Database) -> None:
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        database.reading.execute("INSERT INTO blobs(digest, bytes) VALUES ('a', x'00')")


async def test_equal_bytes_are_stored_once(database: Database) -> None:
    names = await database.write(lambda tx: {tx.blob(b"same"), tx.blob(b"same"), tx.blob(b"other")})
    assert len(names) == 2
    assert database.reading.execute("SELECT COUNT(*) FROM blobs").fetchone() == (2,)


# --- commits -----------------------------------------------------------------------------------------------------
async def test_an_answer_means_that_another_connection_sees_it(database: Database, path: Path) -> None:
    for number in range(20):
        appended = await database.write(lambda tx, number=number: tx.append(record(number)))
        other = sqlite3.connect(path)
        assert other.execute("SELECT MAX(seq) FROM records").fetchone() == (appended.index,)
        other.close()


async def test_a_refused_function_undoes_itself_alone(database: Database) -> None:
    await fill(database, 3)
    commits: list[str] = []
    database._writing.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)

    def half(tx: Transaction) -> None:
        tx.append(record(1000))
        tx.blob(b"half")
        raise GateError(GateReason.POLICY_DENIED, "on purpose")

    async with grouped(database) as go:
        asked = [asyncio.ensure_future(database.write(lambda tx: tx.append(record(3))))]
        asked.append(asyncio.ensure_future(database.write(half)))
        asked.append(asyncio.ensure_future(database.write(lambda tx: tx.append(record(4)))))
        await asyncio.sleep(0)
        go()
        first, refused, second = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(refused, GateError)
    assert refused.reason is GateReason.POLICY_DENIED
    assert (first.index, second.index) == (3, 4)
    assert second.root == merkle.root(leaves(database.reading))
    assert len(commits) == 2  # the one that held the writer back, and one for the three
    assert database.reading.execute("SELECT COUNT(*) FROM blobs").fetchone() == (0,)
    assert_whole(database)


async def test_a_refused_function_leaves_the_tree_as_it_was(database: Database) -> None:
    """Over the end of a tile, where undoing has most to undo."""
    await fill(database, 250)
    before = root(database)

    def half(tx: Transaction) -> None:
        for number in range(20):
            tx.append(record(number))
        refuse(tx)

    with pytest.raises(GateError):
        await database.write(half)
    assert root(database) == before
    assert_whole(database)
    await fill(database, 20, start=250)
    assert_whole(database)


async def test_a_broken_constraint_concerns_only_whoever_broke_it(database: Database) -> None:
    def clash(tx: Transaction) -> None:
        tx.append(record(7))
        tx.execute("INSERT INTO tokens(hash, role, name, created_at, expires) VALUES (NULL, NULL, NULL, NULL, NULL)")

    async with grouped(database) as go:
        good = asyncio.ensure_future(database.write(lambda tx: tx.append(record(0))))
        bad = asyncio.ensure_future(database.write(clash))
        later = asyncio.ensure_future(database.write(lambda tx: tx.append(record(1))))
        await asyncio.sleep(0)
        go()
        assert (await good).index == 0
        assert (await later).index == 1
        with pytest.raises(GateError) as refusal:
            await bad
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    assert_whole(database)


async def test_what_waits_to_be_written_is_seen_by_statements_and_undone_alone(database: Database) -> None:
    """Over the end of a tile, in one commit: some only append, some look as well, and some of each are refused."""
    await fill(database, 250)

    def only_appends(tx: Transaction) -> None:
        for number in range(20):
            tx.append(record(number))
        refuse(tx)

    def looks(tx: Transaction) -> tuple[int, int]:
        appended = tx.append(record(1))
        return appended.index, tx.execute("SELECT COUNT(*) FROM records").fetchone()[0]

    def looks_and_is_refused(tx: Transaction) -> None:
        tx.append(record(2))
        assert tx.execute("SELECT MAX(seq) FROM records").fetchone()[0] == tx.append(record(3)).index - 1
        tx.blob(b"half")
        refuse(tx)

    def one(tx: Transaction) -> lineage.Appended:
        return tx.append(record(4))

    works: list[Callable[[Transaction], Any]] = [one, only_appends, looks, one, looks_and_is_refused, *[one] * 6, looks]
    works += [only_appends, one]
    async with grouped(database) as go:
        asked = [asyncio.ensure_future(database.write(work)) for work in works]
        await asyncio.sleep(0)
        go()
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert [one.index for one in found if isinstance(one, lineage.Appended)] == [250, *range(252, 259), 260]
    assert [one for one in found if isinstance(one, tuple)] == [(251, 252), (259, 260)]
    assert [one.reason for one in found if isinstance(one, GateError)] == [GateReason.POLICY_DENIED] * 3
    assert database.reading.execute("SELECT COUNT(*) FROM blobs").fetchone() == (0,)
    assert_whole(database)


@pytest.mark.parametrize("last", ["appends", "looks"])
async def test_what_can_not_be_written_for_others_refuses_the_whole_commit(database: Database, last: str) -> None:
    """Whoever comes upon it is not to blame, and those before it can't be told that they are on record."""
    await fill(database, 3)
    before = root(database)
    database._writing.execute(
        "CREATE TRIGGER broken BEFORE INSERT ON records BEGIN SELECT RAISE(ABORT, 'disk full'); END"
    )
    async with grouped(database) as go:
        asked = [asyncio.ensure_future(database.write(lambda tx: tx.append(record(1)))) for _ in range(3)]
        asked.append(asyncio.ensure_future(database.write(lambda tx: last == "looks" and tx.blob(b"more"))))
        await asyncio.sleep(0)
        go()
        found = await asyncio.gather(*asked, return_exceptions=True)
    assert [getattr(one, "reason", one) for one in found] == [GateReason.DATABASE_UNAVAILABLE] * 4
    assert root(database) == before
    assert_whole(database)
    database._writing.execute("DROP TRIGGER broken")
    await fill(database, 3, start=3)
    assert_whole(database)


async def test_many_writers_at_once_get_indices_without_a_gap(database: Database) -> None:
    results = await asyncio.gather(
        *(database.write(lambda tx, number=number: tx.append(record(number))) for number in range(500)),
        *(database.write(refuse) for _ in range(50)),
        return_exceptions=True,
    )
    appended = [result for result in results if isinstance(result, lineage.Appended)]
    assert sorted(one.index for one in appended) == list(range(500))
    stored = leaves(database.reading)
    for one in appended:
        assert stored[one.index] == one.leaf
        assert merkle.root(stored[: one.size]) == one.root or one.size != one.index + 1
    assert_whole(database)


async def test_each_answer_names_the_tree_right_behind_its_record(database: Database) -> None:
    for number in range(30):
        one = await database.write(lambda tx, number=number: tx.append(record(number)))
        assert (one.index, one.size) == (number, number + 1)
        assert one.root == merkle.root(leaves(database.reading))


async def test_a_caller_who_hangs_up_leaves_no_half_decision(database: Database) -> None:
    async with grouped(database) as go:
        asked = asyncio.ensure_future(database.write(lambda tx: tx.append(record(0))))
        await asyncio.sleep(0.05)
        asked.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asked
        go()
        await database.write(lambda tx: tx.append(record(1)))
    assert lineage.size(database.reading) == 2
    assert_whole(database)


async def test_whoever_waits_for_a_commit_learns_of_it(database: Database) -> None:
    waiting = asyncio.ensure_future(database.wait_for_commit())
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await fill(database, 1)
    async with asyncio.timeout(20):
        await waiting


async def test_closing_finishes_what_was_accepted_and_refuses_the_rest(path: Path) -> None:
    database = Database(path, on_failure=lambda: None)
    async with grouped(database) as go:
        accepted = [
            asyncio.ensure_future(database.write(lambda tx, number=number: tx.append(record(number))))
            for number in range(300)
        ]
        await asyncio.sleep(0.05)
        closing = asyncio.ensure_future(database.close())
        await asyncio.sleep(0)
        go()
        await closing
    assert [one.index for one in await asyncio.gather(*accepted)] == list(range(300))
    assert not database.alive
    with pytest.raises(GateError) as refusal:
        await database.write(refuse)
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    async with opened(path) as again:
        assert lineage.size(again.reading) == 300


# --- when the disk fails -----------------------------------------------------------------------------------------
async def test_K5_a_full_disk_stores_nothing_by_halves_and_works_again_with_space(database: Database) -> None:
    await fill(database, 300)
    before = root(database)
    (pages,) = database._writing.execute("PRAGMA page_count").fetchone()
    database._writing.execute(f"PRAGMA max_page_count = {pages + 4}")

    def large(tx: Transaction) -> None:
        tx.append(record(1000))
        tx.blob(bytes(1 << 20))

    async with grouped(database) as go:  # all of the group are refused: the transaction they share is gone
        asked = [asyncio.ensure_future(database.write(lambda tx: tx.append(record(300))))]
        asked.append(asyncio.ensure_future(database.write(large)))
        await asyncio.sleep(0)
        go()
        results = await asyncio.gather(*asked, return_exceptions=True)
    for refused in results:
        assert isinstance(refused, GateError)
        assert refused.reason is GateReason.DATABASE_UNAVAILABLE
        assert "full" in refused.detail
    assert database.alive
    assert root(database) == before
    assert_whole(database)
    assert database.reading.execute("SELECT COUNT(*) FROM blobs").fetchone() == (0,)
    database._writing.execute(f"PRAGMA max_page_count = {1 << 30}")
    await database.write(large)
    assert lineage.size(database.reading) == 301
    assert_whole(database)


async def test_K5_a_database_that_somebody_else_locks_refuses_and_works_again(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BUSY_MS", 50)
    async with opened(path) as database:
        await fill(database, 5)
        shell = sqlite3.connect(path, isolation_level=None)
        shell.execute("BEGIN IMMEDIATE")
        with pytest.raises(GateError) as refusal:
            await fill(database, 1, start=5)
        assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
        shell.execute("ROLLBACK")
        shell.close()
        await fill(database, 1, start=5)
        assert lineage.size(database.reading) == 6
        assert_whole(database)


async def test_K5_a_commit_that_fails_is_refused_and_undone(database: Database) -> None:
    await fill(database, 5)
    before = root(database)
    database._writing.set_authorizer(
        lambda action, first, *rest: (
            sqlite3.SQLITE_DENY if (action, first) == (sqlite3.SQLITE_TRANSACTION, "COMMIT") else sqlite3.SQLITE_OK
        )
    )
    with pytest.raises(GateError) as refusal:
        await fill(database, 300, start=5)
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    assert root(database) == before
    assert lineage.size(database.reading) == 5
    database._writing.set_authorizer(None)
    await fill(database, 300, start=5)
    assert_whole(database)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that an unprivileged user can reach."""
    made = Path(tempfile.mkdtemp(prefix="ztrooted-storage-"))
    if os.geteuid() == 0:
        os.chown(made, NOBODY, NOBODY)
    yield made
    made.chmod(0o700)
    shutil.rmtree(made)


@contextmanager
def unprivileged() -> Iterator[None]:
    """Permissions mean nothing to root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def test_K5_a_folder_or_file_that_can_only_be_read_is_reported_as_such(folder: Path) -> None:
    async def use(path: Path) -> None:
        async with opened(path) as database:
            await fill(database, 1)

    def refused(path: Path) -> None:
        with pytest.raises(EnvironmentProblem) as refusal:
            asyncio.run(use(path))
        assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
        assert refusal.value.remedy

    path = folder / "gateway.db"
    with unprivileged():
        asyncio.run(use(path))
        path.chmod(0o400)
        refused(path)
        for one in folder.iterdir():  # SQLite gave the files beside it the same mode
            one.chmod(0o600)
        folder.chmod(0o500)
        (folder / "gateway.lock").chmod(0o400)
        refused(path)
        folder.chmod(0o700)
        (folder / "gateway.lock").chmod(0o600)
        asyncio.run(use(path))  # and nothing was harmed


@pytest.mark.parametrize("name", ["missing/gateway.db", "folder"])
async def test_K5_a_path_that_is_no_file_is_reported_as_such(quick_path: Path, name: str) -> None:
    (quick_path / "folder").mkdir()
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(quick_path / name, on_failure=lambda: None)
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE


async def test_K5_no_space_for_the_schema_is_not_called_damage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    connect = module._connect

    def small(where: Path) -> sqlite3.Connection:
        connection = connect(where)
        connection.execute("PRAGMA max_page_count = 3")
        return connection

    monkeypatch.setattr(module, "_connect", small)
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(path, on_failure=lambda: None)
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    monkeypatch.undo()
    async with opened(path) as database:  # a schema that was made by halves is completed
        await fill(database, 1)


# --- when we fail ------------------------------------------------------------------------------------------------
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
async def test_a_defect_in_the_writer_ends_the_process_and_leaves_nobody_waiting(path: Path) -> None:
    failed = asyncio.Event()
    database = Database(path, on_failure=failed.set)
    await fill(database, 5)

    def defect(tx: Transaction) -> None:
        tx.append(record(5))
        raise RuntimeError("a defect")

    async with grouped(database) as go:
        asked = [asyncio.ensure_future(database.write(defect))]
        asked += [
            asyncio.ensure_future(database.write(lambda tx, number=number: tx.append(record(number))))
            for number in range(2 * module.GROUP)
        ]
        await asyncio.sleep(0)
        go()
        async with asyncio.timeout(20):
            results = await asyncio.gather(*asked, return_exceptions=True)
    for refused in results:
        assert isinstance(refused, GateError)
        assert refused.reason is GateReason.DATABASE_UNAVAILABLE
    async with asyncio.timeout(20):
        await failed.wait()
    assert not database.alive
    with pytest.raises(GateError):
        await database.write(refuse)
    await database.close()
    async with opened(path) as again:
        assert lineage.size(again.reading) == 5
        assert_whole(again)


async def test_a_refused_file_is_let_go_of(path: Path) -> None:
    async with opened(path) as database:
        await fill(database, 3)
    by_hand(path, "CREATE TABLE kept AS SELECT * FROM records", "DELETE FROM records WHERE seq = 1")
    with pytest.raises(EnvironmentProblem):
        Database(path, on_failure=lambda: None)
    by_hand(path, "DELETE FROM records", "INSERT INTO records SELECT * FROM kept")
    async with opened(path) as database:
        assert lineage.size(database.reading) == 3
