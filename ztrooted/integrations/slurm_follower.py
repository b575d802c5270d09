"""Slurm, after the fact: what lost its authorization is cancelled, and a machine that lost trust gets nothing more.

``python -I -m ztrooted.integrations.slurm follow --nodes nodes.json`` follows the gateway's feed. It enforces nothing: a job
is killed on its machine, by the agent, the moment its authorization is revoked. It keeps Slurm from believing otherwise.

* ``authorization.revoked`` of a job of Slurm: its comment says why, and what is left of its allocation is killed. A job
  that was cancelled so is not queued again.
* ``attestation.failed`` and ``attestation.overdue`` of one: its node is drained, which stays until an operator resumes it.
* Whenever the feed begins, again too: jobs that run are compared with what the gateway knows, since what happened
  meanwhile was not heard.
"""

import argparse
import asyncio
import random
import sys

import structlog

from ztrooted.client.orchestrator import PAUSE_S, Orchestrator
from ztrooted.client.orchestrators import FeedEvent
from ztrooted.errors import GateError
from ztrooted.guard.executor_set import ExecutorSet, read_executor_set
from ztrooted.guard.settings import OrchestratorSettings
from ztrooted.integrations.slurm import WORKFLOW, Slurm
from ztrooted.lifecycle import LIVE, State
from ztrooted.models import AuthorizationView
from ztrooted.outcome import Killed
from ztrooted.reasons import GateReason

log = structlog.get_logger()

GRACE_S = 2.0  # for the job's own process to say how it ended, before what is left of its allocation is killed
UNTRUSTED = frozenset({"attestation.failed", "attestation.overdue"})


class Follower:
    """One cluster's."""

    def __init__(self, orchestrator: Orchestrator, slurm: Slurm, executors: ExecutorSet) -> None:
        self._orchestrator = orchestrator
        self._slurm = slurm
        self._nodes = {executor: node for node, executor in executors.items()}
        self._killing: set[asyncio.Task[None]] = set()

    async def follow(self) -> None:
        """For ever. What can't be reached is tried again."""
        pause = PAUSE_S[0]
        while True:
            try:
                start = await self.compare()
                pause = PAUSE_S[0]
                async for event in self._orchestrator.gateway.events(start):
                    await self.hear(event)
            except GateError as error:
                log.warning("the feed can't be followed", reason=str(error.reason), detail=error.detail)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 -- jitter
            pause = min(2 * pause, PAUSE_S[1])

    async def compare(self) -> int:
        """End what runs in Slurm and is over at the gateway; the record from which on the feed has to be heard."""
        await self._orchestrator.gateway.executors()
        seen = self._orchestrator.gateway.memory.highest()
        for job, authorization in (await asyncio.to_thread(self._slurm.running)).items():
            view = await self._orchestrator.gateway.authorization(authorization)
            if State(view.state) not in LIVE:
                await self._end(job, view)
        return 0 if seen is None else seen.size

    async def hear(self, event: FeedEvent) -> None:
        """One record of the feed."""
        authorization = event.record.authorization
        if authorization is None or event.type not in UNTRUSTED | {"authorization.revoked"}:
            return
        if event.type in UNTRUSTED:
            await self._drain(event)
            return
        view = await self._orchestrator.gateway.authorization(authorization)
        if view.workflow == WORKFLOW:
            await self._end(view.run, view)

    async def _drain(self, event: FeedEvent) -> None:
        executor, verdict = event.record.body.get("executor"), event.record.body.get("verdict")
        reason = (verdict.get("reason") if isinstance(verdict, dict) else None) or event.type
        node = self._nodes.get(str(executor))
        if node is not None:
            log.warning("draining a node", node=node, reason=reason)
            await asyncio.to_thread(self._slurm.drain, node, f"{reason} (executor {executor})")

    async def _end(self, job: str, view: AuthorizationView) -> None:
        told = Killed(view.reason or GateReason.OPERATOR_REVOKED, f"authorization {view.authorization} was revoked.")
        log.warning("cancelling a job", job=job, reason=str(told.reason))
        try:
            await asyncio.to_thread(self._slurm.comment, job, f"authorized {view.authorization}; {told}")
        except GateError as error:  # it is over, and Slurm has forgotten it
            log.info("a job can't be told", job=job, detail=error.detail)
        task = asyncio.create_task(self._kill(job, view.authorization))
        self._killing.add(task)
        task.add_done_callback(self._killing.discard)

    async def _kill(self, job: str, authorization: str) -> None:
        """Kill a job, unless it has ended meanwhile, or another attempt of it runs by now."""
        await asyncio.sleep(GRACE_S)
        try:
            if (await asyncio.to_thread(self._slurm.running)).get(job) == authorization:
                await asyncio.to_thread(self._slurm.kill, job)
        except GateError as error:
            log.info("a job can't be cancelled", job=job, detail=error.detail)


async def follow(arguments: argparse.Namespace) -> None:
    """Until this is cancelled."""
    asked, executors = OrchestratorSettings.from_environment(), read_executor_set(arguments.nodes)
    async with Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors) as orchestrator:
        await Follower(orchestrator, Slurm.from_environment(), executors).follow()


def main(arguments: argparse.Namespace) -> None:
    """Command line; see ``ztrooted.integrations.slurm``."""
    try:
        asyncio.run(follow(arguments))
    except GateError as error:
        sys.exit(f"ztrooted: {error} {error.remedy}")
