"""The lineage explorer over a million records of a hundred thousand executions: what a page takes, asked for over TLS.

``ZTROOTED_RECORDS`` makes it smaller; the targets are for a million.
"""

import asyncio
import json
import os
import random
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import aiohttp

from gateway.app import Gateway
from gateway.config import load_config
from gateway.storage.database import Transaction
from tests.bench.measure import Row
from tests.support.gateway_process import GatewayProcess, leave_core
from ztrooted import canonical
from ztrooted.client import tls_context
from ztrooted.records import Link, Record

RECORDS = int(os.environ.get("ZTROOTED_RECORDS", "1000000"))
STORY = Path(__file__).parents[1] / "vectors" / "data" / "drift.json"
ASKED = 200
LIMIT_MS = 300.0
EXECUTORS, ORCHESTRATORS, WORKFLOWS = 10_000, 20, 100
BEGAN_MS, APART_MS = 1_700_000_000_000, 250
REASONS = (*["ima.not_allowed"] * 6, *["lease.expired"] * 3, *[None] * 90, "ek.chain")
_WHOLE = frozenset(
    {"policy.evaluated", "attestation.failed"}
)  # whose rounds are kept; those of the others would be the same


def rows(*, records: int = RECORDS, asked: int = ASKED) -> Iterator[Row]:
    """The 95th of a hundred of each kind of page, and the largest of all."""
    leave_core()
    with tempfile.TemporaryDirectory() as folder:
        gateway = GatewayProcess(Path(folder), settings="requests_per_s = 100000.0\n")
        executions = asyncio.run(fill(gateway, records))
        gateway.start()
        try:
            found, largest = asyncio.run(_measure(gateway, records, executions, asked))
        finally:
            gateway.stop()
    for name, took in found.items():
        value, met = took[int(len(took) * 0.95)], took[int(len(took) * 0.95)] <= LIMIT_MS
        target = f"<= {LIMIT_MS:g} ms"
        yield Row(name, value, "ms", "its limit", LIMIT_MS, LIMIT_MS / value, target, met, took[len(took) // 2])
    size = largest / 1e6
    yield Row("explorer_page_mb", size, "MB", "its limit", 1.0, 1.0 / size, "<= 1 MB", size <= 1.0, size)


async def fill(process: GatewayProcess, records: int) -> int:
    """A gateway with so many records, each of an execution that has ended; how many of these there are."""
    gateway = Gateway(load_config(process.data))
    await gateway.start()
    story = [(one["type"], one["body"]) for one in map(json.loads, _texts())]
    count = max(1, records // len(story))

    def append(tx: Transaction, first: int) -> None:
        for number in range(first, min(first + 500, count)):
            _execution(tx, number, story)

    for first in range(0, count, 500):
        await gateway.database.write(partial(append, first=first))
    await gateway.close()
    return count


def _texts() -> Iterator[str]:
    bundle = json.loads(STORY.read_text())
    return (
        one["record"] for one in bundle["records"] if f'"authorization":"{bundle["authorization"]}"' in one["record"]
    )


def name_of(number: int) -> str:
    """The id of an execution."""
    return f"{number:032x}"


def _execution(tx: Transaction, number: int, story: list[tuple[str, dict[str, Any]]]) -> None:
    name, at, reason = name_of(number), BEGAN_MS + number * APART_MS, REASONS[number % len(REASONS)]
    executor, orchestrator = f"ex-{number % EXECUTORS:032x}", f"flows-{number % ORCHESTRATORS}"
    job = story[0][1]["job"] | {
        "workflow": f"w-{number % WORKFLOWS}",
        "run": f"r-{number // 10}",
        "step": f"s-{number % 10}",
    }
    digest, prev = canonical.digest(job), None
    for kind, told in story:
        body = (
            told
            if kind in _WHOLE
            else {key: value for key, value in told.items() if key not in {"manifest", "request"}}
        )
        if kind == "dispatch.requested":
            body = body | {"executor": executor, "orchestrator": orchestrator, "job": job, "job_digest": digest}
        appended = tx.append(Record(kind, at, body, name, prev))
        prev = Link(appended.index, appended.leaf)
    assert prev is not None
    tx.execute(
        "INSERT INTO authorizations(id, executor, orchestrator, state, job, job_digest, max_runtime_s, requested_at,"
        " renewals, reason, last_seq, last_leaf, depth, delegation)"
        " VALUES (?, ?, ?, 'closed', ?, ?, 600, ?, 2, ?, ?, ?, 0, ?)",
        (name, executor, orchestrator, json.dumps(job), digest, at, reason, prev.index, prev.leaf, _NO_DELEGATION),
    )


_NO_DELEGATION = '{"depth":0,"children":0,"steps":null,"executors":null}'


async def _measure(
    gateway: GatewayProcess, records: int, executions: int, asked: int
) -> tuple[dict[str, list[float]], int]:
    some = random.Random(7)  # noqa: S311 -- the same pages each time

    def when(number: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M", time.gmtime((BEGAN_MS + number * APART_MS) / 1000))

    def query() -> str:
        number = some.randrange(executions)
        everything = {
            "job": some.choice((f"w-{number % WORKFLOWS}", f"r-{number // 10}", f"s-{number % 10}", name_of(number))),
            "executor": f"ex-{number % EXECUTORS:032x}",
            "orchestrator": f"flows-{number % ORCHESTRATORS}",
            "reason": REASONS[number % len(REASONS)] or "ima.not_allowed",
            "from": when(number // 2),
            "to": when(number),
        }
        chosen = some.sample(sorted(everything), some.randrange(len(everything) + 1))
        return f"/console/lineage?{urlencode({key: everything[key] for key in chosen})}"

    pages: dict[str, Callable[[], str]] = {
        "explorer_search_p95": query,
        "explorer_nothing_p95": lambda: "/console/lineage?" + urlencode({"job": "w-1", "orchestrator": "flows-2"}),
        "explorer_execution_p95": lambda: f"/console/lineage/{name_of(some.randrange(executions))}",
        "explorer_record_p95": lambda: f"/console/lineage/records/{some.randrange(records // 2)}",
    }
    largest, found = 0, {}
    connector = aiohttp.TCPConnector(ssl=tls_context(gateway.ca))
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(gateway.url, connector=connector, cookie_jar=jar) as http:
        await _sign_in(http, gateway.url, gateway.tokens["operator"])
        for name, page in pages.items():
            took = []
            for _ in range(asked):
                path = page()
                began = time.perf_counter()
                async with http.get(path) as answer:
                    size = len(await answer.read())
                took.append(1000 * (time.perf_counter() - began))
                assert answer.status == 200, path
                largest = max(largest, size)
            found[name] = sorted(took)
    return found, largest


async def _sign_in(http: aiohttp.ClientSession, url: str, token: str) -> None:
    """As the form of the login page does."""
    async with http.get("/console/login") as page:
        number = re.search(r'name="form" value="([^"]+)"', await page.text())
    assert number is not None
    fields = {"form": number[1], "next": "/console/", "token": token, "by": "token"}
    async with http.post("/console/login", data=fields, headers={"Origin": url}, allow_redirects=False) as done:
        assert done.status == 303
