"""What came of an entry, and the exceptions by which a judge says that it has no verdict."""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, TypeAlias


class Status(StrEnum):
    """``pass`` and ``fail`` compare a verdict with an expectation; the others have no verdict to compare."""

    PASS = "pass"  # noqa: S105 -- a status, not a secret
    FAIL = "fail"
    NO_ORACLE = "no_oracle"
    NOT_APPLICABLE = "not_applicable"
    MISSING = "missing"


class NotApplicableError(Exception):
    """The entry asks for something this product does not do, or says something whose meaning we don't know."""


class MissingFileError(Exception):
    """A file that the entry names is not there, or is not the one that was indexed."""


@dataclass(frozen=True, slots=True)
class Expectation:
    """A verdict that an index expects, and the reason codes that are right for a refusal; none means any."""

    verdict: str
    reasons: tuple[str, ...] = ()
    lenient: bool = False


Case: TypeAlias = tuple[str, str, Expectation, Callable[[], None]]
"""Name within its file, kind, what is expected, and a judge that returns or raises what refuses it."""


@dataclass(frozen=True, slots=True)
class Result:
    """One line of the report: what was expected, what came, and for which reason."""

    id: str
    kind: str
    status: Status
    expected: str
    actual: str
    reason: str = ""
    detail: str = ""
    expected_reasons: tuple[str, ...] = ()

    def encode(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "id": self.id,
            "kind": self.kind,
            "status": str(self.status),
            "expected": self.expected,
            "expected_reasons": list(self.expected_reasons),
            "actual": self.actual,
            "reason": self.reason,
            "detail": self.detail,
        }


@dataclass(slots=True)
class Checks:
    """Comparisons of one entry that states several expectations: it passes where each of them holds."""

    names: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def equal(self, name: str, found: object, expected: object) -> None:
        """``found`` is ``expected``."""
        self.names.append(name)
        if found != expected:
            self.wrong.append(f"{name}: {_shown(found)}, expected {_shown(expected)}")

    def true(self, name: str, condition: bool, detail: str) -> None:
        """``condition`` holds; ``detail`` says what it means that it does not."""
        self.names.append(name)
        if not condition:
            self.wrong.append(f"{name}: {detail}")

    def skip(self, name: str, why: str) -> None:
        """An expectation nothing here can be compared with."""
        self.skipped.append(f"{name} ({why})")


def _shown(value: object) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:99]}…"


def count_by_kind(results: Iterable[Result]) -> dict[str, dict[str, int]]:
    """Numbers of results by kind and status; every status is there, also with none."""
    totals: dict[str, Counter[str]] = {}
    for result in results:
        totals.setdefault(result.kind, Counter()).update([str(result.status)])
    return {kind: {str(status): counted[status] for status in Status} for kind, counted in sorted(totals.items())}


def sum_counts(totals: Mapping[str, Mapping[str, int]]) -> dict[str, int]:
    """The counts of all kinds together."""
    return {str(status): sum(counted[status] for counted in totals.values()) for status in Status}
