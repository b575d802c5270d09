"""What executor and gateway say to each other over the channel, one JSON object a message."""

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, TypeAdapter

from ztrooted.evidence import Purpose
from ztrooted.models import Hex, Hex32, Id, Issuer, Model, Name, Quote, Selection, Text, Token, TraceParent


# --- executor to gateway ----------------------------------------------------------------------------
class EvidenceMessage(Model):
    """The answer to one challenge."""

    type: Literal["evidence"] = "evidence"
    challenge: Id
    quote: Quote


class ActivateMessage(Model):
    """A job was handed to this executor with this artifact; may it start?"""

    type: Literal["activate"] = "activate"
    artifact: Token
    traceparent: TraceParent | None = Field(default=None, exclude_if=lambda told: told is None)


class StartedMessage(Model):
    """The job runs."""

    type: Literal["started"] = "started"
    authorization: Id
    enforcement: Name


class EndedMessage(Model):
    """The job is over: it exited, it was killed, or it never started."""

    type: Literal["ended"] = "ended"
    authorization: Id
    outcome: Literal["exited", "killed", "not_started"]
    exit_status: int | None
    signal: int | None
    reason: Text
    kill_ms: int | None = None


class MeasuredMessage(Model):
    """The measurement list has grown since the last challenge; the next one may come early."""

    type: Literal["measured"] = "measured"


class PongMessage(Model):
    """The answer to a ping with the same nonce."""

    type: Literal["pong"] = "pong"
    nonce: Id


ExecutorMessage: TypeAlias = Annotated[
    EvidenceMessage | ActivateMessage | StartedMessage | EndedMessage | MeasuredMessage | PongMessage,
    Field(discriminator="type"),
]


# --- gateway to executor ----------------------------------------------------------------------------
class ChallengeMessage(Model):
    """A single-use nonce. ``qualifying_data`` is computed by both sides from purpose, nonce and bindings."""

    type: Literal["challenge"] = "challenge"
    challenge: Id
    purpose: Purpose
    nonce: Hex32
    bindings: list[Hex]
    selection: Selection
    ima_offset: int
    event_log_digest: Hex32
    deadline_ms: int
    traceparent: TraceParent | None = Field(default=None, exclude_if=lambda told: told is None)


class LeaseMessage(Model):
    """A renewed artifact. Its lease lasts ``life_ms`` from the moment the executor answered ``challenge``."""

    type: Literal["lease"] = "lease"
    authorization: Id
    challenge: Id
    artifact: Token
    life_ms: int


class RefusedMessage(Model):
    """No: the artifact can't be activated, or the authorization is over. What runs under it must stop now."""

    type: Literal["refused"] = "refused"
    authorization: Id | None
    reason: Text
    detail: Text


class VerdictMessage(Model):
    """What the gateway thinks of this machine, at the first round of a connection and when that changes."""

    type: Literal["verdict"] = "verdict"
    trusted: bool
    reason: Text | None


class IssuerMessage(Model):
    """A new issuing key."""

    type: Literal["issuer"] = "issuer"
    issuer: Issuer


class CertificateMessage(Model):
    """A renewed session certificate (PEM) for the same session key."""

    type: Literal["certificate"] = "certificate"
    certificate: Text


class PingMessage(Model):
    """Another connection claims this session: is this one still there? Two that are, are a clone."""

    type: Literal["ping"] = "ping"
    nonce: Id


GatewayMessage: TypeAlias = Annotated[
    ChallengeMessage
    | LeaseMessage
    | RefusedMessage
    | VerdictMessage
    | IssuerMessage
    | CertificateMessage
    | PingMessage,
    Field(discriminator="type"),
]
# What an agent understands besides what the first ones did, as a header of its channel: nothing else is said to it.
UNDERSTANDS_HEADER, UNDERSTANDS = "Ztrooted-Understands", "traceparent, verdict"

EXECUTOR_MESSAGE: TypeAdapter[ExecutorMessage] = TypeAdapter(ExecutorMessage)
GATEWAY_MESSAGE: TypeAdapter[GatewayMessage] = TypeAdapter(GatewayMessage)
