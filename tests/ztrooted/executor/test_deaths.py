"""Whoever of agent, guard and init dies or stops, and however: the job does not go on."""

import asyncio
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import (
    LONG,
    PATIENCE_S,
    SHORT,
    STUBBORN,
    STUBBORN_SIZE,
    Agent,
    Marked,
    Streams,
    exists,
    start,
    stubborn,
    until,
    until_async,
    zombies,
)
from ztrooted.executor import supervisor


def test_the_agent_is_killed(marked: Marked, agent: Callable[..., Agent]) -> None:
    doomed = agent(marked.python(STUBBORN))
    doomed.wait_until_up()
    until(lambda: len(marked.alive()) == STUBBORN_SIZE, "the whole tree runs")
    doomed.signal(signal.SIGKILL)
    until(lambda: not marked.alive(), "the tree is dead")
    until(lambda: not exists(doomed.guard) and not exists(doomed.init), "guard and init are dead")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGABRT, signal.SIGHUP])
def test_the_agent_ends_by_another_signal(marked: Marked, agent: Callable[..., Agent], number: int) -> None:
    doomed = agent(marked.python(STUBBORN))
    doomed.wait_until_up()
    doomed.signal(number)
    until(lambda: not marked.alive(), "the tree is dead")


def test_the_agent_is_killed_while_it_starts_a_job(marked: Marked, agent: Callable[..., Agent]) -> None:
    for delay in (0.1, 0.15, 0.2, 0.25):
        doomed = agent(marked.python(STUBBORN))
        time.sleep(delay)
        doomed.signal(signal.SIGKILL)
        doomed.process.wait()
        until(lambda: not marked.alive(), "nothing runs")


def test_the_agent_is_stopped(marked: Marked, agent: Callable[..., Agent]) -> None:
    """The deadline is the guard's own: no process of the agent takes part."""
    stopped = agent(marked.python(STUBBORN), lease_s=3)
    stopped.wait_until_up()
    stopped.signal(signal.SIGSTOP)
    assert marked.alive()
    until(lambda: not marked.alive(), "the tree is dead at the end of its lease")
    assert exists(stopped.process.pid)
    stopped.signal(signal.SIGCONT)
    assert json.loads(next(stopped.output)) == {"reason": "lease.expired"}


def test_the_agent_is_killed_with_the_guard_stopped(marked: Marked, agent: Callable[..., Agent]) -> None:
    """A stopped guard reads no pipe: this is the kernel's doing alone."""
    doomed = agent(marked.python(STUBBORN))
    doomed.wait_until_up()
    os.kill(doomed.guard, signal.SIGSTOP)
    doomed.signal(signal.SIGKILL)
    until(lambda: not marked.alive(), "the tree is dead")
    until(lambda: not exists(doomed.guard), "the guard is dead")


async def test_the_guard_is_killed_with_the_init_stopped(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams)
    os.kill(running.init_pid, signal.SIGSTOP)
    os.kill(running.guard_pid, signal.SIGKILL)
    assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "guard.died"
    assert not marked.alive()


async def test_the_agents_pipe_ends_without_its_death(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams)
    os.dup2(streams.null, running._spawned.control_fd)
    assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "agent.lost"
    assert not marked.alive()


async def test_the_guard_is_killed(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams)
    os.kill(running.guard_pid, signal.SIGKILL)
    end = await asyncio.wait_for(running.wait(), PATIENCE_S)
    assert not marked.alive()
    assert (end.outcome, end.signal, end.reason) == ("killed", signal.SIGKILL, "guard.died")
    assert not zombies()


async def test_the_guard_is_terminated(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams)
    os.kill(running.guard_pid, signal.SIGTERM)
    assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "guard.died"
    assert not marked.alive()


async def test_the_init_is_killed(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams)
    os.kill(running.init_pid, signal.SIGKILL)
    end = await asyncio.wait_for(running.wait(), PATIENCE_S)
    assert not marked.alive()
    assert (end.outcome, end.signal, end.reason) == ("killed", signal.SIGKILL, "init.killed")


async def test_the_guard_is_stopped_and_the_lease_ends(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams, lease_s=3.0)
    os.kill(running.guard_pid, signal.SIGSTOP)
    end = await asyncio.wait_for(running.wait(), PATIENCE_S)
    assert not marked.alive()
    assert (end.outcome, end.reason) == ("killed", "lease.expired")
    assert not exists(running.guard_pid)


async def test_init_knows_of_renewals(marked: Marked, streams: Streams) -> None:
    """Else the second line of defence would end jobs whose lease was extended."""
    running = await start(marked.job("sleep", "600"), streams, lease_s=SHORT)
    running.renew(LONG)
    await asyncio.sleep(2 * SHORT)
    assert exists(running.init_pid)
    await running.interrupt("over")


@pytest.mark.parametrize("grace", [0.0, 0.2])
async def test_the_guard_is_stopped_and_the_job_interrupted(marked: Marked, streams: Streams, grace: float) -> None:
    running = await stubborn(marked, streams)
    os.kill(running.guard_pid, signal.SIGSTOP)
    end = await asyncio.wait_for(running.interrupt("drift", grace_s=grace), PATIENCE_S)
    assert not marked.alive()
    assert (end.outcome, end.reason) == ("killed", "drift")


