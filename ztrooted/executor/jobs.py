"""Jobs on this machine: from an artifact to a process that lives exactly as long as its lease.

Nothing starts before the artifact was verified offline, the job compared with it, and the gateway activated it; every
renewal is verified like the first, and must continue its predecessor.
"""

import asyncio
import signal
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field

import structlog

from tpm.observation import observed
from ztrooted import artifact, canonical
from ztrooted.artifact import ArtifactClaims
from ztrooted.channel_messages import ActivateMessage, EndedMessage, LeaseMessage, RefusedMessage, StartedMessage
from ztrooted.control_messages import ExecEnded, ExecRequest, ExecStarted
from ztrooted.errors import GateError
from ztrooted.executor.control import Caller
from ztrooted.executor.enroll import ExecutorSession
from ztrooted.executor.follower import Follower
from ztrooted.executor.job_messages import ended, not_started, report_of, spec_of
from ztrooted.executor.supervisor import JobEnd, Supervisor, SupervisorError
from ztrooted.models import Model
from ztrooted.reasons import GateReason, parse_reason
from ztrooted.tracing import traceparent_of_ours

log = structlog.get_logger()

ACTIVATION_S = 30.0  # the gateway's own deadline for a start quote is shorter
REPORT_S = 2.0
ENDING = frozenset((signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT))
ABANDONED = str(GateReason.EXECUTION_ABANDONED)
MARGIN_S = 1.0  # the agent gives a lease this much to arrive before it counts as late; the guard gives nothing


@dataclass
class Running:
    """One authorization on this machine, from activation to its end."""

    claims: ArtifactClaims
    token: str
    asked: str
    deadline: float | None = None
    supervisor: Supervisor | None = None
    activated: "asyncio.Future[None]" = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    interrupted_at: float | None = None
    over: str = ""  # why it must not go on, said while it was starting
    signals: list[int] = field(default_factory=list)  # for a job that is starting
    follower: Follower | None = None


