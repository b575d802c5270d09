"""One file, then the environment, then flags; what is shown of it, and what a running gateway takes over."""

import asyncio
import json
import os
import shutil
import signal
import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from gateway.certificates import Authority, private_pem
from gateway.config import load_config
from gateway.config_view import check, settings
from tests.support.commands import run
from tests.support.gateway_in_process import GatewayInProcess, gate
from tests.support.gateway_process import GatewayProcess, running
from ztrooted.demo.stage import wait_until
from ztrooted.errors import EnvironmentProblem, GateError

__all__ = ["gate", "running"]  # fixtures


def add(data: Path, text: str) -> None:
    """More settings, before the first table."""
    path = data / "gateway.toml"
    path.write_text(text + path.read_text())


def origin(data: Path, name: str, **flags: Any) -> tuple[object, str]:
    found = next(one for one in settings(load_config(data, **flags), flags) if one.name == name)
    return found.value, found.origin


async def test_flags_win_over_the_environment_over_the_file(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert origin(gate.data, "session_life_s") == (3600, "default")
    add(gate.data, "\nlisten_port = 1\n".replace("listen_port = 1", "session_life_s = 600"))
    assert origin(gate.data, "session_life_s") == (600, "gateway.toml:2")
    monkeypatch.setenv("ZTROOTED_SESSION_LIFE_S", "700")
    assert origin(gate.data, "session_life_s") == (700, "ZTROOTED_SESSION_LIFE_S")
    assert origin(gate.data, "session_life_s", session_life_s=800) == (800, "--session-life-s")
    assert origin(gate.data, "listen_port", listen_port=5) == (5, "--port")


async def test_whatever_is_wrong_says_where_it_came_from(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value, code, said in (
        ("ZTROOTED_LISTEN_PROT", "1", "config.unknown_key", "ZTROOTED_LISTEN_PORT"),
        ("ZTROOTED_LISTEN_PORT", "many", "config.invalid", "the variable ZTROOTED_LISTEN_PORT"),
        ("ZTROOTED_WEBHOOKS", "[", "config.invalid", "webhooks"),
    ):
        with monkeypatch.context() as patched:
            patched.setenv(name, value)
            with pytest.raises(EnvironmentProblem) as refused:
                load_config(gate.data)
            assert refused.value.reason == code
            assert said in refused.value.detail
    with pytest.raises(EnvironmentProblem, match="the command line"):
        load_config(gate.data, listen_port=-1)
    monkeypatch.setenv("ZTROOTED_SERVICE_HOST", "10.0.0.1")  # of Kubernetes, where a service has this name
    assert any(said.startswith("ZTROOTED_SERVICE_HOST is no setting") for said in check(load_config(gate.data)))
    for text in ("listen_prot = 1\n", "session_life_s = 1\n", "session_life_s = ", "log_level = 'loud'\n"):
        before = (gate.data / "gateway.toml").read_text()
        add(gate.data, text)
        with pytest.raises(EnvironmentProblem, match=r"gateway\.toml"):
            load_config(gate.data)
        (gate.data / "gateway.toml").write_text(before)


async def test_check_finds_each_thing_that_a_start_would(gate: GatewayInProcess) -> None:
    data = gate.data
    await gate.stop()
    check(load_config(data))
    for name in (
        "policy/dispatch.cedar",
        "policy/appraisal.toml",
        "ek-roots",
        "executor-ca/key.sealed",
        "tls/cert.pem",
    ):
        (data / name).rename(data / "away")
        with pytest.raises(GateError):
            check(load_config(data))
        (data / "away").rename(data / name)
    table = '[[webhooks]]\nname = "ci"\nurl = "https://ci.example/hook?token=secret123"\n'
    with (data / "gateway.toml").open("a") as file:
        file.write(table)
    with pytest.raises(GateError, match="ci"):
        check(load_config(data))
    assert run("gateway", "config", "check", str(data)).returncode == 3
    assert run("gateway", "webhook", str(data), "ci").returncode == 0
    secret = (data / "webhooks" / "ci.secret").read_text().strip()
    assert run("gateway", "config", "check", str(data)).returncode == 0
    for form in ((), ("--json",)):
        shown = run("gateway", "config", "show", str(data), *form).stdout
        assert "https://ci.example/hook" in shown
        assert "secret123" not in shown
        assert secret not in shown
    listed = json.loads(run("gateway", "config", "show", str(data), "--port", "9", "--json").stdout)
    assert {"name": "listen_port", "value": 9, "origin": "--port", "reloadable": False} in listed


# --- SIGHUP, in a real process ---------------------------------------------------------------------------------------
def lines(gateway: GatewayProcess) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gateway.log.read_text().splitlines() if line.startswith("{")]


def reload(gateway: GatewayProcess) -> list[tuple[str, str]]:
    """SIGHUP; what was said then, as (event, setting or code), in order."""
    before = len(lines(gateway))
    os.kill(gateway.pid, signal.SIGHUP)

    def said() -> list[dict[str, Any]]:
        return [one for one in lines(gateway)[before:] if one["event"] in TOLD]

    wait_until(
        "the end of the reload",
        lambda: any(one["event"] in {"configuration read", "configuration kept"} for one in said()),
        20,
    )
    return [(one["event"], one.get("setting") or one.get("code", "")) for one in said()][:-1] or [
        (one["event"], one.get("code", "")) for one in said()
    ]


TOLD = {"reloaded", "needs a restart", "needs activation", "configuration read", "configuration kept"}


def certificate(gateway: GatewayProcess) -> bytes:
    """What a new connection is shown."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    port = int(gateway.url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as raw, context.wrap_socket(raw) as connection:
        found = connection.getpeercert(binary_form=True)
        assert found is not None
        return found


def ready(gateway: GatewayProcess) -> bool:
    async def ask() -> bool:
        async with gateway.client("operator") as client, client.http.get(client.url + "/readyz") as answer:
            return answer.status == 200

    return asyncio.run(ask())


def test_what_can_be_reloaded_is_and_the_rest_is_named(running: GatewayProcess) -> None:
    data, settings_file = running.data, running.data / "gateway.toml"
    assert reload(running) == [("configuration read", "")]

    original = settings_file.read_text()
    add(data, 'log_level = "debug"\nsession_life_s = 600\n')
    assert reload(running) == [("reloaded", "log_level"), ("needs a restart", "session_life_s")]
    assert reload(running) == [("needs a restart", "session_life_s")]
    settings_file.write_text(original)
    assert reload(running) == [("reloaded", "log_level")]

    shutil.copy(data / "executor-ca" / "cert.pem", data / "ek-roots" / "more.pem")
    assert reload(running) == [("reloaded", "ek_roots")]

    with settings_file.open("a") as file:
        file.write('[[webhooks]]\nname = "ci"\nurl = "http://127.0.0.1:9/hook"\n')
    assert reload(running) == [("configuration kept", "environment.key_file")]  # its secret is not there yet
    assert run("gateway", "webhook", str(data), "ci").returncode == 0
    assert reload(running) == [("reloaded", "webhooks")]

    before = certificate(running)
    from datetime import UTC, datetime  # noqa: PLC0415

    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1())
    issued = Authority.create("new", datetime.now(UTC)).issue_server(key.public_key(), ["127.0.0.1"], datetime.now(UTC))
    (data / "tls" / "key.pem").touch(0o600)
    (data / "tls" / "key.pem").write_bytes(private_pem(key))
    assert reload(running) == [("configuration kept", "environment.tls")]  # the key of another certificate
    assert certificate(running) == before
    (data / "tls" / "cert.pem").write_bytes(issued.public_bytes(serialization.Encoding.PEM))
    assert reload(running) == [("reloaded", "tls")]
    assert certificate(running) == issued.public_bytes(serialization.Encoding.DER)

    policy = data / "policy" / "dispatch.cedar"
    policy.write_text(policy.read_text() + "\n// another\n")
    assert reload(running) == [("needs activation", "dispatch")]


def test_a_broken_file_changes_nothing(running: GatewayProcess) -> None:
    settings_file = running.data / "gateway.toml"
    original = settings_file.read_text()
    for text, code in (
        (original + "listen_prot = 1\n", "config.unknown_key"),
        (original + "= nonsense", "config.invalid"),
        (
            'log_level = "debug"\n' + original.replace("ek_vendors = [", 'ek_roots = "none"\nek_vendors = ['),
            "config.invalid",
        ),
    ):
        settings_file.write_text(text)
        assert reload(running) == [("configuration kept", code)]
    settings_file.write_text(original)
    assert reload(running) == [("configuration read", "")]  # nothing had been taken over
    assert ready(running)
