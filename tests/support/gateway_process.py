"""A gateway in a process of its own, for those who load it: pinned to one core, and watched from outside."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.setup import create_data_folder
from tests.support.endorsement import INTEL, vendor
from tests.support.tpm import missing
from ztrooted.client import GatewayClient

HOST = "127.0.0.1"
TICKS = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")


def allow_files() -> int:
    """Let this process open as many files as it may; how many."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


def leave_core(core: int = 0) -> None:
    """Have this process, the load generator, use the other cores, where there are any."""
    others = os.sched_getaffinity(0) - {core}
    if others:
        os.sched_setaffinity(0, others)


class GatewayProcess:
    """``python -m gateway`` on ``folder``; its software TPM is its own child, its executors' maker is a simulated one."""

    def __init__(self, folder: Path, *, settings: str = "", **pace: float) -> None:
        self.data = folder / "gateway"
        self.ca = self.data / "tls" / "ca.pem"
        self.log = folder / "gateway.log"
        roots = folder / "roots.pem"
        roots.write_bytes(vendor().root.pem)
        create_data_folder(
            self.data,
            tpm=f"swtpm:{folder / 'tpm'}",
            trust_domain="fleet.example",
            ek_roots=[roots],
            ek_vendors=[INTEL],
            host=HOST,
            port=0,
            names=[HOST],
        )
        file = self.data / "gateway.toml"
        file.write_text(settings + file.read_text())
        self.set_pace(**pace)
        self.tokens = {role: self._token(role) for role in ("operator", "orchestrator")}
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""
        self._port = 0

    def set_pace(self, **seconds: float) -> None:
        """Change times in the appraisal policy before the start."""
        policy = self.data / "policy" / "appraisal.toml"
        text = policy.read_text()
        for name, value in seconds.items():
            text, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {float(value)}", text)
            assert replaced == 1, name
        policy.write_text(text)

    def _token(self, role: str) -> str:
        command = [sys.executable, "-m", "ztrooted", "gateway", "token", str(self.data)]
        command += ["--role", role, "--name", f"load-{role}", "--json"]
        answer: dict[str, Any] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
        return str(answer["token"])

    def start(self, core: int | None = 0) -> float:
        """Start it, on one core only; seconds until it serves."""

        def prepare() -> None:
            if core is not None and (os.cpu_count() or 1) > 1:
                os.sched_setaffinity(0, {core})
            allow_files()

        address = self.data / "address"
        address.unlink(missing_ok=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "gateway", str(self.data)]
        if self._port:
            command += ["--port", str(self._port)]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, preexec_fn=prepare)  # noqa: PLW1509
        while not address.exists():
            assert self._process.poll() is None, self.log.read_text()[-2000:]
            time.sleep(0.01)
        self.url = address.read_text().strip()
        self._port = int(self.url.rpartition(":")[2])
        return time.monotonic() - began

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._process is not None and self._process.poll() is None

    def cpu_s(self) -> float:
        """Seconds of processor time it has used."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def memory(self) -> int:
        """Bytes of memory it holds."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * PAGE

    def kill(self) -> None:
        """SIGKILL, as a crash does."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()

    def client(self, role: str) -> GatewayClient:
        return GatewayClient(self.url, ca=self.ca, token=self.tokens[role])

    async def metrics(self) -> dict[str, float]:
        """``/metrics``, each sample by its name with labels."""
        async with self.client("operator") as client, client.http.get(client.url + "/metrics") as answer:
            text = await answer.text()
        samples = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}


@pytest.fixture
def running(tmp_path: Path) -> Iterator[GatewayProcess]:
    """One that serves."""
    if reason := missing():
        pytest.skip(reason)
    made = GatewayProcess(tmp_path)
    try:
        made.start(None)
        yield made
    finally:
        made.stop()
