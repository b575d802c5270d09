"""Policies changed under a running gateway: tried out, put in force, refused, and what that does to a job that runs."""

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.test_drift import denied, measure_unlisted, runs
from tests.support.commands import run
from tests.support.gate import MARGIN_S, PACE, SLOW, Gate, Gates, set_pace
from ztrooted.client import Refused
from ztrooted.demo.stage import wait_until
from ztrooted.lifecycle import State
from ztrooted.policies import FILES

# Trusted as the machine is, this step may not run.
NOT_THIS = """
@id("trusted-machines")
permit (principal, action, resource) when { context.trusted };
@id("not-this-step")
forbid (principal, action, resource) when { context.step == "life" };
"""
AT_ONCE_S = 1.0
KILLED = 137

pytestmark = pytest.mark.timeout(90)


def folder(gate: Gate, name: str = "policy-next", **changed: str) -> Path:
    """What is in force, in a folder of its own, with other texts for some roles."""
    made = gate.data / name
    made.mkdir()
    for role, file in FILES.items():
        text = changed.get(role) or (gate.gateway / "policy" / file).read_text()
        (made / file).write_text(text)
    return made


def ready_made(gate: Gate, name: str) -> Path:
    """One of the ready-made policies, at the pace of the tests."""
    made = gate.data / name
    gate.stage.json("policy", "new", name, str(made))
    set_pace(made / "appraisal.toml", PACE)
    return made


def activate(gate: Gate, made: Path, *options: str, expect: int = 0) -> Any:
    """By the command line."""
    return gate.stage.json("policy", "activate", str(made), *gate.connection("operator"), *options, expect=expect)


def in_force(gate: Gate) -> dict[str, Any]:
    """What the gateway says, without what differs from question to question."""
    shown: dict[str, Any] = gate.stage.json("policy", "show", *gate.connection("operator"))
    return shown


def decided_again(gate: Gate, decision: str) -> None:
    """Its decision file says the same again, offline; a file that somebody changed does not."""
    kept = gate.data / f"{decision}.decision.json"
    explained = run("explain", decision, *gate.connection("auditor"), "-o", str(kept))
    assert explained.returncode in {0, 1}, explained.stderr
    again = json.loads(gate.stage.run("audit", "redecide", str(kept), "--json"))
    assert again["same"] is True
    assert again["decisions"]


@pytest.mark.fail_closed("policy changes", "what it does not permit dies at once")
def test_a_policy_that_forbids_what_runs_ends_it_at_once(gates: Gates) -> None:
    gate = gates(pace=SLOW)  # no scheduled round is due for long
    life = gate.run("life")
    next_ = folder(gate, dispatch=NOT_THIS)
    before, count = in_force(gate), gate.rows("SELECT COUNT(*) FROM records")

    tried = activate(gate, next_, "--dry-run", expect=1)
    assert {(change["authorization"], change["was"], change["would_be"]) for change in tried["changed"]} == {
        (life.authorization, "permit", "deny")
    }
    assert "not-this-step" in tried["changed"][0]["detail"]
    assert in_force(gate) == before
    assert gate.rows("SELECT COUNT(*) FROM records") == count
    moment = time.monotonic_ns()
    wait_until("time passing", lambda: life.alive_at(moment + int(0.3e9)), 5)

    view = activate(gate, next_)
    assert view["revoked"] == [life.authorization]
    life.outlived(gate.revoked_at(life.authorization), AT_ONCE_S + MARGIN_S)
    assert life.process.wait(10) == KILLED
    gate.wait_for("execution.closed", life.authorization)
    kinds = gate.kinds(life.authorization)
    assert kinds[-3:] == ["authorization.revoked", "execution.interrupted", "execution.closed"], kinds
    shown = gate.api_view(life.authorization)
    assert (shown.state, shown.reason) == (State.CLOSED, "policy.denied")
    assert gate.view().trusted  # it was the job that is not permitted, not the machine that is bad
    report = gate.verify(life.authorization)
    assert report.verified, report.failed
    decided_again(gate, life.authorization)

    runs(gate, "other")
    denied(gate, "policy.denied", "life")
    gate.signal_gateway(signal.SIGKILL)
    gate.start_gateway()
    wait_until("the connection", lambda: gate.view().connected, 15)
    assert in_force(gate)["dispatch"] == view["dispatch"]
    denied(gate, "policy.denied", "life")
    gate.check_states()


@pytest.mark.fail_closed("policy changes", "what it does not permit dies at once")
def test_a_stricter_appraisal_ends_what_runs_on_a_machine_that_does_not_fulfil_it(gates: Gates) -> None:
    """Its evidence is judged by the new rules at once, without a wait for its next turn."""
    gate = gates(pace=SLOW)
    life = gate.run()
    stricter = (gate.gateway / "policy" / "appraisal.toml").read_text()
    rule = '[class.default.event_log]\ncommand_line = ["quiet splash"]'
    for old, new in (("[class.default.event_log]", rule), ("9, 10, 14]", "9, 10, 12, 14]")):
        assert old in stricter
        stricter = stricter.replace(old, new)
    assert activate(gate, folder(gate, appraisal=stricter))["revoked"] == []  # only a new quote can tell
    life.outlived(gate.revoked_at(life.authorization), AT_ONCE_S + MARGIN_S)
    gate.wait_for("execution.closed", life.authorization)
    reason = gate.api_view(life.authorization).reason
    assert reason == "boot.command_line"
    assert not gate.view().trusted
    denied(gate, reason)
    report = gate.verify(life.authorization)
    assert report.verified, report.failed
    decided_again(gate, life.authorization)
    gate.check_states()


