"""Ready is who could authorize correctly now: each thing that ends that is broken alone, and is named alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

import gateway.app
from gateway.app import SWEEP_LATE_S
from gateway.gauges import NOT_READY
from gateway.signer import FAILING_S
from tests.support.gateway_in_process import GatewayInProcess, gate
from tpm.software import SoftwareTpm
from ztrooted.errors import GateError

__all__ = ["gate"]  # a fixture

STALE_S = 3 * 60  # of the usual interval


async def failing(gate: GatewayInProcess) -> list[str]:
    """What /readyz names; its status, the metrics and an attempt to get something issued agree with it."""
    answer = await gate.call("GET", "/readyz")
    named: list[str] = answer.json["failing"]
    assert answer.status == (503 if named else 200)
    assert answer.json["ready"] is not bool(named)
    values = {
        (sample.name, sample.labels.get("reason")): sample.value
        for family in text_string_to_metric_families(gate.gateway.metrics.text().decode())
        for sample in family.samples
    }
    assert values["ztrooted_ready", None] == (0 if named else 1)
    assert {reason for reason in map(str, NOT_READY) if values["ztrooted_not_ready", reason]} == set(named)
    tried = await gate.call("POST", "/v1/dispatches", token=await token(gate), body=b"{}")
    assert tried.code == (named[0] if named else "request.malformed")
    assert (await gate.call("GET", "/livez")).status == 200
    return named


async def token(gate: GatewayInProcess) -> str:
    """Made while the store could be written."""
    made = TOKENS.get(id(gate))
    if made is None:
        made = TOKENS[id(gate)] = await gate.token("orchestrator")
    return made


TOKENS: dict[int, str] = {}


async def eventually(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@pytest.fixture(autouse=True)
async def _ready_before(gate: GatewayInProcess) -> None:
    TOKENS.clear()
    assert await failing(gate) == []


async def test_a_store_that_cant_be_written_though_nobody_writes(gate: GatewayInProcess) -> None:
    database = gate.gateway.database
    database._writing.execute("PRAGMA query_only = ON")
    await database.probe(0)
    assert await failing(gate) == ["database.unavailable"]
    database._writing.execute("PRAGMA query_only = OFF")
    await database.probe(3600)  # one that was refused is tried at once
    assert await failing(gate) == []


async def test_the_store_is_tried_by_itself(gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gateway.app, "PROBE_S", 0.05)
    await gate.restart()
    database = gate.gateway.database
    database._writing.execute("PRAGMA query_only = ON")
    await eventually(lambda: gate.gateway.not_ready() == ["database.unavailable"])
    database._writing.execute("PRAGMA query_only = OFF")


async def test_a_tpm_that_is_gone_and_comes_back(gate: GatewayInProcess) -> None:
    gate.tpm.close()
    with pytest.raises(GateError):
        await gate.gateway.checkpointer.seal()
    assert await failing(gate) == []  # one refusal is no outage
    await gate.pass_time(FAILING_S + 1)
    assert await failing(gate) == ["environment.tpm"]
    with SoftwareTpm(gate.tpm.state):
        await gate.gateway.checkpointer.seal()
        assert await failing(gate) == []
        await gate.stop()


async def test_a_tpm_that_keeps_us_waiting(gate: GatewayInProcess) -> None:
    waiting = asyncio.Event()
    loop = asyncio.get_running_loop()

    def silent() -> None:
        loop.call_soon_threadsafe(waiting.set)
        asyncio.run_coroutine_threadsafe(over.wait(), loop).result()

    over = asyncio.Event()
    asked = asyncio.create_task(gate.gateway.signer._in_tpm(silent))
    await waiting.wait()
    await gate.pass_time(FAILING_S + 1)
    assert await failing(gate) == ["environment.tpm"]
    over.set()
    await asked
    assert await failing(gate) == []


@pytest.mark.parametrize("by_s", [3600, -3600])
async def test_O12_a_clock_that_was_set(gate: GatewayInProcess, by_s: float) -> None:
    made = await token(gate)
    assert made
    gate.clock.set_s += by_s
    assert await failing(gate) == ["clock.untrusted"]


async def test_a_sweeper_that_is_late(gate: GatewayInProcess) -> None:
    for task in list(gate.gateway.tasks._running):
        if "Deadlines.run" in str(task.get_coro().cr_frame.f_locals.get("work")):  # type: ignore[union-attr]
            task.cancel()
    await asyncio.sleep(0)
    gate.clock.passed_s += SWEEP_LATE_S + 1
    assert await failing(gate) == ["service.late"]


async def test_a_checkpoint_that_is_too_old(gate: GatewayInProcess) -> None:
    await eventually(lambda: "checkpoint" in gate.gateway.deadlines._current)
    gate.gateway.deadlines.clear("checkpoint")
    await gate.pass_time(STALE_S + 1)
    assert await failing(gate) == ["checkpoint.stale"]
    await gate.gateway.checkpointer.publish()
    assert await failing(gate) == []


async def test_an_issuing_key_that_is_worn_out(gate: GatewayInProcess) -> None:
    gate.gateway.deadlines.clear("issuing key")
    gate.clock.passed_s += 2 * gate.gateway.config.issuing_key_life_s + 1
    gate.gateway.deadlines.wake()
    await gate.gateway.checkpointer.publish()
    await eventually(lambda: gate.gateway.not_ready() == ["jws.key_expired"])
    assert await failing(gate) == ["jws.key_expired"]


async def test_one_that_stops(gate: GatewayInProcess) -> None:
    gate.gateway.stopping.set()
    assert await failing(gate) == ["service.stopping"]


async def test_a_part_that_died(gate: GatewayInProcess) -> None:
    async def dies() -> None:
        raise RuntimeError("a defect")

    await gate.gateway.tasks.start(dies())
    assert await failing(gate) == ["service.stopping", "service.not_ready"]


def test_every_reason_that_can_be_named_is_measured() -> None:
    source = (Path(__file__).parents[2] / "gateway" / "app.py").read_text()
    listed = source[source.index("def not_ready") : source.index("def beat_age_s")]
    assert {f"GateReason.{reason.name}" for reason in NOT_READY} == {
        word.strip("(),") for word in listed.replace("str(", " ").split() if word.startswith("GateReason.")
    }
