"""Where in a TOML document a value stands, so that an error can name the line. ``tomllib`` does not tell.

For documents that ``tomllib`` has read without complaint: this looks for table headers and keys, and skips the inside of
texts and arrays. What has no line of its own (a member of an inline table, an item of an array) has that of its key.
"""

import re
import tomllib
from collections.abc import Sequence
from functools import lru_cache

Path = Sequence[str | int]

_KEY = r"""(?:[A-Za-z0-9_-]+|"(?:[^"\\]|\\.)*"|'[^']*')"""
_DOTTED = rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*"
_HEADER = re.compile(rf"[ \t]*(\[\[?)[ \t]*({_DOTTED})[ \t]*\]")
_ASSIGNMENT = re.compile(rf"[ \t]*({_DOTTED})[ \t]*=")
_PART = re.compile(_KEY)
# What matters inside a value: texts, whose content is skipped, comments, and brackets.
_TOKEN = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'|#[^\n]*|[\[\]{}]|\n",
    re.DOTALL,
)


def line_of(text: str, path: Path) -> int | None:
    """The line, from 1 on, of the value at ``path`` (keys, and numbers of items), or of what is nearest above it.

    None where not even its first key is in the document.
    """
    lines = _of_the_last(text)
    wanted = tuple(path)
    while wanted:
        if wanted in lines:
            return lines[wanted]
        wanted = wanted[:-1]
    return None


@lru_cache(maxsize=2)
def _of_the_last(text: str) -> dict[tuple[str | int, ...], int]:
    """Whoever asks for one line of a document asks for more of the same."""
    return key_lines(text)


def key_lines(text: str) -> dict[tuple[str | int, ...], int]:
    """Every key and table of a document with the line it begins in."""
    found: dict[tuple[str | int, ...], int] = {}
    arrays: dict[tuple[str | int, ...], int] = {}
    table: tuple[str | int, ...] = ()
    position, line = 0, 1
    while position < len(text):
        if header := _HEADER.match(text, position):
            table = _enter(_parts(header[2]), arrays, array=header[1] == "[[")
            _note(found, table, 0, line)
            position = header.end()
        elif assignment := _ASSIGNMENT.match(text, position):
            key = _parts(assignment[1])
            _note(found, (*table, *key), len(table), line)
            position = assignment.end()
        position, passed = _skip_value(text, position)
        line += passed
    return found


def _note(found: dict[tuple[str | int, ...], int], path: tuple[str | int, ...], above: int, line: int) -> None:
    for length in range(above + 1, len(path) + 1):
        found.setdefault(path[:length], line)


def _enter(parts: tuple[str, ...], arrays: dict[tuple[str | int, ...], int], *, array: bool) -> tuple[str | int, ...]:
    """The path of a table: each array of tables on the way is entered at its last item."""
    path: tuple[str | int, ...] = ()
    for number, part in enumerate(parts):
        path = (*path, part)
        if array and number == len(parts) - 1:
            arrays[path] = arrays.get(path, -1) + 1
        if path in arrays:
            path = (*path, arrays[path])
    return path


def _parts(dotted: str) -> tuple[str, ...]:
    return tuple(str(tomllib.loads(f"x = {part}")["x"]) if part[0] in "\"'" else part for part in _PART.findall(dotted))


def _skip_value(text: str, position: int) -> tuple[int, int]:
    """The start of the next line that is not inside a text or an array, and how many lines that is further on."""
    depth = lines = 0
    for token in _TOKEN.finditer(text, position):
        said = token[0]
        lines += said.count("\n")
        if said in "[{":
            depth += 1
        elif said in "]}":
            depth -= 1
        elif said == "\n" and depth <= 0:
            return token.end(), lines
    return len(text), lines
