"""Whoever submits calls to a Ray cluster: see ``driver``."""

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.orchestrators import tools
from tests.orchestrators.driver import serve
from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.guard.function import Call, describe_call
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.integrations import ray as governed

TIMEOUT_S = 20
NODE = "celery"  # whatever the suite calls its one place to run
EXECUTORS = {NODE: os.environ["ZTROOTED_EXECUTOR"]}


def orchestrator(url: str | None = None) -> BlockingOrchestrator:
    asked = OrchestratorSettings.from_environment()
    return BlockingOrchestrator(url or asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors)


def call_of(asked: dict[str, Any]) -> Call:
    return describe_call(getattr(tools, asked["what"]), [asked["base"]], workflow="ray", run=asked["run"])


def hand_out(asked: dict[str, Any]) -> Any:
    more = {"within_s": 0.5} if "url" in asked else {}
    with orchestrator(asked.get("url")) as asking:
        return governed.authorize(asking, EXECUTORS, asked["executor"], call_of(asked), **more).encode()


def run(asked: dict[str, Any]) -> Any:
    return ray.get(governed.send(NODE, asked["ticket"], call_of(asked)), timeout=TIMEOUT_S)


def whole(asked: dict[str, Any]) -> Any:
    with orchestrator() as asking:
        function = getattr(tools, asked["what"])
        return ray.get(governed.submit(asking, EXECUTORS, NODE, function, asked["base"]), timeout=TIMEOUT_S)


def on(node: str) -> dict[str, Any]:
    only = NodeAffinitySchedulingStrategy(node_id=governed.node_id(node), soft=False)
    return {"scheduling_strategy": only, "max_retries": 0}


def bare(asked: dict[str, Any]) -> Any:
    """The same on a node without the guard."""
    return ray.get(ray.remote(tools.write).options(**on("bare")).remote(asked["base"]), timeout=TIMEOUT_S)


def cancelled(asked: dict[str, Any]) -> Any:
    """Take back what runs: Ray interrupts the task, or kills its worker."""
    running = governed.send(NODE, asked["ticket"], call_of(asked))
    ray.wait([running], timeout=asked["after_s"])
    ray.cancel(running, force=asked["force"])
    return ray.get(running, timeout=TIMEOUT_S)


class Unpickled:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return tools.write, (self.path,)


class Actor:
    def __init__(self, path: str) -> None:
        tools.write(path)

    def there(self) -> bool:
        return True


def run_ticket(path: bytes, _: bytes) -> str:
    """Says that it is ours, and is not."""
    return tools.write(path.decode())


run_ticket.__module__ = governed.__name__


def around(asked: dict[str, Any]) -> Any:
    """As somebody would who knows nothing of the gate, or knows it well."""
    path, how = asked["base"], asked["how"]
    plain = ray.remote(tools.write)
    if how == "function":
        task = plain.options(**on(NODE)).remote(path)
    elif how == "environment":
        task = plain.options(**on(NODE), runtime_env={"env_vars": {"ANY": "thing"}}).remote(path)
    elif how == "program":
        task = plain.options(**on(NODE), runtime_env={"py_executable": f"touch {path};"}).remote(path)
    elif how == "actor":
        made = ray.remote(Actor).options(scheduling_strategy=on(NODE)["scheduling_strategy"])
        task = made.remote(path).there.remote()
    elif how == "name":
        task = ray.remote(run_ticket).options(**on(NODE)).remote(path.encode(), b"")
    else:
        argument = Unpickled(path) if how == "argument" else ray.put(Unpickled(path))
        task = ray.remote(governed.run_ticket).options(**on(NODE)).remote(argument, b"")
    return ray.get(task, timeout=TIMEOUT_S)


if __name__ == "__main__":
    ray.init(address=os.environ["RAY_AT"], log_to_driver=False, logging_level="ERROR")
    serve({"hand_out": hand_out, "run": run, "whole": whole, "around": around, "bare": bare, "cancelled": cancelled})