async def test_the_guard_is_stopped_and_the_kill_does_not_wait_for_it(
    marked: Marked, streams: Streams, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "REPORT_S", 600.0)
    running = await stubborn(marked, streams)
    os.kill(running.guard_pid, signal.SIGSTOP)
    interrupting = asyncio.create_task(running.interrupt("drift"))
    await until_async(lambda: not marked.alive(), "the tree is dead")
    os.kill(running.guard_pid, signal.SIGKILL)
    assert (await interrupting).reason == "drift"


async def test_the_init_is_stopped_and_the_lease_ends(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams, lease_s=3.0)
    os.kill(running.init_pid, signal.SIGSTOP)
    assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "lease.expired"
    assert not marked.alive()


async def test_the_job_is_stopped_and_interrupted(marked: Marked, streams: Streams) -> None:
    running = await stubborn(marked, streams)
    for pid in marked.alive():
        os.kill(pid, signal.SIGSTOP)
    await asyncio.wait_for(running.interrupt("drift"), PATIENCE_S)
    assert not marked.alive()


def test_the_agents_event_loop_ends(marked: Marked, streams: Streams) -> None:
    """A loop that closes with a job running takes the job along instead of forgetting it."""
    asyncio.run(stubborn(marked, streams))
    until(lambda: not marked.alive(), "the tree is dead")
    assert not zombies()


@pytest.mark.parametrize(
    "line", ["renew -1", "renew x", "renew", "renew 1 2", "stop", "", "renew " + "9" * 30, "é", "x" * 5000]
)
async def test_an_order_that_is_none_ends_the_job(marked: Marked, streams: Streams, line: str) -> None:
    running = await start(marked.job("sleep", "600"), streams)
    os.write(running._spawned.control_fd, line.encode() + b"\n")
    end = await asyncio.wait_for(running.wait(), PATIENCE_S)
    assert (end.outcome, end.reason) == ("killed", "control.malformed")


async def test_a_lease_no_artifact_has_ends_the_job_at_the_guard_too(marked: Marked, streams: Streams) -> None:
    running = await start(marked.job("sleep", "600"), streams)
    far = time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 700 * 1_000_000_000
    running._spawned.send(f"renew {far}")
    assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "control.malformed"


# The job's own terminals: the one it opens and gives to a session of its own, and the one that it was given.
HOLDING = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
pid, master = os.forkpty()
if pid == 0:
    os.fork()
    while True: time.sleep(600)
os.write(1, b"up")
while True: time.sleep(600)
"""


@pytest.mark.parametrize("how", ["interrupt", "guard", "init"])
async def test_a_job_that_holds_terminals_dies_as_any_other(marked: Marked, streams: Streams, how: str) -> None:
    master, slave = os.openpty()
    running = await supervisor.Supervisor.start(
        marked.python(HOLDING), lease_s=LONG, max_runtime_s=LONG, stdio=(slave, slave, slave), terminal=True
    )
    os.close(slave)
    await until_async(lambda: len(marked.alive()) == 3, "the job and its session run")
    if how == "interrupt":
        end = await running.interrupt("operator.revoked")
        assert end.reason == "operator.revoked"
    else:
        os.kill(running.guard_pid if how == "guard" else running.init_pid, signal.SIGKILL)
        await asyncio.wait_for(running.wait(), PATIENCE_S)
    assert not marked.alive()
    os.close(master)


@pytest.fixture
def theirs() -> Iterator[int]:
    """The terminal of somebody else's session."""
    pid, master = os.forkpty()
    if pid == 0:
        time.sleep(600)
    until(lambda: Path(f"/proc/{pid}/fd/0").readlink().is_relative_to("/dev/pts"), "they have it")
    fd = os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)
    yield fd
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    os.close(fd)
    os.close(master)


async def test_a_terminal_of_another_session_is_not_taken(marked: Marked, streams: Streams, theirs: int) -> None:
    """Else a caller could have the agent, as root, take somebody's terminal away."""
    stdio = (theirs, streams.write, streams.write)
    with pytest.raises(supervisor.SupervisorError) as refused:
        await supervisor.Supervisor.start(
            marked.job("true"), lease_s=LONG, max_runtime_s=LONG, stdio=stdio, terminal=True
        )
    assert (refused.value.code, "Operation not permitted" in refused.value.message) == ("execution.start_failed", True)


async def test_a_terminal_that_is_none_is_refused(marked: Marked, streams: Streams) -> None:
    with pytest.raises(supervisor.SupervisorError, match="none of them is a terminal"):
        await supervisor.Supervisor.start(
            marked.job("true"), lease_s=LONG, max_runtime_s=LONG, stdio=streams.all(), terminal=True
        )


async def test_the_init_is_stopped_and_the_job_ends(marked: Marked, streams: Streams) -> None:
    """Pid one does not see the end of the job; the lease ends it all nevertheless."""
    running = await start(marked.job("sleep", "600"), streams, lease_s=3.0)
    os.kill(running.init_pid, signal.SIGSTOP)
    for pid in marked.alive():
        os.kill(pid, signal.SIGKILL)
    assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).reason == "lease.expired"
