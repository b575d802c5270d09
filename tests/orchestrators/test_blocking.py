"""The client for programs without an event loop."""

import asyncio
import os
import signal
import threading
from collections.abc import Callable

import pytest

from ztrooted.client.blocking import Loop


@pytest.mark.parametrize("scheduled", [True, False])
def test_who_is_interrupted_while_it_is_started_has_cancelled_it(
    scheduled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the start of the work and the wait for its end, and before its start."""
    loop, running, ended = Loop(), threading.Event(), []
    schedule = loop._loop.call_soon_threadsafe

    async def work() -> None:
        running.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)

    def interrupted(callback: Callable[[], None]) -> None:
        monkeypatch.undo()
        if scheduled:
            schedule(callback)
            running.wait()
        raise KeyboardInterrupt

    monkeypatch.setattr(loop._loop, "call_soon_threadsafe", interrupted)
    with pytest.raises(KeyboardInterrupt):
        loop.wait(work())
    assert ended == [True] * scheduled
    assert not asyncio.all_tasks(loop._loop)
    loop.close()


def test_who_is_interrupted_has_cancelled_it_and_waits_for_its_end() -> None:
    """Ctrl-C, while a program without an event loop waits."""
    loop, ended = Loop(), []

    async def work() -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            await asyncio.sleep(3600)
        finally:
            await asyncio.sleep(0.2)  # as long as it takes to see a job dead
            ended.append(True)

    with pytest.raises(KeyboardInterrupt):
        loop.wait(work())
    assert ended
    loop.close()
