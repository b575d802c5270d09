"""HTCondor, on an execution point: what runs instead of a job.

``python -I -m ztrooted.integrations.htcondor_task PROGRAM [ARGUMENT…]`` is what the wrapper (deploy/htcondor/ztrooted.c,
USER_JOB_WRAPPER) executes as the job's user, with the environment that the job was to have as bytes in a file.

1. The starter said which job this is, by its ad (``_CONDOR_JOB_AD``): ``job.malformed``.
2. The deputy has it authorized, and answers with a ticket, and a connection to the executor's agent.
3. The ticket is for this attempt and exactly this command line and environment: ``job.mismatch``. It verifies here by the
   anchors, for this executor; the agent and the gateway verify it again.
4. The agent runs the program, if it has the digest that was authorized, under the lease; this process stands for it towards
   the starter. Whatever ends this process ends the job.

A refusal, and an end that was not the job's own, is said by the file that HTCondor looks for
(``_CONDOR_WRAPPER_ERROR_FILE``, HTCondor Manual, "USER_JOB_WRAPPER"): HTCondor then takes our exit status not for the
job's, writes the reason to the job's event log, and queues it again. The next attempt is asked for anew.
"""

import asyncio
import hashlib
import os
import resource
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from ztrooted import canonical, limits
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.executor.wire import PASSED_ON
from ztrooted.guard.process import Streams
from ztrooted.guard.settings import agent_from_environment
from ztrooted.integrations.htcondor_job import DEPUTY, MAX_AD, Answer, Question, read_job_ad
from ztrooted.models import Job, compose, parse_json
from ztrooted.outcome import JobFailed, Killed, NotStarted, Outcome, end_of
from ztrooted.reasons import GateReason
from ztrooted.ticket import Ticket, parse_ticket

START_FAILED = 126  # exit statuses as those of ``ztrooted exec``
KILLED = 137
ANSWERED_S = 60.0  # longer than the deputy waits for the gateway
MAX_ENVIRONMENT = 4 << 20  # bytes: the kernel takes less
AD, ERROR_FILE = "_CONDOR_JOB_AD", "_CONDOR_WRAPPER_ERROR_FILE"


async def run_task(argv: Sequence[str], env: Mapping[str, str]) -> Outcome:
    """Have the agent run what was to run, and stand for it. GateError where it may not run. Numbers: see above."""
    # 1.
    agent = agent_from_environment()
    question = describe(argv, env)
    # 2.
    path = Path(os.environ.get("ZTROOTED_DEPUTY") or DEPUTY)
    answer, connection = await asyncio.to_thread(ask, path, question)
    # 3.
    ticket = parse_ticket(answer.ticket)
    require_attempt(ticket, question)
    # 4.
    process = await agent.start(ticket, Streams(0, 1, 2), connection)
    loop = asyncio.get_running_loop()
    for number in PASSED_ON:
        loop.add_signal_handler(number, process.signal, number)
    return await process.wait()


def describe(argv: Sequence[str], env: Mapping[str, str]) -> Question:
    """What the deputy is asked. GateError ``config.missing``, ``job.malformed`` or ``job.file_mismatch``."""
    if not env.get(AD):
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            f"{AD} is not set, so which job this is is not known",
            "have condor_starter execute this, as its USER_JOB_WRAPPER",
        )
    try:
        with Path(env[AD]).open(encoding="utf-8") as file:
            ad = file.read(MAX_AD + 1)
    except (OSError, ValueError) as error:
        raise GateError(GateReason.JOB_MALFORMED, f"the job's ad {env[AD]!s:.200} can't be read: {error}") from error
    read_job_ad(ad)
    try:
        with Path(argv[0]).open("rb") as program:
            digest = hashlib.file_digest(program, "sha256").hexdigest()
    except (OSError, IndexError) as error:
        raise GateError(GateReason.JOB_FILE_MISMATCH, f"the job's program can't be read: {error}") from error
    return compose(Question, ad=ad, argv=list(argv), env=dict(env), cwd=str(Path.cwd()), program=digest)


