"""The rows of ``scripts/bench authorize``: processor time of a gateway for one authorization, and for one under a key.

The gateway is a process of its own on one core; the executor is simulated and answers each challenge at once. Waiting for
the disk is not in it.
"""

import asyncio
import secrets
import statistics
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tests.bench.channel import PROGRAMS
from tests.bench.measure import Row
from tests.support.executor import job
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess, leave_core
from ztrooted.models import DispatchRequest

AUTHORIZATIONS, ROUNDS = 100, 9
LIMIT_MS, KEYED = 10.0, 0.8  # what an orchestrator may wait for us; least ratio to the same without a key
QUIET = {"interval_s": 500, "idle_interval_s": 3600, "response_deadline_s": 5, "lease_s": 600}


def rows(*, count: int = AUTHORIZATIONS, rounds: int = ROUNDS) -> Iterator[Row]:
    """Two kinds of requests in turns, by blocks of ``count``."""
    leave_core()
    with tempfile.TemporaryDirectory() as folder:
        found = asyncio.run(_measure(Path(folder), count, rounds))
    value = statistics.median(found["plain"])
    met, limit = value <= LIMIT_MS, f"<= {LIMIT_MS:g}"
    yield Row("authorize", value, "ms", "its limit", LIMIT_MS, LIMIT_MS / value, limit, met, min(found["plain"]))
    yield _row("authorize_keyed", found["keyed"], "the same without a key", found["plain"], KEYED)


def _row(name: str, values: list[float], reference: str, references: list[float], wanted: float) -> Row:
    ratio = statistics.median(one / other for one, other in zip(references, values, strict=True))
    value, known = statistics.median(values), statistics.median(references)
    return Row(name, value, "ms", reference, known, ratio, f"ratio >= {wanted:g}", ratio >= wanted, min(values))


async def _measure(folder: Path, count: int, rounds: int) -> dict[str, list[float]]:
    """Milliseconds of the gateway's own time for one request, by kind and round."""
    gateway = GatewayProcess(folder, **QUIET)
    gateway.start()
    found: dict[str, list[float]] = {"plain": [], "keyed": []}
    try:
        executor = SimulatedExecutor(gateway.url, gateway.ca, SimulatedMachine(folder / "machine", PROGRAMS))
        await enroll_all([executor])
        async with connect_all([executor]), gateway.client("orchestrator") as orchestrator:
            async with gateway.client("operator") as operator:
                captured = await operator.capture_baseline(executor.id)
                await operator.approve_baseline(captured.baseline)
            asked = DispatchRequest(executor=executor.id, job=job(), max_runtime_s=86400)
            await orchestrator.authorize(asked)
            for _ in range(rounds):
                for kind, taken in found.items():
                    before = gateway.cpu_s()
                    for _ in range(count):
                        await orchestrator.authorize(asked, key=secrets.token_urlsafe(24) if kind == "keyed" else None)
                    taken.append(1000 * (gateway.cpu_s() - before) / count)
    finally:
        gateway.stop()
    return found
