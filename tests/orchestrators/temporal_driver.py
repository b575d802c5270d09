"""Whoever starts workflows, and their worker: see ``driver``."""

import asyncio
import os
import secrets
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import replace
from typing import Any

from temporalio import activity
from temporalio.client import Client, WorkflowFailureError
from temporalio.converter import default as converter
from temporalio.worker import (
    Interceptor,
    StartActivityInput,
    Worker,
    WorkflowInboundInterceptor,
    WorkflowOutboundInterceptor,
)

from tests.orchestrators import tools
from tests.orchestrators.driver import serve
from tests.orchestrators.held import wrong
from tests.orchestrators.temporal_workflows import Contract
from ztrooted.client.blocking import Loop
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.integrations.temporal import HEADER, Governing

NODE = "celery"  # whatever the suite calls its one place to run
EXECUTORS = {NODE: os.environ["ZTROOTED_EXECUTOR"]}
FUNCTIONS = [tools.write, tools.beats, tools.fails, tools.variables]
CARRIED: dict[str, str | None] = {}  # what workflows deliver that ask nobody, by their ids


class Around(Interceptor):  # type: ignore[misc]
    """As somebody who goes around the gate: with any header, or none."""

    def workflow_interceptor_class(self, _input: Any) -> Any:
        class Outbound(WorkflowOutboundInterceptor):  # type: ignore[misc]
            def start_activity(self, input: StartActivityInput) -> Any:  # noqa: A002
                ticket = CARRIED.get(self.info().workflow_id)
                input.headers = {} if ticket is None else {HEADER: converter().payload_converter.to_payload(ticket)}
                return super().start_activity(input)

        class Inbound(WorkflowInboundInterceptor):  # type: ignore[misc]
            def init(self, outbound: WorkflowOutboundInterceptor) -> None:
                super().init(Outbound(outbound))

        return Inbound


async def connect() -> Client:
    for _ in range(200):
        try:
            return await Client.connect(os.environ["TEMPORAL"])
        except RuntimeError:
            await asyncio.sleep(0.1)
    raise TimeoutError("Temporal's server did not come")


async def start() -> Client:
    client = await connect()
    governing = Governing(EXECUTORS, FUNCTIONS)
    await stack.enter_async_context(
        Worker(
            client,
            task_queue="flows",
            workflows=[Contract],
            activities=[governing.authorize, activity.defn(tools.write)],  # which it must have to call it locally
            activity_executor=ThreadPoolExecutor(1),
            interceptors=[governing],
        )
    )
    await stack.enter_async_context(Worker(client, task_queue="around", workflows=[Contract], interceptors=[Around()]))
    return client


async def execute(taken_from: str, name: str, **asked: Any) -> Any:
    try:
        return await client.execute_workflow(Contract.run, asked, id=name, task_queue=taken_from)
    except WorkflowFailureError as error:
        told: BaseException = error
        while told.__cause__ is not None:
            told = told.__cause__
        raise RuntimeError(f"{told}") from error


def hand_out(asked: dict[str, Any]) -> Any:
    settings, within_s = OrchestratorSettings.from_environment(), 30.0
    if "url" in asked:
        settings, within_s = replace(settings, gateway=asked["url"]), 0.5
    governing = Governing(EXECUTORS, FUNCTIONS, settings=settings, within_s=within_s)
    question = {"workflow": "Contract", "run": asked["run"], "activity": asked["what"], "args": [asked["base"]]}
    return loop.wait(governing.authorize({**question, "attempt": 1, "queue": asked["executor"]}))


def run(asked: dict[str, Any]) -> Any:
    CARRIED[asked["run"]] = asked["ticket"]
    return loop.wait(execute("around", asked["run"], what=asked["what"], base=asked["base"], queue=NODE))


def whole(asked: dict[str, Any]) -> Any:
    more = {name: value for name, value in asked.items() if name not in {"do", "number"}}
    return loop.wait(execute("flows", secrets.token_hex(8), **{"queue": NODE, **more}))


async def shown(name: str, queue: str, base: str) -> str:
    """What Temporal shows of a workflow, whose worker is started with what is wrong."""
    governing = Governing(EXECUTORS, FUNCTIONS)
    more = {"activities": [governing.authorize], "interceptors": [governing]}
    async with Worker(client, task_queue=name, workflows=[Contract], **more):
        with suppress(RuntimeError):
            await execute(name, name, what="write", base=base, queue=queue, tries=3)
    return (await client.get_workflow_handle(name).fetch_history()).to_json()


def refusal(asked: dict[str, Any]) -> Any:
    with wrong(asked):
        return loop.wait(shown(secrets.token_hex(8), asked["executor"], asked["base"]))


def bare(asked: dict[str, Any]) -> Any:
    """The same on a worker without the guard."""
    return loop.wait(execute("around", secrets.token_hex(8), what="write", base=asked["base"], queue="bare"))


if __name__ == "__main__":
    sys.stdout = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # where Temporal's core writes its log
    loop, stack = Loop(), AsyncExitStack()
    client = loop.wait(start())
    serve({"hand_out": hand_out, "run": run, "whole": whole, "refusal": refusal, "bare": bare})
