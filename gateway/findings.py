"""What a look at a database finds."""

from dataclasses import dataclass

from ztrooted.reasons import Reason


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. ``where`` names the row."""

    where: str
    reason: Reason
    detail: str

    def encode(self) -> dict[str, str]:
        """For scripts."""
        return {"where": self.where, "reason": str(self.reason), "detail": self.detail}
