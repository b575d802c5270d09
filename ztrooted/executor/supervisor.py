"""The agent's side of a job: start it under a guard, extend its lease, interrupt it, learn how it ended.

``start`` → ``renew`` … → ``wait``, or ``interrupt``. The lease is not enforced here but in the guard and below
(``guard``, ``pid_one``), so it ends on time when this process hangs, and everything ends when this process dies.

The thread that calls ``start`` must live as long as the job: the kernel ties the guard to it (PR_SET_PDEATHSIG), and a
thread that ends takes the job with it.
"""

import asyncio
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Self

from ztrooted.executor import kernel, wire
from ztrooted.executor.cgroups import Group, LimitsError, confine
from ztrooted.executor.guard_handle import GUARD, REPORT_S, GuardHandle, Message, Status, readable, spawn
from ztrooted.executor.job_spec import (
    LIMITS_REMEDY,
    NAMESPACE_REMEDY,
    Enforcement,
    JobEnd,
    JobSpec,
    SupervisorError,
    check_spec,
    check_times,
    malformed,
    nanoseconds,
    start_failure,
)

__all__ = ["Enforcement", "JobEnd", "JobSpec", "Supervisor", "SupervisorError", "enforcement_available"]

GUARD_ANSWERS_S = (
    10.0  # an interpreter's start on a loaded machine; nothing of the job runs before the guard has answered
)


def enforcement_available() -> Enforcement:
    """Try what ``start`` would do about namespaces, in a process of its own. Takes some 20 ms; call it at start-up."""
    probe = subprocess.run(  # noqa: S603 -- our own interpreter and module
        [*GUARD, "probe"], env={}, cwd="/", capture_output=True, check=False, timeout=GUARD_ANSWERS_S
    )
    said = probe.stdout.decode("utf-8", "replace")
    if probe.returncode == 0 and said.startswith(kernel.PID_NAMESPACE):
        return Enforcement(said, "", "")
    return Enforcement("none", said or f"the guard ended with exit code {probe.returncode}", NAMESPACE_REMEDY)


def _confine(spec: JobSpec) -> Group:
    try:
        return confine(spec.limits)
    except LimitsError as error:
        text = f"the job's limits can't be kept: {error}"
        raise SupervisorError("supervision.unavailable", text, LIMITS_REMEDY) from error


def _plan(spec: JobSpec, began: int, lease_s: float, max_runtime_s: float) -> wire.Plan:
    return wire.Plan(
        argv=list(spec.argv),
        env=dict(spec.env),
        cwd=spec.cwd,
        files=dict(spec.files),
        stdio=[],
        lease_until=began + nanoseconds(lease_s),
        run_until=began + nanoseconds(max_runtime_s),
        allow_weak=False,
        user=None if spec.user is None else list(spec.user),
    )


