"""A guard as the agent holds it: the process, the ends of its pipes, and what it says."""

import asyncio
import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from ztrooted.executor import wire
from ztrooted.executor.job_spec import SupervisorError, malformed, start_failure

REPORT_S = 1.0  # how long a guard may take to say how a dead job died before the agent concludes it alone

_ROOT = str(Path(__file__).parent.parent.parent)
# Ends by _exit: an interpreter that tidies up first keeps whoever waits for the guard waiting for milliseconds.
_BOOT = (
    f"import os, sys; sys.path.append({_ROOT!r}); from ztrooted.executor import guard; "
    "status = guard.main(sys.argv[1:]); sys.stdout.flush(); os._exit(status)"
)
# Isolated, without site-packages and environment: what the guard does not load can neither fail nor leak.
GUARD = (sys.executable, "-I", "-S", "-X", "utf8", "-c", _BOOT)

Message = dict[str, object]


class Status:
    """What the guard says, message by message."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.over = False
        self._lines = wire.Lines(fd)
        self._waiting: list[str] = []

    def next(self) -> Message | None:
        """The next message that has arrived. ``over`` once the guard is gone or says something that is not one."""
        try:
            self._waiting += self._lines.read()
            if self._waiting:
                message = json.loads(self._waiting.pop(0))
                if isinstance(message, dict):
                    return message
                self.over = True
        except (wire.ProtocolError, ValueError):
            self.over = True
        self.over = self.over or self._lines.eof
        return None


@dataclass(frozen=True, slots=True)
class GuardHandle:
    """A guard and the ends of its pipes that are ours."""

    guard: subprocess.Popen[bytes]
    guard_pidfd: int
    control_fd: int
    status: Status

    def send(self, line: str) -> None:
        """Tell the guard; BlockingIOError if it has stopped reading."""
        with suppress(BrokenPipeError):  # the guard is gone; its end is noticed where it is waited for
            wire.write_line(self.control_fd, line)

    async def expect(self, event: str, *, within_s: float) -> Message:
        """The message ``event``; anything else, or nothing in time, is why the job cannot start."""
        until = time.monotonic() + within_s
        while (message := self.status.next()) is None and not self.status.over:
            if not await readable(self.status.fd, within_s=until - time.monotonic()):
                raise SupervisorError(
                    "execution.start_failed", f"the guard did not answer within {within_s:.0f} s", "Retry."
                )
        if message is None:
            await readable(self.guard_pidfd, within_s=REPORT_S)
            raise SupervisorError(
                "execution.start_failed",
                f"the guard ended before the job had started (exit code {self.guard.poll()})",
                "Its own message is on the agent's standard error.",
            )
        if message.get("event") != event:
            raise start_failure(message)
        return message

    def release(self) -> None:
        """Close everything. A guard that still runs is killed, and the kernel kills what it guards."""
        os.close(self.control_fd)
        if self.guard.poll() is None:
            self.guard.kill()
        self.guard.wait()
        os.close(self.status.fd)
        os.close(self.guard_pidfd)


def spawn(plan: wire.Plan, stdio: tuple[int, int, int]) -> GuardHandle:
    """Start the guard with its three pipes' ends and the job's streams; every descriptor of theirs is closed here."""
    with ExitStack() as ours, ExitStack() as theirs:

        def keep(stack: ExitStack, fd: int) -> int:
            stack.callback(os.close, fd)
            return fd

        def pipe() -> tuple[int, int]:
            read, write = os.pipe2(os.O_CLOEXEC)
            return _above_streams(read), _above_streams(write)

        control_read, control_write = pipe()
        keep(theirs, control_read), keep(ours, control_write)
        status_read, status_write = pipe()
        keep(ours, status_read), keep(theirs, status_write)
        plan.stdio = [keep(theirs, fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)) for fd in stdio]
        plan_fd = keep(theirs, _above_streams(os.memfd_create("plan")))
        _write_all(plan_fd, plan.to_bytes())
        fds = (control_read, status_write, plan_fd)
        guard = subprocess.Popen(  # noqa: S603 -- our own interpreter and module
            [*GUARD, str(os.getpid()), *(str(fd) for fd in fds)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=(*fds, *plan.stdio),
            env={},
            cwd="/",
            start_new_session=True,  # Ctrl-C and Ctrl-Z at the agent's terminal are not for the guard
        )
        os.set_blocking(control_write, False)
        handle = GuardHandle(guard, os.pidfd_open(guard.pid), control_write, Status(status_read))
        ours.pop_all()
        return handle


def _above_streams(fd: int) -> int:
    """The same file from 3 on: an agent without standard streams is given 0 to 2, which in the guard are the guard's own,
    and in the job the job's."""  # fmt: skip
    if fd > 2:
        return fd
    try:
        return fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    finally:
        os.close(fd)


def _write_all(fd: int, data: bytes) -> None:
    if len(data) > wire.MAX_PLAN:
        raise malformed("a command line and environment that no kernel takes", "Pass large data in files.")
    written = 0
    while written < len(data):
        written += os.write(fd, data[written:])


async def readable(*fds: int, within_s: float | None = None) -> set[int]:
    """Those of ``fds`` that can be read or have ended, once there is one; empty if that takes too long."""
    loop = asyncio.get_running_loop()
    ready: set[int] = set()
    event = asyncio.Event()

    def mark(fd: int) -> None:
        ready.add(fd)
        event.set()

    for fd in fds:
        loop.add_reader(fd, mark, fd)
    try:
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s):
                await event.wait()
    finally:
        for fd in fds:
            loop.remove_reader(fd)
    return ready
