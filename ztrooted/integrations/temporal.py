"""Temporal: each attempt of an activity is authorized from its workflow, and runs under a lease on the worker it is for.

    governing = Governing({"reports": "ex-…"}, [count_words])          # which executor's worker takes from which task queue
    Worker(client, task_queue="flows", workflows=[…], activities=[governing.authorize], interceptors=[governing])

    governed_worker(client, "reports", [count_words])                  # elsewhere, without a token

A workflow may not talk to anybody, so what asks is a local activity on the workflow's worker; the ticket is in the
history, and goes along in a header. On the activity's worker the function is not called: it runs as a job of the
executor's agent. A retry by Temporal's server would have the ticket that was used. So there is none: the activity is
scheduled for one attempt, and its retry policy is followed in the workflow, where each attempt is asked for.
"""

import asyncio
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from typing import Any, NoReturn

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.common import RetryPolicy
from temporalio.converter import default as converter
from temporalio.exceptions import ActivityError, ApplicationError
from temporalio.exceptions import TimeoutError as TemporalTimeout
from temporalio.worker import (
    ActivityInboundInterceptor,
    ExecuteActivityInput,
    Interceptor,
    StartActivityInput,
    StartLocalActivityInput,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowInterceptorClassInput,
    WorkflowOutboundInterceptor,
)

from ztrooted.client.orchestrator import DECIDED_S, Orchestrator
from ztrooted.errors import GateError
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.guard.function import FunctionFailed, describe_call, perform, reference_of, require_call
from ztrooted.guard.settings import OrchestratorSettings, listening_agent
from ztrooted.outcome import NotStarted, end_of
from ztrooted.reasons import GateReason
from ztrooted.ticket import parse_ticket
from ztrooted.work import name_of

HEADER = "ztrooted-ticket"
AUTHORIZE = "ztrooted.authorize"
LATE_S = 5.0  # what a local activity may take beyond its own deadline
LOOK_S = 0.2  # how often a worker looks whether an activity was cancelled, and says that it is alive
ONCE = RetryPolicy(maximum_attempts=1)


class Governing(Interceptor):  # type: ignore[misc]  # Temporal is not there when types are checked
    """For the worker of workflows, which holds the token."""

    def __init__(
        self,
        executors: Mapping[str, str],
        functions: Iterable[Callable[..., Any]],
        *,
        settings: OrchestratorSettings | None = None,
        within_s: float = DECIDED_S,
    ) -> None:
        """``executors`` are ids by task queue, ``functions`` the activities by their names.

        EnvironmentProblem where this process is told of no gateway, or the set is empty.
        """
        self.executors = ExecutorSet(executors)
        self.functions = {function.__name__: function for function in functions}
        self.settings = settings or OrchestratorSettings.from_environment()
        self.within_s = within_s

    @activity.defn(name=AUTHORIZE)  # type: ignore[untyped-decorator]
    async def authorize(self, asked: dict[str, Any]) -> str:
        """The ticket for one attempt: ``workflow``, ``run``, ``activity``, ``args``, ``attempt``, ``queue``."""
        try:
            function = self.functions.get(asked["activity"])
            if function is None:
                raise NotStarted(
                    GateReason.JOB_MALFORMED,
                    f"activity {asked['activity']!s:.100} is not one that was given to Governing",
                )
            call = describe_call(
                function,
                asked["args"],
                workflow=name_of(asked["workflow"]),
                run=name_of(asked["run"]),
                step=name_of(asked["activity"]),
                attempt=asked["attempt"],
            )
            told = self.settings
            async with Orchestrator(told.gateway, ca=told.ca, token=told.token, anchors=told.anchors) as orchestrator:
                executor = self.executors[asked["queue"]]
                dispatch = await orchestrator.authorize(call.work, executor, within_s=self.within_s)
            return dispatch.ticket.encode()
        except GateError as error:
            _refuse(error)

    def workflow_interceptor_class(self, _input: WorkflowInterceptorClassInput) -> type[WorkflowInboundInterceptor]:
        """What stands between a workflow and its activities."""
        within_s = self.within_s

        class Asking(WorkflowInboundInterceptor):  # type: ignore[misc]
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(_Asking(outbound, within_s))

        return Asking


