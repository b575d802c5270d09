"""The gateway's HTTP API from Python, for orchestrators, auditors, operators and the executor agent.

Every way in which an answer can fail to arrive or to be understood ends as an error, and an error is never permission.

``GatewayClient`` has every call, each role's in a module of its own over one ``connection``. ``Orchestrator`` stands
above it: ``authorize``, ``watch``, ``run``.
"""

from ztrooted.client.answers import (
    Denied,
    Refused,
    Unauthenticated,
    Unavailable,
    address,
    stranger,
    tls_context,
    unreachable,
)
from ztrooted.client.auditors import AuditorCalls
from ztrooted.client.executors import ExecutorCalls
from ztrooted.client.operators import OperatorCalls
from ztrooted.client.orchestrators import FeedEvent

__all__ = [
    "Denied",
    "FeedEvent",
    "GatewayClient",
    "Refused",
    "Unauthenticated",
    "Unavailable",
    "address",
    "stranger",
    "tls_context",
    "unreachable",
]


class GatewayClient(OperatorCalls, AuditorCalls, ExecutorCalls):
    """A connection to one gateway, with what every role may ask. Use it as an async context manager."""
