"""Faults inside of the gateway: a part of it dies, its disk is full, its clock is set, its own machine drifts.

In each it issues nothing it could not answer for, says so or ends, and the jobs it can no longer vouch for die.
"""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from tests.support.commands import run
from tests.support.gate import MARGIN_S, PACE, Gate, Gates, Life
from ztrooted.client import GatewayClient, Refused
from ztrooted.demo.stage import wait_until
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

LEASE_S = PACE["lease_s"]
EXIT_S = 5.0
OFTEN = "checkpoint_interval_s = 0.2\n"

pytestmark = pytest.mark.timeout(90)


def faulty(gates: Gates, *, settings: str = "") -> Gate:
    """A gateway that can be told to fail, with a trusted executor."""
    gate = gates(serve=False, agent=False)
    file = gate.gateway / "gateway.toml"
    file.write_text(file.read_text() + settings)
    gate.start_gateway(faulty=True)
    gate.add_executor()
    wait_until("trust", lambda: gate.view().trusted, 10)
    return gate


def refused(gate: Gate, reason: GateReason) -> None:
    """No dispatch is authorized, for this reason."""
    with pytest.raises(Refused) as denied:
        gate.authorize(gate.job(f"refused-{time.monotonic_ns()}", "/bin/true"))
    assert denied.value.reason == reason, denied.value.detail


def ready(gate: Gate) -> list[str] | None:
    """What /readyz complains of; None where nobody answers."""

    async def asked(client: GatewayClient) -> list[str]:
        async with client.http.get(client.url + "/readyz") as answer:
            failing: list[str] = (await answer.json())["failing"]
            assert answer.status == (503 if failing else 200)
            return failing

    try:
        return gate.ask("auditor", asked)  # type: ignore[no-any-return]
    except (aiohttp.ClientError, OSError):
        return None


def proved(gate: Gate, life: Life) -> None:
    """Its story is whole, and a verifier agrees."""
    gate.wait_for("execution.closed", life.authorization)
    gate.check_states()
    report = gate.verify(life.authorization)
    assert report.verified, report.failed


@pytest.mark.fail_closed("sweeper, writer, checkpointer dies", "exit code 1; a job ends with its lease")
@pytest.mark.parametrize("part", ["sweeper", "writer", "checkpointer"])
def test_a_part_of_the_gateway_dies(gates: Gates, part: str) -> None:
    """Nothing goes on without it: not ready, then gone, with an exit code that says so."""
    gate = faulty(gates, settings=OFTEN)
    life = gate.run()
    assert ready(gate) == []
    assert gate.process is not None
    at = gate.fail(part)
    answers = []
    while gate.process.poll() is None and time.monotonic_ns() < at + EXIT_S * 1e9:
        answers.append(ready(gate))
    assert gate.process.wait(EXIT_S) == 1
    if [] in answers:  # it takes a moment until the part is used; from then on it is never ready again
        answers = answers[len(answers) - answers[::-1].index([]) :]
    assert [] not in answers
    life.outlived(at, LEASE_S + MARGIN_S)
    gate.start_gateway()
    proved(gate, life)


@pytest.mark.fail_closed("clock jumps beyond the leeway", "nothing issued; a job ends with its lease")
@pytest.mark.parametrize("direction", ["back", "forward"])
def test_the_gateways_clock_is_set(gates: Gates, direction: str) -> None:
    gate = faulty(gates)
    life = gate.run()
    at = gate.fail(f"clock {direction}")
    assert ready(gate) == [str(GateReason.CLOCK_UNTRUSTED)]
    refused(gate, GateReason.CLOCK_UNTRUSTED)
    life.outlived(at, LEASE_S + MARGIN_S)
    renewed = [one for one in gate.story(life.authorization) if one.type == "authorization.renewed"]
    leases = gate.rows("SELECT lease_expires FROM authorizations WHERE id = ?", life.authorization)
    assert renewed[-1].body["claims"]["exp"] * 1000 == leases[0][0]  # no lease was made longer by a clock
    refused(gate, GateReason.CLOCK_UNTRUSTED)  # it does not come to terms with it by itself


