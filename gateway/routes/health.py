"""Whether the service lives, and whether it could authorize correctly now."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import TEXT, Route, bytes_of, json_of
from gateway.routes.route import PEOPLE, json_answer
from ztrooted.operator_models import Liveness, Readiness

if TYPE_CHECKING:
    from gateway.app import Gateway


class HealthRoutes:
    """Liveness and readiness."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route("GET", "/livez", frozenset({Role.ANYONE}), self.livez, json_of(Liveness), limited=False),
            Route(
                "GET",
                "/readyz",
                frozenset({Role.ANYONE}),
                self.readyz,
                json_of(Readiness, 200, "It could.") + json_of(Readiness, 503, "It could not."),
                limited=False,
            ),
            Route("GET", "/metrics", PEOPLE, self.metrics, bytes_of("text/plain", "Prometheus' text format.", TEXT)),
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
