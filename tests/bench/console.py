"""What it costs an attestation gateway that people look at it: appraisals with twenty live pages open, and without.

The gateway has one core and is kept busy: every executor is asked again as soon as it has answered, so whatever a viewer
takes is taken from appraisals. Jobs run on some, so that there is something to be told each second. Windows with viewers and
without take turns.
"""

import asyncio
import re
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import aiohttp

from tests.bench.channel import PROGRAMS
from tests.bench.measure import Row
from tests.support.executor import job
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_process import GatewayProcess, leave_core
from ztrooted.client import tls_context
from ztrooted.models import DispatchRequest

EXECUTORS, LIVE, VIEWERS = 100, 5, 20
WINDOW_S, WINDOWS = 4.0, 7
SLOWER = 0.95  # of the appraisals without anybody looking
LOOKED_AT = ("/console/", "/console/health")
ROLES = ("operator", "orchestrator")  # one of them has 16 sessions at most
BETWEEN_S = 1.0  # a page asks for its parts as often as static/live.js does at most
TRUSTED = 'ztrooted_rounds_total{verdict="trusted"}'


def rows() -> Iterator[Row]:
    """All rows of the console."""
    yield from viewers()


def viewers(*, executors: int = EXECUTORS, window_s: float = WINDOW_S, windows: int = WINDOWS) -> Iterator[Row]:
    """``viewers_20``: appraisals by second of processor time with twenty live pages open, beside those without."""
    leave_core()
    with tempfile.TemporaryDirectory() as folder:
        pairs = asyncio.run(_appraisals(Path(folder), executors, window_s, windows))
    ratio = statistics.median(watched / alone for alone, watched in pairs)
    watched = sorted(rate for _, rate in pairs)
    alone = statistics.median(rate for rate, _ in pairs)
    middle = watched[len(watched) // 2]
    target = f"ratio >= {SLOWER}"
    yield Row("viewers_20", middle, "1/s", "nobody looks", alone, ratio, target, ratio >= SLOWER, watched[-1])


async def _appraisals(folder: Path, count: int, window_s: float, windows: int) -> list[tuple[float, float]]:
    gateway = GatewayProcess(folder, interval_s=1, idle_interval_s=0.01, response_deadline_s=10, lease_s=60)
    gateway.start()
    try:
        machine = SimulatedMachine(folder / "machine", PROGRAMS)
        fleet = [SimulatedExecutor(gateway.url, gateway.ca, machine) for _ in range(count)]
        await enroll_all(fleet)
        async with connect_all(fleet):
            await _run_jobs(gateway, fleet)
            pairs = []
            for _ in range(windows):
                alone = await _rate(gateway, window_s)
                async with looking(gateway, VIEWERS):
                    await asyncio.sleep(BETWEEN_S)
                    pairs.append((alone, await _rate(gateway, window_s)))
            return pairs
    finally:
        gateway.stop()


async def _run_jobs(gateway: GatewayProcess, fleet: list[SimulatedExecutor]) -> None:
    async with gateway.client("operator") as operator:
        captured = await operator.capture_baseline(fleet[0].id)
        await operator.approve_baseline(captured.baseline)
    await asyncio.sleep(2)
    async with gateway.client("orchestrator") as orchestrator:
        for executor in fleet[:LIVE]:
            asked = DispatchRequest(executor=executor.id, job=job(), max_runtime_s=86400)
            grant = await orchestrator.authorize(asked)
            await executor.run_job(grant.authorization, grant.artifact)


async def _rate(gateway: GatewayProcess, seconds: float) -> float:
    """By second of the gateway's processor time, all of which appraisals would have otherwise."""
    before, began = (await gateway.metrics())[TRUSTED], gateway.cpu_s()
    await asyncio.sleep(seconds)
    return ((await gateway.metrics())[TRUSTED] - before) / (gateway.cpu_s() - began)


@asynccontextmanager
async def looking(gateway: GatewayProcess, count: int) -> AsyncIterator[None]:
    """That many browsers, each with a page open that is kept up to date."""
    tasks = [
        asyncio.create_task(_look(gateway, LOOKED_AT[number % 2], ROLES[number // 2 % 2])) for number in range(count)
    ]
    try:
        yield
    finally:
        ended = [task.exception() for task in tasks if task.done()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert ended == [], ended


async def _look(gateway: GatewayProcess, path: str, role: str) -> None:
    """As static/live.js: follow the stream, and ask for the parts again once something was told."""
    connector = aiohttp.TCPConnector(ssl=tls_context(gateway.ca))
    timeout = aiohttp.ClientTimeout(total=None)
    async with aiohttp.ClientSession(
        gateway.url, connector=connector, cookie_jar=aiohttp.CookieJar(unsafe=True), timeout=timeout
    ) as http:
        await sign_in(http, gateway.url, gateway.tokens[role])
        async with http.get(path) as answer:
            assert answer.status == 200, path
            events = re.search(r'data-events="([^"]+)"', await answer.text())
        assert events is not None
        async with http.get(events[1]) as stream:
            asked = time.monotonic()
            async for line in stream.content:
                if not line.startswith(b"event: record") or time.monotonic() - asked < BETWEEN_S:
                    continue
                asked = time.monotonic()
                async with http.get(path, headers={"X-Ztrooted-Part": "live"}) as part:
                    assert part.status == 200, path
                    with suppress(aiohttp.ClientPayloadError):
                        await part.read()


async def sign_in(http: aiohttp.ClientSession, url: str, token: str) -> None:
    """As the form of the login page does."""
    async with http.get("/console/login") as page:
        number = re.search(r'name="form" value="([^"]+)"', await page.text())
    assert number is not None
    fields = {"form": number[1], "next": "/console/", "token": token, "by": "token"}
    async with http.post("/console/login", data=fields, headers={"Origin": url}, allow_redirects=False) as done:
        assert done.status == 303
