"""Calls one function in a process of its own: the job that a governed function is.

``python -P call.py REFERENCE DIGEST``: standard input is a socket on which the arguments come, and the result goes
back. Started as a file, so that nothing of this package is loaded; nothing of the function's either, before the arguments
have the digest that the command line names, which is part of what was authorized.
"""

import asyncio
import hashlib
import importlib
import inspect
import json
import os
import runpy
import socket
import struct
import sys
import traceback
from pathlib import Path
from typing import Any

GOVERNED = "ZTROOTED_GOVERNED"  # is set in the environment of a governed call
ORIGINAL = "__governed__"  # the attribute under which a governed function has the one that is called here
LENGTH = struct.Struct(">Q")
MAX_TRACEBACK = 16 << 10  # characters; what is above it says where it began, and the end says what went wrong


def main(arguments: list[str]) -> int:
    """1. take the arguments  2. compare their digest  3. load the function  4. call it  5. send the result."""
    reference, digest = arguments
    channel = socket.socket(fileno=os.dup(0))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    with channel:
        payload = receive(channel)  # 1
        if hashlib.sha256(payload).hexdigest() != digest:  # 2
            raise SystemExit("the arguments are not those that were authorized")
        try:
            data = json.dumps({"value": call(reference, payload)}, allow_nan=False).encode()  # 3, 4
        except Exception as error:  # whatever the function raises is its result, and how this process ends
            trace = traceback.format_exc()[-MAX_TRACEBACK:]
            told = {"type": type(error).__name__, "message": str(error), "trace": trace}
            send(channel, json.dumps({"error": told}).encode())
            raise
        send(channel, data)  # 5
    return 0


def send(channel: socket.socket, data: bytes) -> None:
    """A result, and how long it is: what of it was there before the process was killed is none."""
    channel.sendall(LENGTH.pack(len(data)) + data)


def receive(channel: socket.socket) -> bytes:
    """Everything, to its end."""
    parts = []
    while part := channel.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def call(reference: str, payload: bytes) -> Any:
    """What the function returns; one that is asynchronous is awaited."""
    positional, named = json.loads(payload)
    function = load(reference)
    value = getattr(function, ORIGINAL, function)(*positional, **named)
    return asyncio.run(value) if inspect.iscoroutine(value) else value


def load(reference: str) -> Any:
    """The function: ``package.module:name``, or ``/path/to/program.py:name``, whose main part is not run."""
    where, _, name = reference.rpartition(":")
    if where.endswith(".py"):
        sys.path.insert(0, str(Path(where).parent))
        found: Any = type(sys)("__governed__")
        found.__dict__.update(runpy.run_path(where, run_name="__governed__"))
    else:
        found = importlib.import_module(where)
    for part in name.split("."):
        found = getattr(found, part)
    return found


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
