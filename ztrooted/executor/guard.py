"""The process between executor agent and job: whichever of the three dies, and however, the job does not live on.

::

    agent ──▶ guard ──▶ pid one ──▶ job and all it starts      (the last two in a PID namespace of their own)

* The agent dies: the kernel kills the guard (PR_SET_PDEATHSIG), and the control pipe ends, which the guard obeys too.
* The guard dies: the kernel kills pid one the same way, and with it everything in the namespace.
* The agent hangs or is stopped: the guard has the lease's deadline itself and needs nobody to tell it that it passed.
* The guard hangs or is stopped: pid one has the deadline as well; the agent can kill pid one without the guard.

This is supervision, not a sandbox: a job that may ask another service of the machine to run something for it, as root
may in many ways, gets something run outside. Run jobs as a user who may not.

The guard is a program of its own (``main``), started anew for each job and importing as little as possible.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
import time
from contextlib import suppress

from ztrooted.executor import kernel, wire
from ztrooted.executor.pid_one import TICK_MS, PidOne
from ztrooted.executor.wire import Lines, Plan, ProtocolError

NOT_MY_AGENT = 3  # exit codes, for whoever reads the agent's log
REFUSED = 4


class Guard:
    """Watches one job from before its start until nothing of it is left."""

    def __init__(self, plan: Plan, control: Lines, status_fd: int, enforcement: str) -> None:
        self._plan = plan
        self._control = control
        self._status_fd = status_fd
        self._enforcement = enforcement
        self._weak = enforcement == kernel.PROCESS_GROUP
        self._lease_until = plan.lease_until
        self._kill_at: int | None = None  # the end of the grace of an interrupt
        self._killed = False
        self._reason = ""  # why it is being ended
        self._ended: tuple[str, int] | None = None  # what pid one said of the job's end
        self._failed: object = None
        self._poll = select.poll()

    def fork(self) -> bool:
        """Start pid one; true in the guard. In pid one this returns false, when everything is over there."""
        orders_read, self._orders_fd = os.pipe2(os.O_CLOEXEC)
        reports_read, reports_write = os.pipe2(os.O_CLOEXEC)
        self._init = os.fork()
        if self._init == 0:
            for fd in (self._orders_fd, reports_read, self._status_fd, self._control.fd):
                os.close(fd)
            PidOne(self._plan, orders_read, reports_write, weak=self._weak).run()
            return False
        for fd in (orders_read, reports_write, *self._plan.stdio):
            os.close(fd)
        os.set_blocking(self._orders_fd, False)
        self._reports = Lines(reports_read)
        return True

    def watch(self) -> None:
        """Until pid one is dead: obey the agent, hear pid one, keep the deadlines; then report the end."""
        pidfd = os.pidfd_open(self._init)
        for fd in (self._control.fd, self._reports.fd, pidfd):
            self._poll.register(fd, select.POLLIN)
        dead = False
        while not dead:
            dead = any(fd == pidfd for fd, _ in self._poll.poll(self._wait_ms()))
            self._obey()  # before the death is looked at: an order may be its cause
            self._hear()  # to its last word, if it is dead
            self._keep_deadlines()
        self._finish()

    def _obey(self) -> None:
        """Take the agent's orders. Its silence for good and anything that is not an order end the job."""
        try:
            for line in self._control.read():
                word, *rest = line.split(" ")
                if word == "go" and not rest:
                    self._order("go")
                elif word == "renew" and len(rest) == 1:
                    self._renew(wire.parse_ns(rest[0]))
                elif word == "signal" and len(rest) == 1:
                    self._order(f"signal {wire.parse_signal(rest[0])}")
                elif word == "interrupt" and len(rest) == 1:
                    self._interrupt(wire.parse_ns(rest[0]))
                else:
                    raise ProtocolError(f"not an order: {line[:40]!r}")
        except ProtocolError:
            self._kill(wire.CONTROL_MALFORMED)
        if self._control.eof:
            self._kill(wire.AGENT_LOST)
            with suppress(KeyError):
                self._poll.unregister(self._control.fd)

    def _renew(self, until: int) -> None:
        if until > wire.now_ns() + wire.MAX_AHEAD_S * 1_000_000_000:
            raise ProtocolError("a lease longer than any artifact lives")
        self._lease_until = until
        self._order(f"renew {until}")

    def _interrupt(self, grace: int) -> None:
        if grace == 0:
            self._kill(wire.INTERRUPTED)
            return
        until = wire.now_ns() + min(grace, wire.MAX_GRACE_S * 1_000_000_000)
        self._kill_at = until if self._kill_at is None else min(self._kill_at, until)
        self._order("term")

    def _order(self, line: str) -> None:
        """Tell pid one. A full or broken pipe is no reason to wait: it only means that nothing is extended there."""
        with suppress(BlockingIOError, BrokenPipeError):
            wire.write_line(self._orders_fd, line)

    def _hear(self) -> None:
        for line in self._reports.read():
            word, _, rest = line.partition(" ")
            if word == "ready":
                proc = kernel.HOST_PROC if rest == "host-proc" and not self._weak else ""
                self._enforcement += proc
                self._tell(event="ready", init=self._init, enforcement=self._enforcement)
            elif word == "started":
                self._tell(event="started")
            elif word == "stopped":
                self._tell(event="stopped", signal=int(rest))
            elif word == "failed":
                self._failed = json.loads(rest)
            elif word in {"exited", "signaled"}:
                self._ended = (word, int(rest))
                self._kill(self._cause(wire.EXITED))  # pid one is about to end by itself; nothing shall depend on it
            elif word == "expired":
                self._kill(self._cause(rest))
        if self._reports.eof:
            with suppress(KeyError):
                self._poll.unregister(self._reports.fd)

    def _cause(self, reason: str) -> str:
        """``reason``, unless an interrupt came first: what happens in its grace happens because of it."""
        return reason if self._kill_at is None else wire.INTERRUPTED

    def _nearest(self) -> tuple[int, str]:
        """The deadline that comes first, and the reason it gives."""
        until, reason = min((self._lease_until, wire.LEASE_EXPIRED), (self._plan.run_until, wire.MAX_RUNTIME))
        return until if self._kill_at is None else min(self._kill_at, until), self._cause(reason)

    def _keep_deadlines(self) -> None:
        until, reason = self._nearest()
        if wire.now_ns() >= until:
            self._kill(reason)

    def _wait_ms(self) -> int:
        if self._killed:
            return TICK_MS  # the kill is ordered: nothing left to be in time for, only its completion to wait for
        left = (self._nearest()[0] - wire.now_ns()) // 1_000_000 + 1
        return max(0, min(TICK_MS, left))

    def _kill(self, reason: str) -> None:
        """SIGKILL pid one; the first reason stays. Its number is safe to use: only this process can reap it."""
        if not self._killed:
            self._killed = True
            self._reason = reason
            os.kill(self._init, signal.SIGKILL)

    def _finish(self) -> None:
        """Pid one is dead, and with it its namespace: say how the job ended."""
        code = os.waitstatus_to_exitcode(os.waitpid(self._init, 0)[1])
        if self._weak:
            kernel.sweep_descendants()
        if self._failed is not None:
            self._tell(event="failed", why=self._failed)
            return
        reason = self._reason or wire.INIT_KILLED
        how, number = self._ended or ("signaled", -code if code < 0 else signal.SIGKILL)
        self._tell(
            event="ended",
            outcome="exited" if reason == wire.EXITED else "killed",
            exit_status=number if how == "exited" else None,
            signal=number if how == "signaled" else None,
            reason=reason,
            at=time.monotonic_ns(),
        )

    def _tell(self, **message: object) -> None:
        with suppress(BrokenPipeError):  # the agent is gone; there is nobody to tell
            wire.write_line(self._status_fd, json.dumps(message))


