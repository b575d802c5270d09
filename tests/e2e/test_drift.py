"""A machine that is not what was approved: denied, revoked, and not believed again until somebody changes the references."""

import signal
import time
from pathlib import Path

import pytest

from gateway.schedule import EARLY_SHARE
from tests.support.gate import MARGIN_S, PACE, SLOW, Gate, Gates
from ztrooted.client import Refused
from ztrooted.demo.stage import wait_until

pytestmark = pytest.mark.timeout(60)


def measure_unlisted(gate: Gate, name: str = "intruder") -> Path:
    """Measure a program that nobody approved."""
    path = gate.data / name
    path.write_bytes(b"not what was approved: " + name.encode())
    gate.executor.measure(path)
    return path


def denied(gate: Gate, reason: str, step: str = "denied") -> None:
    """The next dispatch is denied for this reason, and the denial is in the lineage, with a proof that verifies."""
    with pytest.raises(Refused) as refused:
        gate.authorize(gate.job(step, "/bin/true"))
    assert refused.value.reason == reason, refused.value.detail
    authorization = refused.value.authorization
    assert authorization is not None
    assert gate.kinds(authorization) == ["dispatch.requested", "policy.evaluated", "authorization.denied"]
    report = gate.verify(authorization)
    assert report.verified, report.failed


def runs(gate: Gate, step: str = "good") -> None:
    """The next dispatch is authorized and runs."""
    job = gate.job(step, "/bin/true")
    grant = gate.authorize(job)
    assert gate.execute(job, grant.artifact).returncode == 0
    gate.wait_for("execution.closed", grant.authorization)
    assert gate.verify(grant.authorization).verified


def test_drift_lasts_until_a_new_baseline_is_approved(gates: Gates) -> None:
    """Good evidence of later rounds does not resurrect: what was refused once is judged again each time."""
    gate = gates()
    runs(gate)
    measure_unlisted(gate)
    denied(gate, "ima.not_allowed")
    for round_ in range(3):
        denied(gate, "ima.not_allowed", f"again{round_}")
    gate.stage.stop("executor-agent0")
    gate.start_agent(gate.executor)  # a new enrollment in the same boot changes nothing
    denied(gate, "ima.not_allowed", "enrolled")
    gate.signal_gateway(signal.SIGKILL)
    gate.start_gateway()  # nor does a gateway that starts anew
    wait_until("the connection", lambda: gate.view().connected, 15)
    denied(gate, "ima.not_allowed", "restarted")
    gate.approve_baseline()
    wait_until("trust", lambda: gate.view().trusted, 10)
    runs(gate, "approved")
    measure_unlisted(gate, "another")
    denied(gate, "ima.not_allowed", "another")
    gate.check_states()


@pytest.mark.fail_closed("executor drifts", "every job dies with the next proof")
def test_a_list_that_grows_is_asked_for_early(gates: Gates) -> None:
    """No scheduled round is due for long, but the executor says that it has measured something."""
    gate = gates(pace=SLOW)
    life = gate.run()
    at = time.monotonic_ns()
    measure_unlisted(gate)
    life.outlived(at, SLOW["interval_s"] * EARLY_SHARE + SLOW["response_deadline_s"] + MARGIN_S)
    gate.wait_for("execution.closed", life.authorization)
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


def extend_unexplained(gate: Gate) -> None:
    """Extend a PCR behind the kernel's back, so that no log grows."""
    from tpm.device import Device  # noqa: PLC0415 -- loads the TSS

    with Device.open(gate.executor.tpm.address) as device:
        device.extend(4, {bank: bytes(_SIZES[bank]) for bank in device.banks()})


@pytest.mark.fail_closed("executor drifts", "every job dies with the next proof")
def test_drift_seen_by_a_dispatch_round_revokes_what_runs(gates: Gates) -> None:
    """No scheduled round is due for long: the orchestrator's next question is the witness."""
    gate = gates(pace=SLOW)
    life = gate.run()
    extend_unexplained(gate)
    moment = time.monotonic_ns()
    wait_until("time passing", lambda: life.alive_at(moment + int(0.5e9)), 5)  # nothing has noticed yet
    at = time.monotonic_ns()
    denied(gate, "log.replay_mismatch")
    life.outlived(at, 1.0)
    gate.wait_for("execution.closed", life.authorization)
    kinds = gate.kinds(life.authorization)
    assert kinds[-4:] == [
        "attestation.failed",
        "authorization.revoked",
        "execution.interrupted",
        "execution.closed",
    ]
    gate.check_states()
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


@pytest.mark.fail_closed("executor drifts", "every job dies with the next proof")
def test_a_pcr_that_no_log_explains_is_drift(gates: Gates) -> None:
    """Something extended a PCR behind the kernel's back: log and quote don't belong together any more."""
    gate = gates()
    life = gate.run()
    at = time.monotonic_ns()
    extend_unexplained(gate)
    life.outlived(at, PACE["interval_s"] + PACE["response_deadline_s"] + MARGIN_S)
    gate.wait_for("execution.closed", life.authorization)
    gate.check_states()
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


_SIZES = {"sha1": 20, "sha256": 32, "sha384": 48, "sha512": 64}


@pytest.mark.fail_closed("executor drifts", "every job dies with the next proof")
def test_a_shortened_measurement_list_is_drift(gates: Gates) -> None:
    gate = gates()
    life = gate.run()
    listed = gate.executor.machine / "ascii_runtime_measurements"
    lines = listed.read_bytes().splitlines(keepends=True)
    at = time.monotonic_ns()
    intruder = measure_unlisted(gate)
    hidden = [line for line in listed.read_bytes().splitlines(keepends=True) if intruder.name.encode() not in line]
    listed.write_bytes(b"".join(hidden))
    assert len(hidden) == len(lines)
    life.outlived(at, PACE["interval_s"] + PACE["response_deadline_s"] + MARGIN_S)
    gate.wait_for("execution.closed", life.authorization)
    assert gate.verify(life.authorization).verified


def test_a_reboot_into_the_good_state_recovers(gates: Gates) -> None:
    """The machine reboots and enrolls anew; the same baseline holds; the old boot's drift is history."""
    gate = gates()
    life = gate.run()
    measure_unlisted(gate)
    gate.wait_for("execution.closed", life.authorization)
    denied(gate, "ima.not_allowed")
    gate.stage.stop("executor-agent0")
    gate.executor.boot(power_cycle=True)
    gate.start_agent(gate.executor)
    assert gate.view().trusted
    runs(gate)
    gate.check_states()
    assert gate.verify(life.authorization).verified


def test_a_reboot_into_another_state_does_not(gates: Gates) -> None:
    gate = gates()
    gate.stage.stop("executor-agent0")
    gate.executor.boot(power_cycle=True, command_line="root=/dev/sda1 init=/bin/sh")
    gate.start_agent(gate.executor)
    assert not gate.view().trusted
    denied(gate, "attestation.drift")


def test_capture_of_a_drifted_machine_shows_the_drift(gates: Gates) -> None:
    """An operator who captures anew sees one file more than before."""
    gate = gates()
    before = gate.stage.json("baseline", "capture", gate.executor.id, *gate.connection("operator"))
    measure_unlisted(gate)
    after = gate.stage.json("baseline", "capture", gate.executor.id, *gate.connection("operator"))
    assert after["files"] == before["files"] + 1
    assert after["baseline"] != before["baseline"]
    denied(gate, "ima.not_allowed")  # captured is not approved
