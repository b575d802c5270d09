"""Debian packages, read for the digests of their files. Pure Python: an ``ar`` archive with a compressed tar inside.

A package's own md5sums are useless here: MD5 is broken, and IMA measures with SHA-256. So the files are hashed.
"""

import bz2
import gzip
import hashlib
import lzma
import tarfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason

MAGIC = b"!<arch>\n"
HEADER = 60
MAX_PACKAGE = 4 << 30
MAX_FILES = 200_000
MAX_NAME = 16 << 10  # bytes of a long name or of extended headers, which tar readers keep in memory
MAX_UNPACKED = 16 << 30
CHUNK = 1 << 20
# What the readers raise for bytes that are none of theirs. The tar reader calls itself for each of a file's names.
_BROKEN = (
    *(tarfile.TarError, lzma.LZMAError, zlib.error),
    *(EOFError, OSError, ValueError, OverflowError, RecursionError),
)


def package_files(path: Path, algorithm: str, *, executable_only: bool = False) -> Iterator[tuple[str, str]]:
    """(absolute path, hexadecimal digest) of every regular file of a package, hard links included.

    PolicyError ``baseline.source`` for anything that is not a package as Debian writes them, or that reaches out of it.
    """
    try:
        with path.open("rb") as file:
            member, name = _data_member(file, path)
            if name not in _READERS:
                raise _refuse(path, f"its files are in {name}; repack it with 'dpkg-deb -Zxz' where that is zstd")
            with tarfile.open(fileobj=_READERS[name](member), mode="r|", tarinfo=_Header) as archive:
                yield from _files(archive, path, algorithm, executable_only=executable_only)
    except _BROKEN as error:
        raise _refuse(path, str(error)) from error


def _refuse(path: Path, why: str) -> PolicyError:
    return PolicyError(GateReason.BASELINE_SOURCE, f"{path} is not a Debian package that can be read: {why}")


def _as_it_is(member: IO[bytes]) -> IO[bytes]:
    return member


# Each unpacks as much as is asked for and no more; the tar reader's own would keep all that a kilobyte unpacks to.
_READERS: dict[str, Callable[[IO[bytes]], Any]] = {
    "data.tar": _as_it_is,
    "data.tar.gz": lambda member: gzip.GzipFile(fileobj=member),
    "data.tar.xz": lzma.LZMAFile,
    "data.tar.bz2": bz2.BZ2File,
}


class _Header(tarfile.TarInfo):
    """A tar header that claims nothing absurd."""

    _NAMES = frozenset({tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK, tarfile.XHDTYPE, tarfile.XGLTYPE})

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> "_Header":
        """Read one. TarError for a name or size that no package has, and for files with holes."""
        found = super().frombuf(buf, encoding, errors)
        if found.type in cls._NAMES and found.size > MAX_NAME:
            raise tarfile.ReadError(f"a name of {found.size} bytes")
        if found.type == tarfile.GNUTYPE_SPARSE or found.size > MAX_UNPACKED:
            raise tarfile.ReadError(f"{found.name[:80]!r} of {found.size} bytes, or with holes")
        return found


class _Member:
    """The bytes of one archive member, as a stream."""

    def __init__(self, file: IO[bytes], size: int) -> None:
        self._file = file
        self._left = size

    def read(self, size: int = -1) -> bytes:
        wanted = self._left if size < 0 else min(size, self._left)
        data = self._file.read(wanted)
        if len(data) < wanted:
            raise EOFError("it ends in the middle of its files")
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
    number = 0
    for number, member in enumerate(archive, 1):
        if number > MAX_FILES:
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
        if member.issparse() or not 0 <= member.size <= MAX_UNPACKED:  # extended headers may claim either
            raise _refuse(path, f"{name} has {member.size} bytes, or holes")
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
    if number == 0:  # even a package of packages has its folders
        raise _refuse(path, "its archive of files has nothing in it")


def _absolute(name: str, path: Path) -> str:
    parts = [part for part in name.split("/") if part not in {"", "."}]
    if ".." in parts or not parts:
        if not parts:
            return "/"
        raise _refuse(path, f"{name!r} reaches out of it")
    return "/" + "/".join(parts)
