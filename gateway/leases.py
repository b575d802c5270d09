"""Artifacts: what they say, how long they live, and the records that must exist before one leaves.

Everything here runs inside the writer's transaction, so that an artifact and its record are durable together, before
anybody sees either.
"""

import sqlite3
from dataclasses import dataclass, replace
from typing import Any

from gateway.channel import Session
from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig
from gateway.delegations import granted
from gateway.rounds import Round
from gateway.signer import Signer
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Transaction
from gateway.storage.lineage import Appended
from tpm.public import parse_public
from ztrooted import artifact
from ztrooted.artifact import ArtifactClaims
from ztrooted.channel_messages import LeaseMessage
from ztrooted.clock import WatchedClock
from ztrooted.delegation import Granted, ends_ms
from ztrooted.errors import GateError
from ztrooted.jose import thumbprint
from ztrooted.keys import load_p256
from ztrooted.lifecycle import State
from ztrooted.models import Grant
from ztrooted.reasons import GateReason
from ztrooted.results import tier, tier_name


@dataclass(frozen=True, slots=True)
class Lease:
    """An artifact that may leave now."""

    authorization: Authorization
    token: str
    record: int
    challenge: str
    life_ms: int

    def grant(self) -> Grant:
        """For the orchestrator."""
        expires = self.authorization.lease_expires or 0
        return Grant(authorization=self.authorization.id, artifact=self.token, expires=expires, record=self.record)

    def message(self) -> LeaseMessage:
        """For the executor."""
        return LeaseMessage(
            authorization=self.authorization.id, challenge=self.challenge, artifact=self.token, life_ms=self.life_ms
        )


class Leases:
    """Issues and renews artifacts."""

    def __init__(self, config: GatewayConfig, signer: Signer, clock: WatchedClock, checkpointer: Checkpointer) -> None:
        self._config = config
        self._signer = signer
        self._clock = clock
        self._checkpointer = checkpointer

    def issue(self, tx: Transaction, authorization: Authorization, done: Round, policies: dict[str, str]) -> Lease:
        """The first artifact of an authorization whose policy was just evaluated and permitted it."""
        return self._sign(tx, authorization, done, policies, "authorization.issued")

    def renew(self, tx: Transaction, authorization: Authorization, done: Round, policies: dict[str, str]) -> Lease:
        """The next artifact of the chain. GateError ``execution.max_runtime`` when there is no time left to lease."""
        return self._sign(tx, authorization, done, policies, "authorization.renewed")

    def presented(self, connection: sqlite3.Connection, session: Session, token: str) -> Authorization:
        """The authorization that an executor shows an artifact of, to activate it.

        GateError ``artifact.*`` unless the artifact is its own, its first and not used; ``lease.expired`` where it ended.
        """
        claims = artifact.verify(
            token,
            keys=self._signer.keys(),
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=self._clock.now_ms() // 1000,
            executor=session.executor,
            jkt=artifact.thumbprint(session.key),
        )
        authorization = authorizations.get(connection, claims.jti)
        if authorization.state is not State.AUTHORIZED:
            raise GateError(
                GateReason.ARTIFACT_USED, f"authorization {authorization.id} is {authorization.state} already"
            )
        if claims.ren.n != 0 or authorization.artifact != artifact.token_digest(token):
            raise GateError(GateReason.ARTIFACT_USED, "only the first artifact of an authorization activates it")
        if authorization.lease_expires is None or authorization.lease_expires < self._clock.now_ms():
            raise GateError(GateReason.LEASE_EXPIRED, "the artifact was not activated in time")
        return authorization

    def _sign(
        self, tx: Transaction, authorization: Authorization, done: Round, policies: dict[str, str], kind: str
    ) -> Lease:
        if self._clock.jumped():
            raise GateError(GateReason.CLOCK_UNTRUSTED, "the gateway's clock was set while it ran; nothing is issued")
        if self._checkpointer.stale:
            raise GateError(
                GateReason.CHECKPOINT_STALE, "the lineage is not sealed and published any more; nothing is issued"
            )
        epoch = self._signer.epoch
        current = authorizations.get(tx.connection, authorization.id)
        above = authorizations.above(tx.connection, current)
        parent = granted(tx.connection, above[0]) if above else None
        end_ms = lease_end(current, done, parent)
        level = tier(done.policy, trusted=done.trusted, virtual=done.executor.virtual)
        if parent is not None:
            level = min(level, parent.tier)
        stated = _claims(self._config, current, done, policies, end_ms, level)
        body = {"claims": stated, "kid": epoch.kid}
        renewals = current.renewals + 1 if kind == "authorization.renewed" else 0
        noted, appended = authorizations.note(
            tx, current, kind, done.now_ms, body, lease_expires=end_ms, renewals=renewals, tier=level
        )
        claims = ArtifactClaims.model_validate({**stated, "lin": _head(self._config.origin, appended)})
        token = artifact.issue(claims, epoch.private, epoch.kid)
        digest = tx.blob(token.encode())
        tx.execute("INSERT INTO artifacts(authorization, n, digest) VALUES (?, ?, ?)", (noted.id, claims.ren.n, digest))
        tx.execute("UPDATE authorizations SET artifact = ? WHERE id = ?", (digest, noted.id))
        return Lease(replace(noted, artifact=digest), token, appended.index, done.challenge, end_ms - done.now_ms)


