"""One structure for everything that must have happened by some time: a heap of deadlines, watched by one task.

Nothing becomes true here. A deadline that passes makes something false (a lease, a proof), and a deadline that is set
again replaces the earlier one of the same key.
"""

import asyncio
import heapq
import itertools
from collections.abc import Awaitable, Callable, Hashable
from typing import TypeAlias

import structlog

from ztrooted.clock import Clock
from ztrooted.errors import GateError

log = structlog.get_logger()

RETRY_S = 1.0
Action: TypeAlias = Callable[[], Awaitable[None]]


class Deadlines:
    """Runs one action per key when its time has come, each in a task of ``start_task``."""

    def __init__(
        self,
        clock: Clock,
        start_task: Callable[[Awaitable[None]], object],
        on_beat: Callable[[], None] = lambda: None,
    ) -> None:
        """``on_beat`` is called at each look, at least once a second."""
        self._clock = clock
        self._start_task = start_task
        self._on_beat = on_beat
        self._heap: list[tuple[float, int, Hashable]] = []
        self._current: dict[Hashable, tuple[int, Action]] = {}
        self._numbers = itertools.count()
        self._changed = asyncio.Event()
        self._looks_at = 0.0  # on the clock, when nothing changes
        self.lateness_s = 0.0
        self.beat = clock.monotonic()

    @property
    def due(self) -> bool:
        """Whether something should have been started by now."""
        now = self._clock.monotonic()
        while self._heap:
            due, number, key = self._heap[0]
            found = self._current.get(key)
            if found is not None and found[0] == number:
                return due <= now
            heapq.heappop(self._heap)
        return False

    def set(self, key: Hashable, in_s: float, action: Action) -> None:
        """Run ``action`` in ``in_s`` seconds unless ``key`` is set or cleared before."""
        number = next(self._numbers)
        self._current[key] = (number, action)
        due = self._clock.monotonic() + in_s
        heapq.heappush(self._heap, (due, number, key))
        if due < self._looks_at:
            self._changed.set()

    def start(self, key: Hashable, action: Action) -> None:
        """Run ``action`` now, as if its time had come."""
        self._start_task(self._act(key, action))

    def clear(self, key: Hashable) -> None:
        """Forget the deadline of ``key``, if there is one."""
        self._current.pop(key, None)

    async def sleep(self, key: Hashable, seconds: float) -> None:
        """Wait for ``seconds`` of the clock, as one of the deadlines."""
        over = asyncio.Event()

        async def end() -> None:
            over.set()

        self.set(key, seconds, end)
        await over.wait()

    def wake(self) -> None:
        """Look at the clock now: it was moved."""
        self._changed.set()

    async def run(self) -> None:
        """Watch, for ever. ``lateness_s`` says how late the last action was started; ``beat`` when we last looked."""
        while True:
            self.beat = self._clock.monotonic()
            self._on_beat()
            wait = self._run_due()
            self._looks_at = self._clock.monotonic() + wait
            self._changed.clear()
            try:
                async with asyncio.timeout(wait):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _run_due(self) -> float:
        """Start what is due; seconds until the next one, a second at most so that ``beat`` stays fresh."""
        while self._heap:
            due, number, key = self._heap[0]
            current = self._current.get(key)
            if current is None or current[0] != number:
                heapq.heappop(self._heap)
                continue
            left = due - self._clock.monotonic()
            if left > 0:
                return min(left, 1.0)
            heapq.heappop(self._heap)
            del self._current[key]
            self.lateness_s = -left
            self.start(key, current[1])
        return 1.0

    async def _act(self, key: Hashable, action: Action) -> None:
        """Run an action. One that can't be recorded now (a full disk, say) is tried again: it must not be forgotten."""
        try:
            await action()
        except GateError as error:
            log.error("deadline not settled", key=str(key), code=error.reason, detail=error.detail)
            if key not in self._current:
                self.set(key, RETRY_S, action)
