"""GitHub Actions: a job of a self-hosted runner is authorized before its first step, and killed when that is revoked.

``python -I -m ztrooted.integrations.github started`` and ``… completed`` are what the runner's job hooks execute
(deploy/github). The steps are processes of the runner, not of the executor's agent, so the agent holds a stand-in for
them, whose authorization names the job.

1. The runner says which job this is, by variables; one that is missing, or empty, is a no.
2. The hook is a child of a runner's worker: who is to be killed is known before anybody is asked.
3. The gateway authorizes the job on this machine's executor: the workflow's file and ref, the run, its attempt, the job,
   its commit.
4. A follower, outside of the runner's tree, has the agent run the stand-in under its lease. Only then does the hook
   succeed, and the first step begin.
5. The stand-in ends, for whatever reason but ``completed``: the follower kills the worker with everything under it.
6. ``completed`` fails the job where the follower is not there any more.

A refusal is an ``::error::`` line in the job's log, with reason and remedy.
"""

import argparse
import asyncio
import hashlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ztrooted.client.orchestrator import DECIDED_S, Orchestrator
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.agent import START_S
from ztrooted.guard.settings import OrchestratorSettings, agent_from_environment
from ztrooted.integrations.github_follower import Followed, ancestor, birth, follow
from ztrooted.kept_files import replace_secret
from ztrooted.log_memory import state_folder
from ztrooted.outcome import NotStarted, end_of
from ztrooted.reasons import GateReason
from ztrooted.work import Work, describe, name_of

HOLD = ["/bin/sh", "-c", "read -r completed"]  # exit status 0 only if it is told so
MARK = "RUNNER_TRACKING_ID"  # which the runner gives to all that a job starts, and kills what is left by
NEEDED = (
    "GITHUB_WORKFLOW_REF",
    "GITHUB_RUN_ID",
    "GITHUB_RUN_ATTEMPT",
    "GITHUB_JOB",
    "GITHUB_SHA",
    "GITHUB_ACTOR",
    "GITHUB_EVENT_NAME",
    "RUNNER_NAME",
    MARK,
)
COMPLETED_S = 15.0  # for a stand-in to end and for that to be told


@dataclass(frozen=True, slots=True)
class RunnerJob:
    """What the runner says of the job that it is about to run."""

    told: Mapping[str, str]

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> "RunnerJob":
        """EnvironmentProblem ``config.missing`` naming what is not told."""
        for name in NEEDED:
            if not variables.get(name, "").strip():
                raise EnvironmentProblem(
                    GateReason.CONFIG_MISSING,
                    f"{name} is not set, so which job this is is not known",
                    "have a runner's ACTIONS_RUNNER_HOOK_JOB_STARTED name deploy/github/started.sh",
                )
        return cls({name: variables[name] for name in NEEDED})

    @property
    def work(self) -> Work:
        """The stand-in, which names the job. UsageProblem ``job.malformed`` for what the runner can't mean."""
        told = self.told
        attempt = told["GITHUB_RUN_ATTEMPT"]
        return describe(
            [*HOLD, "github", told["GITHUB_SHA"], told["GITHUB_ACTOR"], told["GITHUB_EVENT_NAME"]],
            workflow=name_of(told["GITHUB_WORKFLOW_REF"]),
            run=name_of(told["GITHUB_RUN_ID"]),
            step=name_of(told["GITHUB_JOB"]),
            attempt=int(attempt) if attempt.isdecimal() else 0,
        )

    @property
    def record(self) -> Path:
        """Where a runner's follower is written down: a runner has one job at a time."""
        name = hashlib.sha256(self.told["RUNNER_NAME"].encode()).hexdigest()[:32]
        return state_folder() / "github" / f"{name}.json"


