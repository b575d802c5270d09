"""The caller of a job: asks the agent, and stands for the job towards whoever started it, as if it were the job.

Descriptors, keys and signals go to the job; its output, its stops and its end come back.
"""

import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from ztrooted import limits
from ztrooted.control_messages import (
    EXEC_EVENT,
    ExecEnded,
    ExecEvent,
    ExecRequest,
    ExecSignal,
    ExecStarted,
    ExecStopped,
)
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.executor.control import line_of
from ztrooted.executor.terminal import Terminal
from ztrooted.executor.wire import PASSED_ON
from ztrooted.models import parse_json
from ztrooted.reasons import GateReason

LAST_OUTPUT_S = 2.0  # the job is dead; what it wrote last may still be on its way through its terminal


def run_through_agent(path: Path, request: ExecRequest, started: Callable[[ExecStarted], None]) -> ExecEnded:
    """Have the agent at ``path`` run a job with this process's standard streams; blocks until it ended.

    EnvironmentProblem when there is no agent, or it went away: then the job is dead too.
    """
    with ExitStack() as stack:
        terminal = Terminal.ours()
        if terminal is not None:
            stack.enter_context(terminal)
            request = request.model_copy(update={"terminal": True})
        signals = stack.enter_context(_signals())
        connection = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        try:
            connection.connect(str(path))
            socket.send_fds(connection, [line_of(request)], [0, 1, 2] if terminal is None else terminal.streams())
            if terminal is not None:
                terminal.passed()
            attendance = Attendance(connection, terminal, started)
            ended = attendance.attend(signals)
        except OSError as error:
            raise EnvironmentProblem(
                GateReason.EXECUTION_AGENT_LOST,
                f"no executor agent answers at {path}: {error.strerror}",
                "start one with 'ztrooted executor run', or name its socket with --socket",
            ) from error
    if ended.outcome == "not_started" and ended.reason == GateReason.EXECUTION_ABANDONED:
        os.kill(os.getpid(), attendance.ended_by)  # as it would have ended us, had we not taken it for the job
    return ended


class Attendance:
    """One job, from the request to its end."""

    def __init__(
        self, connection: socket.socket, terminal: Terminal | None, started: Callable[[ExecStarted], None]
    ) -> None:
        self._connection = connection
        self._terminal = terminal
        self._started = started
        self._heard = b""
        self._open = terminal is not None  # the job's terminal
        self._runs = False
        self._last_signal = 0

    def attend(self, signals: int) -> ExecEnded:
        """Carry everything to and fro; ``signals`` is where those come from that are for the job."""
        while True:
            ready = self._wait(signals)
            if signals in ready:
                for number in os.read(signals, 64):
                    self._pass_on(number)
            self._carry(ready)
            if self._connection.fileno() not in ready:
                continue
            for event in self._events():
                if isinstance(event, ExecStopped):
                    self._stop()
                elif isinstance(event, ExecStarted):
                    self._start(event)
                elif isinstance(event, ExecEnded):
                    self._show_the_rest()
                    return event
                # else a renewal, which we did not ask to be told of

    @property
    def ended_by(self) -> int:
        """The signal by which somebody ended the call before the job ran; 0 for none."""
        return 0 if self._runs else self._last_signal

    def _wait(self, signals: int) -> set[int]:
        """Descriptors on which there is something to do; our keyboard is 0, the job's terminal is listed if it takes keys
        or has output."""  # fmt: skip
        poll = select.poll()
        poll.register(self._connection, select.POLLIN)
        poll.register(signals, select.POLLIN)
        if self._terminal is not None and self._open and self._runs:
            poll.register(self._terminal.master, select.POLLIN | (select.POLLOUT if self._terminal.typed else 0))
            if self._terminal.listening:
                poll.register(0, select.POLLIN)
        return {fd for fd, _ in poll.poll()}

    def _carry(self, ready: set[int]) -> None:
        terminal = self._terminal
        if terminal is None:
            return
        if 0 in ready:
            terminal.read_keys()
        if terminal.typed:
            terminal.write_keys()
        if terminal.master in ready:
            self._open = terminal.show()

    def _events(self) -> list[ExecEvent]:
        data = self._connection.recv(limits.BODY)
        if not data:
            raise EnvironmentProblem(
                GateReason.EXECUTION_AGENT_LOST,
                "the executor agent went away, and the job with it",
                "see the agent's log",
            )
        *lines, self._heard = (self._heard + data).split(b"\n")
        try:
            return [parse_json(EXEC_EVENT, line) for line in lines]
        except GateError as error:
            raise EnvironmentProblem(
                error.reason, error.detail, "use the agent's own version of this command"
            ) from error

    def _start(self, event: ExecStarted) -> None:
        self._started(event)
        self._runs = True
        if self._terminal is not None:
            self._terminal.enter()

    def _pass_on(self, number: int) -> None:
        self._last_signal = number
        if number == signal.SIGWINCH and self._terminal is not None:
            self._terminal.resize()
            return
        if number == signal.SIGCONT and self._terminal is not None and self._runs:
            self._terminal.enter()
        with suppress(OSError):  # its end is on its way to us
            self._connection.sendall(line_of(ExecSignal(number=number)))

    def _stop(self) -> None:
        """Stop as the job has; whoever continues us continues it, by the SIGCONT that we then pass on."""
        if self._terminal is not None:
            self._terminal.leave()
            self._terminal.stop_all()
        os.kill(os.getpid(), signal.SIGSTOP)

    def _show_the_rest(self) -> None:
        until = time.monotonic() + LAST_OUTPUT_S
        while self._terminal is not None and self._open and time.monotonic() < until:
            if select.select([self._terminal.master], [], [], max(0.0, until - time.monotonic()))[0]:
                self._open = self._terminal.show()


@contextmanager
def _signals() -> Iterator[int]:
    """A descriptor with a byte for each signal that is for the job. What our parent had us ignore (nohup) stays ignored."""
    read, write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    taken = {number for number in PASSED_ON if signal.getsignal(number) is not signal.SIG_IGN}
    before_fd = signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    before = {number: signal.signal(number, lambda _number, _frame: None) for number in taken}
    try:
        yield read
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_fd)
        os.close(read)
        os.close(write)
