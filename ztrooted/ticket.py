"""What travels with a job from where it is handed out to where it runs: its artifact, and what it takes to believe it.

``Ticket`` is what arrived, and proves nothing. ``verify_ticket`` turns it into a ``VerifiedTicket``, with anchors and no
connection to anybody, so a queue, a scheduler or a message broker between the two is not trusted with anything: what it
changes no longer verifies. It can keep a ticket too long, show it to others, or lose it; an artifact is short-lived,
works once, and on one executor.
"""

from dataclasses import dataclass
from typing import Annotated

from pydantic import Field

from ztrooted import artifact, canonical, issuer, limits
from ztrooted.anchors import Anchors
from ztrooted.artifact import ArtifactClaims
from ztrooted.errors import GateError
from ztrooted.issuer import IssuingKey
from ztrooted.jose import IssuerKey
from ztrooted.keys import load_p256
from ztrooted.models import Issuer, Job, Model, Text, Token, parse_json
from ztrooted.reasons import GateReason

MAX_ISSUERS = 16  # the gateway tells two


class Ticket(Model):
    """An artifact, how its issuing key was introduced, and the job that it is for with its whole environment."""

    artifact: Token
    issuers: Annotated[list[Issuer], Field(min_length=1, max_length=MAX_ISSUERS)]
    job: Job
    env: dict[Text, Text]

    def encode(self) -> str:
        """As JSON in one line, for a header, a message or a file."""
        return self.model_dump_json()


@dataclass(frozen=True, slots=True)
class VerifiedTicket:
    """A ticket that may be acted upon, until its lease ends."""

    ticket: Ticket
    claims: ArtifactClaims
    lease_s: int


def parse_ticket(data: str | bytes | None) -> Ticket:
    """Read a ticket. GateError ``request.malformed`` for what is none; None, where there was none, is none."""
    if data is None:
        raise GateError(
            GateReason.REQUEST_MALFORMED,
            "there is no ticket with this job, so nothing permits it",
            "hand the job out through the gate: whoever dispatches it has to ask first",
        )
    found: Ticket = parse_json(Ticket, data.encode() if isinstance(data, str) else data, maximum=limits.BODY)
    return found


def verify_ticket(ticket: Ticket, anchors: Anchors, *, now: int, executor: str | None = None) -> VerifiedTicket:
    """Verify a ticket at the instant ``now``, in seconds since the epoch; raises GateError with the first that fails.

    1. The issuing keys were introduced by the anchored log key: ``lineage.key``.
    2. The artifact verifies with one of them, for this job and, where it is told, this executor: ``jws.*``.
    3. It is the first of its authorization, which alone can be activated: ``artifact.used``.
    4. The environment is the one whose digest the job names: ``job.mismatch``.
    """
    # 1.
    keys = {known.kid: key_of(known) for known in (introduced(one, anchors) for one in ticket.issuers)}
    # 2.
    claims = artifact.verify(
        ticket.artifact,
        keys=keys,
        issuer=anchors.issuer,
        audience=anchors.audience,
        now=now,
        executor=executor,
        job=ticket.job.digest(),
    )
    # 3.
    if claims.ren.n != 0:
        raise GateError(GateReason.ARTIFACT_USED, "only the first artifact of an authorization activates it")
    # 4.
    if canonical.digest(dict(ticket.env)) != ticket.job.env:
        raise GateError(GateReason.JOB_MISMATCH, "the environment is not the one whose digest the job names")
    return VerifiedTicket(ticket, claims, claims.exp - now)


def verify_renewed(
    before: ArtifactClaims, token: str, introduction: Issuer, anchors: Anchors, *, previous: str, now: int
) -> ArtifactClaims:
    """Verify a renewal as the first artifact was, and that it goes on from ``before``, whose artifact is ``previous``."""
    known = introduced(introduction, anchors)
    claims = artifact.verify(
        token, keys={known.kid: key_of(known)}, issuer=anchors.issuer, audience=anchors.audience, now=now
    )
    artifact.verify_renewal(before, claims, previous_token=previous)
    return claims


def introduced(introduction: Issuer, anchors: Anchors) -> IssuingKey:
    """The issuing key, if the anchored log key introduced it. ProofError ``lineage.key`` otherwise."""
    return issuer.verify_introduction(
        introduction.statement, introduction.signature, load_p256(anchors.log_key.material), anchors.origin
    )


def key_of(known: IssuingKey) -> IssuerKey:
    """As artifacts are verified with it."""
    return IssuerKey(known.key, known.not_before, known.expires)
