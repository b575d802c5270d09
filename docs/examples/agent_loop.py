"""An agent's loop: a model asks for tools by name, and each call is a dispatch of its own.

The model here is a list of what it would ask for. What it may do is the dispatch policy's business: workflow, step (the
tool's name) and the digest of the arguments are in the job. A refusal goes back to the model as the tool's answer.
"""

import json
import sys
from pathlib import Path

from ztrooted.errors import GateError
from ztrooted.guard.governed import Gate

gate = Gate.from_environment()


@gate.governed(workflow="assistant", run="conversation-1", max_runtime_s=60)
def list_files(folder: str) -> list[str]:
    return sorted(path.name for path in Path(folder).iterdir())


@gate.governed(workflow="assistant", run="conversation-1", max_runtime_s=60)
async def write_note(path: str, text: str) -> int:
    return Path(path).write_text(text)


TOOLS = {"list_files": list_files, "write_note": write_note}


async def answer(request: str) -> str:
    """What a model is told about one call that it asked for."""
    asked = json.loads(request)
    try:
        tool = TOOLS[asked["tool"]]
        result = tool(**asked["arguments"])
        return json.dumps({"result": await result if hasattr(result, "__await__") else result})
    except KeyError:
        return json.dumps({"error": "there is no such tool"})
    except GateError as error:
        return json.dumps({"error": str(error.reason), "detail": error.detail, "remedy": error.remedy})


if __name__ == "__main__":
    import asyncio

    for line in sys.stdin:
        print(asyncio.run(answer(line)), flush=True)
