"""Slurm, on the nodes: what runs instead of a batch script, and whether this node could refuse.

``python -I -m ztrooted.integrations.slurm_node task SCRIPT [ARGUMENT…]`` is executed by slurmstepd in the place of a job's
batch script (deploy/slurm/ztrooted.c), as the job's user. It was given two descriptors that were opened as root: the
job's ticket, and a connection to the executor's agent, which listens for root only.

1. There is a ticket, and it is for this job of Slurm and exactly this script: ``request.malformed``, ``job.mismatch``.
2. It verifies here by the anchors, for this executor; the agent and the gateway verify it again.
3. The agent runs the script, if it has the digest that was authorized, under the lease; this process stands for it
   towards Slurm. Whatever ends this process ends the job.

``… check`` is Prolog and Epilog of a node. One that could not refuse is drained by Slurm: no agent, no anchors, no plugin,
or a slurmd that would start login shells of users (``sbatch --get-user-env``) before anything of ours runs.
"""

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from ztrooted import limits
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.executor.wire import PASSED_ON
from ztrooted.guard.agent import LocalAgent, unanswered
from ztrooted.guard.process import Streams
from ztrooted.guard.settings import agent_from_environment
from ztrooted.models import Job
from ztrooted.outcome import JobFailed, NotStarted, Outcome, end_of
from ztrooted.reasons import GateReason
from ztrooted.ticket import parse_ticket

START_FAILED = 126  # exit statuses as those of ``ztrooted exec``
KILLED = 137
CONNECT_S = 5.0
REASON = 200  # characters that a list of nodes shows
LOGIN, NO_LOGIN = Path("/bin/su"), Path("/bin/false")


async def run_task(argv: Sequence[str]) -> Outcome:
    """Have the agent run what the ticket is for, and stand for it. GateError where it may not run. Numbers: see above."""
    # 1.
    ticket = parse_ticket(_ticket())
    require_script(ticket.job, os.environ.get("SLURM_JOB_ID", ""), argv)
    # 2., 3.
    agent = agent_from_environment()
    process = await agent.start(ticket, Streams(0, 1, 2), _connection(agent))
    loop = asyncio.get_running_loop()
    for number in PASSED_ON:
        loop.add_signal_handler(number, process.signal, number)
    return await process.wait()


def require_script(job: Job, job_id: str, argv: Sequence[str]) -> None:
    """A ticket is for one job of Slurm and its script, without arguments that nobody has seen.

    GateError ``job.mismatch``.
    """
    if not job_id or job.run != job_id:
        raise GateError(GateReason.JOB_MISMATCH, f"the ticket is for Slurm job {job.run!s:.40}, this is {job_id!s:.40}")
    if list(argv) != job.argv:
        raise GateError(
            GateReason.JOB_MISMATCH,
            f"what is to run is not {' '.join(job.argv)!s:.200}, which was authorized",
            "give batch scripts no arguments: Slurm does not tell its controller which they are",
        )


def check(plugstack: Path) -> None:
    """EnvironmentProblem where this node could not refuse."""
    agent = agent_from_environment()
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with connection:
        connection.settimeout(CONNECT_S)
        try:
            connection.connect(str(agent.path))
        except OSError as error:
            raise unanswered(agent.path, error.strerror or "it did not answer in time") from error
    require_plugin(plugstack)
    if not LOGIN.samefile(NO_LOGIN):
        raise _misconfigured(
            f"slurmd would start {LOGIN} for users who ask for their login environment, before anything is authorized",
            f"have slurmd see {NO_LOGIN} there, as deploy/slurm/slurmd.service.d/ztrooted.conf does",
        )


