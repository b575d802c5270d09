"""What people get wrong: each gives one clear message with reason and remedy, the right exit code, and leaves no trace.

0 yes, 1 no, 2 wrong usage, 3 the environment is not what it should be; the same for people and with ``--json``.
"""

import json
import os
import re
import shutil
import signal
import socket
import sqlite3
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority, private_pem
from tests.support.commands import run
from tests.support.gate import Blueprint, Gate, Gates, processes_naming
from tpm.software import SoftwareTpm, ca_certificates, provision
from ztrooted import limits
from ztrooted.cli.connection import connect

NO, USAGE, ENVIRONMENT = 1, 2, 3

pytestmark = pytest.mark.timeout(60)


@dataclass(frozen=True, slots=True)
class Said:
    """What a failed command said."""

    code: int
    reason: str
    detail: str
    remedy: str


def refuse(*arguments: str, code: int, reason: str) -> Said:
    """Run a command for people and again with ``--json``: the same exit code, reason and remedy, no traceback."""
    for_people = run(*arguments)
    assert for_people.returncode == code, (for_people.stdout, for_people.stderr)
    assert "Traceback" not in for_people.stderr + for_people.stdout
    assert for_people.stdout == ""
    lines = for_people.stderr.strip().splitlines()
    assert len(lines) == 2, lines  # one message, one remedy
    assert lines[0].startswith("No: " if code == NO else "Error: ")
    assert lines[0].endswith(f"({reason})")
    assert lines[1].startswith("What to do: ")
    end = arguments.index("--") if "--" in arguments else len(arguments)
    for_scripts = run(*arguments[:end], "--json", *arguments[end:])
    assert for_scripts.returncode == code
    error = json.loads(for_scripts.stdout)["error"]
    assert error["reason"] == reason
    assert error["detail"] in lines[0]
    assert error["remedy"]
    assert for_scripts.stderr == ""
    return Said(code, error["reason"], error["detail"], error["remedy"])


def refuse_to_serve(gateway: Path, *options: str, reason: str) -> str:
    """``gateway serve`` has no ``--json``: one message, exit code 3, soon, and nothing of it runs on."""
    done = run("gateway", "serve", str(gateway), *options)
    assert done.returncode == ENVIRONMENT, (done.stdout, done.stderr)
    said = done.stdout + done.stderr
    assert "Traceback" not in said
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 2, lines
    assert f"({reason})" in lines[0]
    assert lines[1].startswith("What to do: ")
    assert not processes_naming(str(gateway.parent))
    return said


@pytest.fixture
def folder(blueprint: Blueprint, tmp_path: Path) -> Path:
    """A gateway's data folder beside the TPM it belongs to; nothing runs."""
    blueprint.copy(tmp_path / "e", {})
    return tmp_path / "e" / "gateway"


def edit(path: Path, change: Callable[[str], str]) -> None:
    """Change a file's text."""
    path.write_text(change(path.read_text()))


# --- gateway init ------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def spare(tmp_path_factory: pytest.TempPathFactory, blueprint: Blueprint) -> Path:
    """A software TPM without a gateway, and roots."""
    folder = tmp_path_factory.mktemp("spare")
    provision(folder / "tpm", ca=folder / "ca", certificates=False)
    shutil.copy(blueprint.folder / "ek-roots.pem", folder / "roots.pem")
    return folder


@pytest.fixture
def virgin(tmp_path: Path, spare: Path) -> Path:
    """A copy of that for one test."""
    shutil.copytree(spare, tmp_path / "v")
    return tmp_path / "v"


def init(virgin: Path, *, data: str = "gateway", **changes: str) -> list[str]:
    """The command line of an initialisation that would succeed, with one thing changed."""
    options = {
        "tpm": f"swtpm:{virgin / 'tpm'}",
        "trust-domain": "bad.test",
        "ek-roots": str(virgin / "roots.pem"),
        **{name.replace("_", "-"): value for name, value in changes.items()},
    }
    given = [part for name, value in options.items() for part in (f"--{name}", value)]
    return ["gateway", "init", str(virgin / data), *given]


