"""HTCondor, on an execution point: asks for each attempt of a job, in the place of who runs it.

``python -I -m ztrooted.integrations.htcondor_deputy``, as root. Nothing of HTCondor's that could wait for an answer knows
the machine before the starter does, and what a starter executes runs as the job's user. So the token is here, and not
with the job, which could permit itself.

1. Who asks was executed by this machine's condor_starter, and that by root: ``config.invalid``.
2. What is to run is said by the task; whose job it is, by the kernel. The job's ad has its name and its attempt, so each
   attempt is a dispatch of its own.
3. There is an agent. The connection to it is handed on, since it listens for root only.
4. The gateway authorizes that job, as that user, on this machine's executor.

A refusal is an answer; where none comes, the task refuses.
"""

import asyncio
import os
import socket
import struct
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from ztrooted import canonical, limits
from ztrooted.client.orchestrator import DECIDED_S, Orchestrator
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.agent import LocalAgent, unanswered
from ztrooted.guard.settings import OrchestratorSettings, agent_from_environment
from ztrooted.integrations.htcondor_job import DEPUTY, Answer, Question, read_job_ad
from ztrooted.models import Job, compose, parse_json
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason
from ztrooted.work import Work

WORKFLOW = "htcondor"
STARTER = Path("/usr/sbin/condor_starter")
ASKED_S = 10.0  # to say what is to run
AT_ONCE = 256  # connections; a machine has fewer slots
PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a connection, as the kernel says."""

    pid: int
    user: str


@dataclass(slots=True)
class Deputy:
    """Listens for tasks. ``starter`` is the program that they have to be executed by."""

    orchestrator: Orchestrator
    agent: LocalAgent
    starter: Path = STARTER
    max_runtime_s: int | None = None
    within_s: float = DECIDED_S
    _serving: set["asyncio.Task[None]"] = field(default_factory=set)

    async def serve(self, path: Path) -> None:
        """Answer, until this is cancelled. EnvironmentProblem where the socket can't be had."""
        loop, turn = asyncio.get_running_loop(), asyncio.Semaphore(AT_ONCE)
        with _listening(path) as listening:
            while True:
                await turn.acquire()
                connection, _ = await loop.sock_accept(listening)
                task = asyncio.create_task(self._answer(connection))
                self._serving.add(task)
                task.add_done_callback(self._serving.discard)
                task.add_done_callback(lambda _: turn.release())

    async def ask(self, work: Work) -> str | None:
        """The ticket for one job. GateError where the answer is no."""
        dispatch = await self.orchestrator.authorize(
            work, self.agent.executor, max_runtime_s=self.max_runtime_s, within_s=self.within_s
        )
        return dispatch.ticket.encode()

    async def _answer(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with connection, suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as to_agent:
            to_agent.setblocking(False)
            try:
                # 1. Read first: whoever is still writing when this hangs up is told nothing.
                peer, question = peer_of(connection), await _question(connection)
                require_starter(peer.pid, self.starter)
                # 2.
                work = describe_attempt(question, peer.user)
                # 3.
                await self._connect(to_agent)
                # 4.
                answer, handed = Answer(ticket=await self.ask(work)), [to_agent.fileno()]
            except GateError as error:
                told = NotStarted.of(error)
                answer, handed = Answer(reason=str(told.reason), detail=told.detail, remedy=told.remedy), []
            line = answer.model_dump_json().encode() + b"\n"
            sent = socket.send_fds(connection, [line[: 64 << 10]], handed) if handed else 0
            if sent < len(line):
                await asyncio.get_running_loop().sock_sendall(connection, line[sent:])

    async def _connect(self, to_agent: socket.socket) -> None:
        try:
            async with asyncio.timeout(ASKED_S):
                await asyncio.get_running_loop().sock_connect(to_agent, str(self.agent.path))
        except TimeoutError as error:
            raise unanswered(self.agent.path, "it did not answer in time") from error
        except OSError as error:
            raise unanswered(self.agent.path, error.strerror or "it hung up") from error


def describe_attempt(question: Question, user: str) -> Work:
    """The job that an attempt is. GateError ``job.malformed`` for what can't be meant."""
    named, program = read_job_ad(question.ad), question.argv[0]
    if not program.startswith("/"):
        raise GateError(
            GateReason.JOB_MALFORMED,
            f"the job's program is {program!s:.200}, which is no absolute path",
            "leave PreserveRelativeExecutable out of the submit file",
        )
    job = compose(
        Job,
        workflow=WORKFLOW,
        run=named.run,
        step=named.owner,
        attempt=named.attempt,
        argv=question.argv,
        env=canonical.digest(dict(question.env)),
        cwd=question.cwd,
        files={program: question.program},
        user=user,
    )
    return Work(job, question.env)


def peer_of(connection: socket.socket) -> Peer:
    """Who connected (unix(7), SO_PEERCRED)."""
    pid, uid, gid = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return Peer(pid, f"{uid & 0xFFFFFFFF}:{gid & 0xFFFFFFFF}")


def require_starter(pid: int, starter: Path) -> None:
    """A process was executed by a starter of this machine's HTCondor, not by somebody who calls the same program.

    A starter that root's HTCondor has started keeps root as its real user, whomever it acts as. GateError
    ``config.invalid``.
    """
    try:
        parent = int(_status(pid, "PPid")[0])
        ours = int(_status(parent, "Uid")[0]) == os.getuid() and (PROC / str(parent) / "exe").samefile(starter)
    except (OSError, ValueError, IndexError):
        ours = False
    if not ours:
        raise GateError(
            GateReason.CONFIG_INVALID,
            f"process {pid} was not executed by {starter} of this machine's HTCondor",
            "submit a job; where HTCondor is installed elsewhere, name its starter with ZTROOTED_STARTER",
        )


def _status(pid: int, name: str) -> list[str]:
    """The values of one line of /proc/PID/status (proc(5))."""
    for line in (PROC / str(pid) / "status").read_text().splitlines():
        if line.startswith(f"{name}:"):
            return line.partition(":")[2].split()
    return []


async def _question(connection: socket.socket) -> Question:
    """One line. GateError ``request.malformed`` for what is none, or does not come in time."""
    loop, data = asyncio.get_running_loop(), b""
    try:
        async with asyncio.timeout(ASKED_S):
            while not data.endswith(b"\n") and len(data) <= limits.BODY:
                part = await loop.sock_recv(connection, 1 << 16)
                if not part:
                    break
                data += part
    except TimeoutError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, "nobody said in time what is to run") from error
    found: Question = parse_json(Question, data, maximum=limits.BODY)
    return found


