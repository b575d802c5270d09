"""The text of a Cedar policy set as a person sees it: its statements, their names and their lines.

cedarpy numbers policies in the order of the text and tells no positions, so errors and explanations find them here.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

# Texts and comments may hold semicolons; nothing else of Cedar's grammar does but the end of a statement.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|//[^\n]*|;|\n')
_ID = re.compile(r'@id\s*\(\s*"((?:[^"\\]|\\.)*)"\s*\)')
_BLANK = re.compile(r"(?:\s|//[^\n]*(?:\n|\Z))*")


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy: its ``@id``, or ``line N`` where it has none; the line it begins in; its text with annotations."""

    name: str
    line: int
    text: str


def statements(text: str) -> tuple[Statement, ...]:
    """The policies of ``text`` in order. What follows the last semicolon counts as one too, unless it is blank."""
    return tuple(_statements(text))


def _statements(text: str) -> Iterator[Statement]:
    begin = 0
    for token in _TOKEN.finditer(text):
        if token[0] == ";":
            yield _statement(text, begin, token.end())
            begin = token.end()
    if _skip_blank(text, begin) < len(text):
        yield _statement(text, begin, len(text))


def _skip_blank(text: str, position: int) -> int:
    found = _BLANK.match(text, position)
    return position if found is None else found.end()


def _statement(text: str, begin: int, end: int) -> Statement:
    start = _skip_blank(text, begin)
    line = text.count("\n", 0, start) + 1
    body = text[start:end]
    head = body.split("(", 1)[0] if not body.startswith("@") else body
    named = _ID.search(head)
    return Statement(named[1] if named else f"line {line}", line, body)
