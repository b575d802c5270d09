"""Dask distributed: calls that are authorized where they are submitted, and run under a lease on the worker they are for.

    future = submit(client, orchestrator, {"node-1": "ex-…"}, "node-1", function, *args)

    dask worker tcp://… --name node-1 --preload ztrooted.integrations.dask

A ticket is for one executor, so the worker is chosen before the gateway is asked, and the task may run on no other one. On
the worker every task is ``run_ticket``: it verifies the ticket and has the call run as a job of the executor's agent.

A worker whose preload raises joins the cluster all the same, and what the scheduler takes back goes on in its thread. So a
worker that could not refuse, or is told to run anything else, kills its own process; where a nanny starts it anew, it is
asked again.

Whoever can reach a worker's port can have it unpickle anything: Dask's own TLS and firewalls are what stands there, and
policy has nothing to say about it. Use this with ``distributed.comm.require-encryption``.
"""

import os
import signal
import sys
from collections.abc import Callable, Mapping
from typing import Any

from distributed import Client, Future, Worker, WorkerPlugin

from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.errors import GateError
from ztrooted.guard import carried
from ztrooted.guard.function import Call, describe_call
from ztrooted.guard.settings import listening_agent
from ztrooted.outcome import end_of

HARMLESS = frozenset({"Alias", "DataNode"})  # kinds of task that call nothing


def submit(
    client: Client,
    orchestrator: BlockingOrchestrator,
    executors: Mapping[str, str],
    worker: str,
    function: Callable[..., Any],
    *args: Any,
    run: str = "1",
    **kwargs: Any,
) -> Future:
    """Ask, and submit what was permitted; ``function`` is one that a new process finds by its name, arguments are JSON."""
    call = describe_call(function, args, kwargs, workflow="dask", run=run)
    return send(client, worker, carried.authorize(orchestrator, executors, worker, call).encode(), call)


def send(client: Client, worker: str, ticket: str | None, call: Call) -> Future:
    """Submit a call with its ticket. A scheduler's retry has the same ticket, so there is none."""
    return client.submit(
        run_ticket, ticket, call.payload, workers=[worker], allow_other_workers=False, pure=False, retries=0
    )


def run_ticket(ticket: str | None, payload: bytes) -> Any:
    """Where it runs. NotStarted, Killed or FunctionFailed."""
    return carried.run(ticket, payload)


class GuardPlugin(WorkerPlugin):  # type: ignore[misc]  # Dask has no types
    """Has a worker run tickets, and nothing else."""

    name = "ztrooted"

    def setup(self, worker: Worker) -> None:
        """A worker that could not refuse is none."""
        self._worker = worker
        try:
            listening_agent("worker")
        except GateError as error:
            die(str(end_of(error)))

    def transition(self, *step: Any, **_more: Any) -> None:
        """``key``, ``start``, ``finish``: is called before a task is executed."""
        key, _, finish = step
        if finish in {"executing", "long-running"} and not governed(self._worker.state.tasks[key].run_spec):
            die(f"task {key!s:.200} is not governed: submit it through ztrooted.integrations.dask")


def governed(task: Any) -> bool:
    """Whether a task is ours, or calls nothing."""
    return type(task).__name__ in HARMLESS or getattr(task, "func", None) is run_ticket


def die(why: str) -> None:
    """End this process, now: everything softer lets what runs in its threads go on."""
    sys.stderr.write(f"ztrooted: {why}\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)


async def dask_setup(worker: Worker) -> None:
    """What ``--preload`` calls."""
    try:
        await worker.plugin_add(GuardPlugin())
    finally:
        if GuardPlugin.name not in worker.plugins:
            die("the guard could not be put into this worker")
