"""What keeps a Ray node from running anything but ``ztrooted.integrations.ray.run_ticket``.

Ray runs what drivers send, in four ways, and none of them asks anybody:

1. A task names a function that the worker fetches and unpickles. Here the only function there is is ours, and it is the
   one that is installed here, whatever a driver exported under its name. A worker that is to be an actor kills
   itself, before it has loaded anything of it.
2. Its arguments are unpickled before it is called. Here they are bytes, or nothing is made of them.
3. A runtime environment installs packages, sets variables, and names the program that a worker is. The agent that makes
   them refuses each, and a worker that was given one all the same kills itself.
4. A breakpoint opens a debugger for whoever connects. There is none.

Ray imports preloaded modules before the first task and goes on where that fails, so the guard is no such module: the
program of each worker is ours (``ray_worker``), and starts Ray's own once the guard stands. Otherwise no worker starts.
"""

import json
import os
import signal
import sys
from typing import Any, NoReturn

from ray import runtime_env
from ray._private import ray_constants
from ray._private import worker as ray_worker
from ray._private.function_manager import FunctionActorManager, FunctionExecutionInfo
from ray._private.runtime_env.plugin import RuntimeEnvPlugin
from ray.util import debugpy, rpdb

from ztrooted.integrations import ray as governed
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason

ALLOWED = (governed.__name__, governed.run_ticket.__name__, "")
REMEDY = "Submit it through ztrooted.integrations.ray, or to a node that is not governed."
ENVIRONMENTS = {"", "{}"}  # a runtime environment in which nothing is
_refused: list[
    NotStarted
] = []  # what this worker was last told to call, where it is not ours; it does one thing at a time


def guard() -> None:
    """Put the guard into this worker, before Ray's own part of it starts."""
    if ray_constants.WORKER_PROCESS_SETUP_HOOK_ENV_VAR in os.environ:
        die("a set-up hook of a driver's would run here")
    FunctionActorManager.get_execution_info = _only_ours
    FunctionActorManager.load_actor_class = _no_actor
    ray_worker.Worker.deserialize_objects = _only_bytes
    rpdb.set_trace = debugpy.set_trace = _no_debugger


def refusal(what: str) -> NotStarted:
    """What a driver is told."""
    return NotStarted(GateReason.JOB_MISMATCH, f"{what} is not governed, and this node runs nothing else.", REMEDY)


def die(why: str) -> NoReturn:
    """End this process, now."""
    sys.stderr.write(f"ztrooted: {refusal(why)}\n")
    sys.stderr.flush()
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit(1)


def _only_ours(self: Any, _job: Any, function: Any) -> FunctionExecutionInfo:
    """Instead of what a driver exported: the function that is installed here, or one that refuses."""
    named = (function.module_name, function.function_name, function.class_name)
    self._num_task_executions.setdefault(function.function_id, 0)
    refused = None if named == ALLOWED else refusal(f"the function {'.'.join(named[:2]):.200}")
    _refused[:] = [refused] if refused else []

    def refuse(*_arguments: Any, **_named: Any) -> NoReturn:
        raise refused or refusal("a task")

    return FunctionExecutionInfo(refuse if refused else governed.run_ticket, ALLOWED[1], 0)


def _no_actor(_self: Any, _job: Any, descriptor: Any) -> NoReturn:
    die(f"the actor {descriptor.class_name:.200}")


def _only_bytes(_self: Any, serialized: Any, _references: Any, *_more: Any, **_named: Any) -> list[bytes]:
    """Arguments as they were sent, where they were sent as bytes; nothing is unpickled to find out."""
    if _refused:
        raise _refused[0]
    kinds = [metadata for _, metadata, *_ in serialized]
    if any(kind != ray_constants.OBJECT_METADATA_TYPE_RAW for kind in kinds):
        raise refusal("a task with arguments that are no bytes")
    return [b"" if data is None else data.to_pybytes() for data, *_ in serialized]


def _no_debugger(*_arguments: Any, **_named: Any) -> None:
    die("a breakpoint")


class NoEnvironment(RuntimeEnvPlugin):  # type: ignore[misc]  # Ray's plugins have no types
    """Is loaded by the agent that makes runtime environments, and has it make none."""

    name = "ztrooted"

    def __init__(self) -> None:
        runtime_env.RuntimeEnv.deserialize = _only_empty


def _only_empty(serialized: str) -> runtime_env.RuntimeEnv:
    named = sorted(json.loads(serialized or "{}"))
    if named:
        raise refusal(f"a runtime environment ({', '.join(named):.200})")
    return runtime_env.RuntimeEnv()
