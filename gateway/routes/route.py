"""What every route needs: requests held to its declaration, the body read within bounds, the answer written."""

import asyncio
import hashlib
import json
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

from aiohttp import web

from gateway.addresses import source_of
from gateway.auth import Authenticator, Caller, Role
from gateway.declaration import Route
from gateway.middleware import RATES
from gateway.rates import Rates
from gateway.replies import HEADER, KEY, Keep, Replies
from tpm.errors import EvidenceError
from tpm.observation import observed
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.models import Model, parse_json
from ztrooted.reasons import GateReason
from ztrooted.tracing import HEADER as HEADER_OF_TRACE
from ztrooted.tracing import continued

M = TypeVar("M", bound=Model)

CALLER = web.RequestKey("ztrooted.caller", Caller)  # under which a request knows who it is from
PEER = web.RequestKey("ztrooted.peer", Caller)  # who asks what anybody may ask, where it is known
PAID = web.RequestKey("ztrooted.paid", float)  # what a request has cost its address
ROUTE = web.RequestKey("ztrooted.route", Route)  # and which route it has taken
BODY = web.RequestKey("ztrooted.body", bytes)
KEEP = web.RequestKey("ztrooted.keep", Keep)  # whereby its outcome is kept
PEOPLE = frozenset({Role.ORCHESTRATOR, Role.AUDITOR, Role.OPERATOR})


def add_routes(
    app: web.Application, routes: tuple[Route, ...], authenticator: Authenticator, replies: Replies, rates: Rates
) -> None:
    """Register routes. ValueError for one that says too little of itself: who may use it, what it answers."""
    app[RATES] = rates
    for route in routes:
        route.check()
        app.router.add_route(route.method, route.path, _guarded(route, authenticator, replies))