class _Asking(WorkflowOutboundInterceptor):  # type: ignore[misc]
    """Asks for each attempt of an activity. Runs in workflows: no clock, no network but by what it awaits."""

    def __init__(self, following: WorkflowOutboundInterceptor, within_s: float) -> None:
        super().__init__(following)
        self._within_s = within_s

    def start_activity(self, input: StartActivityInput) -> Any:  # noqa: A002 -- Temporal's name
        return asyncio.create_task(self._attempts(input))

    def start_local_activity(self, input: StartLocalActivityInput) -> NoReturn:  # noqa: A002, ARG002 -- Temporal's
        raise ApplicationError(
            "config.invalid: a local activity runs in the worker of its workflow, where nothing governs it. "
            "Make it an activity.",
            type=str(GateReason.CONFIG_INVALID),
            non_retryable=True,
        )

    async def _attempts(self, asked: StartActivityInput) -> Any:
        """As the retry policy says, which is Temporal's own where there is none."""
        policy = asked.retry_policy or RetryPolicy()
        began, pause, attempt = workflow.now(), policy.initial_interval, 1
        while True:
            try:
                return await self._attempt(asked, attempt)
            except ActivityError as error:
                wait = min(pause, policy.maximum_interval or 100 * policy.initial_interval)
                until = asked.schedule_to_close_timeout
                late = until is not None and workflow.now() + wait >= began + until
                if late or _over(error, policy) or attempt == policy.maximum_attempts:
                    raise
            await asyncio.sleep(wait.total_seconds())
            pause *= policy.backoff_coefficient
            attempt += 1

    async def _attempt(self, asked: StartActivityInput, attempt: int) -> Any:
        info = workflow.info()
        question = {
            "workflow": info.workflow_type,
            "run": info.workflow_id,
            "activity": asked.activity,
            "args": list(asked.args),
            "attempt": attempt,
            "queue": asked.task_queue or info.task_queue,
        }
        ticket = await self.next.start_local_activity(_question(question, self._within_s + LATE_S))
        headers = {**asked.headers, HEADER: converter().payload_converter.to_payload(ticket)}
        return await self.next.start_activity(dataclasses.replace(asked, headers=headers, retry_policy=ONCE))


def _question(question: dict[str, Any], within_s: float) -> StartLocalActivityInput:
    return StartLocalActivityInput(
        activity=AUTHORIZE,
        args=[question],
        activity_id=None,
        schedule_to_close_timeout=timedelta(seconds=within_s),
        schedule_to_start_timeout=None,
        start_to_close_timeout=None,
        retry_policy=ONCE,
        local_retry_threshold=None,
        cancellation_type=workflow.ActivityCancellationType.TRY_CANCEL,
        headers={},
        summary=None,
        ret_type=str,
    )


def _over(error: ActivityError, policy: RetryPolicy) -> bool:
    """Whether an attempt that ended like this is the last one."""
    cause = error.cause
    if isinstance(cause, ApplicationError):
        return bool(cause.non_retryable or cause.type in (policy.non_retryable_error_types or ()))
    return not isinstance(cause, TemporalTimeout)


class Guard(Interceptor):  # type: ignore[misc]
    """For the worker of activities, which holds no token."""

    def __init__(self, agent: LocalAgent) -> None:
        self.agent = agent

    def intercept_activity(self, _following: ActivityInboundInterceptor) -> ActivityInboundInterceptor:
        """What runs instead of an activity's function. Nothing comes after it, so nothing else runs that."""
        return _Guarded(_following, self.agent)


class _Guarded(ActivityInboundInterceptor):  # type: ignore[misc]
    def __init__(self, following: ActivityInboundInterceptor, agent: LocalAgent) -> None:
        super().__init__(following)
        self._agent = agent

    async def execute_activity(self, input: ExecuteActivityInput) -> Any:  # noqa: A002 -- Temporal's name
        try:
            return await self._run(input)
        except GateError as error:
            _refuse(error)

    async def _run(self, asked: ExecuteActivityInput) -> Any:
        info, began = activity.info(), asyncio.get_running_loop().time()
        ticket = parse_ticket(_carried(asked))
        payload = describe_call(asked.fn, asked.args, workflow="temporal", run="1").payload
        call = require_call(ticket, payload, reference_of(asked.fn)[0])
        if ticket.job.run != name_of(str(info.workflow_id)):
            raise GateError(GateReason.JOB_MISMATCH, "the ticket is for another workflow")
        process, result = await perform(self._agent, ticket, call)
        ends = info.start_to_close_timeout or info.schedule_to_close_timeout
        try:
            async with asyncio.timeout_at(began + ends.total_seconds() if ends else None):
                while not (await asyncio.wait({result}, timeout=LOOK_S))[0]:
                    activity.heartbeat()
                    if activity.is_cancelled():
                        raise asyncio.CancelledError
                return await result
        finally:
            process.kill(str(GateReason.EXECUTION_ABANDONED))
            await asyncio.gather(result, return_exceptions=True)


def _carried(asked: ExecuteActivityInput) -> str | None:
    payload = asked.headers.get(HEADER)
    with suppress(KeyError, RuntimeError, TypeError, ValueError):  # what is no text: nothing permits it
        told = None if payload is None else converter().payload_converter.from_payload(payload, str)
        return told if isinstance(told, str) else None
    return None


def _refuse(error: GateError) -> NoReturn:
    """As Temporal shows it: with reason and remedy in the failure's message, and final where nothing ran."""
    told = end_of(error)
    kind = told.detail.partition(":")[0] if isinstance(told, FunctionFailed) else str(told.reason)
    raise ApplicationError(str(told), type=kind, non_retryable=isinstance(told, NotStarted)) from None


def governed_worker(client: Client, task_queue: str, activities: Iterable[Callable[..., Any]], **more: Any) -> Worker:
    """A worker of activities that could refuse. EnvironmentProblem where it could not, UsageProblem for what has no name."""
    agent = listening_agent("worker")
    governed = list(activities)
    for function in governed:
        reference_of(function)
    more.setdefault("activity_executor", ThreadPoolExecutor(1))  # Temporal wants one for functions; none is run in it
    others = more.pop("interceptors", ())
    return Worker(client, task_queue=task_queue, activities=governed, interceptors=[*others, Guard(agent)], **more)
