"""Lists in pages: ``limit`` says how many at most, ``cursor`` is what the page before called ``next``.

A cursor names the last row that was shown, so what is added or removed meanwhile neither repeats nor hides another. It is
opaque to whoever sends it, and gives no right to anything: each page asks anew what the caller may see.
"""

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from aiohttp import web

from gateway.declaration import Parameter
from ztrooted import canonical, limits
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

R = TypeVar("R")

LIMIT = Parameter(
    "limit",
    f"how many at most, 1 to {limits.PAGE}, which it is unless told",
    {"type": "integer", "minimum": 1, "maximum": limits.PAGE},
)
CURSOR = Parameter(
    "cursor", "what 'next' of the page before was", {"type": "string", "pattern": "^[A-Za-z0-9_-]{1,512}$"}
)
PAGED = (LIMIT, CURSOR)


@dataclass(frozen=True, slots=True)
class Page:
    """What is asked for: so many rows behind the one with the keys ``after``, or from the beginning."""

    limit: int = limits.PAGE
    after: tuple[int | str, ...] | None = None

    @classmethod
    def wanted(cls, request: web.Request, *kinds: type[int] | type[str]) -> "Page":
        """From the query; ``kinds`` are those of the keys. GateError ``request.malformed`` for what is none of ours."""
        text, most = request.query.get("cursor"), request.query.get("limit", str(limits.PAGE))
        if not (most.isascii() and most.isdigit() and len(most) < 5 and 1 <= int(most) <= limits.PAGE):
            raise GateError(GateReason.REQUEST_MALFORMED, f"'limit' in the query is a number from 1 to {limits.PAGE}")
        return cls(int(most), None if text is None else _decode(text, kinds))

    def cut(self, rows: Sequence[R], keys: Callable[[R], tuple[int | str, ...]]) -> tuple[list[R], str | None]:
        """Of ``limit`` + 1 rows that were looked for, those of this page, and the cursor to the next if there is one."""
        shown = list(rows[: self.limit])
        return shown, _encode(keys(shown[-1])) if len(rows) > self.limit else None


def _encode(keys: tuple[int | str, ...]) -> str:
    return base64.urlsafe_b64encode(canonical.encode(list(keys))).decode().rstrip("=")


def _decode(text: str, kinds: tuple[type[int] | type[str], ...]) -> tuple[int | str, ...]:
    try:
        keys = canonical.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (GateError, ValueError) as error:  # ValueError: no base64, or no ASCII
        raise _no_cursor() from error
    fits = isinstance(keys, list) and [type(key) for key in keys] == list(kinds) and _encode(tuple(keys)) == text
    if not fits:
        raise _no_cursor()
    return tuple(keys)


def _no_cursor() -> GateError:
    return GateError(GateReason.REQUEST_MALFORMED, "'cursor' in the query: it is not one that this list gave")
