"""Those who abuse a gateway, each in a process of its own: ``python -m tests.support.abusers KIND`` and a task on stdin.

The task is ``{"url", "ca", "victim": {"ek_public", "ek_certificate", …}, "idle": count, "folder"}``. The process says
``ready`` when it has begun, goes on until its standard input ends, and says then how often it did what, as JSON.
"""

import asyncio
import io
import json
import os
import ssl
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from tests.support.endorsement import vendor, with_rsa_numbers
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, SimulatedTpm
from tests.support.gateway_process import HOST, allow_files
from ztrooted import limits
from ztrooted.client import GatewayClient, tls_context
from ztrooted.errors import GateError
from ztrooted.evidence import Evidence

Failed = (OSError, ssl.SSLError, aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError)
HEAD = b"GET /livez HTTP/1.1\r\nHost: x\r\n"
OF_ADDRESS = 2000  # connections that a gateway takes of one address
SLOW = 300
LINES = 60  # of a measurement list that is as long as can be


class Abuser:
    """One task."""

    def __init__(self, task: dict[str, Any]) -> None:
        self.url, self.ca, self.task = task["url"], Path(task["ca"]), task
        self.port = int(self.url.rpartition(":")[2])
        self.done: Counter[str] = Counter()
        self.tls = tls_context(self.ca)

    async def connect(self, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection from one of as many addresses as it takes."""
        source = f"127.0.0.{2 + number // OF_ADDRESS}"
        async with asyncio.timeout(30):
            return await asyncio.open_connection(
                HOST, self.port, ssl=self.tls, server_hostname=HOST, local_addr=(source, 0)
            )

    # --- kinds -------------------------------------------------------------------------------------------------------
    async def slowloris(self, ready: Callable[[], None]) -> None:
        """Requests of which a byte comes now and then."""

        async def one(number: int) -> None:
            while True:
                with suppress(*Failed):
                    _, writer = await self.connect(number)
                    writer.write(HEAD)
                    while not writer.is_closing():
                        self.done["bytes"] += 1
                        writer.write(b"X")
                        await asyncio.sleep(1)
                await asyncio.sleep(0.2)

        await self._many(SLOW, one, ready)

    async def idle(self, ready: Callable[[], None]) -> None:
        """Connections that have asked once, and do nothing."""

        async def one(number: int) -> None:
            while True:
                with suppress(*Failed):
                    reader, writer = await self.connect(number)
                    writer.write(HEAD + b"\r\n")
                    await reader.readuntil(b"}")
                    self.done["open"] += 1
                    await reader.read()
                    writer.close()
                    self.done["open"] -= 1
                await asyncio.sleep(1)

        count = self.task["idle"]
        await self._many(count, one, ready, until=lambda: self.done["open"] >= count * 0.98)

    async def json_bombs(self, ready: Callable[[], None]) -> None:
        """Deep ones, wide ones, and texts without an end."""
        wide = b"{" + b",".join(b'"k%d":1' % number for number in range(80_000)) + b"}"
        bombs = [b"[" * limits.BODY, b'{"a":' * 200_000, wide, b'["' + b"," * 900_000]
        await self._flood([("POST", "/v1/enrollments", bomb) for bomb in bombs], ready)

    async def rsa_16k(self, ready: Callable[[], None]) -> None:
        """EK certificates with keys of 16,384 bits, and eight of them for a chain."""
        modulus = int.from_bytes(os.urandom(2048), "big") | 1 << 16383 | 1
        odd = [with_rsa_numbers(vendor().issuer, modulus, exponent) for exponent in (65537, (1 << 64) - 1)]
        bodies = [self._enrollment(ek_certificate=one, ek_chain=[one] * limits.EK_CHAIN) for one in odd]
        await self._flood([("POST", "/v1/enrollments", body) for body in bodies], ready)

    async def named(self, ready: Callable[[], None]) -> None:
        """Without a credential, in the name of an executor."""
        name = self.task["victim"]["executor"]
        asked: list[tuple[str, str, bytes | None]] = [
            ("GET", "/v1/executor/channel", None),
            ("POST", "/v1/enrollments", self._enrollment()),
            ("GET", f"/v1/executors/{name}/result", None),
            ("PUT", f"/v1/executors/{name}/labels", b"{}"),
            ("GET", f"/v1/nothing/{name}", None),
            ("GET", "/v1/gateway/attestation?nonce=" + "ab" * 16, None),
        ]
        await self._flood(asked, ready)

    async def huge_lists(self, ready: Callable[[], None]) -> None:
        """A machine with a genuine TPM whose measurement list is as long as one may be, at each enrollment and round."""
        machine = SimulatedMachine(Path(self.task["folder"]), {"/usr/bin/true": b"x"})
        honest = SimulatedExecutor(self.url, self.ca, machine)
        async with GatewayClient(self.url, ca=self.ca) as client:
            await honest.enroll(client)
        honest.tpm = _Huge(machine, honest.tpm.ek, honest.tpm.ak)

        async def enroll(_number: int) -> None:
            while True:
                stranger = SimulatedExecutor(self.url, self.ca, machine)
                stranger.tpm = _Huge(machine)
                with suppress(GateError):
                    async with GatewayClient(self.url, ca=self.ca) as client:
                        await stranger.enroll(client)
                self.done["enrollments"] += 1
                await asyncio.sleep(0.1)

        channel = asyncio.create_task(honest.stay_connected())
        try:
            await self._many(2, enroll, ready)
        finally:
            self.done["rounds"] = honest.told.answered
            channel.cancel()

    # --- how ---------------------------------------------------------------------------------------------------------
    def _enrollment(self, **changes: Any) -> bytes:
        import base64  # noqa: PLC0415

        def text(value: Any) -> Any:
            return base64.b64encode(value).decode() if isinstance(value, bytes) else value

        fields = {name: value for name, value in self.task["victim"].items() if name != "executor"}
        for name, value in changes.items():
            fields[name] = [text(one) for one in value] if isinstance(value, list) else text(value)
        return json.dumps(fields).encode()

    async def _flood(self, asked: list[tuple[str, str, bytes | None]], ready: Callable[[], None]) -> None:
        """Sixteen at once, as fast as they are answered, over connections that are made anew when they end."""
        connector = aiohttp.TCPConnector(ssl=self.tls, local_addr=("127.0.0.2", 0), limit=0)
        async with aiohttp.ClientSession(self.url, connector=connector) as http:

            async def one(number: int) -> None:
                while True:
                    method, path, body = asked[number % len(asked)]
                    number += 1
                    data = None if body is None else io.BytesIO(body)
                    headers = {"Content-Type": "application/json"}
                    try:
                        async with http.request(method, path, data=data, headers=headers) as answer:
                            await answer.read()
                            self.done[str(answer.status)] += 1
                    except Failed:
                        self.done["hung up"] += 1
                        await asyncio.sleep(0)

            await self._many(16, one, ready)

    async def _many(
        self,
        count: int,
        one: Callable[[int], Awaitable[None]],
        ready: Callable[[], None],
        until: Callable[[], bool] = lambda: True,
    ) -> None:
        async with asyncio.TaskGroup() as group:
            for number in range(count):
                group.create_task(one(number))  # type: ignore[arg-type]
                if number % 50 == 49:
                    await asyncio.sleep(0.1)
            with suppress(TimeoutError):
                async with asyncio.timeout(120):
                    while not until():  # noqa: ASYNC110
                        await asyncio.sleep(0.1)
            ready()


class _Huge(SimulatedTpm):
    """Its list goes on for eight megabytes, and what it quotes says nothing of that."""

    def collect(self, wanted: bytes, selection: Any, ima_offset: int) -> Evidence:
        honest = super().collect(wanted, selection, 0)
        line = self.machine.lines[-1]
        return Evidence(
            honest.attest,
            honest.signature,
            honest.pcrs,
            honest.event_log,
            ima_offset,
            line * (limits.IMA_LIST // len(line)),
        )


async def main(kind: str) -> None:
    allow_files()
    abuser = Abuser(json.loads(sys.stdin.readline()))
    working = asyncio.create_task(getattr(abuser, kind)(lambda: print("ready", flush=True)))
    stopped = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({working, stopped}, return_when=asyncio.FIRST_COMPLETED)
    if working.done():
        working.result()
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    print(json.dumps(abuser.done), flush=True)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
