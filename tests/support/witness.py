"""A real witness in a process of its own, and a small log of any key type that asks it."""

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import aiohttp

from tests.support.commands import run
from tests.support.notes import NoteSigner
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint
from ztrooted.note import format_note
from ztrooted.note_keys import SignatureType
from ztrooted.witness import format_request

START_S = 20


class WitnessProcess:
    """``ztrooted witness serve`` on ``folder``, which is made with the first start."""

    def __init__(
        self, folder: Path, name: str, *logs: str, options: tuple[str, ...] = (), serving: tuple[str, ...] = ()
    ) -> None:
        self.folder = folder
        self._serving = serving
        self.log = folder.with_suffix(".log")
        listed = [part for log in logs for part in ("--log", log)]
        made = run("witness", "init", str(folder), "--name", name, "--json", *listed, *options)
        assert made.returncode == 0, made.stderr
        self.vkeys: list[str] = json.loads(made.stdout)["vkeys"]
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def toml(self) -> str:
        """The table that a gateway's configuration names it with."""
        return f'[[witnesses]]\nurl = "{self.url}"\nvkey = "{self.vkeys[0]}"\n'

    def start(self) -> None:
        """Start it, the second time on the port of the first."""
        self.spawn()
        self.wait()

    def spawn(self) -> None:
        """Begin to start it."""
        (self.folder / "address").unlink(missing_ok=True)
        command = [sys.executable, "-m", "ztrooted", "witness", "serve", str(self.folder)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, "--listen", f"127.0.0.1:{self.port}", *self._serving], stdout=log, stderr=log
            )

    def wait(self) -> None:
        """Until it listens."""
        assert self._process is not None
        address = self.folder / "address"
        until = time.monotonic() + START_S
        while not address.exists():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            assert time.monotonic() < until
            time.sleep(0.02)
        self.port = int(address.read_text().strip().rpartition(":")[2])

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def ask(self, body: bytes) -> tuple[int, str, bytes]:
        """(status, content type, body) of the answer to ``POST /add-checkpoint``."""
        async with (
            aiohttp.ClientSession() as http,
            http.post(f"{self.url}/add-checkpoint", data=body) as answer,
        ):
            return answer.status, answer.content_type, await answer.read()


@dataclass(frozen=True)
class SmallLog:
    """A log of leaves that are numbers, signed by a key of any type. Two with another ``leaf`` are two histories."""

    origin: str
    kind: SignatureType = SignatureType.ED25519
    leaf: str = "leaf"

    @cached_property
    def signer(self) -> NoteSigner:
        return NoteSigner.of(self.origin, self.kind)

    @property
    def option(self) -> str:
        """For ``witness init --log``."""
        return f"{self.origin}={self.signer.key.vkey}"

    def _leaves(self, size: int) -> list[bytes]:
        return [merkle.leaf_hash(f"{self.leaf} {number}".encode()) for number in range(size)]

    def checkpoint(self, size: int) -> Checkpoint:
        return Checkpoint(self.origin, size, merkle.root(self._leaves(size)))

    def note(self, size: int, signer: NoteSigner | None = None, extension: str = "") -> bytes:
        text = self.checkpoint(size).text + extension.encode()
        return format_note(text, [(signer or self.signer).sign(text)])

    def proof(self, old: int, new: int) -> list[bytes]:
        leaves = self._leaves(new)
        if old in {0, new}:
            return []
        return merkle.consistency_proof(
            old, new, lambda level, at: merkle.root(leaves[at << level : (at + 1) << level])
        )

    def request(self, old: int, new: int) -> bytes:
        """A body that is as it should be."""
        return format_request(old, self.proof(old, new), self.note(new))
