"""The real gateway inside a test: its own software TPM, TLS on a free port, SQLite on a real file; up in a few dozen ms.

    async def test_something(gate):
        async with gate.client("operator") as client: ...
        status, problem = await gate.call("POST", "/v1/dispatches", token=await gate.token("orchestrator"), body=b"{}")

The gateway runs in the test's event loop, so a test can look at ``gate.gateway`` and move its clock. For several real
processes see ``tests.support.gate``.
"""

import asyncio
import io
import json
import re
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from gateway import local
from gateway.anchors import anchors_file
from gateway.app import Gateway
from gateway.auth import TOKEN_LIFE_MS, Role, create_token
from gateway.config import load_config
from gateway.listening import Runner, listen, serve_tls
from gateway.setup import create_data_folder
from gateway.storage import lineage
from tests.support.described import Described
from tests.support.tpm import SoftwareTpms
from tpm.software import SoftwareTpm
from ztrooted import merkle
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.checkpoint import Checkpoint
from ztrooted.client import GatewayClient, tls_context
from ztrooted.clock import SystemClock
from ztrooted.records import Record

TRUST_DOMAIN = "gate.test"
SWTPM_VENDOR = "id:00001014"
HOST = "127.0.0.1"
# Challenges come when a test asks for them, so the schedule is slow and the leases are long.
PACE = {"interval_s": 60, "idle_interval_s": 120, "response_deadline_s": 2, "lease_s": 90}


# All tests come from one address, and many of them ask for nothing but refusals.
UNHURRIED = (
    "unproved_requests_per_s = 100000.0\nunproved_requests_at_once = 1000000\nconnections_per_address_s = 100000.0\n"
)


class MovedClock(SystemClock):
    """The machine's clocks, moved on: both together as time passes, or wall time alone as an administrator sets it."""

    def __init__(self) -> None:
        self.passed_s = 0.0
        self.set_s = 0.0

    def now_ms(self) -> int:
        return super().now_ms() + round((self.passed_s + self.set_s) * 1000)

    def monotonic(self) -> float:
        return super().monotonic() + self.passed_s


