"""The governance console: what stands how, and what operators order."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.console.page import Page, Surface, Viewer

if TYPE_CHECKING:
    from gateway.console.app import Console


WITHIN = tuple(f"/console/{one}/" for one in ("executors", "authorizations", "policies", "baselines", "orders"))


def surface(console: "Console") -> Surface:
    """Its pages."""
    pages = GovernancePages(console)
    return Surface("Governance", "/console/", pages.pages, within=WITHIN)


class GovernancePages:
    """The overview."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (Page("GET", "/console/", self.overview, public=True, live=True),)

    async def overview(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Everything at a glance."""
        return self._console.render(
            request, viewer, "governance/overview.html", failing=self._console.gateway.not_ready()
        )
