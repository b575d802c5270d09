"""What travels over HTTP about baselines."""

from typing import Annotated

from pydantic import Field

from ztrooted.models import Cursor, ExecutorId, Hex32, Model, Name, Text


class CaptureRequest(Model):
    """Propose the verified state of one executor as the baseline of its class."""

    executor: ExecutorId


class ApprovalRequest(Model):
    """Put a baseline in force; for ever, or for so many seconds."""

    expires_in_s: Annotated[int, Field(ge=60, le=10 * 366 * 86400)] | None = None


class BaselineView(Model):
    """A baseline, proposed or approved. ``version`` counts the approvals of its class; times in milliseconds."""

    baseline: Hex32
    executor_class: Name
    pcrs: int
    events: int
    files: int
    captured_from: Text
    captured_at: int
    version: int | None
    approved_by: Name | None
    approved_at: int | None
    expires: int | None
    in_force: bool


class BaselineList(Model):
    """Baselines, the latest proposal first; ``next`` is what to ask for as ``cursor`` while there are more."""

    baselines: list[BaselineView]
    next: Cursor | None = None


class DifferenceView(Model):
    """One difference: in which part, of which kind, what it is called, and what it was and is."""

    part: str
    kind: str
    name: str
    before: str
    after: str


class DifferenceList(Model):
    """What differs between two baselines; ``count`` counts those that are not shown, too."""

    same: bool
    count: int
    differences: list[DifferenceView]
