"""The demo does what it says, and leaves nothing behind however it ends."""

import json
import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest

from tests.support.gate import processes_naming
from tests.support.snippets import QUICK_START, ROOT, runnable
from tests.support.tpm import missing
from ztrooted.anchors import parse_anchors
from ztrooted.demo.stage import CLI, wait_until
from ztrooted.verify import verify_bundle

STEPS = [
    "provision",
    "boot",
    "gateway",
    "enroll",
    "denied",
    "baseline",
    "authorize",
    "run",
    "drift",
    "recover",
    "second",
    "proof",
    "tamper",
]

pytestmark = [
    pytest.mark.swtpm,
    pytest.mark.timeout(300),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder that does not exist yet, with a path short enough for sockets."""
    return tmp_path / "d"


def test_the_whole_demo(data: Path) -> None:
    done = subprocess.run(
        [*CLI, "demo", "--json", "--data", str(data)], capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    told = json.loads(done.stdout)
    assert told["ok"] is True
    assert [step["step"] for step in told["steps"]] == STEPS
    observed = {step["step"]: step["observed"] for step in told["steps"]}
    assert observed["enroll"]["virtual"] is True
    assert observed["enroll"]["trusted"] is False
    assert observed["denied"]["reason"] == "attestation.no_baseline"
    assert observed["run"]["renewals"] >= 3
    assert observed["drift"]["reason"] == "ima.not_allowed"
    assert observed["drift"]["exposure_ms"] < 10_000
    assert observed["second"] == {"outcome": "exited", "exit_status": 0}
    assert observed["tamper"]["failed_check"] == "inclusion"
    anchors = parse_anchors((data / "anchors.toml").read_bytes(), "anchors.toml")
    for job in ("train", "report"):
        report = verify_bundle((data / f"bundle-{job}.json").read_bytes(), anchors)
        assert report.verified, report.failed
        assert report.facts["step"] == job
    with closing(sqlite3.connect(data / "gateway" / "gateway.db")) as database:
        assert database.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert processes_naming(str(data)) == {}
    page = "".join(block.text for block in runnable(QUICK_START)).replace("first/", f"{data}/")
    typed = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", page], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert typed.returncode == 0, typed.stdout + typed.stderr
    assert typed.stdout.count("\nVerified.\n") == 2
    assert "/usr/bin/unshare" in typed.stdout


def sigint(process: "subprocess.Popen[bytes]") -> None:
    """Ctrl-C at a terminal: the whole process group hears it."""
    os.killpg(process.pid, signal.SIGINT)


def sigkill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()


@pytest.mark.parametrize(
    ("moment", "end"),
    [("early", sigint), ("running", sigint), ("running", sigkill)],
    ids=["early-sigint", "running-sigint", "running-sigkill"],
)
def test_a_demo_that_is_interrupted(data: Path, end: Callable[["subprocess.Popen[bytes]"], None], moment: str) -> None:
    """While TPMs and gateway are being made, or with a job and its survivors running."""
    # Whoever runs the tests in the background ignores SIGINT, and so would everything below.
    process = subprocess.Popen(
        ["env", "--default-signal=INT", *CLI, "demo", "--json", "--data", str(data)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    reached = data / ("gateway.log" if moment == "early" else "heartbeat")
    try:
        wait_until(f"{reached.name} of the demo", reached.exists, 60)
        if moment == "running":
            wait_until("several beats of the job", lambda: reached.stat().st_size > 200, 20)
        # The log is there a moment before the process that writes it.
        least = 2 if moment == "early" else 9
        wait_until("the processes of the demo", lambda: len(descendants(process.pid)) >= least, 10)
        family = descendants(process.pid)
        end(process)
        output, _ = process.communicate(timeout=30)
        assert process.returncode != 0
        assert b"Traceback" not in output, output.decode()
        wait_until("the end of every process", lambda: not alive(family), 10)
        assert processes_naming(str(data)) == {}
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.communicate()


Birth = tuple[int, str]


def descendants(root: int) -> set[Birth]:
    """Every process below ``root``, by number and time of birth, so that a number used again is not mistaken for it."""
    children: dict[int, list[tuple[int, str]]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (found := stat(int(entry.name))) is not None:
            children.setdefault(int(found[1]), []).append((int(entry.name), found[19]))
    family: set[Birth] = set()
    ahead = [root]
    while ahead:
        below = children.get(ahead.pop(), [])
        family |= set(below)
        ahead += [pid for pid, _ in below]
    return family


def alive(family: set[Birth]) -> set[Birth]:
    """Those of them that run; the dead that nobody has buried don't."""
    running = set()
    for pid, born in family:
        found = stat(pid)
        if found is not None and found[19] == born and found[0] not in "ZX":
            running.add((pid, born))
    return running


def stat(pid: int) -> list[str] | None:
    """Fields of /proc/PID/stat from the state on (proc(5)), or None."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def test_a_step_that_fails_ends_the_demo(data: Path) -> None:
    """A demo whose gateway is killed says which step did not go as it must, and exits with 1."""
    process = subprocess.Popen(
        [*CLI, "demo", "--json", "--data", str(data)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    try:
        wait_until("the gateway", (data / "gateway" / "address").exists, 60)
        for pid, line in processes_naming(str(data / "gateway")).items():
            if "gateway serve" in line:
                os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        output, _ = process.communicate(timeout=60)
        assert time.monotonic() - began < 60
        assert process.returncode in {1, 3}
        said = json.loads(output)
        assert said.get("ok", False) is False
        assert said["error"]["detail"]
        assert processes_naming(str(data)) == {}
    finally:
        process.kill()
        process.communicate()
