"""``authorize``, ``watch``, ``run``: an orchestrator's part of a dispatch, with nothing left to remember.

1. A question is put again only under its own Idempotency-Key, so it is decided once. It ends in time, as a no.
2. A yes counts once the artifact verifies here, by the anchors.
3. What runs is followed on the event feed; a revocation kills it, and so does a lease of which nothing is heard in time,
   by this machine's own clock.
4. What the gateway's log was is remembered in a file, so a restored snapshot or a second history is found out.
"""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, aclosing, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from ztrooted.anchors import Anchors
from ztrooted.client import GatewayClient
from ztrooted.client.answers import Unavailable, unreachable
from ztrooted.client.orchestrators import FeedEvent
from ztrooted.errors import ArtifactError, EnvironmentProblem, GateError
from ztrooted.lifecycle import FINAL, State
from ztrooted.log_memory import state_folder
from ztrooted.models import DispatchRequest, Grant, Issuer, compose
from ztrooted.outcome import Outcome, Runner, Running
from ztrooted.reasons import GateReason
from ztrooted.ticket import Ticket, VerifiedTicket, verify_ticket
from ztrooted.verify import verify_bundle
from ztrooted.work import Work

T = TypeVar("T")

DECIDED_S = 30.0  # a decision waits for a quote, and a gateway that restarts is back within this
PROVED_S = 30.0  # a story closes when the executor has reported, or its lease has ended
PAUSE_S = (0.05, 2.0)  # first and longest pause before asking again; each is drawn at random below its bound
MARGIN_S = 1.0  # a lease counts from when it was heard of, which is later than when it began
LAST = frozenset({"execution.closed", "authorization.denied"})
OFF = frozenset({GateReason.JWS_EXPIRED, GateReason.JWS_NOT_YET_VALID, GateReason.JWS_KEY_EXPIRED})
CONTROLLER_LOST = str(GateReason.EXECUTION_ABANDONED)


class LeaseLostError(GateError):
    """Nothing was heard of a lease until it had ended by this machine's clock."""


@dataclass(frozen=True, slots=True)
class Dispatch:
    """One authorization that was given, verified here."""

    grant: Grant
    verified: VerifiedTicket

    @property
    def authorization(self) -> str:
        """Its id."""
        return self.grant.authorization

    @property
    def ticket(self) -> Ticket:
        """What goes with the job to where it runs."""
        return self.verified.ticket


