"""Whoever has flows run by Prefect, and sees what its server knows of them: see ``driver``."""

import os
import time
from pathlib import Path
from typing import Any

from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound
from prefect.states import Cancelling

from tests.orchestrators.driver import serve
from tests.orchestrators.held import HELD, TIMEOUT_S, put, wait_for

ROOT = Path(__file__).parents[2]
DEPLOYED: dict[str, Any] = {}


class NotDone(Exception):  # noqa: N818
    """A run that did not complete, with what Prefect shows of it."""


def deploy(client: Any, pool: str, queue: str) -> None:
    """One deployment for each work queue."""
    until = time.monotonic() + TIMEOUT_S
    while True:
        try:
            client.read_work_pool(pool)
            break
        except ObjectNotFound:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)
    flow = client.create_flow_from_name("contract")
    DEPLOYED[queue] = client.create_deployment(
        flow,
        name=f"on-{queue}",
        entrypoint="tests/orchestrators/prefect_flows.py:contract",
        path=str(ROOT),
        pull_steps=[{"prefect.deployments.steps.set_working_directory": {"directory": str(ROOT)}}],
        work_pool_name=pool,
        work_queue_name=queue,
        job_variables={"env": {"ZTROOTED_TOKEN_FILE": "/a/token"}},
    )


def trigger(queue: str, name: str, what: str, base: str) -> Any:
    parameters = {"what": what, "base": base}
    return client.create_flow_run_from_deployment(DEPLOYED[queue], parameters=parameters, name=name).id


def ended(made: Any, base: str) -> str:
    """Wait for a run's end; what it wrote. NotDone with what its state says."""
    until = time.monotonic() + TIMEOUT_S
    while not (state := client.read_flow_run(made).state).is_final():
        if time.monotonic() > until:
            raise TimeoutError(f"{made} is {state!r}")
        time.sleep(0.05)
    if not state.is_completed():
        raise NotDone(f"{state.name}: {state.message}")
    return Path(base).read_text()


def told_of(found: dict[str, Any], name: str) -> Any:
    if "error" in found:
        raise NotDone(found["error"])
    return found[name]


RUNS: dict[str, Any] = {}


def hand_out(asked: dict[str, Any]) -> Any:
    """A run that is held once it was permitted."""
    name = asked["run"]
    put(f"{name}.held", {"changed": {"gateway": asked["url"]} if "url" in asked else asked.get("changed")})
    RUNS[name] = trigger(asked["executor"], name, asked["what"], asked["base"])
    return told_of(wait_for(f"{name}.told"), "ticket")


def run(asked: dict[str, Any]) -> Any:
    """Deliver what is held, with any ticket or none; what was never permitted as well."""
    name = asked["run"]
    if (HELD / f"{name}.0.go").exists():
        put(f"{name}.1.go", {"ticket": asked["ticket"]})
        return told_of(wait_for(f"{name}.1.done"), "value")
    put(f"{name}.0.go", {"ticket": asked["ticket"]})
    if name not in RUNS:
        put(f"{name}.held", {"around": True})
        RUNS[name] = trigger("celery", name, asked["what"], asked["base"])
    return ended(RUNS[name], asked["base"])


def shown(asked: dict[str, Any]) -> Any:
    """How a run that was handed out ended."""
    return ended(RUNS[asked["run"]], asked["base"])


def whole(asked: dict[str, Any]) -> Any:
    return ended(trigger("celery", f"r{time.monotonic_ns()}", asked.get("what", "write"), asked["base"]), asked["base"])


def begin(asked: dict[str, Any]) -> Any:
    """Have it begin; its id."""
    RUNS[asked["run"]] = trigger("celery", asked["run"], asked["what"], asked["base"])
    return str(RUNS[asked["run"]])


def cancel(asked: dict[str, Any]) -> Any:
    """As its user interface does it; how the run ended."""
    made = RUNS[asked["run"]]
    client.set_flow_run_state(made, Cancelling())
    return ended(made, asked["base"])


def bare(asked: dict[str, Any]) -> Any:
    """By a worker of Prefect's own, in another work pool."""
    if "bare" not in DEPLOYED:
        deploy(client, "bare", "bare")
    return ended(trigger("bare", f"b{time.monotonic_ns()}", "write", asked["base"]), asked["base"])


COMMANDS = {
    "hand_out": hand_out,
    "run": run,
    "whole": whole,
    "bare": bare,
    "shown": shown,
    "begin": begin,
    "cancel": cancel,
}

if __name__ == "__main__":
    with get_client(sync_client=True) as client:
        for one in ("celery", "elsewhere"):
            deploy(client, os.environ["POOL"], one)
        serve(COMMANDS)
