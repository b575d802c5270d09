"""Background tasks that may not die quietly: the first that does ends the process, and readiness is false before that."""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import structlog

log = structlog.get_logger()


class Tasks:
    """Starts tasks and watches them. ``failed`` turns true, and ``on_failure`` is called, when one ends by exception."""

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._running: set[asyncio.Task[None]] = set()
        self._on_failure = on_failure
        self.failed = False

    def start(self, work: Awaitable[None]) -> asyncio.Task[None]:
        """Run ``work`` until it ends."""

        async def supervised() -> None:
            try:
                await work
            except Exception:  # noqa: BLE001 -- one of the two places: a task that dies takes the process with it
                self.fail("a background task died")

        task = asyncio.create_task(supervised())
        self._running.add(task)
        if isinstance(work, Coroutine):  # one that is cancelled before it has begun is closed, too
            task.add_done_callback(lambda _: work.close())
        task.add_done_callback(self._running.discard)
        return task

    def fail(self, what: str, **context: Any) -> None:
        """Stop the process: something without which we can't keep our promises is gone."""
        self.failed = True
        log.critical(what, exc_info=True, **context)
        self._on_failure()

    async def stop(self) -> None:
        """Cancel everything and wait for it."""
        for task in self._running:
            task.cancel()
        await asyncio.gather(*self._running, return_exceptions=True)
