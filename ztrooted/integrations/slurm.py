"""Slurm, where its controller is: nothing is granted before the gateway has authorized a batch script on its node.

``python -I -m ztrooted.integrations.slurm authorize --nodes nodes.json --tickets FOLDER`` is the PrologSlurmctld. Slurm
waits for it, and starts nothing where it fails; a batch job is then queued again, which asks again, as each requeue does.

1. No ticket of an earlier attempt is left, whatever happens next.
2. Slurm says which job this is, by variables; one that is missing, or empty, is a no.
3. Its one node is in the executor set, which is never empty. A list of nodes, and none, are no name in it.
4. Every node's Prolog is the one that refuses: slurm.conf has Prolog, Epilog, PrologFlags=Alloc and a plugin stack.
5. The gateway authorizes the script, by its digest, as this user on this executor. Nothing else of the job is taken over:
   not its arguments, not its environment.
6. The ticket is written to a folder that the nodes see. It is trusted with nothing: what it changes does not verify.

PrologSlurmctld has neither PATH nor SLURM_CONF, and what it prints is lost. So a refusal is written to the job
(``AdminComment``, ``scontrol show job``), with reason and remedy.
"""

import argparse
import asyncio
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from ztrooted import canonical
from ztrooted.client.orchestrator import DECIDED_S, Dispatch, Orchestrator
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.executor_set import ExecutorSet, read_executor_set
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.kept_files import replace_secret
from ztrooted.models import Job, compose
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason
from ztrooted.work import PATH, Work

WORKFLOW = "slurm"
SCONTROL, SCANCEL = "/usr/bin/scontrol", "/usr/bin/scancel"
COMMAND_S = 30.0  # Slurm's MessageTimeout is ten seconds, and its commands try three times
COMMENT = 1000  # characters; Slurm refuses comments of 1024
GATE = ("Prolog", "Epilog", "PlugStackConfig")  # without one of these a node runs scripts by itself
# What a script is told of its job. All of it comes from Slurm and is authorized; the submitter's environment is not.
TOLD = (
    "SLURM_CLUSTER_NAME",
    "SLURM_JOB_ID",
    "SLURM_JOB_NAME",
    "SLURM_JOB_NODELIST",
    "SLURM_JOB_PARTITION",
    "SLURM_JOB_RESTART_COUNT",
    "SLURM_JOB_USER",
    "SLURM_ARRAY_JOB_ID",
    "SLURM_ARRAY_TASK_ID",
)


@dataclass(frozen=True, slots=True)
class Allocation:
    """What is about to be granted. ``attempt`` counts from 1; ``node`` is what Slurm has for a list of nodes."""

    job: str
    node: str
    partition: str
    user: str
    folder: str
    attempt: int
    told: dict[str, str]


