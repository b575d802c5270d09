"""Jobs that resist, agents to be killed, and a look into /proc for what is left of them."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from ztrooted.executor.supervisor import JobEnd, JobSpec, Supervisor, SupervisorError

LONG = 60.0  # a lease that no test waits for
SHORT = 1.5  # a lease that tests do wait for, longer than a start takes on a busy machine
PATIENCE_S = 20.0  # until a test gives up; never how long something is expected to take
PATH = "/usr/local/bin:/usr/bin:/bin"

# A tree that ignores SIGTERM: the job, a child, a double-forked orphan in a session of its own, and a bounded fork bomb.
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
def spawn(levels):
    for _ in range(2):
        if os.fork() == 0:
            if levels: spawn(levels - 1)
            time.sleep(600)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        time.sleep(600)
    os._exit(0)
os.wait()
spawn(3)
print("up", flush=True)
time.sleep(600)
"""
STUBBORN_SIZE = 1 + 1 + 2 + 4 + 8 + 16  # the job, the orphan, and four levels of the bomb

AGENT = """
import signal
# Whoever runs the tests in the background or under nohup ignores these, and so would everything below.
for ignored in (signal.SIGHUP, signal.SIGINT): signal.signal(ignored, signal.SIG_DFL)
import asyncio, json, os, sys
from ztrooted.executor.supervisor import JobSpec, Supervisor
async def main():
    job, times = json.loads(sys.argv[1])
    spec = JobSpec(tuple(job["argv"]), job["env"], job["cwd"])
    running = await Supervisor.start(spec, stdio=(0, 1, 2), **times)
    print(json.dumps({"guard": running.guard_pid, "init": running.init_pid, "by": running.enforcement}), flush=True)
    end = await running.wait()
    print(json.dumps({"reason": end.reason}), flush=True)
asyncio.run(main())
"""


@dataclass
class Marked:
    """Makes jobs that can be found again: each carries the same unique variable in its environment."""

    mark: str = field(default_factory=lambda: uuid.uuid4().hex)

    def job(self, *argv: str, **more: str) -> JobSpec:
        return JobSpec(argv, {"PATH": PATH, "MARK": self.mark, **more}, "/")

    def python(self, source: str) -> JobSpec:
        return self.job(sys.executable, "-I", "-S", "-c", source)

    def python_as(self, user: tuple[int, int], source: str) -> JobSpec:
        return replace(self.job(public_python(), "-I", "-S", "-c", source), user=user)

    def alive(self) -> list[int]:
        """Every process of these jobs that is not dead. A zombie's environment is gone: it does not count as alive."""
        wanted = f"MARK={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                with suppress(OSError):
                    if wanted in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
        return found


def public_python() -> str:
    """An interpreter that every user may run; skips the test where there is none."""
    for name in (sys.executable, "/usr/bin/python3"):
        path = Path(name).resolve()
        if all(folder.stat().st_mode & 0o001 for folder in (path, *path.parents)):
            return str(path)
    pytest.skip("no Python that an ordinary user may run")


def exists(pid: int) -> bool:
    """Whether the process runs: neither gone nor a zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] not in {"Z", "X"}


def zombies() -> list[int]:
    """Children of this process that nobody has waited for."""
    mine = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                state, parent = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
                if state == "Z" and int(parent) == os.getpid():
                    mine.append(int(entry.name))
    return mine


def until(condition: Callable[[], bool], what: str) -> None:
    """Poll; fails the test when ``PATIENCE_S`` have passed."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"still not: {what}"
        time.sleep(0.005)


async def until_async(condition: Callable[[], bool], what: str) -> None:
    """The same without holding up the event loop."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, f"still not: {what}"
        await asyncio.sleep(0.005)


class Streams:
    """/dev/null, and a pipe for what the job writes."""

    def __init__(self) -> None:
        self.null = os.open(os.devnull, os.O_RDONLY)
        self.read, self.write = os.pipe()

    def all(self) -> tuple[int, int, int]:
        return self.null, self.write, self.write

    def text(self) -> str:
        """Everything written; returns only when nobody can write any more."""
        if self.write >= 0:
            os.close(self.write)
            self.write = -1
        chunks = []
        while chunk := os.read(self.read, 65536):
            chunks.append(chunk)
        return b"".join(chunks).decode()

    def close(self) -> None:
        for fd in (self.null, self.read, self.write):
            if fd >= 0:
                os.close(fd)


async def run(spec: JobSpec, streams: Streams, **more: float) -> JobEnd:
    return await asyncio.wait_for((await start(spec, streams, **more)).wait(), PATIENCE_S)


async def start(spec: JobSpec, streams: Streams, **more: float) -> Supervisor:
    times = {"lease_s": LONG, "max_runtime_s": LONG, "grace_s": 0.0, **more}
    return await Supervisor.start(spec, stdio=streams.all(), **times)  # type: ignore[arg-type]


async def stubborn(marked: Marked, streams: Streams, **more: float) -> Supervisor:
    """The tree of ``STUBBORN``, complete."""
    running = await start(marked.python(STUBBORN), streams, **more)
    await until_async(lambda: len(marked.alive()) == STUBBORN_SIZE, "the whole tree runs")
    return running


async def refusal(spec: JobSpec, streams: Streams, **more: float) -> SupervisorError:
    with pytest.raises(SupervisorError) as refused:
        await start(spec, streams, **more)
    assert refused.value.message
    assert refused.value.remedy
    assert not zombies()
    return refused.value


class Agent:
    """An agent in a process of its own, running one job."""

    def __init__(
        self,
        spec: JobSpec,
        *,
        user: int | None = None,
        python: str = sys.executable,
        root: str = str(Path(__file__).parents[3]),
        **times: float,
    ) -> None:
        job = {"argv": spec.argv, "env": dict(spec.env), "cwd": spec.cwd}
        self.process = subprocess.Popen(
            [python, "-c", AGENT, json.dumps([job, {"lease_s": 60, "max_runtime_s": 60, **times}])],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            cwd=root,
            user=user,
            group=user,
            extra_groups=None if user is None else [],
        )
        self.output = self._output()
        self.guard = self.init = 0
        self.by = ""

    def _output(self) -> Iterator[str]:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            yield line.decode()

    def wait_until_up(self, *, job_says: bool = True) -> None:
        """Until job and agent have both said that they run; their lines come in either order."""
        for _ in range(1 + job_says):
            line = next(self.output)
            if line.startswith("{"):
                said = json.loads(line)
                self.guard, self.init, self.by = said["guard"], said["init"], said["by"]

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> None:
        """Leave nothing behind, whatever the test did."""
        for pid in (self.guard, self.init):
            if pid and exists(pid):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()
