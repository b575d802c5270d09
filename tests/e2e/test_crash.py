"""``kill -9`` of the gateway at any moment, under load: nothing acknowledged is lost, and records lead to every state."""

import asyncio
import json
import random
import time
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.executor import job
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.lifecycle import State
from ztrooted.models import DispatchRequest

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]

KILLS = 6
PACE = {"interval_s": 0.5, "idle_interval_s": 0.5, "response_deadline_s": 2.0, "lease_s": 8.0}
ENDED = {State.REVOKED, State.INTERRUPTED, State.CLOSED, State.DENIED}


class Load:
    """Orchestrators that ask for as much as they can, and remember each answer."""

    def __init__(self, gateway: GatewayProcess, executors: list[SimulatedExecutor]) -> None:
        self.gateway, self.executors = gateway, executors
        self.granted: dict[str, SimulatedExecutor] = {}
        self.events: dict[int, bytes] = {}

    async def ask(self) -> None:
        dice = random.Random(1)  # noqa: S311 -- dice
        while True:
            executor = dice.choice(self.executors)
            with suppress(GateError, EnvironmentProblem, TimeoutError, AssertionError, OSError):
                async with self.gateway.client("orchestrator") as orchestrator:
                    asked = DispatchRequest(executor=executor.id, job=job(), max_runtime_s=600)
                    grant = await orchestrator.authorize(asked)
                    self.granted[grant.authorization] = executor
                    await executor.run_job(grant.authorization, grant.artifact)
            await asyncio.sleep(0.01)

    async def follow(self) -> None:
        while True:
            with suppress(GateError, EnvironmentProblem, TimeoutError, OSError):
                async with self.gateway.client("operator") as operator:
                    async for event in operator.events(max(self.events, default=-1) + 1):
                        self.events[event.seq] = event.record.encode()
            await asyncio.sleep(0.05)


async def test_killed_at_any_moment(tmp_path: Path) -> None:
    gateway = GatewayProcess(tmp_path, **PACE)
    gateway.start(core=None)
    dice = random.Random(time.time_ns())  # noqa: S311 -- dice
    try:
        machine = SimulatedMachine(tmp_path / "machine", {"/usr/bin/dash": b"a shell"})
        executors = [SimulatedExecutor(gateway.url, gateway.ca, machine) for _ in range(4)]
        await enroll_all(executors, at_once=2)
        async with connect_all(executors):
            async with gateway.client("operator") as operator:
                captured = await operator.capture_baseline(executors[0].id)
                await operator.approve_baseline(captured.baseline)
            load = Load(gateway, executors)
            tasks = [asyncio.create_task(one) for one in (load.ask(), load.ask(), load.follow())]
            for _ in range(KILLS):
                await asyncio.sleep(dice.uniform(0.3, 1.5))
                gateway.kill()
                # It refuses to start unless every state is what the records lead to, and the tree is what they hash to.
                gateway.start(core=None)
            await asyncio.sleep(3)
            for task in tasks[:2]:
                task.cancel()
            await check(gateway, load)
            tasks[2].cancel()
    finally:
        gateway.stop()
    assert len(load.granted) > KILLS


async def check(gateway: GatewayProcess, load: Load) -> None:
    """Nothing acknowledged is lost, nothing heard was unsaid, what lives is proved again, and what is overdue has ended."""
    async with gateway.client("operator") as operator:
        await asyncio.sleep(1)
        seen = dict(load.events)
        again: dict[int, bytes] = {}
        async with asyncio.timeout(20):
            async for event in operator.events(0):
                again[event.seq] = event.record.encode()
                if event.seq >= max(seen):
                    break
        assert {seq: data for seq, data in again.items() if seq in seen} == seen
        issued = {json.loads(data)["authorization"] for data in again.values() if b'"authorization.issued"' in data}
        assert set(load.granted) <= issued
        views = {one: await operator.authorization(one) for one in load.granted}
        now_ms = time.time_ns() // 1_000_000
        live = [view for view in views.values() if State(view.state) not in ENDED]
        for view in live:
            assert view.lease_expires is not None
            assert view.lease_expires > now_ms - 1000, view
        await asyncio.sleep(PACE["interval_s"] * 3)
        for view in live:
            if State(view.state) in {State.ACTIVATED, State.RUNNING}:
                later = await operator.authorization(view.authorization)
                assert later.renewals > view.renewals or State(later.state) in ENDED, later
