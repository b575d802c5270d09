"""How often one address may ask: a bucket for each, which holds a burst and fills up again at a rate."""

from collections import OrderedDict
from collections.abc import Callable

MAX_ADDRESSES = 4096  # remembered at once; the one that asked longest ago is forgotten, and begins with a full bucket


class RequestRate:
    """``rate`` requests a second for each address, ``burst`` of them at once. ``monotonic`` tells seconds.

    An address is any text that tells one who asks from another. What costs more than a request has a ``cost``.
    """

    def __init__(self, rate: float, burst: float, monotonic: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = float(burst)
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (left, when that was)

    def take(self, address: str, cost: float = 1.0) -> bool:
        """Whether ``address`` may ask now; if so, that is paid for."""
        left, now = self._now(address)
        allowed = left >= cost
        self._keep(address, left - cost if allowed else left, now)
        return allowed

    def give(self, address: str, cost: float) -> None:
        """Give back what was taken."""
        left, now = self._now(address)
        self._keep(address, min(self._burst, left + cost), now)

    def wait_s(self, address: str, cost: float = 1.0) -> float:
        """Seconds until ``address`` may ask, if it asks for nothing meanwhile."""
        left, _ = self._now(address)
        return max(0.0, (cost - left) / self._rate)

    def _now(self, address: str) -> tuple[float, float]:
        now = self._monotonic()
        left, since = self._left.get(address, (self._burst, now))
        return min(self._burst, left + (now - since) * self._rate), now

    def _keep(self, address: str, left: float, now: float) -> None:
        self._left[address] = left, now
        self._left.move_to_end(address)
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
