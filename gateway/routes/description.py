"""The API described by itself: an OpenAPI document for programs, and the same as a page for people."""

import asyncio
import json
from functools import cached_property

from aiohttp import web

from gateway.api_page import POLICY, page
from gateway.auth import Caller, Role
from gateway.declaration import JSON, TEXT, Route, bytes_of
from gateway.openapi import document

OPENAPI = {"type": "object", "properties": {"openapi": {"type": "string"}}, "required": ["openapi", "info", "paths"]}
PAGE_HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class DescriptionRoutes:
    """Both are made of all routes and these two when somebody first asks, which may be who has no token yet."""

    def __init__(self, others: tuple[Route, ...]) -> None:
        anyone = frozenset({Role.ANYONE})
        self.routes = (
            Route(
                "GET",
                "/v1/openapi.json",
                anyone,
                self.openapi,
                bytes_of(JSON, "An OpenAPI 3.1 document.", OPENAPI),
                tagged=True,
            ),
            Route("GET", "/v1/docs", anyone, self.docs, bytes_of("text/html", "A page for people.", TEXT), tagged=True),
        )
        self._described = (*others, *self.routes)

    @cached_property
    def _json(self) -> bytes:
        return json.dumps(document(self._described), separators=(",", ":")).encode()

    @cached_property
    def _page(self) -> bytes:
        return page(document(self._described)).encode()

    async def openapi(self, _request: web.Request, _caller: Caller) -> web.Response:
        """This API as an OpenAPI document."""
        return web.Response(body=await asyncio.to_thread(lambda: self._json), content_type=JSON)

    async def docs(self, _request: web.Request, _caller: Caller) -> web.Response:
        """This API as a page."""
        body = await asyncio.to_thread(lambda: self._page)
        return web.Response(body=body, content_type="text/html", charset="utf-8", headers=PAGE_HEADERS)
