"""What the documentation has people type is typed: every block for a shell, against a real gateway and a real executor.

A page is one shell, in a folder of its own. The names that pages use stand for something here (``words``), each command
has the token of whoever gives it, and what runs for ever is ended once it has said something.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

from tests.support.gate import SLOW, Gate, Gates
from tests.support.quick_command import commands
from tests.support.snippets import LAB, OPERATIONS, runnable
from tests.support.tpm import missing

# What a shell of these pages has around it.
SHELL = """
set -euo pipefail
ztrooted() {
  case "$1" in
    authorize | exec | watch) role=orchestrator ;;
    audit) role=auditor ;;
    *) role=operator ;;
  esac
  export ZTROOTED_TOKEN_FILE="$LAB/$role.token"
  case "$*" in
    watch* | *" serve "* | "audit mirror "* | "audit monitor "*) # they run for ever
      command ztrooted "$@" >said 2>&1 & local started=$! ended=0
      until [ -s said ]; do kill -0 $started; sleep 0.05; done
      kill -TERM $started; wait $started || ended=$?
      cat said; [ $ended = 0 ] || [ $ended = 143 ] ;;
    doctor* | "baseline diff "*) command ztrooted "$@" || [ $? = 1 ] ;; # what a page can't know
    *) command ztrooted "$@" ;;
  esac
}
set -x
"""
pytestmark = [
    pytest.mark.timeout(240),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]


class Lab:
    """A gateway with an executor, and what the words of pages stand for there."""

    def __init__(self, gate: Gate, programs: Path) -> None:
        self.gate = gate
        self.programs = programs
        self.words: dict[str, Callable[[Path], str]] = {
            "/var/lib/ztrooted/gateway": lambda _: str(gate.gateway),
            "/var/lib/witness": lambda folder: str(folder / "witness"),
            "/media/safe": str,
            "/srv/image": lambda folder: str(folder / "image"),
            "https://gate.example:8443": lambda _: gate.url,
            "127.0.0.1:8444": lambda _: f"127.0.0.1:{free_port()}",
            "ex-0123456789abcdef0123456789abcdef": lambda _: gate.executor.id,
            "5f0c3f2b9a1d4e6f8a7b6c5d4e3f2a1b": lambda _: gate.authorize(gate.job("live")).authorization,
            "AUTHORIZATION": lambda _: self.done,
            "orchestrator nightly": lambda _: f"orchestrator {self.orchestrator}",
            "1f4a90c2b7d3e856": self.leaver,
            "proof 12 ": self.recorded,
        }

    @cached_property
    def done(self) -> str:
        """An authorization that ran to its end."""
        grant = self.gate.authorize(job := self.gate.job("done", "/bin/echo", "built"))
        assert self.gate.execute(job, grant.artifact).returncode == 0
        return grant.authorization

    @property
    def orchestrator(self) -> str:
        """What the lab's orchestrator is called."""
        return str(next(one["name"] for one in self.tokens() if one["role"] == "orchestrator"))

    def tokens(self) -> list[dict[str, Any]]:
        """The gateway's tokens."""
        listed: list[dict[str, Any]] = json.loads(self.told("gateway", "tokens", str(self.gate.gateway), "--json"))[
            "tokens"
        ]
        return listed

    def told(self, *arguments: str) -> str:
        """What a command of ours says."""
        program = [self.programs / "ztrooted", *arguments]
        return subprocess.run(program, check=True, capture_output=True, text=True, timeout=60).stdout

    def leaver(self, folder: Path) -> str:
        """The id of a token that may be revoked."""
        whose = ["--role", "auditor", "--name", "leaver", "--output", str(folder / "leaver.token")]
        self.told("gateway", "token", str(self.gate.gateway), *whose)
        return str(next(one["id"] for one in self.tokens() if one["name"] == "leaver"))

    def recorded(self, folder: Path) -> str:
        """A record of the bundle that the folder has from here on."""
        bundle = self.gate.ask("auditor", lambda client: client.bundle(self.done))
        (folder / "bundle.json").write_bytes(bundle)
        return f"proof {json.loads(bundle)['records'][-1]['index']} "

    def run(self, script: str, folder: Path, **others: str) -> str:
        """Type it in a folder, with ``others`` for words; what was said. Fails where any command does."""
        for word, meant in others.items():
            script = script.replace(word, meant)
        for word, made in self.words.items():
            if word in script:
                script = script.replace(word, made(folder))
        own = {name: value for name, value in os.environ.items() if not name.startswith("ZTROOTED_")}
        environment = own | {
            "PATH": f"{self.programs}:{Path(sys.executable).parent}:{os.environ['PATH']}",
            "LAB": str(self.gate.data),
            "ZTROOTED_GATEWAY": self.gate.url,
            "ZTROOTED_CA": str(self.gate.ca),
            "ZTROOTED_SOCKET": str(self.gate.data / "executor" / "agent.sock"),
            "ZTROOTED_STATE": str(folder / "state"),
            "ZTROOTED_LISTEN_PORT": "0",
        }
        done = subprocess.run(
            ["bash", "-c", SHELL + script],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr


def free_port() -> int:
    """One that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])


@pytest.fixture(scope="module")
def programs() -> Iterator[Path]:
    """A folder with ``ztrooted``."""
    with tempfile.TemporaryDirectory(prefix="ztg-") as folder, commands(Path(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def lab(shared_gates: Gates, programs: Path) -> Lab:
    """Every page leaves it as it was, or as good."""
    made = Lab(shared_gates(pace=SLOW), programs)
    assert made.done  # so that there is something to be seen
    return made


def furnish(page: str, lab: Lab, folder: Path) -> dict[str, str]:
    """What a page takes for granted, and what its words stand for besides."""
    gate = lab.gate
    (folder / "anchors.toml").write_text(lab.told("gateway", "anchors", str(gate.gateway)))
    shutil.copy(gate.ca, folder / "ca.pem")
    if page == "README.md":
        return {
            "/var/lib/ztrooted/gateway": str(folder / "new"),
            "device:/dev/tpmrm0": f"swtpm:{folder / 'chip'}",
            "--ek-roots roots/": f"--ek-roots {gate.gateway / 'ek-roots'} --ek-vendor id:00001014",
        }
    if page == "docs/policies.md":
        shutil.copy(gate.executor.machine / "binary_bios_measurements", folder / "boot.log")
        (folder / "image" / "DEBIAN").mkdir(parents=True)
        shutil.copy("/bin/true", folder / "image" / "true")
        for name in ("a", "b"):
            (folder / "image" / "DEBIAN" / "control").write_text(
                f"Package: {name}\nVersion: 1\nArchitecture: all\nMaintainer: a@example.org\nDescription: {name}\n"
            )
            build = ["dpkg-deb", "--build", folder / "image", folder / f"{name}.deb"]
            subprocess.run(build, check=True, capture_output=True)
    return {}


@pytest.mark.parametrize("page", LAB)
def test_a_page_is_what_happens(page: str, lab: Lab, tmp_path: Path) -> None:
    words = furnish(page, lab, tmp_path)
    lab.run("".join(one.text for one in runnable(page)), tmp_path, **words)


def test_the_program_of_the_API_page_asks(lab: Lab, tmp_path: Path) -> None:
    (block,) = runnable("docs/api.md", "python")
    (tmp_path / "ask.py").write_text(block.text)
    said = lab.run('export ZTROOTED_TOKEN_FILE="$LAB/orchestrator.token"; python ask.py', tmp_path)
    assert f"{lab.gate.executor.id} may run it as" in said


def test_the_page_about_operation_is_what_happens(gates: Gates, programs: Path, tmp_path: Path) -> None:
    """Between the backup and the rest of the page, the gateway and its data folder are lost."""
    lab = Lab(gates(pace=SLOW, agent=False), programs)
    listed = [one.text for one in runnable(OPERATIONS)]
    lost = next(at for at, text in enumerate(listed) if "gateway restore" in text)
    lab.run("".join(listed[:lost]), tmp_path)
    lab.gate.signal_gateway(signal.SIGTERM)
    shutil.rmtree(lab.gate.gateway)
    lab.run("".join(listed[lost:]), tmp_path)
    lab.gate.start_gateway()
