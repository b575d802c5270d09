"""The service from outside: who may ask what, and what a request can do to the gateway that it should not."""

import asyncio
import io
import json
import os
import re
import ssl
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog
from aiohttp import web

import gateway.app
from gateway.auth import Authenticator, Role
from gateway.console.app import PART
from gateway.console.app import ROOT as CONSOLE
from gateway.declaration import Body, Handle, Route, json_of
from gateway.listening import Runner
from gateway.middleware import problems
from gateway.replies import Replies
from gateway.routes import add_routes, all_routes
from gateway.storage import authorizations
from gateway.storage.database import Transaction
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import HOST, Answer, GatewayInProcess
from tpm.software import SoftwareTpm
from ztrooted import limits
from ztrooted.channel_messages import (
    ActivateMessage,
    ChallengeMessage,
    EndedMessage,
    LeaseMessage,
    RefusedMessage,
    StartedMessage,
)
from ztrooted.client import Refused, tls_context
from ztrooted.errors import EnvironmentProblem
from ztrooted.logs import configure
from ztrooted.models import DispatchRequest, Problem
from ztrooted.reasons import GateReason

OPERATOR = frozenset({Role.OPERATOR})
# What needs no session: how to begin one, our own files, and a viewer that knows nothing.
OPEN_PAGES = {
    ("GET", "/console"),
    ("GET", "/console/login"),
    ("POST", "/console/login"),
    ("GET", "/console/login/{provider}"),
    ("GET", "/console/login/{provider}/callback"),
    ("GET", "/console/static/{digest}/{name}"),
    ("GET", "/console/viewer"),
    ("GET", "/console/viewer/file"),
}


def paths(inner: gateway.app.Gateway) -> list[tuple[Route, str]]:
    """Each route with an address that leads to it."""
    filled = {
        "{enrollment}": "x" * 22,
        "{authorization}": "a" * 32,
        "{baseline}": "b" * 64,
        "{executor}": "ex-" + "0" * 32,
        "{decision}": "9",
        "{executor_class}": "default",
        "{other}": "c" * 64,
        "{level}": "0",
        "{number:.+}": "000.p/1",
        "{token}": "0" * 16,
    }
    filled_in = {"nonce": "ab" * 16, "from": "1"}
    found = []
    for route in all_routes(inner):
        path = route.path
        for name, value in filled.items():
            path = path.replace(name, value)
        assert "{" not in path, "a new parameter needs a value here"
        if required := [f"{one.name}={filled_in[one.name]}" for one in route.query if one.required]:
            path += "?" + "&".join(required)
        found.append((route, path))
    return found


def state(gate: GatewayInProcess) -> list[str]:
    """Everything that is stored."""
    return list(gate.gateway.database.reading.iterdump())


# --- who may ask -------------------------------------------------------------------------------------------------
@asynccontextmanager
async def watched(gate: GatewayInProcess, entered: list[str]) -> AsyncIterator[GatewayInProcess]:
    """The gateway's own routes behind its own guard, with handlers that only say that they were reached."""

    def spy(route: Route) -> Route:
        async def handle(_request: web.Request, _caller: Any) -> web.Response:
            """It was reached."""
            entered.append(f"{route.method} {route.path}")
            return web.Response(status=204)

        return replace(route, handle=handle)

    inner = gate.gateway
    app = web.Application(middlewares=[problems])
    add_routes(
        app,
        tuple(spy(route) for route in all_routes(inner)),
        Authenticator(
            inner.database, inner.clock, inner.config.trust_domain, inner.client_authorities, inner.providers
        ),
        Replies(inner.database, inner.clock),
        inner.rates,
    )
    runner = Runner(app, shutdown_timeout=0.2)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, ssl_context=inner.tls).start()
    served, gate.port = gate.port, runner.addresses[0][1]
    try:
        yield gate
    finally:
        gate.port = served
        await runner.cleanup()


