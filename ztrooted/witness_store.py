"""What a witness remembers: one row a log in an SQLite file, which only ever grows.

A change is one transaction that takes the file's write lock before it reads, so of two requests at once the second sees
what the first one wrote, also from another process. It ends on disk (``synchronous=FULL``) or not at all.
"""

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ztrooted import merkle
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

FILE = "witness.db"
FULL = 2
BUSY_MS = 5000  # of waiting for another process; then the request fails and is made again

_SCHEMA = """
CREATE TABLE logs(
    origin TEXT PRIMARY KEY, size INTEGER NOT NULL CHECK (size >= 0), root BLOB NOT NULL CHECK (length(root) = 32),
    time_s INTEGER NOT NULL, text BLOB NOT NULL
) STRICT;
CREATE TRIGGER logs_only_grow BEFORE UPDATE ON logs
    WHEN NEW.origin != OLD.origin OR NEW.size < OLD.size OR (NEW.size = OLD.size AND NEW.root != OLD.root)
    BEGIN SELECT RAISE(ABORT, 'a witness never goes back'); END;
CREATE TRIGGER logs_stay BEFORE DELETE ON logs BEGIN SELECT RAISE(ABORT, 'a witness never forgets'); END;
"""


@dataclass(frozen=True, slots=True)
class Remembered:
    """The newest checkpoint of a log that was cosigned, and when (POSIX seconds); the empty log before that."""

    size: int
    root: bytes
    time_s: int


NOTHING = Remembered(0, merkle.EMPTY_ROOT, 0)


class Entry:
    """One log inside of a transaction."""

    def __init__(self, connection: sqlite3.Connection, origin: str) -> None:
        self._connection = connection
        self._origin = origin
        row = connection.execute("SELECT size, root, time_s FROM logs WHERE origin = ?", (origin,)).fetchone()
        self.remembered = NOTHING if row is None else Remembered(int(row[0]), bytes(row[1]), int(row[2]))

    def remember(self, new: Remembered, text: bytes) -> None:
        """Put ``new`` in the place of what was remembered; ``text`` is the checkpoint's."""
        self._connection.execute(
            "INSERT INTO logs(origin, size, root, time_s, text) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (origin) DO UPDATE SET size = excluded.size, root = excluded.root,"
            " time_s = excluded.time_s, text = excluded.text",
            (self._origin, new.size, new.root, new.time_s, text),
        )


class WitnessStore:
    """An open file. ``close`` it in the end."""

    def __init__(self, path: Path) -> None:
        # One that is gone is not made anew: a witness that forgot would cosign a smaller log.
        if not path.is_file():
            raise EnvironmentProblem(
                GateReason.DATABASE_UNAVAILABLE,
                f"there is no {path}, so this witness does not know what it cosigned",
                "bring the file back; if it is lost, make a new witness with new keys",
            )
        self._lock = threading.Lock()
        try:
            self._connection = _connect(path)
            self._connection.execute("SELECT origin, size, root, time_s, text FROM logs LIMIT 1").fetchone()
        except sqlite3.Error as error:
            raise EnvironmentProblem(
                GateReason.DATABASE_CORRUPT, f"{path} can't be used: {error}", "keep the file, and make a new witness"
            ) from error

    @contextmanager
    def changing(self, origin: str) -> Iterator[Entry]:
        """One log, held until the end; it is on disk after that. What is raised inside undoes it. sqlite3.Error."""
        with self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield Entry(self._connection, origin)
                self._connection.execute("COMMIT")
            finally:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()


def create_store(path: Path) -> None:
    """A new file that remembers nothing."""
    with closing(_connect(path)) as connection:
        connection.executescript(_SCHEMA)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
    connection.execute("PRAGMA journal_mode = DELETE")
    connection.execute(f"PRAGMA synchronous = {FULL}")
    return connection
