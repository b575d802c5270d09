"""The agent's Unix socket: whoever may write to it may ask for a job to be run; the artifact decides whether it is.

One connection is one job. The client sends one JSON line with its standard streams as file descriptors beside it
(SCM_RIGHTS); it hears ``started``, ``stopped`` and ``ended``, and may pass signals on. A client that goes away takes its
job with it.
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
from ztrooted.control_messages import ExecEnded, ExecRequest, ExecSignal, ExecStopped
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.models import Model, parse_json
from ztrooted.reasons import GateReason

log = structlog.get_logger()

REQUEST = limits.BODY
SIGNAL = 4096  # bytes that a caller may send without a line's end
Run = Callable[[ExecRequest, tuple[int, int, int], "Caller"], Awaitable[ExecEnded]]


class Caller:
    """Whoever asked for a job, at the other end of its connection."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._telling: set[asyncio.Task[None]] = set()
        self._turn = asyncio.Lock()  # a long line may be sent in pieces, and nothing may come between them

    async def tell(self, event: Model, *descriptors: int) -> None:
        """Send an event, with descriptors beside it."""
        line = line_of(event)
        async with self._turn:
            if descriptors:
                await _writable(self._connection)
                line = line[socket.send_fds(self._connection, [line], descriptors) :]
            await asyncio.get_running_loop().sock_sendall(self._connection, line)

    def stopped(self, number: int) -> None:
        """The job was stopped by a signal."""
        task = asyncio.create_task(self.tell(ExecStopped(signal=number)))
        self._telling.add(task)
        task.add_done_callback(self._stopped_told)

    def _stopped_told(self, task: asyncio.Task[None]) -> None:
        self._telling.discard(task)
        if not task.cancelled() and isinstance(task.exception(), OSError):
            log.info("control connection lost", detail=str(task.exception()))

    async def listen(self, passed_on: Callable[[int], None]) -> None:
        """Take signals for the job; returns when the caller has hung up, or says anything that is no signal."""
        data = b""
        while len(data) < SIGNAL:
            await _readable(self._connection)
            try:
                part = self._connection.recv(SIGNAL)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not part:
                return
            *lines, data = (data + part).split(b"\n")
            for line in lines:
                try:
                    signal: ExecSignal = parse_json(ExecSignal, line)
                except GateError:
                    return
                passed_on(signal.number)


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
            caller = Caller(connection)
            stdio = (descriptors[0], descriptors[1], descriptors[2])
            await caller.tell(await self._run(request, stdio, caller))
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
                await loop.sock_sendall(connection, line_of(refusal))
        except OSError as error:
            log.info("control connection lost", detail=str(error))
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            connection.close()


def line_of(message: Model) -> bytes:
    """As it travels."""
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
    loop.add_reader(connection, _mark, ready)
    try:
        await ready
    finally:
        loop.remove_reader(connection)


async def _writable(connection: socket.socket) -> None:
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_writer(connection, _mark, ready)
    try:
        await ready
    finally:
        loop.remove_writer(connection)


def _mark(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)
