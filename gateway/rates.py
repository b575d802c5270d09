"""How often somebody may ask: an address before it is known who asks, and whoever is known by name.

1. Who shows a valid credential pays by name. What comes from the same address without one takes nothing from them.
2. Everybody else pays by address: for each request that anybody may make or that was refused for want of a credential,
   and again for each 64 KiB of its body. An enrollment that succeeds gives back what it cost, so machines behind one
   address are not held up by each other. An address that has nothing left is hung up on with each refusal.
3. Of refusals for this reason there is one line of the log in ten seconds, with their number.
"""

import math
from collections.abc import Callable

import structlog

from gateway.auth import Caller, Role
from gateway.config import GatewayConfig
from gateway.metrics import Metrics
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason
from ztrooted.request_rate import RequestRate

log = structlog.get_logger()

LINE_S = 10.0


class RateExceededError(GateError):
    """Not now. ``retry_after_s``: whole seconds until it is worth another try. ``hang_up``: the connection ends."""

    def __init__(self, detail: str, wait_s: float, *, hang_up: bool) -> None:
        super().__init__(GateReason.REQUEST_RATE, detail)
        self.retry_after_s = max(1, math.ceil(wait_s))
        self.hang_up = hang_up


class Rates:
    """The buckets of one gateway. Memory is bounded: who asked longest ago is forgotten."""

    def __init__(self, config: GatewayConfig, metrics: Metrics, monotonic: Callable[[], float]) -> None:
        self._addresses = RequestRate(config.unproved_requests_per_s, config.unproved_requests_at_once, monotonic)
        self._people = RequestRate(config.requests_per_s, 2 * config.requests_per_s, monotonic)
        self._executors = RequestRate(limits.EXECUTOR_REQUESTS_PER_S, limits.EXECUTOR_REQUESTS_AT_ONCE, monotonic)
        self._refusals = RequestRate(limits.REFUSALS_PER_S, limits.REFUSALS_AT_ONCE, monotonic)
        self._metrics = metrics
        self._monotonic = monotonic
        self._untold: dict[str, int] = {}
        self._told: dict[str, float] = {}

    def unproved(self, source: str, cost: float = 1.0) -> None:
        """A request of nobody known. RateExceededError where its address has asked too much."""
        if not self._addresses.take(source, cost):
            self._note("address", source)
            wait_s = self._addresses.wait_s(source, cost)
            raise RateExceededError("too much was asked from your address without a credential", wait_s, hang_up=True)

    def give_back(self, source: str, cost: float) -> None:
        """It turned out well."""
        self._addresses.give(source, cost)

    def known(self, caller: Caller, cost: float = 1.0) -> None:
        """A request of somebody known, or more of one. RateExceededError where they have asked too much."""
        name = f"{caller.role}:{caller.name}"
        rate = self._executors if caller.role is Role.EXECUTOR else self._people
        if not rate.take(name, cost):
            self._note("identity", name)
            wait_s = rate.wait_s(name, cost)
            raise RateExceededError("you have asked too much in a short time", wait_s, hang_up=False)

    def may_record(self, executor: str, source: str) -> bool:
        """Whether one more refused enrollment is recorded: strangers can cause any number of them."""
        return self._refusals.take(f"address:{source}") and self._refusals.take(f"executor:{executor}")

    def _note(self, kind: str, who: str) -> None:
        self._metrics.limited.labels(kind).inc()
        self._untold[kind] = self._untold.get(kind, 0) + 1
        now = self._monotonic()
        if now - self._told.get(kind, -math.inf) >= LINE_S:
            log.warning("requests limited", code=GateReason.REQUEST_RATE, kind=kind, last=who, count=self._untold[kind])
            self._untold[kind], self._told[kind] = 0, now
