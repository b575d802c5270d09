"""A tool server of the Model Context Protocol over standard streams, whose tools are governed.

It speaks the three requests that a client needs: ``initialize``, ``tools/list`` and ``tools/call`` (JSON-RPC 2.0, one
message a line). Each call is authorized, runs in a process of its own, and dies with its lease.
"""

import inspect
import json
import sys
from pathlib import Path
from typing import Any

from ztrooted.errors import GateError
from ztrooted.guard.governed import Gate

gate = Gate.from_environment()


@gate.governed(workflow="mcp", max_runtime_s=60)
def read_text(path: str) -> str:
    """Read a text file."""
    return Path(path).read_text()


TOOLS = {"read_text": read_text}


def described(name: str) -> dict[str, Any]:
    tool = TOOLS[name]
    members = {parameter: {"type": "string"} for parameter in inspect.signature(tool).parameters}
    schema = {"type": "object", "properties": members, "required": list(members)}
    return {"name": name, "description": tool.__doc__, "inputSchema": schema}


def called(asked: dict[str, Any]) -> dict[str, Any]:
    try:
        text, failed = str(TOOLS[asked["name"]](**asked.get("arguments", {}))), False
    except GateError as error:
        text, failed = str(error), True
    return {"content": [{"type": "text", "text": text}], "isError": failed}


def result(method: str, asked: dict[str, Any]) -> dict[str, Any]:
    if method == "initialize":
        about = {"name": "governed-files", "version": "1"}
        return {"protocolVersion": asked["protocolVersion"], "capabilities": {"tools": {}}, "serverInfo": about}
    if method == "tools/list":
        return {"tools": [described(name) for name in TOOLS]}
    return called(asked)


if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            answer = result(message["method"], message.get("params", {}))
            print(json.dumps({"jsonrpc": "2.0", "id": message["id"], "result": answer}), flush=True)
