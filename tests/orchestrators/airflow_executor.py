"""The governed executor, for the contract suite: what was permitted may be held, and be delivered with another ticket."""

import asyncio
from typing import Any

from tests.orchestrators.held import changed, get, is_held, put
from ztrooted.errors import GateError
from ztrooted.guard.function import Call
from ztrooted.integrations.airflow import GovernedExecutor, describe_workload
from ztrooted.outcome import NotStarted


class ContractExecutor(GovernedExecutor):
    """Governs as its base does, unless a run is held: see ``held``."""

    async def govern(self, workload: Any) -> None:
        run = workload.ti.run_id
        if not is_held(run):
            await super().govern(workload)
            return
        held = await get(f"{run}.held")
        call = describe_workload(workload)
        if not held.get("around"):
            try:
                ticket = await self._permitted(call, workload.ti.queue, held.get("changed"))
            except GateError as error:
                put(f"{run}.told", {"error": str(NotStarted.of(error))})
                raise
            put(f"{run}.told", {"ticket": ticket})
        try:
            await self.deliver(call, (await get(f"{run}.0.go"))["ticket"])
        finally:
            self._waiting = asyncio.create_task(self._again(call, run))

    async def _permitted(self, call: Call, queue: str, told: dict[str, Any] | None) -> str:
        with changed(self, told) as other:
            if other is not self:
                other._orchestrator = None
            try:
                return await other.permit(call, queue)
            finally:
                if other is not self and other._orchestrator is not None:
                    await other._orchestrator.__aexit__(None, None, None)

    async def _again(self, call: Call, run: str) -> None:
        """The same, delivered a second time."""
        ticket = (await get(f"{run}.1.go"))["ticket"]
        try:
            await self.deliver(call, ticket)
        except GateError as error:
            put(f"{run}.1.done", {"error": str(NotStarted.of(error))})
        else:
            put(f"{run}.1.done", {"value": "it ran"})