def require_plugin(plugstack: Path) -> None:
    """The plugin is in use, by a line of its own, and all that it names is there. EnvironmentProblem otherwise."""
    try:
        lines = [line.split() for line in plugstack.read_text().splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise _misconfigured(f"{plugstack} can't be read: {error}", "name Slurm's PlugStackConfig") from error
    for line in lines:
        if line[:1] == ["required"] and len(line) > 1 and Path(line[1]).name == "ztrooted.so":
            told = dict(option.partition("=")[::2] for option in line[2:])
            missing = [name for name in ("task", "tickets", "socket") if not told.get(name, "").startswith("/")]
            if missing:
                raise _misconfigured(f"{plugstack} does not tell the plugin its {', '.join(missing)}", "add it")
            for path, needed in ((line[1], os.R_OK), (told["task"], os.X_OK)):
                if not os.access(path, needed):
                    raise _misconfigured(
                        f"{path}, which {plugstack} names, is not there or can't be used", "install it"
                    )
            return
    raise _misconfigured(
        f"{plugstack} has no line 'required …/ztrooted.so', so slurmstepd would run scripts by itself",
        "add the line of deploy/slurm/plugstack.conf",
    )


def drain(why: str) -> None:
    """Tell Slurm, and who looks at its nodes, why nothing runs here. Slurm drains it in any case, and keeps this reason."""
    node, scontrol = os.environ.get("SLURMD_NODENAME"), shutil.which("scontrol", path="/usr/bin:/usr/local/bin:/bin")
    if node and scontrol:
        told = ["State=DRAIN", f"Reason=ztrooted: {why[:REASON]}"]
        subprocess.run([scontrol, "update", f"NodeName={node}", *told], check=False, timeout=30)  # noqa: S603


def exit_status(outcome: Outcome) -> int:
    """As a shell has it."""
    if outcome.outcome == "not_started":
        return START_FAILED
    if outcome.outcome == "killed":
        return KILLED
    return 128 + outcome.signal if outcome.signal else outcome.exit_status or 0


def _ticket() -> bytes | None:
    """What was opened for us, or None."""
    number = _descriptor("ZTROOTED_TICKET_FD")
    if number is None:
        return None
    with os.fdopen(number, "rb") as file:
        return file.read(limits.BODY + 1)


def _connection(agent: LocalAgent) -> socket.socket:
    number = _descriptor("ZTROOTED_AGENT_FD")
    if number is None:
        raise unanswered(agent.path, "there was nobody to connect to when the job was started")
    return socket.socket(fileno=number)


def _descriptor(name: str) -> int | None:
    """A descriptor above the standard streams that this process was started with; no child of ours has it."""
    told = os.environ.get(name, "")
    if not told.isdecimal() or int(told) <= 2:
        return None
    os.set_inheritable(int(told), False)
    return int(told)


def _misconfigured(detail: str, remedy: str) -> EnvironmentProblem:
    return EnvironmentProblem(GateReason.CONFIG_INVALID, detail, remedy)


def _task(argv: Sequence[str]) -> int:
    try:
        outcome = asyncio.run(run_task(argv))
        outcome.demand()
    except JobFailed:
        pass  # its own output tells
    except GateError as error:
        told = end_of(error)
        sys.stderr.write(f"ztrooted: {told}\n")
        return KILLED if not isinstance(told, NotStarted) else START_FAILED
    return exit_status(outcome)


def _check(plugstack: Path) -> int:
    try:
        check(plugstack)
    except (GateError, OSError) as error:
        told = str(NotStarted.of(error) if isinstance(error, GateError) else error)
        sys.stderr.write(f"ztrooted: {told}\n")
        drain(told)
        return 1
    return 0


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser("ztrooted.integrations.slurm_node", description="Slurm's part on a node.")
    commands = parser.add_subparsers(dest="command", required=True)
    checking = commands.add_parser("check", help="Prolog and Epilog: could this node refuse?")
    checking.add_argument("--plugstack", type=Path, default=Path("/etc/slurm/plugstack.conf"))
    running = commands.add_parser("task", help="what the plugin starts instead of a batch script")
    running.add_argument("argv", nargs=argparse.REMAINDER)
    arguments = parser.parse_args()
    sys.exit(_check(arguments.plugstack) if arguments.command == "check" else _task(arguments.argv))


if __name__ == "__main__":
    main()
