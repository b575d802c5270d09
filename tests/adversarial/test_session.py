"""One session, one machine: clones are found out and halted, half-open connections are replaced, slow readers dropped."""

import asyncio
import socket
import ssl
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import Any

import aiohttp
import pytest

from gateway import channel as channels
from gateway import schedule
from gateway.listening import KEEPALIVE, listen
from gateway.pages import Page
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import HOST, GatewayInProcess
from ztrooted.channel_messages import (
    ActivateMessage,
    CertificateMessage,
    IssuerMessage,
    LeaseMessage,
    MeasuredMessage,
    PingMessage,
    RefusedMessage,
)
from ztrooted.client import Refused
from ztrooted.reasons import GateReason

pytestmark = pytest.mark.asyncio


async def run_job(executor: ScriptedExecutor, channel: Channel) -> str:
    """A live authorization of this executor."""
    grant = await executor.authorize()
    await channel.send(ActivateMessage(artifact=grant.artifact))
    await channel.next(LeaseMessage)
    return grant.authorization


def untrusted(gate: GatewayInProcess) -> list[dict[str, Any]]:
    """Rounds that ended an executor's trust."""
    changes = [one["body"] for one in gate.records("executor.trust_changed")]
    return [one for one in changes if not one["verdict"]["trusted"]]


async def closed(channel: Channel, within_s: float = 5.0) -> None:
    """Wait until the gateway has hung up."""
    async with asyncio.timeout(within_s):
        while not channel.socket.closed:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_two_machines_with_one_session_are_both_halted(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    await executor.enroll()
    async with executor.connect() as first:
        await executor.approve()
        authorization = await run_job(executor, first)
        async with Clone(executor) as second:
            refusal = await first.next(RefusedMessage)
            assert (refusal.authorization, refusal.reason) == (authorization, "session.conflict")
            assert (await second.next(RefusedMessage)).authorization == authorization
            await closed(first)
            await closed(second)
        assert executor.state(authorization) in {"revoked", "interrupted"}
        assert (await executor.wait_for("authorization.revoked", authorization))["reason"] == "session.conflict"
    (quarantined,) = gate.gateway.orders.quarantined(Page()).quarantined
    assert (quarantined.kind, quarantined.id, quarantined.operator) == ("executor", executor.id, "gateway")
    # Neither of them gets anything until an operator has looked, and the second time adds no record.
    async with executor.connect() as alone:
        with pytest.raises(Refused) as denied:
            await executor.authorize()
        assert denied.value.reason == GateReason.OPERATOR_QUARANTINED
        async with Clone(executor) as second:
            await closed(second)
        await closed(alone)
    assert len(gate.records("operator.quarantined")) == 1
    async with await gate.client("operator") as operator:
        await operator.order("releases", "executor", executor.id, "the clone is gone")
    async with executor.connect() as again:
        await run_job(executor, again)


class Clone:
    """A second connection with the same session, as a copy of the machine would make it."""

    def __init__(self, executor: ScriptedExecutor) -> None:
        self._executor = executor
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Channel:
        with self._executor.enrolled.client_certificate() as certificate:
            tls = channels_tls(self._executor.gate, certificate)
        http = await self._stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
        socket = await self._stack.enter_async_context(
            http.ws_connect(self._executor.gate.url + "/v1/executor/channel")
        )
        channel = Channel(self._executor, socket)
        reading = asyncio.create_task(channel.read())
        self._stack.callback(reading.cancel)
        return channel

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()


def channels_tls(gate: GatewayInProcess, certificate: tuple[str, str]) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(gate.ca))
    context.load_cert_chain(*certificate)
    return context


