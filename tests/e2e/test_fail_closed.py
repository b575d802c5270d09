"""Whatever fails, the job is dead within one lease, and nobody says otherwise afterwards.

A job of three processes (one of them in its own session, one double-forked) writes down when it was last alive; a failure
is caused from outside; the last sign of life is compared with the lease, which is the promise.
"""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.e2e.proxy import Proxy
from tests.support.gate import MARGIN_S, PACE, Gate, Gates, Life, processes_named, processes_naming
from ztrooted.client import Refused
from ztrooted.demo.stage import wait_until
from ztrooted.errors import GateError
from ztrooted.lifecycle import State
from ztrooted.reasons import GateReason

LEASE_S = PACE["lease_s"]
KILLED = 137
# A revocation that can be delivered is not left to the lease.
AT_ONCE_S = 1.0

pytestmark = pytest.mark.timeout(60)


def settled(gate: Gate, life: Life, reason: str) -> None:
    """The story is closed, for this reason; state and records agree; its proof verifies."""
    gate.wait_for("execution.closed", life.authorization, LEASE_S + 5)
    kinds = gate.kinds(life.authorization)
    assert kinds[-3:] == ["authorization.revoked", "execution.interrupted", "execution.closed"], kinds
    revoked = next(one for one in gate.story(life.authorization) if one.type == "authorization.revoked")
    assert revoked.body["reason"] == reason, revoked.body
    gate.check_states()
    view = gate.api_view(life.authorization)
    assert (view.state, view.reason) == (State.CLOSED, reason)
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


@pytest.fixture(scope="module")
def shared(shared_gates: Gates) -> Gate:
    """One environment for tests after which everything works as before."""
    return shared_gates()


def works_again(gate: Gate) -> None:
    """The next dispatch is authorized, runs and ends by itself."""
    job = gate.job("after", "/bin/sh", "-c", "exit 7")
    wait_until("trust", lambda: gate.view().connected and gate.view().trusted, 10)
    grant = gate.authorize(job)
    assert gate.execute(job, grant.artifact).returncode == 7
    gate.wait_for("execution.closed", grant.authorization)
    gate.check_states()


def test_job_runs_beyond_its_first_lease(shared: Gate) -> None:
    """The other tests prove nothing if a job dies anyway: with everything in order it outlives its first lease."""
    gate = shared
    life = gate.run()
    began = time.monotonic_ns()
    gate.wait_for("authorization.renewed", life.authorization, 15, count=10)
    wait_until("the end of the first lease", lambda: life.alive_at(began + int((LEASE_S + 0.5) * 1e9)), 15)
    life.process.kill()
    gate.wait_for("execution.closed", life.authorization)


@pytest.mark.fail_closed("executor agent dies", "its jobs die with it, at once")
def test_agent_killed(gates: Gates) -> None:
    gate = gates()
    life = gate.run()
    agent = gate.executor.agent
    assert agent is not None
    at = time.monotonic_ns()
    agent.kill()
    life.outlived(at, AT_ONCE_S)
    settled(gate, life, "lease.expired")
    gate.start_agent(gate.executor)
    works_again(gate)


@pytest.mark.fail_closed("executor agent dies", "its jobs die with it, at once")
def test_agent_stopped_in_order(gates: Gates) -> None:
    """SIGTERM: the agent ends its jobs and says so before it hangs up."""
    gate = gates()
    life = gate.run()
    agent = gate.executor.agent
    assert agent is not None
    at = time.monotonic_ns()
    agent.terminate()
    life.outlived(at, AT_ONCE_S)
    assert agent.wait(10) == 0
    settled(gate, life, "execution.agent_lost")
    assert not gate.executor.socket.exists()


@pytest.mark.fail_closed("supervisor or namespace init dies", "the job dies with it, at once")
@pytest.mark.parametrize("name", ["ztrooted-guard", "ztrooted-init"])
def test_supervisor_killed(shared: Gate, name: str) -> None:
    gate = shared
    life = gate.run()
    (supervisor,) = processes_named(name, above=life.pids())
    at = time.monotonic_ns()
    os.kill(supervisor, signal.SIGKILL)
    life.outlived(at, AT_ONCE_S)
    assert life.process.wait(10) == KILLED
    settled(gate, life, "execution.agent_lost")
    works_again(gate)


@pytest.mark.fail_closed("executor silent", "the lease ends on both sides; its own supervisor kills the job")
@pytest.mark.parametrize("frozen", [("agent",), ("ztrooted-guard",), ("agent", "ztrooted-guard")], ids="+".join)
def test_K10_enforcement_frozen(shared: Gate, frozen: tuple[str, ...]) -> None:
    """Whoever is stopped with SIGSTOP, and be it all but one, can't keep a job alive beyond its lease."""
    gate = shared
    life = gate.run()
    agent = gate.executor.agent
    assert agent is not None
    pids = [agent.pid if name == "agent" else processes_named(name, above=life.pids())[0] for name in frozen]
    at = time.monotonic_ns()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    if "agent" not in frozen:
        # Its renewals are no longer taken by the guard; they are by nobody.
        life.outlived(at, LEASE_S + MARGIN_S + 1.0)
    else:
        life.outlived(at, LEASE_S + MARGIN_S)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    gate.wait_for("execution.closed", life.authorization)
    gate.check_states()
    assert gate.verify(life.authorization).verified
    works_again(gate)


