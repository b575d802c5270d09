"""Dispatches and what becomes of them: decisions, authorizations, bundles, the event feed."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.routes.route import PEOPLE, Route, json_answer, read_body
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.models import AuthorizationView, DispatchRequest
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

FEED_IDLE_S = 15.0


class DispatchRoutes:
    """What orchestrators ask, and what auditors and operators see of it."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route("POST", "/v1/dispatches", frozenset({Role.ORCHESTRATOR}), self.dispatch),
            Route("GET", "/v1/authorizations", PEOPLE, self.authorizations),
            Route("GET", "/v1/authorizations/{authorization}", PEOPLE, self.authorization),
            Route("GET", "/v1/authorizations/{authorization}/children", PEOPLE, self.children),
            Route("GET", "/v1/authorizations/{authorization}/bundle", PEOPLE, self.bundle),
            Route("POST", "/v1/authorizations/{authorization}/revocation", frozenset({Role.OPERATOR}), self.revoke),
            Route("GET", "/v1/events", PEOPLE, self.events),
            Route("GET", "/v1/checkpoint", PEOPLE, self.checkpoint),
        )

    async def dispatch(self, request: web.Request, caller: Caller) -> web.Response:
        """May this job run on this executor, now?"""
        self._gateway.require_ready()
        grant = await self._gateway.authorizer.dispatch(caller.name, await read_body(request, DispatchRequest))
        return json_answer(grant.model_dump(), status=201)

    async def authorizations(self, _request: web.Request, caller: Caller) -> web.Response:
        """The latest authorizations."""
        own = caller.name if caller.role is Role.ORCHESTRATOR else None
        found = authorizations.page(self._gateway.database.reading, orchestrator=own, limit=limits.PAGE)
        return json_answer({"authorizations": [self._view(one) for one in found]})

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

    async def revoke(self, request: web.Request, caller: Caller) -> web.Response:
        """An operator ends an authorization."""
        found = self._own(request, caller)
        detail = f"revoked by operator {caller.name}"
        await self._gateway.endings.revoke(found.id, GateReason.OPERATOR_REVOKED, detail)
        return json_answer(self._view(self._own(request, caller)))

    def _view(self, found: Authorization) -> dict[str, Any]:
        children = authorizations.count_children(self._gateway.database.reading, found.id)
        return authorization_view(found, children).model_dump()

    def _own(self, request: web.Request, caller: Caller) -> Authorization:
        found = authorizations.get(self._gateway.database.reading, request.match_info["authorization"])
        if caller.role is Role.ORCHESTRATOR and found.orchestrator != caller.name:
            raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {found.id!r}")
        return found

    async def events(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Server-sent events from record ``from`` on: the lineage of authorizations, as it is written."""
        start = request.query.get("from", "0")
        if not (start.isascii() and start.isdigit() and len(start) < 16):
            raise GateError(GateReason.REQUEST_MALFORMED, "'from' is the number of a record")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        with suppress(ConnectionError):  # a subscriber that leaves is no error of ours
            async for chunk in self._feed(int(start), caller):
                await response.write(chunk)
        return response

    async def _feed(self, cursor: int, caller: Caller) -> AsyncIterator[bytes]:
        own = caller.name if caller.role is Role.ORCHESTRATOR else None
        while not self._gateway.stopping.is_set():
            rows = self._gateway.database.reading.execute(
                "SELECT r.seq, r.type, r.bytes, a.orchestrator FROM records r"
                " LEFT JOIN authorizations a ON a.id = r.authorization WHERE r.seq >= ? ORDER BY r.seq LIMIT ?",
                (cursor, limits.FEED_BATCH),
            ).fetchall()
            for seq, kind, data, orchestrator in rows:
                cursor = seq + 1
                if orchestrator is not None and own in {None, orchestrator}:
                    yield f"id: {seq}\nevent: {kind}\ndata: ".encode() + bytes(data) + b"\n\n"
            if not rows:
                try:
                    async with asyncio.timeout(FEED_IDLE_S):
                        await self._gateway.database.wait_for_commit()
                except TimeoutError:
                    yield b": still here\n\n"

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
