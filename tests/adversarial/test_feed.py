"""The event feed: nothing is missed, nothing comes twice, nobody waits for anybody, and nobody sees another's."""

import asyncio
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from itertools import pairwise

import pytest

from gateway.feed import Feed, Line
from gateway.routes import dispatches
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import HOST, GatewayInProcess
from ztrooted import limits
from ztrooted.client import tls_context
from ztrooted.models import DispatchRequest, Job


def numbers(data: bytes) -> list[int]:
    return [int(line[4:]) for line in data.split(b"\n") if line.startswith(b"id: ")]


def stored(gate: GatewayInProcess, orchestrator: str | None = None, start: int = 0) -> list[int]:
    """The numbers of the records that a subscriber is to see, from the database."""
    rows = gate.gateway.database.reading.execute(
        "SELECT r.seq, a.orchestrator FROM records r JOIN authorizations a ON a.id = r.authorization WHERE r.seq >= ?"
        " ORDER BY r.seq",
        (start,),
    )
    return [seq for seq, name in rows.fetchall() if orchestrator in {None, name}]


async def ask(gate: GatewayInProcess, token: str, name: str, count: int) -> None:
    """Dispatches to an executor that does not exist: two or three records each, without a TPM's pace."""
    for number in range(count):
        request = DispatchRequest(executor="ex-" + "0" * 32, job=job(f"{name}-{number}"))
        await gate.call("POST", "/v1/dispatches", token=token, body=request.model_dump_json().encode())


async def follow(feed: Feed, start: int, orchestrator: str | None, until: int) -> list[int]:
    """What a subscriber has seen when it has seen record ``until``; in its own pace."""
    seen: list[int] = []
    pace = random.Random(start)  # noqa: S311 -- repeatable
    wire = Wire()
    sending = asyncio.create_task(wire.send(feed, Line(wire, start, orchestrator, chunked=False)))  # type: ignore[arg-type]
    while not seen or seen[-1] < until:
        seen += numbers(await wire.read())
        await asyncio.sleep(pace.choice([0, 0, 0.001, 0.02]))
    sending.cancel()
    return seen


class Wire:
    """A connection as the feed sees it, to somebody who reads in a pace of his own."""

    def __init__(self) -> None:
        self.unread = b""

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return len(self.unread)

    def write(self, data: bytes) -> None:
        assert not self.unread, "the feed wrote to one who has not read"
        self.unread = data

    async def send(self, feed: Feed, line: Line) -> None:
        async for chunk in feed.follow(line):
            while self.unread:  # noqa: ASYNC110 -- as a transport's drain waits
                await asyncio.sleep(0)
            self.unread = chunk

    async def read(self) -> bytes:
        while not self.unread:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        data, self.unread = self.unread, b""
        return data


@pytest.mark.parametrize("recent", [1, 7, 1000])
async def test_every_subscriber_sees_every_record_once(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch, recent: int
) -> None:
    """From any record, while records are written, whether it is ahead of what is kept ready or behind."""
    monkeypatch.setattr(limits, "FEED_RECENT", recent)
    monkeypatch.setattr(limits, "FEED_BATCH", 5)
    one, other = await gate.token("orchestrator", "one"), await gate.token("orchestrator", "other")
    await ask(gate, one, "before", 10)
    feed = gate.gateway.feed
    end = stored(gate)[-1]
    subscribers = [
        (start, name, asyncio.create_task(follow(feed, start, name, end + 60)))
        for start in range(0, end, 3)
        for name in (None, "one")
    ]
    await asyncio.gather(ask(gate, one, "a", 20), ask(gate, other, "b", 20))
    await ask(gate, one, "last", 1)
    assert stored(gate)[-1] > end + 60
    for start, name, task in subscribers:
        seen = await asyncio.wait_for(task, 10)
        expected = stored(gate, name, start)
        assert seen == expected[: len(seen)], (start, name)
        assert seen[-1] >= end + 60


@asynccontextmanager
async def subscribed(
    gate: GatewayInProcess, token: str, *, query: str = "", headers: str = ""
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    """A subscriber as bytes over TLS."""
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)  # so that the kernel does not read in its stead
    plain.setblocking(False)
    await asyncio.get_running_loop().sock_connect(plain, (HOST, gate.port))
    reader, writer = await asyncio.open_connection(sock=plain, ssl=tls_context(gate.ca), server_hostname=HOST)
    lines = f"GET /v1/events{query} HTTP/1.1\r\nHost: {HOST}\r\nAuthorization: Bearer {token}\r\n{headers}\r\n"
    writer.write(lines.encode())
    await writer.drain()
    try:
        yield reader, writer
    finally:
        writer.transport.abort()


