"""The governed executor, for the contract suite: what was permitted may be held, and be delivered with another ticket.

What is held is named by the run's id in the folder ``CONTRACT_HELD``: ``RUN.held`` says how, ``RUN.told`` has the ticket
that was given or the refusal, ``RUN.N.go`` the ticket of the Nth delivery, ``RUN.N.done`` what that came to.
"""

import asyncio
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from ztrooted.client import orchestrator
from ztrooted.errors import GateError
from ztrooted.guard.function import Call
from ztrooted.integrations.airflow import GovernedExecutor, describe_workload
from ztrooted.outcome import NotStarted

HELD = Path(os.environ.get("CONTRACT_HELD", "/nonexistent"))


def write(name: str, told: dict[str, Any]) -> None:
    """All of it, at once."""
    made = HELD / f"{name}.new"
    made.write_text(json.dumps(told))
    made.rename(HELD / name)


async def read(name: str) -> dict[str, Any]:
    """Wait for it."""
    while not (HELD / name).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    found: dict[str, Any] = json.loads((HELD / name).read_text())
    return found


class ContractExecutor(GovernedExecutor):
    """Governs as its base does, unless a run is held."""

    async def govern(self, workload: Any) -> None:
        run = workload.ti.run_id
        if not (HELD / f"{run}.held").exists():
            await super().govern(workload)
            return
        held = await read(f"{run}.held")
        call = describe_workload(workload)
        if not held.get("around"):
            try:
                ticket = await self._permitted(call, workload.ti.queue, held.get("changed"))
            except GateError as error:
                write(f"{run}.told", {"error": str(NotStarted.of(error))})
                raise
            write(f"{run}.told", {"ticket": ticket})
        try:
            await self.deliver(call, (await read(f"{run}.0.go"))["ticket"])
        finally:
            self._waiting = asyncio.create_task(self._again(call, run))

    async def _permitted(self, call: Call, queue: str, changed: dict[str, Any] | None) -> str:
        """Ask, with other settings where they are told, by a clock that is ``clock`` seconds off."""
        if changed is None:
            return await self.permit(call, queue)
        other = ContractExecutor(parallelism=1)
        other.start()
        other.within_s = 0.5
        off = changed.pop("clock", 0)
        if "ca" in changed:
            changed["ca"] = Path(changed["ca"])
        other.settings = replace(other.settings, **changed)
        if off:
            other.within_s = 30.0
            clock = SimpleNamespace(time=lambda: time.time() + off, monotonic=time.monotonic)
            orchestrator.time = clock  # type: ignore[assignment]
        try:
            return await other.permit(call, queue)
        finally:
            orchestrator.time = time
            if other._orchestrator is not None:
                await other._orchestrator.__aexit__(None, None, None)

    async def _again(self, call: Call, run: str) -> None:
        """The same, delivered a second time."""
        ticket = (await read(f"{run}.1.go"))["ticket"]
        try:
            await self.deliver(call, ticket)
        except GateError as error:
            write(f"{run}.1.done", {"error": str(NotStarted.of(error))})
        else:
            write(f"{run}.1.done", {"value": "it ran"})
