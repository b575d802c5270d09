"""The local socket: who may act as the gateway's own user on its machine is an operator, without any credential.

It lies in the data folder, works when every token has expired, and each use is in the lineage. Its address is given by
way of the folder's descriptor: a Unix socket's name holds 107 bytes, and data folders lie deeper than that.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from ztrooted import limits
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.models import Problem, parse_json
from ztrooted.reasons import GateReason, parse_reason

FILE = "local.sock"
ANSWER_S = 30.0
_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid


@contextmanager
def _address(data: Path) -> Iterator[str]:
    folder = os.open(data, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{FILE}"
    finally:
        os.close(folder)


def listen(data: Path) -> socket.socket:
    """The socket, for the owner of the data folder alone. It replaces one that nobody serves any more."""
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    (data / FILE).unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        with _address(data) as address:
            listening.bind(address)
    except OSError as error:
        listening.close()
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_ADDRESS_IN_USE,
            f"the local socket {data / FILE} can't be made: {error.strerror}",
            "the data folder has to be on a file system that holds sockets, and writable for the gateway",
        ) from error
    finally:
        os.umask(before)
    listening.listen(16)
    return listening


def user_of(request: web.Request) -> int | None:
    """The user id behind a request that came by the local socket; None for all others.

    GateError ``auth.credential_invalid`` where it is neither root nor who the gateway runs as.
    """
    transport = request.transport
    peer = None if transport is None else transport.get_extra_info("socket")
    if peer is None or peer.family != socket.AF_UNIX:
        return None
    _, uid, _ = _CREDENTIALS.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    if uid not in {0, os.geteuid()}:
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, f"user {uid} is not who the gateway runs as")
    return int(uid)


async def call(data: Path, method: str, path: str, body: bytes | None = None) -> bytes | None:
    """Ask the gateway that serves ``data``. None where none does; GateError where it refuses."""
    headers = {} if body is None else {"Content-Type": "application/json"}
    with _address(data) as address:
        try:
            async with (
                aiohttp.ClientSession(
                    connector=aiohttp.UnixConnector(address), timeout=aiohttp.ClientTimeout(total=ANSWER_S)
                ) as http,
                http.request(method, f"http://local{path}", data=body, headers=headers) as answer,
            ):
                found = await answer.content.read(limits.BODY)
                if answer.status < 400:
                    return found
        except aiohttp.ClientConnectorError:
            return None
    problem: Any = parse_json(Problem, found)
    raise GateError(parse_reason(problem.code), problem.detail)
