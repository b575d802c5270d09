"""Ten thousand executors, each challenged every ten seconds, a hundred with live jobs; then all of them at once.

``ZTROOTED_FLEET`` (executors) and ``ZTROOTED_FLEET_S`` (seconds) make it smaller; the targets are for the full size. The
gateway has one core, the load generator the other one, of which it says how much it used.
"""

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.bench.channel import PROGRAMS
from tests.bench.measure import Row
from tests.support.executor import job
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess, allow_files, leave_core
from ztrooted.models import DispatchRequest

EXECUTORS = int(os.environ.get("ZTROOTED_FLEET", "10000"))
SECONDS = float(os.environ.get("ZTROOTED_FLEET_S", "600"))
INTERVAL_S = 10.0
LIVE_SHARE = 0.01


def rows(*, executors: int = EXECUTORS, seconds: float = SECONDS) -> Iterator[Row]:
    """Each row's reference is its limit."""
    allow_files()
    leave_core()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_Fleet(Path(folder), executors).measure(seconds))
    limits = {
        "fleet_false_revocations": ("", 0.0),
        "fleet_p99_ms": ("ms", 100.0),
        "fleet_cpu": ("of a core", 0.6),
        "fleet_memory_kb": ("KB", 100.0),
        "herd_s": ("s", 30.0),
        "herd_false_revocations": ("", 0.0),
    }
    for name, (unit, limit) in limits.items():
        value = found[name]
        ratio = (limit + 1e-9) / (value + 1e-9)
        yield Row(name, value, unit, "its limit", limit, ratio, f"<= {limit:g}", value <= limit, value)


def say(text: str) -> None:
    print(f"fleet: {text}", file=sys.stderr, flush=True)


class _Fleet:
    def __init__(self, folder: Path, count: int) -> None:
        # All of them come from one address, as from behind one NAT.
        settings = f"connections_per_address = {2 * max(count, 1000)}\n"
        self.gateway = GatewayProcess(
            folder,
            settings=settings,
            interval_s=INTERVAL_S,
            idle_interval_s=INTERVAL_S,
            response_deadline_s=5,
            lease_s=60,
        )
        self.folder, self.count = folder, count
        self.executors: list[SimulatedExecutor] = []

    async def measure(self, seconds: float) -> dict[str, float]:
        self.gateway.start()
        try:
            machine = SimulatedMachine(self.folder / "machine", PROGRAMS)
            self.executors = [SimulatedExecutor(self.gateway.url, self.gateway.ca, machine) for _ in range(self.count)]
            began = time.monotonic()
            await enroll_all(self.executors)
            say(f"{self.count} executors enrolled in {time.monotonic() - began:.0f} s")
            empty = self.gateway.memory()
            async with connect_all(self.executors):
                memory = (self.gateway.memory() - empty) / self.count / 1024
                await self._approve()
                live = max(1, round(self.count * LIVE_SHARE))
                await self._start_jobs(live)
                say(f"{live} jobs live; steady state for {seconds:g} s")
                found = await self._steady(seconds)
                found["fleet_memory_kb"] = memory
                return found | await self._herd()
        finally:
            self.gateway.stop()

    async def _approve(self) -> None:
        async with self.gateway.client("operator") as operator:
            captured = await operator.capture_baseline(self.executors[0].id)
            await operator.approve_baseline(captured.baseline)
        await asyncio.sleep(INTERVAL_S)

    async def _start_jobs(self, live: int) -> None:
        async with self.gateway.client("orchestrator") as orchestrator:
            for executor in self.executors[:live]:
                asked = DispatchRequest(executor=executor.id, job=job(), max_runtime_s=86400)
                grant = await orchestrator.authorize(asked)
                await executor.run_job(grant.authorization, grant.artifact)

    def refusals(self) -> int:
        return sum(len(executor.told.refused) for executor in self.executors)

    async def _steady(self, seconds: float) -> dict[str, float]:
        before, cpu, own, refused = (
            await self.gateway.metrics(),
            self.gateway.cpu_s(),
            time.process_time(),
            self.refusals(),
        )
        began = time.monotonic()
        await asyncio.sleep(seconds)
        after, took = await self.gateway.metrics(), time.monotonic() - began
        delta = {name: after[name] - before.get(name, 0.0) for name in after}
        rounds = sum(delta[f'ztrooted_rounds_total{{verdict="{one}"}}'] for one in ("trusted", "untrusted"))
        late = {kind: 1000 * p99(delta, "ztrooted_challenge_lateness_seconds", kind) for kind in ("idle", "live")}
        own = (time.process_time() - own) / took
        say(f"{rounds / took:.0f} rounds/s, lateness p99 {late['idle']:.0f} ms idle, {late['live']:.0f} ms live")
        say(f"the load generator used {own:.0%} of its core")
        untrusted = delta['ztrooted_rounds_total{verdict="untrusted"}']
        return {
            "fleet_false_revocations": self.refusals() - refused + untrusted,
            "fleet_p99_ms": 1000 * max(p99(delta, "ztrooted_round_seconds", kind) for kind in ("idle", "live")),
            "fleet_cpu": (self.gateway.cpu_s() - cpu) / took,
        }

    async def _herd(self) -> dict[str, float]:
        refused = self.refusals()
        self.gateway.kill()
        answered = [executor.told.answered for executor in self.executors]
        self.gateway.start()
        began, own = time.monotonic(), time.process_time()
        while True:
            left = sum(one.told.answered == before for one, before in zip(self.executors, answered, strict=True))
            found = await self.gateway.metrics()
            verified = found.get('ztrooted_rounds_total{verdict="trusted"}', 0.0)
            if (not left and verified >= self.count) or time.monotonic() - began > 120:
                break
            await asyncio.sleep(0.2)
        took = time.monotonic() - began
        say(f"herd: everybody verified again after {took:.1f} s; {left} not")
        shares = self.gateway.cpu_s() / took, (time.process_time() - own) / took
        say(f"herd: the gateway used {shares[0]:.0%} of its core, the load generator {shares[1]:.0%} of the other one")
        return {"herd_s": took, "herd_false_revocations": float(self.refusals() - refused)}


def p99(delta: Mapping[str, float], name: str, kind: str, *, share: float = 0.99) -> float:
    """Seconds that ``share`` stays below, interpolated within a bucket of a histogram; the last bound for what is more."""
    prefix = f'{name}_bucket{{kind="{kind}",le="'
    buckets = [(float(key.removeprefix(prefix).rstrip('"}')), n) for key, n in delta.items() if key.startswith(prefix)]
    buckets.sort()
    if not buckets or not buckets[-1][1]:
        return 0.0
    wanted, lower, below = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted:
            return (
                lower if bound == float("inf") else lower + (bound - lower) * (wanted - below) / max(count - below, 1)
            )
        lower, below = bound, count
    return lower