async def test_a_half_open_connection_is_replaced_without_harm(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    await executor.enroll()
    async with executor.connect() as first:
        await executor.approve()
        authorization = await run_job(executor, first)
        first.answers_pings = False  # nobody is there any more, and the gateway has not noticed
        first.answer = lambda _challenge, _collect: None
        async with executor.connect() as second:
            assert await first.next(PingMessage)
            await closed(first)
            renewed = await second.next(LeaseMessage)  # asked at once, since a job runs
            assert renewed.authorization == authorization
    assert gate.records("authorization.revoked") == []
    assert gate.gateway.orders.quarantined(Page()).quarantined == []


async def test_a_reader_that_reads_nothing_is_dropped(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "SEND_S", 0.2)
    await executor.enroll()
    async with executor.connect() as channel:
        transport = channel.socket.get_extra_info("socket")
        assert transport is not None
        channel.socket._conn.transport.pause_reading()  # type: ignore[union-attr]
        session = gate.gateway.channels.get(executor.id)
        assert session is not None
        large = RefusedMessage(authorization=None, reason="x", detail="x" * 4000)

        async def flood() -> None:
            for _ in range(5000):
                await session.send(large)

        with pytest.raises(channels.GateError) as dropped:
            await flood()
        assert dropped.value.reason is GateReason.CHANNEL_CLOSED
        async with asyncio.timeout(20):
            while gate.gateway.channels.get(executor.id) is not None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def test_a_grown_list_is_asked_for_early_and_no_oftener_than_bounded(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    gate.set_pace(interval_s=20, lease_s=60)
    await gate.restart()
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.send(MeasuredMessage())  # no job: it changes nothing
        await run_job(executor, channel)
        asked = len(channel.challenges)
        for _ in range(50):
            await channel.send(MeasuredMessage())
        await channel.next(LeaseMessage, within_s=5)  # the interval is 20 s
        assert len(channel.challenges) == asked + 1
        for _ in range(50):
            await channel.send(MeasuredMessage())
        await asyncio.sleep(0.3)
        assert len(channel.challenges) == asked + 1  # the next may come after a tenth of the interval
        executor.drift()
        revoked = await channel.next(RefusedMessage, within_s=5)
        assert revoked.reason == "ima.not_allowed"


async def test_a_live_job_waits_for_no_idle_machine(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedule, "IDLE_AT_ONCE", 0)
    gate.set_pace(interval_s=0.3)
    await gate.restart()  # with a schedule in which no idle machine is ever asked
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await run_job(executor, channel)
        await channel.next(LeaseMessage)  # the next round of a live one
    text = gate.gateway.metrics.text().decode()
    assert 'ztrooted_challenge_lateness_seconds_count{kind="live"}' in text


async def test_tls_is_1_3_and_never_resumed(gate: GatewayInProcess) -> None:
    old = ssl.create_default_context(cafile=str(gate.ca))
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await asyncio.open_connection(HOST, gate.port, ssl=old)
    context = ssl.create_default_context(cafile=str(gate.ca))

    def request(session: ssl.SSLSession | None) -> tuple[str | None, ssl.SSLSession | None, bool | None]:
        import socket  # noqa: PLC0415

        with (
            socket.create_connection((HOST, gate.port)) as plain,
            context.wrap_socket(plain, server_hostname=HOST, session=session) as tls,
        ):
            tls.sendall(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            while tls.recv(4096):
                pass
            return tls.version(), tls.session, tls.session_reused

    version, session, _ = await asyncio.to_thread(request, None)
    assert version == "TLSv1.3"
    if session is not None:
        assert not session.has_ticket
        _, _, reused = await asyncio.to_thread(request, session)
        assert not reused


async def test_a_certificate_is_renewed_only_by_a_good_quote(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    gate.set_pace(idle_interval_s=0.2, response_deadline_s=2)
    await gate.restart()
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        session = gate.gateway.channels.get(executor.id)
        assert session is not None
        life_ms = gate.gateway.config.session_life_s * 1000
        executor.drift()
        async with asyncio.timeout(20):
            while executor.id not in {one["executor"] for one in untrusted(gate)}:  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        session.certificate_ends_ms = gate.clock.now_ms() + life_ms // 4  # the second half of its life
        with pytest.raises(TimeoutError):
            await channel.next(CertificateMessage, within_s=1)
        executor.reboot()
        await executor.enroll()
    async with executor.connect() as channel:
        session = gate.gateway.channels.get(executor.id)
        assert session is not None
        session.certificate_ends_ms = gate.clock.now_ms() + life_ms // 4
        await channel.next(CertificateMessage, within_s=10)


async def test_a_message_beyond_the_bound_ends_the_channel(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    async with executor.connect() as channel:
        await channel.send("x" * (channels.MESSAGE + 1))
        await closed(channel)
    async with executor.connect() as channel:  # and only that one
        assert isinstance(IssuerMessage, type)
        assert not channel.socket.closed


async def test_a_connection_lost_during_a_round_is_no_verdict_and_no_renewal(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    await executor.enroll()
    async with executor.connect() as first:
        await executor.approve()
        authorization = await run_job(executor, first)
        asked = asyncio.Event()
        first.answer = lambda _challenge, _collect: asked.set()
        round_ = asyncio.create_task(gate.gateway.authorizer.prove_again(executor.id))
        await asyncio.wait_for(asked.wait(), 5)
        await first.socket.close()
        await asyncio.wait_for(round_, 5)
    assert gate.records("attestation.failed", "attestation.overdue") == []
    async with executor.connect() as second:  # asked at once, and renewed
        assert (await second.next(LeaseMessage)).authorization == authorization
        second.answer = lambda _challenge, _collect: None
        await second.socket.close()
    await gate.pass_time(120)  # its lease, and nobody came back
    assert (await executor.wait_for("authorization.revoked", authorization))["reason"] == "lease.expired"


async def test_the_kernel_looks_after_connections_that_are_accepted() -> None:
    """One that was lost without a word is noticed by no heartbeat of ours."""
    few = {"connections": 2, "connections_per_address": 2, "connections_per_address_s": 1}
    config = SimpleNamespace(listen_host="127.0.0.1", listen_port=0, **few)
    listening = listen(config)  # type: ignore[arg-type]
    with listening, socket.create_connection(listening.getsockname()):
        accepted, _ = listening.accept()
        with accepted:
            assert {option: accepted.getsockopt(socket.IPPROTO_TCP, option) for option, _ in KEEPALIVE} == dict(
                KEEPALIVE
            )
