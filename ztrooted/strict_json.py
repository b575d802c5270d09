"""JSON without its ambiguities: one document, one meaning, or a refusal (RFC 8259 within the bounds of RFC 7493).

``json.loads`` accepts duplicate members (the last wins), NaN, Infinity, 1e400, lone surrogates, UTF-16 and nesting that
exhausts the stack. Two readers that disagree about such a text are an attack, so none of it is accepted here.
"""

import json
from collections.abc import Callable
from typing import Any, NoReturn

from ztrooted import limits
from ztrooted.errors import GateError

# Integers beyond 2^53 - 1 are not the same number for every reader of JSON (RFC 7493 §2.2).
MAX_INTEGER = (1 << 53) - 1

Refuse = Callable[[str], GateError]


def parse(data: bytes, refuse: Refuse, *, maximum: int = limits.BODY, depth: int = limits.JSON_DEPTH) -> Any:
    """Read ``data`` as one JSON text in UTF-8.

    Raises what ``refuse(detail)`` makes for: more than ``maximum`` bytes, other encodings or a byte order mark, syntax
    errors, anything after the document, nesting over ``depth``, duplicate members, integers of more than 53 bits,
    numbers that are not finite, and lone surrogates.
    """
    if len(data) > maximum:
        raise refuse(f"over {maximum} bytes of JSON")

    try:
        text = data.decode("utf-8")
        if text.startswith("\ufeff"):
            raise refuse("not JSON in UTF-8: it begins with a byte order mark (BOM)")
        value = _DECODER.decode(text)
    except _AmbiguousError as error:
        raise refuse(str(error)) from None
    except ValueError as error:  # JSONDecodeError and UnicodeDecodeError
        raise refuse(f"not JSON in UTF-8: {error}") from None
    except RecursionError:
        raise refuse(f"JSON nested deeper than {depth}") from None
    _check(value, depth, refuse, surrogates="\\u" in text)
    return value


class _AmbiguousError(Exception):
    """JSON that two readers may understand differently."""


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise _AmbiguousError("an object has two members of the same name")
    return made


def _integer(text: str) -> int:
    # 16 digits and a sign hold every allowed integer; int() of a long one takes quadratic time.
    if len(text) > 17 or abs(value := int(text)) > MAX_INTEGER:
        raise _AmbiguousError("an integer has more than 53 bits")
    return value


def _fraction(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise _AmbiguousError("a number is too large to be represented")
    return value


def _constant(name: str) -> NoReturn:
    raise _AmbiguousError(f"{name} is not JSON")


# Made once: a decoder for each text costs as much as reading a short one.
_DECODER = json.JSONDecoder(
    object_pairs_hook=_members, parse_int=_integer, parse_float=_fraction, parse_constant=_constant
)


def _check(value: Any, depth: int, refuse: Refuse, *, surrogates: bool) -> None:
    """Refuse nesting over ``depth`` and, where an escape may have made one, strings with lone surrogates."""
    level, passed = [value], 0
    while level:
        inner: list[Any] = []
        for item in level:
            if isinstance(item, (dict, list)):
                if passed == depth:
                    raise refuse(f"JSON nested deeper than {depth}")
                inner.extend(item.values() if isinstance(item, dict) else item)
                if surrogates and isinstance(item, dict):
                    inner.extend(item)
            elif surrogates and isinstance(item, str) and not _is_unicode(item):
                raise refuse("a string holds half of a surrogate pair")
        level, passed = inner, passed + 1


def _is_unicode(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
