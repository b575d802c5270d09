"""What operators order and see, on the wire: revocations, quarantines, webhooks."""

from typing import Annotated, Literal

from pydantic import AfterValidator, Field, StringConstraints

from ztrooted.models import Cursor, ExecutorId, Id, Model, Name, Text


def _printable(text: str) -> str:
    """Nothing that moves a terminal's cursor or turns its text around."""
    if not text.isprintable():
        raise ValueError("it holds characters that can't be printed")
    return text


Why = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_printable)]


class Subject(Model):
    """Whom or what an operator's order is about."""

    kind: Literal["authorization", "executor", "orchestrator", "class"]
    id: Name

    def __str__(self) -> str:
        return f"{self.kind} {self.id}"


class OrderRequest(Model):
    """An operator's order, with its reason for the lineage."""

    subject: Subject
    reason: Why


class OrderView(Model):
    """What an order ended."""

    subject: Subject
    revoked: list[Id]


class RetirementRequest(Model):
    """That an executor is taken out of service, why, and who comes in its place, if anybody."""

    reason: Why
    successor: ExecutorId | None = None


class RetirementView(Model):
    """What a retirement ended, and the labels that were passed on."""

    executor: ExecutorId
    successor: ExecutorId | None
    revoked: list[Id]
    labels: dict[Name, Name]


class Quarantined(Model):
    """One subject in quarantine: since when (ms), by whom, and why."""

    kind: Literal["executor", "orchestrator", "class"]
    id: Name
    operator: Name
    reason: Text
    at: int


class QuarantineList(Model):
    """The latest first; ``next`` is what to ask for as ``cursor`` while there are more."""

    quarantined: list[Quarantined]
    next: Cursor | None = None


class WebhookView(Model):
    """How one webhook stands: the record it sends next, how many are behind that, since when (ms) it fails and why."""

    name: Name
    url: Text
    orchestrator: Name | None
    events: list[Text]
    next: int
    behind: int
    failing_since: int | None
    detail: Text


class WebhookList(Model):
    """All of them."""

    webhooks: list[WebhookView]


class TokenRequest(Model):
    """A new bearer token for somebody; ``life_s`` in seconds, a year at most."""

    role: Literal["orchestrator", "auditor", "operator"]
    name: Name
    life_s: Annotated[int, Field(ge=60, le=366 * 86400)] = 90 * 86400


class TokenCreated(Model):
    """The token itself, which nobody can read again, and what it is called."""

    token: Text
    id: Text
    role: Text
    name: Name
    expires: int


class TokenView(Model):
    """One token as lists show it; times in milliseconds since the epoch."""

    id: Text
    role: Text
    name: Text
    created_at: int
    expires: int


class TokenList(Model):
    """All of them."""

    tokens: list[TokenView]


class Liveness(Model):
    """The process answers."""

    alive: Literal[True] = True


class Readiness(Model):
    """Whether an authorization could be given correctly now, and the reason codes why not."""

    ready: bool
    failing: list[Text]
