"""What one look found."""

from dataclasses import dataclass
from enum import StrEnum

from ztrooted.errors import GateError
from ztrooted.explanations import explain
from ztrooted.reasons import Reason


class Level(StrEnum):
    """``fail`` for what won't work; ``warning`` for what works and may not be what is wanted."""

    PASS = "pass"  # noqa: S105 -- the opposite of fail
    WARNING = "warning"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """``check`` names what was looked at, ``detail`` says what was seen; ``reason`` is there unless it passed."""

    check: str
    level: Level
    detail: str
    reason: Reason | None = None
    remedy: str = ""

    @property
    def meaning(self) -> str:
        """What it means; empty where it passed."""
        return "" if self.reason is None else explain(self.reason).meaning

    @property
    def to_do(self) -> str:
        """What to do about it; empty where it passed."""
        return "" if self.reason is None else self.remedy or explain(self.reason).remedy

    def encode(self) -> dict[str, str | None]:
        """For scripts."""
        return {
            "check": self.check,
            "level": str(self.level),
            "detail": self.detail,
            "reason": None if self.reason is None else str(self.reason),
            "meaning": self.meaning,
            "remedy": self.to_do,
        }


def passed(check: str, detail: str) -> Finding:
    """It is as it should be."""
    return Finding(check, Level.PASS, detail)


def warned(check: str, reason: Reason, detail: str, remedy: str = "") -> Finding:
    """It works, and a person should know this."""
    return Finding(check, Level.WARNING, detail, reason, remedy)


def failed(check: str, reason: Reason, detail: str, remedy: str = "") -> Finding:
    """It won't work."""
    return Finding(check, Level.FAIL, detail, reason, remedy)


def refused(check: str, error: GateError) -> Finding:
    """The same, in the words of what refused."""
    return Finding(check, Level.FAIL, error.detail, error.reason, error.remedy)
