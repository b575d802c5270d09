"""When each connected executor is asked next, and whose turn it is: live jobs first, idle machines within bounds.

Nothing here may stretch an interval. Jitter only shortens one; a challenge that leaves after its time is late, shows so in
``ztrooted_challenge_lateness_seconds``, and whatever it should have renewed ends at its stored deadline all the same.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable

from gateway.deadlines import Deadlines
from gateway.metrics import Metrics
from ztrooted.clock import Clock

# Challenges to idle executors that wait for an answer at once, so that a burst of them is worked off in order instead of
# all being late together. An executor with a live job waits for none of them; one that is silent gives up its place.
IDLE_AT_ONCE = 32
ANSWERS_IN_S = 0.05
# Between two early rounds of one executor lies at least this share of its interval, however often it asks for one.
EARLY_SHARE = 0.1

Action = Callable[[], Awaitable[None]]


class Turn:
    """An executor's turn, as a context: one of the ``places``, or at once where there are none to wait for."""

    def __init__(self, places: asyncio.Semaphore | None, metrics: Metrics) -> None:
        self._places = places
        self._metrics = metrics
        self._over: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> "Turn":
        if self._places is None:
            return self
        if self._places.locked():
            self._metrics.waiting.inc()
            try:
                await self._places.acquire()
            finally:
                self._metrics.waiting.dec()
        else:
            await self._places.acquire()
        self._over = asyncio.get_running_loop().call_later(ANSWERS_IN_S, self.end)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.end()

    def end(self) -> None:
        """The answer is here, or late: somebody else may be asked."""
        if self._over is not None and self._places is not None:
            self._over.cancel()
            self._over = None
            self._places.release()


class Schedule:
    """The time of the next challenge of each executor."""

    def __init__(self, deadlines: Deadlines, clock: Clock, metrics: Metrics) -> None:
        self._deadlines = deadlines
        self._clock = clock
        self._metrics = metrics
        self._due: dict[str, float] = {}
        self._asked: dict[str, float] = {}
        self._live: set[str] = set()
        self._unplanned: set[str] = set()
        self._idle = asyncio.Semaphore(IDLE_AT_ONCE)

    def within(self, executor: str, interval_s: float, jitter: float, action: Action, *, live: bool) -> None:
        """Ask after ``interval_s`` less a random share of up to ``jitter``, so that executors don't fall into step.

        After a round out of turn, which many executors may have had together, the next comes anywhere within the interval.
        ``live`` says whether a job runs there, which puts its turn before that of idle ones.
        """
        (self._live.add if live else self._live.discard)(executor)
        if executor in self._unplanned and not live:
            jitter = 1 - EARLY_SHARE
        (self._unplanned.discard if interval_s else self._unplanned.add)(executor)
        in_s = interval_s * (1 - random.uniform(0, jitter))  # noqa: S311 -- jitter
        self._set(executor, in_s, action)

    def at(self, executor: str, in_s: float, action: Action) -> None:
        """Ask in ``in_s`` seconds, out of turn; replaces what was set before."""
        self._unplanned.add(executor)
        self._set(executor, in_s, action)

    def _set(self, executor: str, in_s: float, action: Action) -> None:
        self._due[executor] = self._clock.monotonic() + in_s
        self._deadlines.set(("prove", executor), in_s, action)

    def early(self, executor: str, interval_s: float, action: Action) -> None:
        """Ask before the time, since the executor says that there is something to see; never later than was set."""
        now = self._clock.monotonic()
        due = max(now, self._asked.get(executor, 0.0) + interval_s * EARLY_SHARE)
        if due < self._due.get(executor, 0.0):
            self._set(executor, due - now, action)

    def forget(self, executor: str) -> None:
        """Nobody is there to be asked."""
        self._due.pop(executor, None)
        self._asked.pop(executor, None)
        self._live.discard(executor)
        self._unplanned.discard(executor)
        self._deadlines.clear(("prove", executor))

    def turn(self, executor: str) -> "Turn":
        """Wait for the turn of an executor, and hold it during the round. A live one's is at once."""
        return Turn(None if executor in self._live else self._idle, self._metrics)

    def asking(self, executor: str, *, live: bool) -> None:
        """The challenge leaves now: note how late it is."""
        now = self._clock.monotonic()
        self._asked[executor] = now
        due = self._due.pop(executor, now)
        self._metrics.late(max(0.0, now - due), live=live)
