"""GitHub Actions: what follows a job's authorization, and kills the runner's worker when that ends.

It runs beside the runner. The worker itself is killed, not only what it runs: a worker whose step fails goes on with the
steps that are marked ``always()``. All of it is stopped first, so that nothing is started while it is looked for: what is
under the worker, and what has the mark that the runner gives to each process of a job. A process that has left the tree
and taken off the mark is not found.
"""

import asyncio
import json
import os
import signal
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self, TextIO

from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.process import Streams
from ztrooted.guard.settings import agent_from_environment
from ztrooted.kept_files import replace_secret
from ztrooted.outcome import NotStarted, Outcome
from ztrooted.reasons import GateReason
from ztrooted.ticket import parse_ticket

WORKER = "Runner.Worker"
MARKED = "RUNNER_TRACKING_ID"
PROC = Path("/proc")
PASSES = 50  # looking again for what was started meanwhile; what is stopped starts nothing


@dataclass(frozen=True, slots=True)
class Followed:
    """A job: its worker's process, the mark of its processes, where its end is written down, its ticket."""

    worker: int
    mark: str
    record: str
    ticket: str

    def encode(self) -> bytes:
        """For its follower."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> Self:
        """What ``encode`` made."""
        return cls(**json.loads(data))


async def follow(followed: Followed, told: TextIO) -> int:
    """Hold the job's stand-in; kill the job where it ends otherwise than completed. The follower's exit status."""
    worker = os.pidfd_open(followed.worker)
    given, held = os.pipe2(os.O_CLOEXEC)
    gone = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        process = await agent_from_environment().start(parse_ticket(followed.ticket), Streams(given, gone, gone))
    except GateError as error:
        why = NotStarted.of(error)
        _say(told, reason=str(why.reason), detail=why.detail, remedy=why.remedy)
        return 1
    os.close(given)
    over = "the follower failed"
    try:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, _complete, held)
        loop.add_reader(worker, _abandoned, loop, worker, process)
        _say(told, running=process.authorization)
        outcome = await process.wait()
        over = _why(outcome)
    finally:
        if over != "completed":
            kill_job(worker, followed)
        _write(followed, over)
    return 0 if over == "completed" else 1


def _why(outcome: Outcome) -> str:
    if outcome.succeeded:
        return "completed"
    return f"{outcome.reason}: {outcome.detail}".strip(": ")


def _complete(held: int) -> None:
    with suppress(OSError):
        os.write(held, b"\n")


def _abandoned(loop: asyncio.AbstractEventLoop, worker: int, process: Any) -> None:
    """The worker is dead: so is the job, and what stands for it."""
    loop.remove_reader(worker)
    process.kill(str(GateReason.EXECUTION_ABANDONED))


def _say(told: TextIO, **what: str) -> None:
    with suppress(BrokenPipeError):
        told.write(json.dumps(what) + "\n")
        told.flush()


def _write(followed: Followed, over: str) -> None:
    record = Path(followed.record)
    with suppress(OSError, ValueError):  # a record that is not there is read as one of nobody
        replace_secret(record, json.dumps({**json.loads(record.read_bytes()), "ended": over}).encode())


def ancestor() -> int:
    """The runner's worker that this process is under. EnvironmentProblem ``config.invalid`` where there is none."""
    pid = os.getppid()
    while pid > 1:
        name, parent = _stat(pid)
        if name == WORKER:
            return pid
        pid = parent
    raise EnvironmentProblem(
        GateReason.CONFIG_INVALID,
        f"this process is under no {WORKER}, so a job could not be stopped",
        "have a runner execute it, by ACTIONS_RUNNER_HOOK_JOB_STARTED",
    )


def birth(pid: int) -> int:
    """When a process was started, in clock ticks since the machine was: its number may be another's later. 0 if gone."""
    try:
        return int((PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()[19])
    except (OSError, ValueError):
        return 0


def kill_job(worker: int, followed: Followed) -> None:
    """End the worker and what it has started: stop all of it, then kill all of it. ``worker`` is its pidfd."""
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(worker, signal.SIGSTOP)
    found: set[int] = set()
    for _ in range(PASSES):
        fresh = set(_under(followed.worker, found)) | set(_marked(followed.mark))
        fresh -= found | {os.getpid()}
        if not fresh:
            break
        for pid in fresh:
            _send(pid, signal.SIGSTOP)
        found |= fresh
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(worker, signal.SIGKILL)
    for pid in found:
        _send(pid, signal.SIGKILL)


def _send(pid: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.kill(pid, number)


def _under(worker: int, found: set[int]) -> Iterator[int]:
    """What is under the worker, or under anything that is found already."""
    parents = dict(_processes())
    for pid in parents:
        above = pid
        while above := parents.get(above, 0):
            if above == worker or above in found:
                yield pid
                break


def _marked(mark: str) -> Iterator[int]:
    wanted = f"{MARKED}={mark}".encode()
    for pid, _ in _processes():
        with suppress(OSError):
            if wanted in (PROC / str(pid) / "environ").read_bytes().split(b"\0"):
                yield pid


def _processes() -> Iterator[tuple[int, int]]:
    """Each process and its parent."""
    for entry in PROC.iterdir():
        if entry.name.isdecimal():
            _, parent = _stat(int(entry.name))
            yield int(entry.name), parent


def _stat(pid: int) -> tuple[str, int]:
    """A process's name and its parent; no name and 0 where it has gone."""
    try:
        begin, _, rest = (PROC / str(pid) / "stat").read_text(errors="replace").rpartition(")")
        return begin.partition("(")[2], int(rest.split()[1])
    except (OSError, ValueError, IndexError):
        return "", 0
