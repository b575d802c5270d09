"""From a verdict to dead jobs, with real ones under the real agent; from a commit to a thousand subscribers of the feed."""

import asyncio
import json
import os
import select
import ssl
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

from tests.bench.measure import Row
from tests.support import gate as gates
from tests.support.executor import job
from tests.support.gate import Blueprint, Gate
from tests.support.gateway_process import GatewayProcess, allow_files, leave_core
from ztrooted.client import Refused
from ztrooted.demo.stage import wait_until
from ztrooted.models import DispatchRequest

JOBS = 50
SUBSCRIBERS = 1000
ROUNDS = 5
EVENTS = 20
PACE = {"interval_s": 2.0, "idle_interval_s": 5.0, "response_deadline_s": 1.0, "lease_s": 30.0}


def rows(*, jobs: int = JOBS, subscribers: int = SUBSCRIBERS, rounds: int = ROUNDS) -> Iterator[Row]:
    """Each row's reference is its limit."""
    allow_files()
    dead, exposures = _interruptions(jobs, rounds)
    limit = 1000 * (PACE["interval_s"] + PACE["response_deadline_s"]) + 50
    yield _row("verdict_to_dead_p99_ms", _p99(dead), 20.0, min(dead))
    yield _row("exposure_ms", max(exposures), limit, min(exposures))
    with tempfile.TemporaryDirectory() as folder:
        leave_core()
        lags = asyncio.run(_feed(Path(folder), subscribers))
    yield _row("feed_p99_ms", _p99(lags), 50.0, min(lags))


def _row(name: str, value: float, limit: float, best: float) -> Row:
    return Row(name, value, "ms", "its limit", limit, limit / max(value, 1e-3), f"<= {limit:g}", value <= limit, best)


def _p99(values: list[float]) -> float:
    return sorted(values)[min(len(values) - 1, int(0.99 * len(values)))]


@contextmanager
def _environment() -> Iterator[Gate]:
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "gate"
        prepared.mkdir()
        gates._prepare(prepared)
        made = gates._environments(Blueprint(prepared))
        try:
            yield next(made)(pace=PACE)
        finally:
            made.close()  # type: ignore[attr-defined]


def _interruptions(jobs: int, rounds: int) -> tuple[list[float], list[float]]:
    """Milliseconds from the verdict to the death of each job, and from the drift to the death of the last one."""
    dead, exposures = [], []
    with _environment() as gate:
        for round_ in range(rounds):
            authorizations, pids = _start(gate, jobs, round_)
            intruder = gate.data / f"intruder-{round_}"
            intruder.write_bytes(b"not what was approved" + bytes([round_]))
            began_ms = time.time() * 1000
            gate.executor.measure(intruder)
            deaths = _deaths(pids)
            verdict_ms = min(gate.wait_for("attestation.failed", one).at for one in authorizations)
            dead += [max(0.0, death - verdict_ms) for death in deaths]
            exposures.append(max(deaths) - began_ms)
            for one in authorizations:
                gate.wait_for("execution.closed", one)
            gate.approve_baseline()
            wait_until("trust", lambda: gate.view().trusted, 10)
    return dead, exposures


def _start(gate: Gate, jobs: int, round_: int) -> tuple[list[str], list[int]]:
    wanted: set[str] = set()
    authorizations = []

    def sleeping() -> list[int]:
        return [pid for pid, line in gates.command_lines() if line[:1] == ["/bin/sleep"] and line[1] in wanted]

    for number in range(jobs):
        seconds = f"{100_000 + 1000 * round_ + number}"
        wanted.add(seconds)
        job = gate.job(f"sleep-{seconds}", "/bin/sleep", seconds)
        grant = gate.authorize(job)
        gate.start_job(job, grant.artifact)
        authorizations.append(grant.authorization)
        if number % 4 == 3 or number == jobs - 1:  # an artifact has to be used within its lease
            wait_until("the jobs", lambda: len(sleeping()) == len(wanted), 25)
    return authorizations, sleeping()


def _deaths(pids: list[int]) -> list[float]:
    """When each process died, in milliseconds of the wall clock."""
    poll, descriptors, deaths = select.poll(), {os.pidfd_open(pid) for pid in pids}, []
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    while descriptors:
        found = poll.poll(30_000)
        assert found, "a job outlived its verdict"
        now_ms = time.time() * 1000
        for descriptor, _ in found:
            deaths.append(now_ms)
            poll.unregister(descriptor)
            os.close(descriptor)
            descriptors.remove(descriptor)
    return deaths


async def _feed(folder: Path, subscribers: int) -> list[float]:
    """Milliseconds from the time in a record to the arrival of its bytes, for every subscriber and record."""
    gateway = GatewayProcess(folder)
    gateway.start()
    tls = ssl.create_default_context(cafile=str(gateway.ca))
    listening = [_Subscriber(gateway.tokens["orchestrator"]) for _ in range(subscribers)]

    async def request() -> None:
        """A dispatch that is denied, since there is no such executor; its records go to everybody all the same."""
        async with gateway.client("orchestrator") as orchestrator:
            with suppress(Refused):
                await orchestrator.authorize(DispatchRequest(executor="ex-" + "0" * 32, job=job(), max_runtime_s=60))

    async def all_heard(events: int) -> None:
        async with asyncio.timeout(60):
            while any(one.heard(_END) < events for one in listening):  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.1)

    try:
        await request()
        for one in listening:
            host, _, port = gateway.url.removeprefix("https://").rpartition(":")
            await asyncio.get_running_loop().create_connection(partial(_same, one), host, int(port), ssl=tls)
        await all_heard(1)
        for one in listening:
            one.pieces.clear()
        for _ in range(EVENTS):
            await request()
            await asyncio.sleep(0.5)
        await all_heard(EVENTS)
    finally:
        gateway.stop()
    return [lag for one in listening for lag in one.lags()]


def _same(one: "_Subscriber") -> "_Subscriber":
    return one


_END = b"event: authorization.denied"  # the last record of such a dispatch


class _Subscriber(asyncio.Protocol):
    """Reads the feed and notes when what came; it is looked at afterwards, so that reading costs next to nothing."""

    def __init__(self, token: str) -> None:
        self.request = f"GET /v1/events HTTP/1.1\r\nHost: gateway\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
        self.pieces: list[tuple[float, bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        self.pieces.append((time.time() * 1000, data))

    def heard(self, what: bytes) -> int:
        return sum(data.count(what) for _, data in self.pieces)

    def lags(self) -> Iterator[float]:
        """Of each dispatch, from its first record's time: when all of its bytes were here."""
        for arrived, data in self.pieces:
            for line in data.splitlines():
                if line.startswith(b"data: "):
                    yield arrived - json.loads(line.removeprefix(b"data: "))["at"]
