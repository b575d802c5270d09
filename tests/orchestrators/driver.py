"""A program in an orchestrator's own environment, told what to do by a test: JSON lines in, JSON lines out."""

import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any


def serve(commands: Mapping[str, Callable[[dict[str, Any]], Any]]) -> None:
    """Do what is asked, several things at once; ``{"number", "value"}`` or ``{"number", "error"}`` come back."""
    speaking, answers = threading.Lock(), sys.stdout
    sys.stdout = sys.stderr  # where what orchestrators print goes

    def do(asked: dict[str, Any]) -> None:
        try:
            told = {"value": commands[asked["do"]](asked)}
        except Exception as error:  # noqa: BLE001 -- the test judges it
            told = {"error": f"{type(error).__name__}: {error}"}
        with speaking:
            answers.write(json.dumps({"number": asked["number"], **told}) + "\n")
            answers.flush()

    print(json.dumps({"number": 0, "value": "ready"}), file=answers, flush=True)
    for line in sys.stdin:
        threading.Thread(target=do, args=(json.loads(line),), daemon=True).start()
