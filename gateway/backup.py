"""A copy of a gateway's data folder, as one file, while the gateway serves; and a new folder from one.

The database is copied by SQLite itself, as of one instant. It is read only: the gateway that serves is not asked, and what
it commits meanwhile is not waited for. A backup has secrets in it, so it is its owner's only.

What is restored is an older database than the one that the TPM's counter stands for, unless nothing was anchored since. Then
a start is refused (``lineage.rolled_back``), and ``gateway recover`` goes on from there, by name and on the record.
"""

import io
import os
import shutil
import sqlite3
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePosixPath
from typing import IO

from gateway.app import DATABASE
from gateway.config import FILE, GatewayConfig
from gateway.listening import ADDRESS_FILE
from gateway.storage import lineage
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.reasons import GateReason

PAGES = 1024  # copied at once; between two the gateway may write
MAX_FILE = 1 << 30  # bytes of any file besides the database: policies, certificates, secrets
# What belongs to a process, or to the database that is copied in another way; a software TPM is not in there, so that what
# is restored can be told from what was never lost.
_LEFT_OUT = frozenset({ADDRESS_FILE, DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", Path(DATABASE).stem + ".lock"})


def backup(config: GatewayConfig, file: Path) -> dict[str, object]:
    """Write the data folder to the new ``file``, for its owner only; what is in it, for people.

    EnvironmentProblem where something can't be read or written, and then there is no file.
    """
    source = config.data / DATABASE
    if not source.exists():
        raise EnvironmentProblem(
            GateReason.DATABASE_UNAVAILABLE, f"{source} is not there: this gateway never ran", "nothing is lost yet"
        )
    try:
        with tempfile.TemporaryDirectory(prefix=f".{file.name}.", dir=file.parent) as folder:
            copy = Path(folder) / DATABASE
            records = _copy_database(source, copy)
            partial = Path(folder) / "backup"
            with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as written:
                names = _write(written, config.data, copy)
                written.flush()
                os.fsync(written.fileno())
            os.link(partial, file)  # never over another file
    except FileExistsError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_OUTPUT, f"{file} is there already", "name a file that is not there yet"
        ) from error
    except (OSError, sqlite3.Error) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_OUTPUT, f"the backup can't be made: {error}", "check space and permissions"
        ) from error
    return {"file": str(file), "records": records, "files": len(names), "bytes": file.stat().st_size}


def _copy_database(source: Path, copy: Path) -> int:
    """SQLite's own online backup, then a look at the copy; how many records it has."""
    with (
        closing(sqlite3.connect(f"{source.as_uri()}?mode=ro", uri=True)) as reading,
        closing(sqlite3.connect(copy)) as writing,
    ):
        # One read transaction over the whole copy: it is of one instant, and does not begin anew at each commit.
        reading.execute("BEGIN")
        reading.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        reading.backup(writing, pages=PAGES)
        writing.execute("PRAGMA journal_mode = DELETE")
        (verdict,) = writing.execute("PRAGMA quick_check(1)").fetchone()
        if verdict != "ok":
            raise EnvironmentProblem(
                GateReason.DATABASE_CORRUPT, f"{source} is damaged: {verdict}", "stop the gateway, and run fsck"
            )
        return lineage.size(writing)


def _write(written: IO[bytes], data: Path, database: Path) -> list[str]:
    names = []
    with tarfile.open(fileobj=written, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        for path in _files(data):
            name = str(path.relative_to(data))
            content = path.read_bytes()
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(content), path.stat().st_mode & 0o700
            member.mtime = int(path.stat().st_mtime)
            archive.addfile(member, io.BytesIO(content))
            names.append(name)
        member = tarfile.TarInfo(DATABASE)
        member.size, member.mode = database.stat().st_size, 0o600
        with database.open("rb") as content_of:
            archive.addfile(member, content_of)
        names.append(DATABASE)
    return names


def _files(data: Path) -> Iterator[Path]:
    """What is to be kept, without links: each is named by its place in the folder."""
    for path in sorted(data.rglob("*")):
        if path.is_symlink() or not path.is_file() or str(path.relative_to(data)) in _LEFT_OUT:
            continue
        if path.stat().st_size > MAX_FILE:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_DATA_FOLDER, f"{path} is over {MAX_FILE} bytes", "keep it somewhere else"
            )
        yield path


def _extract(archive: tarfile.TarFile, folder: Path) -> None:
    """Plain files below ``folder`` and nothing else, whatever the archive says."""
    for member in archive:
        name = PurePosixPath(member.name)
        content = archive.extractfile(member) if member.isreg() else None
        if content is None or name.is_absolute() or ".." in name.parts:
            raise tarfile.TarError(f"{member.name!r} has no place in a backup")
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, member.mode & 0o700), "wb") as file:
            shutil.copyfileobj(content, file)


def restore(file: Path, data: Path) -> dict[str, object]:
    """Make the new data folder ``data`` of a backup: complete, or not at all. No gateway is asked, and no TPM."""
    data = data.absolute()
    if data.exists():
        raise UsageProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER, f"{data} is there already", "move it away first: it is evidence"
        )
    fresh = data.with_name(f".{data.name}.restored")
    shutil.rmtree(fresh, ignore_errors=True)
    try:
        fresh.mkdir(mode=0o700, parents=True)
        with tarfile.open(file, mode="r:gz") as archive:
            _extract(archive, fresh)
        if not (fresh / FILE).is_file() or not (fresh / DATABASE).is_file():
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_DATA_FOLDER, f"{file} is not the backup of a gateway", "name another file"
            )
        fresh.rename(data)
    except (OSError, tarfile.TarError, EOFError) as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER, f"{file} can't be restored: {error}", "take another backup"
        ) from error
    finally:
        shutil.rmtree(fresh, ignore_errors=True)
    return {"data": str(data), "files": sum(path.is_file() for path in data.rglob("*"))}
