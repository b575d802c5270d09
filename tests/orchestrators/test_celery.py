"""What is Celery's own: a worker that could not refuse does not start, and signals that fail open are not what gates."""

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from tests.orchestrators.adapters import CeleryAdapter
from tests.support.agent_in_process import MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180, func_only=True)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def celery(shared_machine: MachineInProcess) -> AsyncIterator[CeleryAdapter]:
    if reason := CeleryAdapter.absent():
        pytest.skip(reason)
    made = CeleryAdapter(shared_machine)
    made.variables = await shared_machine.environment() | {"REDIS": "redis://127.0.0.1:1/0"}
    yield made
    await made.close()


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("ZTROOTED_ANCHORS", "", "config.missing"),
        ("ZTROOTED_EXECUTOR", "", "empty"),
        ("ZTROOTED_SOCKET", "/nonexistent", "execution.agent_lost"),
        ("CONTRACT_UNGOVERNED_TASK", "1", "is not governed"),
    ],
)
async def test_a_worker_that_could_not_refuse_does_not_start(
    celery: CeleryAdapter, variable: str, value: str, told: str
) -> None:
    process = await celery.spawn(f"worker-{variable}", *celery.worker, **{variable: value})
    assert await asyncio.wait_for(process.wait(), 120) != 0
    log = (celery.machine.folder / f"worker-{variable}.log").read_text()
    assert told in log
    assert " ready." not in log


async def test_an_exception_in_a_signal_does_not_stop_a_task_and_ours_does(celery: CeleryAdapter) -> None:
    """Why the gate is where it is: tried on the Celery that is installed."""
    program = """
from celery import Celery, Task
from celery.signals import task_prerun
app = Celery(set_as_current=True)
class Refusing(Task):
    def __call__(self, *a, **k): raise PermissionError("no")
ran = []
@app.task
def plain(): ran.append("plain")
@app.task(base=Refusing)
def gated(): ran.append("gated")
@task_prerun.connect
def refuse(**_): raise PermissionError("no")
plain.apply(); gated.apply()
print(ran)
"""
    process = await asyncio.create_subprocess_exec(
        celery.command(), "-c", program, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    out, _ = await process.communicate()
    assert out.decode().strip() == "['plain']"
