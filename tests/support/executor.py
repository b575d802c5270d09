"""An executor that speaks the real protocol over the real transport, and lies wherever a test wants it to.

    async def test_something(gate, honest):
        await honest.enroll()
        async with honest.connect() as channel:
            channel.answer = lambda challenge, evidence: ...   # None: stay silent

Its TPM is a real software TPM on which a boot was simulated. Nothing here judges: what the gateway says is handed back.
"""

import asyncio
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import SoftwareTpms
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII, BootSimulator, Machine
from tpm.device import Device
from tpm.software import SoftwareTpm
from ztrooted import canonical, limits
from ztrooted.channel_messages import (
    GATEWAY_MESSAGE,
    UNDERSTANDS,
    UNDERSTANDS_HEADER,
    ActivateMessage,
    ChallengeMessage,
    EndedMessage,
    EvidenceMessage,
    GatewayMessage,
    IssuerMessage,
    LeaseMessage,
    PingMessage,
    PongMessage,
    RefusedMessage,
    StartedMessage,
)
from ztrooted.client import GatewayClient, tls_context
from ztrooted.enrollment import activation_mac, transcript
from ztrooted.evidence import Evidence, Purpose, qualifying_data
from ztrooted.executor.collect import Collector
from ztrooted.executor.enroll import ExecutorSession
from ztrooted.keys import load_p256, spki
from ztrooted.models import (
    ActivationRequest,
    DispatchRequest,
    Enrolled,
    EnrollmentChallenge,
    EnrollmentRequest,
    Grant,
    Job,
    Model,
    Quote,
    parse_json,
)

PROGRAMS = {"/usr/bin/dash": b"a shell", "/usr/bin/date": b"a clock", "/usr/bin/sleep": b"a pause"}
ENV = canonical.digest({})

M = TypeVar("M", bound=Model)
Reply = Model | str | bytes | None
Answering = Callable[[ChallengeMessage, Callable[[], Evidence]], Reply | Awaitable[Reply]]


def job(step: str = "train", *, argv: tuple[str, ...] = ("/bin/true",), **changes: Any) -> Job:
    """A job description."""
    return Job(**({"workflow": "w", "run": "1", "step": step, "argv": list(argv), "env": ENV} | changes))


@dataclass(frozen=True)
class Proof:
    """What the second half of an enrollment says; ``dataclasses.replace`` one part of it to lie."""

    mac: str
    quote: Quote

    def request(self) -> ActivationRequest:
        return ActivationRequest(mac=self.mac, quote=self.quote)


