"""Files that must survive a crash, and folders that one process at a time may change."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

NEW = ".new"


def stage(path: Path, data: bytes, mode: int = 0o666) -> Path:
    """Write a file beside its place, on the disk before this returns; ``publish`` puts it there.

    ``mode`` is what a new file gets, less what this process's umask takes away.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + NEW)
    fresh.unlink(missing_ok=True)
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return fresh


def publish(fresh: Path) -> None:
    """Put a staged file in its place; the folder's entry is on the disk, too, before this returns."""
    fresh.replace(fresh.with_name(fresh.name.removesuffix(NEW)))
    folder = os.open(fresh.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def replace(path: Path, data: bytes) -> None:
    """The file has ``data`` from now on, or what it had before; never half of it."""
    publish(stage(path, data))


def replace_secret(path: Path, data: bytes) -> None:
    """The same, for a file that only its owner may read."""
    publish(stage(path, data, 0o600))


@contextmanager
def locked(path: Path, *, wait: bool) -> Iterator[None]:
    """Hold the lock file ``path``, which the kernel lets go of when this process dies.

    EnvironmentProblem ``environment.output`` where another process has it and ``wait`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_OUTPUT,
                f"another process works in {path.parent}",
                "let it end, or name another folder",
            ) from error
        yield
