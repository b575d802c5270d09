"""Airflow 3: an executor that has each attempt of a task authorized, and run as a job of this machine's agent.

    [core]
    executor = ztrooted.integrations.airflow.GovernedExecutor

    [ztrooted]
    executors = {"default": "ex-…"}          # which executor's machine takes from which queue

It takes the place of LocalExecutor in the scheduler. The job is the whole of a task: Airflow's supervisor, the process that
reads the file of the DAG, and whatever that starts. It names the attempt and the digests of the workload and of the DAG's
file. The scheduler holds the token, the job has none, so a task can't permit itself. A retry is another attempt, and another
dispatch. A job ends with the scheduler that asked for it.

Where it is refused or stopped, the task's log and events and the scheduler's log have the reason, and what to do about it.
"""

import json
import os
import re
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, wait
from functools import partial
from pathlib import Path
from typing import Any

from airflow.configuration import conf
from airflow.dag_processing.bundles.manager import DagBundlesManager
from airflow.executors.base_executor import BaseExecutor

from ztrooted.client.blocking import Loop
from ztrooted.client.orchestrator import DECIDED_S, Orchestrator
from ztrooted.errors import GateError
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.executor_set import parse_executors
from ztrooted.guard.function import Call, describe_call, perform, require_call
from ztrooted.guard.settings import OrchestratorSettings, listening_agent
from ztrooted.integrations.airflow_policy import require_policy, run_workload
from ztrooted.outcome import end_of, telling
from ztrooted.ticket import parse_ticket
from ztrooted.work import describe, name_of

INHERITED = re.compile(
    r"AIRFLOW_.*|_?AIRFLOW__.*|PATH|HOME|LANG|LC_.*|TZ"
)  # what of the scheduler's environment a job has


class GovernedExecutor(BaseExecutor):  # type: ignore[misc]  # Airflow's is not there when types are checked
    """Runs tasks on this machine, under its agent. Callbacks and connection tests are refused, as they are no tasks."""

    is_local = True
    serve_logs = True
    within_s: float = DECIDED_S

    def start(self) -> None:
        """Start only if it could refuse. NotStarted with what is missing, which ends the scheduler."""
        self._attempts: dict[Any, Future[Any]] = {}
        self._ended: deque[tuple[Any, Future[Any]]] = deque()
        self._loop: Loop | None = None
        self._orchestrator: Orchestrator | None = None
        with telling():
            self.executors = parse_executors(conf.get("ztrooted", "executors", fallback=""), "[ztrooted] executors")
            self.settings = OrchestratorSettings.from_environment()
            self.agent: LocalAgent = listening_agent("scheduler")
            require_policy()

    def _process_workloads(self, workload_items: Sequence[Any]) -> None:
        for workload in workload_items:
            key = workload.key
            del self.queued_tasks[key]  # there is nothing else: what is no task was refused when it was queued
            self.running.add(key)
            self._loop = self._loop or Loop()
            future = self._attempts[key] = self._loop.submit(self.govern(workload))
            future.add_done_callback(partial(self._note, workload))

    def _note(self, workload: Any, ended: "Future[Any]") -> None:
        self._ended.append((workload, ended))

    async def govern(self, workload: Any) -> None:
        """One attempt: ask, and have run what was permitted."""
        call = describe_workload(workload)
        await self.deliver(call, await self.permit(call, workload.ti.queue))

    async def permit(self, call: Call, queue: str) -> str:
        """Where work is handed out: the ticket for a call on the executor behind a queue."""
        executor = self.executors[queue]
        orchestrator = await self._connected()
        return (await orchestrator.authorize(call.work, executor, within_s=self.within_s)).ticket.encode()

    async def deliver(self, call: Call, ticket: str | None) -> None:
        """Where it runs: verify the ticket, and run the call under its lease."""
        parsed = parse_ticket(ticket)
        _, result = await perform(self.agent, parsed, require_call(parsed, call.payload))
        await result

    async def _connected(self) -> Orchestrator:
        if self._orchestrator is None:
            asked = self.settings
            made = Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors)
            self._orchestrator = await made.__aenter__()
        return self._orchestrator

    def sync(self) -> None:
        """Tell Airflow of attempts that have ended."""
        while self._ended:
            workload, future = self._ended.popleft()
            if self._attempts.get(workload.key) is future:
                del self._attempts[workload.key]
                self._conclude(workload, "it was given up" if future.cancelled() else future.exception())

    def _conclude(self, workload: Any, error: BaseException | str | None) -> None:
        """A task that ran to its end has told Airflow how; of one that did not, this does."""
        if error is None:
            self.success(workload.key)
            return
        if isinstance(error, GateError):
            error = end_of(error)
        told = str(error) if isinstance(error, (GateError, str)) else f"{type(error).__name__}: {error}"
        self.log.error("%s: %s", workload.key, told)
        write_log(workload.log_path, told)
        self.fail(workload.key, info=told)

    def revoke_task(self, *, ti: Any) -> None:
        """Give up an attempt that Airflow no longer wants; its job is killed."""
        self.queued_tasks.pop(ti.key, None)
        self.running.discard(ti.key)
        if future := self._attempts.pop(ti.key, None):
            future.cancel()

    def end(self) -> None:
        """Wait for what runs, tell Airflow of it, and hang up."""
        wait(list(self._attempts.values()))
        self.sync()
        loop, orchestrator, self._loop, self._orchestrator = self._loop, self._orchestrator, None, None
        if loop is not None:
            if orchestrator is not None:
                loop.wait(orchestrator.__aexit__(None, None, None))
            loop.close()

    def terminate(self) -> None:
        """Kill what runs."""
        for future in list(self._attempts.values()):
            future.cancel()


def describe_workload(workload: Any) -> Call:
    """The job that an attempt of a task is. The workload has a token of Airflow's, so only its digest is on record."""
    ti = workload.ti
    step = ti.task_id if ti.map_index < 0 else f"{ti.task_id}/{ti.map_index}"
    named: dict[str, Any] = {"workflow": name_of(ti.dag_id), "run": name_of(ti.run_id), "step": name_of(step)}
    inherited = {name: value for name, value in os.environ.items() if INHERITED.fullmatch(name)}
    call = describe_call(run_workload, [workload.model_dump_json()], env=inherited, **named)
    files: list[str | Path] = [*call.work.job.files, *dag_file(workload)]
    work = describe(call.work.job.argv, env=call.work.env, files=files, attempt=max(1, ti.try_number), **named)
    return Call(work, call.payload)


def dag_file(workload: Any) -> list[Path]:
    """The file of the DAG, unless its bundle has versions: then the workload names that."""
    info = workload.bundle_info
    if info.version is not None:
        return []
    return [Path(DagBundlesManager().get_bundle(info.name).path) / workload.dag_rel_path]


def write_log(path: str | None, told: str) -> None:
    """Put a line at the end of a task's log, in Airflow's form."""
    if path is None:
        return
    file = Path(conf.get_mandatory_value("logging", "base_log_folder")) / path
    now = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
    line = {"timestamp": f"{now}Z", "level": "error", "event": told, "logger": "ztrooted"}
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as log:
        log.write("\n" + json.dumps(line) + "\n")
