"""Who wants to know what takes how long may be told when a piece of work begins and ends. By default nobody is.

It stands in the lowest room because the work is in all three; ``ztrooted.tracing`` is who asks. Nothing that is decided
depends on it.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeAlias

Begin: TypeAlias = Callable[[str, Mapping[str, Any]], AbstractContextManager[Any]]

_NOTHING: AbstractContextManager[Any] = nullcontext()  # may be entered again and again, within itself too
_begin: Begin | None = None


def observed(what: str, /, **about: Any) -> AbstractContextManager[Any]:
    """A piece of work, from entering to leaving. ``about``: texts, numbers and truth values; never a secret."""
    return _NOTHING if _begin is None else _begin(what, about)


def observe(begin: Begin | None) -> None:
    """Have ``begin`` called at each piece of work of this process from now on; None for nothing."""
    global _begin  # noqa: PLW0603 -- there is one for all threads, as there is one clock
    _begin = begin
