"""How often somebody may ask, how much that may cost, and that nobody known is held up by those who are not."""

import asyncio
import io
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import structlog

from gateway.listening import Listener
from gateway.routes.attestation import MAX_OF_ADDRESS, MAX_WAITING
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import HOST, Answer, GatewayInProcess
from tests.support.pace import at_most
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII
from ztrooted import limits
from ztrooted.client import Refused, tls_context
from ztrooted.executor import agent as agents
from ztrooted.executor.agent import Agent, AgentConfig
from ztrooted.reasons import GateReason
from ztrooted.request_rate import RequestRate

ELSEWHERE, HERE = "127.0.0.2", "127.0.0.1"


@pytest.fixture
async def hurried(gate: GatewayInProcess) -> GatewayInProcess:
    """A gateway with the rates that one has by default, where no time passes by itself."""
    rates = gate.gateway.rates
    rates._addresses = RequestRate(10, 256, lambda: gate.clock.passed_s)
    rates._executors = RequestRate(10, limits.EXECUTOR_REQUESTS_AT_ONCE, lambda: gate.clock.passed_s)
    return gate


@asynccontextmanager
async def at(
    gate: GatewayInProcess, source: str, certificate: tuple[str, str] | None = None
) -> AsyncIterator[aiohttp.ClientSession]:
    """A client at an address of this machine, with one connection."""
    connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca, certificate), local_addr=(source, 0), limit=1)
    async with aiohttp.ClientSession(gate.url, connector=connector) as session:
        yield session


async def ask(session: aiohttp.ClientSession, method: str, path: str, **sent: Any) -> Answer:
    async with session.request(method, path, **sent) as answer:
        return Answer(answer.status, await answer.read(), dict(answer.headers))


# --- an address ----------------------------------------------------------------------------------------------------
WITHOUT = {
    "no credential": ("GET", "/v1/executors", {}),
    "a wrong one": ("GET", "/v1/executors", {"headers": {"Authorization": "Bearer zt-" + "A" * 43}}),
    "none that anybody needs": ("GET", "/v1/gateway/attestation?nonce=" + "ab" * 16, {}),
    "an enrollment": ("POST", "/v1/enrollments", {"json": {}}),
    "an executor's channel": ("GET", "/v1/executor/channel", {}),
    "nothing there": ("GET", "/v1/nothing", {}),
}


