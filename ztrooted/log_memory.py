"""What a client remembers of a gateway's log, so that a restored snapshot or a second history is found out.

A gateway whose database and TPM were both put back to an older state can't notice that itself. Whoever talked to it
before can: each answer names the newest checkpoint, ``Ztrooted-Checkpoint: origin size root`` (root in base64), and

1. the log of an address stays the same log: ``checkpoint.origin``;
2. it never has another root for a size that it had before: ``checkpoint.split_view``;
3. it is never smaller than it was known to be *when the question was asked*: ``checkpoint.split_view``. Answers overtake
   each other, so what came to be known while this one was under way says nothing;
4. what is larger begins with what is remembered, by an RFC 6962 proof of consistency: ``checkpoint.split_view``.

Only what is proved goes into the file. The first checkpoint ever is believed: there is nothing to compare it with.
There is a file for each CA that is trusted, since two gateways of one name (a test, a new start) are not one log.
"""

import hashlib
import os
import time
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint, format_checkpoint, parse_checkpoint
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.kept_files import locked, replace
from ztrooted.models import Hex32, Model, parse_json
from ztrooted.reasons import GateReason

HEADER = "Ztrooted-Checkpoint"
FILE = 1 << 20
MAX_NAMES = 256  # addresses, and logs, that one file remembers: nobody has as many gateways behind one CA
MAX_HEAD = 512  # bytes of a header that names a checkpoint
STATE = "ZTROOTED_STATE"
Size = Annotated[int, Field(ge=0, lt=1 << 53)]
NoteText = Annotated[str, StringConstraints(max_length=64 << 10)]


class ConsistencyView(Model):
    """A proof that the log of ``to_size`` records begins with that of ``from_size``, and the newest checkpoint's note."""

    from_size: Size
    to_size: Size
    hashes: Annotated[list[Hex32], Field(max_length=merkle.MAX_PROOF)]
    checkpoint: NoteText


class Seen(Model):
    """The highest checkpoint of a log that was proved."""

    size: Size
    root: Hex32


class _File(Model):
    format: Literal["ztrooted-seen/1"] = "ztrooted-seen/1"
    addresses: Annotated[dict[str, str], Field(max_length=MAX_NAMES)]
    logs: Annotated[dict[str, Seen], Field(max_length=MAX_NAMES)]


def format_head(checkpoint: Checkpoint) -> str:
    """A checkpoint in one line, as the header and the feed have it."""
    return format_checkpoint(checkpoint).decode().rstrip("\n").replace("\n", " ")


def parse_head(text: str) -> Checkpoint:
    """Read that line. ProofError ``checkpoint.malformed``."""
    if len(text) > MAX_HEAD or not text.isascii() or "\n" in text or text.count(" ") != 2:
        raise ProofError(GateReason.CHECKPOINT_MALFORMED, "a checkpoint in one line is origin, size and root")
    return parse_checkpoint(text.replace(" ", "\n").encode() + b"\n")


def state_folder() -> Path:
    """Where what is remembered is kept: $ZTROOTED_STATE, or ``ztrooted`` in the user's folder for state (XDG)."""
    if told := os.environ.get(STATE):
        return Path(told)
    base = os.environ.get("XDG_STATE_HOME", "")
    return (Path(base) if base.startswith("/") else Path("~/.local/state").expanduser()) / "ztrooted"


def memory_file(folder: Path, ca: Path) -> Path:
    """The file for the gateways that the CA certificate ``ca`` vouches for. EnvironmentProblem where that can't be read."""
    try:
        return folder / f"seen-{hashlib.sha256(ca.read_bytes()).hexdigest()[:32]}.json"
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS,
            f"the CA certificate {ca} can't be used: {error}",
            "copy tls/ca.pem from the gateway's data folder",
        ) from error