def nothing_made(virgin: Path) -> None:
    """Neither a folder nor half of one, and no process."""
    assert sorted(path.name for path in virgin.iterdir() if path.name not in {"ca", "tpm", "roots.pem"}) == []
    assert not processes_naming(str(virgin))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ek_roots": "{virgin}/absent.pem"}, "config.invalid"),
        ({"ek_roots": "{virgin}/ca/certserial"}, "config.invalid"),
        ({"ek_roots": "/dev/null"}, "config.invalid"),
        ({"ek_roots": "{virgin}/tpm"}, "config.invalid"),
        ({"tpm": "device:/dev/no-such-tpm"}, "environment.tpm"),
        ({"tpm": "device:/dev/null"}, "environment.tpm"),
        ({"tpm": "socket:{virgin}/no-socket"}, "environment.tpm"),
        ({"tpm": "swtpm:/proc/nowhere"}, "environment.tpm"),
    ],
    ids=str,
)
def test_init_refuses_and_leaves_nothing(virgin: Path, changes: dict[str, str], reason: str) -> None:
    filled = {name: value.replace("{virgin}", str(virgin)) for name, value in changes.items()}
    refuse(*init(virgin, **filled), code=ENVIRONMENT, reason=reason)
    nothing_made(virgin)


@pytest.mark.parametrize(
    "changes",
    [
        {"tpm": "swtpm:relative"},
        {"tpm": "/dev/tpmrm0"},
        {"trust_domain": 'x"\n[evil]'},
        {"trust_domain": "Not A Domain"},
        {"trust_domain": "x" * 64},
        {"ek_vendor": 'id:"]\nlisten_port = 1'},
        {"ek_vendor": "id:12"},
        {"host": "::1\nlisten_port = 1"},
        {"name": "ü.test"},
    ],
    ids=str,
)
def test_init_refuses_options_that_no_gateway_can_have(virgin: Path, changes: dict[str, str]) -> None:
    refuse(*init(virgin, **changes), code=USAGE, reason="config.invalid")
    nothing_made(virgin)


def test_init_without_roots_is_wrong_usage(virgin: Path) -> None:
    done = run("gateway", "init", str(virgin / "gateway"), "--tpm", "device:/dev/tpmrm0", "--trust-domain", "bad.test")
    assert done.returncode == USAGE
    assert "--ek-roots" in done.stderr
    assert "Traceback" not in done.stderr
    nothing_made(virgin)


def test_init_never_overwrites(folder: Path, virgin: Path) -> None:
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    arguments = init(virgin)
    arguments[2] = str(folder)
    refuse(*arguments, code=ENVIRONMENT, reason="environment.data_folder")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_init_where_nothing_may_be_written(virgin: Path) -> None:
    arguments = init(virgin)
    arguments[2] = "/proc/gateway"
    refuse(*arguments, code=ENVIRONMENT, reason="environment.data_folder")


def test_init_needs_its_tpm_for_itself(virgin: Path) -> None:
    with SoftwareTpm(virgin / "tpm"):
        refuse(*init(virgin), code=ENVIRONMENT, reason="environment.tpm")
    shutil.rmtree(virgin / "tpm" / "run")
    nothing_made(virgin)


# --- gateway serve -----------------------------------------------------------------------------------------------
def test_no_such_data_folder(tmp_path: Path) -> None:
    refuse_to_serve(tmp_path / "absent" / "gateway", reason="config.missing")
    assert list(tmp_path.iterdir()) == []


def test_a_half_written_data_folder(folder: Path) -> None:
    """Whatever is missing is named; nothing is made up in its place."""
    needed = ["gateway.toml", "identity.json", "executor-ca/cert.pem", "tls/cert.pem", "policy/appraisal.toml"]
    needed.append("policy/dispatch.cedar")
    for name in needed:
        path = folder / name
        data = path.read_bytes()
        path.unlink()
        said = refuse_to_serve(folder, reason="config.missing")
        assert name.rpartition("/")[2] in said
        assert not path.exists()
        path.write_bytes(data[: len(data) // 2])
        done = run("gateway", "serve", str(folder))
        assert done.returncode in {NO, ENVIRONMENT}, (name, done.stderr)
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2, done.stderr
        path.write_bytes(data)


@pytest.mark.parametrize("name", ["executor-ca/key.sealed", "tls/key.sealed"])
def test_a_missing_open_or_damaged_key_file(folder: Path, name: str) -> None:
    key = folder / name
    key.chmod(0o644)
    assert "chmod 600" in refuse_to_serve(folder, reason="environment.key_file")
    key.chmod(0o600)
    data = key.read_bytes()
    key.write_bytes(data[:100])
    done = run("gateway", "serve", str(folder))
    assert done.returncode == ENVIRONMENT, done.stderr
    assert "Traceback" not in done.stderr
    key.unlink()
    refuse_to_serve(folder, reason="environment.key_file")


def test_no_roots_configured(folder: Path) -> None:
    (folder / "ek-roots" / "roots.pem").unlink()
    refuse_to_serve(folder, reason="config.invalid")
    (folder / "ek-roots").rmdir()
    refuse_to_serve(folder, reason="config.invalid")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("relax_enforcement = true", "config.unknown_key"),
        ('listen_hosst = "::1"', "config.unknown_key"),
        ("session_life_s = 1", "config.invalid"),
        ('checkpoint_interval_s = "soon"', "config.invalid"),
        ("this is not TOML", "config.invalid"),
        ("ek_vendors = []", "config.invalid"),
    ],
)
def test_unknown_and_wrong_configuration(folder: Path, line: str, reason: str) -> None:
    edit(folder / "gateway.toml", lambda text: f"{text}{line}\n")
    said = refuse_to_serve(folder, reason=reason)
    assert "gateway.toml" in said


