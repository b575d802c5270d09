"""What is Airflow's own: hooks that fail open, executors beside ours, its retries, and what it shows where it is refused."""

import asyncio
import secrets
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import RefusedError
from tests.orchestrators.adapters import AirflowAdapter
from tests.orchestrators.test_contract import refused, running
from tests.support.agent_in_process import Beats, MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(240, func_only=True)]

OURS = "tests.orchestrators.airflow_executor.ContractExecutor"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def airflow(shared_machine: MachineInProcess) -> AsyncIterator[AirflowAdapter]:
    if reason := AirflowAdapter.absent():
        pytest.skip(reason)
    made = AirflowAdapter(shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


def attempts(airflow: AirflowAdapter) -> list[int]:
    """Of every authorization that was asked for."""
    return [one["body"]["job"]["attempt"] for one in airflow.machine.gate.records("dispatch.requested")]


async def test_a_scheduler_without_the_settings_file_does_not_start(airflow: AirflowAdapter) -> None:
    """Airflow itself starts without it, and has no policy then."""
    nowhere = airflow.machine.folder / "nowhere"
    changed = {"AIRFLOW_HOME": str(nowhere), "AIRFLOW__CORE__EXECUTOR": OURS}
    process = await airflow.start_scheduler("lost", **changed)
    assert await asyncio.wait_for(process.wait(), 120) != 0
    log = (airflow.machine.folder / "lost.log").read_text()
    assert "config.missing: airflow_local_settings.py is missing" in log
    assert "Adopting or resetting" not in log, "it has not begun to schedule"


async def test_an_executor_that_could_not_refuse_does_not_start(airflow: AirflowAdapter) -> None:
    program = """
import os
from ztrooted.integrations.airflow import GovernedExecutor
for name, value in (
    ("AIRFLOW__ZTROOTED__EXECUTORS", "{}"),
    ("AIRFLOW__ZTROOTED__EXECUTORS", "[1]"),
    ("ZTROOTED_ANCHORS", ""),
    ("ZTROOTED_TOKEN_FILE", ""),
    ("ZTROOTED_SOCKET", "/nonexistent"),
    ("UNCHANGED", ""),
):
    good = os.environ.get(name, "")
    os.environ[name] = value
    try:
        GovernedExecutor().start()
    except Exception as error:
        print("TOLD", error, flush=True)
    else:
        print("TOLD started", flush=True)
    os.environ[name] = good

from types import SimpleNamespace
from ztrooted.integrations.airflow_policy import checked, task_policy
try:
    task_policy(SimpleNamespace(task_id="early", start_from_trigger=True))
except Exception as error:
    print("TOLD", error, flush=True)
def own(context): print("TOLD own", flush=True)
own.ztrooted_checked = True
try:
    checked(own)({"ti": SimpleNamespace(id=1, task_id="claims")})
except Exception as error:
    print("TOLD", error, flush=True)
"""
    process = await airflow.spawn("executors", airflow.command(), "-c", program)
    await asyncio.wait_for(process.wait(), 120)
    lines = (airflow.machine.folder / "executors.log").read_text().splitlines()
    told = [line.removeprefix("TOLD ") for line in lines if line.startswith("TOLD ")]
    expected = [
        "config.invalid: the set of executors is empty",
        "config.invalid: [ztrooted] executors: it is no object",
        "config.missing: ZTROOTED_ANCHORS",
        "config.missing: ZTROOTED_TOKEN_FILE",
        "execution.agent_lost: no executor agent listens",
        "started",
        "config.invalid: task early starts in the triggerer",
        "config.invalid: nothing permits task claims",
    ]
    assert [line.startswith(start) for line, start in zip(told, expected, strict=True)] == [True] * len(expected), told


@pytest.mark.parametrize(("dag", "index"), [("around", -1), ("mapped", 0)])
async def test_a_task_of_another_executor_runs_nothing(
    airflow: AirflowAdapter, dag: str, index: int, tmp_path: Path
) -> None:
    """A mapped task is made of its parts in the process that runs it, after the policy has seen it."""
    run = secrets.token_hex(8)
    with pytest.raises(RefusedError):
        await airflow.ask(do="other", dag=dag, run=run, base=str(tmp_path / "file"))
    assert not (tmp_path / "file").exists()
    assert not (airflow.machine.folder / "airflow" / "held" / "mapped").exists()
    shown = await airflow.ask(do="shown", dag=dag, run=run, index=index)
    assert "config.invalid: nothing permits task work" in shown["log"]
    assert "Set [core] executor to" in shown["log"]


async def test_a_listener_that_refuses_stops_nothing_and_the_mutation_hook_is_early(
    airflow: AirflowAdapter, tmp_path: Path
) -> None:
    """Why the gate is where it is: tried on the Airflow that is installed."""
    assert await airflow.ask(do="bare", base=str(tmp_path / "file")) == "done"
    held = airflow.machine.folder / "airflow" / "held"
    assert (held / "listened").exists(), "the listener has raised"
    assert set((held / "mutations").read_text().split()) == {"None"}, (
        "no task was about to run when the hook was called"
    )


async def test_a_retry_is_another_dispatch_and_denied_where_the_machine_drifted(
    airflow: AirflowAdapter, tmp_path: Path
) -> None:
    beats, run = Beats(tmp_path / "beats"), secrets.token_hex(8)
    before = len(attempts(airflow))
    work = asyncio.create_task(airflow.ask(do="other", dag="retries", run=run, what="beats", base=str(beats.base)))
    await beats.beating()
    try:
        await airflow.machine.drift()
        await refused(work, "ima.not_allowed", "attestation.drift")
        assert await beats.still()
    finally:
        await airflow.machine.trust()
    assert attempts(airflow)[before:] == [1, 2]
    for attempt in (1, 2):
        shown = await airflow.ask(do="shown", dag="retries", run=run, attempt=attempt)
        assert "ima.not_allowed" in shown["log"]


async def test_a_scheduler_that_is_killed_takes_its_tasks_along(airflow: AirflowAdapter, tmp_path: Path) -> None:
    beats, work = await running(airflow, tmp_path / "beats")
    airflow.scheduler.kill()
    await airflow.scheduler.wait()
    async with asyncio.timeout(20):
        while not await beats.still():  # noqa: ASYNC110
            await asyncio.sleep(0)
    last = beats.last_ns()
    airflow.scheduler = await airflow.start_scheduler()
    assert await airflow.whole("write", tmp_path / "file") == "done", "the next one goes on"
    assert beats.last_ns() == last
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)


async def test_a_file_of_a_dag_that_was_changed_since_is_not_run(airflow: AirflowAdapter, tmp_path: Path) -> None:
    message = await airflow.hand_out("write", tmp_path / "file")
    file = airflow.machine.folder / "airflow" / "dags" / "contract.py"
    good = file.read_bytes()
    file.write_bytes(good + b"# and something else\n")
    try:
        await refused(airflow.run(message), "job.file_mismatch")
    finally:
        file.write_bytes(good)
    assert not (tmp_path / "file").exists()
