"""Webhooks: how each receiver stands."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import Route, json_of
from gateway.routes.route import json_answer
from ztrooted.operator_models import WebhookList

if TYPE_CHECKING:
    from gateway.app import Gateway


class WebhookRoutes:
    """What operators see of webhooks. Which there are is for the configuration to say."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (Route("GET", "/v1/webhooks", frozenset({Role.OPERATOR}), self.webhooks, json_of(WebhookList)),)

    async def webhooks(self, _request: web.Request, _caller: Caller) -> web.Response:
        """Each webhook: how far it is, and since when it fails."""
        return json_answer(WebhookList(webhooks=self._gateway.webhooks.views()).model_dump())
