"""Every page of the console over a million records and ten thousand executors: what it takes over TLS, and its size.

``ZTROOTED_RECORDS`` makes it smaller; the targets are for a million. What twenty live pages cost is measured by ``console``.
"""

import asyncio
import os
import random
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlencode

import aiohttp

from gateway.pages import Page
from tests.bench.console import sign_in
from tests.bench.measure import Row
from tests.support.gateway_process import GatewayProcess, leave_core
from tests.support.large_gateway import (
    APART_MS,
    BEGAN_MS,
    LONG,
    REASONS,
    WORKFLOWS,
    Filled,
    fill,
    name_of,
)
from ztrooted.client import tls_context

RECORDS = int(os.environ.get("ZTROOTED_RECORDS", "1000000"))
EXECUTORS = 10_000
ASKED = 100
LIMIT_MS, LIMIT_MB = 300.0, 1.0
Pages = dict[str, Callable[[], str]]


def rows(*, records: int = RECORDS, executors: int = EXECUTORS, asked: int = ASKED) -> Iterator[Row]:
    """Of each page the 95th of a hundred, the median as its best; then the largest of all."""
    leave_core()
    with tempfile.TemporaryDirectory() as folder:
        gateway = GatewayProcess(Path(folder), settings="requests_per_s = 100000.0\n")
        filled = asyncio.run(fill(gateway, Path(folder), records=records, executors=executors))
        gateway.start()
        try:
            found, largest = asyncio.run(_measure(gateway, records, executors, filled, asked))
        finally:
            gateway.stop()
    for name, took in found.items():
        value = took[int(len(took) * 0.95)]
        target, met = f"<= {LIMIT_MS:g} ms", value <= LIMIT_MS
        yield Row(name, value, "ms", "its limit", LIMIT_MS, LIMIT_MS / value, target, met, took[len(took) // 2])
    size = largest / 1e6
    target, met = f"<= {LIMIT_MB:g} MB", size <= LIMIT_MB
    yield Row("page_mb", size, "MB", "its limit", LIMIT_MB, LIMIT_MB / size, target, met, size)


def _cursor(number: int) -> str:
    """To what is behind an execution in a list of all."""
    return str(Page(1).cut([number, 0], lambda one: (BEGAN_MS + one * APART_MS, name_of(one)))[1])


def _governance(filled: Filled, executors: int, some: random.Random) -> Pages:
    def execution() -> str:
        return name_of(some.randrange(filled.executions))

    return {
        "overview": lambda: "",
        "executors": lambda: "executors",
        "executors_far": lambda: f"executors?after=ex-{executors * 9 // 10:032x}",
        "executors_untrusted": lambda: "executors?standing=untrusted",
        "executors_none": lambda: "executors?standing=quarantined",
        "executor": lambda: f"executors/ex-{some.randrange(executors):032x}",
        "executor_busy": lambda: f"executors/{filled.executor}",
        "authorizations": lambda: "authorizations",
        "authorizations_far": lambda: f"authorizations?cursor={_cursor(filled.executions // 50)}",
        "authorizations_live": lambda: "authorizations?show=live",
        "refused": lambda: "authorizations?show=refused",
        "refused_far": lambda: f"authorizations?show=refused&cursor={_cursor(filled.executions // 50)}",
        "authorization": lambda: f"authorizations/{execution()}",
        "authorization_long": lambda: f"authorizations/{LONG}",
        "policies": lambda: "policies",
        "policy": lambda: f"policies/{filled.policy}",
        "baselines": lambda: "baselines",
        "baseline": lambda: f"baselines/{filled.baseline}",
        "approve": lambda: f"baselines/{filled.baseline}/approve",
        "orders": lambda: "orders",
        "order": lambda: f"orders/revoke?kind=executor&id={filled.executor}",
        "order_class": lambda: "orders/revoke?kind=class&id=default",
        "health": lambda: "health",
        "viewer": lambda: "viewer",
        "viewer_file": lambda: "viewer/file",
        "login": lambda: "login",
    }


def _lineage(filled: Filled, executors: int, records: int, some: random.Random) -> Pages:
    def when(number: int) -> str:
        return time.strftime("%Y-%m-%dT%H:%M", time.gmtime((BEGAN_MS + number * APART_MS) / 1000))

    def query(**wanted: str) -> str:
        return f"lineage?{urlencode(wanted)}"

    def anything() -> str:
        number = some.randrange(filled.executions)
        everything = {
            "job": some.choice((f"w-{number % WORKFLOWS}", f"r-{number // 10}", f"s-{number % 10}", name_of(number))),
            "executor": f"ex-{number % executors:032x}",
            "orchestrator": f"flows-{number % 20}",
            "reason": REASONS[number % len(REASONS)] or "ima.not_allowed",
            "from": when(number // 2),
            "to": when(number),
        }
        chosen = some.sample(sorted(everything), some.randrange(len(everything) + 1))
        return query(**{key: everything[key] for key in chosen})

    return {
        "search": anything,
        "search_nothing": lambda: query(job="w-1", orchestrator="flows-2"),
        # Each of a tenth or more of all, and none of both.
        "search_apart": lambda: query(job="s-1", executor=filled.executor, orchestrator="flows-2"),
        "search_everything": lambda: query(executor=filled.executor, job="s-1"),
        "search_far": lambda: query(cursor=_cursor(filled.executions // 50), to=when(filled.executions)),
        "search_before": lambda: query(to=when(filled.executions // 50), executor=filled.executor),
        "execution": lambda: f"lineage/{name_of(some.randrange(filled.executions))}",
        "execution_long": lambda: f"lineage/{LONG}",
        "execution_far": lambda: f"lineage/{LONG}?behind={records * 95 // 100}",
        "record": lambda: f"lineage/records/{some.randrange(records // 2)}",
    }


async def _measure(
    gateway: GatewayProcess, records: int, executors: int, filled: Filled, asked: int
) -> tuple[dict[str, list[float]], int]:
    """Milliseconds of each page by its name, in order, and the size of the largest."""
    some = random.Random(7)  # noqa: S311 -- the same pages each time
    pages = _governance(filled, executors, some) | _lineage(filled, executors, records, some)
    largest = 0
    found: dict[str, list[float]] = {}
    connector = aiohttp.TCPConnector(ssl=tls_context(gateway.ca))
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(gateway.url, connector=connector, cookie_jar=jar) as http:
        await sign_in(http, gateway.url, gateway.tokens["operator"])
        for name, page in pages.items():
            took = []
            for _ in range(asked):
                path = page()
                began = time.perf_counter()
                async with http.get(f"/console/{path}") as answer:
                    size = len(await answer.read())
                took.append(1000 * (time.perf_counter() - began))
                assert answer.status == 200, path
                largest = max(largest, size)
            found[f"page_{name}"] = sorted(took)
    return found, largest
