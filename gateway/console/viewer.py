"""Proofs: the page on which a browser checks a bundle by itself, the bundles it may be opened with, and it as a file."""

import asyncio
import re
from functools import cached_property
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Role
from gateway.console.forms import HEADERS
from gateway.console.page import PEOPLE, Page, Surface, Viewer
from gateway.console.saved import saved_viewer
from gateway.storage import authorizations
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.console.app import Console

URL = "/console/viewer"
FILE = "ztrooted-viewer.html"
_ID = re.compile(r"[A-Za-z0-9._-]{1,128}")


class ViewerPages:
    """Nothing on the page is of this gateway but the bundle that somebody opens from it, of which nothing is believed."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (
            Page("GET", URL, self.show, PEOPLE, open=True),
            Page("GET", f"{URL}/file", self.file, PEOPLE, open=True),
            Page("GET", URL + "/bundle/{authorization}", self.bundle, PEOPLE),
        )

    async def show(self, request: web.Request, viewer: Viewer) -> web.Response:
        """The page; ``?authorization=`` opens it with a bundle, which it asks for itself."""
        wanted = request.query.get("authorization")
        if wanted is not None and not _ID.fullmatch(wanted):
            raise GateError(GateReason.REQUEST_MALFORMED, "'authorization' in the query is no id")
        return self._console.render(request, viewer, "viewer/viewer.html", wanted=wanted)

    async def file(self, _request: web.Request, _viewer: Viewer) -> web.Response:
        """The same as one file, to be kept and opened anywhere."""
        headers = {**HEADERS, "Content-Disposition": f'attachment; filename="{FILE}"', "Cache-Control": "no-store"}
        text = await asyncio.to_thread(lambda: self._saved)  # a twentieth of a second the first time
        return web.Response(text=text, content_type="text/html", charset="utf-8", headers=headers)

    @cached_property
    def _saved(self) -> str:
        """The same for everybody: it is made of our own files alone, which change with the version."""
        return saved_viewer()

    async def bundle(self, request: web.Request, viewer: Viewer) -> web.Response:
        """A bundle; orchestrators get those of their own authorizations."""
        gateway, name = self._console.gateway, request.match_info["authorization"]
        found = authorizations.get(gateway.database.reading, name)
        if viewer.role is Role.ORCHESTRATOR and found.orchestrator != viewer.own:
            raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {name!r}")
        data = await gateway.bundles.export(found.id)
        disposition = f'attachment; filename="{found.id}.json"'
        headers = {**HEADERS, "Cache-Control": "no-store", "Content-Disposition": disposition}
        return web.Response(body=data, content_type="application/json", headers=headers)


def surface(console: "Console") -> Surface:
    """Its entry in the navigation."""
    return Surface("Proofs", URL, ViewerPages(console).pages)