@pytest.mark.fail_closed("policy or references unreadable at the start", "refuses to start")
@pytest.mark.parametrize(
    ("file", "before", "after", "reason"),
    [
        ("appraisal.toml", "lease_s", "leese_s", None),
        ("appraisal.toml", "interval_s = ", "interval_s = -", None),
        ("appraisal.toml", "pinned", "pinnned", None),
        ("dispatch.cedar", "permit", "perrmit", None),
    ],
)
def test_unusable_policies(folder: Path, file: str, before: str, after: str, reason: str | None) -> None:
    edit(folder / "policy" / file, lambda text: text.replace(before, after))
    done = run("gateway", "serve", str(folder))
    assert done.returncode in {NO, ENVIRONMENT}
    assert "Traceback" not in done.stderr
    assert file in done.stderr
    assert "What to do: " in done.stderr
    assert not processes_naming(str(folder.parent))


def test_a_port_in_use_leaves_no_trace(folder: Path) -> None:
    records = _count(folder)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refuse_to_serve(folder, "--port", port, reason="environment.address_in_use")
    assert _count(folder) == records
    refuse_to_serve(folder, "--host", "203.0.113.7", reason="environment.address_in_use")


def test_no_tpm_and_another_tpm(folder: Path, virgin: Path) -> None:
    own = f"swtpm:{folder.parent / 'tpm' / 'gateway'}"
    for address in ("device:/dev/no-such-tpm", f"socket:{folder}/nothing", f"swtpm:{virgin / 'tpm'}"):
        edit(folder / "gateway.toml", lambda text, address=address: text.replace(own, address))  # type: ignore[misc]
        refuse_to_serve(folder, reason="environment.tpm")
        edit(folder / "gateway.toml", lambda text, address=address: text.replace(address, own))  # type: ignore[misc]
    shutil.rmtree(virgin / "tpm" / "run", ignore_errors=True)


