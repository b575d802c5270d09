"""A job as whoever had it started holds it: by its lease, by a pidfd, and by a connection whose end is the job's."""

import asyncio
import os
import signal
import socket
import time
from contextlib import suppress
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from ztrooted import limits
from ztrooted.anchors import Anchors
from ztrooted.control_messages import EXEC_EVENT, ExecEnded, ExecEvent, ExecRenewed, ExecSignal, ExecStarted
from ztrooted.errors import GateError
from ztrooted.executor.guard_handle import readable
from ztrooted.models import parse_json
from ztrooted.outcome import NotStarted, Outcome, outcome_of, reason_of
from ztrooted.reasons import GateReason
from ztrooted.ticket import VerifiedTicket, verify_renewed

TICK_S = (
    1.0  # timers don't count the time that a machine sleeps; looking this often, a deadline missed asleep is soon seen
)
REPORT_S = 1.0  # how long an agent may take to say how a dead job died
KILLED_S = 5.0  # how long the kernel may take to end what was killed, on a machine that swaps
MARGIN_S = 1.0  # what a renewal may take to arrive here: the supervisor itself gives nothing
# Reasons by which an agent tells that a job died because of what was done here.
OURS = frozenset({"init.killed", "guard.died", str(GateReason.EXECUTION_ABANDONED)})


@dataclass(frozen=True, slots=True)
class Streams:
    """Standard input, output and error of a job, as descriptors; they are copied."""

    stdin: int
    stdout: int
    stderr: int

    @property
    def descriptors(self) -> list[int]:
        """In order."""
        return [self.stdin, self.stdout, self.stderr]


