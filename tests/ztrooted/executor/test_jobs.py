"""The agent's jobs, where no process is needed to see it."""

import asyncio
from types import SimpleNamespace

import pytest

from ztrooted.channel_messages import RefusedMessage
from ztrooted.executor.jobs import Jobs, Running
from ztrooted.models import Model


@pytest.mark.asyncio
async def test_a_second_refusal_does_not_make_the_kill_look_quicker() -> None:
    """The gateway says it at the verdict, and again once that is recorded; the time to the kill counts from the first."""

    async def send(_message: Model) -> None:
        return

    killed: list[str] = []
    jobs = Jobs(send, allow_weak=True)
    running = Running(SimpleNamespace(jti="a" * 32), "token", "digest")  # type: ignore[arg-type]
    running.activated.set_result(None)
    running.supervisor = SimpleNamespace(kill=killed.append)  # type: ignore[assignment]
    jobs._running["a" * 32] = running
    message = RefusedMessage(authorization="a" * 32, reason="ima.not_allowed", detail="authorization revoked")
    jobs.refused(message)
    first = running.interrupted_at
    await asyncio.sleep(0.01)
    jobs.refused(message)
    assert first is not None
    assert running.interrupted_at == first
    assert killed == ["ima.not_allowed"] * 2
