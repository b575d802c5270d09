"""Typed evidence as plain values: bytes in hexadecimal, flags and algorithms by name, structures by their fields."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from datetime import datetime
from enum import Flag, IntEnum, StrEnum
from typing import Any, TypeAlias

from tpm.eventlog_uefi import guid_text

Report: TypeAlias = dict[str, Any]
"""What an inspection found: names, strings, numbers, booleans, None, lists, and reports within."""

# Fields of UEFI structures that are GUIDs where they have 16 bytes.
_GUIDS = frozenset({"guid", "owner", "type", "disk"})


def plain(value: Any) -> Any:
    """``value`` as JSON can hold it. Fields a structure keeps out of its ``repr`` (raw copies) are left out here too."""
    if isinstance(value, Flag):
        return [str(flag.name).lower() for flag in value]
    if isinstance(value, StrEnum):
        return str(value)
    if isinstance(value, IntEnum):
        return value.name.lower()
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, datetime):
        return value.isoformat()
    if is_dataclass(value) and not isinstance(value, type):
        return {entry.name: _field(entry.name, getattr(value, entry.name)) for entry in fields(value) if entry.repr}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (frozenset, set)):
        return sorted(plain(item) for item in value)
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value


def _field(name: str, value: Any) -> Any:
    if name in _GUIDS and isinstance(value, bytes) and len(value) == 16:
        return guid_text(value)
    return plain(value)


def printable(text: str) -> str:
    """``text`` for a terminal: whatever could move its cursor or change its colours stands as an escape instead.

    Evidence is written by strangers, and a file may be called anything.
    """
    shown = (char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)
    return "".join(shown)
