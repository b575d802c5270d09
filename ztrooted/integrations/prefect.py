"""Prefect 3: a worker that has each flow run authorized before it launches it, and runs it as a job of this machine's agent.

    ZTROOTED_EXECUTORS='{"default": "ex-…"}' python -m ztrooted.integrations.prefect --pool reports

The job is ``prefect flow-run execute`` for one flow run, with all that it starts; the executor is the one behind the work
queue that the run came from. The worker holds the token, the job has none. What Prefect calls a crash has our reason in its
message, with what to do about it. A run that is submitted again is another dispatch; retries of a flow and of its tasks
happen inside of its job. A run that is cancelled has as long to end as Prefect gives its own processes, and is killed then.
"""

import argparse
import asyncio
import os
import shlex
import sys
from collections.abc import Mapping
from typing import Any

import httpx
from prefect.exceptions import PrefectException
from prefect.workers.base import BaseJobConfiguration, BaseWorker, BaseWorkerResult

from ztrooted.client.orchestrator import DECIDED_S, Orchestrator
from ztrooted.errors import GateError
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.executor_set import ExecutorSet, parse_executors
from ztrooted.guard.process import GuardedProcess
from ztrooted.guard.settings import OrchestratorSettings, listening_agent
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason
from ztrooted.ticket import parse_ticket
from ztrooted.work import Work, describe, name_of

EXECUTE = ["-m", "prefect", "flow-run", "execute"]
INHERITED = ("HOME", "LANG", "PATH", "PYTHONPATH", "TZ")  # what of the worker's environment a job has
OURS = "ZTROOTED_"  # variables of which it has none
LOOK_S = 5.0  # between two looks whether a run was cancelled; to cancel is its user's wish, and no revocation
CANCELLED = GateReason.EXECUTION_ABANDONED
WHY = "the run was cancelled, and its job, which did not end by itself in time, was killed with all that it had started"
GRACE_S = 30.0  # as long as Prefect's process worker waits between SIGTERM and SIGKILL


class GovernedResult(BaseWorkerResult):  # type: ignore[misc]  # Prefect is not there when types are checked
    """How a job ended; ``identifier`` is its authorization."""


