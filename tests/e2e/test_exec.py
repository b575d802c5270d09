"""``ztrooted exec`` with everything real: what was authorized is what runs, and its caller stands for it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.gate import MARGIN_S, PACE, Gate, Gates
from ztrooted.executor.cgroups import Limits, LimitsError, confine
from ztrooted.models import Job

pytestmark = pytest.mark.timeout(60)
KILLED = 137
AT_ONCE_S = 1.0


@pytest.fixture(scope="module")
def shared(shared_gates: Gates) -> Gate:
    """One environment for all of them."""
    return shared_gates()


def start(gate: Gate, job: Job, *options: str, text: str | None = None) -> "subprocess.Popen[str]":
    """Authorize a job and run it, with options that describe it."""
    grant = gate.authorize(job)
    command = gate.exec_command(job, grant.artifact)
    command[1:1] = options
    pipe = subprocess.PIPE
    return subprocess.Popen(
        [sys.executable, "-m", "ztrooted", *command], stdin=pipe, stdout=pipe, stderr=pipe, text=True
    )


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
def test_a_job_runs_as_the_user_that_was_authorized(shared: Gate) -> None:
    job = shared.job("user", "/bin/sh", "-c", "id -u; id -g; id -G; cat").model_copy(update={"user": "54321:54322"})
    process = start(shared, job, "--user", "54321:54322")
    out, err = process.communicate("from stdin\n", timeout=30)
    assert out.split("\n")[:4] == ["54321", "54322", "54322", "from stdin"], (out, err)
    assert process.returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
@pytest.mark.fail_closed("an operator revokes", "the job dies at once")
def test_a_bomb_of_another_user_dies_when_it_is_revoked(shared: Gate) -> None:
    """It forks for ever, within the number of processes that it was given, and another user owns them."""
    try:
        confine(Limits(pids=30)).remove()
    except LimitsError as error:
        pytest.skip(str(error))
    mark = f"bomb-{os.getpid()}"
    bomb = ":(){ :|:& :; }; trap '' TERM HUP INT; echo up; : # " + mark + "\n:"
    asked = {"user": "54321:54321", "pids": 30}
    job = shared.job("bomb", "/bin/bash", "-c", bomb).model_copy(update=asked)
    grant = shared.authorize(job)
    command = shared.exec_command(job, grant.artifact)
    command[1:1] = ["--user", "54321", "--pids", "30"]
    process = shared.stage.start("bomb", *command)
    shared.wait_for("execution.started", grant.authorization)
    time.sleep(0.5)
    assert len(of_user(54321)) > 10
    shared.ask("operator", lambda client: client.revoke(grant.authorization))
    at = time.monotonic()
    while of_user(54321):
        assert time.monotonic() - at < AT_ONCE_S + MARGIN_S + PACE["interval_s"]
        time.sleep(0.01)
    assert process.wait(10) == KILLED
    shared.wait_for("execution.closed", grant.authorization)
    shared.check_states()


def of_user(uid: int) -> list[int]:
    """Processes of one user that are not dead."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if entry.stat().st_uid == uid and state not in "ZX":
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_limits_of_a_job_are_kept(shared: Gate) -> None:
    try:
        confine(Limits(memory=64 << 20)).remove()
    except LimitsError as error:
        pytest.skip(str(error))
    source = "kept = [bytes(1 << 20).replace(b'\\0', b'x') for _ in range(512)]"
    job = shared.job("greedy", sys.executable, "-c", source).model_copy(update={"memory": 64 << 20})
    process = start(shared, job, "--memory", "64M")
    _, err = process.communicate(timeout=30)
    assert process.returncode == KILLED
    assert '"outcome": "exited"' in err
    assert '"signal": 9' in err


def test_a_signal_to_the_caller_is_one_to_the_job(shared: Gate) -> None:
    job = shared.job("polite", "/bin/sh", "-c", "trap 'echo bye; exit 3' TERM; echo up; while :; do sleep 0.02; done")
    process = start(shared, job)
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=30)
    assert (out, process.returncode) == ("bye\n", 3), err


def test_a_call_that_is_ended_before_its_job_runs_starts_nothing(shared: Gate) -> None:
    """Ctrl-C while the agent waits for the gateway, which says nothing."""
    ran = shared.data / "ran"
    job = shared.job("early", "/bin/sh", "-c", f"echo ran >> {ran}")
    grant = shared.authorize(job)
    shared.signal_gateway(signal.SIGSTOP)
    try:
        command = [sys.executable, "-m", "ztrooted", *shared.exec_command(job, grant.artifact)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        time.sleep(2.0)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=10)
        assert process.returncode in {-signal.SIGINT, 128 + signal.SIGINT}
    finally:
        shared.signal_gateway(signal.SIGCONT)
    time.sleep(1.0)
    assert not ran.exists()


@pytest.mark.fail_closed("caller dies", "the job dies with it, at once")
@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.1, 0.15, 0.2])
def test_caller_killed_while_its_job_starts(shared: Gate, delay_s: float) -> None:
    """Whenever it goes: no job is left that nobody stands for."""
    step = f"orphan-{delay_s}"
    job = shared.job(step)
    grant = shared.authorize(job)
    process = shared.start_job(job, grant.artifact)
    shared.wait_for("authorization.activated", grant.authorization)
    time.sleep(delay_s)
    process.kill()
    process.wait()
    shared.wait_for("execution.closed", grant.authorization)
    shared.check_states()
