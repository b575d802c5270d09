"""The channel to one executor: challenges go out, evidence and job reports come in. The executor listens on nothing."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress

import structlog
from aiohttp import WSMsgType, web
from cryptography.hazmat.primitives.asymmetric import ec

from tpm.pcr import PcrSelection
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose
from ztrooted.models import (
    EXECUTOR_MESSAGE,
    ActivateMessage,
    ChallengeMessage,
    EndedMessage,
    EvidenceMessage,
    ExecutorMessage,
    Issuer,
    IssuerMessage,
    Model,
    Quote,
    StartedMessage,
    parse_json,
)
from ztrooted.reasons import GateReason, Reason

log = structlog.get_logger()

# One message holds one quote with its measurement list; anything above is an attack.
MESSAGE = limits.EVIDENCE_BODY
# Challenges of one executor whose end is remembered; a round takes longer than it takes to look one up.
REMEMBERED = 64
# Between a round's answer and the next question nothing more than this can be waiting to be sent.
SEND_S = 5.0


class Session:
    """One connected executor. ``proving`` is held during a round: one challenge is outstanding at a time."""

    def __init__(
        self, executor: str, key: ec.EllipticCurvePublicKey, socket: web.WebSocketResponse, certificate_ends_ms: int
    ) -> None:
        self.executor = executor
        self.key = key
        self.certificate_ends_ms = certificate_ends_ms
        self.proving = asyncio.Lock()
        self._socket = socket
        self._waiting: dict[str, asyncio.Future[Quote]] = {}
        self._over: dict[str, GateReason] = {}

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
        try:
            async with asyncio.timeout(deadline_s):
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
                    )
                )
                return await answer
        except TimeoutError:
            self._remember(challenge, GateReason.CHALLENGE_EXPIRED)
            raise GateError(
                GateReason.ATTESTATION_OVERDUE, f"the executor did not answer a challenge within {deadline_s:g} s"
            ) from None
        finally:
            self._waiting.pop(challenge, None)

    async def send(self, message: Model) -> None:
        """Send one message. GateError ``channel.closed`` when the executor does not take it."""
        try:
            async with asyncio.timeout(SEND_S):
                await self._socket.send_str(message.model_dump_json())
        except (ConnectionError, TimeoutError, RuntimeError) as error:
            why = str(error) or f"it took no message within {SEND_S:g} s"  # a timeout says nothing itself
            raise GateError(GateReason.CHANNEL_CLOSED, f"the executor's channel is closed: {why}") from error

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
        """Hang up. Whoever waits for evidence learns that it won't come."""
        silent = (
            GateReason.SERVICE_STOPPING if reason is GateReason.SERVICE_STOPPING else GateReason.ATTESTATION_OVERDUE
        )
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(GateError(silent, "the executor's channel was closed"))
        if not self._socket.closed:
            await self._socket.close(message=str(reason).encode())


class Channels:
    """The open sessions by executor. A newer connection of the same executor replaces the older one."""

    def __init__(self) -> None:
        self._sessions: dict[str, Session] = {}

    def get(self, executor: str) -> Session | None:
        """The session of an executor that is connected now."""
        session = self._sessions.get(executor)
        return session if session is not None and session.open else None

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

    async def add(self, session: Session) -> None:
        """Make this the session of its executor."""
        previous = self._sessions.get(session.executor)
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


Handler = Callable[[Session, ActivateMessage | StartedMessage | EndedMessage], Awaitable[None]]


async def listen(session: Session, socket: web.WebSocketResponse, handle: Handler) -> None:
    """Read messages until the executor hangs up or says something malformed."""
    async for message in socket:
        if message.type is not WSMsgType.TEXT:
            log.warning("channel message is not text", executor=session.executor, code=GateReason.CHANNEL_MALFORMED)
            return
        started = time.monotonic()
        try:
            parsed: ExecutorMessage = parse_json(EXECUTOR_MESSAGE, message.data.encode(), maximum=MESSAGE)
        except GateError as error:
            log.warning("malformed channel message", executor=session.executor, code=error.reason, detail=error.detail)
            return
        if isinstance(parsed, EvidenceMessage):
            session.answered(parsed)
        else:
            await handle(session, parsed)
        log.debug("channel message", executor=session.executor, type=parsed.type, s=time.monotonic() - started)
