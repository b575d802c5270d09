"""Time as a parameter.

One decision is judged at one instant: whoever decides takes ``now_ms`` once and passes it on. Deadlines that are
enforced in this process use the monotonic clock, which no administrator and no time server can turn back.
"""

import time
from datetime import UTC, datetime
from typing import Protocol

from ztrooted import limits


def instant(at_ms: int, timespec: str = "seconds") -> str:
    """An instant as people read it: ISO 8601 in UTC; the bare number for one that no calendar has."""
    try:
        return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec=timespec)
    except (OverflowError, ValueError, OSError):
        return f"{at_ms} ms after 1970"


class Clock(Protocol):
    """Wall time for records and artifacts, monotonic time for deadlines."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        ...

    def monotonic(self) -> float:
        """Seconds on a clock that never goes back."""
        ...


class SystemClock:
    """The clocks of this machine."""

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return time.time_ns() // 1_000_000

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return time.monotonic()


class WatchedClock:
    """A clock that notices when wall time and monotonic time disagree: somebody set it, in either direction."""

    def __init__(self, clock: Clock, *, leeway_s: float = limits.CLOCK_LEEWAY_S) -> None:
        self._clock = clock
        self._leeway_s = leeway_s
        self._offset = clock.now_ms() / 1000 - clock.monotonic()

    def now_ms(self) -> int:
        """Milliseconds since the Unix epoch."""
        return self._clock.now_ms()

    def monotonic(self) -> float:
        """Seconds since an arbitrary start."""
        return self._clock.monotonic()

    def jumped(self) -> bool:
        """Whether wall time has moved against monotonic time by more than the leeway since we started."""
        return abs(self._clock.now_ms() / 1000 - self._clock.monotonic() - self._offset) > self._leeway_s
