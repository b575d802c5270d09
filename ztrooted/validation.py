"""What is wrong with a document, in words a person can act on: where, what, and what was probably meant."""

import difflib
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from ztrooted.toml_lines import line_of

MAX_LISTED = 1000  # findings; the library makes half a kilobyte of each, and only knows all of them or none
MAX_FINDINGS = 20  # of one document; whoever mistyped more than that fixes the first ones first

# Every pattern of our models, in words; a test sees that none is missing.
WRITTEN = {
    r"^[0-9]{1,20}$": "a decimal number of at most 20 digits",
    r"^[0-9a-f]{64}$": "64 lower-case hexadecimal digits",
    r"^([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$": "64, 96 or 128 lower-case hexadecimal digits",
    r"^[1-9][0-9]{0,15}$": "a whole number of at least 1, in digits",
    r"^([0-9a-f]{2})*$": "bytes in lower-case hexadecimal",
    r"^([0-9a-f]{2})+$": "bytes in lower-case hexadecimal",
    r"^[A-Za-z0-9_-]{43}$": "a SHA-256 in base64url",
    r"^(000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})$": "the Name of a TPM key in hexadecimal",
    r"^A[0-4]$": "a tier, A0 to A4",
    r"^[^\x00-\x1f\x7f]*$": "text without control characters",
    r"^[^\x00-\x1f\x7f]+$": "text without control characters",
    r"^[!-~]+$": "printable ASCII without spaces",
    r"^/[ -~]*$": "an absolute path in printable ASCII",
    r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$": "up to 128 letters, digits and any of ._:@/+- after the first",
    r"^[A-Za-z0-9][A-Za-z0-9._:-]*$": "letters, digits and any of ._:- after the first",
    r"^[a-z0-9][a-z0-9-]{0,31}$": "up to 32 lower-case letters, digits and hyphens, beginning with no hyphen",
    r"^[a-z0-9][a-z0-9_-]{0,62}$": "up to 63 lower-case letters, digits and any of _- after the first",
    r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$": "a traceparent of W3C Trace Context, version 00",
    r"^[A-Za-z0-9_-]{8,64}$": "an id exactly as it was returned",
    r"^[A-Za-z0-9_-]{1,512}$": "a cursor exactly as it was returned",
    r"^ex-[0-9a-f]{32}$": "an executor's id, 'ex-' and 32 lower-case hexadecimal digits",
    r"^(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$": "a user and a group by number, such as 1000:1000",
    r"^(device|swtpm|socket):/.+$": "the address of a TPM, such as device:/dev/tpmrm0 or swtpm:/folder",
    r"^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$": "a name like example.org, lower-case and of at most 63 characters",
    r"^[A-Za-z0-9:._%-]{1,253}$": "the name or address of a host",
}


def explain_validation(error: ValidationError) -> str:
    """One line: where, what is wrong, for each of the first findings."""
    return "; ".join(_findings(error, None, None, ""))


def explain_document(error: ValidationError, *, name: str, text: str, model: type[BaseModel]) -> str:
    """The same for a TOML document called ``name``: each finding on a line of its own that begins with ``name:line``."""
    return "\n".join(_findings(error, text, model, name))


def in_words(item: ErrorDetails) -> str:
    """What is wrong with one value. No pattern is shown: it is said what would match it."""
    if item["type"] == "string_pattern_mismatch":
        return f"this is to be {WRITTEN.get(item['ctx']['pattern'], 'written in another way')}"
    return item["msg"].removeprefix("Value error, ")


def _findings(error: ValidationError, text: str | None, model: type[BaseModel] | None, name: str) -> Iterator[str]:
    if error.error_count() > MAX_LISTED:
        yield f"{name}: {error.error_count()} values are wrong" if name else f"{error.error_count()} values are wrong"
        return
    for item in error.errors(include_url=False, include_input=False)[:MAX_FINDINGS]:
        path = _path(item["loc"])
        where = ".".join(str(part) for part in path) or "the document"
        what = in_words(item)
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