class LogMemory:
    """What is remembered of the log at one address; in ``file``, or for as long as this lives without one."""

    def __init__(self, address: str, file: Path | None = None) -> None:
        self._address = address
        self._file = file
        self._told: Checkpoint | None = None
        self._kept = self._read() if file is not None else _File(addresses={}, logs={})
        self.proved_at: float | None = None  # by the monotonic clock, in this process

    @property
    def origin(self) -> str | None:
        """The log that is known at this address."""
        return self._kept.addresses.get(self._address) or (self._told.origin if self._told else None)

    def placed(self, origin: str) -> bool:
        """Whether it is remembered that this log is the one at this address."""
        return self._kept.addresses.get(self._address) == origin

    def seen(self, origin: str) -> Checkpoint | None:
        """The highest checkpoint of a log that was proved."""
        found = self._kept.logs.get(origin)
        return None if found is None else Checkpoint(origin, found.size, bytes.fromhex(found.root))

    def highest(self) -> Checkpoint | None:
        """The highest that is known now, proved or only told: what a question that is asked now is compared with."""
        seen = None if self.origin is None else self.seen(self.origin)
        known = [one for one in (seen, self._told) if one is not None]
        return max(known, key=lambda one: one.size, default=None)

    def hear(self, told: Checkpoint, before: Checkpoint | None) -> None:
        """Take what an answer says; ``before`` is ``highest()`` from before its question. ProofError by 1. to 3."""
        # 1.
        if self.origin not in {None, told.origin}:
            raise ProofError(
                GateReason.CHECKPOINT_ORIGIN,
                f"{self._address} keeps the log {told.origin} now, and kept {self.origin}",
                _remedy(self._file),
            )
        seen = self.seen(told.origin)
        for known in (seen, self._told, before):
            # 2.
            if known is not None and known.size == told.size and known.root != told.root:
                raise self.alarm(known, told, "two trees of one size")
        # 3. What another address told of this log was known before, too.
        if before is None and self._told is None:
            before = seen
        if before is not None and told.size < before.size:
            raise self.alarm(before, told, "it lost records")
        if self._told is None or told.size > self._told.size:
            self._told = told

    def prove(self, new: Checkpoint, hashes: list[bytes]) -> None:
        """Remember ``new``, if ``hashes`` prove that it begins with what is remembered. ProofError by 4."""
        old = self.seen(new.origin)
        if old is not None and old.size:
            try:
                merkle.verify_consistency(old.size, new.size, old.root, new.root, hashes)
            except ProofError as error:
                raise self.alarm(old, new, error.detail) from error
        self._keep(new)
        self.proved_at = time.monotonic()

    def alarm(self, known: Checkpoint, told: Checkpoint, why: str) -> ProofError:
        """The log is not the one that it was."""
        return ProofError(
            GateReason.CHECKPOINT_SPLIT_VIEW,
            f"the log is not the one that it was: remembered are {_named(known)}, it shows {_named(told)}: {why}",
            _remedy(self._file),
        )

    def _keep(self, new: Checkpoint) -> None:
        if self._file is None:
            self._add(new)
            return
        try:
            with locked(self._file.with_suffix(".lock"), wait=True):
                self._kept = self._read()  # another process may have gone on
                self._add(new)
                replace(self._file, self._kept.model_dump_json(indent=1).encode())
        except OSError as error:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_OUTPUT,
                f"what was seen of the log can't be remembered in {self._file}: {error.strerror}",
                f"name a folder that can be written, with {STATE}",
            ) from error

    def _add(self, new: Checkpoint) -> None:
        known = self.seen(new.origin)
        if known is not None and known.size == new.size and known.root != new.root:
            raise self.alarm(known, new, "two trees of one size")
        logs, addresses = dict(self._kept.logs), dict(self._kept.addresses)
        if known is None or new.size > known.size:
            logs[new.origin] = Seen(size=new.size, root=new.root.hex())
        addresses.pop(self._address, None)
        addresses[self._address] = new.origin
        newest = list(addresses.items())[-MAX_NAMES:]
        self._kept = _File(addresses=dict(newest), logs=logs)

    def _read(self) -> _File:
        if self._file is None:
            return self._kept
        try:
            with self._file.open("rb") as file:
                data = file.read(FILE + 1)
        except FileNotFoundError:
            return _File(addresses={}, logs={})
        except OSError as error:
            raise _unusable(self._file, str(error.strerror)) from error
        try:
            found: _File = parse_json(_File, data, maximum=FILE)
        except GateError as error:
            raise _unusable(self._file, error.detail) from error
        return found


def forget(file: Path, now_ms: int) -> Path | None:
    """Put away what is remembered, under another name: it is evidence. None where nothing is remembered."""
    if not file.exists():
        return None
    aside = file.with_name(f"{file.stem}.forgotten-{now_ms}")
    with locked(file.with_suffix(".lock"), wait=True):
        file.rename(aside)
    return aside


def _named(checkpoint: Checkpoint) -> str:
    return f"{checkpoint.size} records with root {checkpoint.root.hex()}"


def _remedy(file: Path | None) -> str:
    where = "" if file is None else f" (a copy is in {file})"
    return (
        f"keep both{where} and have an auditor compare them: 'ztrooted audit monitor --checkpoint'. If the operator says"
        " that history was lost, 'gateway.recovered' in the log says who went on from which state; accept it with"
        " 'ztrooted forget-log'"
    )


def _unusable(file: Path, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.CONFIG_INVALID,
        f"what was seen of the log, in {file}, can't be used: {detail}",
        "restore the file; to begin anew, knowing what that gives up: 'ztrooted forget-log'",
    )
