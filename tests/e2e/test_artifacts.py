"""An artifact lets one job run once, on one machine, while it lasts; through the real agent, whatever is presented.

Each refusal is ``ztrooted exec`` ending with 126 without the job having run, and the reason said.
"""

import base64
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.gate import PACE, SLOW, Gate, Gates
from ztrooted import artifact
from ztrooted.client import Refused
from ztrooted.demo.stage import wait_until
from ztrooted.jose import thumbprint
from ztrooted.models import DispatchRequest, Job

NOT_STARTED = 126

pytestmark = pytest.mark.timeout(60)


@pytest.fixture(scope="module")
def gate(shared_gates: Gates) -> Iterator[Gate]:
    """One gateway with two executors, whose scheduled rounds don't interfere."""
    gate = shared_gates(pace=SLOW)
    gate.add_executor("other")
    wait_until("trust", lambda: all(view.trusted for view in gate.views()), 10)
    yield gate
    gate.check_states()


@pytest.fixture
def ran(gate: Gate) -> Path:
    """Where jobs of this test note that they ran."""
    path = gate.data / f"ran-{time.monotonic_ns()}"
    path.touch()
    return path


def noting(gate: Gate, ran: Path, step: str = "noting") -> Job:
    """A job that notes that it ran."""
    return gate.job(step, "/bin/sh", "-c", f"echo ran >> {ran}")


def times(ran: Path) -> int:
    """How often it ran."""
    return len(ran.read_text().splitlines())


def refusal(done: "subprocess.CompletedProcess[str]", reason: str) -> None:
    """It was refused for this reason, and no traceback was shown."""
    assert done.returncode == NOT_STARTED, (done.stdout, done.stderr)
    said = json.loads(done.stdout or done.stderr)
    assert (said["outcome"], said["reason"]) == ("not_started", reason), said
    assert said["detail"]
    assert "Traceback" not in done.stderr


def test_an_artifact_runs_its_job(gate: Gate, ran: Path) -> None:
    """Without which the refusals below would prove nothing."""
    job = noting(gate, ran)
    assert gate.execute(job, gate.authorize(job).artifact).returncode == 0
    assert times(ran) == 1


