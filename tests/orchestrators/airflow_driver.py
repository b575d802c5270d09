"""Whoever triggers runs of Airflow's DAGs and looks at them, through the API that its user interface has: see ``driver``."""

import json
import os
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any

from tests.orchestrators.driver import serve
from tests.orchestrators.held import HELD, TIMEOUT_S, put, wait_for

URL = os.environ.get("AIRFLOW__API__BASE_URL", "")
TASK = "work"  # the one task of each DAG here
EXTRA = " Extra info: "  # after which an event of Airflow's has what its executor says
_token: list[str] = []


class NotDone(Exception):  # noqa: N818
    """A run that did not succeed, with what Airflow shows of it."""


def api(path: str, body: Any = None, method: str | None = None) -> Any:
    """One call of Airflow's API."""
    headers = {"Content-Type": "application/json"} | ({"Authorization": f"Bearer {_token[0]}"} if _token else {})
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(URL + path, data, headers, method=method)  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310
            return json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        raise RuntimeError(f"{path}: {error.code} {error.read()!r}") from error


def trigger(dag: str, run: str, what: str, base: str) -> None:
    conf = {"what": what, "base": base}
    api(f"/api/v2/dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None, "conf": conf})


def ended(dag: str, run: str) -> Any:
    """Wait for a run's end; what its task returned. NotDone with the events that Airflow shows."""
    where = f"/api/v2/dags/{dag}/dagRuns/{run}"
    until = time.monotonic() + TIMEOUT_S
    while (state := api(where)["state"]) not in {"success", "failed"}:
        if time.monotonic() > until:
            raise TimeoutError(f"{dag} {run} is {state}: {events(dag, run)}")
        time.sleep(0.05)
    if state == "failed":
        raise NotDone(events(dag, run))
    return api(f"{where}/taskInstances/{TASK}/xcomEntries/return_value")["value"]


def events(dag: str, run: str) -> str:
    query = urllib.parse.urlencode({"dag_id": dag, "run_id": run, "order_by": "id"})
    found = api(f"/api/v2/eventLogs?{query}")["event_logs"]
    return " | ".join(str(one["extra"]).partition(EXTRA)[2] for one in found if EXTRA in str(one["extra"]))


def log(dag: str, run: str, attempt: int = 1, index: int = -1) -> str:
    """What the user interface shows as a task's log."""
    path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{TASK}/logs/{attempt}?map_index={index}"
    return json.dumps(api(path)["content"], ensure_ascii=False)


def told_of(found: dict[str, Any], name: str) -> Any:
    if "error" in found:
        raise NotDone(found["error"])
    return found[name]


def hand_out(asked: dict[str, Any]) -> Any:
    """A run whose task is held once it was permitted."""
    changed = {"gateway": asked["url"]} if "url" in asked else asked.get("changed")
    put(f"{asked['run']}.held", {"changed": changed})
    trigger(asked["executor"], asked["run"], asked["what"], asked["base"])
    return told_of(wait_for(f"{asked['run']}.told"), "ticket")


def run(asked: dict[str, Any]) -> Any:
    """Deliver what is held, with any ticket or none; what was never permitted as well."""
    name = asked["run"]
    again = (HELD / f"{name}.0.go").exists()
    if not (HELD / f"{name}.held").exists():
        put(f"{name}.held", {"around": True})
        put(f"{name}.0.go", {"ticket": asked["ticket"]})
        trigger("celery", name, asked["what"], asked["base"])
    else:
        put(f"{name}.{int(again)}.go", {"ticket": asked["ticket"]})
    if again:
        return told_of(wait_for(f"{name}.1.done"), "value")
    return ended("celery", name)


def whole(asked: dict[str, Any]) -> Any:
    return by_dag("celery", asked)


def bare(asked: dict[str, Any]) -> Any:
    return by_dag("bare", asked)


def by_dag(dag: str, asked: dict[str, Any]) -> Any:
    name = asked.get("run") or f"r{time.monotonic_ns()}"
    trigger(dag, name, asked.get("what", "write"), asked["base"])
    return ended(dag, name)


def other(asked: dict[str, Any]) -> Any:
    """A run of any DAG."""
    return by_dag(asked["dag"], asked)


def shown(asked: dict[str, Any]) -> Any:
    """What Airflow shows of a run: its events, and the log of an attempt."""
    dag, name = asked["dag"], asked["run"]
    return {"events": events(dag, name), "log": log(dag, name, asked.get("attempt", 1), asked.get("index", -1))}


COMMANDS = {"hand_out": hand_out, "run": run, "whole": whole, "bare": bare, "other": other, "shown": shown}

if __name__ == "__main__":
    _token.append(api("/auth/token", method="GET")["access_token"])
    serve(COMMANDS)