class Slurm:
    """A cluster's commands. EnvironmentProblem where one fails or does not answer."""

    def __init__(self, conf: str, scontrol: str = SCONTROL, scancel: str = SCANCEL) -> None:
        self._variables = {"SLURM_CONF": conf, "PATH": PATH}
        self._scontrol, self._scancel = scontrol, scancel

    @classmethod
    def from_environment(cls, variables: Mapping[str, str] = os.environ) -> "Slurm":
        """``SLURM_CONF``, which a PrologSlurmctld is not given."""
        conf = variables.get("SLURM_CONF", "")
        if not conf:
            raise EnvironmentProblem(
                GateReason.CONFIG_MISSING, "SLURM_CONF is not set", "set it: the path of the cluster's slurm.conf"
            )
        return cls(conf)

    def script(self, job: str) -> bytes:
        """A job's batch script. EnvironmentProblem for a job that has none, as those of salloc and srun."""
        script = self._run(self._scontrol, "write", "batch_script", job, "-")
        if not script:
            raise EnvironmentProblem(
                GateReason.JOB_MALFORMED, f"Slurm job {job} has no batch script", "use sbatch: nothing else is governed"
            )
        return script

    def settings(self) -> dict[str, str]:
        """``scontrol show config``; what is not set is not in it."""
        lines = self._run(self._scontrol, "show", "config").decode("utf-8", "replace").splitlines()
        pairs = (line.partition("=")[::2] for line in lines)
        return {name.strip(): value.strip() for name, value in pairs if value.strip() not in {"", "(null)"}}

    def running(self) -> dict[str, str]:
        """The authorization of each job that runs, as its comment says."""
        shown = self._run(self._scontrol, "--oneliner", "show", "job").decode("utf-8", "replace")
        found = {}
        for line in shown.splitlines():
            job, state = re.search(r"^JobId=(\d+)", line), re.search(r" JobState=(\w+)", line)
            authorized = re.search(r" AdminComment=ztrooted: authorized ([A-Za-z0-9_-]+)", line)
            if job and authorized and state and state[1] in {"RUNNING", "CONFIGURING", "SUSPENDED"}:
                found[job[1]] = authorized[1]
        return found

    def comment(self, job: str, text: str) -> None:
        """What is shown with a job. A user can't set it."""
        self._run(self._scontrol, "update", f"JobId={job}", f"AdminComment=ztrooted: {text}"[:COMMENT])

    def drain(self, node: str, why: str) -> None:
        """Nothing more starts on a node until an operator resumes it. (DOWN would end when slurmd registers again.)"""
        self._run(self._scontrol, "update", f"NodeName={node}", "State=DRAIN", f"Reason=ztrooted: {why}"[:COMMENT])

    def kill(self, job: str) -> None:
        """End a job, its script and whatever else is in its allocation, without grace."""
        self._run(self._scancel, "--full", "--signal=KILL", job)

    def _run(self, *command: str) -> bytes:
        try:
            done = subprocess.run(  # noqa: S603 -- Slurm's own commands, no shell
                command, capture_output=True, env=self._variables, timeout=COMMAND_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise _failed(command, str(error)) from error
        if done.returncode != 0:
            raise _failed(command, done.stderr.decode("utf-8", "replace").strip()[:300])
        return done.stdout


def read_allocation(variables: Mapping[str, str]) -> Allocation:
    """What Slurm says by variables. EnvironmentProblem ``config.missing`` naming the first that is not there."""

    def told(name: str) -> str:
        value = variables.get(name, "")
        if not value:
            raise EnvironmentProblem(
                GateReason.CONFIG_MISSING, f"{name} is not set", "have slurmctld call this, as its PrologSlurmctld"
            )
        return value

    job = told("SLURM_JOB_ID")
    if not job.isdecimal():
        raise EnvironmentProblem(GateReason.CONFIG_INVALID, f"SLURM_JOB_ID is {job!r:.40}, which is no number")
    restarts = told("SLURM_JOB_RESTART_COUNT")
    return Allocation(
        job=job,
        node=told("SLURM_JOB_NODELIST"),
        partition=told("SLURM_JOB_PARTITION"),
        user=f"{told('SLURM_JOB_UID')}:{told('SLURM_JOB_GID')}",
        folder=told("SLURM_JOB_WORK_DIR"),
        attempt=1 + int(restarts) if restarts.isdecimal() else 0,
        told={name: variables[name] for name in TOLD if variables.get(name)},
    )


def describe_script(allocation: Allocation, script: bytes, spool: str) -> Work:
    """The job that a batch script is, where its node's slurmd puts it. UsageProblem for what can't be meant."""
    folder = spool.replace("%n", allocation.node).replace("%h", allocation.node)
    path = f"{folder}/job{int(allocation.job):05d}/slurm_script"
    env = {"PATH": PATH, "SLURM_SUBMIT_DIR": allocation.folder, **allocation.told}
    job = compose(
        Job,
        workflow=WORKFLOW,
        run=allocation.job,
        step=allocation.partition,
        attempt=allocation.attempt,
        argv=[path],
        env=canonical.digest(dict(env)),
        cwd=allocation.folder,
        files={path: hashlib.sha256(script).hexdigest()},
        user=allocation.user,
    )
    return Work(job, env)


def require_gate(settings: Mapping[str, str]) -> None:
    """EnvironmentProblem ``config.invalid`` where slurm.conf lets nodes run what they were not asked about."""
    missing = [name for name in GATE if name not in settings]
    if "Alloc" not in settings.get("PrologFlags", "").split(","):
        missing.append("PrologFlags=Alloc")
    if missing:
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"slurm.conf has no {', '.join(missing)}, so a node that could not refuse would run this",
            "add the lines of deploy/slurm/slurm.conf.part, and 'scontrol reconfigure'",
        )