class GatewayInProcess:
    """One gateway, served."""

    def __init__(
        self,
        folder: Path,
        tpm: SoftwareTpm,
        ek_ca: bytes,
        pace: dict[str, float],
        *,
        vendors: Sequence[str] = (),
        approver: Path | None = None,
    ) -> None:
        self._at(folder, tpm)
        roots = folder / "roots.pem"
        roots.write_bytes(ek_ca)
        create_data_folder(
            self.data,
            tpm=tpm.address,
            trust_domain=TRUST_DOMAIN,
            ek_roots=[roots],
            ek_vendors=list(vendors) or [SWTPM_VENDOR],
            host=HOST,
            port=0,
            names=[HOST],
            approver=approver,
        )
        file = self.data / "gateway.toml"
        file.write_text(UNHURRIED + file.read_text())
        self.set_pace(**{**PACE, **pace})

    @classmethod
    def on(cls, folder: Path, tpm: SoftwareTpm) -> "GatewayInProcess":
        """A gateway whose data folder is there already."""
        made = cls.__new__(cls)
        made._at(folder, tpm)
        return made

    def _at(self, folder: Path, tpm: SoftwareTpm) -> None:
        self.data = folder / "gateway"
        self.tpm = tpm
        self.clock = MovedClock()
        self.ca = self.data / "tls" / "ca.pem"
        self._runner: Runner | None = None
        self._server: asyncio.Server | None = None
        self._gateway: Gateway | None = None
        self._described: Described | None = None
        self.port = 0

    @property
    def gateway(self) -> Gateway:
        """The running gateway."""
        assert self._gateway is not None
        return self._gateway

    @property
    def contradictions(self) -> list[str]:
        """Every answer that was not as the OpenAPI document says; a gateway that stops must have none."""
        assert self._described is not None
        return self._described.contradictions

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def set_pace(self, **seconds: float) -> None:
        """Change times in the appraisal policy; they count from the next start."""
        policy = self.data / "policy" / "appraisal.toml"
        text = policy.read_text()
        for name, value in seconds.items():
            text, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {float(value)}", text)
            assert replaced == 1
        policy.write_text(text)

    def set_dispatch_policy(self, text: str) -> None:
        """Replace the dispatch policy; it counts from the next start."""
        (self.data / "policy" / "dispatch.cedar").write_text(text)

    async def start(self) -> None:
        self._gateway = Gateway(load_config(self.data), clock=self.clock)
        await self.gateway.start()
        application = self.gateway.application()
        self._described = Described(self.gateway)
        application.on_response_prepare.append(self._described.look)
        self._runner = Runner(application, shutdown_timeout=0.2)
        await self._runner.setup()
        listening = listen(self.gateway.config)
        self._server = await serve_tls(self._runner, listening, self.gateway.tls)
        self.port = listening.getsockname()[1]
        await web.SockSite(self._runner, local.listen(self.data)).start()

    def connections(self) -> int:
        """How many are open."""
        assert self._runner is not None
        assert self._runner.server is not None
        return len(self._runner.server.connections)

    async def stop(self) -> None:
        if self._runner is not None:
            self.gateway.stopping.set()
            await self.gateway.channels.close()
            if self._server is not None:
                self._server.close()
            await self._runner.cleanup()
            self._runner = None
        if self._gateway is not None:
            await asyncio.sleep(0)  # so that every task has begun before it is cancelled
            await self.gateway.close()
            self._gateway = None
        if self._described is not None:
            contradictions, self._described = self._described.contradictions, None
            assert contradictions == [], "the API answers otherwise than its OpenAPI document says"

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def pass_time(self, seconds: float) -> None:
        """Let time go on, and wait until the gateway has noticed what became due."""
        self.clock.passed_s += seconds
        self.gateway.deadlines.wake()
        while self.gateway.clock.monotonic() - self.gateway.deadlines.beat > 1:  # noqa: ASYNC110
            await asyncio.sleep(0)

    async def token(self, role: str, name: str | None = None, *, life_ms: int = TOKEN_LIFE_MS) -> str:
        """A bearer token."""
        now_ms = self.gateway.clock.now_ms()
        named = name or f"test-{role}"
        return await self.gateway.database.write(lambda tx: create_token(tx, Role(role), named, now_ms, life_ms))

    async def client(self, role: str, name: str | None = None) -> GatewayClient:
        """The product's own client, with a token of ``role``; use it as an async context manager."""
        return GatewayClient(self.url, ca=self.ca, token=await self.token(role, name))

    def client_with(self, token: str) -> GatewayClient:
        """The product's own client, with a token made before."""
        return GatewayClient(self.url, ca=self.ca, token=token)

    async def call(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        body: bytes | None = None,
        headers: dict[str, str] | None = None,
        certificate: tuple[str, str] | None = None,
    ) -> "Answer":
        """Any request at all, and what came of it."""
        sent = {} if body is None else {"Content-Type": "application/json"}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        connector = aiohttp.TCPConnector(ssl=tls_context(self.ca, certificate))
        sent_body = body if body is None or len(body) < 1 << 16 else io.BytesIO(body)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.request(
                method, self.url + path, data=sent_body, headers={**sent, **(headers or {})}, allow_redirects=False
            ) as response,
        ):
            cookies = response.headers.getall("Set-Cookie", [])
            return Answer(response.status, await response.read(), dict(response.headers), cookies)

    def anchors(self) -> Anchors:
        """What an auditor of this gateway is told to trust."""
        return parse_anchors(anchors_file(self.gateway.config).encode(), "anchors")

    def checkpoint(self) -> Checkpoint:
        """What would be sealed now."""
        connection = self.gateway.database.reading
        size = lineage.size(connection)
        root = merkle.frontier(size, lineage.Reader(connection).read).root()
        return Checkpoint(self.gateway.config.origin, size, root)

    def some_record(self) -> Record:
        """One more for the lineage, about nothing."""
        return Record("gateway.stopped", self.clock.now_ms(), {})

    async def recorded(self, kind: str) -> None:
        """Wait until there is a record of a type: what it is about may be told while it is being written."""
        async with asyncio.timeout(20):
            while not self.records(kind):
                await self.gateway.database.wait_for_commit()

    def records(self, *types: str) -> list[dict[str, Any]]:
        """The bodies of the lineage's records of some types, in order."""
        rows = self.gateway.database.reading.execute("SELECT type, bytes FROM records ORDER BY seq").fetchall()
        return [json.loads(data) for kind, data in rows if kind in types or not types]


class Answer:
    """One HTTP answer."""

    def __init__(self, status: int, data: bytes, headers: dict[str, str], cookies: Sequence[str] = ()) -> None:
        self.status = status
        self.data = data
        self.headers = headers
        self.cookies = cookies

    @property
    def json(self) -> Any:
        return json.loads(self.data)

    @property
    def code(self) -> str:
        """The reason code of a problem document."""
        assert self.headers["Content-Type"].startswith("application/problem+json"), self.data
        return str(self.json["code"])

    def __repr__(self) -> str:
        return f"<{self.status} {self.data[:300]!r}>"


@pytest.fixture
async def gate(tmp_path: Path, software_tpms: SoftwareTpms, ek_ca: bytes) -> AsyncIterator[GatewayInProcess]:
    """A gateway that serves, with nobody enrolled."""
    made = GatewayInProcess(tmp_path, software_tpms(fresh=True), ek_ca, {})
    try:
        await made.start()
        yield made
    finally:
        await made.stop()
