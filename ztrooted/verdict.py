"""A verdict: the checks that an appraisal ran, how each of them ended, and until when that may be believed."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason, Reason, parse_reason


class Status(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 -- not a password
    FAIL = "fail"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one appraisal. ``reason`` and ``detail`` say why when it did not pass."""

    name: str
    status: Status
    reason: Reason | None = None
    detail: str = ""


@lru_cache(maxsize=64)
def passed(name: str) -> Check:
    """A check that passed without a remark; of each there is one, so that verdicts are compared quickly."""
    return Check(name, Status.PASS)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an appraisal found, and until when it may be believed (milliseconds since the epoch)."""

    checks: tuple[Check, ...]
    expires_ms: int

    @property
    def trusted(self) -> bool:
        """True only if there were checks and every one of them passed."""
        return bool(self.checks) and all(check.status is Status.PASS for check in self.checks)

    @property
    def reason(self) -> Reason | None:
        """Why not: the first check that failed, or else the first that did not run."""
        for status in (Status.FAIL, Status.NOT_CHECKED):
            for check in self.checks:
                if check.status is status:
                    return check.reason or GateReason.ATTESTATION_POLICY
        return None

    @property
    def detail(self) -> str:
        """The sentence that belongs to ``reason``."""
        failed = [check for check in self.checks if check.status is Status.FAIL]
        return failed[0].detail if failed else ""

    @classmethod
    def without_class(cls, error: PolicyError, now_ms: int) -> "Verdict":
        """The verdict over an executor that no class of the policy is for, whatever it may show."""
        return cls((Check("class", Status.FAIL, error.reason, error.detail),), now_ms)

    @staticmethod
    def detail_of(encoded: Mapping[str, Any]) -> str:
        """``detail`` of a verdict in its encoded form."""
        return next((check["detail"] for check in encoded["checks"] if check["status"] == Status.FAIL.value), "")

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> "Verdict":
        """The inverse of ``encode``. KeyError or ValueError when ``value`` is something else."""
        checks = tuple(
            Check(
                check["name"],
                Status(check["status"]),
                None if check["reason"] is None else parse_reason(check["reason"]),
                check["detail"],
            )
            for check in value["checks"]
        )
        return cls(checks, value["expires"])

    def encode(self) -> dict[str, Any]:
        """For records: equal appraisals give equal bytes."""
        return {
            "trusted": self.trusted,
            "reason": self.reason,
            "expires": self.expires_ms,
            "checks": [
                {"name": check.name, "status": check.status.value, "reason": check.reason, "detail": check.detail}
                for check in self.checks
            ],
        }
