"""Whoever submits calls to a Dask cluster: see ``driver``."""

import os
from typing import Any

from distributed import Client

from tests.orchestrators import tools
from tests.orchestrators.driver import serve
from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.guard.function import Call, describe_call
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.integrations import dask

TIMEOUT_S = 60
NODE = "celery"  # whatever the suite calls its one place to run
EXECUTORS = {NODE: os.environ["ZTROOTED_EXECUTOR"]}


def orchestrator(url: str | None = None) -> BlockingOrchestrator:
    asked = OrchestratorSettings.from_environment()
    return BlockingOrchestrator(url or asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors)


def call_of(asked: dict[str, Any]) -> Call:
    return describe_call(getattr(tools, asked["what"]), [asked["base"]], workflow="dask", run=asked["run"])


def hand_out(asked: dict[str, Any]) -> Any:
    more = {"within_s": 0.5} if "url" in asked else {}
    with orchestrator(asked.get("url")) as asking:
        return dask.authorize(asking, EXECUTORS, asked["executor"], call_of(asked), **more).encode()


def run(asked: dict[str, Any]) -> Any:
    return dask.send(client, NODE, asked["ticket"], call_of(asked)).result(timeout=TIMEOUT_S)


def whole(asked: dict[str, Any]) -> Any:
    with orchestrator() as asking:
        function = getattr(tools, asked["what"])
        return dask.submit(client, asking, EXECUTORS, NODE, function, asked["base"]).result(timeout=TIMEOUT_S)


def around(asked: dict[str, Any]) -> Any:
    """As somebody would who knows nothing of the gate."""
    return client.submit(tools.write, asked["base"], workers=[NODE], pure=False).result(timeout=TIMEOUT_S)


def bare(asked: dict[str, Any]) -> Any:
    """The same on a worker without the guard."""
    return client.submit(tools.write, asked["base"], workers=["bare"], pure=False).result(timeout=TIMEOUT_S)


if __name__ == "__main__":
    with Client(os.environ["DASK"]) as client:
        serve({"hand_out": hand_out, "run": run, "whole": whole, "around": around, "bare": bare})
