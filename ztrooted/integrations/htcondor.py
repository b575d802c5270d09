"""HTCondor: what a machine says of its own trust, so that jobs are matched to no other.

``python -I -m ztrooted.integrations.htcondor`` is a Startd Cron job (HTCondor Manual, "Startd Cron": lines of a ClassAd, and
``- update:true``, which sends them on). START, PREEMPT and KILL of deploy/htcondor/ztrooted.conf look at what it publishes:

``ZtrootedTrusted``       whether the gateway held this machine for trusted, when it was asked
``ZtrootedTrustedUntil``  seconds since the epoch, by this machine's clock: until when that is believed
``ZtrootedReason``        why not, and what to do: ``condor_status -af Machine ZtrootedReason``

The startd keeps what was published last, whatever becomes of the program. So a yes ends by itself, and a no is published
as one. Nothing is started by it: a job is matched to a machine, and asked for where it starts (``htcondor_deputy``).
"""

import asyncio
import re
import sys
import time

from ztrooted.client.answers import unreachable
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.settings import OrchestratorSettings, agent_from_environment
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason
from ztrooted.work import name_of

BELIEVED_S = 60  # four periods of deploy/htcondor/ztrooted.conf, which holds more than twice this for another clock's
ASKED_S = 10.0  # less than a period
REASON = 1000  # characters, as in a list of machines


def attributes(executor: str, *, now: int, refusal: GateError | None) -> str:
    """What the startd is to publish: a yes for a while, or a no with its reason."""
    told = "" if refusal is None else str(NotStarted.of(refusal))
    shown = re.sub(r'[^ -~]|["\\]', "'", told)[:REASON]  # nothing in it ends the text, whichever ClassAd reads it
    until = now + BELIEVED_S if refusal is None else 0
    return "".join(
        f"{line}\n"
        for line in (
            f"ZtrootedTrusted = {'True' if refusal is None else 'False'}",
            f"ZtrootedTrustedUntil = {until}",
            f'ZtrootedExecutor = "{name_of(executor)}"',
            f'ZtrootedReason = "{shown}"',
            "- update:true",
        )
    )


async def require_trusted(settings: OrchestratorSettings, executor: str, *, within_s: float = ASKED_S) -> None:
    """Ask the gateway. GateError where it does not hold this executor for trusted now, or does not answer in time."""
    async with Orchestrator(
        settings.gateway, ca=settings.ca, token=settings.token, anchors=settings.anchors
    ) as orchestrator:
        try:
            async with asyncio.timeout(within_s):
                known = {one.executor: one for one in await orchestrator.gateway.executors()}
        except TimeoutError as error:
            raise unreachable(settings.gateway, error) from error
    found = known.get(executor)
    if found is None:
        raise GateError(GateReason.DISPATCH_EXECUTOR_UNKNOWN, f"no executor {executor} is enrolled")
    if not found.connected:
        raise GateError(GateReason.DISPATCH_EXECUTOR_UNREACHABLE, f"executor {executor} is not connected")
    if not found.trusted:
        raise NotStarted(found.reason or GateReason.ATTESTATION_OVERDUE, found.detail)


def publish() -> str:
    """What is to be published now. The clock is read before the question, so an answer that was long under way is older."""
    now, executor = int(time.time()), "none"
    try:
        executor = agent_from_environment().executor
        asyncio.run(require_trusted(OrchestratorSettings.from_environment(), executor))
    except GateError as error:
        return attributes(executor, now=now, refusal=error)
    except OSError as error:
        problem = EnvironmentProblem(GateReason.CONFIG_INVALID, str(error), "see deploy/htcondor/gateway.env")
        return attributes(executor, now=now, refusal=problem)
    return attributes(executor, now=now, refusal=None)


if __name__ == "__main__":
    sys.stdout.write(publish())
