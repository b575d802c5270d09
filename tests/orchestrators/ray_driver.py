"""Whoever submits calls to a Ray cluster: see ``driver``."""

import os
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from tests.orchestrators import tools
from tests.orchestrators.driver import NODE, Calls, serve
from ztrooted.integrations import ray as governed

TIMEOUT_S = 20


def got(result: Any) -> Any:
    return ray.get(result, timeout=TIMEOUT_S)


def on(node: str) -> dict[str, Any]:
    only = NodeAffinitySchedulingStrategy(node_id=governed.node_id(node), soft=False)
    return {"scheduling_strategy": only, "max_retries": 0}


def bare(asked: dict[str, Any]) -> Any:
    """The same on a node without the guard."""
    return got(ray.remote(tools.write).options(**on("bare")).remote(asked["base"]))


def cancelled(asked: dict[str, Any]) -> Any:
    """Take back what runs: Ray interrupts the task, or kills its worker."""
    running = governed.send(NODE, asked["ticket"], calls.call_of(asked))
    ray.wait([running], timeout=asked["after_s"])
    ray.cancel(running, force=asked["force"])
    return got(running)


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
    return got(task)


if __name__ == "__main__":
    ray.init(address=os.environ["RAY_AT"], log_to_driver=False, logging_level="ERROR")
    calls = Calls("ray", governed.submit, governed.send, got)
    serve({**calls.commands, "around": around, "bare": bare, "cancelled": cancelled})
