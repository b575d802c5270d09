"""How often one address may ask: a bucket for each, which holds a burst and fills up again at a rate."""

from collections import OrderedDict
from collections.abc import Callable

MAX_ADDRESSES = 4096  # remembered at once; the one that asked longest ago is forgotten, and begins with a full bucket


class RequestRate:
    """``rate`` requests a second for each address, ``burst`` of them at once. ``monotonic`` tells seconds."""

    def __init__(self, rate: float, burst: int, monotonic: Callable[[], float]) -> None:
        self._rate = rate
        self._burst = burst
        self._monotonic = monotonic
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()  # address -> (left, when that was)

    def take(self, address: str) -> bool:
        """Whether ``address`` may ask now; if so, that is one."""
        now = self._monotonic()
        left, since = self._left.pop(address, (float(self._burst), now))
        left = min(float(self._burst), left + (now - since) * self._rate)
        allowed = left >= 1
        self._left[address] = left - 1 if allowed else left, now
        if len(self._left) > MAX_ADDRESSES:
            self._left.popitem(last=False)
        return allowed