class Orchestrator:
    """One orchestrator at one gateway, as an async context manager; ``ztrooted.client.blocking`` has the other face."""

    def __init__(
        self,
        url: str,
        *,
        ca: Path,
        anchors: Anchors,
        token: str | None = None,
        certificate: tuple[str, str] | None = None,
        state: Path | None = None,
    ) -> None:
        """``state`` is the folder for what is remembered of the log; the user's own unless told."""
        self.anchors = anchors
        kept = state_folder() if state is None else state
        self.gateway = GatewayClient(url, ca=ca, token=token, certificate=certificate, state=kept)
        self._issuers: list[Issuer] = []

    async def __aenter__(self) -> Self:
        await self.gateway.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.gateway.__aexit__(kind, error, trace)

    async def authorize(
        self, work: Work, executor: str, *, max_runtime_s: int | None = None, within_s: float = DECIDED_S, **more: Any
    ) -> Dispatch:
        """Ask whether ``work`` may run on ``executor``, now; ``more`` are ``parent`` and ``delegation``.

        ``Denied`` where that was decided and recorded, another ``Refused`` where it was not, EnvironmentProblem where no
        answer came within the time, ArtifactError or ProofError for a yes that does not verify.
        """
        request = compose(DispatchRequest, executor=executor, job=work.job, max_runtime_s=max_runtime_s, **more)
        key = secrets.token_urlsafe(24)
        until = time.monotonic() + within_s
        grant = await self._until(until, lambda: self.gateway.authorize(request, key=key))
        ticket = Ticket(
            artifact=grant.artifact, issuers=self._issuers or await self._learn(until), job=work.job, env=work.env
        )
        try:
            verified = _verified(ticket, self.anchors, executor)
        except GateError as error:
            if error.reason != GateReason.JWS_KID:
                raise
            ticket = ticket.model_copy(update={"issuers": await self._learn(until)})  # a new epoch has begun
            verified = _verified(ticket, self.anchors, executor)
        return Dispatch(grant, verified)

    async def watch(self, dispatch: Dispatch) -> AsyncGenerator[FeedEvent, None]:
        """What happens to one authorization, to its last record; resumed where it broke off.

        LeaseLostError once its lease has ended here and nothing was heard. ProofError ``checkpoint.*`` where the log is
        another one.
        """
        claims = dispatch.verified.claims
        life_s = claims.exp - claims.iat + MARGIN_S
        ends, following, pause = time.monotonic() + life_s, dispatch.grant.record, PAUSE_S[0]
        while True:
            told_s = 0
            try:
                async with aclosing(self.gateway.events(following)) as events:
                    while True:
                        event = await _next(events, ends)
                        if event is None:
                            break
                        following, pause = event.seq + 1, PAUSE_S[0]
                        if event.record.authorization != dispatch.authorization:
                            continue
                        if event.type == "authorization.renewed":
                            ends = time.monotonic() + life_s
                        yield event
                        if event.type in LAST:
                            return
            except EnvironmentProblem as error:
                if error.reason != GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE:
                    raise
            except Unavailable as error:
                told_s = error.retry_after_s
            left = ends - time.monotonic()
            if left <= 0:
                raise LeaseLostError(
                    GateReason.LEASE_EXPIRED,
                    f"nothing was heard of authorization {dispatch.authorization} until its lease had ended here",
                    "see whether the gateway runs and can be reached; what ran has ended",
                )
            await _wait(min(left, told_s + _jittered(pause)))
            pause = min(2 * pause, PAUSE_S[1])

    async def run(
        self, work: Work, executor: str, on: Runner, *, prove: bool = True, max_runtime_s: int | None = None
    ) -> Outcome:
        """Authorize ``work``, have ``on`` run it, follow it, and prove what happened.

        Raises what ``authorize`` does; what runs and is stopped is an Outcome.
        """
        dispatch = await self.authorize(work, executor, max_runtime_s=max_runtime_s)
        outcome = await self.follow(dispatch, await on.start(dispatch.ticket))
        return await self.prove(outcome) if prove else outcome

    async def follow(self, dispatch: Dispatch, running: Running) -> Outcome:
        """Wait for a job's end, and end it where the feed says so, or says nothing. To be cancelled ends it too."""
        async with AsyncExitStack() as stack:
            watching = asyncio.create_task(self._over(dispatch))
            waiting = asyncio.create_task(running.wait())
            stack.push_async_callback(_settled, watching)
            try:
                await asyncio.wait({watching, waiting}, return_when=asyncio.FIRST_COMPLETED)
                if not waiting.done():
                    running.kill(watching.result())
            finally:
                running.kill(CONTROLLER_LOST)  # which does nothing to one that has ended, or was told why
                outcome = await asyncio.shield(waiting)
        return outcome

    async def prove(self, outcome: Outcome, *, within_s: float = PROVED_S) -> Outcome:
        """Fetch the bundle of a job that is over and verify it, here, by the anchors. See ``Outcome.proved``."""
        if outcome.authorization is None:
            return outcome
        authorization, until = outcome.authorization, time.monotonic() + within_s
        while True:
            view = await self._until(until, lambda: self.gateway.authorization(authorization))
            if State(view.state) in FINAL or time.monotonic() > until:
                break
            await asyncio.sleep(PAUSE_S[0])
        data = await self._until(until, lambda: self.gateway.bundle(authorization))
        report = await asyncio.to_thread(verify_bundle, data, self.anchors)
        return replace(outcome, report=report, bundle=data)

    async def _over(self, dispatch: Dispatch) -> str:
        """The reason for which a job may not go on, once there is one."""
        try:
            async with aclosing(self.watch(dispatch)) as events:
                async for event in events:
                    if event.type == "authorization.revoked":
                        return str(event.record.body.get("reason") or GateReason.OPERATOR_REVOKED)
        except GateError as error:
            return str(error.reason)
        return str(GateReason.EXECUTION_EXITED)

    async def _learn(self, until: float) -> list[Issuer]:
        self._issuers = await self._until(until, self.gateway.issuers)
        return self._issuers

    async def _until(self, until: float, ask: Callable[[], Awaitable[T]]) -> T:
        """Ask until there is an answer, or it is too late: then the last failure is it.

        No sooner than a gateway says (Retry-After, RFC 9110 §10.2.3). One that names a time after ``until`` has said no.
        """
        failed: GateError | None = None
        pause = PAUSE_S[0]
        try:
            async with asyncio.timeout(max(0.0, until - time.monotonic())):
                while True:
                    try:
                        return await ask()
                    except Unavailable as error:
                        failed, told_s = error, error.retry_after_s
                        if time.monotonic() + told_s > until:
                            raise
                    except EnvironmentProblem as error:
                        if error.reason != GateReason.ENVIRONMENT_GATEWAY_UNREACHABLE:
                            raise
                        failed, told_s = error, 0
                    await _wait(told_s + _jittered(pause))
                    pause = min(2 * pause, PAUSE_S[1])
        except TimeoutError as error:
            raise failed or unreachable(self.gateway.url, error) from error


def _verified(ticket: Ticket, anchors: Anchors, executor: str) -> VerifiedTicket:
    """``verify_ticket``, of one that was issued just now: if by this clock it is not valid, that is what is wrong."""
    try:
        return verify_ticket(ticket, anchors, now=int(time.time()), executor=executor)
    except ArtifactError as error:
        if error.reason not in OFF:
            raise
        detail = f"{error.detail}; the gateway issued it just now"
        raise ArtifactError(error.reason, detail, "set this machine's clock right, or the gateway's") from error


def _jittered(pause: float) -> float:
    """Those who were turned away together do not come again together."""
    return random.uniform(pause / 2, pause)  # noqa: S311


_wait = asyncio.sleep


async def _next(events: AsyncIterator[FeedEvent], ends: float) -> FeedEvent | None:
    """The next event; None where the feed ends, or ``ends`` comes first."""
    with suppress(TimeoutError, StopAsyncIteration):
        async with asyncio.timeout(max(0.0, ends - time.monotonic())):
            return await anext(events)
    return None


async def _settled(task: "asyncio.Task[Any]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