@pytest.mark.fail_closed("policy unreadable", "refused whole; the running one stays")
@pytest.mark.parametrize(
    ("role", "line", "text"),
    [
        ("appraisal", 3, 'format = "ztrooted-appraisal/1"\n[class.default]\npcrs = [0, "7"]\n'),
        ("dispatch", 2, "permit (principal, action, resource)\nwhen { context.trustd };\n"),
        ("entities", 3, 'format = "ztrooted-entities/1"\n[group.a]\nmembers = ["a", "a"]\n'),
    ],
)
def test_a_broken_document_is_named_and_changes_nothing(broken_gate: Gate, role: str, line: int, text: str) -> None:
    gate = broken_gate
    before = in_force(gate)
    made = folder(gate, f"broken-{role}", **({"dispatch": NOT_THIS} | {role: text}))
    refused = run("policy", "activate", str(made), *gate.connection("operator"))
    assert refused.returncode == 1, refused.stdout
    assert f"{made / FILES[role]}:{line}" in refused.stderr, refused.stderr
    # Whoever talks to the gateway without the command line gets no further.
    documents = {role: (made / file).read_text() for role, file in FILES.items()}
    with pytest.raises(Refused) as told:
        gate.ask("operator", lambda client: client.activate_policies(documents))
    assert told.value.reason == "policy.invalid"
    assert f":{line}" in told.value.detail
    assert in_force(gate) == before
    runs(gate, f"after-{role}")


@pytest.fixture(scope="module")
def broken_gate(shared_gates: Gates) -> Gate:
    """Each test leaves it as it was: that is what they show."""
    return shared_gates()


def test_policies_that_were_replaced_come_back_only_by_an_explicit_word(gates: Gates) -> None:
    gate = gates()
    old = folder(gate, "policy-old")
    activate(gate, folder(gate, dispatch=NOT_THIS))
    before = in_force(gate)
    refused = run("policy", "activate", str(old), *gate.connection("operator"))
    assert refused.returncode == 1
    assert "policy.rollback" in refused.stderr
    assert "--allow-rollback" in refused.stderr
    assert in_force(gate) == before
    denied(gate, "policy.denied", "life")
    activate(gate, old, "--allow-rollback")
    runs(gate, "life")


def test_observe_trusts_what_was_never_approved_and_says_so(gates: Gates) -> None:
    gate = gates()
    measure_unlisted(gate)
    denied(gate, "ima.not_allowed")
    view = activate(gate, ready_made(gate, "observe"))
    assert view["trusts_everything"]
    wait_until("trust", lambda: gate.view().trusted, 10)
    assert gate.view().tier == "A1"
    runs(gate)


def test_boot_judges_what_was_booted_and_not_what_runs(gates: Gates) -> None:
    gate = gates()
    measure_unlisted(gate)
    denied(gate, "ima.not_allowed")
    assert activate(gate, ready_made(gate, "boot"))["trusts_everything"] == []
    wait_until("trust", lambda: gate.view().trusted, 10)
    assert gate.view().tier == "A2"
    life = gate.run()
    measure_unlisted(gate, "another")
    gate.wait_for("authorization.renewed", life.authorization, count=2)
    assert life.process.poll() is None
    gate.stage.stop("executor-agent0")
    gate.executor.boot(power_cycle=True, command_line="root=/dev/sda1 init=/bin/sh")
    gate.start_agent(gate.executor)
    denied(gate, "boot.command_line")
    gate.check_states()


def test_a_label_moves_an_executor_into_another_class(gates: Gates) -> None:
    """The new class has no baseline yet, so nothing is trusted there; and what runs dies with the trust."""
    gate = gates()
    text = (gate.gateway / "policy" / "appraisal.toml").read_text()
    head, default = text.split("[class.default]", 1)
    special = '[class.gpu.match]\nlabels = { gpu = "yes" }\n'
    own = f"[class.gpu]{default}\n{special}[class.default]{default}".replace("[class.default.", "[class.gpu.", 2)
    activate(gate, folder(gate, appraisal=head + own))
    life = gate.run()
    said = gate.stage.json("label", gate.executor.id, "gpu=yes", *gate.connection("operator"))
    assert said == {"executor": gate.executor.id, "labels": {"gpu": "yes"}}
    life.outlived(gate.revoked_at(life.authorization), AT_ONCE_S + MARGIN_S)
    shown = gate.stage.json("executors", *gate.connection("operator"))
    assert [(one["labels"], one["executor_class"], one["trusted"]) for one in shown] == [({"gpu": "yes"}, "gpu", False)]
    denied(gate, "attestation.no_baseline")
    gate.approve_baseline()
    wait_until("trust", lambda: gate.view().trusted, 10)
    runs(gate)
    refused = run("label", gate.executor.id, "gpu", *gate.connection("operator"))
    assert refused.returncode == 2
    assert "NAME=VALUE" in refused.stderr
