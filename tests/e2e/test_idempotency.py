"""A gateway that is killed, and an orchestrator that asks again: real processes, one decision."""

import secrets
import signal

from tests.support.gate import SLOW, Gates
from ztrooted.models import DispatchRequest


def test_asked_again_after_kill_9_the_gateway_gives_the_same_artifact(gates: Gates) -> None:
    gate = gates(pace=SLOW)
    request = DispatchRequest(executor=gate.executor.id, job=gate.job("once"))
    key = secrets.token_urlsafe(24)
    first = gate.ask("orchestrator", lambda client: client.authorize(request, key=key))
    gate.signal_gateway(signal.SIGKILL)
    gate.start_gateway()
    assert gate.ask("orchestrator", lambda client: client.authorize(request, key=key)) == first
    issued = gate.rows("SELECT COUNT(*) FROM records WHERE type = 'authorization.issued'")
    assert issued == [(1,)]
