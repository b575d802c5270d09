"""What is Dask's own: a worker that could not refuse does not join, and dies before it runs anything else."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import RefusedError
from tests.orchestrators.adapters import DaskAdapter
from tests.support.agent_in_process import MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180, func_only=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(shared_machine: MachineInProcess) -> AsyncIterator[DaskAdapter]:
    if reason := DaskAdapter.absent():
        pytest.skip(reason)
    made = DaskAdapter(shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def test_a_task_that_goes_around_the_gate_runs_nothing(cluster: DaskAdapter, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="KilledWorker"):
        await cluster.ask(do="around", base=str(tmp_path / "file"))
    assert not (tmp_path / "file").exists()
    assert "is not governed" in (cluster.machine.folder / "dask-worker.log").read_text()
    assert await cluster.whole("write", tmp_path / "governed") == "done", "its nanny has started it anew"


async def test_a_worker_that_could_not_refuse_does_not_join(cluster: DaskAdapter) -> None:
    """An exception in a preload would not keep it from joining."""
    command = [*cluster.worker("lost"), "--no-nanny"]
    process = await cluster.spawn("lost", *command, ZTROOTED_SOCKET="/nonexistent")
    assert await asyncio.wait_for(process.wait(), 120) == -9
    assert "execution.agent_lost" in (cluster.machine.folder / "lost.log").read_text()