class GuardedProcess:
    """One job under its lease. Made by ``LocalAgent.start``; leaving its context ends it."""

    def __init__(self, connection: socket.socket, verified: VerifiedTicket, anchors: Anchors) -> None:
        self.authorization = verified.claims.jti
        self.enforcement = ""
        self._connection = connection
        self._anchors = anchors
        self._claims, self._token = verified.claims, verified.ticket.artifact
        self._lease_until = _now() + verified.lease_s
        self._run_until = float("inf")
        self._heard = b""
        self._pidfd = -1
        self._killed = ""
        self._killed_at = 0.0
        self._closed = False
        self._woken = asyncio.Event()
        self._following: asyncio.Task[Outcome] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill(str(GateReason.EXECUTION_ABANDONED))
        await self.wait()

    async def started(self) -> None:
        """Wait until the job runs, and hold on to it. NotStarted where it does not, OSError where the agent hangs up."""
        while True:
            for event in await self._events():
                if isinstance(event, ExecStarted) and self._pidfd >= 0:
                    self.enforcement = event.enforcement
                    self._run_until = _now() + self._claims.lim.max_runtime_s + MARGIN_S
                    self._following = asyncio.create_task(self._follow())
                    return
                if isinstance(event, ExecRenewed):
                    self._renew(event)
                if isinstance(event, ExecEnded):
                    raise NotStarted(reason_of(event.reason), event.detail, "", event.authorization)

    def kill(self, reason: str) -> None:
        """End it now, with everything that it has started; the first reason given stays."""
        if self._killed or self._closed:
            return
        self._killed, self._killed_at = reason, _now()
        if self._pidfd >= 0:
            with suppress(ProcessLookupError, PermissionError):  # another user's job: the agent may, and is told below
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_WR)  # to the agent: its caller has gone
        self._woken.set()

    def signal(self, number: int) -> None:
        """Pass a signal on to the job."""
        with suppress(OSError):
            self._connection.send(ExecSignal(number=number).model_dump_json().encode() + b"\n")

    async def wait(self) -> Outcome:
        """How it ended, once nothing of it is left. To be cancelled while waiting does not end it."""
        if self._following is None:
            raise RuntimeError("it was not started")
        return await asyncio.shield(self._following)

    async def close(self) -> None:
        """Hang up; the agent ends what it may have begun."""
        self.kill(str(GateReason.EXECUTION_ABANDONED))
        if self._following is not None:
            await self.wait()
        self._release()

    async def _follow(self) -> Outcome:
        """Until it is dead: take what the agent says, and keep the deadlines."""
        try:
            ended: ExecEnded | None = None
            hung_up = dead = False
            while not dead:
                now = _now()
                if now >= min(self._lease_until, self._run_until):
                    late = GateReason.LEASE_EXPIRED if now >= self._lease_until else GateReason.EXECUTION_MAX_RUNTIME
                    self.kill(str(late))
                if self._killed and now > self._killed_at + KILLED_S:
                    return self._conclude(None, f"it was killed {KILLED_S:g} s ago, and its death was not seen")
                listening = () if hung_up or ended is not None else (self._connection.fileno(),)
                ready = await self._wait(*listening, self._pidfd)
                dead = self._pidfd in ready
                if self._connection.fileno() in ready:
                    hung_up, ended = await self._hear()
                    if hung_up:
                        self.kill(str(GateReason.EXECUTION_AGENT_LOST))
            if ended is None and not hung_up:
                ended = await self._last_word()
            return self._conclude(ended, "")
        finally:
            self._release()

    async def _wait(self, *descriptors: int) -> set[int]:
        left = max(0.0, min(TICK_S, min(self._lease_until, self._run_until) - _now()))
        woken = asyncio.create_task(self._woken.wait())
        ready = asyncio.create_task(readable(*descriptors, within_s=TICK_S if self._killed else left))
        await asyncio.wait({woken, ready}, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        if not ready.done():
            self._woken.clear()
            ready.cancel()
            await asyncio.gather(ready, return_exceptions=True)
            return set()
        return ready.result()

    async def _hear(self) -> tuple[bool, ExecEnded | None]:
        """Whether the agent hung up, and how it says that the job ended, if it says so."""
        try:
            events = await self._events()
        except (OSError, GateError):
            return True, None
        for event in events:
            if isinstance(event, ExecRenewed):
                self._renew(event)
            if isinstance(event, ExecEnded):
                return False, event
        return False, None

    async def _last_word(self) -> ExecEnded | None:
        with suppress(TimeoutError):
            async with asyncio.timeout(REPORT_S):
                while True:
                    await readable(self._connection.fileno())
                    hung_up, ended = await self._hear()
                    if hung_up or ended is not None:
                        return ended
        return None

    def _renew(self, event: ExecRenewed) -> None:
        """Believe a renewal that verifies and goes on from what is known. Otherwise the present lease stands, and ends."""
        try:
            claims = verify_renewed(
                self._claims,
                event.artifact,
                event.issuer,
                self._anchors,
                previous=self._token,
                now=int(time.time()),
            )
        except GateError:
            return
        self._claims, self._token = claims, event.artifact
        self._lease_until = _now() + min(event.left_ms / 1000, claims.exp - claims.iat) + MARGIN_S

    def _conclude(self, ended: ExecEnded | None, detail: str) -> Outcome:
        if ended is not None and not (self._killed and ended.reason in OURS):
            return outcome_of(ended)
        reason = self._killed or str(GateReason.EXECUTION_AGENT_LOST)
        return Outcome(self.authorization, "killed", None, int(signal.SIGKILL), reason, detail)

    async def _events(self) -> list[ExecEvent]:
        """What has arrived, whole. OSError once the agent has hung up, GateError for what is no event."""
        await readable(self._connection.fileno())
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, 1 << 16, 1)
        except BlockingIOError:
            return []
        for descriptor in descriptors:
            if self._pidfd >= 0:
                os.close(descriptor)
            else:
                self._pidfd = descriptor
        if not data or len(self._heard) > limits.BODY:
            raise ConnectionResetError("the agent hung up")
        *lines, self._heard = (self._heard + data).split(b"\n")
        return [parse_json(EXEC_EVENT, line) for line in lines]

    def _release(self) -> None:
        if not self._closed:
            self._closed = True
            self._connection.close()
            if self._pidfd >= 0:
                os.close(self._pidfd)


def _now() -> float:
    """Seconds of a clock that nobody can set, and which counts the time that the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
