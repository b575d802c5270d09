"""The one form in which records, policies and claims are written as bytes.

It is the part of RFC 8785 (JSON Canonicalization Scheme) that needs no judgement: member names are ASCII and sorted,
numbers are integers of at most 53 bits, strings are UTF-8 with the shortest escapes of RFC 8259 §7, nothing stands
between tokens. There are no floats. Within this subset the bytes equal those of RFC 8785.

Unicode normalisation is *not* applied: "é" written as one code point and as two are two different strings with two
different digests, and both are kept as they came. What must be unique (an id) is therefore restricted to ASCII where it
is defined.
"""

import hashlib
import json
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from pydantic_core import from_json, to_json

from ztrooted import limits, strict_json
from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

_PLAIN = frozenset({str, bool, type(None)})
_ENCODER = json.JSONEncoder(ensure_ascii=False, allow_nan=False, sort_keys=True, separators=(",", ":"))


def encode(value: Any) -> bytes:
    """The canonical bytes of ``value``: dict with ASCII keys, list or tuple, str, int, bool, None, at most 32 deep.

    Raises ProofError ``canonical.malformed`` for any other type, a float, an integer of more than 53 bits or a string
    with a lone surrogate.
    """
    _check(value, limits.JSON_DEPTH)
    try:
        return _ENCODER.encode(value).encode("utf-8")
    except UnicodeEncodeError:
        raise refuse("a string holds half of a surrogate pair") from None


class Encoded(dict[str, Any]):
    """An object that is encoded once and becomes part of several others; it must not be changed."""

    @cached_property
    def data(self) -> bytes:
        """Its canonical bytes."""
        return encode(dict(self))


def decode(data: bytes, *, maximum: int = limits.BODY) -> Any:
    """Read canonical bytes, at most ``maximum`` of them.

    Raises ProofError ``canonical.malformed`` unless encoding the result again gives exactly ``data``: another order,
    space, escape, duplicate or number form is another encoding of the same meaning, and there must be only one.
    """
    value = quickly(data, maximum)
    if value is not None:
        return value
    value = strict_json.parse(data, refuse, maximum=maximum)
    if encode(value) != data:
        raise refuse("the JSON is not in its canonical form")
    return value


def quickly(data: bytes, maximum: int) -> Any:
    """What canonical bytes of ASCII say; None for others and for what may be others, which are for a strict reader.

    Most are as they should be, which is quick to see: what a lenient reader lets pass is not written again as it stands, or
    is not in its order.
    """
    if len(data) > maximum or not data.isascii():
        return None
    try:
        value = from_json(data)
        return value if _in_order(value, limits.JSON_DEPTH) and to_json(value) == data else None
    except ValueError:
        return None


def digest(value: Any) -> str:
    """SHA-256 of the canonical bytes, as 64 lower-case hexadecimal digits."""
    return hashlib.sha256(encode(value)).hexdigest()


def _in_order(value: Any, depth: int) -> bool:
    """Whether members are sorted, numbers are integers within bounds, and nothing is nested deeper than ``depth``."""
    if type(value) is dict:
        names = list(value)
        if names != sorted(names):
            return False
        items: Iterable[Any] = value.values()
    elif type(value) is list:
        items = value
    else:
        return _is_leaf(value, type(value))
    if depth == 0:
        return False
    kinds = set(map(type, items))
    if kinds <= _PLAIN:  # nothing to look into
        return True
    for item in items:
        kind = type(item)
        if kind is dict or kind is list:
            if not _in_order(item, depth - 1):
                return False
        elif kind is not str and not _is_leaf(item, kind):
            return False
    return True


def _is_leaf(value: Any, kind: type) -> bool:
    if kind is int:
        return bool(-strict_json.MAX_INTEGER <= value <= strict_json.MAX_INTEGER)
    return value is None or kind is str or kind is bool


def _check(value: Any, depth: int) -> None:
    if isinstance(value, dict):
        items: Iterable[Any] = value.values()
    elif isinstance(value, (list, tuple)):
        items = value
    else:
        _check_leaf(value)
        return
    if depth == 0:
        raise refuse(f"nested deeper than {limits.JSON_DEPTH}")
    if isinstance(value, dict):
        _check_names(value)
    for item in items:
        if type(item) is not str:  # most are
            _check(item, depth - 1)


def _check_names(value: dict[Any, Any]) -> None:
    try:
        if "".join(value).isascii():
            return
    except TypeError:
        pass
    wrong = next(name for name in value if not (isinstance(name, str) and name.isascii()))
    raise refuse(f"the member name {wrong!r} is not ASCII")


def _check_leaf(value: Any) -> None:
    if value is None or isinstance(value, (str, bool)):
        return
    if not isinstance(value, int):
        raise refuse(f"a {type(value).__name__} has no canonical form")
    if abs(value) > strict_json.MAX_INTEGER:
        raise refuse("an integer has more than 53 bits")


def refuse(detail: str) -> ProofError:
    """The error for what is not canonical JSON."""
    return ProofError(GateReason.CANONICAL_MALFORMED, detail)
