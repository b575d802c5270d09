"""Ray: calls that are authorized where they are submitted, and run under a lease on the node that they are for.

    result = submit(orchestrator, {"node-1": "ex-…"}, "node-1", function, *args)

    python -m ztrooted.integrations.ray_node start --address=… --node-name=node-1 --block

A ticket is for one executor, so the node is chosen before the gateway is asked, and the task may run on no other one. On
a node that is started so, the only task is ``run_ticket``: it verifies the ticket and has the call run as a job of the
executor's agent. What arrives with it is bytes, so a node unpickles nothing of a driver's; see
``ztrooted.integrations.ray_guard``.

A retry of Ray's has the ticket that was used. ``ray.cancel`` ends the job, and so does whatever ends the worker.
"""

from collections.abc import Callable, Mapping
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.guard import carried
from ztrooted.guard.function import Call, describe_call
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason


def submit(
    orchestrator: BlockingOrchestrator,
    executors: Mapping[str, str],
    node: str,
    function: Callable[..., Any],
    *args: Any,
    run: str = "1",
    **kwargs: Any,
) -> "ray.ObjectRef":
    """Ask, and submit what was permitted; ``function`` is one that a new process finds by its name, arguments are JSON."""
    call = describe_call(function, args, kwargs, workflow="ray", run=run)
    return send(node, carried.authorize(orchestrator, executors, node, call).encode(), call)


def send(node: str, ticket: str | None, call: Call) -> "ray.ObjectRef":
    """Submit a call with its ticket, to the node of that name. Ray is told of no retries: each would have this ticket."""
    only = NodeAffinitySchedulingStrategy(node_id=node_id(node), soft=False)
    task = ray.remote(run_ticket).options(max_retries=0, retry_exceptions=False, scheduling_strategy=only)
    return task.remote((ticket or "").encode(), call.payload)


def node_id(name: str) -> str:
    """The node that has this name and lives. NotStarted ``dispatch.executor_unknown`` unless there is exactly one."""
    found = [node["NodeID"] for node in ray.nodes() if node["Alive"] and node["NodeName"] == name]
    if len(found) != 1:
        raise NotStarted(
            GateReason.DISPATCH_EXECUTOR_UNKNOWN,
            f"{len(found)} living nodes of this cluster are named {name!r:.80}, and not one",
            "start each node with a name of its own: --node-name",
        )
    return str(found[0])


def run_ticket(ticket: bytes, payload: bytes) -> Any:
    """Where it runs. NotStarted, Killed or FunctionFailed."""
    return carried.run(ticket or None, payload)
