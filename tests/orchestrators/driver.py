"""A program in an orchestrator's own environment, told what to do by a test: JSON lines in, JSON lines out."""

import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from tests.orchestrators import tools
from tests.orchestrators.held import wrong
from ztrooted.client.blocking import BlockingOrchestrator
from ztrooted.guard import carried
from ztrooted.guard.function import Call, describe_call
from ztrooted.guard.settings import OrchestratorSettings

NODE = "celery"  # whatever the suite calls its one place to run


def serve(commands: Mapping[str, Callable[[dict[str, Any]], Any]]) -> None:
    """Do what is asked, several things at once; ``{"number", "value"}`` or ``{"number", "error"}`` come back."""
    speaking, answers = threading.Lock(), sys.stdout
    sys.stdout = sys.stderr  # where what orchestrators print goes

    def do(asked: dict[str, Any]) -> None:
        try:
            told = {"value": commands[asked["do"]](asked)}
        except Exception as error:  # noqa: BLE001 -- the test judges it, as a log has it
            told = {"error": "".join(traceback.format_exception_only(error)).strip()}
        with speaking:
            answers.write(json.dumps({"number": asked["number"], **told}) + "\n")
            answers.flush()

    print(json.dumps({"number": 0, "value": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        threading.Thread(target=do, args=(json.loads(line),), daemon=True).start()


class Calls:
    """Commands of a driver that submits calls to a place that it names, as ``ztrooted.guard.carried`` is for.

    ``submit`` takes what an adapter's does from the orchestrator on, ``send`` a place, a ticket and a call.
    """

    def __init__(
        self, workflow: str, submit: Callable[..., Any], send: Callable[..., Any], get: Callable[[Any], Any]
    ) -> None:
        self.workflow = workflow
        self._submit, self._send, self._get = submit, send, get
        self.executors = {NODE: os.environ["ZTROOTED_EXECUTOR"]}

    def orchestrator(self, url: str | None = None) -> BlockingOrchestrator:
        asked = OrchestratorSettings.from_environment()
        return BlockingOrchestrator(url or asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors)

    def call_of(self, asked: dict[str, Any]) -> Call:
        function = getattr(tools, asked["what"])
        return describe_call(function, [asked["base"]], workflow=self.workflow, run=asked["run"])

    def hand_out(self, asked: dict[str, Any]) -> Any:
        more = {"within_s": 0.5} if "url" in asked else {}
        with self.orchestrator(asked.get("url")) as asking:
            return carried.authorize(asking, self.executors, asked["executor"], self.call_of(asked), **more).encode()

    def run(self, asked: dict[str, Any]) -> Any:
        return self._get(self._send(NODE, asked["ticket"], self.call_of(asked)))

    def whole(self, asked: dict[str, Any]) -> Any:
        with self.orchestrator() as asking:
            function = getattr(tools, asked["what"])
            return self._get(self._submit(asking, self.executors, NODE, function, asked["base"]))

    def refusal(self, asked: dict[str, Any]) -> Any:
        with wrong(asked), self.orchestrator() as asking:
            return self._get(self._submit(asking, self.executors, asked["executor"], tools.write, asked["base"]))

    @property
    def commands(self) -> dict[str, Callable[[dict[str, Any]], Any]]:
        return {"hand_out": self.hand_out, "run": self.run, "whole": self.whole, "refusal": self.refusal}