@pytest.mark.fail_closed("lineage fails its own check", "refuses to start")
def test_a_corrupt_database(folder: Path) -> None:
    database = folder / "gateway.db"
    good = database.read_bytes()
    for bad in (b"not a database" * 1000, good[: len(good) // 2], good[:8192] + os.urandom(4096) + good[12288:]):
        database.write_bytes(bad)
        refuse_to_serve(folder, reason="database.corrupt")
        assert database.read_bytes() == bad  # evidence, not to be touched


@pytest.mark.fail_closed("lineage fails its own check", "refuses to start")
def test_a_lineage_that_was_tampered_with(folder: Path) -> None:
    """A valid database whose records are not those that were sealed."""
    with closing(sqlite3.connect(folder / "gateway.db")) as connection:
        triggers = connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'").fetchall()
        for (name,) in triggers:
            connection.execute(f"DROP TRIGGER {name}")
        connection.execute(
            "UPDATE records SET bytes = CAST(replace(CAST(bytes AS TEXT), '1', '2') AS BLOB) WHERE seq = 3"
        )
        connection.commit()
    done = run("gateway", "serve", str(folder))
    assert done.returncode == ENVIRONMENT, done.stderr
    assert "Traceback" not in done.stderr
    assert "(lineage." in done.stderr


def test_what_a_gateway_leaves_when_it_stops(gates: Gates) -> None:
    """Its database is its owner's only, while it is written too; its address is gone, as nobody is there."""
    gate = gates(agent=False)
    assert (gate.gateway / "address").exists()
    for name in ("gateway.db", "gateway.db-wal", "gateway.db-shm"):
        assert (gate.gateway / name).stat().st_mode & 0o777 == 0o600, name
    gate.signal_gateway(signal.SIGTERM)
    assert not (gate.gateway / "address").exists()


def test_two_gateways_on_one_folder(gates: Gates) -> None:
    gate = gates(agent=False)
    given = run("gateway", "token", str(gate.gateway), "--role", "auditor", "--name", "x")
    assert given.returncode == 0  # by the gateway that serves
    done = run("gateway", "serve", str(gate.gateway), "--port", "0")
    assert done.returncode == ENVIRONMENT
    assert "in use" in done.stderr
    assert gate.views() is not None  # the first is unharmed


@pytest.mark.parametrize(
    ("role", "name", "code", "reason"),
    [
        ("auditor", "two words", USAGE, "id.invalid"),
        ("auditor", "", USAGE, "id.invalid"),
        ("auditor", "é", USAGE, "id.invalid"),
    ],
)
def test_wrong_tokens(folder: Path, role: str, name: str, code: int, reason: str) -> None:
    records = _count(folder)
    refuse("gateway", "token", str(folder), "--role", role, "--name", name, code=code, reason=reason)
    assert _count(folder) == records


@pytest.mark.parametrize("role", ["emperor", "executor", ""])
def test_tokens_of_roles_that_have_none(folder: Path, role: str) -> None:
    records = _count(folder)
    done = run("gateway", "token", str(folder), "--role", role, "--name", "x")
    assert done.returncode == USAGE
    assert "--role" in done.stderr
    assert _count(folder) == records


def test_a_token_in_a_file_is_for_its_owner_only(folder: Path, tmp_path: Path) -> None:
    """Clients take it as it is. A file that is there is never overwritten."""
    file, whose = tmp_path / "nightly.token", ["--role", "orchestrator", "--name", "nightly"]
    done = run("gateway", "token", str(folder), *whose, "--output", str(file))
    assert (done.returncode, done.stderr) == (0, "")
    token = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    assert token.startswith("zt-")
    assert token.strip() not in done.stdout
    connect("https://127.0.0.1:1", folder / "tls" / "ca.pem", file)
    records = _count(folder)
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    for wrong in (file, tmp_path / "link", tmp_path, tmp_path / "absent" / "file"):
        refuse("gateway", "token", str(folder), *whose, "-o", str(wrong), code=ENVIRONMENT, reason="environment.output")
    assert file.read_text() == token
    assert _count(folder) == records


def test_no_file_is_left_of_a_token_that_was_refused(folder: Path, tmp_path: Path) -> None:
    wrong = ["--role", "auditor", "--name", "two words", "--output", str(tmp_path / "token")]
    refuse("gateway", "token", str(folder), *wrong, code=USAGE, reason="id.invalid")
    assert not (tmp_path / "token").exists()


def test_anchors_of_nothing(tmp_path: Path) -> None:
    done = run("gateway", "anchors", str(tmp_path))
    assert done.returncode == ENVIRONMENT
    assert done.stdout == ""
    assert "(config.missing)" in done.stderr


def _count(folder: Path) -> int:
    with closing(sqlite3.connect(f"file:{folder / 'gateway.db'}?mode=ro", uri=True)) as connection:
        return int(connection.execute("SELECT COUNT(*) FROM records").fetchone()[0])


# --- clients -----------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def gate(shared_gates: Gates) -> Iterator[Gate]:
    """A running gateway with a trusted executor."""
    return shared_gates()


def test_an_endorsement_key_of_an_unknown_ca(gate: Gate, tmp_path: Path) -> None:
    """A TPM whose maker's root is not configured: refused for good, and nothing of it is recorded as an executor."""
    provision(tmp_path / "tpm", ca=tmp_path / "ca")
    assert ca_certificates(tmp_path / "ca") != (gate.data / "ek-roots.pem").read_bytes()
    with SoftwareTpm(tmp_path / "tpm") as tpm:
        options = [*gate.executor.options(), "--gateway", gate.url, "--ca", str(gate.ca)]
        options[options.index("--tpm") + 1] = tpm.address
        refuse("executor", "enroll", *options, code=NO, reason="ek.chain")
        done = run("executor", "run", *options, "--socket", str(tmp_path / "agent.sock"))
        assert done.returncode == NO
        assert "Traceback" not in done.stderr
        assert "(ek.chain)" in done.stderr
    assert len(gate.views()) == 1
    assert not (tmp_path / "agent.sock").exists()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"--tpm": "device:/dev/no-such-tpm"}, "environment.tpm"),
        ({"--event-log": "/no/such/log"}, "environment.tpm"),
        ({"--ima": "/no/such/list"}, "environment.tpm"),
        ({"--gateway": "https://127.0.0.1:1"}, "environment.gateway_unreachable"),
        ({"--gateway": "nonsense"}, "config.invalid"),
        ({"--gateway": "http://127.0.0.1:1"}, "config.invalid"),
        ({"--ca": "/no/such/ca.pem"}, "environment.tls"),
        ({"--ca": "/etc/passwd"}, "environment.tls"),
        ({"--ca": "{data}/ek-roots.pem"}, "environment.tls"),
    ],
    ids=str,
)
def test_an_executor_in_a_wrong_environment(gate: Gate, changes: dict[str, str], reason: str) -> None:
    options = [*gate.executor.options(), "--gateway", gate.url, "--ca", str(gate.ca)]
    for name, value in changes.items():
        options[options.index(name) + 1] = value.replace("{data}", str(gate.data))
    refuse("executor", "enroll", *options, code=ENVIRONMENT, reason=reason)


