"""The governed worker, for the contract suite: what was permitted may be held, and be delivered with another ticket."""

import asyncio
import os
import sys
from contextvars import ContextVar
from typing import Any

from tests.orchestrators.held import changed, get, is_held, put
from ztrooted.errors import GateError
from ztrooted.guard.process import GuardedProcess
from ztrooted.integrations.prefect import GRACE_S, GovernedResult, GovernedWorker, main
from ztrooted.outcome import NotStarted
from ztrooted.work import Work

RUN: ContextVar[str] = ContextVar("RUN")


class ContractWorker(GovernedWorker):
    """Governs as its base does, unless a run is held: see ``held``."""

    look_s = 0.1
    grace_s = float(os.environ.get("CONTRACT_GRACE_S", GRACE_S))

    async def run(self, flow_run: Any, configuration: Any, task_status: Any = None) -> GovernedResult:
        RUN.set(flow_run.name)
        return await super().run(flow_run, configuration, task_status)

    async def permit(self, work: Work, queue: str) -> Any:
        run = RUN.get()
        if not is_held(run):
            return await super().permit(work, queue)
        held = await get(f"{run}.held")
        if held.get("around"):
            return None
        try:
            with changed(self, held.get("changed")) as other:
                ticket = await GovernedWorker.permit(other, work, queue)
        except GateError as error:
            put(f"{run}.told", {"error": str(NotStarted.of(error))})
            raise
        put(f"{run}.told", {"ticket": ticket})
        return ticket

    async def deliver(self, work: Work, ticket: str | None) -> GuardedProcess:
        run = RUN.get()
        if is_held(run):
            ticket = (await get(f"{run}.0.go"))["ticket"]
            self._waiting = asyncio.create_task(self._again(work, run))
        return await super().deliver(work, ticket)

    async def _again(self, work: Work, run: str) -> None:
        """The same, delivered a second time."""
        ticket = (await get(f"{run}.1.go"))["ticket"]
        try:
            await super().deliver(work, ticket)
        except GateError as error:
            put(f"{run}.1.done", {"error": str(NotStarted.of(error))})
        else:
            put(f"{run}.1.done", {"value": "it ran"})


if __name__ == "__main__":
    sys.exit(main(ContractWorker))
