"""The executor agent: enrolls on start, holds one channel to the gateway, answers challenges, runs jobs.

It listens on nothing but a local Unix socket. When the channel is lost it connects again; jobs go on meanwhile, for as long
as their leases last and no longer. When the gateway no longer knows the session, everything here ends and the machine
enrolls anew.
"""

import asyncio
import hashlib
import os
import random
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import structlog

from tpm.device import Device
from tpm.errors import DeviceError
from tpm.observation import observed
from ztrooted import limits
from ztrooted.anchors import Anchors
from ztrooted.channel_messages import (
    GATEWAY_MESSAGE,
    CertificateMessage,
    ChallengeMessage,
    EvidenceMessage,
    GatewayMessage,
    IssuerMessage,
    LeaseMessage,
    MeasuredMessage,
    PingMessage,
    PongMessage,
    RefusedMessage,
    VerdictMessage,
)
from ztrooted.client import GatewayClient, Refused, unreachable
from ztrooted.control_messages import ExecEnded, ExecRequest
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.evidence import qualifying_data
from ztrooted.executor.collect import EVENT_LOG, IMA_LIST, Collector
from ztrooted.executor.control import Caller, ControlSocket
from ztrooted.executor.enroll import ExecutorSession, enroll
from ztrooted.executor.jobs import Jobs
from ztrooted.executor.standing import Standing
from ztrooted.executor.supervisor import enforcement_available
from ztrooted.gateway_attestation import verify_gateway
from ztrooted.log_memory import LogMemory
from ztrooted.models import Model, Quote, parse_json
from ztrooted.notify import Manager
from ztrooted.reasons import GateReason
from ztrooted.tracing import continued

log = structlog.get_logger()

HEARTBEAT_S = 10.0
LIST_LOOK_S = 0.1  # between two looks at the measurement list while a job runs
# The gateway refuses this machine's TPM or its keys, or there is no such address: asking again gives the same answer.
HOPELESS = frozenset({"ek", "ak", "credential", "id", "config"})
# The gateway was to prove its state and did not: it is no gateway of ours until an operator has looked at it.
UNTRUSTED = frozenset(
    {
        GateReason.ATTESTATION_GATEWAY_KEY,
        GateReason.ATTESTATION_GATEWAY_QUOTE,
        GateReason.ATTESTATION_GATEWAY_STATE,
        # Its log is not the one that it was: an older state was restored, or there are two histories.
        GateReason.CHECKPOINT_ORIGIN,
        GateReason.CHECKPOINT_SPLIT_VIEW,
    }
)
PROOF_S = 300.0  # between two proofs that the gateway's log is still the one that it was; and one at each connection
RETRY_AFTER_S = 60.0  # the longest that a gateway can have us wait before we ask again
BACKOFF_S = (0.2, 10.0)  # first and longest pause before connecting again; each is drawn at random below its bound


@dataclass(frozen=True, slots=True)
class AgentConfig:
    """How to reach gateway, TPM and kernel. With ``anchors``, only a gateway in the anchored state will do.

    ``state`` is the folder in which it is remembered what the gateway's log was; without one, until the process ends.
    """

    gateway: str
    ca: Path
    tpm: str
    socket: Path
    event_log: Path = EVENT_LOG
    ima: Path = IMA_LIST
    allow_weak: bool = False
    anchors: Anchors | None = None
    state: Path | None = None


class SessionLostError(Exception):
    """The gateway does not know this session any more."""


