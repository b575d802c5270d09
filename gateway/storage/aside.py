"""Reading for people, on threads and connections of its own: who waits for an authorization does not wait for them.

However much is looked for, it takes no thread on which evidence is appraised, and a reading ends after ``PATIENCE_S``: it
would keep the database's write-ahead log from being folded in. What is known to be brief (``glance``) waits for no search.
"""

import asyncio
import sqlite3
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

T = TypeVar("T")

CACHE_KIB = 8 << 10
BUSY_MS = 2000
PATIENCE_S = 10.0  # nobody waits longer for a page
STEPS = 10_000  # of SQLite's machine, a millisecond or so: then it is looked whether there is time left

_searching = ThreadPoolExecutor(2, thread_name_prefix="aside")
_glancing = ThreadPoolExecutor(2, thread_name_prefix="glance")


async def aside(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """What ``read`` finds in the database ``path`` as of one moment. GateError ``database.unavailable``."""
    return await asyncio.get_running_loop().run_in_executor(_searching, _read, path, read)


async def glance(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    """The same for what takes some milliseconds however large the database is."""
    return await asyncio.get_running_loop().run_in_executor(_glancing, _read, path, read)


async def apart(compute: Callable[[], T]) -> T:
    """What ``compute`` finds without a database, on the threads of those who search."""
    return await asyncio.get_running_loop().run_in_executor(_searching, compute)


def _read(path: Path, read: Callable[[sqlite3.Connection], T]) -> T:
    try:
        with closing(
            sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, isolation_level=None)
        ) as connection:
            connection.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
            connection.execute(f"PRAGMA cache_size = {-CACHE_KIB}")
            ends = time.monotonic() + PATIENCE_S
            connection.set_progress_handler(lambda: time.monotonic() > ends, STEPS)
            connection.execute("BEGIN")
            return read(connection)
    except sqlite3.OperationalError as error:
        raise GateError(GateReason.DATABASE_UNAVAILABLE, f"the database can't be read: {error}") from error
