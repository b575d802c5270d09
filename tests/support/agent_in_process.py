"""The real executor agent inside a test, beside the gateway in process: real supervisors, real jobs, real signals.

async def test_something(machine):
    async with await machine.orchestrator() as orchestrator:
        outcome = await orchestrator.run(machine.work("a", "/bin/true"), machine.id, machine.agent)
"""

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from gateway.anchors import anchors_file
from tests.support.executor import ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import Foundry, SoftwareTpms
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII
from tpm.software import ca_certificates
from ztrooted.anchors import Anchors
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.executor.agent import Agent, AgentConfig
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.work import Work, describe

ROOT = Path(__file__).parents[2]
# Writes down when it was last alive, twice: by itself, and by a grandchild in a session of its own that ignores SIGTERM.
BEATS = """
import os, signal, sys, time
def live(name):
    beat = os.open(sys.argv[1] + name, os.O_WRONLY | os.O_CREAT, 0o600)
    while True:
        os.pwrite(beat, b"%020d" % time.monotonic_ns(), 0)
        time.sleep(0.005)
if os.fork() == 0:
    os.setsid()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0: live(".grandchild")
    os._exit(0)
live(".job")
"""


@dataclass
class Beats:
    """What a job that beats is seen by, from outside."""

    base: Path

    @property
    def files(self) -> list[Path]:
        return [Path(f"{self.base}.{name}") for name in ("job", "grandchild")]

    @property
    def started(self) -> bool:
        """Whether any of it ran."""
        return any(file.exists() for file in self.files)

    @property
    def beats(self) -> bool:
        """Whether all of it has shown up."""
        return all(file.exists() and file.read_text() for file in self.files)

    async def beating(self) -> None:
        """Wait until all of it has shown up."""
        async with asyncio.timeout(170):  # some orchestrators load for long before a task runs
            while not self.beats:  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    def last_ns(self) -> int:
        """When any of it was last alive, by CLOCK_MONOTONIC."""
        return max(int(file.read_text()) for file in self.files)

    async def still(self) -> bool:
        """Whether it has stopped."""
        before = self.last_ns()
        await asyncio.sleep(0.05)
        return self.last_ns() == before


class MachineInProcess:
    """A trusted executor with its agent, and an orchestrator beside it."""

    def __init__(self, gate: GatewayInProcess, executor: ScriptedExecutor, folder: Path) -> None:
        self.gate = gate
        self.executor = executor
        self.folder = folder
        self.socket = folder / "agent.sock"
        self.id = ""
        self._stack = AsyncExitStack()

    @property
    def anchors(self) -> Anchors:
        return self.gate.anchors()

    @property
    def agent(self) -> LocalAgent:
        return LocalAgent(self.anchors, self.id, self.socket)

    async def start(self) -> None:
        """Have the agent enroll, and an operator approve what it is."""
        machine = self.executor.folder
        config = AgentConfig(
            self.gate.url,
            self.gate.ca,
            self.executor.tpm.address,
            self.socket,
            machine / EVENT_LOG,
            machine / IMA_ASCII,
        )
        stop = asyncio.Event()
        running = asyncio.create_task(Agent(config, self.executor.device).run(stop))

        async def end() -> None:
            stop.set()
            with suppress(TimeoutError):
                await asyncio.wait_for(running, 10)

        self._stack.push_async_callback(end)
        async with await self.gate.client("operator") as operator, asyncio.timeout(20):
            while not (views := [one for one in await operator.executors() if one.connected]):
                assert not running.done(), running
                await asyncio.sleep(0.01)
            self.id = views[0].executor
        await self.trust()

    async def orchestrator(self, url: str | None = None, name: str = "flows") -> Orchestrator:
        """An orchestrator's client; use it as an async context manager."""
        token = await self.gate.token("orchestrator", name)
        return Orchestrator(
            url or self.gate.url, ca=self.gate.ca, anchors=self.anchors, token=token, state=self.folder / "state"
        )

    async def settings(self) -> OrchestratorSettings:
        """What an orchestrator's program is told."""
        token = await self.gate.token("orchestrator", "flows")
        return OrchestratorSettings(self.gate.url, self.gate.ca, token, self.anchors)

    async def prove(self) -> None:
        """A round at run time, now."""
        await self.gate.gateway.authorizer.prove_again(self.id)

    async def revoke(self, authorization: str) -> None:
        """By an operator."""
        async with await self.gate.client("operator") as operator:
            await operator.order("revocations", "authorization", authorization, "a test")

    def beats(self, step: str) -> tuple[Work, Beats]:
        """A job that never ends, and what is seen of it."""
        base = self.folder / step
        return self.work(step, sys.executable, "-I", "-S", "-c", BEATS, str(base)), Beats(base)

    def work(self, step: str, *argv: str, **more: Any) -> Work:
        """A job of a command line."""
        return describe(argv, workflow="w", run="1", step=step, **more)

    async def close(self) -> None:
        await self._stack.aclose()

    async def trust(self) -> None:
        """Have an operator approve what it is now, and let it prove that."""
        async with await self.gate.client("operator") as operator:
            captured = await operator.capture_baseline(self.id)
            await operator.approve_baseline(captured.baseline)
        await self.prove()

    async def drift(self) -> None:
        """Run something that nobody approved, and have it found out."""
        self.executor.drift(f"/tmp/intruder-{time.monotonic_ns()}")
        await self.prove()

    async def environment(self) -> dict[str, str]:
        """Variables by which a program finds this gateway, and this machine."""
        token, anchors = self.folder / "token", self.folder / "anchors.toml"
        token.write_text(await self.gate.token("orchestrator", "flows"))
        token.chmod(0o600)
        anchors.write_text(anchors_file(self.gate.gateway.config))
        return {
            **os.environ,
            "ZTROOTED_GATEWAY": self.gate.url,
            "ZTROOTED_CA": str(self.gate.ca),
            "ZTROOTED_TOKEN_FILE": str(token),
            "ZTROOTED_ANCHORS": str(anchors),
            "ZTROOTED_EXECUTOR": self.id,
            "ZTROOTED_SOCKET": str(self.socket),
            "ZTROOTED_STATE": str(self.folder / "state"),
            "PYTHONPATH": str(ROOT),
        }


@pytest.fixture
async def machine(
    gate: GatewayInProcess, executors: Callable[..., ScriptedExecutor], tmp_path: Path
) -> AsyncIterator[MachineInProcess]:
    """One machine that is enrolled, connected and trusted."""
    made = MachineInProcess(gate, executors(), tmp_path)
    try:
        await made.start()
        yield made
    finally:
        await made.close()


@pytest.fixture(scope="module")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for a whole module, with a short name: a socket is in it."""
    return tmp_path_factory.mktemp("shared")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared_machine(
    shared_software_tpms: SoftwareTpms, shared_folder: Path, tpm_foundry: Foundry
) -> AsyncIterator[MachineInProcess]:
    """One for all tests of a module, which leave it trusted."""
    folder = shared_folder
    chip = shared_software_tpms(certificates=True)
    gate = GatewayInProcess(folder, shared_software_tpms(fresh=True), ca_certificates(tpm_foundry.ca), {})
    made = None
    try:
        await gate.start()
        made = MachineInProcess(gate, ScriptedExecutor(gate, chip, folder / "machine"), folder)
        await made.start()
        yield made
    finally:
        if made is not None:
            await made.close()
            made.executor.device.close()
        await gate.stop()
