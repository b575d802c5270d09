"""Calls that somebody else's scheduler carries, with their tickets, to a worker of its own: Dask's and Ray's.

``authorize`` is for who hands a call out, ``run`` for the process that the scheduler gives it to.
"""

import threading
from collections.abc import Mapping
from typing import Any

from ztrooted.client.blocking import BlockingOrchestrator, Loop
from ztrooted.guard.agent import LocalAgent
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.guard.function import Call, perform, require_call
from ztrooted.guard.settings import agent_from_environment
from ztrooted.outcome import telling
from ztrooted.ticket import Ticket, parse_ticket

_starting = threading.Lock()
_running: list[tuple[Loop, LocalAgent]] = []  # of this process, from its first call on


def authorize(
    orchestrator: BlockingOrchestrator, executors: Mapping[str, str], name: str, call: Call, **asked: Any
) -> Ticket:
    """Where work is handed out: the ticket for a call on one worker or node, by its name; ``asked`` as for ``Orchestrator``.

    NotStarted where the answer is no.
    """
    with telling():
        return orchestrator.authorize(call.work, ExecutorSet(executors)[name], **asked).ticket


def run(ticket: str | bytes | None, payload: bytes) -> Any:
    """Where it runs: what the call returns. NotStarted, Killed or FunctionFailed."""
    with telling():
        with _starting:
            if not _running:
                _running.append((Loop(), agent_from_environment()))
        loop, agent = _running[0]
        parsed = parse_ticket(ticket)
        return loop.wait(_perform(agent, parsed, require_call(parsed, payload)))


async def _perform(agent: LocalAgent, ticket: Ticket, call: Call) -> Any:
    _, result = await perform(agent, ticket, call)
    return await result