async def started(job: RunnerJob) -> str:
    """Have the job authorized and followed; its authorization. GateError where it must not run. Numbers: see above."""
    with suppress(FileNotFoundError):
        job.record.unlink()
    # 2.
    worker = ancestor()
    # 3.
    settings, agent = OrchestratorSettings.from_environment(), agent_from_environment()
    lasts, within = _seconds("ZTROOTED_MAX_RUNTIME_S"), _seconds("ZTROOTED_WITHIN_S")
    work = job.work
    async with Orchestrator(
        settings.gateway, ca=settings.ca, token=settings.token, anchors=settings.anchors
    ) as orchestrator:
        dispatch = await orchestrator.authorize(work, agent.executor, max_runtime_s=lasts, within_s=within or DECIDED_S)
    # 4.
    followed = Followed(worker, job.told[MARK], str(job.record), dispatch.ticket.encode())
    follower = _start(followed)
    told = await asyncio.to_thread(_first_word, follower)
    if "running" not in told:
        follower.kill()
        raise NotStarted(
            told.get("reason", str(GateReason.EXECUTION_AGENT_LOST)),
            told.get("detail", "the follower ended before the agent had begun"),
            told.get("remedy", ""),
        )
    job.record.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    here = {"pid": follower.pid, "born": birth(follower.pid), "authorization": dispatch.authorization}
    replace_secret(job.record, json.dumps(here).encode())
    return dispatch.authorization


def completed(job: RunnerJob) -> None:
    """End what stood for the job. NotStarted where nothing did any more: GateError of what the follower said."""
    lost = NotStarted(
        GateReason.EXECUTION_ABANDONED,
        "nobody followed this job's authorization any more: what its last steps did was not governed",
        "see why the follower ended: a step of the job may have killed it",
    )
    try:
        record = json.loads(job.record.read_bytes())
        pidfd = os.pidfd_open(record["pid"])
    except (OSError, ValueError, KeyError) as error:
        raise lost from error
    try:
        if "ended" in record or birth(record["pid"]) != record["born"]:
            raise lost
        signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        poll.poll(1000 * COMPLETED_S)
    except ProcessLookupError as error:
        raise lost from error
    finally:
        os.close(pidfd)
    record = json.loads(job.record.read_bytes())
    job.record.unlink()
    if record.get("ended") != "completed":
        raise lost


def _start(followed: Followed) -> "subprocess.Popen[bytes]":
    """A follower, in a session of its own and without the mark by which a runner ends what a job has left."""
    kept = {name: value for name, value in os.environ.items() if name != MARK and not name.startswith("GITHUB_")}
    kept.pop("ZTROOTED_TOKEN_FILE", None)
    follower = subprocess.Popen(  # noqa: S603
        [sys.executable, "-I", "-m", __spec__.name, "follow"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=kept,
        start_new_session=True,
    )
    if follower.stdin is None:
        raise RuntimeError("it has an input")
    with suppress(BrokenPipeError), follower.stdin:
        follower.stdin.write(followed.encode())
    return follower


def _first_word(follower: "subprocess.Popen[bytes]") -> dict[str, Any]:
    """Whether the stand-in runs; nothing where the follower does not say."""
    if follower.stdout is None:
        return {}
    ready, _, _ = select.select([follower.stdout], [], [], START_S + 5)
    try:
        told = json.loads(follower.stdout.readline()) if ready else {}
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}


def _seconds(name: str) -> int | None:
    """A setting that may be left out. EnvironmentProblem ``config.invalid`` for what is no number."""
    text = os.environ.get(name, "")
    if text and not text.isdecimal():
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"{name} is {text!s:.40}", "set it to whole seconds, or not at all"
        )
    return int(text) if text else None


def shown(error: GateError) -> str:
    """A refusal as a line that the job's log shows as its error."""
    text = str(end_of(error))
    for letter, instead in (("%", "%25"), ("\r", "%0D"), ("\n", "%0A")):
        text = text.replace(letter, instead)
    return f"::error title=ztrooted::{text}"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser("ztrooted.integrations.github", description="Job hooks of a runner.")
    parser.add_argument("hook", choices=["started", "completed", "follow"])
    hook = parser.parse_args().hook
    if hook == "follow":
        sys.exit(asyncio.run(follow(Followed.parse(sys.stdin.buffer.read()), sys.stdout)))
    try:
        job = RunnerJob.from_environment()  # 1.
        if hook == "started":
            print(f"ztrooted: authorized as {asyncio.run(started(job))}", flush=True)
        else:
            completed(job)
    except GateError as error:
        print(shown(error), flush=True)
        sys.exit(1)
    except OSError as error:
        print(shown(EnvironmentProblem(GateReason.CONFIG_INVALID, str(error), "see the hook's settings")), flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
