"""What is Ray's own: a node that could not refuse does not start, and on one that does nothing of a driver's is loaded."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import RefusedError
from tests.orchestrators.adapters import RayAdapter
from tests.support.agent_in_process import Beats, MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180, func_only=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(shared_machine: MachineInProcess) -> AsyncIterator[RayAdapter]:
    if reason := RayAdapter.absent():
        pytest.skip(reason)
    made = RayAdapter(shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("function", "function tests.orchestrators.tools.write"),
        ("name", "request.malformed"),  # ours is called, not theirs
        ("argument", "arguments that are no bytes"),
        ("reference", "arguments that are no bytes"),
        ("environment", "runtime environment .env_vars"),
        ("program", "runtime environment .py_executable"),
    ],
)
async def test_what_goes_around_the_gate_loads_nothing(
    cluster: RayAdapter, tmp_path: Path, how: str, told: str
) -> None:
    with pytest.raises(RefusedError, match=told) as refused:
        await cluster.ask(do="around", base=str(tmp_path / "file"), how=how)
    assert not (tmp_path / "file").exists()
    assert how == "name" or "job.mismatch" in str(refused.value)
    assert await cluster.whole("write", tmp_path / "governed") == "done"


async def test_a_worker_that_is_to_be_an_actor_kills_itself(cluster: RayAdapter, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="ActorDied"):
        await cluster.ask(do="around", base=str(tmp_path / "file"), how="actor")
    assert "job.mismatch: the actor Actor" in cluster.logs()
    assert not (tmp_path / "file").exists()
    assert await cluster.whole("write", tmp_path / "governed") == "done"


@pytest.mark.parametrize("force", [False, True])
async def test_what_is_taken_back_has_stopped(cluster: RayAdapter, tmp_path: Path, force: bool) -> None:
    """By an interrupt, which ends the job, and by the end of the worker, with which its job ends."""
    beats, message = Beats(tmp_path / "beats"), await cluster.hand_out("beats", tmp_path / "beats")
    asked = {"what": "beats", "base": str(beats.base), "run": message.run, "ticket": message.ticket}
    work = asyncio.create_task(cluster.ask(do="cancelled", after_s=3, force=force, **asked))
    await beats.beating()
    with pytest.raises(RefusedError, match=r"Cancel|Crashed"):
        await work
    assert await _soon_still(beats)


async def _soon_still(beats: Beats) -> bool:
    async with asyncio.timeout(20):
        while not await beats.still():
            pass
    return True


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        ({"ZTROOTED_ANCHORS": ""}, "config.missing"),
        ({"ZTROOTED_SOCKET": "/nonexistent"}, "execution.agent_lost"),
    ],
)
async def test_a_node_that_could_not_refuse_does_not_start(
    cluster: RayAdapter, variables: dict[str, Any], told: str
) -> None:
    process = await cluster.spawn(f"lost-{told}", *cluster.node("lost", "1", "--head"), **variables)
    assert await asyncio.wait_for(process.wait(), 60) == 3
    assert told in (cluster.machine.folder / f"lost-{told}.log").read_text()
