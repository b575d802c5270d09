"""``ztrooted doctor --gateway-data``: each thing broken alone is found alone, and looking changes nothing."""

import asyncio
import hashlib
import shutil
import socket
from collections import namedtuple
from datetime import timedelta
from pathlib import Path

import pytest

import gateway.doctor
from gateway.doctor import look_at_folder
from tests.support.commands import run
from tests.support.gateway_in_process import GatewayInProcess, gate

__all__ = ["gate"]  # a fixture

# Of each gateway in here: its TPM is a software TPM, and these machines' clocks may be kept by their host.
ALWAYS = {"machine.tpm_virtual", "machine.clock"}


async def look(data: Path) -> dict[str, str]:
    """What did not pass, beyond what never does here: reason -> level."""
    found = await asyncio.to_thread(lambda: list(look_at_folder(data)))
    return {str(one.reason): str(one.level) for one in found if one.reason is not None and one.reason not in ALWAYS}


def tree(data: Path) -> dict[str, bytes]:
    return {str(path): hashlib.sha256(path.read_bytes()).digest() for path in data.rglob("*") if path.is_file()}


async def test_a_stopped_gateway_is_sound_and_stays_as_it_is(gate: GatewayInProcess) -> None:
    await gate.stop()
    before = tree(gate.data)
    assert await look(gate.data) == {}
    assert tree(gate.data) == before


async def test_one_that_serves_is_asked(gate: GatewayInProcess) -> None:
    (gate.data / "address").write_text(gate.url + "\n")
    assert await look(gate.data) == {}
    gate.clock.set_s += 3600
    assert await look(gate.data) == {"service.not_ready": "warning"}


async def test_broken_one_by_one(gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    await gate.stop()
    data = gate.data
    data.chmod(0o750)
    assert await look(data) == {"environment.data_folder": "warning"}
    data.chmod(0o700)

    for name in ("tls/key.sealed", "executor-ca/key.sealed", "sealed-key.json"):
        (data / name).chmod(0o640)
        assert await look(data) == {"environment.key_file": "fail"}
        (data / name).chmod(0o600)

    for name, reason in (
        ("policy/dispatch.cedar", "config.missing"),
        ("ek-roots", "config.invalid"),
        ("identity.json", "config.missing"),
        ("tls/cert.pem", "config.missing"),
    ):
        (data / name).rename(data / "away")
        assert await look(data) == {reason: "fail"}, name
        (data / "away").rename(data / name)

    usage = namedtuple("usage", "total used free")
    for free, level in ((1 << 29, "warning"), (1 << 20, "fail")):
        with monkeypatch.context() as patched:
            patched.setattr(shutil, "disk_usage", lambda _, left=free: usage(1 << 40, 0, left))
            assert await look(data) == {"machine.disk": level}

    with monkeypatch.context() as patched:
        patched.setattr(gateway.doctor, "SOON", timedelta(days=40_000))
        assert await look(data) == {"machine.tls_ends": "warning"}
    assert await look(data) == {}


async def test_a_port_that_is_taken(gate: GatewayInProcess) -> None:
    await gate.stop()
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        settings = gate.data / "gateway.toml"
        settings.write_text(settings.read_text().replace("listen_port = 0", f"listen_port = {other.getsockname()[1]}"))
        assert await look(gate.data) == {"machine.port": "fail"}


async def test_a_folder_that_is_no_gateways(tmp_path: Path, gate: GatewayInProcess) -> None:
    assert run("doctor", "--gateway-data", str(tmp_path)).returncode == 3
    settings = gate.data / "gateway.toml"
    settings.write_text(settings.read_text() + "listen_prot = 1\n")
    done = run("doctor", "--gateway-data", str(gate.data))
    assert done.returncode == 3
    assert "config.unknown_key" in done.stderr
