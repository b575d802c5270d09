"""Celery: tasks that are authorized where they are sent, and run under a lease where they are taken.

    app = Celery("reports", broker=…)
    govern(app, executors={"celery": "ex-…"})        # which executor's worker takes from which queue

``apply_async`` and ``delay`` ask first, and send the ticket along in a header. The worker verifies it, and the task's
function runs as a job of the executor's agent, in a process of its own. Celery's signals fail open: what a receiver of
``task_prerun`` raises is logged, and the task runs. So the gate is in ``__call__``, which is the only way to the function.

A worker holds no token and can't permit its own work. So it can't retry either: who sent a task sends it again, which is
another dispatch. A message that is delivered twice has the same ticket, and that works once.
"""

import os
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from celery import Celery, Task, bootsteps
from celery.utils import uuid

from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from ztrooted.client.blocking import BlockingOrchestrator, Loop
    from ztrooted.guard.agent import LocalAgent
    from ztrooted.guard.function import Call
    from ztrooted.models import Job

# The process of each task loads its app, and this module with it. It needs nothing of what asks or verifies, so that is
# loaded where it is used, which saves a task more than a second of work.

HEADER = "ztrooted_ticket"
GOVERNING = "ztrooted.governing"
OWN = "celery."  # Celery's own tasks, which call nothing of ours but through its ``__call__``


class Governing:
    """What an app is governed by. Connects where it is first needed, and anew in each forked process."""

    def __init__(self, executors: ExecutorSet) -> None:
        self.executors = executors
        self._sending: tuple[int, BlockingOrchestrator] | None = None
        self._running: tuple[int, Loop, LocalAgent] | None = None

    @property
    def orchestrator(self) -> "BlockingOrchestrator":
        """For who sends. EnvironmentProblem where this process is not told of a gateway, or has no token."""
        from ztrooted.client.blocking import BlockingOrchestrator  # noqa: PLC0415
        from ztrooted.guard.settings import OrchestratorSettings  # noqa: PLC0415

        if self._sending is None or self._sending[0] != os.getpid():
            asked = OrchestratorSettings.from_environment()
            made = BlockingOrchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors)
            self._sending = os.getpid(), made.__enter__()
        return self._sending[1]

    @property
    def running(self) -> "tuple[Loop, LocalAgent]":
        """For who runs. EnvironmentProblem where this process is not told of its agent."""
        from ztrooted.client.blocking import Loop  # noqa: PLC0415
        from ztrooted.guard.settings import agent_from_environment  # noqa: PLC0415

        if self._running is None or self._running[0] != os.getpid():
            self._running = os.getpid(), Loop(), agent_from_environment()
        return self._running[1:]


class GovernedTask(Task):  # type: ignore[misc]  # Celery has no types
    """Base of every task of a governed app. A task may set how long it runs at most, and how long a decision may take."""

    abstract = True
    max_runtime_s: int | None = None
    within_s: float = 30.0  # as ztrooted.client.orchestrator has it

    @property
    def __governed__(self) -> Callable[..., Any]:
        """The function itself, for the process that runs it."""
        function: Callable[..., Any] = self.run
        return function

    def authorize(self, args: Any, kwargs: Any, *, task_id: str, queue: str, attempt: int = 1) -> str:
        """Where work is handed out: the ticket for one call on the executor behind a queue. NotStarted for a no."""
        from ztrooted.outcome import telling  # noqa: PLC0415

        with telling():
            governing = _governing(self.app)
            call = self._described(args, kwargs, task_id, attempt)
            asked = {"max_runtime_s": self.max_runtime_s, "within_s": self.within_s}
            dispatch = governing.orchestrator.authorize(call.work, governing.executors[queue], **asked)
            return dispatch.ticket.encode()

    def apply_async(self, args: Any = None, kwargs: Any = None, task_id: str | None = None, **options: Any) -> Any:
        """Ask, and send what was permitted. Nothing is sent where the answer is no, or does not come."""
        name = task_id or uuid()
        queue = options.get("queue") or getattr(self, "queue", None) or self.app.conf.task_default_queue
        attempt = 1 + int(options.get("retries") or 0)
        ticket = self.authorize(args or (), kwargs or {}, task_id=name, queue=str(queue), attempt=attempt)
        options["headers"] = {**(options.get("headers") or {}), HEADER: ticket}
        options["queue"] = queue
        return super().apply_async(args, kwargs, task_id=name, **options)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Where it runs: verify the ticket, and run the call under its lease. NotStarted, Killed or FunctionFailed."""
        from ztrooted.guard.function import reference_of, require_call  # noqa: PLC0415
        from ztrooted.outcome import telling  # noqa: PLC0415
        from ztrooted.ticket import parse_ticket  # noqa: PLC0415

        with telling():
            loop, agent = _governing(self.app).running
            request = self.request
            carried = request.get(HEADER) or (request.get("headers") or {}).get(HEADER)
            ticket = parse_ticket(carried)
            payload = self._described(args, kwargs, str(request.id), ticket.job.attempt).payload
            call = require_call(ticket, payload, reference_of(self.run)[0])
            _require_run(ticket.job, str(request.id))
            return loop.wait(_perform(agent, ticket, call))

    def _described(self, args: Any, kwargs: Any, task_id: str, attempt: int) -> "Call":
        from ztrooted.guard.function import describe_call  # noqa: PLC0415

        return describe_call(
            self.run, args, kwargs, workflow=self.app.main or "celery", run=task_id, step=self.name, attempt=attempt
        )


class GuardStep(bootsteps.StartStopStep):  # type: ignore[misc]  # Celery has no types
    """A worker starts only if it could refuse: it knows its agent and what to trust, and each task is governed."""

    def __init__(self, worker: Any, **_options: Any) -> None:
        from ztrooted.guard.settings import listening_agent  # noqa: PLC0415
        from ztrooted.outcome import telling  # noqa: PLC0415

        with telling():
            _governing(worker.app)
            listening_agent("worker")
            _require_governed(worker.app)


def _require_governed(app: Celery) -> None:
    for name, task in app.tasks.items():
        if not name.startswith(OWN) and type(task).__call__ is not GovernedTask.__call__:
            raise EnvironmentProblem(
                GateReason.CONFIG_INVALID, f"task {name} is not governed", "give it no other base than GovernedTask"
            )


def govern(app: Celery, executors: Mapping[str, str]) -> None:
    """Govern every task of an app; before the first is made. ``executors`` are ids by queue.

    EnvironmentProblem ``config.invalid`` for an empty set.
    """
    app.conf[GOVERNING] = Governing(ExecutorSet(executors))
    app.task_cls = GovernedTask
    app.steps["worker"].add(GuardStep)


def _governing(app: Celery) -> Governing:
    found = app.conf.get(GOVERNING)
    if not isinstance(found, Governing):
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING, "this app is not governed", "call govern(app, executors) where it is made"
        )
    return found


def _require_run(job: "Job", task_id: str) -> None:
    """A ticket is for one message: its job's run is the message's id."""
    if job.run != task_id:
        raise GateError(GateReason.JOB_MISMATCH, "the ticket is for another message")


async def _perform(agent: "LocalAgent", ticket: Any, call: "Call") -> Any:
    from ztrooted.guard.function import perform  # noqa: PLC0415

    _, result = await perform(agent, ticket, call)
    return await result