class GovernedWorker(BaseWorker):  # type: ignore[misc]
    """A worker of work pools of type ``ztrooted``. ``executors`` are ids by work queue."""

    type = "ztrooted"
    job_configuration = BaseJobConfiguration
    _display_name = "ztrooted"
    _description = "Runs flows on a machine that has proved what it is, and ends them when it no longer does."
    within_s: float = DECIDED_S
    look_s: float = LOOK_S
    grace_s: float = GRACE_S

    def __init__(self, work_pool_name: str, *arguments: Any, executors: Mapping[str, str], **named: Any) -> None:
        """EnvironmentProblem ``config.*`` where it could not refuse: without executors, gateway, token, anchors, agent."""
        super().__init__(work_pool_name, *arguments, **named)
        self.executors = ExecutorSet(executors)
        self.settings = OrchestratorSettings.from_environment()
        self.agent: LocalAgent = listening_agent("worker")
        self._jobs: dict[str, GuardedProcess] = {}

    async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> GovernedResult:
        """Ask, have run what was permitted, and see it to its end. NotStarted, Killed; JobFailed is a result."""
        try:
            work = describe_run(flow_run, configuration)
            process = await self.deliver(work, await self.permit(work, str(flow_run.work_queue_name)))
        except NotStarted:
            raise
        except GateError as error:
            raise NotStarted.of(error) from error
        self._jobs[process.authorization] = process
        try:
            async with process:
                if task_status is not None:
                    task_status.started(process.authorization)
                cancelling = asyncio.create_task(self._end_if_cancelled(flow_run, process))
                try:
                    outcome = await process.wait()
                finally:
                    cancelling.cancel()
                    await asyncio.wait({cancelling})
        finally:
            del self._jobs[process.authorization]
        if outcome.outcome != "exited":
            try:
                outcome.demand()
            except GateError as error:
                if error.reason == CANCELLED:
                    await self._mark_flow_run_as_cancelled(flow_run, {"message": f"{CANCELLED}: {WHY}"})
                else:
                    await self._propose_crashed_state(flow_run, str(error))
                raise
        status = outcome.exit_status if outcome.exit_status is not None else -(outcome.signal or 1)
        return GovernedResult(status_code=status, identifier=process.authorization)

    async def permit(self, work: Work, queue: str) -> str:
        """Where work is handed out: the ticket for a job on the executor behind a work queue."""
        asked, executor = self.settings, self.executors[queue]
        async with Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
            return (await orchestrator.authorize(work, executor, within_s=self.within_s)).ticket.encode()

    async def deliver(self, work: Work, ticket: str | None) -> GuardedProcess:
        """Where it runs: verify the ticket, and start the job under its lease."""
        parsed = parse_ticket(ticket)
        if parsed.job != work.job:
            raise GateError(GateReason.JOB_MISMATCH, "the ticket is for another job")
        return await self.agent.start(parsed)

    async def _end_if_cancelled(self, flow_run: Any, process: GuardedProcess) -> None:
        """Once somebody cancels a run: let what is in its job end it, and its hooks run; then kill it.

        Prefect's own worker ends what has not begun, and nothing else. What has begun is left to ``flow-run execute``, in
        the job, which waits without end where something that the flow started lives on, or where it does not hear of it.
        """
        while True:
            await asyncio.sleep(self.look_s)
            try:
                state = (await self.client.read_flow_run(flow_run.id)).state
            except (
                httpx.HTTPError,
                PrefectException,
            ):  # who does not answer has cancelled nothing, and the lease goes on
                continue
            if state is not None and (state.is_cancelling() or state.is_cancelled()):
                break
        await asyncio.sleep(self.grace_s)
        process.kill(str(CANCELLED))

    async def kill_infrastructure(self, infrastructure_pid: str, *_asked: Any, **_more: Any) -> None:
        """End a run that was cancelled, at once."""
        if job := self._jobs.get(infrastructure_pid):
            job.kill(str(CANCELLED))
            await job.wait()


def describe_run(flow_run: Any, configuration: Any) -> Work:
    """The job that a flow run is. Its code and parameters are what the job asks Prefect's server for, and not in it."""
    told = configuration.command
    command = [sys.executable, *EXECUTE] if told in {None, "prefect flow-run execute"} else shlex.split(told)
    inherited = {name: os.environ[name] for name in INHERITED if name in os.environ}
    env = {name: value for name, value in configuration.env.items() if value is not None and not name.startswith(OURS)}
    labels = configuration.labels
    return describe(
        command,
        env={**inherited, **env, "PREFECT__FLOW_RUN_ID": str(flow_run.id)},
        workflow=name_of(labels.get("prefect.io/flow-name") or "prefect"),
        run=str(flow_run.id),
        step=name_of(labels.get("prefect.io/deployment-name") or "flow"),
        attempt=flow_run.run_count + 1,
    )


def main(worker: type[GovernedWorker] = GovernedWorker) -> int:
    """Start a worker by what the command line and ``ZTROOTED_EXECUTORS`` say."""
    parser = argparse.ArgumentParser(prog="python -m ztrooted.integrations.prefect")
    parser.add_argument("--pool", required=True, help="the work pool to take flow runs from")
    parser.add_argument("--name", help="the worker's name")
    parser.add_argument("--limit", type=int, help="how many flow runs it runs at once")
    asked = parser.parse_args()
    try:
        executors = parse_executors(os.environ.get("ZTROOTED_EXECUTORS"), "ZTROOTED_EXECUTORS")
        made = worker(asked.pool, name=asked.name, limit=asked.limit, executors=executors)
    except GateError as error:
        sys.stderr.write(f"{NotStarted.of(error)}\n")
        return 3
    asyncio.run(made.start())
    return 0


if __name__ == "__main__":
    sys.exit(main())