def _listening(path: Path) -> socket.socket:
    """Everybody may connect: who was executed by no starter is refused."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    try:
        path.unlink(missing_ok=True)
        listening.bind(str(path))
        path.chmod(0o666)
    except OSError as error:
        listening.close()
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"can't listen on {path}: {error.strerror}",
            "name another path with ZTROOTED_DEPUTY; it must be shorter than 108 characters",
        ) from error
    listening.listen(AT_ONCE)
    return listening


def seconds(variables: Mapping[str, str], name: str) -> int | None:
    """A setting in whole seconds, or None. EnvironmentProblem ``config.invalid`` for what is no number."""
    text = variables.get(name, "").strip()
    if text and not text.isdecimal():
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"{name} is {text!s:.40}", "set it to whole seconds, or not at all"
        )
    return int(text) if text else None


async def serve() -> None:
    """As the environment says."""
    asked, agent, told = OrchestratorSettings.from_environment(), agent_from_environment(), os.environ
    async with Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
        deputy = Deputy(
            orchestrator,
            agent,
            Path(told.get("ZTROOTED_STARTER") or STARTER),
            seconds(told, "ZTROOTED_MAX_RUNTIME_S"),
            seconds(told, "ZTROOTED_WITHIN_S") or DECIDED_S,
        )
        await deputy.serve(Path(told.get("ZTROOTED_DEPUTY") or DEPUTY))


def main() -> None:
    """Command line."""
    try:
        asyncio.run(serve())
    except GateError as error:
        sys.exit(f"ztrooted: {NotStarted.of(error)}")


if __name__ == "__main__":
    main()
