"""GitHub Actions: the hooks, executed as a runner does it, with the environment that it gives. No runner is run here.

What stands for it is a process of its worker's name: it executes the hooks with bash, runs a step where the first one
succeeds, and fails where one fails.
"""

import asyncio
import os
import shutil
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.agent_in_process import BEATS, ROOT, Beats, MachineInProcess

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

PYTHON = Path(sys.executable).resolve()
WORKER = """
import os, subprocess, sys
hooks, *step = sys.argv[1:]
def hook(name):
    bash = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"]
    return subprocess.run([*bash, f"{hooks}/{name}.sh"]).returncode
if hook("started"): sys.exit(1)
status = subprocess.run(step).returncode
sys.exit(hook("completed") or status)
"""
RUNNER = {
    "GITHUB_WORKFLOW_REF": "octo/site/.github/workflows/ci.yml@refs/heads/main",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_RUN_ATTEMPT": "3",
    "GITHUB_JOB": "build",
    "GITHUB_SHA": "ffac537e6cbbf934b08745a378932722df287a53",
    "GITHUB_ACTOR": "octocat",
    "GITHUB_EVENT_NAME": "push",
    "RUNNER_NAME": "here",
    "RUNNER_TRACKING_ID": "github_0e2f8d1c",
}


@dataclass
class Runner:
    """A folder of hooks, and what runs them."""

    machine: MachineInProcess
    folder: Path

    async def start(self, *step: str, name: str = "Runner.Worker", **changed: str) -> Any:
        """Begin a job. ``changed`` are settings where they are ours, else the job's environment."""
        settings = {key: value for key, value in (await self.machine.environment()).items() if key[:4] == "ZTRO"}
        settings |= {"ZTROOTED_PYTHON": sys.executable, "ZTROOTED_WITHIN_S": "10"}
        settings |= {key: value for key, value in changed.items() if key.startswith("ZTROOTED_")}
        shutil.copytree(ROOT / "deploy" / "github", self.folder, dirs_exist_ok=True)
        (self.folder / "runner.env").write_text("".join(f"{key}={value!r}\n" for key, value in settings.items()))
        worker = self.folder / name
        worker.unlink(missing_ok=True)
        worker.symlink_to(PYTHON)
        told = {**RUNNER, **{key: value for key, value in changed.items() if not key.startswith("ZTROOTED_")}}
        return await asyncio.create_subprocess_exec(
            str(worker),
            *("-I", "-S", "-c", WORKER, str(self.folder), *step),
            env={"PATH": os.environ["PATH"], "ZTROOTED_GATEWAY": "https://127.0.0.1:1", "PYTHONPATH": "/tmp", **told},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
        )

    async def whole(self, *step: str, **changed: str) -> tuple[int, str]:
        worker = await self.start(*step, **changed)
        said, _ = await worker.communicate()
        return worker.returncode, said.decode()

    async def beating(self, name: str, **changed: str) -> tuple[Any, Beats]:
        beats = Beats(self.folder / name)
        worker = await self.start(sys.executable, "-I", "-S", "-c", BEATS, str(beats.base), **changed)
        await beats.beating()
        return worker, beats

    def touch(self) -> tuple[str, ...]:
        return "/bin/sh", "-c", 'printf ran > "$0"', str(self.folder / "ran")

    @property
    def ran(self) -> bool:
        return (self.folder / "ran").exists()


@pytest.fixture
def runner(shared_machine: MachineInProcess, tmp_path: Path) -> Runner:
    return Runner(shared_machine, tmp_path)


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
    status, said = await runner.whole(*runner.touch())
    assert (status, runner.ran) == (0, True), said
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
        status, said = await runner.whole(*runner.touch())
    finally:
        await runner.machine.trust()
    assert (status, runner.ran) == (1, False)
    assert said.startswith("::error title=ztrooted::ima.not_allowed: "), said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ZTROOTED_GATEWAY": "https://127.0.0.1:1", "ZTROOTED_WITHIN_S": "1"}, "environment.gateway_unreachable"),
        ({"ZTROOTED_GATEWAY": ""}, "config.missing: ZTROOTED_GATEWAY"),
        ({"ZTROOTED_ANCHORS": "/nonexistent"}, "config.missing"),
        ({"ZTROOTED_CA": "/etc/hostname"}, "environment."),
        ({"ZTROOTED_EXECUTOR": "ex-" + "0" * 32}, "dispatch.executor_unknown"),
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
    status, said = await runner.whole(*runner.touch(), **changed)
    assert (status, runner.ran) == (1, False), said
    assert f"::error title=ztrooted::{told}" in said


async def test_a_token_that_is_none_fails_the_job(runner: Runner, tmp_path: Path) -> None:
    (tmp_path / "none").write_text("zt-nobody")
    (tmp_path / "none").chmod(0o600)
    status, said = await runner.whole(*runner.touch(), ZTROOTED_TOKEN_FILE=str(tmp_path / "none"))
    assert (status, runner.ran) == (1, False)
    assert "::error title=ztrooted::auth." in said, said


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
