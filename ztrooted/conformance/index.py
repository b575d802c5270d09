"""Indices of cases, and the files and contexts their entries name.

Three forms are read: a list of entries, ``{"entries": […]}``, and ``{"sets": […]}`` whose sets name folders of vectors.
An entry is known by its kind and fields; ids and file names are only repeated in the report.
"""

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztrooted.conformance.results import MissingFileError, NotApplicableError
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

# A file of a corpus is evidence or a list of vectors; the largest vector files have a megabyte.
MAX_FILE = 64 << 20
# Members of entries that describe them to people, or say where they come from.
REMARKS = frozenset(
    {"id", "kind", "how", "size", "source", "source_test", "alias_of", "aliases", "notes", "note", "licence", "title"}
)


class Fields:
    """The members of an object, each of which must be asked for: a member nobody asked for may change the verdict."""

    def __init__(self, value: Mapping[str, Any], name: str) -> None:
        self._left = dict(value)
        self._name = name

    def take(self, name: str, default: Any = None) -> Any:
        """The member, or ``default``."""
        return self._left.pop(name, default)

    def need(self, name: str) -> Any:
        """The member; NotApplicableError where it is missing."""
        if name not in self._left:
            raise NotApplicableError(f"the {self._name} has no {name!r}")
        return self._left.pop(name)

    def nested(self, name: str) -> "Fields":
        """The members of a member that is an object, none where it is missing."""
        value = self._left.pop(name, None) or {}
        if not isinstance(value, dict):
            raise NotApplicableError(f"{name!r} of the {self._name} is not an object")
        return Fields(value, f"{self._name} {name}")

    def left(self) -> list[str]:
        """Names of members that say something and that nobody asked for."""
        return sorted(name for name, value in self._left.items() if value is not None)

    def done(self) -> None:
        """NotApplicableError where such a member is left."""
        if left := self.left():
            raise NotApplicableError(f"the {self._name} has {', '.join(left)}, whose meaning is not known here")


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of the index at ``index``, beside which the files it names lie."""

    index: Path
    value: Mapping[str, Any]

    @property
    def folder(self) -> Path:
        """What file names are relative to."""
        return self.index.parent

    @property
    def id(self) -> str:
        """What the entry is called, for the report."""
        return str(self.value.get("id") or self.value.get("file") or "(no id)")

    @property
    def kind(self) -> str:
        """What kind of case it is."""
        return str(self.value.get("kind") or "(no kind)")

    def fields(self) -> Fields:
        """Its members, but for remarks."""
        return Fields({name: value for name, value in self.value.items() if name not in REMARKS}, "entry")

    def read(self, name: str) -> bytes:
        """The bytes of a file the entry names; MissingFileError where it is not there."""
        return read_file(self.folder, name)

    def read_upstream(self, path: str) -> bytes:
        """The bytes of what has this path where the entry came from; MissingFileError where it was not taken along."""
        source = self.value.get("source") or {}
        for other in read_index(self.index):
            if not isinstance(other, Entry):
                continue
            theirs = other.value.get("source")
            if isinstance(theirs, dict) and (theirs.get("repo"), theirs.get("path")) == (source.get("repo"), path):
                return self.read(str(other.value.get("file") or ""))
        raise MissingFileError(f"{path} is not in this corpus")

    def data(self) -> bytes:
        """The entry's own file, which is the one that was indexed."""
        data = self.read(str(self.value.get("file") or ""))
        expected = self.value.get("sha256")
        if expected is not None and "pointer" not in self.value and hashlib.sha256(data).hexdigest() != expected:
            raise MissingFileError(f"{self.value['file']} is not the file that was indexed: its SHA-256 differs")
        return data

    def item(self) -> Any:
        """The item of a file of vectors that the entry points to."""
        vectors = json.loads(self.data())
        try:
            return vectors[self.value["pointer"]]
        except (KeyError, TypeError, IndexError):
            raise MissingFileError(f"{self.value['file']} has no item {self.value.get('pointer')!r}") from None

    def vector(self) -> Mapping[str, Any]:
        """The item, which is an object."""
        item = self.item()
        if not isinstance(item, dict):
            raise NotApplicableError("the item of the vector file is not an object")
        return item

    def bytes_of(self) -> bytes:
        """What is to be parsed: the file, base64 of it where the format says so, or an item in hexadecimal or base64."""
        if "pointer" not in self.value:
            data = self.data()
            return base64.b64decode(data) if str(self.value.get("format", "")).startswith("base64") else data
        return decode_item(self.item())


def decode_item(item: Any) -> bytes:
    """The bytes an item of a vector file stands for."""
    if isinstance(item, str):
        return bytes.fromhex(item)
    if isinstance(item, dict):
        if isinstance(item.get("hex"), str):
            return bytes.fromhex(item["hex"])
        if isinstance(item.get("base64"), str):
            return base64.b64decode(item["base64"])
    raise NotApplicableError("the item is neither hexadecimal nor base64")


@dataclass(frozen=True, slots=True)
class VectorSet:
    """A folder of vectors, as an index of sets describes it."""

    folder: Path
    name: str

    def files(self) -> Iterator[Path]:
        """Every file of the set, in order of their names; MissingFileError where there is none."""
        root = self.folder / self.name
        found = sorted(path for path in root.rglob("*") if path.is_file()) if root.is_dir() else []
        if not found:
            raise MissingFileError(f"there are no files in {self.name}")
        yield from found


def read_index(path: Path) -> list[Entry | VectorSet]:
    """Read an index. EnvironmentProblem (GateError) where it cannot be read or is none."""
    try:
        value = json.loads(path.read_bytes())
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING, f"{path} can't be read: {error.strerror}", "check the path"
        ) from error
    except ValueError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"{path} is not JSON: {error}", "name an INDEX.json"
        ) from error
    listed = value
    if isinstance(value, dict):
        if isinstance(value.get("sets"), list):
            return [VectorSet(path.parent, str(found.get("dir"))) for found in value["sets"]]
        listed = value.get("entries")
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"{path} has no list of entries or sets", "name an INDEX.json"
        )
    return [Entry(path, entry) for entry in listed]


def read_file(folder: Path, name: str) -> bytes:
    """The bytes of a file, by its name relative to ``folder``; MissingFileError where it is not there."""
    path = folder / name
    try:
        if path.stat().st_size > MAX_FILE:
            raise MissingFileError(f"{name} is over {MAX_FILE} bytes")
        return path.read_bytes()
    except OSError as error:
        raise MissingFileError(f"{name or 'the file'} can't be read: {error.strerror}") from None