async def first_number(reader: asyncio.StreamReader) -> int:
    while not (line := await asyncio.wait_for(reader.readline(), 5)).startswith(b"id: "):
        assert line, "the gateway hung up"
    return int(line[4:])


async def test_a_browser_resumes_behind_the_last_event_that_it_saw(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator", "one")
    await ask(gate, token, "a", 3)
    known = stored(gate)
    for seen, following in pairwise(known):
        async with subscribed(gate, token, headers=f"Last-Event-ID: {seen}\r\n") as (reader, _):
            assert await first_number(reader) == following
    async with subscribed(gate, token, query=f"?from={known[2]}", headers="Last-Event-ID: 0\r\n") as (reader, _):
        assert await first_number(reader) == known[2]  # what was asked for counts
    async with subscribed(gate, token, headers="Last-Event-ID: -1\r\n") as (reader, _):
        assert b" 400 " in await reader.readline()


async def test_nobody_sees_anothers_events(gate: GatewayInProcess) -> None:
    one, other = await gate.token("orchestrator", "one"), await gate.token("orchestrator", "other")
    await ask(gate, one, "a", 2)
    async with subscribed(gate, other) as (reader, _):
        await ask(gate, one, "b", 2)
        await ask(gate, other, "own", 1)
        assert await first_number(reader) == stored(gate, "other")[0]


LARGE = Job(workflow="w", run="1", step="s", argv=["x" * 4000] * 15, env="0" * 64)


async def ask_largely(gate: GatewayInProcess, token: str) -> None:
    """A dispatch whose record is nearly as large as one may be."""
    body = DispatchRequest(executor="ex-" + "0" * 32, job=LARGE).model_dump_json().encode()
    await gate.call("POST", "/v1/dispatches", token=token, body=body)


async def test_who_does_not_read_is_hung_up_on_and_delays_nobody(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatches, "UNREAD_S", 0.3)
    token = await gate.token("orchestrator", "one")
    for _ in range(240):  # 15 MB: more than the buffers of both sides take
        await ask_largely(gate, token)
    last = stored(gate)[-1]
    async with (
        subscribed(gate, token) as (unread, silent),
        subscribed(gate, token, query=f"?from={last}") as (reader, _),
    ):
        silent.transport.pause_reading()  # type: ignore[attr-defined]
        assert await first_number(reader) == last
        both = gate.connections()
        while gate.connections() >= both:  # noqa: ASYNC110 -- it is gone while it still does not read
            await asyncio.sleep(0.02)
        silent.transport.resume_reading()  # type: ignore[attr-defined]
        received = b""
        with suppress(ConnectionError):
            while piece := await asyncio.wait_for(unread.read(1 << 20), 5):
                received += piece
        assert last not in numbers(received)


async def test_the_client_reads_the_largest_record(gate: GatewayInProcess) -> None:
    """A line that is longer than a reader's buffer is no reason to lose the feed for ever."""
    token = await gate.token("orchestrator", "one")
    await ask_largely(gate, token)
    await ask(gate, token, "behind", 1)
    (largest,) = gate.gateway.database.reading.execute("SELECT MAX(LENGTH(bytes)) FROM records").fetchone()
    assert largest > 50_000
    async with await gate.client("orchestrator", "one") as client:
        seen = []
        async for event in client.events():
            seen.append(event.seq)
            if event.seq == stored(gate)[-1]:
                break
    assert seen == stored(gate)


async def test_a_revocation_is_on_the_feed_at_once(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize(job("a"))
    wire = Wire()
    line = Line(wire, stored(gate)[-1] + 1, None, chunked=False)  # type: ignore[arg-type]
    sending = asyncio.create_task(wire.send(gate.gateway.feed, line))
    heard = asyncio.create_task(wire.read())
    async with await gate.client("operator", "olivia") as operator:
        await operator.revoke(grant.authorization)
    assert b"event: authorization.revoked" in await asyncio.wait_for(heard, 5)
    sending.cancel()
