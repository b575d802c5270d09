"""What a service manager hears of an executor's agent, over a real socket: ready, trusted, alive; nobody else's words."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.executor import ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII
from ztrooted.executor.agent import Agent, AgentConfig
from ztrooted.executor.standing import STUCK_S, Standing
from ztrooted.notify import Manager


class Heard:
    """The manager's end."""

    def __init__(self, listening: socket.socket) -> None:
        self._listening = listening

    async def until(self, wanted: str) -> list[str]:
        """What comes up to and including the first that contains ``wanted``; signs of life are left out."""
        found: list[str] = []
        async with asyncio.timeout(20):
            while not found or wanted not in found[-1]:
                said = (await asyncio.get_running_loop().sock_recv(self._listening, 4096)).decode()
                if said != "WATCHDOG=1" or wanted == said:
                    found.append(said)
        return found

    def all(self) -> list[str]:
        """Everything that is there."""
        found = []
        while True:
            try:
                found.append(self._listening.recv(4096).decode())
            except BlockingIOError:
                return found


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        monkeypatch.setenv("WATCHDOG_USEC", "400000")
        yield Heard(listening)


@pytest.fixture
async def running(
    gate: GatewayInProcess, executor: ScriptedExecutor, manager: Heard, tmp_path: Path
) -> AsyncIterator[tuple[Agent, asyncio.Event, asyncio.Task[None]]]:
    """The real agent, on the machine of ``executor``."""
    machine = (executor.folder / EVENT_LOG, executor.folder / IMA_ASCII)
    config = AgentConfig(gate.url, gate.ca, executor.tpm.address, tmp_path / "socket", *machine, allow_weak=True)
    agent, stop = Agent(config, executor.device), asyncio.Event()
    task = asyncio.create_task(agent.run(stop))
    yield agent, stop, task
    stop.set()
    async with asyncio.timeout(20):
        await task


async def test_ready_is_who_is_trusted_and_alive_is_whose_channel_is_served(
    gate: GatewayInProcess, executor: ScriptedExecutor, manager: Heard, running: Any
) -> None:
    agent, stop, task = running
    said = await manager.until("not trusted: attestation.no_baseline")
    assert "READY=1" not in said, "nobody has approved what this machine is"
    name = agent._session.enrolled.executor
    assert said[-1] == f"STATUS=connected as {name}, not trusted: attestation.no_baseline"
    async with await gate.client("operator") as operator:
        view = await operator.capture_baseline(name)
        await operator.approve_baseline(view.baseline)
    said = await manager.until("READY=1")
    assert said[-2:] == [f"STATUS=connected as {name}, trusted", "READY=1"]
    for _ in range(3):
        await manager.until("WATCHDOG=1")
    executor.drift()
    gate.gateway.prove_soon(name)
    said = await manager.until("not trusted: ima.not_allowed")
    assert "READY=1" not in said
    # What hangs is not alive: a TPM that answers nothing, say. The loop that has the channel goes on meanwhile.
    with agent._standing.busy():
        agent._standing._busy = {key: since - STUCK_S for key, since in agent._standing._busy.items()}
        manager.all()
        await asyncio.sleep(0.5)
        assert manager.all() == []
    await manager.until("WATCHDOG=1")
    stop.set()
    assert (await manager.until("STOPPING=1"))[-1] == "STOPPING=1"
    await task


async def test_a_gateway_that_is_gone_is_no_reason_to_be_killed(
    gate: GatewayInProcess, manager: Heard, running: Any
) -> None:
    await manager.until("connected as")
    await gate.stop()
    said = await manager.until("not connected: environment.gateway_unreachable")
    assert "STATUS=not connected: channel.closed" in said
    await manager.until("WATCHDOG=1")
    await gate.start()  # on another port, which the agent does not know: it goes on asking
    await manager.until("WATCHDOG=1")


async def test_nobody_forges_a_state(manager: Heard) -> None:
    """What comes from elsewhere stands on one line of a status."""
    told = Standing(Manager())
    told.enrolled("ex-1\nREADY=1", trusted=False, reason="x\nMAINPID=1\nREADY=1")
    told.connected()
    told.disconnected("x\nSTOPPING=1" + "y" * 10_000)
    said = manager.all()
    assert len(said) == 2
    assert all(one.startswith("STATUS=") and "\n" not in one and len(one) < 300 for one in said)


async def test_an_agent_of_before_is_told_nothing_that_it_does_not_understand(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await executor.enroll()
    monkeypatch.setattr("tests.support.executor.UNDERSTANDS", "later")
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        await channel.renew()
        assert {one.type for one in channel._kept} <= {"challenge", "ping", "issuer"}
    monkeypatch.setattr("tests.support.executor.UNDERSTANDS", "later, verdict")
    async with executor.connect() as channel:
        await channel.renew()
        await channel.renew()
        assert [one.type for one in channel._kept].count("verdict") == 1, "once, as nothing changed"
    answer = await gate.call(
        "GET",
        "/v1/executor/channel",
        token=await gate.token("operator"),
        headers={"Ztrooted-Understands": "x" * 100},
    )
    assert answer.status in {401, 403}
