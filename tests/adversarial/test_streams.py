"""What lasts (feeds, channels) ends with the credential that opened it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.auth import token_id
from tests.adversarial.test_identities import People, Provider, people, restart_with, settings, spiffe
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.client import tls_context

__all__ = ["people"]  # a fixture


@asynccontextmanager
async def following(
    gate: GatewayInProcess, *, token: str | None = None, certificate: tuple[str, str] | None = None
) -> AsyncIterator[aiohttp.ClientResponse]:
    """An open feed, of which the first bytes have come."""
    connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca, certificate))
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    before = len(gate.gateway.streams._open)
    async with (
        aiohttp.ClientSession(gate.url, connector=connector, headers=headers) as session,
        session.get("/v1/events", timeout=aiohttp.ClientTimeout(total=30)) as response,
    ):
        assert response.status == 200
        assert len(gate.gateway.streams._open) == before + 1
        yield response


async def test_a_feed_ends_with_its_token_and_no_other_does(gate: GatewayInProcess) -> None:
    short, long = await gate.token("auditor", "short", life_ms=60_000), await gate.token("auditor", "long")
    async with following(gate, token=long) as lasting, following(gate, token=short) as ending:
        await gate.pass_time(50)
        assert not ending.content.at_eof()
        await gate.pass_time(11)
        await ending.read()  # as HTTP ends an answer, and not by a broken connection
        assert (await gate.call("GET", "/v1/events", token=short)).status == 401
        assert not lasting.content.at_eof()
        assert len(gate.gateway.streams._open) == 1  # nothing is remembered of the other one


async def test_a_feed_ends_when_its_token_is_revoked_and_no_other_does(gate: GatewayInProcess) -> None:
    operator = await gate.token("operator", "olivia")
    one, other = await gate.token("orchestrator", "one"), await gate.token("orchestrator", "one")
    async with following(gate, token=one) as first, following(gate, token=other) as second:
        for feed, token in ((first, one), (second, other)):
            assert not feed.content.at_eof()
            assert (await gate.call("DELETE", f"/v1/tokens/{token_id(token)}", token=operator)).status == 200
            await asyncio.wait_for(feed.read(), 10)


async def test_a_feed_ends_with_the_token_of_a_provider(gate: GatewayInProcess, tmp_path: Path) -> None:
    provider = Provider(tmp_path)
    await restart_with(gate, settings(f'jwks_file = "{provider.file}"'))
    async with following(gate, token=provider.token()) as feed:
        await gate.pass_time(590)
        assert not feed.content.at_eof()
        await gate.pass_time(20)
        await asyncio.wait_for(feed.read(), 10)


async def test_a_feed_ends_with_its_client_certificate(gate: GatewayInProcess, people: People) -> None:
    async with following(gate, certificate=people.certificate([spiffe("auditor/anna")])) as feed:
        await gate.pass_time(86000)
        assert not feed.content.at_eof()
        await gate.pass_time(600)
        await asyncio.wait_for(feed.read(), 10)


async def test_a_channel_ends_with_a_session_certificate_that_was_not_renewed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = gate.gateway.channels.get(executor.id)
    assert session is not None
    life_s = gate.gateway.config.session_life_s
    await gate.pass_time(life_s - 100)
    await channel.renew()  # a good quote renews it
    await gate.pass_time(200)
    assert not channel.socket.closed
    assert session.open
    monkeypatch.setattr(gate.gateway.authorizer, "prove_again", lambda _executor: asyncio.sleep(0))
    await gate.pass_time(life_s)
    await channel.closed()
    assert gate.gateway.channels.get(executor.id) is None


@pytest.mark.parametrize("meanwhile", ["enrolled anew", "retired"])
async def test_a_channel_is_not_admitted_when_its_session_ended_while_it_waited(
    meanwhile: str, gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """Until the half-open one before it has had its second to answer, there is nobody in its place to hang up on."""
    await executor.enroll()
    with executor.enrolled.client_certificate() as certificate:
        connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca, certificate))
        async with (
            aiohttp.ClientSession(gate.url, connector=connector) as session,
            session.ws_connect("/v1/executor/channel") as silent,
            session.ws_connect("/v1/executor/channel") as waiting,
        ):
            while json.loads(await silent.receive_str(timeout=10))["type"] != "ping":
                pass
            if meanwhile == "retired":
                async with await gate.client("operator") as operator:
                    await operator.retire(executor.id, "sold")
            else:
                await executor.enroll()
            while (message := await waiting.receive(timeout=10)).type is aiohttp.WSMsgType.TEXT:
                assert json.loads(message.data)["type"] != "challenge"
            assert waiting.closed
    assert gate.gateway.channels.get(executor.id) is None
