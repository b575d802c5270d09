"""The client for programs without an event loop."""

import asyncio
import os
import signal

import pytest

from ztrooted.client.blocking import Loop


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
