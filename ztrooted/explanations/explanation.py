"""The shape of an explanation; a module of its own, so that the tables and the package can both import it."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one reason code means to a person.

    ``status`` is the HTTP status of a problem document with this code (RFC 9457); ``meaning`` says what happened,
    ``remedy`` what to do about it: one sentence each, short enough for a line of a terminal, and never empty.
    """

    status: int
    meaning: str
    remedy: str