class Agent:
    """One executor."""

    def __init__(self, config: AgentConfig, device: Device) -> None:
        self._config = config
        self._collector = Collector(device, config.event_log, config.ima)
        self._event_log_digest = hashlib.sha256(self._collector.event_log).hexdigest()
        self._channel: aiohttp.ClientWebSocketResponse | None = None
        self._session: ExecutorSession | None = None
        self._memory: LogMemory | None = None
        self._jobs = Jobs(self._send, allow_weak=config.allow_weak)
        self._control = ControlSocket(config.socket, self._run_job)
        self._standing = Standing(Manager())
        self._tasks: set[asyncio.Task[None]] = set()

    async def enroll(self) -> ExecutorSession:
        """Prove this machine to the gateway, once."""
        async with GatewayClient(self._config.gateway, ca=self._config.ca) as client:
            await self._demand_attestation(client)
            session = await enroll(client, self._collector)
        anchors = self._config.anchors
        if anchors is not None and session.enrolled.log_key != anchors.log_key.material:
            raise GateError(
                GateReason.ATTESTATION_GATEWAY_KEY, "the log key that the gateway told is not the anchored one"
            )
        return session

    async def _demand_attestation(self, client: GatewayClient) -> None:
        """With anchors: have the gateway prove its state. GateError ``attestation.gateway_*`` where it is another one."""
        if self._config.anchors is not None:
            nonce = os.urandom(limits.NONCE)
            verify_gateway(await client.attestation(nonce), self._config.anchors, nonce)

    async def run(self, stop: asyncio.Event) -> None:
        """Serve until ``stop`` is set; then end every job, tell the gateway, and hang up.

        EnvironmentProblem when this machine can't be an executor at all; GateError when the gateway will never have it.
        """
        enforcement = enforcement_available()
        if not enforcement.available and not self._config.allow_weak:
            raise EnvironmentProblem(
                GateReason.SUPERVISION_UNAVAILABLE,
                f"jobs can't be confined on this machine: {enforcement.detail}",
                enforcement.remedy,
            )
        serving = {
            asyncio.create_task(self._stay_connected()),
            asyncio.create_task(self._control.serve()),
            asyncio.create_task(self._watch_list()),
        }
        stopping = asyncio.create_task(stop.wait())
        try:
            done, _ = await asyncio.wait({*serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
            self._standing.stopping()
            await self._jobs.stop(GateReason.EXECUTION_AGENT_LOST)
            for task in done:
                task.result()
        finally:
            for task in (*serving, stopping):
                task.cancel()
            await asyncio.gather(*serving, stopping, return_exceptions=True)
            self._control.close()

    async def _stay_connected(self) -> None:
        pause = BACKOFF_S[0]
        while True:
            try:
                if self._session is None:
                    with observed("enrollment"):
                        self._session = await self.enroll()
                    enrolled = self._session.enrolled
                    log.info("enrolled", executor=enrolled.executor, trusted=enrolled.trusted, reason=enrolled.reason)
                    self._standing.enrolled(enrolled.executor, trusted=enrolled.trusted, reason=enrolled.reason)
                await self._hold_channel(self._session)
                pause = BACKOFF_S[0]
            except SessionLostError:
                log.warning("session lost; enrolling anew")
                await self._jobs.stop(GateReason.CHANNEL_SUPERSEDED)
                self._session = None
            except GateError as error:
                if _final(error):
                    raise
                log.warning("not connected", code=error.reason, detail=error.detail, remedy=error.remedy)
                self._standing.disconnected(str(error.reason))
                if isinstance(error, Refused) and error.retry_after_s:  # too many ask: no sooner than it was told
                    await asyncio.sleep(min(error.retry_after_s, RETRY_AFTER_S))
            await asyncio.sleep(random.uniform(pause / 2, pause))  # noqa: S311 -- jitter
            pause = min(pause * 2, BACKOFF_S[1])

    async def _hold_channel(self, session: ExecutorSession) -> None:
        if session.expired:
            raise SessionLostError
        async with self._known_client(session) as client:
            await self._demand_attestation(client)
            await self._demand_log(client)
            try:
                async with client.channel(heartbeat_s=HEARTBEAT_S) as channel:
                    self._channel = channel
                    log.info("channel open")
                    self._standing.connected()
                    await self._listen_while(session, channel)
            except aiohttp.WSServerHandshakeError as error:
                if error.status in {401, 403}:
                    raise SessionLostError from error
                raise unreachable(self._config.gateway, error) from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise unreachable(self._config.gateway, error) from error
            finally:
                if self._channel is not None:
                    self._channel = None
                    self._standing.disconnected(str(GateReason.CHANNEL_CLOSED))

    def _known_client(self, session: ExecutorSession) -> GatewayClient:
        """A client with the session's certificate; what it is told of the log is compared with what was told before."""
        with session.client_certificate() as certificate:
            client = GatewayClient(
                self._config.gateway, ca=self._config.ca, certificate=certificate, state=self._config.state
            )
        if self._memory is not None and self._config.state is None:
            client.memory = self._memory
        self._memory = client.memory
        return client

    async def _demand_log(self, client: GatewayClient) -> None:
        """Have the gateway prove that its log goes on from the one we know. GateError ``checkpoint.*`` where it does not."""
        try:
            seen = await client.prove_log()
        except Refused as error:
            if error.reason in {GateReason.AUTH_CREDENTIAL_INVALID, GateReason.AUTH_CREDENTIAL_MISSING}:
                raise SessionLostError from error
            raise
        log.info("log proved", origin=seen.origin, size=seen.size, root=seen.root.hex())

    async def _demand_log_again(self, session: ExecutorSession) -> None:
        """The same, every so often. Returns never; no answer is none, and the lease's business."""
        while True:
            await asyncio.sleep(PROOF_S)
            try:
                async with self._known_client(session) as client:
                    await self._demand_log(client)
            except GateError as error:
                if error.reason in UNTRUSTED:
                    raise
                log.warning("log not proved", code=error.reason, detail=error.detail)

    async def _listen_while(self, session: ExecutorSession, channel: aiohttp.ClientWebSocketResponse) -> None:
        """Listen for as long as the gateway's log is the one that it was."""
        both = {
            asyncio.create_task(self._listen(session, channel)),
            asyncio.create_task(self._demand_log_again(session)),
        }
        try:
            done, _ = await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in both:
                task.cancel()
            await asyncio.gather(*both, return_exceptions=True)

    async def _listen(self, session: ExecutorSession, channel: aiohttp.ClientWebSocketResponse) -> None:
        async for raw in channel:
            if raw.type is not aiohttp.WSMsgType.TEXT:
                break
            with self._standing.busy():
                await self._hear(session, parse_json(GATEWAY_MESSAGE, raw.data.encode()))
        log.warning("channel closed")

    async def _hear(self, session: ExecutorSession, message: GatewayMessage) -> None:
        if isinstance(message, ChallengeMessage):
            self._start(self._answer(message))
        elif isinstance(message, LeaseMessage):
            await self._jobs.renewed(session, message)
        elif isinstance(message, RefusedMessage):
            self._jobs.refused(message)
        elif isinstance(message, VerdictMessage):
            self._standing.judged(trusted=message.trusted, reason=message.reason)
        elif isinstance(message, IssuerMessage):
            try:
                session.learn_issuer(message.issuer)
            except ProofError as error:
                log.error("issuing key refused", code=error.reason, detail=error.detail)
        elif isinstance(message, CertificateMessage):
            session.certificate = message.certificate
        elif isinstance(message, PingMessage):
            await self._send(PongMessage(nonce=message.nonce))

    async def _watch_list(self) -> None:
        """While jobs run, tell the gateway of a list that has grown: it may want to see at once what was loaded."""
        told = False
        while True:
            await asyncio.sleep(LIST_LOOK_S)
            self._standing.beat()
            grown = self._jobs.running and self._collector.grown()
            if grown and not told:
                with suppress(GateError):  # not connected: the next challenge shows it
                    await self._send(MeasuredMessage())
            told = grown

    async def _answer(self, challenge: ChallengeMessage) -> None:
        bindings = [bytes.fromhex(binding) for binding in challenge.bindings]
        wanted = qualifying_data(challenge.purpose, bytes.fromhex(challenge.nonce), *bindings)
        try:
            with (
                self._standing.busy(),
                continued(challenge.traceparent),
                observed("answer", purpose=str(challenge.purpose)),
            ):
                evidence = await asyncio.to_thread(
                    self._collector.collect, wanted, challenge.selection, challenge.ima_offset
                )
                whole = challenge.event_log_digest != self._event_log_digest
                quote = Quote.of(evidence, event_log_digest=self._event_log_digest, whole_log=whole)
                self._jobs.answering(challenge.challenge)
                await self._send(EvidenceMessage(challenge=challenge.challenge, quote=quote))
        except (DeviceError, GateError) as error:
            # Silence is an answer too: the gateway's deadline turns it into a denial.
            log.error("challenge not answered", purpose=challenge.purpose, error=str(error))

    async def _run_job(self, request: ExecRequest, stdio: tuple[int, int, int], caller: Caller) -> ExecEnded:
        session = self._session
        if session is None or self._channel is None:
            raise GateError(GateReason.CHANNEL_CLOSED, "this executor is not connected to its gateway")
        job = asyncio.create_task(self._jobs.run(session, request, stdio, caller))
        left = asyncio.create_task(caller.listen(lambda number: self._jobs.signal(request.artifact, number)))
        await asyncio.wait({job, left}, return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
        if not job.done():
            await self._jobs.abandon(request.artifact)
        return await job

    async def _send(self, message: Model) -> None:
        channel = self._channel
        if channel is None or channel.closed:
            raise GateError(GateReason.CHANNEL_CLOSED, "there is no channel to the gateway")
        try:
            await channel.send_str(message.model_dump_json())
        except (ConnectionError, aiohttp.ClientError) as error:
            raise GateError(
                GateReason.CHANNEL_CLOSED, f"the channel broke: {str(error) or type(error).__name__}"
            ) from error

    def _start(self, work: object) -> None:
        task: asyncio.Task[None] = asyncio.create_task(work)  # type: ignore[arg-type]
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _final(error: GateError) -> bool:
    """Whether asking again is of no use, or not to be done: an operator has to do something first."""
    hopeless = str(error.reason).partition(".")[0] in HOPELESS or error.reason is GateReason.ENROLL_RETIRED
    return hopeless or error.reason in UNTRUSTED
