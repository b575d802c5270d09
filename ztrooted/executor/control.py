"""The agent's Unix socket: whoever may write to it may ask for a job to be run; the artifact decides whether it is.

One connection is one job. The client sends one JSON line with its standard streams as file descriptors beside it
(SCM_RIGHTS); it hears ``started`` and ``ended``. A client that goes away takes its job with it.
"""

import array
import asyncio
import os
import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import structlog

from ztrooted import limits
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.models import EXEC_EVENT, ExecEnded, ExecEvent, ExecRequest, ExecStarted, Model, parse_json
from ztrooted.reasons import GateReason

log = structlog.get_logger()

REQUEST = limits.BODY
Run = Callable[
    [ExecRequest, tuple[int, int, int], Callable[[ExecStarted], Awaitable[None]], asyncio.Event], Awaitable[ExecEnded]
]


class ControlSocket:
    """Listens at ``path`` for jobs to run. Only the owner's processes can connect."""

    def __init__(self, path: Path, run: Run) -> None:
        self._path = path
        self._run = run
        self._listening: socket.socket | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def serve(self) -> None:
        """Accept connections, for ever."""
        self._listening = _listen(self._path)
        loop = asyncio.get_running_loop()
        while True:
            connection, _ = await loop.sock_accept(self._listening)
            task = asyncio.create_task(self._serve_one(connection))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

    def close(self) -> None:
        """Stop listening."""
        if self._listening is not None:
            self._listening.close()
            self._path.unlink(missing_ok=True)

    async def _serve_one(self, connection: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        connection.setblocking(False)
        descriptors: list[int] = []
        try:
            line, descriptors = await _receive(connection)
            if len(descriptors) != 3:
                raise GateError(GateReason.REQUEST_MALFORMED, "send the three standard streams beside the request")
            request: ExecRequest = parse_json(ExecRequest, line)
            gone = asyncio.Event()
            watch = asyncio.create_task(_watch(connection, gone))

            async def started(event: ExecStarted) -> None:
                await loop.sock_sendall(connection, _line(event))

            stdio = (descriptors[0], descriptors[1], descriptors[2])
            try:
                ended = await self._run(request, stdio, started, gone)
            finally:
                watch.cancel()
            await loop.sock_sendall(connection, _line(ended))
        except GateError as error:
            refusal = ExecEnded(
                authorization=None,
                outcome="not_started",
                exit_status=None,
                signal=None,
                reason=str(error.reason),
                detail=error.detail[: limits.STRING],
            )
            with suppress(OSError):
                await loop.sock_sendall(connection, _line(refusal))
        except OSError as error:
            log.info("control connection lost", detail=str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()


def run_through_agent(path: Path, request: ExecRequest, started: Callable[[ExecStarted], None]) -> ExecEnded:
    """Have the agent at ``path`` run a job with this process's standard streams; blocks until it ended.

    EnvironmentProblem when there is no agent, or it went away: then the job is dead too.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.connect(str(path))
            socket.send_fds(connection, [_line(request)], [0, 1, 2])
            with connection.makefile("rb") as answers:
                for line in answers:
                    event: ExecEvent = parse_json(EXEC_EVENT, line)
                    if isinstance(event, ExecEnded):
                        return event
                    started(event)
        except OSError as error:
            raise EnvironmentProblem(
                GateReason.EXECUTION_AGENT_LOST,
                f"no executor agent answers at {path}: {error.strerror}",
                "start one with 'ztrooted executor run', or name its socket with --socket",
            ) from error
    raise EnvironmentProblem(
        GateReason.EXECUTION_AGENT_LOST, "the executor agent went away, and the job with it", "see the agent's log"
    )


def _line(message: Model) -> bytes:
    return message.model_dump_json().encode() + b"\n"


def _listen(path: Path) -> socket.socket:
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listening.setblocking(False)
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listening.bind(str(path))
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_DATA_FOLDER,
            f"can't listen on {path}: {error.strerror}",
            "name another path with --socket; it must be shorter than 108 characters",
        ) from error
    finally:
        os.umask(before)
    listening.listen(64)
    return listening


async def _receive(connection: socket.socket) -> tuple[bytes, list[int]]:
    """One line and the descriptors that came with it."""
    data, descriptors = b"", array.array("i")
    while not data.endswith(b"\n"):
        await _readable(connection)
        try:
            part, passed, _, _ = socket.recv_fds(connection, 1 << 16, 3)
        except BlockingIOError:
            continue
        descriptors.extend(passed)
        data += part
        if not part or len(data) > REQUEST or len(descriptors) > 3:
            for descriptor in descriptors:
                os.close(descriptor)
            raise GateError(GateReason.REQUEST_MALFORMED, "that is not one request line with three descriptors")
    return data, list(descriptors)


async def _readable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def now_ready() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(connection, now_ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


async def _watch(connection: socket.socket, gone: asyncio.Event) -> None:
    """Set ``gone`` when the client hangs up. It has nothing more to say, so anything it sends counts as that."""
    await _readable(connection)
    gone.set()