def test_an_executor_without_the_address_of_a_tpm(gate: Gate) -> None:
    where = ["--gateway", gate.url, "--ca", str(gate.ca)]
    said = refuse("executor", "enroll", *where, "--tpm", "nonsense", code=USAGE, reason="config.invalid")
    assert "device:/dev/tpmrm0" in said.remedy


def test_an_agent_never_calls_an_address_without_tls(gate: Gate, tmp_path: Path) -> None:
    options = [*gate.executor.options(), "--gateway", "http://127.0.0.1:1", "--ca", str(gate.ca)]
    done = run("executor", "run", *options, "--socket", str(tmp_path / "agent.sock"))
    assert done.returncode == ENVIRONMENT, done.stderr
    assert "(config.invalid)" in done.stderr


def test_an_agent_whose_socket_can_not_be_made(gate: Gate) -> None:
    options = [*gate.executor.options(), "--gateway", gate.url, "--ca", str(gate.ca)]
    for path in ("/no/such/folder/agent.sock", "/tmp/" + "x" * 120):
        done = run("executor", "run", *options, "--socket", path)
        assert done.returncode == ENVIRONMENT, done.stderr
        assert "Traceback" not in done.stderr
        assert "What to do: " in done.stderr


UNKNOWN = "0" * 32


@pytest.mark.parametrize(
    ("role", "arguments", "code", "reason"),
    [
        ("auditor", ["audit", "export", UNKNOWN, "-o", "{tmp}/bundle"], NO, "artifact.unknown"),
        ("operator", ["revoke", "authorization", UNKNOWN, "--reason", "x"], NO, "artifact.unknown"),
        ("operator", ["revoke", "authorization", "../../etc/passwd", "--reason", "x"], USAGE, None),
        ("operator", ["baseline", "approve", "0" * 64], NO, None),
        ("operator", ["baseline", "approve", "nonsense"], NO, None),
        ("operator", ["baseline", "capture", "ex-" + UNKNOWN], NO, "dispatch.executor_unknown"),
        ("operator", ["baseline", "capture", "nonsense"], USAGE, None),
        ("orchestrator", ["baseline", "capture", "ex-" + UNKNOWN], NO, "auth.role"),
        ("orchestrator", ["revoke", "authorization", UNKNOWN, "--reason", "x"], NO, "auth.role"),
        ("orchestrator", ["authorize", "--executor", "nonsense", "--", "/bin/true"], USAGE, None),
        (
            "orchestrator",
            ["authorize", "--executor", "{executor}", "--workflow", "a b", "--", "/bin/true"],
            USAGE,
            None,
        ),
        (
            "orchestrator",
            ["authorize", "--executor", "{executor}", "--max-runtime", "99999999", "--", "/bin/true"],
            USAGE,
            None,
        ),
        ("operator", ["label", "{executor}", "pool=two words"], USAGE, "request.malformed"),
        ("operator", ["quarantine", "orchestrator", "two words", "--reason", "x"], USAGE, "request.malformed"),
        ("operator", ["quarantine", "class", "default", "--reason", ""], USAGE, "request.malformed"),
        ("operator", ["baseline", "approve", "0" * 64, "--expires-in", "999999w"], USAGE, "request.malformed"),
        ("auditor", ["authorize", "--executor", "{executor}", "--", "/bin/true"], NO, "auth.role"),
    ],
)
def test_wrong_requests(
    gate: Gate, tmp_path: Path, role: str, arguments: list[str], code: int, reason: str | None
) -> None:
    filled = [part.replace("{executor}", gate.executor.id).replace("{tmp}", str(tmp_path)) for part in arguments]
    end = filled.index("--") if "--" in filled else len(filled)
    command = [*filled[:end], *gate.connection(role), *filled[end:]]
    if reason is not None:
        refuse(*command, code=code, reason=reason)
    else:
        done = run(*command)
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2, done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["/dev/null", "{tmp}"])
def test_a_token_file_that_is_no_file(gate: Gate, tmp_path: Path, name: str) -> None:
    """Nobody is told to change the permissions of a device."""
    options = [*gate.connection("operator")[:-1], name.replace("{tmp}", str(tmp_path))]
    said = refuse("executors", *options, code=ENVIRONMENT, reason="environment.key_file")
    assert "it is not a file" in said.detail
    assert "chmod" not in said.remedy


