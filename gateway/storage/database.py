"""One SQLite file, one writer thread, group commit.

Every change goes through ``Database.write``: the function given runs inside a transaction on the writer's thread, sees
everything committed before it, and its caller is answered only when the commit is on disk. Functions that arrive while a
commit is under way share the next one, each behind its own savepoint, so a refused one undoes itself alone. Those that
only append to the lineage need none: their records are kept in memory until somebody's statement, or the commit, and are
written together.

SQLite's own ``synchronous`` default differs between builds; FULL is set and asserted, because an answer that leaves
before its record is durable would be an authorization without a lineage.
"""

import asyncio
import fcntl
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, Any, TypeAlias, TypeVar

from sqlite_utils import Database as SqliteUtils
from sqlite_utils.db import NoTable

from gateway.storage import lineage
from gateway.storage.migrations import MIGRATIONS
from tpm.observation import observed
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.records import Record

T = TypeVar("T")

FULL = 2
GROUP = 128  # functions in one commit: more gains nothing measurable and delays the first of them
PATIENCE_S = 0.02  # a commit costs as much as ten of the rounds of idle executors, of which nobody waits for the answer
CACHE_KIB = 64 << 10  # the rows of ten thousand executors, each of which is read and written every few seconds
QUICK_PAGES = 16 << 10  # 64 MiB: looking at every page of more takes too long for a start, and is for fsck
BUSY_MS = 2000  # only `gateway backup` and an operator's sqlite3 shell compete with us

# What SQLite says of the machine. Everything else it says while opening is about the file's content.
_OF_THE_MACHINE = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