@pytest.mark.fail_closed("TPM of the gateway drifted", "no checkpoint; then nothing issued, jobs end")
@pytest.mark.timeout(120)
def test_the_gateways_own_machine_drifts(gates: Gates) -> None:
    """Its log key answers to its PCRs: what it is now can't seal, and what isn't sealed isn't issued for long."""
    gate = faulty(gates, settings=OFTEN)
    life = gate.run()
    gate.fail("drift")
    before = gate.rows("SELECT MAX(size) FROM checkpoints")
    with pytest.raises(GateError) as unsealed:
        gate.bundle(life.authorization)
    assert unsealed.value.reason == GateReason.ENVIRONMENT_TPM
    wait_until("the end of the leases", lambda: not life.pids(), 60)
    assert gate.rows("SELECT MAX(size) FROM checkpoints") == before
    assert str(GateReason.CHECKPOINT_STALE) in (ready(gate) or [])  # and that it is its TPM, once that has lasted
    refused(gate, GateReason.CHECKPOINT_STALE)
    gate.check_states()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be filled."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "none", disk], capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte of it."""
    hog = disk / "hog"
    with hog.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return hog


@pytest.mark.fail_closed("database full", "503, nothing issued; a job ends with its lease")
def test_the_disk_is_full(gates: Gates, small_disk: Path) -> None:
    """Nothing that can't be recorded leaves; with room again everything goes on, and nothing acknowledged is lost."""
    gate = on(small_disk, gates(serve=False, agent=False))
    life = gate.run()
    gate.wait_for("authorization.renewed", life.authorization, count=2)
    hog = fill(small_disk)
    at = time.monotonic_ns()
    before = gate.rows("SELECT COUNT(*) FROM records")
    wait_until("a full write-ahead log", lambda: _refuses(gate), 20)
    life.outlived(at, LEASE_S + MARGIN_S + 20)
    after = gate.rows("SELECT COUNT(*) FROM records")
    refused(gate, GateReason.DATABASE_UNAVAILABLE)
    assert gate.rows("SELECT COUNT(*) FROM records") == after >= before
    hog.unlink()
    proved(gate, life)
    job = gate.job("room", "/bin/true")
    wait_until("trust", lambda: gate.view().connected and gate.view().trusted, 10)
    grant = gate.authorize(job)
    assert gate.execute(job, grant.artifact).returncode == 0
    gate.check_states()


@pytest.mark.fail_closed("drift that can't be recorded", "the job dies at the verdict, and waits for no disk")
def test_a_full_disk_keeps_no_job_alive(gates: Gates, small_disk: Path) -> None:
    gate = on(small_disk, gates(serve=False, agent=False, pace={**PACE, "lease_s": 60.0}))
    life = gate.run()
    gate.wait_for("authorization.renewed", life.authorization, count=2)
    fill(small_disk)
    wait_until("a full write-ahead log", lambda: _refuses(gate), 20)
    at = time.monotonic_ns()
    intruder = gate.data / "intruder"
    intruder.write_bytes(b"not what was approved")
    gate.executor.measure(intruder)
    life.outlived(at, PACE["interval_s"] + PACE["response_deadline_s"] + MARGIN_S)


def on(disk: Path, gate: Gate) -> Gate:
    """A gateway whose data are there, with an executor that it trusts."""
    shutil.move(gate.gateway, disk / "gateway")
    gate.gateway.symlink_to(disk / "gateway")
    gate.start_gateway()
    gate.add_executor()
    wait_until("trust", lambda: gate.view().trusted, 10)
    return gate


def _refuses(gate: Gate) -> bool:
    try:
        gate.authorize(gate.job(f"full-{time.monotonic_ns()}", "/bin/true"))
    except Refused as error:
        return error.reason == GateReason.DATABASE_UNAVAILABLE
    return False


@pytest.mark.fail_closed("database read-only", "refuses to start")
def test_the_disk_is_read_only(gates: Gates, small_disk: Path) -> None:
    gate = gates(serve=False, agent=False)
    shutil.move(gate.gateway, small_disk / "gateway")
    gate.gateway.symlink_to(small_disk / "gateway")
    subprocess.run(["mount", "-o", "remount,ro", small_disk], check=True)
    done = run("gateway", "serve", str(gate.gateway), "--port", "0")
    assert done.returncode == 3, done.stderr
    assert GateReason.DATABASE_UNAVAILABLE in done.stderr
    assert "Traceback" not in done.stderr
