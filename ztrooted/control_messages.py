"""What ``ztrooted exec`` and guards say to the executor's agent over its control socket, and it to them."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from ztrooted.models import Id, Issuer, Job, Model, Text, Token


class ExecRequest(Model):
    """Run this job under this artifact. Standard input, output and error travel beside it as file descriptors.

    ``terminal``: one of them is a terminal that nobody has yet, and which the job is to have. ``follow``: tell each
    renewal, and pass a pidfd of the first process of the job's namespace beside ``started``.
    """

    artifact: Token
    job: Job
    env: dict[Text, Text]
    terminal: bool = False
    follow: bool = False


class ExecSignal(Model):
    """The caller was sent this signal, which is meant for the job."""

    event: Literal["signal"] = "signal"
    number: Annotated[int, Field(ge=1, le=64)]


class ExecStarted(Model):
    """The job runs."""

    event: Literal["started"] = "started"
    authorization: Id
    enforcement: Text


class ExecRenewed(Model):
    """The lease was renewed, for ``left_ms`` from now; for callers that follow. ``issuer`` introduces the artifact's key."""

    event: Literal["renewed"] = "renewed"
    artifact: Token
    issuer: Issuer
    left_ms: Annotated[int, Field(ge=0)]


class ExecStopped(Model):
    """The job was stopped by a signal, as with Ctrl-Z, until it is continued."""

    event: Literal["stopped"] = "stopped"
    signal: int


class ExecEnded(Model):
    """The job is over, or never started."""

    event: Literal["ended"] = "ended"
    authorization: Id | None
    outcome: Literal["exited", "killed", "not_started"]
    exit_status: int | None
    signal: int | None
    reason: Text
    detail: Text


ExecEvent: TypeAlias = Annotated[ExecStarted | ExecRenewed | ExecStopped | ExecEnded, Field(discriminator="event")]
EXEC_EVENT: TypeAdapter[ExecEvent] = TypeAdapter(ExecEvent)
