"""What a service manager hears, the units that it is given, and how a gateway ends when it is told to."""

import asyncio
import configparser
import os
import shutil
import signal
import socket
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

from gateway.app import DATABASE
from tests.support.gateway_process import GatewayProcess
from tests.support.tpm import missing
from ztrooted.executor.standing import STUCK_S
from ztrooted.notify import Manager

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "deploy" / "systemd").glob("*.service"))


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[GatewayProcess]:
    if reason := missing():
        pytest.skip(reason)
    made = GatewayProcess(tmp_path)
    try:
        yield made
    finally:
        made.stop()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """A real NOTIFY_SOCKET."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(path))
        listening.settimeout(20)
        monkeypatch.setenv("NOTIFY_SOCKET", str(path))
        yield listening


def heard(manager: socket.socket, wanted: str) -> list[str]:
    """What comes up to and including ``wanted``."""
    found = []
    while not found or found[-1] != wanted:
        found.append(manager.recv(4096).decode())
    return found


def test_ready_alive_and_stopping_are_told(
    stopped: GatewayProcess, manager: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHDOG_USEC", "400000")
    stopped.start(None)
    heard(manager, "READY=1")
    for _ in range(3):
        heard(manager, "WATCHDOG=1")
    os.kill(stopped.pid, signal.SIGSTOP)  # whatever hangs feeds nobody
    manager.settimeout(0.5)
    with suppress(TimeoutError):  # what was sent before
        while True:
            manager.recv(4096)
    with pytest.raises(TimeoutError):
        manager.recv(4096)
    manager.settimeout(20)
    os.kill(stopped.pid, signal.SIGCONT)
    heard(manager, "WATCHDOG=1")
    os.kill(stopped.pid, signal.SIGTERM)
    heard(manager, "STOPPING=1")
    assert stopped._process is not None
    assert stopped._process.wait(20) == 0


def test_abstract_sockets_and_managers_that_are_gone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    name = f"ztrooted-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + name)
        listening.settimeout(5)
        monkeypatch.setenv("NOTIFY_SOCKET", "@" + name)
        Manager().tell("READY=1")
        assert listening.recv(100) == b"READY=1"
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")
        monkeypatch.setenv("WATCHDOG_PID", "1")  # for another process
        Manager().feed()
        monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
        Manager().feed()
        assert listening.recv(100) == b"WATCHDOG=1"
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    Manager().tell("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    Manager().tell("READY=1")


def test_K13_told_to_stop_it_ends_streams_records_the_end_and_seals_it(stopped: GatewayProcess) -> None:
    stopped.start(None)

    async def follow() -> bytes:
        async with (
            stopped.client("operator") as client,
            client.http.get(client.url + "/v1/events", params={"from": "0"}) as stream,
        ):
            assert stream.status == 200
            os.kill(stopped.pid, signal.SIGTERM)
            return await stream.read()  # to its end: no connection is torn

    asyncio.run(asyncio.wait_for(follow(), 20))
    assert stopped._process is not None
    assert stopped._process.wait(20) == 0
    assert not (stopped.data / "address").exists()
    with closing(sqlite3.connect(stopped.data / DATABASE)) as connection:
        kinds = [kind for (kind,) in connection.execute("SELECT type FROM records ORDER BY seq")]
        sealed = connection.execute("SELECT MAX(size) FROM checkpoints").fetchone()
        anchored = connection.execute("SELECT MAX(size) FROM anchors").fetchone()
    assert kinds[-1] == "gateway.stopped"
    assert sealed == anchored == (len(kinds),)


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.name))
def test_units_are_units_and_hold_what_was_promised(unit: Path) -> None:
    read = configparser.ConfigParser(strict=False, interpolation=None)
    read.optionxform = str  # type: ignore[method-assign,assignment]
    read.read_string(unit.read_text())
    assert read.sections() == ["Unit", "Service", "Install"]
    service = read["Service"]
    assert service["KillMode"] == "control-group"
    assert service["DevicePolicy"] == "closed"
    assert "DeviceAllow=/dev/tpmrm0 rw" in unit.read_text()
    if "gateway" in unit.name:
        assert service["Type"] == "notify"
        assert service["ProtectSystem"] == "strict"
        assert service["CapabilityBoundingSet"] == ""
        assert int(service["WatchdogSec"]) > 4
    else:
        assert service["Type"] == "notify"
        assert service["TimeoutStartSec"] == "infinity"
        assert service["Delegate"] == "yes"
        assert int(service["WatchdogSec"]) > STUCK_S, "it is fed until something has hung for that long"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.name))
def test_systemd_reads_the_units(unit: Path, tmp_path: Path) -> None:
    copy = tmp_path / unit.name  # where the program is not installed, another one stands for it
    copy.write_text(unit.read_text().replace("/opt/ztrooted/bin/ztrooted", "/bin/true"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(copy)], capture_output=True, text=True, check=False, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if unit.name in line]
    assert complaints == []
