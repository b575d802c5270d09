"""The orchestrator's client for programs without an event loop: the same calls, each of which waits for its answer.

A thread of its own has the loop, so several threads may call at once, from inside of somebody else's loop too.
"""

import asyncio
import threading
from collections.abc import Coroutine, Iterator
from concurrent.futures import Future
from contextlib import ExitStack
from types import TracebackType
from typing import Any, Self, TypeVar

from ztrooted.client.orchestrator import Dispatch, Orchestrator
from ztrooted.client.orchestrators import FeedEvent
from ztrooted.outcome import Outcome, Runner
from ztrooted.work import Work

T = TypeVar("T")

GOODBYE_S = 0.05  # a TLS connection that is closed has a last word
CANCELLED_S = 10.0  # for what was interrupted to kill its job and to see that it is dead
LOOK_S = 0.1  # Ray interrupts without a signal, and that wakes nobody who waits for a lock


class Loop:
    """An event loop in a thread that ends with the program."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="ztrooted", daemon=True)
        self._thread.start()

    def submit(self, work: Coroutine[Any, Any, T]) -> "Future[T]":
        """Have it done; its result is to come, and cancelling that cancels it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Its result. Whoever is interrupted while waiting (Ctrl-C) has cancelled it, and waits until it has ended.

        An interruption may come at any point here, the first moment of the work included, so what stops the work is asked
        for behind what starts it, and finds out whether that was asked for at all.
        """
        started: list[asyncio.Task[T]] = []
        over = threading.Event()

        def start() -> None:
            started.append(self._loop.create_task(work))
            started[0].add_done_callback(lambda _: over.set())

        def stop() -> None:
            if started:
                started[0].cancel()
            else:
                work.close()
                over.set()

        try:
            self._loop.call_soon_threadsafe(start)
            while not over.wait(LOOK_S):
                pass
        finally:
            if not over.is_set():
                self._loop.call_soon_threadsafe(stop)
                over.wait(CANCELLED_S)
        return started[0].result()

    def close(self) -> None:
        """End the thread, once connections had their moment to say goodbye."""
        self.wait(asyncio.sleep(GOODBYE_S))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class BlockingOrchestrator:
    """``Orchestrator`` without ``await``. Use it as a context manager."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        """As ``Orchestrator`` takes them."""
        self._made = (arguments, named)
        self._loop: Loop | None = None
        self._orchestrator: Orchestrator | None = None

    def __enter__(self) -> Self:
        with ExitStack() as opened:
            self._loop = Loop()
            opened.callback(self._loop.close)
            self._loop.wait(self._open())
            opened.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        loop, orchestrator = self._parts
        loop.wait(orchestrator.__aexit__(kind, error, trace))
        loop.close()
        self._loop = self._orchestrator = None

    async def _open(self) -> None:
        arguments, named = self._made
        self._orchestrator = await Orchestrator(*arguments, **named).__aenter__()

    @property
    def _parts(self) -> tuple[Loop, Orchestrator]:
        if self._loop is None or self._orchestrator is None:
            raise RuntimeError("use BlockingOrchestrator as a context manager")
        return self._loop, self._orchestrator

    @property
    def orchestrator(self) -> Orchestrator:
        """The async face, whose calls belong into ``wait``."""
        return self._parts[1]

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Have anything done on its loop."""
        return self._parts[0].wait(work)

    def authorize(self, work: Work, executor: str, **more: Any) -> Dispatch:
        """See ``Orchestrator.authorize``."""
        return self.wait(self.orchestrator.authorize(work, executor, **more))

    def watch(self, dispatch: Dispatch) -> Iterator[FeedEvent]:
        """See ``Orchestrator.watch``."""
        events = self.orchestrator.watch(dispatch)

        async def following() -> FeedEvent | None:
            return await anext(events, None)

        while (event := self.wait(following())) is not None:
            yield event

    def run(self, work: Work, executor: str, on: Runner, **more: Any) -> Outcome:
        """See ``Orchestrator.run``."""
        return self.wait(self.orchestrator.run(work, executor, on, **more))

    def prove(self, outcome: Outcome, **more: Any) -> Outcome:
        """See ``Orchestrator.prove``."""
        return self.wait(self.orchestrator.prove(outcome, **more))
