"""The channel to one executor: challenges go out, evidence and job reports come in. The executor listens on nothing."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from aiohttp import WSMsgType, web
from cryptography.hazmat.primitives.asymmetric import ec

from tpm.pcr import PcrSelection
from ztrooted import limits
from ztrooted.appraisal import Before
from ztrooted.channel_messages import (
    EXECUTOR_MESSAGE,
    ActivateMessage,
    ChallengeMessage,
    EndedMessage,
    EvidenceMessage,
    ExecutorMessage,
    IssuerMessage,
    MeasuredMessage,
    PingMessage,
    PongMessage,
    StartedMessage,
    VerdictMessage,
)
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose
from ztrooted.models import Issuer, Model, Quote, parse_json
from ztrooted.reasons import GateReason, Reason
from ztrooted.request_rate import RequestRate
from ztrooted.tracing import traceparent_of_ours

log = structlog.get_logger()

# One message holds one quote with its measurement list; anything above is an attack.
MESSAGE = limits.EVIDENCE_BODY
# Challenges of one executor whose end is remembered; a round takes longer than it takes to look one up.
REMEMBERED = 64
# Between a round's answer and the next question nothing more than this can be waiting to be sent.
SEND_S = 5.0
# What a session that is still there takes at most to say so when another one claims its place.
PROBE_S = 1.0


class Session:
    """One connected executor. ``proving`` is held during a round: one challenge is outstanding at a time."""

    def __init__(
        self,
        executor: str,
        key: ec.EllipticCurvePublicKey,
        socket: web.WebSocketResponse,
        certificate_ends_ms: int,
        transport: asyncio.Transport | None = None,
        understands: frozenset[str] = frozenset(),
    ) -> None:
        self.executor = executor
        self.key = key
        self.certificate_ends_ms = certificate_ends_ms
        self.proving = asyncio.Lock()
        self.before = Before()  # what the last round of this connection found
        self._socket = socket
        self._transport = transport
        self._understands = understands
        self._judged: tuple[bool, Reason | None] | None = None
        self._pings: dict[str, asyncio.Future[bool]] = {}
        self._waiting: dict[str, asyncio.Future[Quote]] = {}
        self._over: dict[str, GateReason] = {}
        self.malformed = False

    @property
    def open(self) -> bool:
        """Whether the executor can be asked."""
        return not self._socket.closed

    async def challenge(
        self,
        challenge: str,
        purpose: Purpose,
        nonce: bytes,
        bindings: tuple[bytes, ...],
        *,
        selection: PcrSelection,
        ima_offset: int,
        event_log_digest: str,
        deadline_s: float,
    ) -> Quote:
        """Ask for a quote and wait for it; ``challenge`` is the id to ask under.

        GateError ``attestation.overdue`` when it does not come in time.
        """
        answer: asyncio.Future[Quote] = asyncio.get_running_loop().create_future()
        self._waiting[challenge] = answer
        deadline = asyncio.get_running_loop().call_later(deadline_s, self._overdue, challenge, deadline_s)
        try:
            await self.send(
                ChallengeMessage(
                    challenge=challenge,
                    purpose=purpose,
                    nonce=nonce.hex(),
                    bindings=[binding.hex() for binding in bindings],
                    selection=selection.as_dict(),
                    ima_offset=ima_offset,
                    event_log_digest=event_log_digest,
                    deadline_ms=round(deadline_s * 1000),
                    traceparent=traceparent_of_ours() if "traceparent" in self._understands else None,
                )
            )
            return await answer
        finally:
            deadline.cancel()
            del self._waiting[challenge]

    def _overdue(self, challenge: str, deadline_s: float) -> None:
        """The time for an answer is over."""
        waiting = self._waiting[challenge]
        if not waiting.done():
            self._remember(challenge, GateReason.CHALLENGE_EXPIRED)
            detail = f"the executor did not answer a challenge within {deadline_s:g} s"
            waiting.set_exception(GateError(GateReason.ATTESTATION_OVERDUE, detail))

    async def send(self, message: Model) -> None:
        """Send one message. GateError ``channel.closed`` when the executor does not take it; then it is hung up on."""
        text = message.model_dump_json()
        try:
            if self._transport is not None and not self._transport.get_write_buffer_size():
                await self._socket.send_str(text)  # it took all there was, so it takes this without a wait
                return
            async with asyncio.timeout(SEND_S):
                await self._socket.send_str(text)
        except TimeoutError as error:
            self.abort()
            raise GateError(
                GateReason.CHANNEL_CLOSED, f"the executor took no message for {SEND_S:g} s, and was dropped"
            ) from error
        except (ConnectionError, RuntimeError) as error:
            raise GateError(GateReason.CHANNEL_CLOSED, f"the executor's channel is closed: {error}") from error

    async def judged(self, *, trusted: bool, reason: Reason | None) -> None:
        """Tell the executor what a round found, unless it knows. GateError ``channel.closed``."""
        if "verdict" in self._understands and self._judged != (trusted, reason):
            self._judged = trusted, reason
            await self.send(VerdictMessage(trusted=trusted, reason=None if reason is None else str(reason)))

    async def answers(self) -> bool:
        """Whether whoever holds this session is still there: asked now, and heard within ``PROBE_S``."""
        nonce = secrets.token_urlsafe(16)
        pong: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._pings[nonce] = pong
        try:
            async with asyncio.timeout(PROBE_S):
                await self.send(PingMessage(nonce=nonce))
                return await pong
        except (GateError, TimeoutError):
            return False
        finally:
            del self._pings[nonce]

    def ponged(self, nonce: str) -> None:
        """The executor answered a probe."""
        pong = self._pings.get(nonce)
        if pong is not None and not pong.done():
            pong.set_result(True)

    def abort(self) -> None:
        """Drop the connection without a goodbye, which would not be read either."""
        if self._transport is not None:
            self._transport.abort()

    def answered(self, message: EvidenceMessage) -> Reason | None:
        """Hand evidence to whoever asked. An answer to a challenge nobody waits for is dropped; why, is returned.

        ``challenge.used`` for one that was answered, ``challenge.expired`` for one that comes too late, and
        ``challenge.unknown`` for one that this executor was never asked, somebody else's for instance.
        """
        waiting = self._waiting.get(message.challenge)
        if waiting is None or waiting.done():
            reason = self._over.get(message.challenge, GateReason.CHALLENGE_UNKNOWN)
            log.warning("evidence for no open challenge", executor=self.executor, code=reason)
            return reason
        self._remember(message.challenge, GateReason.CHALLENGE_USED)
        waiting.set_result(message.quote)
        return None

    def _remember(self, challenge: str, reason: GateReason) -> None:
        """Keep how the latest challenges ended, for whoever asks about a late or repeated answer."""
        self._over[challenge] = reason
        while len(self._over) > REMEMBERED:
            del self._over[next(iter(self._over))]

    def log_refusal(self, what: str, error: GateError) -> None:
        """Note that something the executor said was refused."""
        log.warning("refused", executor=self.executor, what=what, code=error.reason, detail=error.detail)

    async def close(self, reason: GateReason) -> None:
        """Hang up. Whoever waits for evidence learns that it won't come.

        ``attestation.overdue`` where it is the executor's doing, ``channel.closed`` where a connection was just lost.
        """
        silent = GateReason.ATTESTATION_OVERDUE if self.malformed else GateReason.CHANNEL_CLOSED
        if reason is GateReason.SERVICE_STOPPING:
            silent = reason
        for pong in self._pings.values():
            if not pong.done():
                pong.set_result(False)
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(GateError(silent, "the executor's channel was closed"))
        if not self._socket.closed:
            await self._socket.close(message=str(reason).encode())


class Channels:
    """The open sessions by executor: one each. A newer connection replaces one that is half-open, and no other."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}
        self._admitting: dict[str, asyncio.Lock] = {}

    def get(self, executor: str) -> Session | None:
        """The session of an executor that is connected now."""
        session = self._sessions.get(executor)
        return session if session is not None and session.open else None

    def busy(self, executor: str) -> bool:
        """Whether a round is under way with an executor."""
        session = self._sessions.get(executor)
        return session is not None and session.proving.locked()

    def executors(self) -> list[str]:
        """Who is connected."""
        return [executor for executor, session in self._sessions.items() if session.open]

    async def broadcast_issuer(self, introduction: Issuer) -> None:
        """Tell everyone of a new issuing key; who can't be told learns it on the next connection."""
        for session in list(self._sessions.values()):
            with suppress(GateError):
                await session.send(IssuerMessage(issuer=introduction))

    async def tell(self, executor: str, message: Model) -> None:
        """Send a message to an executor if it is connected. One that can't be told learns it from its lease."""
        session = self.get(executor)
        if session is None:
            return
        try:
            await session.send(message)
        except GateError as error:
            log.warning("executor not told", executor=executor, code=error.reason)

    async def admit(self, session: Session) -> None:
        """Make this the session of its executor, instead of one that nobody answers on any more.

        GateError ``session.conflict`` while the other one answers: two machines hold the same session key, and which of
        them proved it can't be told.
        """
        async with self._admitting.setdefault(session.executor, asyncio.Lock()):
            previous = self._sessions.get(session.executor)
            if previous is not None and previous.open and await previous.answers():
                raise GateError(
                    GateReason.SESSION_CONFLICT, "a second connection came while the first one still answered"
                )
            self._sessions[session.executor] = session
        if previous is not None:
            await previous.close(GateReason.CHANNEL_SUPERSEDED)

    async def end(self, executor: str, reason: GateReason) -> None:
        """Hang up on an executor whose session is no longer the one that counts."""
        session = self._sessions.pop(executor, None)
        if session is not None:
            await session.close(reason)

    async def remove(self, session: Session) -> None:
        """Forget a session that has ended."""
        if self._sessions.get(session.executor) is session:
            del self._sessions[session.executor]
        await session.close(GateReason.CHANNEL_CLOSED)

    async def close(self) -> None:
        """Hang up on everyone."""
        for session in list(self._sessions.values()):
            await session.close(GateReason.SERVICE_STOPPING)


