"""A witness that strangers can reach: what they ask is bounded, and TLS is what it says it is."""

import asyncio
import ssl
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from itertools import count, islice
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority, private_pem
from tests.support.commands import run
from tests.support.witness import SmallLog, WitnessProcess
from ztrooted.request_rate import MAX_ADDRESSES, RequestRate
from ztrooted.witness_service import BURST, MAX_AT_ONCE, RATE_PER_S, WitnessService

LOG = SmallLog("log.example/one")


class Waiting:
    """A witness that answers when it is told to."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.asked = 0

    def add_checkpoint(self, _body: bytes) -> bytes:
        self.asked += 1
        assert self.go.wait(20)
        return b"line\n"


@asynccontextmanager
async def served(witness: Any, monotonic: Callable[[], float]) -> AsyncIterator[tuple[aiohttp.ClientSession, str]]:
    """A client, and where the witness listens."""
    runner = web.AppRunner(WitnessService(witness, monotonic).application(), access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http:
            yield http, f"http://127.0.0.1:{runner.addresses[0][1]}/add-checkpoint"
    finally:
        await runner.cleanup()


@pytest.mark.asyncio
async def test_an_address_that_asks_too_often_is_told_to_come_again() -> None:
    witness, now = Waiting(), [1000.0]
    witness.go.set()
    async with served(witness, lambda: now[0]) as (http, url):

        async def ask() -> tuple[int, str | None]:
            async with http.post(url, data=b"x") as answer:
                return answer.status, answer.headers.get("Retry-After")

        assert {await ask() for _ in range(BURST)} == {(200, None)}
        assert await ask() == (429, "1")
        assert witness.asked == BURST
        now[0] += 1.5 / RATE_PER_S
        assert [await ask(), await ask()] == [(200, None), (429, "1")]
        now[0] += 3600
        assert {await ask() for _ in range(BURST)} == {(200, None)}
        assert await ask() == (429, "1")


def test_addresses_have_a_rate_each_and_are_not_remembered_for_ever() -> None:
    rate = RequestRate(1, 1, lambda: 0.0)
    assert rate.take("a")
    assert not rate.take("a")
    assert rate.take("b")
    for number in range(MAX_ADDRESSES):
        rate.take(str(number))
    assert rate.take("a")  # forgotten


@pytest.mark.asyncio
async def test_more_at_once_than_there_is_room_for_come_again() -> None:
    witness, ticks = Waiting(), count()
    async with served(witness, lambda: float(next(ticks))) as (http, url):  # so that no rate is in the way

        async def ask() -> int:
            async with http.post(url, data=b"x") as answer:
                return answer.status

        asked = [asyncio.create_task(ask()) for _ in range(MAX_AT_ONCE + 8)]
        try:
            refused = [await one for one in islice(asyncio.as_completed(asked), 8)]
        finally:
            witness.go.set()
        assert refused == [503] * 8
        assert sorted(await asyncio.gather(*asked)) == [200] * MAX_AT_ONCE + [503] * 8
        assert await ask() == 200


@pytest.mark.asyncio
async def test_a_witness_with_a_certificate_serves_https(tmp_path: Path) -> None:
    now = datetime.now(UTC)
    authority, key = Authority.create("witnesses", now), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_server(key.public_key(), ["127.0.0.1"], now).public_bytes(serialization.Encoding.PEM)
    (tmp_path / "cert.pem").write_bytes(certificate)
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    (tmp_path / "key.pem").chmod(0o600)
    options = ("--tls-certificate", str(tmp_path / "cert.pem"), "--tls-key", str(tmp_path / "key.pem"))
    process = WitnessProcess(tmp_path / "w", "witness.example/w", LOG.option, serving=options)
    await asyncio.to_thread(process.start)
    try:
        url = (process.folder / "address").read_text().strip()
        assert url.startswith("https://127.0.0.1:")
        trusting = ssl.create_default_context(cadata=authority.pem().decode())
        async with (
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http,
            http.post(f"{url}/add-checkpoint", data=LOG.request(0, 4)) as answer,
        ):
            assert answer.status == 200
        with pytest.raises(aiohttp.ClientError):
            await process.ask(LOG.request(4, 9))  # plain
    finally:
        process.kill()


def test_a_certificate_that_can_not_be_used_is_said(tmp_path: Path) -> None:
    WitnessProcess(tmp_path / "w", "witness.example/w", LOG.option)
    (tmp_path / "text").write_text("hello")
    (tmp_path / "text").chmod(0o600)
    (tmp_path / "open").write_text("hello")
    (tmp_path / "open").chmod(0o644)
    serve = ("witness", "serve", str(tmp_path / "w"), "--listen", "127.0.0.1:0")
    for certificate, key, code, reason in (
        ("text", "", 2, "config.invalid"),
        ("text", "text", 3, "environment.tls"),
        ("text", "nothing", 3, "environment.tls"),
        ("text", "open", 3, "environment.key_file"),
    ):
        options = ("--tls-key", str(tmp_path / key)) if key else ()
        done = run(*serve, "--tls-certificate", str(tmp_path / certificate), *options)
        assert done.returncode == code, done
        assert f"({reason})" in done.stderr
        assert "What to do: " in done.stderr
