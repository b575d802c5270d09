"""What real processes write, from the creation of a gateway to the end of a job: lines of one form, and no secret."""

import json
import secrets
import signal
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from gateway.config import load_config
from gateway.identity import Identity
from gateway.own_tpm import open_device
from gateway.vault import EXECUTOR_CA, SERVER, Vault
from tests.support.commands import run
from tests.support.gate import SLOW, Gate, Gates
from ztrooted.demo.stage import wait_until

pytestmark = pytest.mark.timeout(240)


def lines(log: Path) -> list[str]:
    text = log.read_text()
    assert text.endswith("\n")
    found = text.split("\n")[:-1]
    for line in found:
        assert line.isascii(), line
        assert line.isprintable(), line
        assert {"event", "level", "timestamp"} <= set(json.loads(line)), line
    return found


def commands(gate: Gate, hidden: dict[str, str]) -> str:
    """What an operator types at the gateway's machine; what these commands said, but for what they are to hand out."""
    data = str(gate.gateway)
    made = run("gateway", "token", data, "--role", "auditor", "--name", "new", "--json")
    hidden["new token"] = json.loads(made.stdout)["token"]
    hook = run("gateway", "webhook", data, "ci", "--json")
    hidden["webhook's secret"] = json.loads(hook.stdout)["secret"]
    said = made.stderr + hook.stderr
    misplaced = (
        ("gateway", "revoke-token", data, hidden["new token"]),
        ("gateway", "tokens", data),
        ("gateway", "config", "show", data),
        ("gateway", "reseal", data, "--request", str(gate.data / "state.json")),
        ("gateway", "recover", data, "--operator", "olivia", "--reason", "no reason"),
        ("gateway", "backup", data, str(gate.data / "backup.tar.gz")),
        ("gateway", "fsck", data),
        ("gateway", "anchors", data),
        ("executors", *gate.connection("orchestrator")),
        (
            "executors",
            "--gateway",
            gate.url,
            "--ca",
            str(gate.ca),
            "--token-file",
            str(gate.gateway / "tls" / "ca.pem"),
        ),
    )
    for command in misplaced:
        done = run(*command)
        said += done.stdout + done.stderr
    return said


def test_no_process_writes_a_secret_down(gates: Gates) -> None:
    gate = gates(pace=SLOW, agent=False)
    settings = gate.gateway / "gateway.toml"
    settings.write_text('log_level = "debug"\n' + settings.read_text())
    gate.signal_gateway(signal.SIGHUP)
    gate.add_executor()
    assert gate.executor.agent is not None
    gate.executor.agent.terminate()
    gate.executor.agent.wait(20)
    plain = gate.executor.options()
    gate.executor.options = lambda: [*plain, "--verbose"]  # type: ignore[method-assign]
    gate.start_agent(gate.executor)
    wait_until("the executor's trust", lambda: gate.view().trusted, 10)
    hidden = {
        role: (gate.data / f"{role}.token").read_text().strip() for role in ("operator", "auditor", "orchestrator")
    }
    job = gate.job("once", "/bin/sh", "-c", "exit 0")
    grant = gate.authorize(job)
    hidden["artifact"] = grant.artifact
    assert gate.execute(job, grant.artifact).returncode == 0
    again = gate.execute(job, grant.artifact)
    assert again.returncode != 0
    cut = gate.execute(job, grant.artifact[:-4])
    assert cut.returncode != 0
    said = commands(gate, hidden) + again.stdout + again.stderr + cut.stdout + cut.stderr
    logs = {log.name: lines(log) for log in sorted(gate.data.glob("*.log"))}
    assert len(logs) >= 3
    assert any('"answered"' in line for line in logs["gateway0.log"])
    gate.close()
    hidden["passphrase"] = secrets.token_hex(20)
    passphrase, export = gate.data / "passphrase", gate.data / "export.json"
    passphrase.write_text(hidden["passphrase"])
    passphrase.chmod(0o600)
    options = ["--passphrase-file", str(passphrase), "--operator", "olivia", "--reason", "a safe"]
    exported = run("gateway", "recovery-export", str(gate.gateway), str(export), *options)
    assert exported.returncode == 0, exported.stderr
    again = run("gateway", "recovery-import", str(gate.gateway), str(passphrase), *options)
    assert again.returncode != 0
    said += exported.stdout + exported.stderr + again.stdout + again.stderr
    config = load_config(gate.gateway)
    with open_device(config.tpm) as device:
        vault = Vault.open(config.data, config.origin, device, Identity.load(config.data))
    hidden |= {name: vault.read(name).decode().splitlines()[1] for name in (EXECUTOR_CA, SERVER)}
    logs = {log.name: lines(log) for log in sorted(gate.data.glob("*.log"))}
    written = said + "".join(line for found in logs.values() for line in found)
    with closing(sqlite3.connect(gate.gateway / "gateway.db")) as connection:
        recorded = [bytes(data) for (data,) in connection.execute("SELECT bytes FROM records")]
    for what, secret in hidden.items():
        assert secret.removeprefix("whsec_") not in written, what
        assert what == "artifact" or not any(secret.encode() in data for data in recorded), what