@pytest.mark.fail_closed("gateway dead or cut off", "no renewal, so every executor fences itself within one lease")
def test_K2_gateway_killed(gates: Gates) -> None:
    gate = gates()
    life = gate.run()
    at = gate.signal_gateway(signal.SIGKILL)
    life.outlived(at, LEASE_S + MARGIN_S)
    assert life.process.wait(10) == KILLED
    gate.start_gateway()
    settled(gate, life, "lease.expired")
    works_again(gate)


def test_gateway_killed_and_back_within_the_lease(gates: Gates) -> None:
    """What is not over goes on, under the same authorization, and its proof has no gap."""
    gate = gates(pace={**PACE, "lease_s": 12.0})
    life = gate.run()
    gate.signal_gateway(signal.SIGKILL)
    before = len([kind for kind in gate.kinds(life.authorization) if kind == "authorization.renewed"])
    gate.start_gateway()
    gate.wait_for("authorization.renewed", life.authorization, 10, count=before + 2)
    assert life.alive_at(time.monotonic_ns() - int(1e9))
    gate.check_states()
    gate.ask("operator", lambda client: client.revoke(life.authorization))
    settled(gate, life, "operator.revoked")


@pytest.mark.fail_closed("gateway dead or cut off", "no renewal, so every executor fences itself within one lease")
def test_gateway_stopped_in_order(gates: Gates) -> None:
    """It seals what it recorded, exits with 0, and its executors fence themselves."""
    gate = gates()
    life = gate.run()
    at = gate.signal_gateway(signal.SIGTERM)
    assert gate.process is not None
    assert gate.process.returncode == 0
    life.outlived(at, LEASE_S + MARGIN_S)
    ((sealed,),) = gate.rows("SELECT MAX(size) FROM checkpoints")
    ((size,),) = gate.rows("SELECT COUNT(*) FROM records")
    assert sealed == size
    gate.start_gateway()
    settled(gate, life, "lease.expired")


@pytest.mark.fail_closed("gateway dead or cut off", "no renewal, so every executor fences itself within one lease")
def test_gateway_frozen(gates: Gates) -> None:
    """SIGSTOP keeps every connection open; the lease does the killing. Awake again, the gateway revives nothing."""
    gate = gates()
    life = gate.run()
    at = gate.signal_gateway(signal.SIGSTOP)
    life.outlived(at, LEASE_S + MARGIN_S)
    gate.signal_gateway(signal.SIGCONT)
    gate.wait_for("execution.closed", life.authorization)
    kinds = gate.kinds(life.authorization)
    assert "authorization.renewed" not in kinds[kinds.index("authorization.revoked") :]
    gate.check_states()
    assert gate.verify(life.authorization).verified
    works_again(gate)


@pytest.mark.fail_closed("executor silent", "the lease ends on both sides; its own supervisor kills the job")
@pytest.mark.parametrize("how", ["freeze", "cut"])
def test_connection_lost(gates: Gates, how: str) -> None:
    """Half open (nothing is forwarded, nothing is closed), or closed with every reconnection refused."""
    gate = gates(agent=False)
    host, _, port = gate.url.removeprefix("https://").rpartition(":")
    with Proxy((host, int(port))) as proxy:
        gate.add_executor(through=proxy.url)
        wait_until("trust", lambda: gate.view().trusted, 10)
        life = gate.run()
        gate.wait_for("authorization.renewed", life.authorization, count=2)
        at = time.monotonic_ns()
        getattr(proxy, how)()
        life.outlived(at, LEASE_S + MARGIN_S)
        assert life.process.wait(10) == KILLED
        gate.wait_for("execution.closed", life.authorization)
        gate.check_states()
        assert gate.verify(life.authorization).verified
        with pytest.raises(Refused):
            gate.authorize(gate.job("unreachable", "/bin/true"))


@pytest.mark.fail_closed("TPM of the executor gone", "no proof, so the lease ends")
def test_executor_tpm_gone(gates: Gates) -> None:
    gate = gates()
    life = gate.run()
    at = time.monotonic_ns()
    gate.executor.tpm.kill()
    life.outlived(at, LEASE_S + MARGIN_S)
    settled(gate, life, "attestation.overdue")
    with pytest.raises(Refused) as denied:
        gate.authorize(gate.job("no-tpm", "/bin/true"))
    assert denied.value.reason == GateReason.ATTESTATION_OVERDUE


