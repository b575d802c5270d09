"""Real processes that die or hang while work runs: the agent, the gateway. Asked of every adapter."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import QUEUE, Adapter
from tests.orchestrators.adapters import ADAPTERS
from tests.orchestrators.test_contract import refused
from tests.support.agent_in_process import Beats
from tests.support.gate import Gate, Gates
from tests.support.machine_apart import MachineApart
from ztrooted.demo.stage import wait_until

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.timeout(240, func_only=True),
    pytest.mark.skipif("ZTROOTED_ORCHESTRATORS" not in os.environ, reason="run by 'scripts/test --orchestrators'"),
]


@pytest.fixture(scope="module")
def apart(shared_gates: Gates) -> MachineApart:
    return MachineApart(shared_gates(pace=PACE))


# Renewed each second; long enough for an interpreter to start on a loaded machine.
PACE = {"interval_s": 1.0, "idle_interval_s": 5.0, "response_deadline_s": 3.0, "lease_s": 8.0}


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=sorted(ADAPTERS))
async def adapter(request: pytest.FixtureRequest, apart: Any) -> AsyncIterator[Adapter]:
    if reason := ADAPTERS[request.param].absent():
        pytest.skip(reason)
    made = ADAPTERS[request.param](apart)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def running(adapter: Adapter, base: Path) -> tuple[Beats, "asyncio.Task[Any]"]:
    beats = Beats(base)
    work = asyncio.create_task(adapter.run(await adapter.hand_out("beats", base, executor=QUEUE)))
    await beats.beating()
    return beats, work


async def test_an_agent_that_is_killed_takes_its_work_along(adapter: Adapter, apart: Any, tmp_path: Path) -> None:
    beats, work = await running(adapter, tmp_path / "beats")
    executor = apart.gate.executor
    executor.agent.kill()
    await refused(work, "execution.agent_lost", "lease.expired")
    assert await beats.still()
    executor.agent.wait()
    await asyncio.to_thread(apart.gate.start_agent, executor)


async def test_a_gateway_that_hangs_renews_nothing_and_the_lease_ends_here(
    adapter: Adapter, apart: Any, tmp_path: Path
) -> None:
    beats, work = await running(adapter, tmp_path / "beats")
    apart.gate.process.send_signal(signal.SIGSTOP)
    try:
        await refused(work, "lease.expired")
        assert await beats.still()
    finally:
        apart.gate.process.send_signal(signal.SIGCONT)
        await asyncio.to_thread(_connected, apart.gate)


def _connected(gate: Gate) -> None:
    wait_until("the executor's trust", lambda: gate.view().connected and gate.view().trusted, 30)