@pytest.mark.parametrize("way", WITHOUT)
async def test_N10_D8_an_address_without_a_credential_is_limited_and_nobody_else_is(
    way: str, hurried: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """Each request of nobody known costs; known ones at the same address, and strangers at others, go on."""
    gate = hurried
    method, path, sent = WITHOUT[way]
    await executor.enroll()
    token = {"Authorization": f"Bearer {await gate.token('operator')}"}
    gate.gateway.rates.unproved(ELSEWHERE, 255)
    with structlog.testing.capture_logs() as logged:
        async with at(gate, ELSEWHERE) as session:
            assert (await ask(session, method, path, **sent)).status != 429  # the last one that it has
            for _ in range(3):
                answer = await ask(session, method, path, **sent)
                assert (answer.status, answer.code) == (429, "request.rate"), answer
                assert answer.headers["Retry-After"] == "1"
                assert answer.headers["Connection"] == "close"
            assert (await ask(session, "GET", "/v1/executors", headers=token)).status == 200
            assert (await ask(session, "GET", "/livez")).status == 200
    assert [entry["count"] for entry in logged if entry["event"] == "requests limited"] == [1]
    assert len([entry for entry in logged if entry["event"] == "refused"]) <= 1
    async with at(gate, HERE) as session:
        assert (await ask(session, method, path, **sent)).status != 429
    with executor.enrolled.client_certificate() as certificate:
        async with at(gate, ELSEWHERE, certificate) as session:
            async with session.ws_connect("/v1/executor/channel") as channel:
                assert json.loads(await channel.receive_str())["type"] == "issuer"
            assert (await ask(session, "GET", "/v1/gateway/attestation?nonce=" + "ab" * 16)).status == 200
    gate.clock.passed_s += 0.1  # and a tenth of a second later it has one more
    async with at(gate, ELSEWHERE) as session:
        assert [(await ask(session, method, path, **sent)).status == 429 for _ in range(2)] == [False, True]
    limited = 'ztrooted_requests_limited_total{kind="address"} 4.0'
    assert limited in gate.gateway.metrics.text().decode()


@pytest.mark.parametrize("body", ["Content-Length: 900000", "Transfer-Encoding: chunked"])
async def test_N3_who_has_nothing_left_is_not_read_on(
    body: str, gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To receive a megabyte costs as much as to judge it. Others get the time to take their refusal."""
    monkeypatch.setattr(limits, "LINGER_S", 3600)
    await gate.restart()
    gate.gateway.rates._addresses = RequestRate(10, 256, lambda: gate.clock.passed_s)
    gate.gateway.rates.unproved(HERE, 256)
    reader, writer = await asyncio.open_connection(HOST, gate.port, ssl=tls_context(gate.ca))
    writer.write(f"POST /v1/executors HTTP/1.1\r\nHost: x\r\n{body}\r\n\r\n".encode())
    async with asyncio.timeout(20):
        assert (await reader.read()).startswith(b"HTTP/1.1 429")
    writer.close()


async def test_N10_what_is_no_http_costs_too_and_writes_no_more_lines(hurried: GatewayInProcess) -> None:
    gate = hurried
    gate.gateway.rates.unproved(HERE, 255)
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            reader, writer = await asyncio.open_connection(HOST, gate.port, ssl=tls_context(gate.ca))
            writer.write(b"\x16\x03 what is this\r\n\r\n")
            assert (await reader.read()).startswith(b"HTTP/1.0 400")
            writer.close()
    assert len([entry for entry in logged if entry["event"] == "refused"]) == 1


async def test_an_enrollment_that_succeeds_costs_nothing(hurried: GatewayInProcess, executor: ScriptedExecutor) -> None:
    """However many machines there are behind one address; one that enrolls again and again pays like a stranger."""
    rates = hurried.gateway.rates
    rates.unproved(HERE, 250)
    for _ in range(5):
        await executor.enroll()
    assert rates._addresses.wait_s(HERE, 6) == 0
    assert rates._executors.take(f"executor:{executor.id}", limits.EXECUTOR_REQUESTS_AT_ONCE - 5)
    with suppress(Refused):
        for _ in range(4):
            await executor.enroll()
    with pytest.raises(Refused) as refused:
        await executor.enroll()
    assert refused.value.reason is GateReason.REQUEST_RATE
    assert refused.value.retry_after_s == 1


async def test_D8_an_agent_that_is_told_to_wait_comes_again(
    hurried: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agents, "BACKOFF_S", (0.0, 0.0))  # then it would ask a hundred times before it has waited
    rates = hurried.gateway.rates
    rates.unproved(HERE, 256)
    logs = {"event_log": executor.folder / EVENT_LOG, "ima": executor.folder / IMA_ASCII}
    config = AgentConfig(hurried.url, hurried.ca, executor.tpm.address, tmp_path / "agent.sock", **logs)
    agent = Agent(config, executor.device)
    with structlog.testing.capture_logs() as logged:

        def refusals() -> int:
            return len([one for one in logged if (one["event"], one.get("code")) == ("not connected", "request.rate")])

        running = asyncio.create_task(agent._stay_connected())
        async with asyncio.timeout(20):
            while not refusals():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.3)
            assert refusals() == 1
            rates.give_back(HERE, 256)
            while agent._channel is None:
                assert not running.done()
                await asyncio.sleep(0.01)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_N10_refused_enrollments_are_recorded_so_often_and_no_more(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """Whoever knows a machine's EK certificate can be refused in its name without end."""
    rates = gate.gateway.rates
    for _ in range(limits.REFUSALS_AT_ONCE - 1):
        assert rates.may_record("ex-of-somebody", HERE)
    for _ in range(4):
        challenge = await executor.begin()
        with pytest.raises(Refused) as refused:
            await executor.finish(challenge, type(executor.prove(challenge))("0" * 64, executor.prove(challenge).quote))
        assert refused.value.reason is GateReason.ENROLL_ACTIVATION_FAILED
    assert len(gate.records("executor.refused")) == 1


async def test_strangers_do_not_stand_between_an_executor_and_the_gateways_attestation(
    hurried: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor those of one address before those of others."""
    gate = hurried
    await executor.enroll()
    going, signer = asyncio.Event(), gate.gateway.signer
    quote, order = signer.quote, []

    async def slowly(wanted: bytes) -> Any:
        await going.wait()
        return await quote(wanted)

    monkeypatch.setattr(signer, "quote", slowly)

    async def attest(session: aiohttp.ClientSession, name: str) -> int:
        status = (await ask(session, "GET", "/v1/gateway/attestation?nonce=" + "ab" * 16)).status
        order.append(name)
        return status

    async with AsyncExitStack() as stack:
        strangers: list[asyncio.Task[int]] = []
        for number in range(MAX_WAITING // MAX_OF_ADDRESS):  # each from an address that takes all it may
            source = f"127.0.0.{number + 2}"
            connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca), local_addr=(source, 0), limit=0)
            many = await stack.enter_async_context(aiohttp.ClientSession(gate.url, connector=connector))
            strangers.extend(asyncio.create_task(attest(many, "stranger")) for _ in range(MAX_OF_ADDRESS))
            paid = 257 - MAX_OF_ADDRESS
            while gate.gateway.rates._addresses.wait_s(source, paid) == 0:  # noqa: ASYNC110 -- until they have paid
                await asyncio.sleep(0.01)
            answer = await ask(many, "GET", "/v1/gateway/attestation?nonce=" + "ab" * 16)
            assert (answer.status, answer.code) == (503, "service.busy")
            assert not any(one.done() for one in strangers)
        with executor.enrolled.client_certificate() as certificate:
            async with at(gate, HERE, certificate) as session:
                gate.gateway.rates._executors._left.clear()
                mine = asyncio.create_task(attest(session, "executor"))
                while not gate.gateway.rates._executors._left:  # noqa: ASYNC110 -- until it is there
                    await asyncio.sleep(0.01)
                going.set()
                assert await mine == 200
        assert order.index("executor") <= 2, order
        assert set(await asyncio.gather(*strangers)) == {200}


# --- somebody known ------------------------------------------------------------------------------------------------
async def test_an_identity_is_limited_and_no_other(gate: GatewayInProcess) -> None:
    gate.gateway.rates._people = RequestRate(1, 2, lambda: gate.clock.passed_s)
    one, other = [{"Authorization": f"Bearer {await gate.token('auditor', name)}"} for name in ("one", "other")]
    async with at(gate, HERE) as session:
        answers = [await ask(session, "GET", "/v1/executors", headers=one) for _ in range(3)]
        assert [answer.status for answer in answers] == [200, 200, 429]
        assert answers[2].code == "request.rate"
        assert answers[2].headers.get("Connection") != "close"
        assert (await ask(session, "GET", "/v1/executors", headers=other)).status == 200
        assert (await ask(session, "GET", "/v1/executors")).status == 401
        gate.clock.passed_s += 1
        assert (await ask(session, "GET", "/v1/executors", headers=one)).status == 200


async def test_an_executor_that_says_too_much_is_read_from_more_slowly(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(RequestRate, "wait_s", lambda _self, _name, cost=1.0: waits.append(cost) or 0.0)
    for size in (10, limits.PIECE * 3):
        await channel.send('{"type":"measured"}' + " " * size)
        await channel.renew()  # it was heard: what comes behind it is
    assert waits[0] == 1
    assert 4 in waits
    monkeypatch.undo()
    rate = RequestRate(limits.CHANNEL_MESSAGES_PER_S, limits.CHANNEL_MESSAGES_AT_ONCE, lambda: 0.0)
    assert rate.wait_s("", 1 + limits.EVIDENCE_BODY // limits.PIECE) == 0  # the largest evidence waits for nothing
    while rate.take(""):
        pass
    assert rate.wait_s("") > 0


# --- what one request costs ----------------------------------------------------------------------------------------
WIDE = b",".join(b'"k%d":1' % number for number in range(80_000))


async def test_K7_N3_N7_wide_json_of_strangers_is_refused_before_it_is_read(
    hurried: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """A member that nobody asked for takes nine bytes to send, and sixteen microseconds to refuse by its name."""
    for body in (
        b"{" + WIDE + b"}",
        b'{"ek_public":[' + b"1," * 300_000 + b"1]}",
        b'["\\",',
        b'{"a":"' + b"," * 10_000,
    ):
        with at_most(0.3):
            answer = await hurried.call("POST", "/v1/enrollments", body=body)
        assert (answer.status, answer.code) == (400, "request.malformed"), answer
    challenge = await executor.begin()
    path = f"/v1/enrollments/{challenge.enrollment}/activation"
    wide = b'{"mac":"0","quote":{' + b",".join([WIDE] * 11) + b"}}"
    assert len(wide) < limits.EVIDENCE_BODY
    with at_most(1):
        answer = await hurried.call("POST", path, body=wide)
    assert (answer.status, answer.code) == (400, "request.malformed"), answer
    typed, rates = {"Content-Type": "application/json"}, hurried.gateway.rates
    rates._addresses = RequestRate(10, 20, lambda: 0.0)
    async with at(hurried, HERE) as session:  # and megabytes are paid for
        answer = await ask(session, "POST", path, data=io.BytesIO(b" " * (11 << 20)), headers=typed)
    assert (answer.status, answer.code) == (429, "request.rate"), answer


async def test_N3_a_wide_message_of_an_executor_is_refused_before_it_is_read(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    with structlog.testing.capture_logs() as logged:
        await channel.send('{"type":"measured",' + WIDE.decode() + "}")
        await channel.closed()
    (refusal,) = [entry for entry in logged if entry["event"] == "malformed channel message"]
    assert f"more than {limits.JSON_VALUES} values" in refusal["detail"]


# --- connections ---------------------------------------------------------------------------------------------------
def test_K8_who_comes_again_and_again_is_turned_away() -> None:
    with Listener(socket.AF_INET, most=9, most_of_address=2, per_second=0.001) as listening:
        listening.bind((HOST, 0))
        listening.listen()
        for number in range(3):
            with socket.create_connection(listening.getsockname()):
                if number == 2:
                    with pytest.raises(BlockingIOError):
                        listening.accept()
                else:
                    listening.accept()[0].close()
        assert listening.refused == 1


@pytest.mark.parametrize("said", [b"", b"GET /livez HTTP/1.1\r\nHost: x\r\nX: "])
async def test_N4_who_never_ends_a_first_request_is_hung_up_on(
    said: bytes, gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.HEADERS_S <= 15
    monkeypatch.setattr(limits, "HEADERS_S", 0.3)
    reader, writer = await asyncio.open_connection(HOST, gate.port, ssl=tls_context(gate.ca))
    writer.write(said)
    async with asyncio.timeout(20):
        with suppress(ConnectionError, ssl.SSLError):
            assert await reader.read() == b""
    writer.close()