Said = ActivateMessage | StartedMessage | EndedMessage | MeasuredMessage
Handler = Callable[[Session, Said], Awaitable[None]]


async def listen(session: Session, socket: web.WebSocketResponse, handle: Handler) -> None:
    """Read messages until the executor hangs up or says something malformed; from one that says too much, more slowly."""
    loop = asyncio.get_running_loop()
    rate = RequestRate(limits.CHANNEL_MESSAGES_PER_S, limits.CHANNEL_MESSAGES_AT_ONCE, loop.time)
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            log.warning("channel message is not text", executor=session.executor, code=GateReason.CHANNEL_MALFORMED)
            session.malformed = True
            return
        data = message.data.encode()
        cost = 1 + len(data) // limits.PIECE
        await asyncio.sleep(rate.wait_s("", cost))
        rate.take("", cost)
        try:
            parsed = await asyncio.to_thread(_parse, data) if len(data) > limits.PIECE else _parse(data)
        except GateError as error:
            log.warning("malformed channel message", executor=session.executor, code=error.reason, detail=error.detail)
            session.malformed = True
            return
        if isinstance(parsed, EvidenceMessage):
            session.answered(parsed)
        elif isinstance(parsed, PongMessage):
            session.ponged(parsed.nonce)
        else:
            await handle(session, parsed)


def _parse(data: bytes) -> ExecutorMessage:
    parsed: ExecutorMessage = parse_json(EXECUTOR_MESSAGE, data, maximum=MESSAGE, values=limits.JSON_VALUES)
    return parsed
