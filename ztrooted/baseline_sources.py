"""Baselines computed from files, without a machine: trees, root filesystems, Debian packages, event logs.

IMA measures a file under the path by which the kernel reached it, links resolved. So paths are recorded resolved inside of
the root: what a merged /usr calls /bin/ls is listed as /usr/bin/ls.
"""

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from tpm.errors import EvidenceError
from tpm.eventlog import EventLogRules, VerifiedEventLog, parse_event_log, verify_event_log
from tpm.ima_paths import is_plain
from ztrooted import limits
from ztrooted.boot_reference import boot_reference
from ztrooted.debian_package import package_files
from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason
from ztrooted.reference import Baseline

CHUNK = 1 << 20
MAX_FILES = 1_000_000
# Where a merged /usr keeps what packages may still ship under their old names.
_MERGED = ("/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")


@dataclass
class Source:
    """What a baseline is made of. ``root`` is the folder that is / on the machine; ``trees`` lie inside of it."""

    algorithm: str = "sha256"
    executable_only: bool = False
    root: Path = Path("/")
    trees: list[Path] = field(default_factory=list)
    packages: list[Path] = field(default_factory=list)
    event_log: Path | None = None
    bank: str = "sha256"
    pins: list[int] = field(default_factory=list)


def compute(source: Source, now_ms: int) -> Baseline:
    """A baseline of everything that ``source`` names. PolicyError ``baseline.source`` where something can't be used."""
    listed: dict[str, set[str]] = {}
    for path, digest in _all_files(source):
        if len(listed) >= MAX_FILES:
            raise _refuse(f"there are more than {MAX_FILES} files")
        listed.setdefault(path, set()).add(f"{source.algorithm}:{digest}")
    log = None if source.event_log is None else read_log(source.event_log, source.bank)
    pins = _pinned(source, log)
    if not listed and log is None:
        raise _refuse("nothing was found, and an empty baseline would trust everything")
    return Baseline(
        bank=source.bank,
        pcrs=pins,
        ima={path: frozenset(digests) for path, digests in listed.items()},
        captured_from="files",
        captured_at=now_ms,
        boot=None if log is None else boot_reference(log),
    )


def _refuse(detail: str) -> PolicyError:
    return PolicyError(GateReason.BASELINE_SOURCE, detail)


def _all_files(source: Source) -> Iterator[tuple[str, str]]:
    for tree in source.trees:
        yield from tree_files(tree, source.root, source.algorithm, executable_only=source.executable_only)
    for package in source.packages:
        for path, digest in package_files(package, source.algorithm, executable_only=source.executable_only):
            yield path, digest
            if path.startswith(_MERGED):
                yield "/usr" + path, digest


def tree_files(tree: Path, root: Path, algorithm: str, *, executable_only: bool = False) -> Iterator[tuple[str, str]]:
    """(path on the machine, hexadecimal digest) of every regular file below ``tree``, in order; links are not followed.

    Other filesystems mounted inside are entered; sockets, devices and pipes are not read.
    """
    try:
        base, top = root.resolve(strict=True), tree.resolve(strict=True)
    except OSError as error:
        raise _refuse(f"{error.filename or tree} can't be read: {error.strerror}") from error
    if top != base and base not in top.parents:
        raise _refuse(f"{tree} is not inside of the root {root}")
    for path in _walk(top):
        try:
            found = path.lstat()
            if not stat.S_ISREG(found.st_mode) or (executable_only and not found.st_mode & 0o111):
                continue
            name = "/" + str(path.relative_to(base))
            if not is_plain(os.fsencode(name)):
                raise _refuse(f"{name!r} is a path that would never be allowed")
            yield name, hash_file(path, algorithm)
        except OSError as error:
            raise _refuse(f"{path} can't be read: {error.strerror}; run it as root, or leave that part out") from error


def _walk(top: Path) -> Iterator[Path]:
    if not top.is_dir():
        yield top
        return

    def failed(error: OSError) -> None:
        raise error

    for folder, folders, names in os.walk(top, onerror=failed, followlinks=False):
        folders.sort()
        yield from (Path(folder, name) for name in sorted(names))


def hash_file(path: Path, algorithm: str) -> str:
    """The digest of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()


def read_log(path: Path, bank: str) -> VerifiedEventLog:
    """A firmware's event log, verified against the PCR values that it replays to itself: nobody quoted them here."""
    try:
        with path.open("rb") as file:  # the kernel's own file has no size
            data = file.read(limits.EVENT_LOG + 1)
        if len(data) > limits.EVENT_LOG:
            raise _refuse(f"{path} is over {limits.EVENT_LOG} bytes")
        log = parse_event_log(data)
        values = log.replay(bank)
        rules = EventLogRules(secure_boot=False, max_bytes=limits.EVENT_LOG)
        return verify_event_log(log, bank=bank, pcrs=values, rules=rules)
    except OSError as error:
        raise _refuse(f"{path} can't be read: {error.strerror}") from error
    except EvidenceError as error:
        raise _refuse(f"{path} is no event log of a good boot: {error.detail} ({error.reason})") from error


def _pinned(source: Source, log: VerifiedEventLog | None) -> dict[int, bytes]:
    if not source.pins:
        return {}
    if log is None:
        raise _refuse("PCRs can only be pinned from an event log")
    reset = bytes(DIGEST_SIZE[BANK_BY_NAME[source.bank]])
    return {pcr: log.pcrs.get(pcr, reset) for pcr in sorted(set(source.pins))}


def existing(paths: Iterable[Path]) -> list[Path]:
    """The paths, each of which must be there. PolicyError ``baseline.source`` otherwise."""
    found = list(paths)
    for path in found:
        if not path.exists():
            raise _refuse(f"{path} is not there")
    return found