class Jobs:
    """All jobs of one agent."""

    def __init__(self, send: Callable[[Model], Awaitable[None]], *, allow_weak: bool) -> None:
        self._send = send
        self._allow_weak = allow_weak
        self._running: dict[str, Running] = {}
        # When each recent challenge was answered, by the monotonic clock: a lease counts from there.
        self._answered: dict[str, float] = {}
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def running(self) -> bool:
        """Whether there is a job."""
        return bool(self._running)

    def answering(self, challenge: str) -> None:
        """Note that the evidence for a challenge is about to be sent."""
        self._answered[challenge] = time.monotonic()
        while len(self._answered) > 64:
            del self._answered[next(iter(self._answered))]

    async def run(
        self,
        session: ExecutorSession,
        request: ExecRequest,
        stdio: tuple[int, int, int],
        caller: Caller,
    ) -> ExecEnded:
        """Run one job to its end, whatever that is. Never raises for a job that may not run: that is an answer."""
        running = None
        try:
            claims = self._verify(session, request)
            running = Running(claims, request.artifact, artifact.token_digest(request.artifact))
            running.follower = Follower(caller) if request.follow else None
            if claims.jti in self._running:
                raise GateError(GateReason.ARTIFACT_USED, "this artifact is in use on this machine already")
            self._running[claims.jti] = running
            self._idle.clear()
            end = await self._execute(running, request, stdio, caller)
        except GateError as error:
            if running is not None and running.interrupted_at is None:  # else the gateway has said so itself
                await self._report_not_started(running, str(error.reason), error.detail)
            named = None if running is None else running.claims.jti
            return not_started(named, str(error.reason), error.detail)
        except SupervisorError as error:
            if running is not None:
                await self._report_not_started(running, error.code, error.message)
            return not_started(None if running is None else running.claims.jti, error.code, error.message)
        finally:
            if running is not None and self._running.get(running.claims.jti) is running:
                del self._running[running.claims.jti]
                if not self._running:
                    self._idle.set()
        return ended(running.claims.jti, end)

    def _verify(self, session: ExecutorSession, request: ExecRequest) -> ArtifactClaims:
        env_digest = canonical.digest(dict(request.env))
        if request.job.env != env_digest:
            raise GateError(GateReason.JOB_MISMATCH, "the environment is not the one whose digest the job names")
        return artifact.verify(
            request.artifact,
            keys=session.issuers,
            issuer=session.enrolled.issuer,
            audience=session.enrolled.audience,
            now=int(time.time()),
            executor=session.enrolled.executor,
            job=request.job.digest(),
            jkt=session.jkt,
        )

    async def _execute(
        self,
        running: Running,
        request: ExecRequest,
        stdio: tuple[int, int, int],
        caller: Caller,
    ) -> JobEnd:
        with observed("activation"):
            await self._activate(running, request.artifact)
        claims = running.claims
        left = (running.deadline or 0.0) - time.monotonic()
        if left <= 0:
            raise GateError(GateReason.LEASE_EXPIRED, "the lease ended before the job could start")
        running.supervisor = await Supervisor.start(
            spec_of(request),
            lease_s=left,
            max_runtime_s=claims.lim.max_runtime_s,
            stdio=stdio,
            allow_weak=self._allow_weak,
            terminal=request.terminal,
            stopped=caller.stopped,
        )
        enforcement = running.supervisor.enforcement
        if running.over:
            await running.supervisor.interrupt(running.over)
        else:
            running.supervisor.renew_until(running.deadline or 0.0)
        for number in running.signals:
            running.supervisor.signal(number)
        await self._tell(StartedMessage(authorization=claims.jti, enforcement=enforcement))
        follower = running.follower
        beside = () if follower is None else (running.supervisor.init_pidfd,)
        try:
            await caller.tell(ExecStarted(authorization=claims.jti, enforcement=enforcement), *beside)
        except OSError:
            await running.supervisor.interrupt(ABANDONED)  # it went away while the job was starting
        telling = None if follower is None else asyncio.create_task(follower.tell())
        try:
            end = await running.supervisor.wait()
        finally:
            if telling is not None:
                telling.cancel()
        await self._tell(report_of(running.claims.jti, end, running.interrupted_at))
        return end

    async def _activate(self, running: Running, token: str) -> None:
        await self._send(ActivateMessage(artifact=token, traceparent=traceparent_of_ours()))
        try:
            async with asyncio.timeout(ACTIVATION_S):
                await running.activated
        except TimeoutError:
            raise GateError(
                GateReason.ATTESTATION_OVERDUE, "the gateway did not activate the artifact in time"
            ) from None

    async def renewed(self, session: ExecutorSession, message: LeaseMessage) -> None:
        """A renewed artifact came: believe it only if it verifies and continues the one before."""
        running = self._running.get(message.authorization)
        answered = self._answered.get(message.challenge)
        if running is None:
            return
        try:
            claims = artifact.verify(
                message.artifact,
                keys=session.issuers,
                issuer=session.enrolled.issuer,
                audience=session.enrolled.audience,
                now=int(time.time()),
                executor=session.enrolled.executor,
                job=running.claims.job,
                jkt=session.jkt,
            )
            artifact.verify_renewal(running.claims, claims, previous_token=running.token)
            if answered is None:
                raise GateError(GateReason.JWS_RENEWAL, "the lease is for a challenge that we did not answer")
        except GateError as error:
            log.error("renewal refused", authorization=message.authorization, code=error.reason, detail=error.detail)
            return  # the present lease stands, and ends
        life_s = min(message.life_ms / 1000, claims.exp - claims.iat + MARGIN_S)
        running.claims, running.token = claims, message.artifact
        running.deadline = answered + life_s
        if running.follower is not None:
            running.follower.renewed(message.artifact, session.introduction_of(message.artifact), running.deadline)
        if running.supervisor is not None:
            running.supervisor.renew_until(running.deadline)
        elif not running.activated.done():
            running.activated.set_result(None)

    def refused(self, message: RefusedMessage) -> None:
        """The gateway says stop. Nothing is waited for: the next message may be another revocation."""
        if message.authorization is None:
            # It could not even read whose artifact that was: nobody who waits may start.
            for running in self._running.values():
                self._fail(running, message)
            return
        running_one = self._running.get(message.authorization)
        if running_one is None:
            return
        if running_one.interrupted_at is None:  # it is said at the verdict, and again once that is recorded
            running_one.interrupted_at = time.monotonic()
        running_one.over = running_one.over or message.reason
        self._fail(running_one, message)
        if running_one.supervisor is not None:
            running_one.supervisor.kill(message.reason)

    def _fail(self, running: Running, message: RefusedMessage) -> None:
        if not running.activated.done():
            error = Refusal(message.reason, message.detail)
            running.activated.set_exception(error)

    async def stop(self, reason: GateReason) -> None:
        """End everything, and return when each end was reported or a moment has passed."""
        for running in list(self._running.values()):
            running.over = running.over or str(reason)
            self._fail(running, RefusedMessage(authorization=None, reason=str(reason), detail="the agent stops"))
            if running.supervisor is not None:
                running.interrupted_at = time.monotonic()
                await running.supervisor.interrupt(str(reason))
        with suppress(TimeoutError):
            async with asyncio.timeout(REPORT_S):
                await self._idle.wait()

    def signal(self, token: str, number: int) -> None:
        """Whoever asked for the job with this artifact passes a signal on to it; one that would end it ends the asking."""
        for running in self._running.values():
            if artifact.token_digest(token) != running.asked:
                continue
            if running.supervisor is not None:
                running.supervisor.signal(number)
            elif number in ENDING and not running.activated.done():
                running.over = running.over or ABANDONED
                self._fail(running, RefusedMessage(authorization=None, reason=ABANDONED, detail="the caller ended it"))
            else:
                running.signals.append(number)

    async def abandon(self, token: str) -> None:
        """Whoever asked for the job with this artifact is gone: end it."""
        for running in list(self._running.values()):
            if artifact.token_digest(token) == running.asked:
                running.over = running.over or ABANDONED
                self._fail(running, RefusedMessage(authorization=None, reason=ABANDONED, detail="the caller went away"))
                if running.supervisor is not None:
                    await running.supervisor.interrupt(ABANDONED)

    async def _report_not_started(self, running: Running, code: str, detail: str) -> None:
        """Whether or not the gateway has activated it by now: there will be no job. Not for another one's artifact."""
        if self._running.get(running.claims.jti) is running:
            await self._tell(
                EndedMessage(
                    authorization=running.claims.jti,
                    outcome="not_started",
                    exit_status=None,
                    signal=None,
                    reason=f"{code}: {detail}"[:4096],
                )
            )

    async def _tell(self, message: Model) -> None:
        """Report to the gateway; when it can't be told, its own deadline tells it enough."""
        try:
            await self._send(message)
        except GateError as error:
            log.warning("gateway not told", code=error.reason, detail=error.detail)


class Refusal(GateError):  # noqa: N818 -- it is an answer
    """The gateway refused an activation, with a reason that may be newer than this agent."""

    def __init__(self, reason: str, detail: str) -> None:
        try:
            known = parse_reason(reason)
        except KeyError:
            known = GateReason.POLICY_DENIED
        super().__init__(known, detail if known == reason else f"{reason}: {detail}")
