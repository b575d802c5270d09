"""Whoever sends the tasks of ``celery_app``: one command a line, each answered as soon as it is done, by its number."""

import os
from typing import Any

from celery import Task

from tests.orchestrators.celery_app import app, beats, variables, write
from tests.orchestrators.driver import serve
from tests.orchestrators.held import wrong
from ztrooted.client.orchestrator import DECIDED_S
from ztrooted.integrations.celery import GOVERNING, HEADER

TASKS = {"variables": variables, "write": write, "beats": beats}
TIMEOUT_S = 60


def hand_out(asked: dict[str, Any]) -> Any:
    task = TASKS[asked["what"]]
    if "url" in asked:
        os.environ["ZTROOTED_GATEWAY"] = asked["url"]
        app.conf[GOVERNING]._sending = None
        task.within_s = 0.5
    try:
        return task.authorize([asked["base"]], {}, task_id=asked["run"], queue=asked["executor"])
    finally:
        if "url" in asked:
            os.environ["ZTROOTED_GATEWAY"] = asked["home"]
            task.within_s = DECIDED_S
            app.conf[GOVERNING]._sending = None


def run(asked: dict[str, Any]) -> Any:
    """As somebody would who goes around the gate: with any header, or none."""
    headers = {} if asked["ticket"] is None else {HEADER: asked["ticket"]}
    task = TASKS[asked["what"]]
    task.AsyncResult(asked["run"]).forget()  # what an earlier delivery came to
    sent = Task.apply_async(task, [asked["base"]], task_id=asked["run"], queue="celery", headers=headers)
    return sent.get(timeout=TIMEOUT_S)


def whole(asked: dict[str, Any]) -> Any:
    return TASKS[asked["what"]].delay(asked["base"]).get(timeout=TIMEOUT_S)


def refusal(asked: dict[str, Any]) -> Any:
    """As who sends sees it, where something is wrong."""
    with wrong(asked):
        app.conf[GOVERNING]._sending = None
        try:
            return write.apply_async([asked["base"]], queue=asked["executor"]).get(timeout=TIMEOUT_S)
        finally:
            app.conf[GOVERNING]._sending = None


def bare(asked: dict[str, Any]) -> Any:
    """By an app that is not governed; see ``celery_bare``."""
    from tests.orchestrators.celery_bare import write as plain  # noqa: PLC0415

    return plain.delay(asked["base"]).get(timeout=TIMEOUT_S)


if __name__ == "__main__":
    serve({"hand_out": hand_out, "run": run, "whole": whole, "refusal": refusal, "bare": bare})
