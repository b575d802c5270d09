"""Opens a database to be looked at, while its gateway runs or not, and writes nothing: neither into it nor beside it.

SQLite says of each case (https://www.sqlite.org/wal.html, "Read-Only Databases", and https://www.sqlite.org/uri.html):

* There is a write-ahead log, since the gateway runs or was killed: ``mode=ro`` reads file and log together, and leaves
  both as they are. To open it for writing and close it would move the log into the file, which may be evidence.
* There is none, since the gateway was stopped: ``mode=ro`` alone would make one, and leave it. ``immutable`` makes none,
  and believes that nobody writes meanwhile; whether that was so is looked at in the end.

All of it is read in one transaction, so that a gateway that goes on writing changes nothing of what is compared.
"""

import sqlite3
from pathlib import Path
from typing import TypeAlias

from gateway.storage.database import unusable
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

_State: TypeAlias = tuple[int, int, int, bool]


class Look:
    """A database that is looked at."""

    def __init__(self, path: Path) -> None:
        """EnvironmentProblem ``database.*`` where ``path`` can't be read."""
        self._path = path
        try:
            self._log, self._before = _log(path).exists(), _state(path)
            self.connection = sqlite3.connect(_uri(path, immutable=not self._log), uri=True, isolation_level=None)
        except (sqlite3.DatabaseError, OSError) as error:
            raise unusable(path, error) from error
        try:
            self.connection.execute("PRAGMA query_only = ON")
            self.connection.execute("BEGIN")
            self.connection.execute("SELECT COUNT(*) FROM records").fetchone()  # what it reads begins the transaction
        # UnicodeDecodeError: SQLite quotes a damaged schema in its message, and Python can't read that either.
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            self.close()
            raise unusable(path, error) from error

    def require_untouched(self) -> None:
        """EnvironmentProblem ``database.in_use`` where what was read may be of more than one moment."""
        if not self._log and _state(self._path) != self._before:
            raise EnvironmentProblem(
                GateReason.DATABASE_IN_USE,
                f"{self._path} was written to while it was looked at, so what was found may be wrong",
                "do it again: of a gateway that runs, too, it looks at one moment",
            )

    def close(self) -> None:
        """Let go of it."""
        self.connection.close()


def _uri(path: Path, *, immutable: bool) -> str:
    return f"{path.absolute().as_uri()}?mode=ro{'&immutable=1' if immutable else ''}"


def _log(path: Path) -> Path:
    return path.with_name(f"{path.name}-wal")


def _state(path: Path) -> _State:
    """Another one after anybody wrote."""
    found = path.stat()
    return found.st_ino, found.st_size, found.st_mtime_ns, _log(path).exists()
