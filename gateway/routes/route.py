"""What every route needs: who may use it, its body read within bounds, its answer written."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from aiohttp import web

from gateway.auth import Authenticator, Caller, Role
from tpm.errors import EvidenceError
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.models import Model, parse_json
from ztrooted.reasons import GateReason

M = TypeVar("M", bound=Model)
Handle = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

CALLER = web.RequestKey("ztrooted.caller", Caller)  # under which a request knows who it is from
PEOPLE = frozenset({Role.ORCHESTRATOR, Role.AUDITOR, Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Route:
    """One route and who may use it."""

    method: str
    path: str
    roles: frozenset[Role]
    handle: Handle


def add_routes(app: web.Application, routes: tuple[Route, ...], authenticator: Authenticator) -> None:
    """Register routes. ValueError for one without a role: it would be open to everybody by accident."""
    for route in routes:
        if not route.roles:
            raise ValueError(f"{route.method} {route.path} declares no role")
        app.router.add_route(route.method, route.path, _guarded(route, authenticator))


def _guarded(route: Route, authenticator: Authenticator) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def guarded(request: web.Request) -> web.StreamResponse:
        caller = await authenticator.identify(request, route.roles)
        request[CALLER] = caller
        return await route.handle(request, caller)

    return guarded


async def read_bytes(request: web.Request, maximum: int) -> bytes:
    """The body, refused by its declared or real size, its type and its encoding."""
    if request.headers.get("Content-Encoding") or request.content_type != "application/json":
        raise GateError(GateReason.REQUEST_CONTENT_TYPE, "send plain application/json")
    data = bytearray()
    try:
        async with asyncio.timeout(limits.REQUEST_S):
            async for chunk in request.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > maximum:
                    raise GateError(GateReason.REQUEST_TOO_LARGE, f"the body is over {maximum} bytes")
    except TimeoutError:
        raise GateError(GateReason.REQUEST_TIMEOUT, f"the body did not arrive within {limits.REQUEST_S} s") from None
    return bytes(data)


async def read_body(request: web.Request, model: type[M], maximum: int = limits.BODY) -> M:
    """The body as ``model``; refused by its declared or real size, its type and its encoding before it is parsed."""
    data = await read_bytes(request, maximum)
    try:
        parsed: M = parse_json(model, data, maximum=maximum)
    except EvidenceError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, error.detail) from error
    return parsed


def json_answer(value: Any, status: int = 200) -> web.Response:
    """``value`` as an answer that nobody keeps."""
    text = json.dumps(value)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