class ScriptedExecutor:
    """One machine."""

    def __init__(self, gate: GatewayInProcess, tpm: SoftwareTpm, folder: Path) -> None:
        self.gate = gate
        self.tpm = tpm
        self.device = Device.open(tpm.address)
        self.simulator = BootSimulator(self.device.extend, self.device.banks(), folder)
        self.folder = folder
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.session: ExecutorSession | None = None
        self.boot()

    # --- the machine ---------------------------------------------------------------------------------------------
    def boot(self, machine: Machine | None = None) -> None:
        """Boot into the good state, or into that of ``machine``."""
        self.simulator.boot(machine)
        self.simulator.start_ima()
        for path, content in PROGRAMS.items():
            self.simulator.measure(path, content)
        self.collector = Collector(self.device, self.folder / EVENT_LOG, self.folder / IMA_ASCII)

    def reboot(self, machine: Machine | None = None) -> None:
        self.tpm.power_cycle()
        self.boot(machine)

    def drift(self, path: str = "/tmp/intruder", content: bytes = b"not approved") -> None:
        """Run something that nobody approved."""
        self.simulator.measure(path, content)

    # --- enrollment ----------------------------------------------------------------------------------------------
    def request(self, **changes: Any) -> EnrollmentRequest:
        """The honest first half, with ``changes``."""
        endorsement = self.device.endorsement_key()
        honest = {
            "ek_public": endorsement.public,
            "ek_certificate": endorsement.certificate,
            "ek_chain": list(endorsement.chain),
            "ak_public": self.device.attestation_key(),
            "session_key": spki(self.key.public_key()),
        }
        return EnrollmentRequest.model_construct(**(honest | changes))

    async def begin(self, request: EnrollmentRequest | None = None) -> EnrollmentChallenge:
        """Send the first half; ``Refused`` when the gateway says no."""
        async with GatewayClient(self.gate.url, ca=self.gate.ca) as client:
            return await client.enroll(request or self.request())

    def prove(self, challenge: EnrollmentChallenge, request: EnrollmentRequest | None = None) -> Proof:
        """The honest second half."""
        asked = request or self.request()
        secret = self.device.activate_credential(challenge.credential, challenge.encrypted_secret)
        nonce = bytes.fromhex(challenge.nonce)
        wanted = qualifying_data(Purpose.ENROLL, nonce, asked.session_key)
        evidence = self.collector.collect(wanted, challenge.selection, 0)
        mac = activation_mac(secret, transcript(challenge.enrollment, nonce, asked)).hex()
        return Proof(mac, wire(evidence, whole_log=True))

    async def finish(self, challenge: EnrollmentChallenge, proof: Proof) -> Enrolled:
        """Send the second half."""
        async with GatewayClient(self.gate.url, ca=self.gate.ca) as client:
            return await client.activate(challenge.enrollment, proof.request())

    async def enroll(self) -> Enrolled:
        """All of it, with a new session key."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        challenge = await self.begin()
        enrolled = await self.finish(challenge, self.prove(challenge))
        self.session = ExecutorSession(self.key, enrolled, enrolled.certificate, load_p256(enrolled.log_key), {})
        for introduction in enrolled.issuers:
            self.session.learn_issuer(introduction)
        return enrolled

    @property
    def enrolled(self) -> ExecutorSession:
        assert self.session is not None
        return self.session

    @property
    def id(self) -> str:
        return self.enrolled.enrolled.executor

    # --- work ----------------------------------------------------------------------------------------------------
    async def approve(self) -> None:
        """An operator captures this machine's state and approves it. The channel must be open."""
        async with await self.gate.client("operator") as operator:
            view = await operator.capture_baseline(self.id)
            await operator.approve_baseline(view.baseline)

    async def authorize(
        self, wanted: Job | None = None, *, max_runtime_s: int | None = 600, name: str = "flows", **asked: Any
    ) -> Grant:
        """An orchestrator asks for a job on this machine."""
        request = DispatchRequest(executor=self.id, job=wanted or job(), max_runtime_s=max_runtime_s, **asked)
        async with await self.gate.client("orchestrator", name) as orchestrator:
            return await orchestrator.authorize(request)

    async def wait_for(self, kind: str, authorization: str, within_s: float = 10.0) -> dict[str, Any]:
        """The body of a record of one authorization, once it is there."""
        database = self.gate.gateway.database
        query = "SELECT bytes FROM records WHERE authorization = ? AND type = ?"
        async with asyncio.timeout(within_s):
            while (row := database.reading.execute(query, (authorization, kind)).fetchone()) is None:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        body: dict[str, Any] = canonical.decode(bytes(row[0]))["body"]
        return body

    def state(self, authorization: str) -> str:
        """Where an authorization stands."""
        query = "SELECT state FROM authorizations WHERE id = ?"
        return str(self.gate.gateway.database.reading.execute(query, (authorization,)).fetchone()[0])

    # --- the channel ---------------------------------------------------------------------------------------------
    @asynccontextmanager
    async def connect(self) -> AsyncIterator["Channel"]:
        """The channel, answering honestly until told otherwise."""
        with self.enrolled.client_certificate() as certificate:
            tls = tls_context(self.gate.ca, certificate)
        async with AsyncExitStack() as stack:
            http = await stack.enter_async_context(aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=tls)))
            socket = await stack.enter_async_context(
                http.ws_connect(
                    self.gate.url + "/v1/executor/channel",
                    max_msg_size=limits.BODY,
                    headers={UNDERSTANDS_HEADER: UNDERSTANDS},
                )
            )
            channel = Channel(self, socket)
            reading = asyncio.create_task(channel.read())
            try:
                await channel.next(IssuerMessage)
                yield channel
            finally:
                reading.cancel()
                with suppress(asyncio.CancelledError):
                    await reading