async def authorize(
    orchestrator: Orchestrator, slurm: Slurm, executors: ExecutorSet, allocation: Allocation, within_s: float
) -> Dispatch:
    """Ask for one allocation. Numbers: see the module."""
    # 3.
    executor = executors[allocation.node]
    # 4.
    settings = slurm.settings()
    require_gate(settings)
    # 5.
    work = describe_script(allocation, slurm.script(allocation.job), settings.get("SlurmdSpoolDir", ""))
    return await orchestrator.authorize(work, executor, within_s=within_s)


async def hand_out(arguments: argparse.Namespace, slurm: Slurm, allocation: Allocation) -> None:
    """Ask, and leave the ticket where the node finds it. GateError where the answer is no."""
    asked, executors = OrchestratorSettings.from_environment(), read_executor_set(arguments.nodes)
    async with Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
        dispatch = await authorize(orchestrator, slurm, executors, allocation, arguments.within)
    slurm.comment(allocation.job, f"authorized {dispatch.authorization}")
    # 6.
    replace_secret(ticket_path(arguments.tickets, allocation.job), dispatch.ticket.encode().encode())


def ticket_path(folder: Path, job: str) -> Path:
    """Where the ticket of a job is."""
    return folder / f"{job}.ticket"


def _failed(command: tuple[str, ...], why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.CONFIG_INVALID,
        f"{' '.join(command[:3])} failed: {why}",
        "see whether slurmctld runs, and whether SLURM_CONF is its slurm.conf",
    )


def _authorize(arguments: argparse.Namespace) -> int:
    try:
        job = os.environ.get("SLURM_JOB_ID", "")
        if job.isdecimal():  # 1.
            ticket_path(arguments.tickets, job).unlink(missing_ok=True)
        slurm = Slurm.from_environment()
        try:
            asyncio.run(hand_out(arguments, slurm, read_allocation(os.environ)))  # 2.
        except GateError as error:
            if job.isdecimal():
                with suppress(GateError):
                    slurm.comment(job, str(NotStarted.of(error)))
            raise
    except (GateError, OSError) as error:
        told = NotStarted.of(error) if isinstance(error, GateError) else error
        sys.stderr.write(f"ztrooted: {told}\n")
        return 1
    return 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser("ztrooted.integrations.slurm", description="Slurm's part at its controller.")
    commands = parser.add_subparsers(dest="command", required=True)
    asking = commands.add_parser("authorize", help="PrologSlurmctld: may this allocation be granted?")
    following = commands.add_parser("follow", help="drain nodes and cancel jobs whose authorization was revoked")
    for command in (asking, following):
        command.add_argument("--nodes", type=Path, required=True, help="JSON object: executor id by node")
    asking.add_argument("--tickets", type=Path, required=True, help="folder that controller and nodes share")
    asking.add_argument("--within", type=float, default=DECIDED_S, help="seconds that a decision may take")
    arguments = parser.parse_args()
    if arguments.command == "authorize":
        sys.exit(_authorize(arguments))
    from ztrooted.integrations.slurm_follower import main as follow  # noqa: PLC0415 -- a PrologSlurmctld is in a hurry

    follow(arguments)


if __name__ == "__main__":
    main()
