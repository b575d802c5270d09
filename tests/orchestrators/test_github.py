"""What is GitHub's own: the hooks' settings, which job this is, and what is killed; see ``github_runner``."""

import asyncio
import signal
from contextlib import suppress
from pathlib import Path

import pytest

from tests.orchestrators.github_runner import RUNNER, Runner, steps
from tests.support.agent_in_process import MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]


@pytest.fixture
def runner(shared_machine: MachineInProcess, tmp_path: Path) -> Runner:
    return Runner(shared_machine, tmp_path)


def touch(runner: Runner) -> tuple[str, ...]:
    return steps("write", runner.folder / "ran")


def ran(runner: Runner) -> bool:
    return (runner.folder / "ran").exists()


def followers(machine: MachineInProcess) -> list[str]:
    """Those of this machine's jobs."""
    ours, found = f"ZTROOTED_STATE={machine.folder / 'state'}".encode(), []
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            follows = (entry / "cmdline").read_bytes().endswith(b"ztrooted.integrations.github\0follow\0")
            if follows and ours in (entry / "environ").read_bytes().split(b"\0"):
                found.append(entry.name)
    return found


async def test_a_job_runs_once_it_is_authorized_by_its_name_and_ends_with_its_last_step(runner: Runner) -> None:
    """Its own ``env:`` does not say who is asked: ``ZTROOTED_GATEWAY`` of the workflow names nobody."""
    status, said = await runner.whole(*touch(runner))
    assert (status, ran(runner)) == (0, True), said
    job = runner.machine.gate.records("dispatch.requested")[-1]["body"]["job"]
    named = (job["workflow"], job["run"], job["attempt"], job["step"])
    assert named == (RUNNER["GITHUB_WORKFLOW_REF"], RUNNER["GITHUB_RUN_ID"], 3, "build")
    assert RUNNER["GITHUB_SHA"] in job["argv"]
    closed = runner.machine.gate.records("execution.closed")[-1]["body"]
    assert closed["outcome"] == "exited", closed
    assert not followers(runner.machine)


async def test_a_job_on_a_machine_that_drifted_fails_with_our_reason(runner: Runner) -> None:
    await runner.machine.drift()
    try:
        status, said = await runner.whole(*touch(runner))
    finally:
        await runner.machine.trust()
    assert (status, ran(runner)) == (1, False)
    assert said.startswith("::error title=ztrooted::ima.not_allowed: "), said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ZTROOTED_GATEWAY": "https://127.0.0.1:1", "ZTROOTED_WITHIN_S": "1"}, "environment.gateway_unreachable"),
        ({"ZTROOTED_ANCHORS": "/nonexistent"}, "config.missing"),
        ({"ZTROOTED_CA": "/etc/hostname"}, "environment."),
        ({"ZTROOTED_SOCKET": "/nonexistent"}, "execution.agent_lost"),
        ({"ZTROOTED_MAX_RUNTIME_S": "long"}, "config.invalid"),
        ({"GITHUB_RUN_ID": ""}, "config.missing: GITHUB_RUN_ID"),
        ({"GITHUB_RUN_ATTEMPT": "first"}, "job.malformed"),
        ({"RUNNER_TRACKING_ID": ""}, "config.missing: RUNNER_TRACKING_ID"),
        ({"name": "Runner.Listener"}, "config.invalid"),
    ],
    ids=lambda one: "".join(one) if isinstance(one, dict) else "",
)
async def test_a_hook_that_could_not_refuse_fails_the_job(runner: Runner, changed: dict[str, str], told: str) -> None:
    status, said = await runner.whole(*touch(runner), **changed)
    assert (status, ran(runner)) == (1, False), said
    assert f"::error title=ztrooted::{told}" in said


@pytest.mark.parametrize("how", ["revoked", "drifted"])
async def test_a_job_that_may_not_go_on_is_killed_with_its_worker(runner: Runner, how: str) -> None:
    """The grandchild has left its session and ignores SIGTERM, and its parent is gone: the runner's mark is on it."""
    worker, beats = await runner.beating(how)
    try:
        if how == "revoked":
            await runner.machine.revoke(runner.machine.gate.records("authorization.issued")[-1]["authorization"])
        else:
            await runner.machine.drift()
        await asyncio.wait_for(worker.wait(), 20)
        assert worker.returncode == -signal.SIGKILL, "a worker that lives goes on with steps marked always()"
        async with asyncio.timeout(20):
            while followers(runner.machine):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        assert await beats.still()
    finally:
        if how == "drifted":
            await runner.machine.trust()


async def test_a_step_that_kills_the_follower_fails_its_job_in_the_end(runner: Runner) -> None:
    kills = r"""kill -9 "$(sed -n 's/.*"pid": \([0-9]*\).*/\1/p' "$0"/github/*.json)" """
    status, said = await runner.whole("/bin/sh", "-c", kills, str(runner.machine.folder / "state"))
    assert status == 1
    assert "::error title=ztrooted::execution.abandoned: " in said, said


async def test_a_worker_that_dies_ends_its_authorization(runner: Runner) -> None:
    worker, beats = await runner.beating("orphans")
    worker.kill()
    await worker.wait()
    async with asyncio.timeout(20):
        while followers(runner.machine):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    assert await beats.still()
    assert runner.machine.gate.records("execution.closed")[-1]["body"]["outcome"] == "killed"