def lapsed(authorization: Authorization, done: Round) -> bool:
    """Whether the lease had ended when a round was judged: a gateway that was stopped for a while finds this."""
    return (authorization.lease_expires or 0) < done.now_ms


def lease_end(authorization: Authorization, done: Round, parent: Granted | None) -> int:
    """When the next lease ends, in milliseconds: a lease length from now, or with the job's maximum runtime.

    A child's ends with the maximum runtime of anything above it, too.

    In whole seconds, as the artifact's ``exp`` is: both sides mean the same instant. A lease length is cut; the maximum
    runtime is rounded up, since the executor's supervisor keeps it to the millisecond. It caps the first artifact too,
    from now on: the renewal that comes with the activation may not end before what it renews.
    """
    began_ms = done.now_ms if authorization.activated_at is None else authorization.activated_at
    last_ms = began_ms + authorization.max_runtime_s * 1000
    if parent is not None:
        last_ms = min(last_ms, ends_ms(parent, done.now_ms))
    if last_ms <= done.now_ms:
        most = (
            f"its maximum of {authorization.max_runtime_s} s" if parent is None else "as long as it or its parent may"
        )
        raise GateError(GateReason.EXECUTION_MAX_RUNTIME, f"the job has run for {most}")
    end_ms = done.now_ms + round(done.policy.lease_s * 1000)
    return min(end_ms // 1000, -(-last_ms // 1000)) * 1000


def _claims(
    config: GatewayConfig, authorization: Authorization, done: Round, policies: dict[str, str], end_ms: int, level: int
) -> dict[str, Any]:
    """Everything an artifact says except its place in the lineage, which is known only once its record is there."""
    if done.evidence is None:
        raise GateError(GateReason.ATTESTATION_OVERDUE, "there is no evidence to issue an artifact on")
    executor = done.executor
    job = authorization.job
    now_s = done.now_ms // 1000
    renewal: dict[str, Any] = {"n": 0}
    if authorization.artifact is not None:
        renewal = {"n": authorization.renewals + 1, "prev": authorization.artifact}
    return {
        "iss": config.issuer,
        "aud": config.audience,
        "sub": executor.id,
        "jti": authorization.id,
        "iat": now_s,
        "nbf": now_s,
        "exp": end_ms // 1000,
        "cnf": {"jkt": thumbprint(load_p256(executor.session_key))},
        "ak": parse_public(executor.ak_public).name.hex(),
        "job": authorization.job_digest,
        "act": {"workflow": job.workflow, "run": job.run, "step": job.step},
        "lim": {"max_runtime_s": authorization.max_runtime_s},
        "pol": policies,
        "ev": done.evidence.digest(),
        "tier": tier_name(level),
        "ren": renewal,
        **({} if authorization.parent is None else {"par": authorization.parent}),
    }


def _head(origin: str, appended: Appended) -> dict[str, Any]:
    return {"origin": origin, "index": appended.index, "size": appended.size, "root": appended.root.hex()}
