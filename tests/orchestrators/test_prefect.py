"""What is Prefect's own: a worker that could not refuse does not start, one that dies, and what its server shows."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.orchestrators.adapters import PrefectAdapter
from tests.orchestrators.test_contract import refused
from tests.support.agent_in_process import Beats, MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240, func_only=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def prefect(shared_machine: MachineInProcess) -> AsyncIterator[PrefectAdapter]:
    if reason := PrefectAdapter.absent():
        pytest.skip(reason)
    made = PrefectAdapter(shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def begun(prefect: PrefectAdapter, base: Path) -> tuple[Beats, str]:
    """A flow that beats, and its run's name."""
    beats, run = Beats(base), secrets.token_hex(8)
    await prefect.ask(do="begin", run=run, what="beats", base=str(base))
    await beats.beating()
    return beats, run


async def stopped(beats: Beats) -> None:
    async with asyncio.timeout(60):
        while not await beats.still():  # noqa: ASYNC110
            await asyncio.sleep(0)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ZTROOTED_EXECUTORS", "{}", "config.invalid: the set of executors is empty"),
        ("ZTROOTED_EXECUTORS", "[]", "config.invalid: ZTROOTED_EXECUTORS"),
        ("ZTROOTED_TOKEN_FILE", "", "config.missing: ZTROOTED_TOKEN_FILE"),
        ("ZTROOTED_SOCKET", "/nonexistent", "execution.agent_lost"),
    ],
)
async def test_a_worker_that_could_not_refuse_does_not_start(
    prefect: PrefectAdapter, variable: str, value: str, told: str
) -> None:
    name = f"worker-{secrets.token_hex(4)}"
    process = await prefect.start_worker(name, **{variable: value})
    assert await asyncio.wait_for(process.wait(), 120) == 3
    log = (prefect.machine.folder / f"{name}.log").read_text()
    assert told in log
    assert "started!" not in log


async def test_a_worker_that_is_killed_takes_its_runs_along(prefect: PrefectAdapter, tmp_path: Path) -> None:
    beats, _ = await begun(prefect, tmp_path / "beats")
    prefect.worker.kill()
    await prefect.worker.wait()
    await stopped(beats)
    last = beats.last_ns()
    prefect.worker = await prefect.start_worker()
    assert await prefect.whole("write", tmp_path / "file") == "done", "the next one goes on"
    assert beats.last_ns() == last


async def test_a_run_that_is_cancelled_ends_with_all_it_started(prefect: PrefectAdapter, tmp_path: Path) -> None:
    """Its grandchild ignores SIGTERM and lives on, which Prefect's own process in the job waits for without end."""
    beats, run = await begun(prefect, tmp_path / "beats")
    told = await refused(prefect.ask(do="cancel", run=run, base=str(beats.base)), "Cancelled")
    assert told.startswith("NotDone: Cancelled")
    await stopped(beats)
    assert await prefect.whole("write", tmp_path / "file") == "done", "its worker goes on"
