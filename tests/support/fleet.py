"""Executors by the thousand in one process: the real protocol over real TLS, with quotes that software keys sign.

A simulated TPM makes the exact structures of a chip (EK certificate, credential activation, ``TPMS_ATTEST``), and the
product's own client code enrolls with it. What is shared between executors is what costs memory and proves nothing: the
machine they all booted, its logs and its PCR values.
"""

import asyncio
import hashlib
import hmac
import json
import random
import ssl
import struct
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES

from tests.support.attestation import SoftwareAk
from tests.support.endorsement import ek_certificate, ek_public, vendor
from tpm.algorithms import BANKS, Alg
from tpm.attest import ClockInfo, QuoteInfo
from tpm.boot_simulator import EVENT_LOG, IMA_ASCII, BootSimulator
from tpm.codec import Reader
from tpm.credential import kdfa, kdfe, parse_id_object
from tpm.pcr import PcrSelection, pcr_digest
from tpm.public import EK, parse_public
from tpm.reasons import EvidenceReason
from ztrooted import limits
from ztrooted.channel_messages import ActivateMessage, EvidenceMessage, PongMessage, StartedMessage
from ztrooted.client import GatewayClient
from ztrooted.evidence import Evidence, Purpose, qualifying_data
from ztrooted.executor.enroll import ExecutorSession, enroll
from ztrooted.models import Quote

BACKOFF_S = (0.2, 10.0)


class SimulatedMachine:
    """What a machine booted and ran: PCR values in two banks, an event log and a measurement list."""

    def __init__(self, folder: Path, programs: Mapping[str, bytes]) -> None:
        banks = ("sha1", "sha256")
        self.pcrs = {bank: {index: bytes(BANKS_SIZE[bank]) for index in range(24)} for bank in banks}
        self._simulator = BootSimulator(self._extend, banks, folder)
        self._simulator.boot()
        self._simulator.start_ima()
        for path, content in programs.items():
            self._simulator.measure(path, content)
        self.event_log = (folder / EVENT_LOG).read_bytes()
        self.event_log_digest = hashlib.sha256(self.event_log).hexdigest()
        self.lines = (folder / IMA_ASCII).read_bytes().splitlines(keepends=True)
        self._digests: dict[str, tuple[PcrSelection, bytes, dict[str, dict[int, bytes]]]] = {}

    def _extend(self, index: int, digests: Mapping[str, bytes]) -> None:
        for bank, digest in digests.items():
            values = self.pcrs[bank]
            values[index] = hashlib.new(bank, values[index] + digest, usedforsecurity=False).digest()

    def quoted(self, selection: Mapping[str, list[int]]) -> tuple[PcrSelection, bytes, dict[str, dict[int, bytes]]]:
        """What a quote over ``selection`` says and shows."""
        key = json.dumps(selection, sort_keys=True)
        if key not in self._digests:
            chosen = PcrSelection.of(selection)
            values = {bank: {index: self.pcrs[bank][index] for index in pcrs} for bank, pcrs in selection.items()}
            self._digests[key] = chosen, pcr_digest(chosen, values, Alg.SHA256), values
        return self._digests[key]


BANKS_SIZE = {"sha1": 20, "sha256": 32}


@dataclass(frozen=True)
class Endorsement:
    """What ``tpm.device.Device.endorsement_key`` answers."""

    public: bytes
    certificate: bytes
    chain: tuple[bytes, ...]


@dataclass
class SimulatedTpm:
    """Device and collector at once, as far as enrollment and challenges need them."""

    machine: SimulatedMachine
    ek: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    ak: SoftwareAk = field(default_factory=lambda: SoftwareAk.ecc(fresh=True))
    started: float = field(default_factory=time.monotonic)

    @property
    def device(self) -> "SimulatedTpm":
        return self

    def endorsement_key(self) -> Endorsement:
        issuer = vendor().issuer
        return Endorsement(ek_public(self.ek.public_key()), ek_certificate(issuer, self.ek.public_key()), (issuer.der,))

    def attestation_key(self) -> bytes:
        return self.ak.public.marshal()

    def activate_credential(self, credential: bytes, encrypted_secret: bytes) -> bytes:
        """TPM2_ActivateCredential: the inverse of ``tpm.credential.make_credential`` for a P-256 EK."""
        public, name = parse_public(ek_public(self.ek.public_key()), reasons=EK), self.ak.public.name
        malformed = EvidenceReason.CREDENTIAL_MALFORMED
        point = Reader(Reader(encrypted_secret, malformed).sized(200, "secret"), malformed)
        x, y = point.sized(32, "x"), point.sized(32, "y")
        ephemeral = ec.EllipticCurvePublicNumbers(
            int.from_bytes(x, "big"), int.from_bytes(y, "big"), ec.SECP256R1()
        ).public_key()
        own = self.ek.public_key().public_numbers().x.to_bytes(32, "big")
        seed = kdfe(public.name_alg, self.ek.exchange(ec.ECDH(), ephemeral), b"IDENTITY\0", x, own, 256)
        sealed = parse_id_object(credential)
        key = kdfa(public.name_alg, seed, b"INTEGRITY\0", b"", b"", 256)
        assert hmac.digest(key, sealed.encrypted + name, BANKS[public.name_alg]) == sealed.integrity
        assert public.symmetric is not None
        cipher = kdfa(public.name_alg, seed, b"STORAGE\0", name, b"", public.symmetric.bits)
        opened = Cipher(AES(cipher), CFB(bytes(16))).decryptor().update(sealed.encrypted)
        return opened[2 : 2 + struct.unpack(">H", opened[:2])[0]]

    def collect(self, wanted: bytes, selection: Mapping[str, list[int]], ima_offset: int) -> Evidence:
        """TPM2_Quote, and the logs beside it."""
        machine = self.machine
        chosen, digest, values = machine.quoted(selection)
        clock_ms = round((time.monotonic() - self.started) * 1000) + 1
        clock = ClockInfo(clock=clock_ms, reset_count=7, restart_count=2, safe=True)
        attest, signature = self.ak.quote(attested=QuoteInfo(chosen, digest), extra_data=wanted, clock=clock)
        return Evidence(attest, signature, values, machine.event_log, ima_offset, b"".join(machine.lines[ima_offset:]))


