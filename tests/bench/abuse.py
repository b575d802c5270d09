"""Honest executors' rounds while somebody abuses the gateway, beside the same rounds without, in turns.

A round is what the gateway itself measures, from a challenge to its recorded verdict. The gateway has one core. Executors
and abusers share the others and sit at different addresses. Gateway and executors go before abusers (nice -10 and -5,
where that is allowed), so that what is measured is what an abuser does to the gateway, and not to a processor. What it did
is said on standard error. ``ZTROOTED_ABUSE_S`` is how long a window lasts, ``ZTROOTED_ABUSE_TURNS`` how many there are of
each, ``ZTROOTED_ABUSE_IDLE`` how many connections do nothing, ``ZTROOTED_ABUSE`` names the kinds to try.
"""

import asyncio
import base64
import json
import os
import resource
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from tests.bench.channel import PROGRAMS
from tests.bench.fleet import p99
from tests.bench.measure import Row
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess, allow_files, leave_core
from ztrooted.keys import spki

KINDS = ("slowloris", "idle", "json_bombs", "rsa_16k", "huge_lists", "named")
EXECUTORS = 40
INTERVAL_S = 0.5
WINDOW_S = float(os.environ.get("ZTROOTED_ABUSE_S", "5"))
IDLE = int(os.environ.get("ZTROOTED_ABUSE_IDLE", "10000"))
SPARE_FILES = 1000  # for everything else that the gateway and the abuser have open
TURNS = int(os.environ.get("ZTROOTED_ABUSE_TURNS", "3"))
TIMES = 2.0
WAIT_S = 180.0

Times = list[tuple[float, float]]


def rows(*, executors: int = EXECUTORS, window_s: float = WINDOW_S, turns: int = TURNS) -> Iterator[Row]:
    """Two rows for each kind of abuse: the middle of the rounds, and the slowest in a hundred."""
    kinds = os.environ.get("ZTROOTED_ABUSE", " ".join(KINDS)).split()
    allow_files()
    leave_core()
    with suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, 0, -10)
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_Abused(Path(folder), executors, window_s).measure(kinds, turns))
    for kind, (quiet, abused) in found.items():
        yield from compared(kind, quiet, abused)


def compared(kind: str, quiet: Times, abused: Times) -> Iterator[Row]:
    """The rows of one kind: each window with the quiet one before it, of which the machine was more or less the same."""
    for name, of in (("p50", 0), ("p99", 1)):
        pairs = [(before[of], after[of]) for before, after in zip(quiet, abused, strict=True)]
        ratio = statistics.median(before / after for before, after in pairs)
        value, reference = (statistics.median(one) for one in ([b for _, b in pairs], [a for a, _ in pairs]))
        best, target = min(after for _, after in pairs), f"ratio >= {1 / TIMES:g}"
        yield Row(f"{kind}_{name}", value, "ms", "quiet", reference, ratio, target, ratio >= 1 / TIMES, best)


def say(text: str) -> None:
    print(f"abuse: {text}", file=sys.stderr, flush=True)


class _Abused:
    def __init__(self, folder: Path, count: int, window_s: float) -> None:
        self.folder, self.count, self.window_s = folder, count, window_s
        self.gateway = GatewayProcess(
            folder, interval_s=INTERVAL_S, idle_interval_s=INTERVAL_S, response_deadline_s=5, lease_s=60
        )
        self.executors: list[SimulatedExecutor] = []

    async def measure(self, kinds: list[str], turns: int) -> dict[str, tuple[Times, Times]]:
        """By kind: (p50, p99) in milliseconds of each quiet window, and of each that followed it."""
        self.gateway.start()
        found: dict[str, tuple[Times, Times]] = {}
        try:
            machine = SimulatedMachine(self.folder / "machine", PROGRAMS)
            self.executors = [SimulatedExecutor(self.gateway.url, self.gateway.ca, machine) for _ in range(self.count)]
            await enroll_all(self.executors)
            async with connect_all(self.executors):
                async with self.gateway.client("operator") as operator:
                    captured = await operator.capture_baseline(self.executors[0].id)
                    await operator.approve_baseline(captured.baseline)
                await asyncio.sleep(2 * INTERVAL_S)
                for kind in kinds:
                    quiet: Times = []
                    abused: Times = []
                    for turn in range(turns):
                        quiet.append(await self._window())
                        async with self._abuser(kind, turn):
                            abused.append(await self._window())
                        await asyncio.sleep(1)
                    say(f"{kind}: quiet {quiet}, abused {abused}")
                    found[kind] = quiet, abused
                lost = sum(one.told.connections - 1 for one in self.executors)
                say(f"honest executors connected anew {lost} times")
        finally:
            if not self.gateway.alive:
                say(f"the gateway has ended: {self.gateway.log.read_text()[-4000:]}")
            self.gateway.stop()
        return found

    async def _window(self) -> tuple[float, float]:
        before = await self.gateway.metrics()
        cpu = self.gateway.cpu_s()
        await asyncio.sleep(self.window_s)
        used = self.gateway.cpu_s() - cpu
        after = await self.gateway.metrics()
        delta = {name: after[name] - before.get(name, 0.0) for name in after}
        untrusted = delta.get('ztrooted_rounds_total{verdict="untrusted"}', 0.0)
        say(f"the gateway used {used / self.window_s:.0%} of its core; {untrusted:g} rounds untrusted")
        name = "ztrooted_round_seconds"
        return 1000 * p99(delta, name, "idle", share=0.5), 1000 * p99(delta, name, "idle")

    def _task(self, kind: str, turn: int) -> dict[str, Any]:
        victim = self.executors[0]
        endorsement, session = victim.tpm.endorsement_key(), victim.session
        assert session is not None
        texts = {
            "ek_public": endorsement.public,
            "ek_certificate": endorsement.certificate,
            "ak_public": victim.tpm.attestation_key(),
            "session_key": spki(session.key.public_key()),
        }
        named: dict[str, Any] = {name: base64.b64encode(value).decode() for name, value in texts.items()}
        named["ek_chain"] = [base64.b64encode(one).decode() for one in endorsement.chain]
        files = resource.getrlimit(resource.RLIMIT_NOFILE)[1] - SPARE_FILES
        return {
            "url": self.gateway.url,
            "ca": str(self.gateway.ca),
            "victim": {**named, "executor": victim.id},
            "idle": min(IDLE, files),
            "folder": str(self.folder / f"{kind}-{turn}"),
        }

    @asynccontextmanager
    async def _abuser(self, kind: str, turn: int) -> AsyncIterator[None]:
        pipe = asyncio.subprocess.PIPE
        process = await asyncio.create_subprocess_exec(
            *("nice", "-n", "5", sys.executable, "-m", "tests.support.abusers", kind), stdin=pipe, stdout=pipe
        )
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(self._task(kind, turn)).encode() + b"\n")
        async with asyncio.timeout(WAIT_S):
            assert await process.stdout.readline() == b"ready\n"
        try:
            yield
        finally:
            process.stdin.close()
            said = await process.stdout.read()
            await process.wait()
            say(f"{kind}: {said.decode().strip()}")