def test_what_to_do_about_a_log_depends_on_why(gate: Gate) -> None:
    options = [*gate.executor.options(), "--gateway", gate.url, "--ca", str(gate.ca)]
    for path, remedy in ((str(gate.executor.machine), "not the folder"), ("/no/such/log", "check the path")):
        options[options.index("--event-log") + 1] = path
        said = refuse("executor", "enroll", *options, code=ENVIRONMENT, reason="environment.tpm")
        assert remedy in said.remedy
        assert "root" not in said.remedy


def test_an_order_about_an_orchestrator_that_nobody_is(gate: Gate) -> None:
    for what in ("quarantine", "revoke"):
        arguments = [what, "orchestrator", "ghost", "--reason", "x", *gate.connection("operator")]
        refuse(*arguments, code=NO, reason="operator.subject")


@pytest.mark.parametrize("command", ["authorize", "exec"])
@pytest.mark.parametrize(
    "wrong",
    [
        ["--env", "FOO"],
        ["--env", "=x"],
        ["--env", ""],
        ["--env", "A=1", "--env", "A=2"],
        ["--file", "/bin/true"],
        ["--file", "/bin/true=abc"],
        ["--file", "x=" + "0" * 64],
        ["--file", "/x=" + "0" * 64, "--file", "/x=" + "1" * 64],
    ],
    ids=" ".join,
)
def test_what_is_said_of_a_job_is_not_guessed(gate: Gate, tmp_path: Path, command: str, wrong: list[str]) -> None:
    """A name without a value is not an empty one, and of two values none is taken: the wrong one might be the last."""
    (tmp_path / "artifact").write_text("x")
    needed = {
        "authorize": ["--executor", gate.executor.id, *gate.connection("orchestrator")],
        "exec": ["--artifact", str(tmp_path / "artifact")],
    }
    done = run(command, *needed[command], *wrong, "--", "/bin/true")
    assert done.returncode == USAGE, done.stderr
    assert wrong[0] in done.stderr


@pytest.mark.parametrize("bad", ["absent", "open", "wrong", "empty", "binary", "lines"])
def test_wrong_token_files(gate: Gate, tmp_path: Path, bad: str) -> None:
    token = tmp_path / "token"
    if bad != "absent":
        content = {"wrong": b"zt-" + b"A" * 43, "empty": b"", "binary": b"\xff\xfe\n\n\x00", "lines": b"zt-\nX: y"}
        token.write_bytes(content.get(bad, (gate.data / "operator.token").read_bytes()))
        token.chmod(0o644 if bad == "open" else 0o600)
    options = [*gate.connection("operator")[:-1], str(token)]
    if bad in {"absent", "open", "empty"}:
        said = refuse("executors", *options, code=ENVIRONMENT, reason="environment.key_file")
        assert ("it is empty" in said.detail) == (bad == "empty")
    else:
        done = run("executors", *options)
        assert done.returncode in {NO, ENVIRONMENT}, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2, done.stderr


def test_lists_show_whole_ids_and_say_when_there_is_nothing(gate: Gate) -> None:
    connection = gate.connection("operator")
    assert gate.executor.id in run("executors", *connection).stdout
    (baseline,) = json.loads(run("baseline", "list", *connection, "--json").stdout)
    assert baseline["baseline"] in run("baseline", "list", *connection).stdout
    assert run("quarantined", *connection).stdout == "Nobody is in quarantine.\n"
    assert run("webhooks", *connection).stdout == "The gateway's configuration names no webhook.\n"


