"""Reading for people, on a thread and a connection of its own: who waits for an authorization does not wait for them."""

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

T = TypeVar("T")

CACHE_KIB = 8 << 10
BUSY_MS = 2000


async def aside(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What ``read`` finds in the database ``path`` as of one moment. GateError ``database.unavailable``."""
    return await asyncio.to_thread(_read, path, read)


def _read(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as connection:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
            connection.execute("BEGIN")
            return read(connection)
    except sqlite3.OperationalError as error:
        raise GateError(GateReason.DATABASE_UNAVAILABLE, f"the database can't be read: {error}") from error
