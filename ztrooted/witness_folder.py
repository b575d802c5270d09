"""A witness's folder: its configuration, its keys and what it remembers.

``witness.toml``, strict; logs are added and taken out here, by hand::

    format = "ztrooted-witness/1"
    name = "witness.example.org/w1"

    [[logs]]
    origin = "example.org/lineage"
    keys = ["example.org/lineage+1a2b3c4d+Aj…"]
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ztrooted import strict_toml
from ztrooted.checkpoint import COSIGNATURES
from ztrooted.cosigner import FILES, Cosigner, load_cosigners, new_private_key
from ztrooted.errors import EnvironmentProblem, ProofError, UsageProblem
from ztrooted.note_keys import NoteKey, SignatureType, is_key_name, parse_vkey
from ztrooted.reasons import GateReason
from ztrooted.validation import explain_validation
from ztrooted.witness_store import FILE as DATABASE
from ztrooted.witness_store import create_store

FORMAT = "ztrooted-witness/1"
FILE = "witness.toml"
Logs = Mapping[str, Sequence[NoteKey]]


class _Log(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    origin: str
    keys: Annotated[list[str], Field(min_length=1)]


class _Document(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    format: Literal["ztrooted-witness/1"]
    name: str
    logs: list[_Log]


@dataclass(frozen=True, slots=True)
class WitnessFolder:
    """What a witness is made of."""

    path: Path
    logs: Logs
    cosigners: tuple[Cosigner, ...]

    @property
    def database(self) -> Path:
        """What it remembers."""
        return self.path / DATABASE


def create_witness(path: Path, name: str, logs: Logs, *, post_quantum: bool) -> WitnessFolder:
    """Make a witness in a new folder. UsageProblem for a name or log that can't be, EnvironmentProblem for the folder."""
    if not is_key_name(name) or any(char in name for char in '"\\'):
        raise UsageProblem(
            GateReason.NOTE_KEY, f"{name[:80]!r} is no name for a key: no space, plus, quote or backslash"
        )
    try:
        text = _document(name, logs)
        _parse(text.encode(), FILE)
    except EnvironmentProblem as error:
        raise UsageProblem(error.reason, error.detail) from error
    try:
        path.mkdir(mode=0o700)
        kinds = list(FILES) if post_quantum else [SignatureType.ED25519_COSIGNATURE]
        for kind in kinds:
            _write(path / FILES[kind], new_private_key(kind))
        create_store(path / DATABASE)
        _write(path / FILE, text.encode())  # last: a folder without it is no witness
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER,
            f"a witness can't be made in {path}: {error.strerror}",
            "name a folder that is not there yet, in one that is",
        ) from error
    return load_witness(path)


def load_witness(path: Path) -> WitnessFolder:
    """Read a witness's folder. EnvironmentProblem when it can't be used."""
    file = path / FILE
    try:
        data = file.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            f"{file} can't be read: {error.strerror}",
            f"make a witness with 'ztrooted witness init {path} --name NAME'",
        ) from error
    name, logs = _parse(data, str(file))
    return WitnessFolder(path, logs, load_cosigners(path, name))


def _parse(data: bytes, name: str) -> tuple[str, Logs]:
    try:
        document = _Document.model_validate(
            strict_toml.parse(data, lambda detail: _unusable(name, f"this is {detail}"))
        )
        logs = {one.origin: tuple(parse_vkey(key) for key in one.keys) for one in document.logs}
    except ValidationError as error:
        raise _unusable(name, explain_validation(error)) from error
    except ProofError as error:
        raise _unusable(name, error.detail) from error
    if len(logs) < len(document.logs):
        raise _unusable(name, "two logs have the same origin")
    if not is_key_name(document.name):
        raise _unusable(name, "the name is none that a key may have")
    for origin, keys in logs.items():
        if not is_key_name(origin):
            raise _unusable(name, f"{origin[:80]!r} is no origin of a log")
        if len({(key.name, key.key_id) for key in keys}) < len(keys) or any(key.type in COSIGNATURES for key in keys):
            raise _unusable(name, f"{origin}: a key stands there twice, or makes cosignatures only")
    return document.name, logs


def _document(name: str, logs: Logs) -> str:
    lines = [f'format = "{FORMAT}"', f'name = "{name}"']
    if not logs:
        lines.append("logs = []")
    for origin, keys in logs.items():
        listed = ", ".join(f'"{key.vkey}"' for key in keys)
        lines += ["", "[[logs]]", f'origin = "{origin}"', f"keys = [{listed}]"]
    return "\n".join(lines) + "\n"


def _write(path: Path, data: bytes) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _unusable(name: str, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(GateReason.CONFIG_INVALID, f"{name}: {detail}", "correct the file")
