"""Appraisals through the channel: TLS, WebSocket, full verification, verdict stored; the gateway has one core."""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from tests.bench.measure import Row
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess

PROGRAMS = {"/usr/bin/dash": b"a shell", "/usr/bin/date": b"a clock", "/usr/bin/sleep": b"a pause"}
EXECUTORS = 100
WINDOW_S = 5.0
TARGET = 0.25


def rows(*, executors: int = EXECUTORS, window_s: float = WINDOW_S, windows: int = 5) -> Iterator[Row]:
    """``appraisals``: by second of the gateway's processor time, beside the bare signature check of the same run."""
    with tempfile.TemporaryDirectory() as folder:
        measured = asyncio.run(_appraisals(Path(folder), executors, window_s, windows))
    rates = sorted(rate for rate, _ in measured)
    bare = sorted(reference for _, reference in measured)
    ratio = sorted(rate / reference for rate, reference in measured)[len(measured) // 2]
    yield Row(
        "appraisals",
        rates[len(rates) // 2],
        "1/s",
        "bare P-256 checks",
        bare[len(bare) // 2],
        ratio,
        f"ratio >= {TARGET}",
        ratio >= TARGET,
        rates[-1],
    )


async def _appraisals(folder: Path, count: int, window_s: float, windows: int) -> list[tuple[float, float]]:
    gateway = GatewayProcess(folder, idle_interval_s=0.01, response_deadline_s=10, lease_s=60)
    gateway.start()
    try:
        machine = SimulatedMachine(folder / "machine", PROGRAMS)
        executors = [SimulatedExecutor(gateway.url, gateway.ca, machine) for _ in range(count)]
        await enroll_all(executors)
        async with connect_all(executors):
            async with gateway.client("operator") as operator:
                captured = await operator.capture_baseline(executors[0].id)
                await operator.approve_baseline(captured.baseline)
            await asyncio.sleep(1)
            measured = []
            for _ in range(windows):
                before, cpu = await gateway.metrics(), gateway.cpu_s()
                await asyncio.sleep(window_s)
                after, spent = await gateway.metrics(), gateway.cpu_s() - cpu
                trusted = 'ztrooted_rounds_total{verdict="trusted"}'
                measured.append(((after[trusted] - before[trusted]) / spent, bare_rate()))
            return measured
    finally:
        gateway.stop()


def bare_rate(seconds: float = 0.3) -> float:
    """P-256 signature checks by second of processor time."""
    key, message, algorithm = ec.generate_private_key(ec.SECP256R1()), bytes(150), ec.ECDSA(hashes.SHA256())
    signature, public = key.sign(message, algorithm), key.public_key()
    done, began = 0, time.process_time()
    while time.process_time() - began < seconds:
        public.verify(signature, message, algorithm)
        done += 1
    return done / (time.process_time() - began)
