"""The client of the API: whatever answers, it ends as an answer of a gateway or as an error that says what is wrong."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority, private_pem
from ztrooted.client import GatewayClient, connection
from ztrooted.errors import EnvironmentProblem
from ztrooted.models import ExecutorPage, ExecutorView

HOST = "127.0.0.1"
ID = "0" * 32
EXECUTOR = f"ex-{ID}"

Answering = Callable[[web.Request], Awaitable[web.StreamResponse]]
Serve = Callable[[Answering], Awaitable[GatewayClient]]


@pytest.fixture
async def serve(tmp_path: Path) -> AsyncIterator[Serve]:
    """Serves one handler for every path, with a certificate that the client trusts."""
    now = datetime.now(UTC)
    authority, key = Authority.create("test", now), ec.generate_private_key(ec.SECP256R1())
    certificate = authority.issue_server(key.public_key(), [HOST], now)
    (tmp_path / "ca.pem").write_bytes(authority.pem())
    (tmp_path / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(private_pem(key))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    runners: list[web.AppRunner] = []

    async def start(handler: Answering) -> GatewayClient:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", handler)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        await web.TCPSite(runner, HOST, 0, ssl_context=context).start()
        return GatewayClient(f"https://{HOST}:{runner.addresses[0][1]}", ca=tmp_path / "ca.pem", token="zt-test")

    yield start
    for runner in runners:
        await runner.cleanup()


async def watched(client: GatewayClient) -> list[Any]:
    return [event async for event in client.events()]


CALLS: dict[str, Callable[[GatewayClient], Awaitable[Any]]] = {
    "executors": lambda client: client.executors(),
    "children": lambda client: client.children(ID),
    "authorization": lambda client: client.authorization(ID),
    "bundle": lambda client: client.bundle(ID),
    "baseline": lambda client: client.baseline(ID),
    "decision": lambda client: client.decision(ID),
    "propose": lambda client: client.propose_baseline(b"{}", "default"),
    "label": lambda client: client.label(EXECUTOR, {}),
    "result": lambda client: client.result(EXECUTOR),
    "events": watched,
}
ANSWERS = {
    "a page": (200, "text/html", b"<html>hello</html>"),
    "an error page": (502, "text/html", b"bad gateway"),
    "another's error": (404, "application/json", b'{"message": "no such route"}'),
    "no JSON": (200, "application/json", b"\xff\xfe{"),
    "other JSON": (200, "application/json", b'{"hello": "world"}'),
    "an array": (200, "application/json", b"[]"),
}
# Bytes that are handed on as they are: whoever reads them judges them.
RAW = {"bundle", "baseline", "decision", "label"}
JUDGED_LATER = {"no JSON", "other JSON", "an array"}


@pytest.mark.parametrize(
    ("call", "answer"),
    [(call, answer) for call in CALLS for answer in ANSWERS if call not in RAW or answer not in JUDGED_LATER],
)
async def test_what_answers_is_no_gateway(serve: Serve, call: str, answer: str) -> None:
    status, media, body = ANSWERS[answer]

    async def handle(_request: web.Request) -> web.Response:
        return web.Response(status=status, body=body, content_type=media)

    async with await serve(handle) as client:
        with pytest.raises(EnvironmentProblem) as problem:
            await CALLS[call](client)
    assert problem.value.reason == "environment.not_a_gateway"
    assert client.url in problem.value.detail


async def test_a_feed_that_numbers_otherwise(serve: Serve) -> None:
    async def handle(_request: web.Request) -> web.Response:
        return web.Response(body=b"id: soon\ndata: {}\n\n", content_type="text/event-stream")

    async with await serve(handle) as client:
        with pytest.raises(EnvironmentProblem, match="not_a_gateway"):
            await watched(client)


async def test_nobody_is_sent_elsewhere(serve: Serve) -> None:
    """A redirection would take the token along."""
    asked = []

    async def handle(request: web.Request) -> web.Response:
        asked.append(request.path)
        raise web.HTTPTemporaryRedirect(f"https://{request.host}/elsewhere")

    async with await serve(handle) as client:
        with pytest.raises(EnvironmentProblem, match="status 307"):
            await client.executors()
    assert asked == ["/v1/executors"]


def view(number: int) -> ExecutorView:
    return ExecutorView(
        executor=f"ex-{number:032x}",
        executor_class="default",
        virtual=True,
        manufacturer="IBM",
        connected=True,
        trusted=True,
        reason=None,
        detail="",
        tier="none",
        evidence_age_ms=0,
        next_proof_due=0,
        labels={},
    )


async def test_executors_are_asked_for_page_by_page(serve: Serve) -> None:
    every = [view(number) for number in range(500)]

    async def handle(request: web.Request) -> web.Response:
        page = [one for one in every if one.executor > request.query.get("after", "")][:200]
        more = page[-1].executor if len(page) == 200 else None
        return web.json_response(ExecutorPage(executors=page, next=more).model_dump())

    async with await serve(handle) as client:
        assert await client.executors() == every


async def test_pages_without_an_end(serve: Serve) -> None:
    async def handle(_request: web.Request) -> web.Response:
        return web.json_response(ExecutorPage(executors=[view(1)], next=view(1).executor).model_dump())

    async with await serve(handle) as client:
        with pytest.raises(EnvironmentProblem, match="circle"):
            await client.executors()


async def test_a_gateway_that_says_nothing(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says that it took too long, and does not end in a colon."""
    monkeypatch.setattr(connection, "TIMEOUT_S", 0.2)

    async def handle(_request: web.Request) -> web.Response:
        await asyncio.sleep(5)
        raise AssertionError

    async with await serve(handle) as client:
        with pytest.raises(EnvironmentProblem) as problem:
            await client.executors()
    assert problem.value.reason == "environment.gateway_unreachable"
    assert problem.value.detail.endswith(": it took too long to answer")
