"""The console: pages for people, rendered here, which work without scripts and are kept up to date by small ones.

Five surfaces, a module each: ``governance``, ``lineage``, ``viewer``, ``health``, ``demo``. Each says which pages it has;
who may see them is decided here, before a page is made. See ADR 0038.

Every text of evidence is somebody else's: templates escape, scripts build text nodes, and a policy for the browser allows
neither scripts nor styles but our own files.
"""

import asyncio
import json
import sqlite3
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware
from jinja2 import Environment, PackageLoader, StrictUndefined

from gateway.addresses import source_of
from gateway.auth import Authenticator, Role
from gateway.console import demo, governance, health, lineage, viewer
from gateway.console.assets import PREFIX, Assets
from gateway.console.forms import FORM, HEADERS, read_form, redirect, require_form, require_same_origin
from gateway.console.live import LivePages
from gateway.console.login import LoginPages
from gateway.console.page import ANYBODY, Page, Surface, Viewer
from gateway.console.sessions import Sessions
from gateway.console.words import FILTERS, visible
from gateway.routes.route import CALLER
from gateway.storage.aside import glance
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

T = TypeVar("T")
ROOT = "/console"
PART = "X-Ztrooted-Part"  # a script asks for the live parts of a page alone
PARTS_KEPT_S = 0.4  # twenty people who look at one page cost what one does
MAX_PARTS_KEPT = 64


