"""Connections: how many there may be, of whom, and how long one may take to say something."""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import pytest

from gateway.listening import Listener, network_of
from tests.support.gateway_in_process import HOST, GatewayInProcess
from ztrooted import limits

MOST, OF_ADDRESS = 24, 16


@pytest.fixture
async def few(gate: GatewayInProcess) -> GatewayInProcess:
    """A gateway that takes few connections, one address or all together."""
    await gate.stop()
    file = gate.data / "gateway.toml"
    file.write_text(f"connections = {MOST}\nconnections_per_address = {OF_ADDRESS}\n" + file.read_text())
    await gate.start()
    return gate


@asynccontextmanager
async def opened(gate: GatewayInProcess, count: int, source: str) -> AsyncIterator[list[socket.socket]]:
    """Connections from an address of this machine that say nothing at all."""
    loop, made = asyncio.get_running_loop(), []
    try:
        for _ in range(count):
            one = socket.socket()
            made.append(one)
            one.setblocking(False)
            one.bind((source, 0))
            await loop.sock_connect(one, (HOST, gate.port))
        yield made
    finally:
        for one in made:
            one.close()


async def is_open(one: socket.socket) -> bool:
    """Whether the gateway kept a connection, as far as it has said by now."""
    with suppress(TimeoutError):
        async with asyncio.timeout(0.3):
            with suppress(ConnectionError):
                return await asyncio.get_running_loop().sock_recv(one, 1) != b""
            return False
    return True


async def served(gate: GatewayInProcess, source: str) -> bool:
    """Whether somebody at that address gets an answer over TLS."""
    context = ssl.create_default_context(cafile=str(gate.ca))
    try:
        async with asyncio.timeout(20):
            reader, writer = await asyncio.open_connection(
                HOST, gate.port, ssl=context, local_addr=(source, 0), server_hostname=HOST
            )
            writer.write(b"GET /livez HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
            writer.close()
    except (OSError, ssl.SSLError, asyncio.IncompleteReadError):
        return False
    return answer.startswith(b"HTTP/1.1 200")


async def test_N5_one_address_gets_its_share_and_others_are_served(few: GatewayInProcess) -> None:
    async with opened(few, 2 * OF_ADDRESS, "127.0.0.2") as flood:
        kept = [await is_open(one) for one in flood[OF_ADDRESS - 1 :]]
        assert kept == [True] + [False] * OF_ADDRESS
        assert not await served(few, "127.0.0.2")
        assert await served(few, "127.0.0.3")
    async with asyncio.timeout(20):  # and when they are gone, that address is served again
        while not await served(few, "127.0.0.2"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_N5_all_addresses_together_get_no_more_than_there_is(few: GatewayInProcess) -> None:
    async with opened(few, OF_ADDRESS, "127.0.0.2"), opened(few, MOST - OF_ADDRESS, "127.0.0.3"):
        assert not await served(few, "127.0.0.4")
    async with asyncio.timeout(20):
        while not await served(few, "127.0.0.4"):  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def test_K8_who_never_says_a_word_of_TLS_is_hung_up_on(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert limits.HANDSHAKE_S <= 15
    await gate.stop()
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.3)
    await gate.start()
    async with opened(gate, 1, "127.0.0.2") as (silent,), asyncio.timeout(20):
        assert await asyncio.get_running_loop().sock_recv(silent, 1) == b""


def test_a_connection_is_counted_until_it_is_closed_and_once() -> None:
    with Listener(socket.AF_INET, most=4, most_of_address=2, per_second=1e6) as listening:
        listening.bind((HOST, 0))
        listening.listen()
        clients = [socket.create_connection(listening.getsockname()) for _ in range(3)]
        first, second = listening.accept()[0], listening.accept()[0]
        with pytest.raises(BlockingIOError):
            listening.accept()
        first.close()
        first.close()
        clients.append(socket.create_connection(listening.getsockname()))
        third = listening.accept()[0]
        clients.append(socket.create_connection(listening.getsockname()))
        with pytest.raises(BlockingIOError):
            listening.accept()
        for one in (second, third, *clients):
            one.close()


@pytest.mark.parametrize(
    ("host", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
    ],
)
def test_an_address_is_what_one_customer_has(host: str, network: str) -> None:
    assert network_of(host) == network