class Transaction:
    """What a function given to ``Database.write`` may do."""

    __slots__ = ("_before", "_connection", "_log", "_opened")

    def __init__(self, connection: sqlite3.Connection, log: lineage.Lineage) -> None:
        self._connection = connection
        self._log = log
        self._before = log.snapshot()
        self._opened = False

    @property
    def connection(self) -> sqlite3.Connection:
        """For statements. With the first one begins a savepoint, behind everything that others appended before."""
        if not self._opened:
            try:
                self._log.write(self._before.size)
            except sqlite3.IntegrityError as error:  # not this one's doing: it is for the whole commit
                raise sqlite3.DatabaseError(str(error)) from error
            self._connection.execute("SAVEPOINT work")
            self._opened = True
            self._log.write()
        return self._connection

    def undo(self) -> None:
        """Undo what this function did, and nothing else."""
        if self._opened:
            self._connection.execute("ROLLBACK TO work")
            self._connection.execute("RELEASE work")
        self._log.restore(self._before)

    def keep(self) -> None:
        """Have it in the commit."""
        if self._opened:
            self._connection.execute("RELEASE work")

    def execute(self, statement: str, parameters: tuple[Any, ...] | dict[str, Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self.connection.execute(statement, parameters)

    def append(self, record: Record) -> lineage.Appended:
        """Add a record to the lineage."""
        return self._log.append(record) if self._opened else self._log.add(record)

    def blob(self, data: bytes) -> str:
        """Store bytes under their SHA-256, once, and return it in hexadecimal."""
        digest = sha256(data)
        self.execute("INSERT INTO blobs(digest, bytes) VALUES (?, ?) ON CONFLICT DO NOTHING", (digest, data))
        return digest


@dataclass(slots=True)
class _Work:
    run: Callable[[Transaction], Any]
    done: "asyncio.Future[Any]"
    patient: bool


_Outcome: TypeAlias = tuple[_Work, Any, GateError | None]


class Database:
    """The gateway's state. Open it once; ``close`` waits for what was accepted."""

    def __init__(self, path: Path, *, on_failure: Callable[[], None], trusted: lineage.Trusted | None = None) -> None:
        self._on_failure = on_failure
        with ExitStack() as opened:  # a file that is refused is let go of at once, so that it can be mended
            opened.enter_context(_lock(path))
            _create(path)
            try:
                self._writing = opened.enter_context(closing(_connect(path)))
                _prepare(self._writing)
                lineage.check(self._writing, trusted)
                self._log = lineage.Lineage(self._writing)
                self.reading = opened.enter_context(closing(_connect(path)))
                self.reading.execute("PRAGMA query_only = ON")
            # UnicodeDecodeError: SQLite quotes a damaged schema in its message, and Python can't read that either.
            except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
                raise unusable(path, error) from error
            self._opened = opened.pop_all()
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._urgent = threading.Event()
        self._commit_done = asyncio.Event()  # another one for each commit
        self._loop = asyncio.get_running_loop()
        self._stopped = False
        self.refused = False  # the last commit; what SQLite says of a disk that is full, or can only be read
        self._committed = time.monotonic()
        self._thread = threading.Thread(target=self._serve, name="writer", daemon=True)
        self._thread.start()

    async def write(self, run: Callable[[Transaction], T], *, patient: bool = False) -> T:
        """Run ``run`` in a transaction and return its result once it is durable.

        ``patient`` work may wait up to ``PATIENCE_S`` for others to share its commit; whatever else is to be written goes
        at once, and takes it along.
        GateError of ``run`` undoes only ``run``. ``database.unavailable`` when the disk refuses: nothing happened then.
        """
        if self._stopped or not self._thread.is_alive():
            raise GateError(GateReason.DATABASE_UNAVAILABLE, "the database's writer is not running")
        # A client that hangs up stops waiting for this, and the work is done all the same: no decision is left half made.
        done: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Work(run, done, patient))
        if not patient and not self._urgent.is_set():  # where it is, the writer clears it before it looks at the queue
            self._urgent.set()
        with observed("commit"):
            return await done

    @property
    def alive(self) -> bool:
        """Whether writes can succeed at all."""
        return self._thread.is_alive() and not self._stopped

    async def probe(self, idle_s: float) -> None:
        """Have something written, unless something was within ``idle_s``: ``refused`` says how that went."""
        if self.refused or time.monotonic() - self._committed >= idle_s:
            with suppress(GateError):  # it is in ``refused``
                await self.write(lambda tx: tx.execute("PRAGMA user_version = 1") and None)

    async def wait_for_commit(self) -> None:
        """Return after the next commit."""
        await self._commit_done.wait()

    async def close(self) -> None:
        """Finish what was accepted, then stop."""
        self._stopped = True
        self._queue.put(None)
        self._urgent.set()
        await asyncio.to_thread(self._thread.join)
        self._opened.close()

    def abandon(self) -> None:
        """Close what was opened for a start that came to nothing: no event loop waits for anything yet."""
        self._stopped = True
        self._queue.put(None)
        self._thread.join()
        self._opened.close()

    # --- the writer's thread -------------------------------------------------------------------------------------
    def _serve(self) -> None:
        batch: list[_Work] | None = []
        try:
            while (batch := self._next_batch()) is not None:
                self._commit(batch)
        finally:
            if (
                batch is not None
            ):  # a defect of ours: say so, and let the process end rather than answer without a writer
                self._stopped = True
                self._loop.call_soon_threadsafe(self._give_up, batch)

    def _give_up(self, batch: list[_Work]) -> None:
        """On the loop's thread, where nothing can be accepted meanwhile: nobody may wait for an answer for ever."""
        while not self._queue.empty():
            work = self._queue.get()
            if work is not None:
                batch.append(work)
        for work in batch:
            if not work.done.done():
                work.done.set_exception(GateError(GateReason.DATABASE_UNAVAILABLE, "the database's writer died"))
        self._on_failure()

    def _next_batch(self) -> list[_Work] | None:
        first = self._queue.get()
        if first is not None and first.patient:
            self._urgent.wait(PATIENCE_S)
        self._urgent.clear()
        batch = [first]
        while len(batch) < GROUP and first is not None and not self._queue.empty():
            batch.append(self._queue.get())
        if None in batch:
            self._queue.put(None)
            batch = batch[: batch.index(None)]
            if not batch:
                return None
        return [work for work in batch if work is not None]

    def _commit(self, batch: list[_Work]) -> None:
        before = self._log.snapshot()
        outcomes: list[_Outcome] = []
        try:
            self._writing.execute("BEGIN IMMEDIATE")
            for work in batch:
                outcomes.append((work, *self._run(work)))  # noqa: PERF401 -- it may stop half way, and must keep what ran
            self._log.write()
            self._writing.execute("COMMIT")
        except sqlite3.Error as error:
            self._log.restore(before)
            self.refused = True
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
            outcomes = [(work, None, _refused(error)) for work in batch]
            self._loop.call_soon_threadsafe(self._answer, outcomes)
            return
        self.refused, self._committed = False, time.monotonic()
        self._loop.call_soon_threadsafe(
            self._announce, outcomes
        )  # once: each call wakes the loop, which then runs first

    def _run(self, work: _Work) -> tuple[Any, GateError | None]:
        tx = Transaction(self._writing, self._log)
        try:
            result = work.run(tx)
        except (GateError, sqlite3.IntegrityError) as error:  # a constraint concerns only whoever ran into it
            tx.undo()
            return None, error if isinstance(error, GateError) else _refused(error)
        tx.keep()
        return result, None

    def _announce(self, outcomes: list[_Outcome]) -> None:
        """On the loop's thread: wake whose work was in a commit, and then who waits for one."""
        self._answer(outcomes)
        done, self._commit_done = self._commit_done, asyncio.Event()
        done.set()

    @staticmethod
    def _answer(outcomes: list[_Outcome]) -> None:
        """On the loop's thread: wake everyone whose work was in one commit, at once."""
        for work, result, refusal in outcomes:
            if work.done.done():
                continue
            if refusal is None:
                work.done.set_result(result)
            else:
                work.done.set_exception(refusal)


def _lock(path: Path) -> IO[str]:
    try:
        lock = path.resolve().with_suffix(".lock").open("w")  # resolved: a link is no second database
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.DATABASE_UNAVAILABLE, f"{path} can't be locked: {error}", "check the folder and its permissions"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        lock.close()
        raise EnvironmentProblem(
            GateReason.DATABASE_IN_USE,
            f"{path} is in use by another gateway",
            "stop the other one; two writers on one lineage would fork it",
        ) from error
    return lock


def _create(path: Path) -> None:
    """Make the file for its owner only, where there is none. SQLite gives the files beside it the same permissions."""
    with suppress(OSError):  # what is in the way is in SQLite's way, too, which says so
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))


