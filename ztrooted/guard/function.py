"""A function call as a job: which function, which arguments, in a process of its own that dies with its lease.

A thread can't be killed, and a worker that is trusted to stop by itself governs nothing. So the function runs in a new
interpreter under the executor's agent (``ztrooted.guard.call``). What is authorized names it: its module or file, with
the file's digest, and the digest of its arguments.
"""

import asyncio
import hashlib
import inspect
import json
import os
import socket
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztrooted.errors import GateError, UsageProblem
from ztrooted.guard import call as child
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.process import GuardedProcess, Streams
from ztrooted.outcome import JobFailed, Outcome
from ztrooted.reasons import GateReason
from ztrooted.ticket import Ticket
from ztrooted.work import Work, describe

CHILD = Path(child.__file__)
MAX_ARGUMENTS = 64 << 20  # bytes; what is larger belongs into a file that the job names
MAX_RESULT = 256 << 20  # bytes; the caller holds it in memory
RESULT_S = 5.0  # to read what a process has written that has ended


@dataclass(frozen=True, slots=True)
class Call:
    """A function with its arguments, encoded: ``work`` is the job, ``payload`` what it is sent."""

    work: Work
    payload: bytes


class FunctionFailed(JobFailed):
    """The function raised an exception; ``trace`` is where."""

    def __init__(
        self, reason: Any, detail: str = "", remedy: str = "", authorization: str | None = None, trace: str = ""
    ) -> None:
        super().__init__(reason, detail, remedy, authorization)
        self.trace = trace
        self.args = (*self.args, trace)


def describe_call(
    function: Callable[..., Any],
    positional: Iterable[Any] = (),
    named: Mapping[str, Any] | None = None,
    *,
    workflow: str,
    run: str,
    step: str | None = None,
    env: Mapping[str, str] | None = None,
    **options: Any,
) -> Call:
    """A call of a function that can be named. Its step is its name unless told; ``options`` are further fields of ``Job``.

    UsageProblem ``job.malformed`` for a function that can't be found by its name, and arguments that are no JSON.
    """
    original = getattr(function, child.ORIGINAL, function)
    reference, files = reference_of(original)
    try:
        payload = json.dumps([list(positional), dict(named or {})], allow_nan=False, sort_keys=True).encode()
    except (TypeError, ValueError) as error:
        raise _unusable(f"the arguments of {reference} are no JSON: {error}") from error
    work = _work(
        reference,
        payload,
        files,
        {"workflow": workflow, "run": run, "step": step or original.__name__, **options},
        env,
    )
    return Call(work, payload)


def _work(
    reference: str,
    payload: bytes,
    files: list[Path],
    options: dict[str, Any],
    env: Mapping[str, str] | None,
) -> Work:
    if len(payload) > MAX_ARGUMENTS:
        raise _unusable(f"arguments of {len(payload)} bytes are over {MAX_ARGUMENTS}")
    paths = os.pathsep.join(path or str(Path.cwd()) for path in sys.path)
    digest = hashlib.sha256(payload).hexdigest()
    return describe(
        [sys.executable, "-P", str(CHILD), reference, digest],
        env={"PYTHONPATH": paths, child.GOVERNED: "1", **(env or {})},
        files=[CHILD, *files],
        **options,
    )


def reference_of(function: Callable[..., Any]) -> tuple[str, list[Path]]:
    """How a new process finds a function, and the file that it is in."""
    name = getattr(function, "__qualname__", "")
    if not inspect.isfunction(function) or "<" in name:
        raise _unusable(f"{name or function!r} can't be found by its name in another process: define it in a module")
    source = inspect.getsourcefile(function)
    files = [] if source is None else [Path(source).resolve()]
    if function.__module__ in {"__main__", child.ORIGINAL}:
        if not files:
            raise _unusable(f"{name} is in no file")
        return f"{files[0]}:{name}", files
    return f"{function.__module__}:{name}", files


def require_call(ticket: Ticket, payload: bytes, reference: str | None = None) -> Call:
    """The call that a ticket is for, if it is this one. GateError ``job.mismatch`` where it is another.

    Whoever carries ticket and arguments may have mixed up two of them, each of which is good by itself.
    """
    *command, named, digest = ticket.job.argv
    if command[2:] != [str(CHILD)]:
        raise GateError(GateReason.JOB_MISMATCH, "the ticket is for no function call, or for one on another machine")
    if reference is not None and named != reference:
        raise GateError(GateReason.JOB_MISMATCH, f"the ticket is for {named!r:.100}, not for {reference!r:.100}")
    if hashlib.sha256(payload).hexdigest() != digest:
        raise GateError(GateReason.JOB_MISMATCH, "the ticket is for other arguments")
    return Call(Work(ticket.job, ticket.env), payload)


async def perform(agent: LocalAgent, ticket: Ticket, call: Call) -> tuple[GuardedProcess, "asyncio.Task[Any]"]:
    """Start a call: its process, and the task of its result. The task's errors are those of ``result_of``."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with far, ExitStack() as opened:
        opened.enter_context(near)
        process = await agent.start(ticket, Streams(far.fileno(), 1, 2))
        opened.pop_all()
    return process, asyncio.create_task(_result(near, process, call))


async def _result(near: socket.socket, process: GuardedProcess, call: Call) -> Any:
    with near:
        carrying = asyncio.create_task(_carry(near, call.payload))
        try:
            outcome = await process.wait()
            with suppress(TimeoutError, OSError):
                data = await asyncio.wait_for(carrying, RESULT_S)
                return result_of(outcome, data)
        finally:
            carrying.cancel()
            await asyncio.gather(carrying, return_exceptions=True)
            process.kill(str(GateReason.EXECUTION_ABANDONED))
    return result_of(outcome, b"")


async def _carry(near: socket.socket, payload: bytes) -> bytes:
    """Send the arguments; what comes back."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(near, payload)
    near.shutdown(socket.SHUT_WR)
    data = bytearray()
    while len(data) < child.LENGTH.size or len(data) < child.LENGTH.size + child.LENGTH.unpack_from(data)[0]:
        part = await loop.sock_recv(near, 1 << 20)
        if not part or len(data) > MAX_RESULT:
            return b""
        data += part
    return bytes(data[child.LENGTH.size :])


def result_of(outcome: Outcome, data: bytes) -> Any:
    """What the function returned, if it ended by itself and well; Killed, FunctionFailed or JobFailed otherwise.

    A result that a job wrote before it was killed is none. JobFailed ``execution.exited`` for no result.
    """
    if outcome.outcome == "exited" and outcome.exit_status == 1 and data:
        told = _told(data, "error", outcome)
        said = {name: str(told.get(name)) for name in ("type", "message", "trace")} if isinstance(told, dict) else {}
        raise FunctionFailed(
            GateReason.EXECUTION_EXITED,
            f"{said.get('type')}: {said.get('message')}",
            "See the function's own error.",
            outcome.authorization,
            said.get("trace", ""),
        )
    outcome.demand()
    return _told(data, "value", outcome)


def _told(data: bytes, what: str, outcome: Outcome) -> Any:
    """A member of what the job wrote, which may be anything."""
    try:
        return json.loads(data)[what]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise JobFailed(
            GateReason.EXECUTION_EXITED,
            f"the function ended without a result of up to {MAX_RESULT} bytes.",
            "Have it return, and return large results in files.",
            outcome.authorization,
        ) from error


def _unusable(detail: str) -> UsageProblem:
    return UsageProblem(GateReason.JOB_MALFORMED, detail)
