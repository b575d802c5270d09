"""The HTTP API. Each route names its roles, what it takes and what it answers; one that doesn't can't be added."""

from typing import TYPE_CHECKING

from gateway.declaration import Route
from gateway.routes.attestation import AttestationRoutes
from gateway.routes.baselines import BaselineRoutes
from gateway.routes.description import DescriptionRoutes
from gateway.routes.dispatches import DispatchRoutes
from gateway.routes.executors import ExecutorRoutes
from gateway.routes.health import HealthRoutes
from gateway.routes.log import LogRoutes
from gateway.routes.orders import OrderRoutes
from gateway.routes.policies import PolicyRoutes
from gateway.routes.results import ResultRoutes
from gateway.routes.retirements import RetirementRoutes
from gateway.routes.route import add_routes
from gateway.routes.tokens import TokenRoutes
from gateway.routes.webhooks import WebhookRoutes

if TYPE_CHECKING:
    from gateway.app import Gateway

__all__ = ["Route", "add_routes", "all_routes"]


def all_routes(gateway: "Gateway") -> tuple[Route, ...]:
    """Every route of the service."""
    groups = (
        HealthRoutes(gateway),
        ExecutorRoutes(gateway),
        DispatchRoutes(gateway),
        BaselineRoutes(gateway),
        PolicyRoutes(gateway),
        OrderRoutes(gateway),
        RetirementRoutes(gateway),
        TokenRoutes(gateway),
        ResultRoutes(gateway),
        WebhookRoutes(gateway),
        AttestationRoutes(gateway),
        LogRoutes(gateway),
    )
    routes = tuple(route for group in groups for route in group.routes)
    return (*routes, *DescriptionRoutes(routes).routes)
