"""``ztrooted exec`` as a process, on pipes or on a terminal, and an agent that asks no gateway."""

import fcntl
import os
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import PATIENCE_S, until

# Runs whatever it is asked to, under the real supervision, through the real control socket.
AGENT = """
import asyncio, sys
from pathlib import Path
from ztrooted.executor.control import ControlSocket
from ztrooted.executor.supervisor import JobSpec, Supervisor
from ztrooted.control_messages import ExecEnded, ExecStarted
async def run(request, stdio, caller):
    job = request.job
    running = await Supervisor.start(
        JobSpec(tuple(job.argv), dict(request.env), job.cwd), lease_s=60, max_runtime_s=60, stdio=stdio,
        terminal=request.terminal, stopped=caller.stopped,
    )
    await caller.tell(ExecStarted(authorization="authorization", enforcement=running.enforcement))
    waiting = asyncio.create_task(running.wait())
    listening = asyncio.create_task(caller.listen(running.signal))
    await asyncio.wait({waiting, listening}, return_when=asyncio.FIRST_COMPLETED)
    listening.cancel()
    if not waiting.done():
        await running.interrupt("execution.abandoned")
    end = await waiting
    return ExecEnded(authorization="authorization", outcome=end.outcome, exit_status=end.exit_status,
                     signal=end.signal, reason=end.reason, detail="")
asyncio.run(ControlSocket(Path(sys.argv[1]), run).serve())
"""
ROOT = Path(__file__).parents[3]


class Calls:
    """Makes command lines for jobs of an agent of this test."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "agent.sock"
        self._artifact = folder / "artifact"
        self._artifact.write_text("none\n")
        self.agent = subprocess.Popen([sys.executable, "-c", AGENT, str(self.socket)], cwd=ROOT)
        until(self.socket.exists, "the agent listens")

    def line(self, *job: str, options: tuple[str, ...] = ()) -> list[str]:
        where = ["--artifact", str(self._artifact), "--socket", str(self.socket)]
        return [sys.executable, "-m", "ztrooted", "exec", *where, *options, "--", *job]

    def on_pipes(self, *job: str, options: tuple[str, ...] = ()) -> "subprocess.Popen[bytes]":
        pipe = subprocess.PIPE
        return subprocess.Popen(self.line(*job, options=options), stdin=pipe, stdout=pipe, stderr=pipe, cwd=ROOT)

    def close(self) -> None:
        self.agent.kill()
        self.agent.wait()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory, _namespaces: None) -> Iterator[Calls]:
    made = Calls(tmp_path_factory.mktemp("calls"))
    yield made
    made.close()


class Screen:
    """A terminal with ``ztrooted exec`` in front of it, as the only process of its session."""

    def __init__(self, command: list[str], size: tuple[int, int] = (33, 101)) -> None:
        self.seen = b""
        self.pid, self.fd = os.forkpty()
        if self.pid == 0:
            try:
                for number in (signal.SIGHUP, signal.SIGINT):
                    signal.signal(number, signal.SIG_DFL)
                os.chdir(ROOT)
                time.sleep(0.05)  # until the window has its size
                os.execv(command[0], command)  # noqa: S606 -- a test's own command
            finally:
                os._exit(99)
        self.resize(size)
        self.ended: int | None = None

    def resize(self, size: tuple[int, int]) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))

    def modes(self) -> list[object]:
        return termios.tcgetattr(self.fd)

    def type(self, keys: bytes) -> None:
        os.write(self.fd, keys)

    def wait_for(self, text: bytes) -> bytes:
        """Until it is on the screen; everything up to its end, which the next call no longer sees."""
        end = time.monotonic() + PATIENCE_S
        while text not in self.seen:
            assert time.monotonic() < end, f"{text!r} is not in {self.seen!r}"
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.fd, 65536)
                except OSError:
                    assert text in self.seen, self.seen
        before, found, self.seen = self.seen.partition(text)
        return before + found

    def stopped(self) -> bool:
        """Wait until it is stopped (true) or ended (false)."""
        _, status = os.waitpid(self.pid, os.WUNTRACED)
        if os.WIFSTOPPED(status):
            return True
        self.ended = os.waitstatus_to_exitcode(status)
        return False

    def status(self) -> int:
        """Its exit status, once it has one."""
        end = time.monotonic() + PATIENCE_S
        while self.ended is None:
            assert time.monotonic() < end, f"it goes on: {self.seen!r}"
            if select.select([self.fd], [], [], 0.01)[0]:
                with suppress(OSError):
                    self.seen += os.read(self.fd, 65536)
            found, status = os.waitpid(self.pid, os.WNOHANG)
            if found:
                self.ended = os.waitstatus_to_exitcode(status)
        return self.ended

    def close(self) -> None:
        if self.ended is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        with suppress(OSError):
            os.close(self.fd)
