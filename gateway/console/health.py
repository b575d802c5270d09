"""The health dashboard: whether this gateway could authorize now, and how it has been lately. See ``health_view``."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.console.health_view import HealthView
from gateway.console.page import Page, Surface, Viewer

if TYPE_CHECKING:
    from gateway.console.app import Console


def surface(console: "Console") -> Surface:
    """Its page."""
    return Surface("Health", "/console/health", HealthPages(console).pages, public=False)


class HealthPages:
    """The dashboard, for whoever may read ``/metrics``."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._view = HealthView(console.gateway, console.look)
        self.pages = (Page("GET", "/console/health", self.show, live=True),)

    async def show(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Everything, as of now."""
        return self._console.render(request, viewer, "health/health.html", health=await self._view.read())