def test_what_an_agent_says_of_a_job_is_text(gate: Gate, tmp_path: Path) -> None:
    """A path may look like markup."""
    (tmp_path / "artifact").write_text("x")
    strange = "/[/bold] [red]"
    done = run(
        *["exec", "--artifact", str(tmp_path / "artifact"), "--socket", str(gate.executor.socket)],
        *["--cwd", strange, "--", "/bin/true"],
    )
    assert done.returncode == 126, done.stderr
    assert done.stderr.startswith("Not started: ")


def test_a_gateway_that_is_not_there(gate: Gate) -> None:
    for url in ("https://127.0.0.1:1", "https://no-such-host.invalid:1"):
        options = gate.connection("operator")
        options[1] = url
        refuse("executors", *options, code=ENVIRONMENT, reason="environment.gateway_unreachable")
    with socket.create_server(("127.0.0.1", 0)) as deaf:
        options = gate.connection("operator")
        options[1] = f"https://127.0.0.1:{deaf.getsockname()[1]}"
        deaf.close()
        done = run("watch", *options)
        assert done.returncode == ENVIRONMENT
        assert "Traceback" not in done.stderr


NO_ADDRESSES = (
    "nonsense",
    "",
    "ws://127.0.0.1:1",
    "https://",
    "https://[",
    "https://h:x",
    "https://u:p@h:1",
    "https://h?x",
)


@pytest.mark.parametrize("url", NO_ADDRESSES)
def test_what_is_no_address_of_a_gateway(gate: Gate, url: str) -> None:
    said = refuse(
        "executors", *gate.connection("operator"), "--gateway", url, code=ENVIRONMENT, reason="config.invalid"
    )
    assert "https://host:port" in said.remedy


def test_a_token_never_travels_in_clear(gate: Gate) -> None:
    """Nobody is even called at an address without TLS."""
    with socket.create_server(("127.0.0.1", 0)) as spy:
        spy.settimeout(0.3)
        url = f"http://127.0.0.1:{spy.getsockname()[1]}"
        refuse("executors", *gate.connection("operator"), "--gateway", url, code=ENVIRONMENT, reason="config.invalid")
        with pytest.raises(TimeoutError):
            spy.accept()


class Wiki(BaseHTTPRequestHandler):
    """A page for everything that is asked for."""

    def _page(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>Welcome to our wiki!</html>")

    do_GET = do_POST = do_PUT = _page  # noqa: N815 -- the names are the library's

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 -- the name is the library's
        """Nothing."""


@pytest.fixture
def wiki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """The address of a server that is no gateway, and the CA that its caller believes."""
    now, folder, key = datetime.now(UTC), tmp_path_factory.mktemp("wiki"), ec.generate_private_key(ec.SECP256R1())
    authority = Authority.create("wiki", now)
    chain = authority.issue_server(key.public_key(), ["127.0.0.1"], now).public_bytes(serialization.Encoding.PEM)
    (folder / "ca.pem").write_bytes(authority.pem())
    (folder / "both.pem").write_bytes(chain + private_pem(key))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "both.pem")
    with ThreadingHTTPServer(("127.0.0.1", 0), Wiki) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        serving = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        serving.start()
        yield f"https://127.0.0.1:{server.server_address[1]}", folder / "ca.pem"
        server.shutdown()
        serving.join()


