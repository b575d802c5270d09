"""The text of a Cedar file, statement by statement: where each stands, and what must never reach the library.

The library tells neither file nor line, and it ends the process where an expression is nested too deep, so both is done
here first. Only as much of the grammar is known as that needs: texts, comments, words, signs, and that a statement ends
with a semicolon.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass

# Each rule is asked for each decision; 200 are much for people to read.
MAX_POLICIES = 1000
MAX_STATEMENT = 64 << 10  # characters; a rule that lists 256 digests has 20 KB
# cedarpy 4.12.2 overflows the stack of its process at 1,000 brackets, or at 200 operators in a row on a stack of 1 MiB.
MAX_BRACKETS = 45
MAX_OPERATORS = 150

_TOKEN = re.compile(
    r'(?P<skip>\s+|//[^\n\r]*)|(?P<text>"(?:[^"\\]|\\.)*+")|(?P<word>[A-Za-z_][A-Za-z0-9_]*)|(?P<number>[0-9]+)'
    r"|(?P<sign>::|==|!=|<=|>=|&&|\|\||.)",
    re.DOTALL,
)
_OPEN, _CLOSE = frozenset("([{"), frozenset(")]}")
_CHAINED = frozenset({"&&", "||", "+", "-", "*", "!", "if"})  # each makes the expression one deeper
_PARTING = frozenset({"&&", "||", "==", "!=", "<", "<=", ">", ">=", ",", "in", "if", "then", "else"})


@dataclass(frozen=True, slots=True)
class Token:
    """A word, a sign, a number or a text of a statement, and where in the file it begins."""

    text: str
    start: int


@dataclass(frozen=True, slots=True)
class Statement:
    """One policy as it is written, up to its semicolon. ``line`` counts from 1, ``start`` from the start of the file."""

    text: str
    start: int
    line: int

    def find(self, word: str) -> int:
        """The line on which it says ``word``, as a word or a text; its first line if it does not."""
        for token in tokens(self.text):
            if token.text in {word, f'"{word}"'}:
                return self.line + self.text.count("\n", 0, token.start)
        return self.line


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a file can't be used, and on which line."""

    line: int
    detail: str


class CedarText:
    """A file, split. ``refusals`` says what is over the limits: then the library must not be given it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self._lines = [found.end() for found in re.finditer("\n", text)]
        self.refusals: list[Refusal] = []
        self.statements = list(self._split())

    def line(self, offset: int) -> int:
        """The line of a place in the file."""
        return bisect_right(self._lines, offset) + 1

    def _split(self) -> Iterator[Statement]:
        start, count, nesting = -1, 0, _Nesting()
        for token in tokens(self.text):
            if start < 0:
                start, count, nesting = token.start, count + 1, _Nesting()
                if count > MAX_POLICIES:
                    self._refuse(start, f"there are more than {MAX_POLICIES} policies")
                    return
            end = token.start + len(token.text)
            if nesting.too_deep(token.text):
                self._refuse(token.start, "this condition is nested too deep; split it, or compare with a set")
                return
            if end - start > MAX_STATEMENT:
                self._refuse(start, f"this policy is over {MAX_STATEMENT} characters")
                return
            if token.text == ";":
                yield Statement(self.text[start:end], start, self.line(start))
                start = -1
        if start >= 0:
            yield Statement(self.text[start:end], start, self.line(start))

    def _refuse(self, offset: int, detail: str) -> None:
        self.refusals.append(Refusal(self.line(offset), detail))

    def explain(self, parse: Callable[[str], object], most: int) -> list[Refusal]:
        """What ``parse`` refuses with ValueError, statement by statement: the first ``most`` of them."""
        found = []
        for one in self.statements:
            try:
                parse(one.text)
            except ValueError as error:
                found.append(Refusal(self.line(self._failing(one, parse)), str(error)))
                if len(found) == most:
                    break
        return found

    def _failing(self, statement: Statement, parse: Callable[[str], object]) -> int:
        """Where the first token is that no continuation could make good.

        The parser reads from left to right, so everything before that token is only unfinished.
        """
        ends = [token.start + len(token.text) for token in tokens(statement.text)]

        def unfinished(count: int) -> bool:
            try:
                parse(statement.text[: ends[count - 1]])
            except ValueError as error:
                return "unexpected end of input" in str(error)
            return False

        good, bad = 0, len(ends)
        while bad - good > 1:
            middle = (good + bad) // 2
            good, bad = (middle, bad) if unfinished(middle) else (good, middle)
        if bad == len(ends) and statement.text.endswith(";"):
            return statement.start  # read to its end: it is wrong as a whole
        return statement.start + ends[bad - 1] - 1


class _Nesting:
    """How deep the expression that is being read can be, at most."""

    def __init__(self) -> None:
        self.brackets = self.operators = self.attributes = 0

    def too_deep(self, token: str) -> bool:
        """Count one more token of a statement."""
        self.brackets += (token in _OPEN) - (token in _CLOSE)
        self.operators += token in _CHAINED
        self.attributes = 0 if token in _PARTING else self.attributes + (token in {".", "["})
        if self.brackets <= 0:  # between two conditions
            self.operators = self.attributes = 0
        return self.brackets > MAX_BRACKETS or self.operators + self.attributes > MAX_OPERATORS


def tokens(text: str) -> Iterator[Token]:
    """The tokens of a file, without spaces and comments."""
    for found in _TOKEN.finditer(text):
        if found.lastgroup != "skip":
            yield Token(found[0], found.start())