@dataclass
class Told:
    """What one executor saw and heard; the load generator's own measurements."""

    answered: int = 0
    connections: int = 0
    leases: int = 0
    refused: list[tuple[float, str, str]] = field(default_factory=list)
    conflicts: int = 0


class SimulatedExecutor:
    """One machine with one session, its channel kept open as an agent keeps it."""

    def __init__(self, url: str, ca: Path, machine: SimulatedMachine) -> None:
        self.url = url
        self.ca = ca
        self.tpm = SimulatedTpm(machine)
        self.told = Told()
        self.session: ExecutorSession | None = None
        self.socket: aiohttp.ClientWebSocketResponse | None = None
        self.mute = False
        self.backoff_s = BACKOFF_S
        self._tls: ssl.SSLContext | None = None
        self._leased: asyncio.Event = asyncio.Event()

    @property
    def id(self) -> str:
        assert self.session is not None
        return self.session.enrolled.executor

    async def enroll(self, client: GatewayClient) -> None:
        """The product's own enrollment."""
        self.session = await enroll(client, self.tpm)  # type: ignore[arg-type]
        with self.session.client_certificate() as (certificate, key):
            self._tls = ssl.create_default_context(cafile=str(self.ca))
            self._tls.load_cert_chain(certificate, key)

    async def stay_connected(self) -> None:
        """Connect, answer, and connect again, with the agent's own backoff."""
        first, longest = self.backoff_s
        pause = first
        while True:
            began = time.monotonic()
            with suppress(aiohttp.ClientError, OSError, TimeoutError):
                await self.hold()
            pause = first if time.monotonic() - began > longest else min(pause * 2, longest)
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 -- jitter

    async def hold(self) -> None:
        """One connection, until it ends."""
        assert self._tls is not None
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=1)
        async with (
            aiohttp.ClientSession(connector=connector) as http,
            http.ws_connect(self.url + "/v1/executor/channel", max_msg_size=limits.BODY, compress=0) as socket,
        ):
            self.socket = socket
            self.told.connections += 1
            try:
                async for raw in socket:
                    if raw.type is not aiohttp.WSMsgType.TEXT:
                        break
                    await self._hear(socket, json.loads(raw.data))
            finally:
                self.socket = None

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse, message: dict[str, Any]) -> None:
        kind = message["type"]
        if self.mute:
            return
        if kind == "challenge":
            await socket.send_str(self.answer(message))
            self.told.answered += 1
        elif kind == "lease":
            self.told.leases += 1
            self._leased.set()
        elif kind == "refused":
            self.told.refused.append((time.time(), str(message["authorization"]), str(message["reason"])))
        elif kind == "ping":
            await socket.send_str(PongMessage(nonce=message["nonce"]).model_dump_json())

    def answer(self, message: Mapping[str, Any]) -> str:
        """The evidence for a challenge, as it travels."""
        bindings = [bytes.fromhex(binding) for binding in message["bindings"]]
        wanted = qualifying_data(Purpose(message["purpose"]), bytes.fromhex(message["nonce"]), *bindings)
        evidence = self.tpm.collect(wanted, message["selection"], message["ima_offset"])
        digest = self.tpm.machine.event_log_digest
        quote = Quote.of(evidence, event_log_digest=digest, whole_log=message["event_log_digest"] != digest)
        return EvidenceMessage(challenge=message["challenge"], quote=quote).model_dump_json()

    async def run_job(self, authorization: str, token: str) -> None:
        """Activate an artifact and report the job as started; nothing really runs."""
        assert self.socket is not None
        self._leased.clear()
        await self.socket.send_str(ActivateMessage(artifact=token).model_dump_json())
        async with asyncio.timeout(20):
            await self._leased.wait()
        started = StartedMessage(authorization=authorization, enforcement="pid_namespace")
        await self.socket.send_str(started.model_dump_json())


async def enroll_all(executors: list[SimulatedExecutor], at_once: int = 16) -> None:
    """Enroll everybody, some at a time, over shared connections."""
    waiting = iter(executors)

    async def some() -> None:
        async with GatewayClient(executors[0].url, ca=executors[0].ca) as client:
            for executor in waiting:
                await executor.enroll(client)

    await asyncio.gather(*(some() for _ in range(at_once)))


@asynccontextmanager
async def connect_all(executors: list[SimulatedExecutor]) -> AsyncIterator[None]:
    """Keep everybody connected; begins once all are."""
    tasks = []
    for number, executor in enumerate(executors):
        tasks.append(asyncio.create_task(executor.stay_connected()))
        if number % 64 == 63:
            await asyncio.sleep(0.1)  # the first time is no herd
    try:
        while any(executor.socket is None for executor in executors):  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