class Supervisor:
    """One running job. Made by ``start`` only."""

    def __init__(self, spawned: GuardHandle, init_pid: int, init_pidfd: int, enforcement: str, grace_s: float) -> None:
        self.guard_pid = spawned.guard.pid
        self.init_pid = init_pid
        self.enforcement = enforcement
        self._spawned = spawned
        self._init_pidfd = init_pidfd
        self._grace_s = grace_s
        self._lease_until = 0
        self._interrupted = ""
        self._fallback: asyncio.TimerHandle | None = None
        self._over = False
        self._group = Group()
        self._stopped: Callable[[int], None] | None = None
        self._following: asyncio.Task[JobEnd] | None = None

    @classmethod
    async def start(
        cls,
        spec: JobSpec,
        *,
        lease_s: float,
        max_runtime_s: float,
        grace_s: float = 0.0,
        stdio: tuple[int, int, int],
        allow_weak: bool = False,
        terminal: bool = False,
        stopped: Callable[[int], None] | None = None,
    ) -> Self:
        """Start the job; returns once it runs, all its files verified and its program executing.

        ``lease_s`` and ``max_runtime_s`` count from this call. ``stdio`` are copied; the caller keeps its own. With
        ``terminal`` the first of them that is a terminal becomes the job's controlling terminal. ``stopped`` is called
        with the signal whenever one stops the job.

        1. check the arguments  2. start the guard  3. hold on to the first process of the namespace before anything can
        end it  4. let go  5. hear whether the program was executed

        Raises:
            SupervisorError: nothing runs; ``message`` and ``remedy`` say what to do.
        """
        began = wire.now_ns()
        check_spec(spec)  # 1
        check_times(lease_s, max_runtime_s, grace_s)
        group = _confine(spec)
        plan = _plan(spec, began, lease_s, max_runtime_s)
        plan.allow_weak, plan.terminal, plan.groups = allow_weak, terminal, group.entrances
        with ExitStack() as undo:
            undo.callback(group.remove)
            spawned = spawn(plan, stdio)  # 2
            undo.callback(spawned.release)
            ready = await spawned.expect("ready", within_s=GUARD_ANSWERS_S)
            init_pid = int(str(ready["init"]))
            try:
                init_pidfd = os.pidfd_open(init_pid)  # 3; were it another process by now, "go" would start nothing
            except ProcessLookupError as error:
                raise start_failure({"reason": wire.INIT_KILLED}) from error
            undo.callback(os.close, init_pidfd)
            spawned.send("go")  # 4
            await spawned.expect("started", within_s=lease_s + REPORT_S)  # 5
            undo.pop_all()
        supervisor = cls(spawned, init_pid, init_pidfd, str(ready["enforcement"]), grace_s)
        supervisor._lease_until = plan.lease_until
        supervisor._group = group
        supervisor._stopped = stopped
        supervisor._following = asyncio.create_task(supervisor._follow(), name=f"job {init_pid}")
        return supervisor

    @property
    def init_pidfd(self) -> int:
        """A descriptor of the first process of the job's namespace, open until the job is over."""
        return self._init_pidfd

    def renew(self, lease_s: float) -> None:
        """Have the lease end ``lease_s`` seconds from now; nothing happens if the job is over.

        Raises:
            SupervisorError: longer than any artifact lives, or the guard does not take it. The present lease stands.
        """
        self.renew_until(time.monotonic() + lease_s)

    def renew_until(self, deadline_monotonic_s: float) -> None:
        """Have the lease end at this moment of ``time.monotonic()``; one that has passed ends the job at once."""
        if self._over:
            return
        left_s = deadline_monotonic_s - time.monotonic()
        if not math.isfinite(left_s) or left_s > wire.MAX_AHEAD_S:
            raise malformed(f"a lease of {left_s:.0f} s", f"ask for at most {wire.MAX_AHEAD_S} s")
        until = max(0, wire.now_ns() + nanoseconds(left_s))
        try:
            self._spawned.send(f"renew {until}")
        except BlockingIOError as error:
            raise SupervisorError(
                "supervision.unavailable",
                "the guard does not take renewals; the job ends with its present lease",
                f"See what stopped process {self.guard_pid}.",
            ) from error
        self._lease_until = until

    def signal(self, number: int) -> None:
        """Pass a signal on to the job, if it is one of ``wire.PASSED_ON``; one that nobody takes in time is lost."""
        if number in wire.PASSED_ON and not self._over:
            with suppress(BlockingIOError):
                self._spawned.send(f"signal {number}")

    async def interrupt(self, reason: str, *, grace_s: float | None = None) -> JobEnd:
        """End the job for ``reason``; returns when nothing of it is left.

        With a grace every process of the job gets SIGTERM first. Without one, the default, all are killed at once: see
        ``kill``. The first reason given stays.
        """
        grace = self._grace_s if grace_s is None else min(max(grace_s, 0.0), wire.MAX_GRACE_S)
        if grace == 0:
            self.kill(reason)
        elif not self._over:
            self._interrupted = self._interrupted or reason
            self._order_end(grace)
        return await self.wait()

    def kill(self, reason: str) -> None:
        """Kill the job for ``reason``, now: pid one from here, so that no guard has to wake up for it first.

        Of a process group, which has no pid one, the guard knows the members.
        """
        if self._over:
            return
        self._interrupted = self._interrupted or reason
        if self.enforcement == kernel.PROCESS_GROUP:
            self._order_end(0.0)
        else:
            self._kill_init()

    def _order_end(self, grace: float) -> None:
        with suppress(BlockingIOError):
            self._spawned.send(f"interrupt {nanoseconds(grace)}")
        if self._fallback is None:
            self._fallback = asyncio.get_running_loop().call_later(grace + REPORT_S, self._kill_init)

    async def wait(self) -> JobEnd:
        """The job's end, however it comes. Several may wait; to be cancelled while waiting does not end the job."""
        assert self._following is not None  # noqa: S101 -- set by start, the only maker
        return await asyncio.shield(self._following)

    def _kill_init(self) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._init_pidfd, signal.SIGKILL)

    async def _follow(self) -> JobEnd:
        """Wait for the guard's last word. If the guard dies or says nothing of a death, conclude without it."""
        try:
            message = await self._last_word()
            if message is None:
                self._spawned.guard.kill()
                await readable(self._init_pidfd)  # the kernel has killed it; this is when its namespace is empty
                return self._unexplained()
            await readable(self._spawned.guard_pidfd, within_s=REPORT_S)
            return self._explained(message)
        finally:
            self._over = True
            if self._fallback is not None:
                self._fallback.cancel()
            self._spawned.release()
            os.close(self._init_pidfd)
            self._group.remove()

    async def _last_word(self) -> Message | None:
        status = self._spawned.status
        dead = False
        while (message := self._heard(status)) is None and not status.over:
            fds = (status.fd,) if dead else (status.fd, self._init_pidfd)
            ready = await readable(*fds, within_s=REPORT_S if dead else None)
            if not ready:
                return None
            dead = dead or self._init_pidfd in ready
        return message

    def _heard(self, status: Status) -> Message | None:
        """The next message that is about the job's end."""
        while (message := status.next()) is not None and message.get("event") == "stopped":
            if self._stopped is not None:
                self._stopped(int(str(message["signal"])))
        return message

    def _explained(self, message: Message) -> JobEnd:
        status, number = message["exit_status"], message["signal"]
        reason = str(message["reason"])
        if self._interrupted and reason in {wire.INTERRUPTED, wire.INIT_KILLED}:
            reason = self._interrupted
        return JobEnd(
            outcome="exited" if message["outcome"] == "exited" else "killed",
            exit_status=None if status is None else int(str(status)),
            signal=None if number is None else int(str(number)),
            reason=reason,
            ended_monotonic_ns=int(str(message["at"])),
            enforcement=self.enforcement,
        )

    def _unexplained(self) -> JobEnd:
        expired = wire.LEASE_EXPIRED if wire.now_ns() >= self._lease_until else wire.GUARD_DIED
        return JobEnd(
            outcome="killed",
            exit_status=None,
            signal=int(signal.SIGKILL),
            reason=self._interrupted or expired,
            ended_monotonic_ns=time.monotonic_ns(),
            enforcement=self.enforcement,
        )