def test_streams_and_exit_status_pass_through(gate: Gate) -> None:
    job = gate.job("streams", "/bin/sh", "-c", "cat; echo out; echo err >&2; exit 42")
    command = gate.exec_command(job, gate.authorize(job).artifact)
    command.remove("--json")
    done = subprocess.run(
        [sys.executable, "-m", "ztrooted", *command], input="in\n", capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (42, "in\nout\n", "err\n")


def test_an_artifact_is_used_once(gate: Gate, ran: Path) -> None:
    job = noting(gate, ran)
    grant = gate.authorize(job)
    assert gate.execute(job, grant.artifact).returncode == 0
    gate.wait_for("execution.closed", grant.authorization)
    refusal(gate.execute(job, grant.artifact), "artifact.used")
    assert times(ran) == 1


def test_an_artifact_is_used_once_while_its_job_runs(gate: Gate) -> None:
    life = gate.run("once")
    grant_path = next(gate.data.glob("once-*.artifact"))
    refusal(gate.execute(gate.job("once"), grant_path.read_text().strip()), "artifact.used")
    assert len(life.pids()) == 3
    life.process.kill()
    gate.wait_for("execution.closed", life.authorization)


def test_twenty_at_once_run_once(gate: Gate, ran: Path) -> None:
    """Twenty ``ztrooted exec`` processes race with one artifact: one runs, nineteen are refused."""
    job = noting(gate, ran)
    grant = gate.authorize(job)
    command = gate.exec_command(job, grant.artifact)
    done = subprocess.run([sys.executable, "-c", _RACE, "20", *command], capture_output=True, text=True, check=True)
    assert sorted(json.loads(done.stdout)) == [0] + [NOT_STARTED] * 19
    assert times(ran) == 1
    gate.wait_for("execution.closed", grant.authorization)
    assert gate.kinds(grant.authorization).count("authorization.activated") == 1


# Processes that were loaded before the race begins, so that they meet; a pipe's end is the starting shot.
_RACE = """
import json, os, sys
from ztrooted.cli.main import main
from ztrooted.executor import control
waiting, shot = os.pipe()
children = []
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os.close(shot)
        os.dup2(2, 1)
        os.read(waiting, 1)
        sys.argv[:] = ["ztrooted", *sys.argv[2:]]
        main()
    children.append(child)
os.close(shot)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@pytest.mark.parametrize(
    "changes",
    [
        {"argv": ["/bin/sh", "-c", "echo other"]},
        {"step": "other"},
        {"run": "2"},
        {"workflow": "other"},
        {"attempt": 2},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_an_artifact_is_for_its_job_only(gate: Gate, ran: Path, changes: dict[str, object]) -> None:
    job = noting(gate, ran)
    grant = gate.authorize(job)
    refusal(gate.execute(job.model_copy(update=changes), grant.artifact), "jws.job")
    assert times(ran) == 0
    assert gate.execute(job, grant.artifact).returncode == 0  # it was not used up by the attempt


@pytest.mark.parametrize(
    "option",
    [
        ["--env", "LD_PRELOAD=/tmp/evil.so"],
        ["--pass-env", "HOME"],
        ["--cwd", "/tmp"],
        ["--file", f"/bin/sh={'0' * 64}"],
        ["--user", "0"],
        ["--memory", "64M"],
        ["--pids", "100"],
        ["--cpu", "50"],
    ],
)
def test_every_option_is_part_of_the_job(gate: Gate, ran: Path, option: list[str]) -> None:
    job = noting(gate, ran)
    grant = gate.authorize(job)
    command = gate.exec_command(job, grant.artifact)
    command[1:1] = option
    done = subprocess.run([sys.executable, "-m", "ztrooted", *command], capture_output=True, text=True, check=False)
    refusal(done, "jws.job")
    assert times(ran) == 0


def test_an_artifact_is_for_its_executor_only(gate: Gate, ran: Path) -> None:
    job = noting(gate, ran)
    grant = gate.authorize(job, gate.executors["other"])
    refusal(gate.execute(job, grant.artifact, gate.executor), "jws.executor")
    assert times(ran) == 0
    assert gate.execute(job, grant.artifact, gate.executors["other"]).returncode == 0
    assert times(ran) == 1


def test_a_forged_artifact_is_refused(gate: Gate, ran: Path) -> None:
    """A genuine one with one bit of its signature, its claims or its header flipped; one under a key of our own."""
    job = noting(gate, ran)
    genuine = gate.authorize(job).artifact
    header, claims, signature = genuine.split(".")
    flipped = signature[:20] + ("A" if signature[20] != "A" else "B") + signature[21:]
    refusal(gate.execute(job, f"{header}.{claims}.{flipped}"), "jws.signature")
    for forged in (f"{header}.{claims[:-9] + 'AAAA' + claims[-5:]}.{signature}", f"{header}.{claims}.", claims, "x"):
        done = gate.execute(job, forged)
        assert done.returncode == NOT_STARTED, done
        assert json.loads(done.stderr)["reason"].startswith("jws."), done.stderr
    assert times(ran) == 0


def test_an_artifact_of_another_issuer_is_refused(gate: Gate, ran: Path) -> None:
    job = noting(gate, ran)
    genuine = gate.authorize(job).artifact
    own = ec.generate_private_key(ec.SECP256R1())
    parsed = artifact.ArtifactClaims.model_validate(_payload(genuine))
    forged = artifact.issue(parsed, own, thumbprint(own.public_key()))
    refusal(gate.execute(job, forged), "jws.kid")
    assert times(ran) == 0


def _payload(token: str) -> dict[str, object]:
    part = token.split(".")[1]
    value: dict[str, object] = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    return value


def test_a_renewed_artifact_activates_nothing(gate: Gate) -> None:
    """What the agent receives while a job runs is no second permission."""
    life = gate.run("renewed")
    ((token,),) = gate.rows(
        "SELECT b.bytes FROM artifacts a JOIN blobs b ON b.digest = a.digest WHERE a.authorization = ? AND a.n = 1",
        life.authorization,
    )
    refusal(gate.execute(gate.job("renewed"), bytes(token).decode()), "artifact.used")
    life.process.kill()
    gate.wait_for("execution.closed", life.authorization)


def test_a_denied_dispatch_yields_nothing_to_run(gate: Gate) -> None:
    """An executor that nobody knows: no artifact, no file, and the denial is on record."""
    unknown, never = gate.executor.id[:-4] + "0000", gate.data / "never"
    asking = ["authorize", "--executor", unknown, *gate.connection("orchestrator"), "-o", str(never)]
    refused = gate.stage.json(*asking, "--", "/bin/true", expect=1)["error"]
    assert refused["reason"] == "dispatch.executor_unknown"
    assert gate.kinds(refused["authorization"]) == ["dispatch.requested", "authorization.denied"]
    assert not never.exists()


def test_an_expired_artifact_is_refused(gates: Gates) -> None:
    """One that was not activated in time is refused, before and after the clock leeway of the offline check."""
    gate = gates(pace={**PACE, "lease_s": 3.0})
    job = gate.job("late", "/bin/sh", "-c", f"echo ran >> {gate.data / 'ran'}")
    grant = gate.authorize(job)
    gate.wait_for("authorization.revoked", grant.authorization)
    refusal(gate.execute(job, grant.artifact), "artifact.used")
    gate.wait_for("execution.closed", grant.authorization)
    left = grant.expires / 1000 + 5 - time.time()
    time.sleep(max(0.0, left + 0.1))  # the leeway itself is what is waited for
    refusal(gate.execute(job, grant.artifact), "jws.expired")
    assert not (gate.data / "ran").exists()
    gate.check_states()
    assert gate.verify(grant.authorization).verified


def test_only_its_owner_may_use_the_agents_socket(gate: Gate) -> None:
    assert gate.executor.socket.stat().st_mode & 0o077 == 0
    assert gate.executor.socket.stat().st_uid == os.getuid()


def test_an_authorization_is_its_orchestrators_alone(gate: Gate) -> None:
    """Another role may not dispatch at all."""
    job = gate.job("roles", "/bin/true")
    for role in ("auditor", "operator"):
        with pytest.raises(Refused) as refused:
            gate.ask(role, lambda client: client.authorize(DispatchRequest(executor=gate.executor.id, job=job)))
        assert refused.value.reason == "auth.role"