@pytest.mark.fail_closed("TPM of the gateway gone", "no checkpoint; then nothing issued, jobs end")
@pytest.mark.timeout(120)
def test_K11_gateway_tpm_gone(gates: Gates) -> None:
    """Without its TPM a gateway seals nothing, says so, and issues nothing once its last checkpoint is too old."""
    gate = gates(serve=False, agent=False)
    settings = gate.gateway / "gateway.toml"
    settings.write_text(settings.read_text() + "checkpoint_interval_s = 0.2\n")
    gate.start_gateway()
    gate.add_executor()
    wait_until("trust", lambda: gate.view().trusted, 10)
    life = gate.run()
    ((tpm, _),) = [one for one in processes_naming(str(gate.data / "tpm" / "gateway")).items() if "swtpm" in one[1]]
    os.kill(tpm, signal.SIGKILL)
    before = gate.rows("SELECT MAX(size) FROM checkpoints")
    with pytest.raises(GateError) as refused:
        gate.bundle(life.authorization)
    assert refused.value.reason == GateReason.ENVIRONMENT_TPM
    wait_until("the end of the leases", lambda: not life.pids(), 60)
    assert gate.rows("SELECT MAX(size) FROM checkpoints") == before
    with pytest.raises(Refused) as denied:
        gate.authorize(gate.job("unsealed", "/bin/true"))
    assert denied.value.reason == GateReason.CHECKPOINT_STALE
    gate.check_states()
    gate.signal_gateway(signal.SIGTERM)
    gate.start_gateway()  # a managed software TPM starts with it, and what was not sealed is
    works_again(gate)
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


@pytest.mark.fail_closed("executor reboots", "the next proof shows the reset: revoked")
def test_executor_reboots_under_a_job(gates: Gates) -> None:
    """A TPM that was reset since the last proof is another boot, whatever its PCRs say."""
    gate = gates()
    life = gate.run()
    at = time.monotonic_ns()
    gate.executor.boot(power_cycle=True)
    life.outlived(at, LEASE_S + MARGIN_S)
    settled(gate, life, "quote.reset_detected")
    gate.stage.stop("executor-agent0")
    gate.start_agent(gate.executor)
    works_again(gate)


@pytest.mark.fail_closed("an operator revokes", "the job dies at once")
def test_operator_revokes(shared: Gate) -> None:
    gate = shared
    life = gate.run()
    order = ["revoke", "authorization", life.authorization, "--reason", "enough"]
    assert gate.stage.json(*order, *gate.connection("operator"))["revoked"] == [life.authorization]
    life.outlived(gate.revoked_at(life.authorization), AT_ONCE_S + MARGIN_S)
    assert life.process.wait(10) == KILLED
    settled(gate, life, "operator.revoked")
    works_again(gate)


@pytest.mark.fail_closed("the longest run time is over", "its own supervisor kills the job")
def test_longest_run_time(shared: Gate) -> None:
    gate = shared
    job = gate.job("long")
    grant = gate.authorize(job, max_runtime_s=2)
    at = time.monotonic_ns()
    life = Life(grant.authorization, gate.data / "long", gate.start_job(job, grant.artifact))
    assert life.process.wait(20) == KILLED
    life.outlived(at, 2 + AT_ONCE_S + MARGIN_S)
    gate.wait_for("execution.closed", life.authorization)
    gate.check_states()
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


@pytest.mark.fail_closed("caller dies", "the job dies with it, at once")
def test_caller_killed(shared: Gate) -> None:
    """A job does not outlive the ``ztrooted exec`` that stands for it."""
    gate = shared
    life = gate.run()
    at = time.monotonic_ns()
    life.process.kill()
    life.outlived(at, AT_ONCE_S)
    settled(gate, life, "execution.abandoned")


@pytest.mark.fail_closed("executor drifts", "every job dies with the next proof")
def test_every_job_of_a_machine_dies_with_its_trust(gates: Gates) -> None:
    gate = gates()
    lives = [gate.run(step) for step in ("one", "two", "three")]
    at = time.monotonic_ns()
    unlisted(gate)
    for life in lives:
        life.outlived(at, PACE["interval_s"] + PACE["response_deadline_s"] + MARGIN_S)
        settled(gate, life, "ima.not_allowed")


def unlisted(gate: Gate) -> Path:
    """Measure a program that nobody approved."""
    path = gate.data / "intruder"
    path.write_bytes(b"not what was approved")
    gate.executor.measure(path)
    return path


def test_exec_needs_its_agent(gates: Gates) -> None:
    gate = gates()
    agent = gate.executor.agent
    assert agent is not None
    job = gate.job("plain", "/bin/true")
    grant = gate.authorize(job)
    agent.kill()
    agent.wait()
    done: subprocess.CompletedProcess[str] = gate.execute(job, grant.artifact)
    assert done.returncode == 3, done
