"""The first process of a job's PID namespace: starts the job, buries its orphans, ends when the job or the guard ends.

Why there is one, instead of the job itself being PID 1: signals without a handler do not reach a PID 1
(pid_namespaces(7)), so a plain ``sleep`` would ignore SIGTERM; and a program that does not expect to be an init does
not reap the orphans it is given. What the job gets is an ordinary process. When this one ends, however, the kernel
SIGKILLs everything in the namespace and only then reports the end: one ``waitpid`` on it means that nothing is left.

It holds the deadlines too. The guard comes first; but a guard that somebody stopped with SIGSTOP must not be what keeps
a job alive.
"""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress

from ztrooted.executor import kernel, wire
from ztrooted.executor.files import TERMINAL, LaunchError, why
from ztrooted.executor.launch import become_job, terminal_of
from ztrooted.executor.wire import Lines, Plan, ProtocolError

TICK_MS = 1000  # poll(2) does not count suspended time; waking up this often, a deadline missed asleep is soon seen


class PidOne:
    """State of the first process; ``run`` ends with the exit code it should leave with."""

    def __init__(self, plan: Plan, orders_fd: int, report_fd: int, *, weak: bool) -> None:
        self._plan = plan
        self._orders = Lines(orders_fd)
        self._orders_fd = orders_fd
        self._report_fd = report_fd
        self._weak = weak
        self._job = 0
        self._errors: Lines | None = None  # open until the job has started, or said why not
        self._poll = select.poll()
        self._lease_until = plan.lease_until
        self._run_until = plan.run_until

    def run(self) -> int:
        """1. tie this process to the guard  2. own /proc  3. say ready  4. obey until the job or the guard ends.

        It leads the job's session, as a shell does: the job can be stopped and continued, which processes without a
        parent in their session can't (termios(3), orphaned process groups).
        """
        os.setsid()
        for number in (signal.SIGHUP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):  # the terminal's, for the job
            signal.signal(number, signal.SIG_IGN)
        kernel.name_process("ztrooted-init")
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # as PID 1: ignored, when it comes from inside
        if self._weak:
            kernel.adopt_orphans()
        else:
            kernel.die_with_parent()  # 1; a guard that died before this is seen as the end of the orders
        proc = "host-proc" if self._weak or not kernel.mount_own_proc() else "proc"  # 2
        wakeup, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        self._say(f"ready {proc}")  # 3
        self._poll.register(self._orders_fd, select.POLLIN)
        self._poll.register(wakeup, select.POLLIN)
        while True:  # 4
            self._poll.poll(self._wait_ms())
            with suppress(BlockingIOError):
                os.read(wakeup, 4096)
            if not self._obey() or self._reap() or self._expired():
                break
        if self._weak:
            kernel.sweep_descendants()
        return 0

    def _say(self, line: str) -> None:
        with suppress(BrokenPipeError):  # nobody listens: the guard is dead, which the orders' end will tell
            wire.write_line(self._report_fd, line)

    def _wait_ms(self) -> int:
        left = (min(self._lease_until, self._run_until) - wire.now_ns()) // 1_000_000 + 1
        return max(0, min(TICK_MS, left))

    def _obey(self) -> bool:
        """Take what the guard says; false when it is gone or talks nonsense."""
        try:
            for line in self._orders.read():
                word, *rest = line.split(" ")
                if word == "go" and not rest and not self._job:
                    if not self._start():
                        return False
                elif word == "renew" and len(rest) == 1:
                    self._lease_until = wire.parse_ns(rest[0])
                elif word == "signal" and len(rest) == 1:
                    self._pass_on(wire.parse_signal(rest[0]))
                elif word == "term" and not rest:
                    self._terminate()
                else:
                    return False
        except ProtocolError:
            return False
        return not self._orders.eof

    def _expired(self) -> bool:
        now = wire.now_ns()
        if now >= min(self._lease_until, self._run_until):
            self._say(f"expired {wire.LEASE_EXPIRED if now >= self._lease_until else wire.MAX_RUNTIME}")
            return True
        return False

    def _start(self) -> bool:
        """False if the job's terminal can't be had."""
        if self._plan.terminal:
            try:
                kernel.control_terminal(terminal_of(self._plan))
            except OSError as error:
                failed = LaunchError(TERMINAL, "standard streams", why(error))
                self._say(f"failed {failed.to_json()}")
                return False
            except LaunchError as failed:
                self._say(f"failed {failed.to_json()}")
                return False
        reader, writer = os.pipe2(os.O_CLOEXEC)
        self._job = os.fork()
        if self._job == 0:
            said = '{"kind":"executable","path":"","detail":"the launcher itself failed"}'
            try:
                if self._weak:
                    kernel.die_with_parent()
                said = become_job(self._plan, weak=self._weak).to_json()
            finally:
                wire.write_line(writer, said)
                os._exit(127)
        with suppress(OSError):  # both do it, so that it is done before either goes on
            os.setpgid(self._job, self._job)
        os.close(writer)
        self._errors = Lines(reader)
        self._poll.register(reader, select.POLLIN)
        for fd in self._plan.stdio:  # a reader of the job's output sees its end when the job closes it
            os.close(fd)
        return True

    def _pass_on(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if self._job and number in wire.TO_GROUP:
                os.killpg(self._job, number)
            elif self._job:
                os.kill(self._job, number)

    def _hear_launch(self) -> bool:
        """True if the launch failed. Its pipe closes by ``execve``: an end without a word is the job running."""
        if self._errors is None:
            return False
        said = self._errors.read()
        if said:
            self._say(f"failed {said[0]}")
            return True
        if self._errors.eof:
            self._poll.unregister(self._errors.fd)
            os.close(self._errors.fd)
            self._errors = None
            self._say("started")
        return False

    def _reap(self) -> bool:
        """Bury whatever has died; true once that is the job, whose end is then reported."""
        if self._hear_launch():
            return True
        with suppress(ChildProcessError):
            while (found := os.waitpid(-1, os.WNOHANG | os.WUNTRACED))[0] != 0:
                if os.WIFSTOPPED(found[1]):
                    if found[0] == self._job:
                        self._say(f"stopped {os.WSTOPSIG(found[1])}")
                elif found[0] == self._job:
                    if not self._hear_launch():
                        code = os.waitstatus_to_exitcode(found[1])
                        self._say(f"exited {code}" if code >= 0 else f"signaled {-code}")
                    return True
        return False

    def _terminate(self) -> None:
        """SIGTERM to everything in the namespace, so that what left the job's process group gets its chance as well."""
        with suppress(ProcessLookupError):
            if not self._weak and os.getpid() == 1:
                os.kill(-1, signal.SIGTERM)
            elif self._job:
                os.killpg(self._job, signal.SIGTERM)
