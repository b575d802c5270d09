"""Where jobs run: this machine's executor agent, and what is not left to it.

1. A ticket is verified here, by the anchors, before anybody is asked to do anything.
2. The agent activates the artifact, and runs the job in a PID namespace that dies with its lease.
3. Each renewal is verified here too, and moves a deadline on this side's own clock.
4. A revocation, a deadline that passes, an agent that goes away: the job's first process is killed from here as well, and
   the kernel kills the rest.

What is known to be dead is known from the kernel (pidfd), not from what anybody says.
"""

import asyncio
import os
import socket
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from ztrooted.anchors import Anchors
from ztrooted.control_messages import ExecRequest
from ztrooted.errors import EnvironmentProblem
from ztrooted.guard.process import GuardedProcess, Streams
from ztrooted.reasons import GateReason
from ztrooted.ticket import Ticket, verify_ticket

SOCKET = Path("/run/ztrooted/executor.sock")
START_S = 30.0  # an activation waits for a quote; the gateway's own deadline for that is shorter


@dataclass(frozen=True, slots=True)
class LocalAgent:
    """This machine's agent, whose executor is ``executor``."""

    anchors: Anchors
    executor: str
    path: Path = SOCKET

    async def start(
        self, ticket: Ticket, streams: Streams | None = None, connection: socket.socket | None = None
    ) -> GuardedProcess:
        """Run the job of a ticket; returns once it runs. Without ``streams`` it has no input, and this process's output.
        ``connection`` is one to the agent, for who may not connect but was given one.

        GateError where the ticket does not verify, EnvironmentProblem where no agent answers in time, ``NotStarted``
        where the agent or the gateway says no.
        """
        verified = verify_ticket(ticket, self.anchors, now=int(time.time()), executor=self.executor)
        unconnected = connection is None
        connection = connection or socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        process = GuardedProcess(connection, verified, self.anchors)
        async with AsyncExitStack() as opened:
            opened.push_async_callback(process.close)
            try:
                async with asyncio.timeout(min(START_S, max(0, verified.lease_s))):
                    if unconnected:
                        await asyncio.get_running_loop().sock_connect(connection, str(self.path))
                    with nothing() as empty:
                        await self._ask(connection, ticket, streams or Streams(empty, 1, 2))
                    await process.started()
            except TimeoutError as error:
                raise unanswered(self.path, "it did not answer in time") from error
            except OSError as error:
                raise unanswered(self.path, error.strerror or "it hung up") from error
            opened.pop_all()
        return process

    async def _ask(self, connection: socket.socket, ticket: Ticket, streams: Streams) -> None:
        loop = asyncio.get_running_loop()
        request = ExecRequest(artifact=ticket.artifact, job=ticket.job, env=ticket.env, follow=True)
        line = request.model_dump_json().encode() + b"\n"
        sent = socket.send_fds(connection, [line[: 64 << 10]], streams.descriptors)
        if sent < len(line):  # to send nothing fails, too, once the agent has answered and hung up
            await loop.sock_sendall(connection, line[sent:])


def unanswered(path: Path, why: str) -> EnvironmentProblem:
    """No agent answers at ``path``."""
    return EnvironmentProblem(
        GateReason.EXECUTION_AGENT_LOST,
        f"no executor agent answers at {path}: {why}",
        "start one with 'ztrooted executor run', or name its socket with ZTROOTED_SOCKET",
    )


@contextmanager
def nothing() -> Iterator[int]:
    """A descriptor with nothing to read."""
    empty = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield empty
    finally:
        os.close(empty)