@pytest.mark.parametrize(
    "arguments",
    [
        ["executors"],
        ["label", "ex-" + UNKNOWN, "a=b"],
        ["revoke", "executor", "ex-" + UNKNOWN, "--reason", "x"],
        ["result", "ex-" + UNKNOWN],
        ["audit", "export", UNKNOWN, "-o", "{tmp}/bundle"],
        ["authorize", "--executor", "ex-" + UNKNOWN, "--", "/bin/true"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_what_answers_is_no_gateway(gate: Gate, wiki: tuple[str, Path], tmp_path: Path, arguments: list[str]) -> None:
    filled = [part.replace("{tmp}", str(tmp_path)) for part in arguments]
    end = filled.index("--") if "--" in filled else len(filled)
    command = [*filled[:end], *gate.connection("operator"), "--gateway", wiki[0], "--ca", str(wiki[1]), *filled[end:]]
    said = refuse(*command, code=ENVIRONMENT, reason="environment.not_a_gateway")
    assert "is not a ztrooted gateway" in said.detail
    assert list(tmp_path.iterdir()) == []


def test_exec_without_agent_or_artifact(tmp_path: Path) -> None:
    artifact = tmp_path / "artifact"
    command = ["exec", "--artifact", str(artifact), "--socket", str(tmp_path / "agent.sock"), "--", "/bin/true"]
    refuse(*command, code=ENVIRONMENT, reason="config.missing")
    artifact.write_text("x")
    refuse(*command, code=ENVIRONMENT, reason="execution.agent_lost")


def test_verify_of_wrong_files(tmp_path: Path, blueprint: Blueprint) -> None:
    bundle, anchors = tmp_path / "bundle", blueprint.folder / "anchors.toml"
    verify = ["audit", "verify", str(bundle), "--anchors"]
    refuse(*verify, str(anchors), code=ENVIRONMENT, reason="config.missing")
    for data in (b"", b"{}", b"[" * 100_000, b"\xff\xfe", b'{"format": NaN}'):
        bundle.write_bytes(data)
        done = run(*verify, str(anchors), "--json")
        assert done.returncode == NO
        report = json.loads(done.stdout)
        assert report["verified"] is False
        assert report["checks"][0]["status"] == "fail"
    refuse(*verify, str(tmp_path / "absent.toml"), code=ENVIRONMENT, reason="config.missing")
    with bundle.open("wb") as file:
        file.truncate(limits.BUNDLE + 1000)
    (failed, *_) = json.loads(run(*verify, str(anchors), "--json").stdout)["checks"]
    assert failed["detail"] == f"a bundle of over {limits.BUNDLE} bytes"  # no more than that was read
    for text in ("", "format = 1", "nonsense", anchors.read_text().replace("log_key", "log_kex")):
        (tmp_path / "anchors.toml").write_text(text)
        done = run(*verify, str(tmp_path / "anchors.toml"))
        assert done.returncode in {NO, ENVIRONMENT}, done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 2, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["audit", "redecide", "/dev/zero"],
        ["audit", "verify", "/dev/zero", "--anchors", "/dev/zero"],
        ["exec", "--artifact", "/dev/zero", "--", "true"],
        ["inspect", "eventlog", "/dev/zero"],
        ["inspect", "ear", "/dev/zero"],
    ],
)
def test_files_without_an_end(arguments: list[str]) -> None:
    """A command reads no more of a file than its kind may have."""
    done = run(*arguments)
    assert done.returncode in {NO, ENVIRONMENT}, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("output", ["/nonexistent/x", "/dev", ""])
def test_outputs_that_can_not_be_written(tmp_path: Path, output: str) -> None:
    log = tmp_path / "tree"
    log.mkdir()
    (log / "file").write_text("x")
    done = run("baseline", "compute", "--tree", str(log), "--output", output or str(tmp_path))
    assert done.returncode == ENVIRONMENT, done.stdout
    assert "(environment.output)" in done.stderr


def test_demo_in_a_folder_that_is_not_empty(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    refuse("demo", "--data", str(tmp_path), code=ENVIRONMENT, reason="environment.data_folder")
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_a_denial_names_what_was_recorded(gate: Gate) -> None:
    unknown = ["authorize", "--executor", gate.executor.id, *gate.connection("orchestrator"), "--parent", UNKNOWN]
    for_people = run(*unknown, "--", "/bin/true")
    assert for_people.returncode == NO
    (recorded,) = re.findall("^Recorded as: ([0-9a-f]{32});", for_people.stderr, re.MULTILINE)
    told = run("explain", recorded, *gate.connection("operator"))
    assert told.returncode == NO
    assert "parent.unknown" in told.stdout


@pytest.mark.parametrize("arguments", [["--version"], ["gateway", "--version"]], ids=" ".join)
def test_the_version(arguments: list[str]) -> None:
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (0, f"ztrooted {version('ztrooted')}\n")


def test_help_names_the_table_of_webhooks() -> None:
    assert "[[webhooks]]" in run("gateway", "webhook", "--help").stdout


@pytest.mark.parametrize(
    "arguments",
    [[], ["no-such-command"], ["gateway"], ["authorize"], ["executors", "--no-such-option"], ["gateway", "serve"]],
    ids=str,
)
def test_wrong_usage(arguments: list[str]) -> None:
    done = run(*arguments)
    assert done.returncode == USAGE
    assert "Usage" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr
