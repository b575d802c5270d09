"""What is Temporal's own: who tries again, what goes around workflows, and workers that could not refuse."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import RefusedError
from tests.orchestrators.adapters import TemporalAdapter
from tests.support.agent_in_process import Beats, MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180, func_only=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def temporal(shared_machine: MachineInProcess) -> AsyncIterator[TemporalAdapter]:
    if reason := TemporalAdapter.absent():
        pytest.skip(reason)
    made = TemporalAdapter(shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def test_each_attempt_is_another_dispatch(temporal: TemporalAdapter) -> None:
    """A retry by Temporal's server would have the ticket that was used."""
    before = len(temporal.machine.gate.records("dispatch.requested"))
    with pytest.raises(RefusedError, match="ValueError: why"):
        await temporal.ask(do="whole", what="fails", base="why", tries=2)
    jobs = [one["body"]["job"] for one in temporal.machine.gate.records("dispatch.requested")[before:]]
    assert [(job["workflow"], job["step"], job["attempt"]) for job in jobs] == [
        ("Contract", "fails", 1),
        ("Contract", "fails", 2),
    ]


async def test_a_refusal_is_not_asked_for_again(temporal: TemporalAdapter, tmp_path: Path) -> None:
    await temporal.machine.drift()
    before = len(temporal.machine.gate.records("dispatch.requested"))
    try:
        with pytest.raises(RefusedError, match=r"ima\.not_allowed: "):
            await temporal.ask(do="whole", what="write", base=str(tmp_path / "file"), tries=3)
    finally:
        await temporal.machine.trust()
    assert len(temporal.machine.gate.records("dispatch.requested")) == before + 1
    assert not (tmp_path / "file").exists()


async def test_an_attempt_that_temporal_gave_up_is_dead(temporal: TemporalAdapter, tmp_path: Path) -> None:
    """Temporal tells nobody who sends no heartbeat; what it starts next would run beside the one before."""
    beats = Beats(tmp_path / "late")
    work = asyncio.create_task(temporal.ask(do="whole", what="beats", base=str(beats.base), lasts=4))
    await beats.beating()
    with pytest.raises(RefusedError):
        await work
    async with asyncio.timeout(20):
        while not await beats.still():
            pass


async def test_a_local_activity_is_refused_and_an_unknown_queue_too(temporal: TemporalAdapter, tmp_path: Path) -> None:
    for asked, told in (({"local": True}, "config.invalid"), ({"queue": "elsewhere"}, "dispatch.executor_unknown")):
        with pytest.raises(RefusedError, match=told):
            await temporal.ask(do="whole", what="write", base=str(tmp_path / "file"), **asked)
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ZTROOTED_ANCHORS", "", "config.missing"),
        ("ZTROOTED_EXECUTOR", "", "config.missing"),
        ("ZTROOTED_SOCKET", "/nonexistent", "execution.agent_lost"),
    ],
)
async def test_a_worker_that_could_not_refuse_does_not_start(
    temporal: TemporalAdapter, variable: str, value: str, told: str
) -> None:
    process = await temporal.spawn(f"worker-{variable}", *temporal.worker, **{variable: value})
    assert await asyncio.wait_for(process.wait(), 60) != 0
    log = (temporal.machine.folder / f"worker-{variable}.log").read_text()
    assert told in log
    assert "ready." not in log
