"""How a job under a lease ended, and the same as errors for those who need it to have ended well.

::

    GateError
    ├── NotStarted     nothing ran: no authorization, a forged one, no agent, …
    ├── Killed         it ran, and was stopped because its lease ended, whatever ended that
    └── JobFailed      it ran to its end, and that was another one than exit status 0

Each says why by a reason code, and what to do about it, in its text too: an orchestrator shows that where it shows errors.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol, Self

from ztrooted.control_messages import ExecEnded
from ztrooted.errors import GateError
from ztrooted.explanations import EXPLANATIONS
from ztrooted.reasons import GateReason, Reason, parse_reason

if TYPE_CHECKING:
    from ztrooted.ticket import Ticket
    from ztrooted.verify import Report

# What befell a job's supervision, in the words of ``ztrooted.executor.wire``, which knows no reason codes.
_SUPERVISION = {
    "max_runtime": GateReason.EXECUTION_MAX_RUNTIME,
    "exited": GateReason.EXECUTION_EXITED,
    "agent.lost": GateReason.EXECUTION_AGENT_LOST,
}


class _Ended(GateError):  # noqa: N818 -- base of outcomes
    """``args`` makes the same one again: orchestrators send errors, by their arguments, to whoever asked."""

    remedy_in_text = True

    def __init__(
        self, reason: Reason | str, detail: str = "", remedy: str = "", authorization: str | None = None
    ) -> None:
        code = reason_of(str(reason))
        known = EXPLANATIONS.get(code)
        super().__init__(code, detail, remedy or (known.remedy if known else ""))
        self.authorization = authorization
        self.args = (str(code), self.detail, self.remedy, authorization)

    def __str__(self) -> str:
        """With the remedy, since whoever shows this shows nothing else."""
        return f"{self.reason}: {self.detail} {self.remedy}".strip()

    @classmethod
    def of(cls, error: GateError) -> Self:
        """The same refusal, as how a job ended."""
        return cls(error.reason, error.detail, error.remedy, getattr(error, "authorization", None))


class NotStarted(_Ended):
    """Nothing ran."""


class Killed(_Ended):
    """It was stopped, with everything that it had started."""


class JobFailed(_Ended):
    """It ended by itself, and not well."""


def end_of(error: GateError) -> NotStarted | Killed | JobFailed:
    """How a job ended that met with an error: what is no end yet did not start."""
    return error if isinstance(error, (NotStarted, Killed, JobFailed)) else NotStarted.of(error)


@contextmanager
def telling() -> Iterator[None]:
    """Have any refusal inside raised as ``end_of`` it, for who shows an error's text, or sends it on, and no more."""
    try:
        yield
    except GateError as error:
        end = end_of(error)
        if end is error:
            raise
        raise end from error


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a job ended: ``exited`` by itself, ``killed`` from here, or ``not_started``.

    ``reason`` is a reason code, or what befell the supervision (``guard.died``). ``report`` is set once it is proved.
    """

    authorization: str | None
    outcome: Literal["exited", "killed", "not_started"]
    exit_status: int | None
    signal: int | None
    reason: str
    detail: str = ""
    report: "Report | None" = None
    bundle: bytes = b""

    @property
    def succeeded(self) -> bool:
        """True only if it ran to its end with exit status 0."""
        return self.outcome == "exited" and self.exit_status == 0 and self.signal is None

    @property
    def proved(self) -> bool:
        """True only if a bundle was verified, and all of it held."""
        return self.report is not None and self.report.verified

    def demand(self) -> Self:
        """This, if it succeeded. NotStarted, Killed or JobFailed otherwise."""
        if self.succeeded:
            return self
        reason = reason_of(self.reason)
        if self.outcome == "not_started":
            raise NotStarted(reason, self.detail or "the job was not started.", "", self.authorization)
        if self.outcome == "killed":
            raise Killed(
                reason, self.detail or "the job was killed, and all that it had started.", "", self.authorization
            )
        how = f"by signal {self.signal}" if self.signal else f"with exit status {self.exit_status}"
        raise JobFailed(GateReason.EXECUTION_EXITED, f"the job ended {how}.", "See its own output.", self.authorization)


class Running(Protocol):
    """A job that runs somewhere."""

    def kill(self, reason: str) -> None:
        """End it now, with everything that it has started; the first reason given stays."""

    async def wait(self) -> Outcome:
        """How it ended, once nothing of it is left."""


class Runner(Protocol):
    """Somewhere that jobs can run."""

    async def start(self, ticket: "Ticket") -> Running:
        """Start the job that a ticket is for. GateError where it may not run."""


def outcome_of(ended: ExecEnded) -> Outcome:
    """What the agent said."""
    return Outcome(ended.authorization, ended.outcome, ended.exit_status, ended.signal, ended.reason, ended.detail)


def reason_of(text: str) -> Reason:
    """The reason code that an end is told by: what supervision died of counts as its agent's loss."""
    try:
        return parse_reason(text)
    except KeyError:
        return _SUPERVISION.get(text, GateReason.EXECUTION_AGENT_LOST)
