"""One shape for every no: however a request fails, the answer is a problem document that leads to one line of the log."""

import asyncio
import json
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
import structlog
from aiohttp import web
from structlog.typing import EventDict

from tests.support.gateway_in_process import HOST, GatewayInProcess
from ztrooted import limits
from ztrooted.client import tls_context
from ztrooted.explanations import explain
from ztrooted.models import Problem
from ztrooted.reasons import GateReason, parse_reason

MEMBERS = {"type", "title", "status", "detail", "code", "instance", "remedy"}


@pytest.fixture
def logged() -> Iterator[list[EventDict]]:
    """What is logged meanwhile."""
    with structlog.testing.capture_logs() as entries:
        yield entries


async def answers(gate: GatewayInProcess, data: bytes) -> bytes:
    """Everything that comes back for bytes, until the gateway hangs up or says nothing more."""
    reader, writer = await asyncio.open_connection(HOST, gate.port, ssl=tls_context(gate.ca))
    try:
        writer.write(data)
        await writer.drain()
        got = bytearray()
        with suppress(TimeoutError):
            async with asyncio.timeout(5):
                while piece := await reader.read(1 << 16):
                    got += piece
        return bytes(got)
    finally:
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()


def the_problem(answer: bytes, logged: list[EventDict], status: int, code: str) -> dict[str, Any]:
    """The one problem document in an answer, looked at from all sides."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith((b"HTTP/1.1 %d " % status, b"HTTP/1.0 %d " % status)), answer[:300]
    lines = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head.decode().split("\r\n"))
    }
    assert lines["content-type"] == "application/problem+json; charset=utf-8"
    assert lines["cache-control"] == "no-store"
    problem = json.loads(body)
    Problem.model_validate(problem)
    assert problem.keys() - {"authorization"} == MEMBERS
    assert (problem["status"], problem["code"]) == (status, code), problem
    assert problem["type"] == f"urn:ztrooted:reason:{code}"
    assert problem["title"] == explain(parse_reason(code)).meaning
    assert problem["detail"]
    found = [entry for entry in logged if problem["instance"] == f"urn:ztrooted:log:{entry.get('instance')}"]
    assert len(found) == 1, logged
    return dict(problem)


GET = b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
POST = b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
WAYS = {
    "nothing there": (GET.replace(b"/livez", b"/v1/nothing") + b"\r\n", 404, "request.not_found"),
    "another method": (GET.replace(b"GET", b"DELETE") + b"\r\n", 405, "request.method"),
    "a method nobody knows": (GET.replace(b"GET", b"FROBNICATE") + b"\r\n", 400, "request.malformed"),
    "a query nobody declared": (GET.replace(b"/livez", b"/livez?x=1") + b"\r\n", 400, "request.malformed"),
    "no credential": (POST + b"\r\n", 401, "auth.credential_missing"),
    "an expectation nobody meets": (GET + b"Expect: miracles\r\n\r\n", 417, "request.malformed"),
    "the same where nothing is": (
        GET.replace(b"/livez", b"/v1/nothing") + b"Expect: miracles\r\n\r\n",
        417,
        "request.malformed",
    ),
    "not HTTP": (b"\x16\x03\x01 what is this\r\n\r\n", 400, "request.malformed"),
    "half a request line": (b"GET\r\n\r\n", 400, "request.malformed"),
    "a version to come": (b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n", 400, "request.malformed"),
    "a header without a name": (GET + b": x\r\n\r\n", 400, "request.malformed"),
    "two lengths": (POST + b"Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcd", 400, "request.malformed"),
    "a length that is none": (POST + b"Content-Length: x\r\n\r\n", 400, "request.malformed"),
    "an address too long": (
        GET.replace(b"/livez", b"/" + b"x" * limits.REQUEST_LINE) + b"\r\n",
        431,
        "request.too_large",
    ),
    "a query too long": (
        GET.replace(b"/livez", b"/livez?" + b"x" * limits.REQUEST_LINE) + b"\r\n",
        431,
        "request.too_large",
    ),
    "a header too long": (GET + b"X: " + b"x" * (limits.HEADER_FIELD + 1) + b"\r\n\r\n", 431, "request.too_large"),
    "a name too long": (GET + b"X" * limits.HEADER_FIELD + b": x\r\n\r\n", 431, "request.too_large"),
    "too many headers": (
        GET + b"".join(b"X-%d: x\r\n" % n for n in range(limits.HEADERS + 1)) + b"\r\n",
        400,
        "request.malformed",
    ),
    "no upgrade where one is needed": (
        GET.replace(b"/livez", b"/v1/executor/channel") + b"\r\n",
        401,
        "auth.credential_missing",
    ),
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_be_refused_has_one_shape_and_one_line_of_the_log(
    way: str, gate: GatewayInProcess, logged: list[EventDict]
) -> None:
    data, status, code = WAYS[way]
    answer = await answers(gate, data)
    problem = the_problem(answer, logged, status, code)
    assert "x" * 100 not in json.dumps(problem), "what was sent is not repeated"


async def test_what_is_within_the_bounds_is_taken(gate: GatewayInProcess) -> None:
    """The other side of each bound above, so that none of them is loosened or tightened unseen."""
    fitting = b"/livez" + b"?" + b"x" * (limits.REQUEST_LINE - 100)
    assert b"request.malformed" in await answers(
        gate, GET.replace(b"/livez", fitting) + b"\r\n"
    )  # read, and undeclared
    assert (await answers(gate, GET + b"X: " + b"x" * (limits.HEADER_FIELD - 10) + b"\r\n\r\n")).startswith(
        b"HTTP/1.1 200"
    )
    many = b"".join(b"X-%d: x\r\n" % n for n in range(limits.HEADERS - 3))
    assert (await answers(gate, GET + many + b"\r\n")).startswith(b"HTTP/1.1 200")


async def test_a_malformed_request_ends_the_connection_and_no_other(gate: GatewayInProcess) -> None:
    second = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await answers(gate, b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n" + second)
    assert answer.count(b"urn:ztrooted:log:") == 1
    assert b"200 OK" not in answer
    assert (await gate.call("GET", "/livez")).status == 200


async def test_a_body_too_large_a_type_and_a_slow_one(
    gate: GatewayInProcess, logged: list[EventDict], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "REQUEST_S", 0.2)
    token = (await gate.token("orchestrator")).encode()
    head = POST + b"Authorization: Bearer " + token + b"\r\n"
    typed = head + b"Content-Type: application/json\r\n"
    ways = [
        (head + b"Content-Type: text/plain\r\nContent-Length: 2\r\n\r\n{}", 415, "request.content_type"),
        (typed + b"Content-Length: 2\r\n\r\n{}", 400, "request.malformed"),
        (typed + b"Content-Length: 9\r\n\r\n{", 408, "request.timeout"),
        (typed + b"Content-Length: 1048577\r\n\r\n" + b" " * 1048577, 413, "request.too_large"),
        (typed + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400, "request.malformed"),
    ]
    for data, status, code in ways:
        the_problem(await answers(gate, data), logged, status, code)


async def test_an_answer_of_aiohttps_own_is_never_seen(gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each exception that aiohttp has for a refusal comes out as a problem document with its own status."""
    every = [
        one
        for one in vars(web).values()
        if isinstance(one, type) and issubclass(one, web.HTTPError) and one not in {web.HTTPError, web.HTTPClientError}
    ]
    assert len(every) > 30
    for one in every:
        if not 400 <= one.status_code < 600:
            continue

        def broken(one: type[web.HTTPError] = one) -> list[str]:
            if one is web.HTTPMethodNotAllowed:
                raise web.HTTPMethodNotAllowed("GET", ["POST"])
            if one is web.HTTPRequestEntityTooLarge:
                raise web.HTTPRequestEntityTooLarge(1, 2)
            if one is web.HTTPUnavailableForLegalReasons:
                raise web.HTTPUnavailableForLegalReasons(None)
            raise one()

        monkeypatch.setattr(gate.gateway, "not_ready", broken)
        answer = await gate.call("GET", "/readyz")
        assert answer.status == one.status_code
        assert answer.json["status"] == one.status_code
        ours = {404: GateReason.REQUEST_NOT_FOUND, 405: GateReason.REQUEST_METHOD, 413: GateReason.REQUEST_TOO_LARGE}
        otherwise = GateReason.INTERNAL_ERROR if one.status_code >= 500 else GateReason.REQUEST_MALFORMED
        assert answer.code == str(ours.get(one.status_code, otherwise))
    gate.contradictions.clear()  # that is what this test is about