async def test_M1_every_route_refuses_no_wrong_expired_and_other_credentials_before_its_handler(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    await executor.enroll()
    tokens = {role: await gate.token(role) for role in ("orchestrator", "auditor", "operator")}
    expired = {role: await gate.token(role, life_ms=-1) for role in tokens}
    bad = {
        "none": {},
        "empty": {"Authorization": ""},
        "scheme": {"Authorization": f"Basic {tokens['operator']}"},
        "bare": {"Authorization": tokens["operator"]},
        "unknown": {"Authorization": "Bearer zt-" + "A" * 43},
        "truncated": {"Authorization": f"Bearer {tokens['operator'][:-1]}"},
        "hash": {"Authorization": "Bearer " + "0" * 64},
        "not_ascii": {"Authorization": "Bearer zt-\u00e9"},
        "two": {"Authorization": f"Bearer {tokens['operator']} {tokens['operator']}"},
    }
    entered: list[str] = []
    before = state(gate)
    async with watched(gate, entered):
        for route, path in paths(gate.gateway):
            if Role.ANYONE in route.roles:
                continue
            with executor.enrolled.client_certificate() as certificate:
                answers = {name: await gate.call(route.method, path, headers=headers) for name, headers in bad.items()}
                for role, token in tokens.items():
                    answers[f"expired {role}"] = await gate.call(route.method, path, token=expired[role])
                    if Role(role) not in route.roles:
                        answers[f"other role {role}"] = await gate.call(route.method, path, token=token)
                if Role.EXECUTOR not in route.roles:
                    answers["executor"] = await gate.call(route.method, path, certificate=certificate)
            for name, answer in answers.items():
                assert answer.status in {401, 403}, (route, name, answer)
                assert answer.code.startswith("auth."), (route, name, answer)
                assert ("WWW-Authenticate" in answer.headers) is (answer.status == 401)
        assert entered == []
        for route, path in paths(gate.gateway):  # and the right one is let in
            role = next(iter(sorted(route.roles)))
            with executor.enrolled.client_certificate() as certificate:
                used = {"certificate": certificate} if role is Role.EXECUTOR else {"token": tokens.get(role)}
                assert (await gate.call(route.method, path, **used)).status == 204  # type: ignore[arg-type]
    assert len(entered) == len(all_routes(gate.gateway))
    assert state(gate) == before


async def test_M1_an_executor_of_another_ca_an_expired_or_a_replaced_session_is_nobody(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await executor.enroll()
    replaced = executor.enrolled
    await executor.enroll()
    with replaced.client_certificate() as certificate:
        answer = await gate.call("GET", "/v1/executor/channel", certificate=certificate)
    assert (answer.status, answer.code) == (401, "auth.credential_invalid")
    # A certificate that has ended does not even get through the handshake.
    inner = gate.gateway.enrollments
    monkeypatch.setattr(inner, "_config", inner._config.model_copy(update={"session_life_s": -60}))
    executor.enrolled.certificate = inner.session_certificate(executor.id, executor.key.public_key())
    assert executor.enrolled.expired
    with executor.enrolled.client_certificate() as certificate, pytest.raises((aiohttp.ClientError, ssl.SSLError)):
        await gate.call("GET", "/v1/executor/channel", certificate=certificate)


async def test_M2_a_route_that_says_too_little_of_itself_does_not_start(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No role, no answer, no body, no description: what nobody declared is not served."""

    async def told(_request: web.Request, _caller: Any) -> web.Response:
        """Nothing."""
        return web.Response(status=204)

    async def untold(_request: web.Request, _caller: Any) -> web.Response:
        return web.Response(status=204)

    def declared(path: str = "/v1/oops", method: str = "GET", handle: Handle = told, **rest: Any) -> Route:
        return Route(method, path, **({"roles": OPERATOR, "answers": json_of(Problem)} | rest), handle=handle)

    careless = {
        "declares no role": declared(roles=frozenset()),
        "declares no answer": declared(answers=()),
        "declares no body": declared(method="POST"),
        "has no description": declared(handle=untold),
        "undescribed parameters: oops": declared("/v1/{oops}"),
    }
    for said, route in careless.items():
        monkeypatch.setattr(gateway.app, "all_routes", lambda inner, route=route: (*all_routes(inner), route))
        with pytest.raises(ValueError, match=said):
            gate.gateway.application()
    honest = (declared(), declared("/v1/oops", "POST", body=Body(Problem)))
    monkeypatch.setattr(gateway.app, "all_routes", lambda inner: (*all_routes(inner), *honest))
    gate.gateway.application()


def pages(app: web.Application) -> list[tuple[str, str]]:
    """Method and path of all that people have instead of the API."""
    found = [(route.method, getattr(route.resource, "canonical", "")) for route in app.router.routes()]
    return [(method, path) for method, path in found if path == CONSOLE or path.startswith(f"{CONSOLE}/")]


async def test_M2_what_the_console_shows_without_a_session_is_this_alone(gate: GatewayInProcess) -> None:
    shown = set()
    every = pages(gate.gateway.application())
    assert len(every) > 30
    for method, path in every:
        named = re.sub(r"\{[^}]*\}", "0", path)
        answer = await gate.call(method, named, body=b"" if method == "POST" else None, headers={PART: "1"})
        if method != "HEAD" and answer.status != 401:
            shown.add((method, path))
    assert sorted(shown) == sorted(OPEN_PAGES)


async def test_M2_nothing_is_served_that_is_not_in_the_list_of_routes(gate: GatewayInProcess) -> None:
    app = gate.gateway.application()
    served = {(route.method, getattr(route.resource, "canonical", "")) for route in app.router.routes()}
    served -= set(pages(app))  # see the next test
    assert served == {(route.method, route.path.replace(":.+", "")) for route in all_routes(gate.gateway)}
    assert {route.path for route in all_routes(gate.gateway) if Role.ANYONE in route.roles} == {
        "/livez",
        "/readyz",
        "/v1/docs",
        "/v1/enrollments",
        "/v1/enrollments/{enrollment}/activation",
        "/v1/gateway/attestation",
        "/v1/openapi.json",
    }


async def test_M3_an_executor_is_neither_orchestrator_nor_auditor_nor_operator(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """Not even with a token in the other hand: each route takes one kind of credential."""
    await executor.enroll()
    token = await gate.token("operator")
    with executor.enrolled.client_certificate() as certificate:
        answer = await gate.call("GET", "/v1/executors", certificate=certificate)
        assert (answer.status, answer.code) == (403, "auth.role")
        answer = await gate.call("POST", "/v1/dispatches", certificate=certificate, token=token, body=b"{}")
        assert (answer.status, answer.code) == (403, "auth.role")
    answer = await gate.call("GET", "/v1/executor/channel", token=token)
    assert (answer.status, answer.code) == (401, "auth.credential_missing")


async def test_M4_nobody_speaks_for_another(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, executors: Callable[[], ScriptedExecutor]
) -> None:
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    other = executors()
    await other.enroll()
    before = gate.records()
    async with other.connect() as theirs:
        name = grant.authorization
        await theirs.send(StartedMessage(authorization=name, enforcement="none"))
        await theirs.send(
            EndedMessage(authorization=name, outcome="killed", exit_status=None, signal=9, reason="", kill_ms=None)
        )
        await theirs.send(ActivateMessage(artifact=grant.artifact))
        assert (await theirs.next(RefusedMessage)).reason == "jws.executor"
        await gate.gateway.database.write(lambda _tx: None)  # behind whatever those messages had written
        assert gate.records()[len(before) :] == []
    assert executor.state(grant.authorization) == "running"
    # One orchestrator neither sees nor ends what another one has.
    stranger = await gate.token("orchestrator", "stranger")
    for path in ("", "/bundle", "/children"):
        answer = await gate.call("GET", f"/v1/authorizations/{name}{path}", token=stranger)
        assert (answer.status, answer.code) == (404, "artifact.unknown")
    listed = await gate.call("GET", "/v1/authorizations", token=stranger)
    assert listed.json == {"authorizations": [], "next": None}


# --- what a request may contain ----------------------------------------------------------------------------------
HOSTILE = (
    "'; DROP TABLE records; --",
    '" OR 1=1 --',
    "%27%20OR%201=1",
    "../../etc/passwd",
    "..%2f..%2fetc%2fpasswd",
    "%2e%2e/%2e%2e/gateway.toml",
    "%00",
    "a\nb",
    "%0d%0aX-Injected:%201",
    "\u202e\u2028\x1b[31m",
    "%ff%fe",
    "%ed%a0%80",
    "\ud800",
    "x" * 5000,
    "ex-" + "A" * 32,
    "ex-" + "0" * 31,
    "ex-" + "0" * 32 + ".",
    "EX-" + "0" * 32,
    "ex-" + "\uff10" * 32,
    "records; SELECT * FROM tokens",
)


HOSTILE_PLACES = ("executor", "workflow", "run", "step", "env")


async def test_M5_M7_hostile_ids_find_nothing_and_change_nothing(gate: GatewayInProcess) -> None:
    token = await gate.token("operator")
    before = state(gate)
    raw = Raw(gate)
    for hostile in HOSTILE:
        quoted = hostile.encode("utf-8", "surrogatepass")
        escaped = b"".join(b"%%%02x" % byte if byte <= 0x20 or byte > 0x7E else bytes((byte,)) for byte in quoted)
        for path in (b"/v1/authorizations/%s", b"/v1/authorizations/%s/bundle", b"/v1/executors?after=%s"):
            answer = await raw.get(path.replace(b"%s", escaped), token)
            assert answer.status in {200, 400, 404}, (path, hostile, answer)
            assert b"Traceback" not in answer.data
            if answer.status == 200:
                assert answer.json["executors"] == []
        for path in (b"/v1/baselines/%s/approval", b"/v1/authorizations/%s/revocation"):
            answer = await raw.get(path.replace(b"%s", escaped), token, method=b"POST")
            assert answer.status in {400, 404}, (path, hostile, answer)
        answer = await raw.get(b"/v1/events?from=" + escaped, token)
        assert (answer.status, answer.code) == (400, "request.malformed")
    assert state(gate) == before


async def test_M5_C4_hostile_strings_in_every_member_of_a_dispatch_are_refused(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator")
    before = state(gate)
    honest = DispatchRequest(executor="ex-" + "0" * 32, job=job()).model_dump()
    for hostile in HOSTILE:
        a_name = re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}", hostile)  # odd, and harmless as one
        for where in ("executor", "env") if a_name else HOSTILE_PLACES:
            body = json.loads(json.dumps(honest))
            (body if where == "executor" else body["job"])[where] = hostile
            answer = await gate.call("POST", "/v1/dispatches", token=token, body=json.dumps(body).encode())
            assert (answer.status, answer.code) == (400, "request.malformed"), (where, hostile, answer)
    for name in ("x\n", "x\r", "x\x00", " x", "x ", "x\u2028", "x\x7f", ".x", "-x", "", "x" * 129):
        body = json.loads(json.dumps(honest))
        body["job"]["workflow"] = name
        answer = await gate.call("POST", "/v1/dispatches", token=token, body=json.dumps(body).encode())
        assert answer.status == 400, name
    assert state(gate) == before


async def test_M6_no_text_from_outside_starts_a_line_of_the_log(
    gate: GatewayInProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    token = await gate.token("orchestrator")
    configure(verbose=True)
    try:
        structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr), cache_logger_on_first_use=False)
        raw = Raw(gate)
        for nasty in (b"%0a%7b%22forged%22:1%7d", b"%0d%0a", b"%e2%80%a8", b"%1b%5b2J", b"%c2%85"):
            await raw.get(b"/v1/authorizations/" + nasty, token)
            await raw.get(b"/v1/events?from=" + nasty, token)
        body = json.dumps({"executor": '\n{"forged": 1}\n\u2028\x1b', "job": {"argv": ["\n"]}}).encode()
        await gate.call("POST", "/v1/dispatches", token=token, body=body)
    finally:
        structlog.reset_defaults()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 11
    for line in lines:
        parsed = json.loads(line)
        assert "forged" not in parsed
        assert line.isascii()
        assert line.isprintable()


@pytest.mark.parametrize(
    "head",
    [
        b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
        b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nContent-Length: +4\r\n\r\nabcd",
        b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nContent-Length: 0x4\r\n\r\nabcd",
        b"GET /livez HTTP/1.1\r\nHost: x\r\n folded: 1\r\n\r\n",
        b"GET /livez HTTP/1.1\r\nHost: x\r\nX: a\x00b\r\n\r\n",
        b"GET /livez HTTP/9.9\r\nHost: x\r\n\r\n",
    ],
    ids=lambda head: None,
)
async def test_M8_a_request_with_two_readings_is_refused(head: bytes, gate: GatewayInProcess) -> None:
    second = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"
    answer = await Raw(gate).send(head + second)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.0 400"))
    assert b"HTTP/1.1 200" not in answer


async def test_M9_headers_of_proxies_have_no_say(gate: GatewayInProcess) -> None:
    forwarded = {
        "X-Forwarded-For": "127.0.0.1",
        "Forwarded": "for=127.0.0.1;proto=https",
        "X-Real-IP": "127.0.0.1",
        "X-SSL-Client-Cert": "x",
        "X-Forwarded-Client-Cert": "URI=spiffe://gate.test/executor/ex-" + "0" * 32,
        "X-Original-URL": "/livez",
        "X-HTTP-Method-Override": "GET",
    }
    for path in ("/v1/executors", "/v1/executor/channel"):
        assert (await gate.call("GET", path, headers=forwarded)).status == 401


async def test_M10_a_defect_is_told_to_the_log_and_to_nobody_else(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> list[str]:
        raise RuntimeError("the secret of /srv/gateway/key.pem")

    monkeypatch.setattr(gate.gateway, "not_ready", broken)
    with structlog.testing.capture_logs() as logged:
        answer = await gate.call("GET", "/readyz")
    assert (answer.status, answer.code) == (500, "internal.error")
    assert b"secret" not in answer.data
    assert b"Traceback" not in answer.data
    assert any(answer.json["instance"].endswith(entry.get("instance", "-")) for entry in logged)


async def test_M11_L19_neither_tokens_nor_artifacts_are_stored_or_logged_in_the_clear(
    gate: GatewayInProcess, executor: ScriptedExecutor, capfd: pytest.CaptureFixture[str]
) -> None:
    configure(verbose=True)
    try:
        await executor.enroll()
        async with executor.connect() as channel:
            await executor.approve()
            token = await gate.token("orchestrator", "flows")
            body = DispatchRequest(executor=executor.id, job=job()).model_dump_json().encode()
            artifact = (await gate.call("POST", "/v1/dispatches", token=token, body=body)).json["artifact"]
            await channel.send(ActivateMessage(artifact=artifact))
            await channel.next(LeaseMessage)
            await channel.send(ActivateMessage(artifact=artifact))
            await channel.next(RefusedMessage)
            await gate.call("GET", f"/v1/events?from={artifact}&token={token}", token=token)
    finally:
        structlog.reset_defaults()
    said = "".join(capfd.readouterr())
    assert said
    assert token not in said
    assert artifact not in said
    await gate.stop()
    for path in gate.data.rglob("*"):
        if path.is_file():
            assert token.encode() not in path.read_bytes(), path


async def test_M12_requests_without_a_credential_change_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    before = state(gate)
    for route, path in paths(gate.gateway):
        for body in (None, b"", b"{}", b"null", b"\xff"):
            answer = await gate.call(route.method, path, body=body)
            assert answer.status in {200, 400, 401, 409, 415}, (route, body, answer)
    assert state(gate) == before


@pytest.mark.parametrize("name", ["tls/key.sealed", "executor-ca/key.sealed", "sealed-key.json"])
async def test_M14_a_key_that_others_can_read_is_not_used(name: str, gate: GatewayInProcess) -> None:
    path: Path = gate.data / name
    await gate.stop()
    for mode in (0o640, 0o604, 0o660):
        os.chmod(path, mode)  # noqa: PTH101
        with pytest.raises(EnvironmentProblem) as refused:
            await gate.start()
        assert refused.value.reason is GateReason.ENVIRONMENT_KEY_FILE
    os.chmod(path, 0o600)  # noqa: PTH101
    await gate.start()
    assert gate.gateway.not_ready() == []


# --- too much ----------------------------------------------------------------------------------------------------
async def chunks(total: int, size: int = 1 << 16) -> AsyncIterator[bytes]:
    for _ in range(total // size + 1):
        yield b" " * size


async def test_N1_a_body_that_is_too_large_is_refused_while_it_comes(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator")
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {token}"}
    connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca))
    async with aiohttp.ClientSession(connector=connector) as session:
        for body in (io.BytesIO(b" " * (limits.BODY + 1)), chunks(limits.BODY)):
            async with session.post(gate.url + "/v1/dispatches", data=body, headers=headers) as response:
                assert response.status == 413
                assert (await response.json(content_type=None))["code"] == "request.too_large"


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "x"])
async def test_N2_nothing_is_unpacked(encoding: str, gate: GatewayInProcess) -> None:
    import gzip  # noqa: PLC0415

    token = await gate.token("orchestrator")
    bomb = gzip.compress(bytes(10 << 20))
    answer = await gate.call("POST", "/v1/dispatches", token=token, body=bomb, headers={"Content-Encoding": encoding})
    assert answer.status in {400, 415}, answer
    for kind in ("text/plain", "application/x-www-form-urlencoded", "application/json-patch+json", ""):
        answer = await gate.call("POST", "/v1/dispatches", token=token, body=b"{}", headers={"Content-Type": kind})
        assert (answer.status, answer.code) == (415, "request.content_type")


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b"[" * 500 + b"]" * 500,
        b'{"executor":"a","executor":"b"}',
        b'{"max_runtime_s":NaN}',
        b'{"max_runtime_s":1e400}',
        b'{"max_runtime_s":' + b"9" * 5000 + b"}",
        b"\xef\xbb\xbf{}",
        "{}".encode("utf-16"),
        b"{} {}",
        b'{"executor":"\\ud800"}',
        b"",
        b"null",
        b"[]",
    ],
    ids=lambda body: None,
)
async def test_N3_json_with_more_than_one_meaning_is_refused(body: bytes, gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator")
    answer = await gate.call("POST", "/v1/dispatches", token=token, body=body)
    assert (answer.status, answer.code) == (400, "request.malformed")


async def test_N4_a_body_that_drips_is_given_up(gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    assert limits.REQUEST_S <= 15
    monkeypatch.setattr(limits, "REQUEST_S", 0.2)
    token = await gate.token("orchestrator")
    raw = Raw(gate)
    head = b"POST /v1/dispatches HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n"
    began = time.monotonic()
    answer = await raw.send(
        head + b"Authorization: Bearer " + token.encode() + b"\r\nConnection: close\r\n\r\n{", dripping=True
    )
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"request.timeout" in answer
    assert time.monotonic() - began < 10


async def test_N8_lists_without_end_are_refused(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator")
    honest = DispatchRequest(executor="ex-" + "0" * 32, job=job()).model_dump()
    for name, value in (
        ("argv", ["x"] * 1_000),
        ("argv", ["x"] * 200_000),
        ("argv", ["x" * 5000]),
        ("argv", []),
        ("files", {f"/{n}": "0" * 64 for n in range(1000)}),
    ):
        body = {**honest, "job": {**honest["job"], name: value}}
        answer = await gate.call("POST", "/v1/dispatches", token=token, body=json.dumps(body).encode())
        assert answer.status in {400, 413}, (name, answer)
        assert len(answer.data) < 16 << 10, "a refusal does not repeat what it refuses"


async def test_N7_an_enrollment_that_nobody_began_is_refused_before_its_body_is_read(gate: GatewayInProcess) -> None:
    """Twelve megabytes of JSON from nobody in particular would be read and parsed otherwise."""
    connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca))
    sent = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal sent
        for _ in range(100):
            sent += 1 << 16
            yield b" " * (1 << 16)
            await asyncio.sleep(0.01)

    async with aiohttp.ClientSession(connector=connector) as session:
        url = gate.url + "/v1/enrollments/" + "x" * 22 + "/activation"
        async with session.post(url, data=body(), headers={"Content-Type": "application/json"}) as response:
            assert response.status == 409
            assert (await response.json(content_type=None))["code"] == "enroll.challenge_used"
    assert sent < 6 << 20


async def test_405_names_the_methods_that_are_there(gate: GatewayInProcess) -> None:
    answer = await gate.call("DELETE", "/v1/dispatches")
    assert (answer.status, answer.code) == (405, "request.method")
    assert answer.headers["Allow"] == "POST"


# --- artifacts ---------------------------------------------------------------------------------------------------
async def test_L13_an_artifact_is_activated_once_however_often_it_is_presented(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    for _ in range(50):
        await channel.send(ActivateMessage(artifact=grant.artifact))
    lease = await channel.next(LeaseMessage)
    refusals = [await channel.next(RefusedMessage) for _ in range(49)]
    assert {one.reason for one in refusals} <= {"artifact.used", "lifecycle.transition"}
    assert lease.authorization == grant.authorization
    assert len(gate.records("authorization.activated")) == 1
    # Nor does a renewal activate anything.
    await channel.send(ActivateMessage(artifact=lease.artifact))
    assert (await channel.next(RefusedMessage)).reason == "artifact.used"


async def test_L15_what_was_revoked_is_not_activated(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    async with await gate.client("operator") as operator:
        assert (await operator.revoke(grant.authorization)).state == "revoked"
    assert (await channel.next(RefusedMessage)).reason == "operator.revoked"
    assert (await channel.refused(grant)).reason == "artifact.used"
    assert executor.state(grant.authorization) == "revoked"
    async with await gate.client("orchestrator", "flows") as orchestrator:
        assert (await orchestrator.authorization(grant.authorization)).reason == "operator.revoked"


async def test_L15_P4_a_quote_that_comes_after_the_lease_renews_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """The gateway was stopped for longer than a lease and finds a good quote when it goes on: it is too late."""
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    live = authorizations.activated(gate.gateway.database.reading, executor.id)
    session = gate.gateway.channels.get(executor.id)
    assert session is not None
    gate.gateway.deadlines.clear(("lease", grant.authorization))
    gate.clock.passed_s += 100
    from ztrooted.evidence import Purpose, live_set_digest  # noqa: PLC0415

    binding = live_set_digest(frozenset({grant.authorization}))
    done = await gate.gateway.rounds.prove(session, Purpose.RUNTIME, (binding,))
    assert done.trusted
    leases, revoked = await gate.gateway.authorizer._renew(live, done, gate.gateway.orders.epoch)
    assert leases == []
    assert [one.reason for one in revoked] == ["lease.expired"]


async def test_L15_an_end_that_is_reported_after_the_lease_does_not_pass_for_a_normal_one(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    gate.gateway.deadlines.clear(("lease", grant.authorization))
    gate.clock.passed_s += 100
    await channel.ended(grant)
    assert [one["body"]["reason"] for one in gate.records("authorization.revoked")] == ["lease.expired"]


async def test_an_executor_can_not_choose_whom_to_blame(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Only the gateway knows why it revoked; what an executor may say for itself is a short list."""
    said = {
        "operator.revoked": "execution.agent_lost",
        "policy.denied": "execution.agent_lost",
        "anything": "execution.agent_lost",
        "execution.abandoned": "execution.abandoned",
        "max_runtime": "execution.max_runtime",
    }
    for reason, recorded in said.items():
        grant = await executor.authorize(job(reason.replace(".", "-")))
        await channel.activate(grant)
        await channel.started(grant)
        await channel.ended(grant, "killed", reason=reason, exit_status=None, signal=9)
        assert gate.records("authorization.revoked")[-1]["body"]["reason"] == recorded


async def test_L18_what_could_not_be_recorded_does_not_leave(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Signing works, and the disk refuses: the answer is no, and a retry without the fault is yes."""
    import sqlite3  # noqa: PLC0415
    from contextlib import closing  # noqa: PLC0415

    token = await gate.token("orchestrator", "flows")
    body = DispatchRequest(executor=executor.id, job=job()).model_dump_json().encode()
    for table in ("artifacts", "records", "blobs", "authorizations"):
        before = len(gate.records())
        broken = f"CREATE TRIGGER broken BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        with closing(sqlite3.connect(gate.data / "gateway.db")) as other:
            other.execute(broken)
        answer: Answer = await gate.call("POST", "/v1/dispatches", token=token, body=body)
        assert (answer.status, answer.code) == (503, "database.unavailable"), (table, answer)
        assert b"eyJ" not in answer.data
        assert gate.records("authorization.issued") == []
        assert table in {"artifacts", "blobs"} or len(gate.records()) == before, "what nobody asked for was decided"
        with closing(sqlite3.connect(gate.data / "gateway.db")) as other:
            other.execute("DROP TRIGGER broken")
    assert (await gate.call("POST", "/v1/dispatches", token=token, body=body)).status == 201


async def test_L18_the_executor_is_asked_meanwhile_and_nobody_is_answered_before_the_request_is_on_record(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    entered, go, loop = asyncio.Event(), threading.Event(), asyncio.get_running_loop()
    token, body = await gate.token("orchestrator", "flows"), DispatchRequest(executor=executor.id, job=job())
    await channel.renew()  # so that no other round is under way, or due

    def hold(_tx: Transaction) -> None:
        loop.call_soon_threadsafe(entered.set)
        go.wait()

    holding = asyncio.create_task(gate.gateway.database.write(hold))
    await entered.wait()
    try:
        sent = body.model_dump_json().encode()
        asked = asyncio.create_task(gate.call("POST", "/v1/dispatches", token=token, body=sent))
        while (challenge := await channel.next(ChallengeMessage)).purpose != "dispatch":
            continue
        session = gate.gateway.channels.get(executor.id)
        while session is None or challenge.challenge in session._waiting:  # noqa: ASYNC110 -- nothing tells
            await asyncio.sleep(0)
        assert not asked.done()
        assert gate.records("dispatch.requested", "policy.evaluated") == []
    finally:
        go.set()
        await holding
    rows = gate.gateway.database.reading.execute(
        "SELECT type FROM records WHERE authorization = ? ORDER BY seq", ((await asked).json["authorization"],)
    )
    assert [kind for (kind,) in rows] == ["dispatch.requested", "policy.evaluated", "authorization.issued"]


async def test_L19_an_artifact_in_a_url_is_refused(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    token = await gate.token("orchestrator")
    answer = await gate.call("GET", "/v1/events?from=eyJhbGciOiJFUzI1NiJ9", token=token)
    assert (answer.status, answer.code) == (400, "request.malformed")


async def test_a_gateway_that_can_not_reach_its_tpm_issues_nothing_once_its_seal_is_old(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    tpm: SoftwareTpm = gate.tpm
    tpm.kill()
    gate.clock.passed_s += 181
    with pytest.raises(Refused) as refused:
        await executor.authorize()
    assert refused.value.reason in {GateReason.CHECKPOINT_STALE, GateReason.SERVICE_NOT_READY}
    tpm.start()


# --- requests that no client library would send ------------------------------------------------------------------
class Raw:
    """Bytes over TLS."""

    def __init__(self, gate: GatewayInProcess) -> None:
        self.gate = gate

    async def send(self, data: bytes, *, dripping: bool = False) -> bytes:
        """Send, and read until the gateway hangs up or says nothing more."""
        reader, writer = await asyncio.open_connection(HOST, self.gate.port, ssl=tls_context(self.gate.ca))
        try:
            writer.write(data)
            answer = b""
            for _ in range(200):
                try:
                    async with asyncio.timeout(0.1 if dripping else 0.5):
                        part = await reader.read(1 << 16)
                except TimeoutError:
                    if answer or not dripping:
                        return answer
                    writer.write(b" ")
                    continue
                if not part:
                    return answer
                answer += part
            return answer
        finally:
            writer.close()

    async def get(self, target: bytes, token: str, *, method: bytes = b"GET") -> Answer:
        """One request with an address that is sent as it is."""
        head = method + b" " + target + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
        data = await self.send(head + b"Authorization: Bearer " + token.encode() + b"\r\n\r\n")
        top, _, body = data.partition(b"\r\n\r\n")
        status, *lines = top.decode("latin-1").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        return Answer(int(status.split()[1]), body, headers)