def _guarded(
    route: Route, authenticator: Authenticator, replies: Replies
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def guarded(request: web.Request) -> web.StreamResponse:
        request[ROUTE] = route
        request[PAID] = 0.0
        caller = await _identify(request, route, authenticator)
        request[CALLER] = caller
        with continued(_parent(request, caller)), _observed(request, route):
            return await answered(request, route, caller)

    async def answered(request: web.Request, route: Route, caller: Caller) -> web.StreamResponse:
        _require_declared(request, route)
        if not route.keyed or HEADER not in request.headers:
            answer = await route.handle(request, caller)
            return _tagged(request, answer) if route.tagged else answer

        async def do(keep: Keep) -> web.StreamResponse:
            request[KEEP] = keep
            return await route.handle(request, caller)

        request[BODY] = await read_bytes(request)
        return await replies.once(request, caller, request[BODY], do)

    return guarded


async def _identify(request: web.Request, route: Route, authenticator: Authenticator) -> Caller:
    """Who asks, who has now paid for it. GateError ``auth.*``, or ``request.rate``."""
    rates = request.app[RATES]
    try:
        caller = await authenticator.identify(request, route.roles)
    except GateError:
        rates.unproved(source_of(request))
        raise
    if not route.limited:
        return caller
    if caller.role is not Role.ANYONE:
        rates.known(caller)
        return caller
    peer = authenticator.executor_of(request)
    request[CALLER] = caller
    if peer is not None:
        request[PEER] = peer
    pay(request, 1.0)
    return caller


def pay(request: web.Request, cost: float) -> None:
    """Have whoever asks pay, or else the address. RateExceededError where they can't."""
    who = request.get(PEER, request[CALLER])
    if who.role is not Role.ANYONE:
        request.app[RATES].known(who, cost)
        return
    request.app[RATES].unproved(source_of(request), cost)
    request[PAID] += cost


def _parent(request: web.Request, caller: Caller) -> str | None:
    """The trace that a request says it is part of. Only who is known may choose one."""
    return None if caller.role is Role.ANYONE else request.headers.get(HEADER_OF_TRACE)


def _observed(request: web.Request, route: Route) -> AbstractContextManager[Any]:
    """One request; one that lasts for as long as a connection is none that anybody waits for."""
    if route.lasting:
        return nullcontext()
    return observed(f"{route.method} {route.path}", **{"http.request.method": request.method, "http.route": route.path})


def _require_declared(request: web.Request, route: Route) -> None:
    """GateError ``request.malformed`` for a query or header that is not as the route declares it."""
    known = {one.name: one for one in route.query}
    for name in request.query:
        if name not in known or len(request.query.getall(name)) > 1:
            asked = ", ".join(sorted(known)) or "nothing"
            raise GateError(GateReason.REQUEST_MALFORMED, f"this takes {asked} in its query, and each once")
    for one in route.query:
        text = request.query.get(one.name)
        if one.required if text is None else not one.fits(text):
            raise GateError(GateReason.REQUEST_MALFORMED, f"'{one.name}' in the query: {one.what}")
    for one in (*route.headers, *((KEY,) if route.keyed else ())):
        text = request.headers.get(one.name)
        if one.required if text is None else not one.fits(text):
            raise GateError(GateReason.REQUEST_MALFORMED, f"{one.name}: {one.what}")


def _tagged(request: web.Request, answer: web.StreamResponse) -> web.StreamResponse:
    """The answer with its ETag, or 304 for who has it (RFC 9110 §13.1.2). It may be kept, and is asked for each time."""
    if answer.status != 200 or not isinstance(answer, web.Response) or not isinstance(answer.body, bytes):
        return answer
    tag = f'"{hashlib.sha256(answer.body).hexdigest()[:32]}"'
    wanted = request.headers.get("If-None-Match", "")
    if wanted.strip() == "*" or tag in re.findall(r'"[^"]*"', wanted):
        answer = web.Response(status=304)
    answer.headers["Etag"] = tag
    answer.headers["Cache-Control"] = "private, no-cache"
    return answer


async def read_bytes(request: web.Request) -> bytes:
    """The body, refused by its declared or real size, its type and its encoding."""
    if BODY in request:  # read for an Idempotency-Key
        return request[BODY]
    declared = request[ROUTE].body
    if declared is None:
        raise TypeError("this route declares no body")
    maximum = declared.maximum
    if request.headers.get("Content-Encoding") or request.content_type != "application/json":
        raise GateError(GateReason.REQUEST_CONTENT_TYPE, "send plain application/json")
    data, paid_for = bytearray(), limits.PIECE  # the first is in the price of the request
    try:
        async with asyncio.timeout(limits.REQUEST_S):
            async for chunk in request.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > maximum:
                    raise GateError(GateReason.REQUEST_TOO_LARGE, f"the body is over {maximum} bytes")
                while len(data) > paid_for:
                    pay(request, 1.0)
                    paid_for += limits.PIECE
    except TimeoutError:
        raise GateError(GateReason.REQUEST_TIMEOUT, f"the body did not arrive within {limits.REQUEST_S} s") from None
    return bytes(data)


async def read_body(request: web.Request, model: type[M]) -> M:
    """The body as ``model``, which the route declares; refused by size, type and encoding before it is parsed."""
    declared = request[ROUTE].body
    if declared is None or declared.model is not model:
        raise TypeError(f"this route does not declare a body of {model.__name__}")
    data = await read_bytes(request)
    try:
        if len(data) > limits.PIECE:
            return await asyncio.to_thread(_parse, model, data, declared.maximum)
        return _parse(model, data, declared.maximum)
    except EvidenceError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, error.detail) from error


def _parse(model: type[M], data: bytes, maximum: int) -> M:
    parsed: M = parse_json(model, data, maximum=maximum, values=limits.JSON_VALUES)
    return parsed


def json_answer(value: Any, status: int = 200) -> web.Response:
    """``value`` as an answer that nobody keeps."""
    text = json.dumps(value)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )
