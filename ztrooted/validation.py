"""What is wrong with a document, in words a person can act on: where, what, and what was probably meant."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError

from ztrooted.toml_lines import line_of

MAX_LISTED = 1000  # findings; the library makes half a kilobyte of each, and only knows all of them or none
MAX_FINDINGS = 20  # of one document; whoever mistyped more than that fixes the first ones first


def explain_validation(error: ValidationError) -> str:
    """One line: where, what is wrong, for each of the first findings."""
    return "; ".join(_findings(error, None, None, ""))


def explain_document(error: ValidationError, *, name: str, text: str, model: type[BaseModel]) -> str:
    """The same for a TOML document called ``name``: each finding on a line of its own that begins with ``name:line``."""
    return "\n".join(_findings(error, text, model, name))


def _findings(error: ValidationError, text: str | None, model: type[BaseModel] | None, name: str) -> Iterator[str]:
    if error.error_count() > MAX_LISTED:
        yield f"{name}: {error.error_count()} values are wrong" if name else f"{error.error_count()} values are wrong"
        return
    for item in error.errors(include_url=False, include_context=False, include_input=False)[:MAX_FINDINGS]:
        path = _path(item["loc"])
        where = ".".join(str(part) for part in path) or "the document"
        what = item["msg"].removeprefix("Value error, ")
        if item["type"] == "extra_forbidden":
            what = f"unknown key{_meant(model, path)}"
        yield f"{_place(name, text, path)}{where}: {what}"
    if error.error_count() > MAX_FINDINGS:
        yield (
            f"{name}: and {error.error_count() - MAX_FINDINGS} more"
            if name
            else (f"and {error.error_count() - MAX_FINDINGS} more")
        )


def _path(loc: tuple[int | str, ...]) -> tuple[int | str, ...]:
    """Without what the library adds for the alternatives of a union."""
    return tuple(part for part in loc if isinstance(part, int) or ("[" not in part and "(" not in part))


def _place(name: str, text: str | None, path: tuple[int | str, ...]) -> str:
    if text is None:
        return ""
    line = line_of(text, path)
    return f"{name}:{line}: " if line is not None else f"{name}: "


def _meant(model: type[BaseModel] | None, path: tuple[int | str, ...]) -> str:
    """A known key that looks like the unknown one at the end of ``path``."""
    known: set[str] = set()
    for one in _models(model):
        known |= {field.alias or key for key, field in one.model_fields.items()}
    close = difflib.get_close_matches(str(path[-1]), sorted(known), 1, 0.7) if path else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _models(model: Any, seen: frozenset[Any] = frozenset()) -> Iterator[type[BaseModel]]:
    """A model and every model inside of it."""
    if isinstance(model, type) and issubclass(model, BaseModel):
        if model in seen:
            return
        yield model
        for field in model.model_fields.values():
            yield from _models(field.annotation, seen | {model})
    for inner in getattr(model, "__args__", ()):
        yield from _models(inner, seen)
