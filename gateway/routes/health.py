"""Whether the service lives, and whether it could authorize correctly now."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.routes.route import PEOPLE, Route, json_answer

if TYPE_CHECKING:
    from gateway.app import Gateway


class HealthRoutes:
    """Liveness and readiness."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route("GET", "/livez", frozenset({Role.ANYONE}), self.livez),
            Route("GET", "/readyz", frozenset({Role.ANYONE}), self.readyz),
            Route("GET", "/metrics", PEOPLE, self.metrics),
        )

    async def livez(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The process answers."""
        return json_answer({"alive": True})

    async def metrics(self, _request: web.Request, _caller: Caller) -> web.Response:
        """What the gateway measures of itself, for Prometheus."""
        return web.Response(
            body=self._gateway.metrics.text(), headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"}
        )

    async def readyz(self, _request: web.Request, _caller: Caller) -> web.Response:
        """Whether an authorization could be given correctly now, and if not, why not."""
        failing = self._gateway.not_ready()
        return json_answer({"ready": not failing, "failing": failing}, status=503 if failing else 200)
