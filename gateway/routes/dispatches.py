"""Dispatches and what becomes of them: decisions, authorizations, bundles, the event feed."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import HttpVersion11, web

from gateway.auth import Caller, Role
from gateway.declaration import JSON, NUMBER, TEXT, Body, Parameter, Route, bytes_of, json_of
from gateway.feed import Line
from gateway.pages import PAGED, Page
from gateway.replies import NOTHING
from gateway.routes.route import KEEP, PEOPLE, json_answer, read_body
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.streams import Stream
from ztrooted.errors import GateError
from ztrooted.models import AuthorizationList, AuthorizationView, DispatchRequest, Grant
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

BUNDLE = {"type": "object", "properties": {"format": {"type": "string"}}, "required": ["format"]}
FROM = Parameter("from", "the number of the first record", NUMBER)
SEEN = Parameter("Last-Event-ID", "the number of the last record that was seen; 'from' goes before it", NUMBER)
UNREAD_S = 30.0  # a subscriber that has taken nothing for so long is hung up on; it can come again where it was


class DispatchRoutes:
    """What orchestrators ask, and what auditors and operators see of it."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route(
                "POST",
                "/v1/dispatches",
                frozenset({Role.ORCHESTRATOR}),
                self.dispatch,
                json_of(Grant, 201),
                frozenset({404, 409, 410}),
                Body(DispatchRequest),
                keyed=True,
            ),
            Route("GET", "/v1/authorizations", PEOPLE, self.authorizations, json_of(AuthorizationList), query=PAGED),
            Route("GET", "/v1/authorizations/{authorization}", PEOPLE, self.authorization, json_of(AuthorizationView)),
            Route(
                "GET",
                "/v1/authorizations/{authorization}/children",
                PEOPLE,
                self.children,
                json_of(AuthorizationList),
            ),
            Route(
                "GET",
                "/v1/authorizations/{authorization}/bundle",
                PEOPLE,
                self.bundle,
                bytes_of(JSON, "The bundle; docs/bundle-format.md describes it.", BUNDLE),
                frozenset({409, 413, 503}),
            ),
            Route(
                "GET",
                "/v1/events",
                PEOPLE,
                self.events,
                bytes_of("text/event-stream", "Events for as long as the connection lasts.", TEXT),
                query=(FROM,),
                headers=(SEEN,),
                lasting=True,
            ),
            Route(
                "GET",
                "/v1/checkpoint",
                PEOPLE,
                self.checkpoint,
                bytes_of("text/plain", "A C2SP signed note.", TEXT),
                frozenset({503}),
            ),
        )

    async def dispatch(self, request: web.Request, caller: Caller) -> web.Response:
        """May this job run on this executor, now?"""
        self._gateway.require_ready()
        asked, keep = await read_body(request, DispatchRequest), request.get(KEEP, NOTHING)
        grant = await self._gateway.authorizer.dispatch(caller.name, asked, keep)
        return json_answer(grant.model_dump(), status=201)

    async def authorizations(self, request: web.Request, caller: Caller) -> web.Response:
        """Authorizations, the latest first; orchestrators see their own."""
        own = caller.name if caller.role is Role.ORCHESTRATOR else None
        page = Page.wanted(request, int, str)
        reading = self._gateway.database.reading
        found = authorizations.page(reading, orchestrator=own, limit=page.limit + 1, after=page.after)
        shown, following = page.cut(found, lambda one: (one.requested_at, one.id))
        return json_answer({"authorizations": [self._view(one) for one in shown], "next": following})

    async def authorization(self, request: web.Request, caller: Caller) -> web.Response:
        """One authorization."""
        return json_answer(self._view(self._own(request, caller)))

    async def children(self, request: web.Request, caller: Caller) -> web.Response:
        """What was authorized under one authorization, in order; orchestrators see their own of these."""
        found = authorizations.children(self._gateway.database.reading, self._own(request, caller).id)
        own = [one for one in found if caller.role is not Role.ORCHESTRATOR or one.orchestrator == caller.name]
        return json_answer({"authorizations": [self._view(one) for one in own]})

    async def bundle(self, request: web.Request, caller: Caller) -> web.Response:
        """Everything that proves one authorization."""
        found = self._own(request, caller)
        data = await self._gateway.bundles.export(found.id)
        return web.Response(body=data, content_type="application/json", headers={"Cache-Control": "no-store"})

    def _view(self, found: Authorization) -> dict[str, Any]:
        children = authorizations.count_children(self._gateway.database.reading, found.id)
        return authorization_view(found, children).model_dump()

    def _own(self, request: web.Request, caller: Caller) -> Authorization:
        found = authorizations.get(self._gateway.database.reading, request.match_info["authorization"])
        if caller.role is Role.ORCHESTRATOR and found.orchestrator != caller.name:
            raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {found.id!r}")
        return found

    async def events(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Server-sent events from record ``from`` on, or behind the ``Last-Event-ID``: the lineage as it is written."""
        start = int(request.query.get("from", "0"))
        if "from" not in request.query and (seen := request.headers.get("Last-Event-ID")) is not None:
            start = int(seen) + 1
        own = caller.name if caller.role is Role.ORCHESTRATOR else None
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        with suppress(TimeoutError):  # the credential has ended, or was revoked
            async with asyncio.timeout(None) as lasting:

                def end() -> None:
                    lasting.reschedule(asyncio.get_running_loop().time())

                with self._gateway.streams.open(Stream(lambda: caller.ends_ms, caller.token, end)):
                    await response.prepare(request)
                    await response.write(b": here\n\n")  # the head leaves with the first bytes of the body
                    await self._follow(request, response, start, own)
        transport = request.transport
        if lasting.expired() and transport is not None and transport.get_write_buffer_size():
            transport.abort()  # who does not read does not read a goodbye either
        return response

    async def _follow(self, request: web.Request, response: web.StreamResponse, start: int, own: str | None) -> None:
        if request.transport is None:
            return
        line = Line(request.transport, start, own, chunked=request.version >= HttpVersion11)
        with suppress(ConnectionError):  # a subscriber that leaves is no error of ours
            async for chunk in self._gateway.feed.follow(line):
                try:
                    async with asyncio.timeout(UNREAD_S):
                        await response.write(chunk)
                except TimeoutError:
                    if request.transport is not None:
                        request.transport.abort()  # what waits to be sent would never be taken
                    break

    async def checkpoint(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The newest sealed checkpoint."""
        latest = self._gateway.checkpointer.latest()
        if latest is None:
            raise GateError(GateReason.SERVICE_NOT_READY, "nothing has been sealed yet")
        return web.Response(body=latest[1], content_type="text/plain", charset="utf-8")


def authorization_view(found: Authorization, children: int) -> AuthorizationView:
    """One authorization for people."""
    return AuthorizationView(
        authorization=found.id,
        executor=found.executor,
        orchestrator=found.orchestrator,
        state=found.state.value,
        reason=found.reason,
        job=found.job_digest,
        workflow=found.job.workflow,
        run=found.job.run,
        step=found.job.step,
        lease_expires=found.lease_expires,
        renewals=found.renewals,
        parent=found.parent,
        depth=found.depth,
        children=children,
    )