def main(arguments: list[str]) -> int:
    """``guard AGENT_PID CONTROL_FD STATUS_FD PLAN_FD``, or ``guard probe`` to say what the kernel grants.

    1. read the plan  2. make the namespace, or refuse  3. tie this process to the agent, or refuse  4. start pid one
    5. watch
    """
    if arguments == ["probe"]:
        return _probe()
    agent, control_fd, status_fd, plan_fd = (int(text) for text in arguments)
    kernel.name_process("ztrooted-guard")
    plan = _read_plan(plan_fd)  # 1
    for fd in (control_fd, status_fd, *plan.stdio):
        os.set_inheritable(fd, False)
    try:
        enforcement = kernel.new_pid_namespace()  # 2
    except OSError as error:
        if not plan.allow_weak:
            wire.write_line(status_fd, json.dumps({"event": "refused", "detail": str(error)}))
            return REFUSED
        enforcement = kernel.PROCESS_GROUP
        kernel.adopt_orphans()
    kernel.die_with_parent()  # 3; not before 2: the kernel forgets it where a process changes its credentials, prctl(2)
    if os.getppid() != agent:
        return NOT_MY_AGENT
    kernel.close_memory()  # for pid one as well, which inherits it
    guard = Guard(plan, Lines(control_fd), status_fd, enforcement)
    if guard.fork():  # 4
        guard.watch()  # 5
    return 0


def _read_plan(fd: int) -> Plan:
    data = os.pread(fd, wire.MAX_PLAN + 1, 0)
    os.close(fd)
    if len(data) > wire.MAX_PLAN:
        raise ProtocolError("the plan is too long")
    return Plan.from_bytes(data)


def _probe() -> int:
    """Make a namespace and throw it away; prints its kind, or the kernel's reason, and exits 0 or ``REFUSED``."""
    try:
        kind = kernel.new_pid_namespace()
    except OSError as error:
        sys.stdout.write(str(error))
        return REFUSED
    child = os.fork()
    if child == 0:
        os._exit(0 if kernel.mount_own_proc() else 1)
    sys.stdout.write(kind + (kernel.HOST_PROC if os.waitpid(child, 0)[1] else ""))
    return 0
