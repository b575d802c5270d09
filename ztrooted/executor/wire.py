"""What agent, guard and first process of the namespace say to each other.

::

    agent ── plan (memfd, JSON) ──▶ guard    once
    agent ── control ─────────────▶ guard    go | renew NS | interrupt GRACE_NS | signal N
    guard ── orders ──────────────▶ pid one  go | renew NS | term | signal N
    pid one ── reports ───────────▶ guard    ready PROC | started | failed JSON | stopped N | exited N | signaled N
                                             | expired WHY
    guard ── status ──────────────▶ agent    one JSON object a line: ready, started, failed, stopped, ended

All are pipes with lines of at most ``MAX_LINE`` bytes, which the kernel writes whole or not at all (pipe(7), PIPE_BUF).
Times are nanoseconds of ``CLOCK_BOOTTIME``: one clock for every process of the machine, which nobody can set and which,
unlike ``CLOCK_MONOTONIC``, also counts the time the machine is suspended. A lease must not outlive a suspend.
"""

from __future__ import annotations

import json
import os
import signal
import time

from ztrooted import limits

MAX_LINE = 4096  # PIPE_BUF: a longer one could arrive in pieces, between which another writer's could stand
MAX_PLAN = (
    16 << 20
)  # the kernel takes about 2 MiB of arguments and environment; JSON escapes are at most six times that
MAX_AHEAD_S = 605  # the longest life of an artifact (600) and the clock leeway (5): no lease ends later than this
MAX_RUNTIME_S = limits.MAX_RUNTIME_S  # the same for everybody
MAX_GRACE_S = 600  # longer than any lease would have let it live

# Signals to the caller that are meant for the job. What a terminal sends goes to all processes in front of it, so to the
# job's process group; what people send to a process goes to the job's first one.
TO_GROUP = frozenset((signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTSTP, signal.SIGCONT, signal.SIGWINCH))
PASSED_ON = TO_GROUP | {signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGALRM}

LEASE_EXPIRED = "lease.expired"
MAX_RUNTIME = "max_runtime"
INTERRUPTED = "interrupted"  # the agent knows why
EXITED = "exited"
INIT_KILLED = "init.killed"
GUARD_DIED = "guard.died"
AGENT_LOST = "agent.lost"
CONTROL_MALFORMED = "control.malformed"


class ProtocolError(Exception):
    """A peer said something that is not in the table above."""


def now_ns() -> int:
    """Nanoseconds of CLOCK_BOOTTIME."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Plan:
    """What to run, for how long, and on which file descriptors; not a dataclass, see ``kernel``."""

    __slots__ = (
        "allow_weak",
        "argv",
        "cwd",
        "env",
        "files",
        "groups",
        "lease_until",
        "run_until",
        "stdio",
        "terminal",
        "user",
    )

    def __init__(  # noqa: PLR0913 -- all by name
        self,
        *,
        argv: list[str],
        env: dict[str, str],
        cwd: str,
        files: dict[str, str],
        stdio: list[int],
        lease_until: int,
        run_until: int,
        allow_weak: bool,
        user: list[int] | None = None,
        groups: list[str] | None = None,
        terminal: bool = False,
    ) -> None:
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.files = files
        self.stdio = stdio
        self.lease_until = lease_until
        self.run_until = run_until
        self.allow_weak = allow_weak
        self.user = user  # user and group number
        self.terminal = terminal  # one of the streams is to be the job's controlling terminal
        self.groups = groups or []  # the entrances of the control groups that limit it

    def to_bytes(self) -> bytes:
        """JSON in ASCII; file names that are not UTF-8 travel as escaped surrogates."""
        return json.dumps({name: getattr(self, name) for name in self.__slots__}).encode("ascii")

    @classmethod
    def from_bytes(cls, data: bytes) -> Plan:
        """The plan the agent wrote; the agent has checked its content, this only checks that it arrived whole."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"the plan cannot be read: {error}") from error


class Lines:
    """Complete lines out of a file descriptor; ``eof`` once the other side is gone."""

    __slots__ = ("_rest", "eof", "fd")

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        self.fd = fd
        self._rest = b""
        self.eof = False

    def read(self) -> list[str]:
        """Every line that has arrived, without waiting.

        Raises:
            ProtocolError: a line that is too long, cut off or not ASCII.
        """
        while not self.eof:
            try:
                chunk = os.read(self.fd, MAX_LINE)
            except BlockingIOError:
                break
            self.eof = not chunk
            self._rest += chunk
            if len(self._rest) > 4 * MAX_LINE:
                break
        *lines, self._rest = self._rest.split(b"\n")
        if len(self._rest) >= MAX_LINE or any(len(line) >= MAX_LINE for line in lines):
            raise ProtocolError("a line is too long")
        if self.eof and self._rest:
            raise ProtocolError("the last line is cut off")
        try:
            return [line.decode("ascii") for line in lines]
        except UnicodeDecodeError as error:
            raise ProtocolError("a line is not ASCII") from error


def write_line(fd: int, line: str) -> None:
    """Write one line, whole or not at all.

    Raises:
        BlockingIOError: the pipe is full and not blocking.
        BrokenPipeError: nobody reads it any more.
    """
    data = line.encode("ascii") + b"\n"
    if len(data) > MAX_LINE:
        raise ProtocolError("a line is too long")
    os.write(fd, data)


def parse_signal(text: str) -> int:
    """The number of a signal that may be passed on."""
    if not text.isdecimal() or len(text) > 2 or int(text) not in PASSED_ON:
        raise ProtocolError(f"not a signal to pass on: {text[:40]!r}")
    return int(text)


def parse_ns(text: str) -> int:
    """A number of nanoseconds as ``write_line`` callers put it: decimal digits and nothing else."""
    if not text.isdecimal() or len(text) > 19:
        raise ProtocolError(f"not a number of nanoseconds: {text[:40]!r}")
    return int(text)