def ask(path: Path, question: Question) -> tuple[Answer, socket.socket | None]:
    """The deputy's answer, and a connection to the agent. NotStarted for a no, EnvironmentProblem where none comes."""
    asking = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    descriptors: list[int] = []
    with asking:
        asking.settimeout(ANSWERED_S)
        data = b""
        try:
            asking.connect(str(path))
            asking.sendall(question.model_dump_json().encode() + b"\n")
            while not data.endswith(b"\n") and len(data) <= limits.BODY:
                part, passed, _, _ = socket.recv_fds(asking, 1 << 16, 1)
                descriptors += passed
                if not part:
                    break
                data += part
        except OSError as error:
            raise _unanswered(path, error.strerror or "it did not answer in time") from error
    connection = socket.socket(fileno=descriptors[0]) if descriptors else None
    if not data:
        raise _unanswered(path, "it hung up")
    answer: Answer = parse_json(Answer, data, maximum=limits.BODY)
    if answer.reason:
        raise NotStarted(answer.reason, answer.detail, answer.remedy)
    if connection is None:
        raise _unanswered(path, "it gave no connection to the executor's agent")
    return answer, connection


def require_attempt(ticket: Ticket, question: Question) -> None:
    """A ticket is for one attempt of one job, and for what was asked. GateError ``job.mismatch``."""
    named, job = read_job_ad(question.ad), ticket.job
    same = (job.run, job.attempt, job.argv, job.cwd, job.env, job.files) == (
        named.run,
        named.attempt,
        question.argv,
        question.cwd,
        canonical.digest(dict(question.env)),
        {question.argv[0]: question.program},
    )
    if not same:
        raise GateError(
            GateReason.JOB_MISMATCH,
            f"the ticket is for {_shown(job)}, and not for attempt {named.attempt} of {named.run}",
        )


def environment(number: str) -> dict[str, str]:
    """What the wrapper kept. EnvironmentProblem ``config.missing`` where it did not, ``job.malformed`` for other bytes."""
    if not number.isdecimal() or int(number) <= 2:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            "the wrapper did not say what the job's environment is",
            "have USER_JOB_WRAPPER name what deploy/htcondor/ztrooted.c is compiled to",
        )
    os.set_inheritable(int(number), False)
    with os.fdopen(int(number), "rb") as file:
        file.seek(0)
        data = file.read(MAX_ENVIRONMENT + 1)
    try:
        pairs = [one.decode().partition("=") for one in data.split(b"\0") if one]
    except UnicodeDecodeError as error:
        raise GateError(GateReason.JOB_MALFORMED, "the job's environment is not UTF-8") from error
    return {name: value for name, _, value in pairs if name}


def tell(error: GateError, path: str | None) -> None:
    """Say why, where HTCondor looks and where its user does. One line: it ends up in the job's event log."""
    told = " ".join(f"ztrooted: {end_of(error)}".split())
    if path:
        with suppress(OSError):
            written = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(written, "w") as file:
                file.write(told + "\n")
    sys.stderr.write(told + "\n")


def end_as(outcome: Outcome) -> int:
    """The job's own exit status; where a signal ended it, this process ends by the same one."""
    if outcome.signal:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        with suppress(OSError, ValueError):
            signal.signal(outcome.signal, signal.SIG_DFL)
        os.kill(os.getpid(), outcome.signal)
        return 128 + outcome.signal
    return outcome.exit_status or 0


def _shown(job: Job) -> str:
    return f"attempt {job.attempt} of {job.run} ({' '.join(job.argv)!s:.200})"


def _unanswered(path: Path, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.EXECUTION_AGENT_LOST,
        f"no deputy answers at {path}: {why}",
        "start ztrooted-htcondor.service, or name its socket with ZTROOTED_DEPUTY in node.env",
    )


def main() -> None:
    """Command line."""
    env: dict[str, str] = {}
    try:
        env = environment(os.environ.get("ZTROOTED_ENVIRONMENT_FD", ""))
        outcome = asyncio.run(run_task(sys.argv[1:], env))
        with suppress(JobFailed):  # its own output tells
            outcome.demand()
    except (GateError, OSError) as error:
        refusal = (
            error
            if isinstance(error, GateError)
            else EnvironmentProblem(GateReason.CONFIG_INVALID, str(error), "see deploy/htcondor/node.env")
        )
        tell(refusal, env.get(ERROR_FILE))
        sys.exit(KILLED if isinstance(refusal, Killed) else START_FAILED)
    sys.exit(end_as(outcome))


if __name__ == "__main__":
    main()
