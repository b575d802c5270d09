"""Operators' orders about real machines and jobs: process trees die at once, and a quarantine outlives the gateway."""

import signal
import time

import pytest

from tests.e2e.test_drift import runs
from tests.support.commands import run
from tests.support.gate import MARGIN_S, SLOW, Gate, Gates, Life
from ztrooted.client import Refused
from ztrooted.demo.stage import wait_until
from ztrooted.lifecycle import State

AT_ONCE_S = 1.0
KILLED = 137

pytestmark = pytest.mark.timeout(90)


def order(gate: Gate, what: str, kind: str, name: str) -> list[str]:
    """By the command line; what it ended."""
    said = gate.stage.json(what, kind, name, "--reason", "a drill", *gate.connection("operator"))
    ended: list[str] = said["revoked"]
    return ended


def dead(gate: Gate, life: Life, reason: str = "operator.revoked") -> None:
    """Every process of it, at once; its story is closed and proved."""
    life.outlived(gate.revoked_at(life.authorization), AT_ONCE_S + MARGIN_S)
    assert life.process.wait(10) == KILLED
    gate.wait_for("execution.closed", life.authorization)
    view = gate.api_view(life.authorization)
    assert (view.state, view.reason) == (State.CLOSED, reason)
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


def quarantined(gate: Gate, step: str) -> None:
    """The next dispatch is denied; the denial is in the lineage, with a proof that verifies."""
    with pytest.raises(Refused) as refused:
        gate.authorize(gate.job(step, "/bin/true"))
    assert refused.value.reason == "operator.quarantined", refused.value.detail
    authorization = refused.value.authorization
    assert authorization is not None
    assert gate.kinds(authorization) == ["dispatch.requested", "authorization.denied"]
    report = gate.verify(authorization)
    assert report.verified, report.failed


@pytest.mark.fail_closed("an operator revokes or quarantines", "every job that is meant dies at once")
def test_a_revoked_executor_loses_its_jobs_and_nobody_else_does(gates: Gates) -> None:
    gate = gates(pace=SLOW)
    other = gate.add_executor("other")
    wait_until("trust", lambda: gate.view(other).trusted, 10)
    lives, beside = [gate.run("one"), gate.run("two")], gate.run("three", other)
    assert set(order(gate, "revoke", "executor", gate.executor.id)) == {life.authorization for life in lives}
    for life in lives:
        dead(gate, life)
    assert beside.alive_at(time.monotonic_ns() - int(0.5e9))
    runs(gate, "afterwards")
    assert order(gate, "revoke", "class", "default") == [beside.authorization]
    dead(gate, beside)
    gate.check_states()


@pytest.mark.fail_closed("an operator revokes or quarantines", "every job that is meant dies at once")
def test_a_quarantine_outlives_the_gateway(gates: Gates) -> None:
    gate = gates(pace=SLOW)
    life = gate.run()
    assert order(gate, "quarantine", "executor", gate.executor.id) == [life.authorization]
    dead(gate, life)
    quarantined(gate, "denied")
    gate.signal_gateway(signal.SIGKILL)
    gate.start_gateway()
    wait_until("the connection", lambda: gate.view().connected, 15)
    quarantined(gate, "restarted")
    (listed,) = gate.stage.json("quarantined", *gate.connection("operator"))
    assert (listed["kind"], listed["id"], listed["reason"]) == ("executor", gate.executor.id, "a drill")
    gate.stage.stop("executor-agent0")
    agent = gate.stage.start(
        "agent-again",
        *["executor", "run", "--gateway", gate.url, "--ca", str(gate.ca), *gate.executor.options()],
        *["--socket", str(gate.executor.socket)],
    )
    log = gate.data / "agent-again.log"
    wait_until("a refused enrollment", lambda: "operator.quarantined" in log.read_text(), 15)
    assert order(gate, "release", "executor", gate.executor.id) == []
    wait_until("its enrollment", lambda: '"channel open"' in log.read_text(), 30)  # it kept asking
    assert agent.poll() is None
    wait_until("trust", lambda: gate.view().trusted, 15)
    runs(gate, "released")
    gate.check_states()
    again = run("release", "executor", gate.executor.id, "--reason", "twice", *gate.connection("operator"))
    assert again.returncode == 1
    assert "operator.not_quarantined" in again.stderr


@pytest.mark.timeout(180)
def test_a_retired_machine_loses_its_jobs_and_its_agent(gates: Gates) -> None:
    gate = gates(pace=SLOW)
    life = gate.run()
    said = gate.stage.json(
        *["executor", "replace", gate.executor.id, "ex-" + "0" * 32, "--reason", "a drill"],
        *gate.connection("operator"),
    )
    assert said["revoked"] == [life.authorization]
    dead(gate, life, "operator.retired")
    agent = gate.executor.agent
    assert agent is not None
    assert agent.wait(30) == 1  # which found that it may not come back
    assert "enroll.retired" in next(gate.data.glob("*agent*.log")).read_text()
    gate.check_states()
