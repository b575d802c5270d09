"""How authorizations end: revoked, interrupted, closed. Nothing here can make one live again, or longer.

A lease that is not renewed ends by itself, on both sides; whatever else happens, nobody has to act for that.
"""

import asyncio

import structlog

from gateway.channel import Channels, Session
from gateway.deadlines import Deadlines
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from ztrooted.channel_messages import EndedMessage, RefusedMessage
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.lifecycle import State
from ztrooted.reasons import GateReason, Reason, parse_reason

log = structlog.get_logger()

# How long after its lease a revoked job without a report counts as killed by its own supervisor.
FENCED_AFTER_S = 1.0
# What a supervisor calls an end that it brought about itself.
_SUPERVISOR_REASONS = {"max_runtime": GateReason.EXECUTION_MAX_RUNTIME}
# Why an executor may end a job by itself. Every other reason is for us to find, and not for it to claim.
_EXECUTORS_REASONS = frozenset(
    {
        GateReason.CHANNEL_SUPERSEDED,
        GateReason.EXECUTION_ABANDONED,
        GateReason.EXECUTION_AGENT_LOST,
        GateReason.EXECUTION_MAX_RUNTIME,
        GateReason.LEASE_EXPIRED,
    }
)


class Endings:
    """Phases 7 and 8: interruption if trust fails, and the end of every authorization."""

    def __init__(self, database: Database, clock: Clock, channels: Channels, deadlines: Deadlines) -> None:
        self._database = database
        self._clock = clock
        self._channels = channels
        self._deadlines = deadlines

    async def lease_ended(self, authorization: str) -> None:
        """A lease's deadline passed without renewal: it is over on both sides, whoever is to blame."""
        now_ms = self._clock.now_ms()

        def commit(tx: Transaction) -> list[Authorization]:
            current = authorizations.get(tx.connection, authorization)
            if not current.live or (current.lease_expires or 0) > now_ms:
                return []
            detail = "no good quote renewed it before its deadline"
            if current.state is not State.AUTHORIZED:
                body = {"executor": current.executor, "verdict": None, "due": current.lease_expires}
                current, _ = authorizations.note(tx, current, "attestation.overdue", now_ms, body)
            return authorizations.revoke(tx, current, now_ms, GateReason.LEASE_EXPIRED, detail)

        await self.announce(await self._database.write(commit))

    async def ended(self, session: Session, message: EndedMessage) -> None:
        """The executor says how a job ended. A job that ended by our revocation is ``interrupted`` first.

        However it ended, its descendants end now.
        """
        now_ms = self._clock.now_ms()
        report = message.model_dump(exclude={"type", "authorization"})

        def commit(tx: Transaction) -> list[Authorization]:
            current = authorizations.get(tx.connection, message.authorization)
            if current.executor != session.executor:
                raise GateError(GateReason.ARTIFACT_UNKNOWN, "that authorization belongs to another executor")
            ended: list[Authorization] = []
            if current.live and (current.lease_expires or 0) < now_ms:
                detail = "its end was reported after its lease had ended"
                ended = authorizations.revoke(tx, current, now_ms, GateReason.LEASE_EXPIRED, detail)
            elif current.live and message.outcome != "exited":
                ended = authorizations.revoke(tx, current, now_ms, _reason_of(message), "its executor ended it")
            current = ended[0] if ended else current
            if current.state is State.REVOKED and message.outcome == "killed":
                current, _ = authorizations.note(tx, current, "execution.interrupted", now_ms, report)
            closed = authorizations.end(tx, current, "execution.closed", now_ms, report)
            return [*ended[1:], *closed[1:]]

        descendants = await self._database.write(commit)
        self._forget(message.authorization)
        await self.announce(descendants)

    async def fenced(self, authorization: str) -> None:
        """A revoked job of which no report came: its lease is over, so its own supervisor has killed it by now."""
        now_ms = self._clock.now_ms()

        def commit(tx: Transaction) -> None:
            current = authorizations.get(tx.connection, authorization)
            if current.state is not State.REVOKED:
                return
            report = {"outcome": "unreported", "reason": str(GateReason.EXECUTION_AGENT_LOST)}
            if current.activated_at is not None:
                current, _ = authorizations.note(tx, current, "execution.interrupted", now_ms, report)
            authorizations.note(tx, current, "execution.closed", now_ms, report)

        await self._database.write(commit)
        self._forget(authorization)

    async def resume(self) -> None:
        """After a start: put everything unfinished back under its stored deadline."""
        for authorization in authorizations.unfinished(self._database.reading):
            if authorization.live:
                self.watch(authorization)
            else:
                self._watch_fence(authorization)

    def watch(self, authorization: Authorization) -> None:
        """End this authorization when its lease ends, unless it is watched anew before."""
        left = ((authorization.lease_expires or 0) - self._clock.now_ms()) / 1000
        self._deadlines.set(("lease", authorization.id), max(left, 0.0), lambda: self.lease_ended(authorization.id))

    def _watch_fence(self, authorization: Authorization) -> None:
        left = ((authorization.lease_expires or 0) - self._clock.now_ms()) / 1000 + FENCED_AFTER_S
        self._deadlines.set(
            ("lease", authorization.id), max(left, FENCED_AFTER_S), lambda: self.fenced(authorization.id)
        )

    def _forget(self, authorization: str) -> None:
        self._deadlines.clear(("lease", authorization))

    async def announce(self, revoked: list[Authorization]) -> None:
        """Tell executors to stop. The event feed tells everybody else, from the records.

        Each executor by itself: one that takes no messages must not keep the others from hearing it.
        """
        told: dict[str, list[RefusedMessage]] = {}
        for authorization in revoked:
            self._watch_fence(authorization)
            refusal = _refusal(authorization, authorization.reason or str(GateReason.ATTESTATION_DRIFT))
            told.setdefault(authorization.executor, []).append(refusal)
        await asyncio.gather(*(self._tell(executor, refusals) for executor, refusals in told.items()))
        for authorization in revoked:  # said here last, since jobs die meanwhile
            executor, reason = authorization.executor, authorization.reason or str(GateReason.ATTESTATION_DRIFT)
            log.warning("revoked", authorization=authorization.id, executor=executor, code=reason)

    async def stop(self, live: list[Authorization], reason: Reason) -> None:
        """Have the executor of ``live`` end those jobs now; that they are revoked is announced when it is recorded."""
        for authorization in live:
            await self._channels.tell(authorization.executor, _refusal(authorization, str(reason)))

    async def _tell(self, executor: str, refusals: list[RefusedMessage]) -> None:
        for refusal in refusals:
            await self._channels.tell(executor, refusal)


def _refusal(authorization: Authorization, reason: str) -> RefusedMessage:
    return RefusedMessage(authorization=authorization.id, reason=reason, detail="authorization revoked")


def _reason_of(message: EndedMessage) -> Reason:
    """The reason an executor gave for ending a job, if it is one of ours."""
    if message.outcome == "not_started":
        return GateReason.EXECUTION_START_FAILED
    try:
        reason = _SUPERVISOR_REASONS.get(message.reason) or parse_reason(message.reason)
    except KeyError:
        return GateReason.EXECUTION_AGENT_LOST
    return reason if reason in _EXECUTORS_REASONS else GateReason.EXECUTION_AGENT_LOST
