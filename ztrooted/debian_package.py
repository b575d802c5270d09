"""Debian packages, read for the digests of their files. Pure Python: an ``ar`` archive with a compressed tar inside.

A package's own md5sums are useless here: MD5 is broken, and IMA measures with SHA-256. So the files are hashed.
"""

import hashlib
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason

MAGIC = b"!<arch>\n"
HEADER = 60
MAX_PACKAGE = 4 << 30
MAX_FILES = 200_000
CHUNK = 1 << 20


def package_files(path: Path, algorithm: str, *, executable_only: bool = False) -> Iterator[tuple[str, str]]:
    """(absolute path, hexadecimal digest) of every regular file of a package, hard links included.

    PolicyError ``baseline.source`` for anything that is not a package as Debian writes them, or that reaches out of it.
    """
    try:
        with path.open("rb") as file:
            member, name = _data_member(file, path)
            _check_compression(name, path)
            with tarfile.open(fileobj=member, mode="r|*") as archive:
                yield from _files(archive, path, algorithm, executable_only=executable_only)
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise _refuse(path, str(error)) from error


def _refuse(path: Path, why: str) -> PolicyError:
    return PolicyError(GateReason.BASELINE_SOURCE, f"{path} is not a Debian package that can be read: {why}")


def _check_compression(name: str, path: Path) -> None:
    """By its name; which one it really is, the tar reader finds out."""
    if name not in {"data.tar", "data.tar.gz", "data.tar.xz", "data.tar.bz2"}:
        raise _refuse(path, f"its files are in {name}; repack it with 'dpkg-deb -Zxz' where that is zstd")


class _Member:
    """The bytes of one archive member, as a stream."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        self._left -= len(data)
        return data


def _data_member(file: IO[bytes], path: Path) -> tuple[IO[bytes], str]:
    """The member with the files (deb(5)): the first that is called data.tar, behind version and control."""
    if file.read(len(MAGIC)) != MAGIC:
        raise _refuse(path, "it does not begin as an archive")
    for _ in range(16):
        header = file.read(HEADER)
        if len(header) != HEADER or header[58:] != b"`\n":
            break
        name = header[:16].decode("ascii", "replace").rstrip().rstrip("/")
        digits = header[48:58].strip()
        if not digits.isdigit():
            break
        size = int(digits)
        if size > MAX_PACKAGE:
            raise _refuse(path, f"member {name} has {size} bytes")
        if name.startswith("data.tar"):
            return _Member(file, size), name  # type: ignore[return-value]  # all that tarfile needs is read()
        file.seek(size + size % 2, 1)
    raise _refuse(path, "it has no member data.tar")


def _files(archive: tarfile.TarFile, path: Path, algorithm: str, *, executable_only: bool) -> Iterator[tuple[str, str]]:
    digests: dict[str, str] = {}
    for number, member in enumerate(archive):
        if number >= MAX_FILES:
            raise _refuse(path, f"it has more than {MAX_FILES} members")
        name = _absolute(member.name, path)
        if member.islnk():  # another name of a file that came before
            known = digests.get(_absolute(member.linkname, path))
            if known is None:
                raise _refuse(path, f"{name} is a link to a file that is not in it")
            yield name, known
            continue
        if not member.isreg():
            continue
        if executable_only and not member.mode & 0o111:
            continue
        content = archive.extractfile(member)
        if content is None:
            raise _refuse(path, f"{name} can't be read")
        hasher = hashlib.new(algorithm)
        while chunk := content.read(CHUNK):
            hasher.update(chunk)
        digests[name] = hasher.hexdigest()
        yield name, digests[name]


def _absolute(name: str, path: Path) -> str:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts or not parts:
        if not parts:
            return "/"
        raise _refuse(path, f"{name!r} reaches out of it")
    return "/" + "/".join(parts)