def _connect(path: Path) -> sqlite3.Connection:
    with ExitStack() as opened:
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        opened.callback(connection.close)
        connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
        (level,) = connection.execute("PRAGMA synchronous").fetchone()
        if level != FULL:
            raise EnvironmentProblem(
                GateReason.DATABASE_UNAVAILABLE,
                f"SQLite keeps synchronous at {level} although FULL was asked for",
                "use an SQLite build that honours PRAGMA synchronous",
            )
        opened.pop_all()
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    if pages <= QUICK_PAGES:
        (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise sqlite3.DatabaseError(" ".join(verdict.split()))  # it has lines
    ours = {migration.name for migration in MIGRATIONS.pending(SqliteUtils(memory=True))}
    try:
        newer = {migration.name for migration in MIGRATIONS.applied(SqliteUtils(connection))} - ours
        if newer:
            raise EnvironmentProblem(
                GateReason.DATABASE_NEWER,
                f"the database was written by a newer version, which knows {', '.join(sorted(newer))}",
                "start that version again; or restore a backup of before the update, and 'ztrooted gateway recover'",
            )
        MIGRATIONS.apply(SqliteUtils(connection))
    except (NoTable, KeyError) as error:  # a table is a view, or the list of migrations lacks a column
        raise sqlite3.DatabaseError(f"its schema is not ours: {error}") from error
    for table, columns in _schema().items():
        if _columns(connection, table) != columns:
            raise sqlite3.DatabaseError(f"its schema is not ours: table {table} has other columns")
    # A file that can only be read opens well and takes BEGIN IMMEDIATE: better to be refused now than at the first record.
    connection.execute("BEGIN IMMEDIATE")
    connection.execute("PRAGMA user_version = 1")
    connection.execute("ROLLBACK")


@cache
def _schema() -> Mapping[str, tuple[str, ...]]:
    """The columns of every table, as the migrations make them where there was nothing."""
    fresh = SqliteUtils(memory=True)
    MIGRATIONS.apply(fresh)
    return {name: _columns(fresh.conn, name) for name in fresh.table_names() if name != MIGRATIONS.migrations_table}


def _columns(connection: sqlite3.Connection, table: str) -> tuple[str, ...]:
    return tuple(name for (name,) in connection.execute("SELECT name FROM pragma_table_info(?)", (table,)))


def unusable(path: Path, error: Exception) -> EnvironmentProblem:
    """What is to be done about a file that SQLite, or the machine, refuses to open."""
    if isinstance(error, OSError):
        return EnvironmentProblem(
            GateReason.DATABASE_UNAVAILABLE, f"{path} can't be opened: {error.strerror}", "check the path"
        )
    # Errors that Python's module finds itself (text that isn't UTF-8, say) have no code, and are about the content.
    if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF in _OF_THE_MACHINE:
        return EnvironmentProblem(
            GateReason.DATABASE_UNAVAILABLE,
            f"{path} can't be opened: {error}",
            "check the path, its permissions and the space left on its disk",
        )
    return EnvironmentProblem(
        GateReason.DATABASE_CORRUPT,
        f"{path} is damaged or not a database of ours: {error}",
        "restore a backup, and keep this file as evidence",
    )


def _refused(error: sqlite3.Error) -> GateError:
    return GateError(GateReason.DATABASE_UNAVAILABLE, f"the database refused to store this: {error}")