class Channel:
    """One open channel. ``answer`` decides what a challenge is answered with; everything else is kept for ``next``."""

    def __init__(self, executor: ScriptedExecutor, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.executor = executor
        self.socket = socket
        self.challenges: list[ChallengeMessage] = []
        self.answer: Answering = self.honestly
        self.answers_pings = True
        self._kept: list[GatewayMessage] = []
        self._arrived = asyncio.Condition()

    def honestly(self, challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> Reply:
        return EvidenceMessage(challenge=challenge.challenge, quote=wire(collect()))

    def collect(self, challenge: ChallengeMessage) -> Evidence:
        """Honest evidence for a challenge."""
        bindings = [bytes.fromhex(binding) for binding in challenge.bindings]
        wanted = qualifying_data(challenge.purpose, bytes.fromhex(challenge.nonce), *bindings)
        return self.executor.collector.collect(wanted, challenge.selection, challenge.ima_offset)

    async def read(self) -> None:
        async for raw in self.socket:
            if raw.type is not aiohttp.WSMsgType.TEXT:
                break
            message: GatewayMessage = parse_json(GATEWAY_MESSAGE, raw.data.encode())
            if isinstance(message, ChallengeMessage):
                self.challenges.append(message)
                reply = self.answer(message, lambda challenge=message: self.collect(challenge))  # type: ignore[misc]
                await self.send(await reply if isinstance(reply, Awaitable) else reply)
            if isinstance(message, PingMessage) and self.answers_pings:
                await self.send(PongMessage(nonce=message.nonce))
            async with self._arrived:
                self._kept.append(message)
                self._arrived.notify_all()

    async def send(self, message: Reply) -> None:
        """Say something: a message, any text, any bytes, or nothing."""
        if isinstance(message, Model):
            await self.socket.send_str(message.model_dump_json())
        elif isinstance(message, str):
            await self.socket.send_str(message)
        elif isinstance(message, bytes):
            await self.socket.send_bytes(message)

    async def next(self, kind: type[M], within_s: float = 10.0) -> M:
        """The next message of one kind, from those that came and were not taken yet."""
        async with asyncio.timeout(within_s), self._arrived:
            while True:
                for message in self._kept:
                    if isinstance(message, kind):
                        self._kept.remove(message)
                        return message
                await self._arrived.wait()

    async def closed(self, within_s: float = 10.0) -> None:
        """Return once the gateway has hung up."""
        async with asyncio.timeout(within_s):
            while not self.socket.closed:  # noqa: ASYNC110 -- aiohttp has no event for it
                await asyncio.sleep(0.01)

    # --- a job, as an honest agent reports it --------------------------------------------------------------------
    async def activate(self, grant: Grant) -> LeaseMessage:
        """Activate an artifact; the first lease."""
        await self.send(ActivateMessage(artifact=grant.artifact))
        while (lease := await self.next(LeaseMessage)).authorization != grant.authorization:
            continue
        return lease

    async def refused(self, grant: Grant) -> RefusedMessage:
        """Try to activate an artifact that will be refused."""
        await self.send(ActivateMessage(artifact=grant.artifact))
        return await self.next(RefusedMessage)

    async def started(self, grant: Grant) -> None:
        await self.send(StartedMessage(authorization=grant.authorization, enforcement="pid_namespace"))
        await self.executor.wait_for("execution.started", grant.authorization)

    async def ended(self, grant: Grant, outcome: Any = "exited", **changes: Any) -> None:
        report = {"exit_status": 0, "signal": None, "reason": outcome, "kill_ms": None} | changes
        await self.send(EndedMessage(authorization=grant.authorization, outcome=outcome, **report))
        await self.executor.wait_for("execution.closed", grant.authorization)

    async def renew(self) -> None:
        """One round at run time, now."""
        await self.executor.gate.gateway.authorizer.prove_again(self.executor.id)


def wire(evidence: Evidence, *, whole_log: bool = False) -> Quote:
    """Evidence as it travels."""
    digest = hashlib.sha256(evidence.event_log).hexdigest()
    return Quote.of(evidence, event_log_digest=digest, whole_log=whole_log)


@pytest.fixture
def executors(gate: GatewayInProcess, tmp_path: Path, software_tpms: SoftwareTpms) -> Iterator[Callable[..., Any]]:
    """Make machines: each call another one; ``clone=True`` one with the TPM state of the first."""
    made: list[ScriptedExecutor] = []

    def make(*, clone: bool = False) -> ScriptedExecutor:
        tpm = software_tpms(certificates=True, fresh=bool(made) and not clone)
        made.append(ScriptedExecutor(gate, tpm, tmp_path / f"machine-{len(made)}"))
        return made[-1]

    yield make
    for executor in made:
        executor.device.close()


@pytest.fixture
def executor(executors: Callable[..., ScriptedExecutor]) -> ScriptedExecutor:
    """One machine, booted and not enrolled."""
    return executors()


@pytest.fixture
async def channel(executor: ScriptedExecutor) -> AsyncIterator[Channel]:
    """One machine that is enrolled, connected and trusted."""
    await executor.enroll()
    async with executor.connect() as opened:
        await executor.approve()
        await opened.renew()
        yield opened
