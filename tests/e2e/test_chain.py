"""A chain of work over two machines, with real jobs: when the parent goes, both process trees die."""

import pytest

from tests.support.gate import MARGIN_S, Executor, Gate, Gates, Job, Life
from ztrooted.demo.stage import wait_until
from ztrooted.lifecycle import State
from ztrooted.models import Grant

POLICY = """
permit (principal, action in [Action::"dispatch", Action::"renew"], resource) when { context.trusted };
permit (principal, action == Action::"delegate", resource)
when { context.trusted && context has parent && context.parent.orchestrator == principal };
"""
AT_ONCE_S = 1.0
KILLED = 137

pytestmark = pytest.mark.timeout(60)


def authorize(gate: Gate, job: Job, executor: Executor, *options: str) -> Grant:
    """Ask by the command line."""
    named = ["--executor", executor.id, "--workflow", job.workflow, "--run", job.run, "--step", job.step]
    asked = gate.stage.json("authorize", *gate.connection("orchestrator"), *named, *options, "--", *job.argv)
    return Grant.model_validate(asked)


def test_a_revoked_parent_takes_its_child_on_another_machine_along(gates: Gates) -> None:
    gate = gates(serve=False, agent=False)
    (gate.gateway / "policy" / "dispatch.cedar").write_text(POLICY)
    gate.start_gateway()
    here, there = gate.add_executor(), gate.add_executor("other")
    wait_until("trust in both", lambda: gate.view(here).trusted and gate.view(there).trusted, 10)
    wide = ["--delegate-depth", "1", "--delegate-children", "1", "--delegate-step", "child"]
    granted = authorize(gate, gate.job("parent"), here, *wide, "--delegate-executor", there.id, "--max-runtime", "600")
    parent = gate.run("parent", here, grant=granted)
    below = authorize(gate, gate.job("child"), there, "--parent", parent.authorization)
    child = gate.run("child", there, grant=below)
    view = gate.api_view(child.authorization)
    assert (view.parent, view.depth, gate.api_view(parent.authorization).children) == (parent.authorization, 1, 1)
    gate.wait_for("authorization.renewed", child.authorization, count=3)

    gate.stage.json("revoke", "authorization", parent.authorization, "--reason", "enough", *gate.connection("operator"))
    for life in (parent, child):
        life.outlived(gate.revoked_at(life.authorization), AT_ONCE_S + MARGIN_S)
        assert life.process.wait(10) == KILLED
    ended(gate, parent, "operator.revoked")
    ended(gate, child, "parent.ended")
    gate.check_states()


def ended(gate: Gate, life: Life, reason: str) -> None:
    """Its story is closed, for this reason, and its proof verifies."""
    gate.wait_for("execution.closed", life.authorization)
    kinds = gate.kinds(life.authorization)
    assert kinds[-3:] == ["authorization.revoked", "execution.interrupted", "execution.closed"], kinds
    view = gate.api_view(life.authorization)
    assert (view.state, view.reason) == (State.CLOSED, reason)
    report = gate.verify(life.authorization)
    assert report.verified, report.failed
