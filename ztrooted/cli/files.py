"""Files that commands read and write: never more of one than its kind may have, and never a traceback."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import BinaryIO

from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason


def read_at_most(path: Path, maximum: int, remedy: str = "check the path") -> bytes:
    """The file, or ``maximum`` bytes of it and one more, by which its parser sees that it is too large.

    A device or pipe without an end is a file too. EnvironmentProblem where it can't be read.
    """
    try:
        with path.open("rb") as file:
            return file.read(maximum + 1)
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING, f"{path} can't be read: {error.strerror}", remedy
        ) from error


def read(path: Path, maximum: int, too_large: GateReason, remedy: str = "check the path") -> bytes:
    """The whole file. EnvironmentProblem where it can't be read, ``too_large`` where it has over ``maximum`` bytes."""
    data = read_at_most(path, maximum, remedy)
    if len(data) > maximum:
        raise EnvironmentProblem(too_large, f"{path} is over {maximum} bytes", "see that it is the file that is meant")
    return data


@contextmanager
def about(name: Path | str) -> Iterator[None]:
    """What is wrong in here is wrong with the file ``name``: the message begins with it."""
    try:
        yield
    except GateError as error:
        if str(name) not in error.detail:
            error.detail = f"{name}: {error.detail}"
        raise


def write(path: Path, data: bytes) -> None:
    """Write a file that was asked for. EnvironmentProblem where that can't be."""
    try:
        path.write_bytes(data)
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_OUTPUT, f"{path} can't be written: {error.strerror}", "name another file"
        ) from error


@contextmanager
def new_secret(path: Path) -> Iterator[BinaryIO]:
    """A new file that only its owner can read, open to be written; none is left where what is to go into it fails.

    It is on the disk before this returns: nobody may have another copy of what is in it.

    EnvironmentProblem where it can't be made, or is there already: nothing that may be in use is overwritten.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        remedy = "name a file that is not there yet" if isinstance(error, FileExistsError) else "name another file"
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_OUTPUT, f"{path} can't be written: {error.strerror}", remedy
        ) from error
    with ExitStack() as undo:
        undo.callback(path.unlink, missing_ok=True)
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        undo.pop_all()