class Console:
    """All pages of one gateway."""

    def __init__(self, gateway: "Gateway", authenticator: Authenticator) -> None:
        self.gateway = gateway
        self.sessions = Sessions(authenticator, gateway.clock)
        self.assets = Assets()
        self.templates = Environment(
            loader=PackageLoader("gateway.console"),
            autoescape=True,
            undefined=StrictUndefined,
            finalize=visible,
            auto_reload=False,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.templates.filters.update(FILTERS)
        self.surfaces: tuple[Surface, ...] = tuple(
            module.surface(self) for module in (governance, lineage, viewer, health, demo)
        )
        self._parts: dict[tuple[str, str, str], tuple[float, asyncio.Future[tuple[int, bytes]]]] = {}

    def add_to(self, app: web.Application) -> None:
        """Register every page."""
        app.router.add_get(ROOT, self._to_root)
        app.router.add_get(PREFIX + "/{digest}/{name:.+}", self._static)
        groups = (*(surface.pages for surface in self.surfaces), LoginPages(self).pages, LivePages(self).pages)
        for page in (page for group in groups for page in group):
            app.router.add_route(page.method, page.path, self._guarded(page))

    async def look(self, read: Callable[[sqlite3.Connection], T]) -> T:
        """What ``read`` finds, where nobody waits for it but who asked: of a large gateway, that is some milliseconds."""
        return await glance(self.gateway.config.data / "gateway.db", read)

    def render(self, request: web.Request, viewer: Viewer, template: str, **context: Any) -> web.Response:
        """A page. Of one that is live, the parts alone where a script asks for them: they are the same for a scope."""
        return self.respond(request, viewer, template, context)

    def respond(
        self, request: web.Request, viewer: Viewer, template: str, context: Mapping[str, Any], status: int = 200
    ) -> web.Response:
        """The same, with a status."""
        part = PART in request.headers
        notes: list[str] = []
        if viewer.session is not None and not part:
            notes, viewer.session.notes = viewer.session.notes, []
        text = self.templates.get_template(template).render(
            layout="part.html" if part else "base.html",
            asset=self.assets.url,
            viewer=viewer,
            surfaces=[one for one in self.surfaces if one.permits(viewer) and (viewer.signed_in or self._is_public)],
            path=request.path,
            here=request.raw_path,
            notes=notes,
            now=self.gateway.clock.now_ms(),
            next_record=self.gateway.feed.end,
            domain=self.gateway.config.trust_domain,
            virtual=self.gateway.signer.identity.virtual,
            public=self._is_public,
            **context,
        )
        headers = {**HEADERS, "Cache-Control": "no-store"}
        return web.Response(text=text, status=status, content_type="text/html", charset="utf-8", headers=headers)

    def _guarded(self, page: Page) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        async def guarded(request: web.Request) -> web.StreamResponse:
            viewer = await self._viewer(request)
            request[CALLER] = viewer.caller
            if not page.permits(viewer) or (viewer.role is Role.ANYONE and not (page.open or self._is_public)):
                return self._turn_away(request, page, viewer)
            if page.method == "POST":
                require_same_origin(request)
                request[FORM] = form = await read_form(request)
                if not page.open and viewer.session is not None:
                    require_form(form.get("form", ""), viewer.session.form)
            if page.live and PART in request.headers:
                return await self._part(request, page, viewer)
            return await page.show(request, viewer)

        return guarded

    @property
    def _is_public(self) -> bool:
        return self.gateway.config.console_public

    async def _viewer(self, request: web.Request) -> Viewer:
        """Who asks, who has now paid for it."""
        session = await self.sessions.find(request)
        if session is None:
            self.gateway.rates.unproved(source_of(request))
            return ANYBODY
        self.gateway.rates.known(session.caller)
        return Viewer(session.caller, session)

    def _turn_away(self, request: web.Request, page: Page, viewer: Viewer) -> web.Response:
        """To the login, who has no session and asks for a page; GateError for everybody else."""
        if viewer.signed_in:
            wanted = " or ".join(sorted(page.roles))
            raise GateError(GateReason.AUTH_ROLE, f"this page needs the role {wanted}, not {viewer.role}")
        if page.method != "GET" or page.lasting or PART in request.headers:
            raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "there is no session, or it has ended; sign in")
        return redirect(f"{ROOT}/login?next={quote(request.raw_path, safe='')}")

    async def _part(self, request: web.Request, page: Page, viewer: Viewer) -> web.StreamResponse:
        """The live parts of a page, made once for everybody of a scope who asks for them at about the same time."""
        key, now = (viewer.scope, viewer.form() if page.forms else "", request.raw_path), time.monotonic()
        self._parts = {name: kept for name, kept in self._parts.items() if kept[0] > now}
        if len(self._parts) >= MAX_PARTS_KEPT:
            self._parts.clear()
        if key not in self._parts:
            self._parts[key] = now + PARTS_KEPT_S, asyncio.ensure_future(self._made(request, page, viewer))
        status, body = await asyncio.shield(self._parts[key][1])
        headers = {**HEADERS, "Cache-Control": "no-store"}
        return web.Response(body=body, status=status, content_type="text/html", charset="utf-8", headers=headers)

    @staticmethod
    async def _made(request: web.Request, page: Page, viewer: Viewer) -> tuple[int, bytes]:
        answer = await page.show(request, viewer)
        return answer.status, bytes(answer.body) if isinstance(answer, web.Response) and answer.body else b""  # type: ignore[arg-type]

    async def _to_root(self, _request: web.Request) -> web.Response:
        return redirect(f"{ROOT}/")

    async def _static(self, request: web.Request) -> web.Response:
        """One of our own files, which may be kept for as long as anybody likes."""
        await self._viewer(request)
        found = self.assets.find(request.match_info["digest"], request.match_info["name"])
        if found is None:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "there is no such file in this version")
        headers = {**HEADERS, "Cache-Control": "public, max-age=31536000, immutable"}
        return web.Response(body=found.data, content_type=found.media, charset="utf-8", headers=headers)

    def middleware(self) -> Middleware:
        """Refusals below /console as pages, for whoever takes pages."""

        @web.middleware
        async def as_pages(request: web.Request, handler: Handler) -> web.StreamResponse:
            answer = await handler(request)
            ours = request.path == ROOT or request.path.startswith(ROOT + "/")
            if not ours or not isinstance(answer, web.Response) or answer.content_type != "application/problem+json":
                return answer
            answer.headers.update(HEADERS)
            if answer.keep_alive is False:  # an address that has asked too much: it costs as little as may be
                return answer
            if "text/html" in request.headers.get("Accept", "") and PART not in request.headers:
                viewer = await self._refused_viewer(request)
                page = self.respond(request, viewer, "problem.html", {"problem": _problem(answer)}, answer.status)
                answer.body, answer.content_type = page.body, "text/html"
            return answer

        return as_pages

    async def _refused_viewer(self, request: web.Request) -> Viewer:
        session = await self.sessions.find(request)
        return ANYBODY if session is None else Viewer(session.caller, session)


def _problem(answer: web.Response) -> dict[str, Any]:
    found: dict[str, Any] = {"remedy": "", "detail": "", **json.loads(answer.text or "{}")}
    return found
