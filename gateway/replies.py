"""A request under an Idempotency-Key is done once: who sends it again gets the answer of the first time.

The answer is kept in the transaction that does what it tells of, so there is no moment at which one is there without the
other, whenever the gateway is killed. Only what is on record is kept: a request that changed nothing is tried again.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from gateway.auth import Caller
from gateway.declaration import Parameter
from gateway.storage import replies
from gateway.storage.database import Database, Transaction
from gateway.storage.replies import Key, Reply
from ztrooted import limits
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.models import Model
from ztrooted.reasons import GateReason, parse_reason

HEADER = "Idempotency-Key"
REPLAYED = "Idempotency-Replayed"
COUNT_AGAIN_S = 1.0  # who has as many answers as may be is looked at again no sooner
CALLERS = 4096  # of whom it is remembered how many they have
KEY = Parameter(
    HEADER,
    "16 to 128 random letters, digits and any of ._~:- which stand for this request alone",
    {"type": "string", "pattern": r'^("[A-Za-z0-9._~:-]{16,128}"|[A-Za-z0-9._~:-]{16,128})$'},
)


class Refusal(GateError):  # noqa: N818 -- it is an outcome
    """The refusal of the first time, again; ``authorization`` names the recorded denial."""

    def __init__(self, reply: Reply) -> None:
        super().__init__(parse_reason(reply.code or ""), reply.body)
        self.authorization = reply.authorization


@dataclass(frozen=True, slots=True)
class Keep:
    """Keeps the outcome of one request; without a key it keeps nothing."""

    key: Key | None = None
    clock: Clock | None = None

    def answer(self, tx: Transaction, status: int, answer: Model) -> None:
        """It was done, and this is the answer."""
        self._keep(tx, Reply(status, answer.model_dump_json()))

    def refusal(self, tx: Transaction, error: GateError) -> None:
        """It was refused, and the refusal is on record."""
        self._keep(tx, Reply(0, error.detail, str(error.reason), getattr(error, "authorization", None)))

    def _keep(self, tx: Transaction, reply: Reply) -> None:
        if self.key is not None and self.clock is not None:
            replies.keep(tx, self.key, reply, self.clock.now_ms())


NOTHING = Keep()


class Replies:
    """Requests under a key: those that are being answered, and those that were."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._answering: set[str] = set()
        self._kept: dict[str, tuple[int, float]] = {}  # caller -> (no more than so many, and when they were counted)

    def _require_room(self, caller: str) -> None:
        """GateError ``request.key_limit`` where as many answers are kept for the caller as may be.

        They are counted when there may be too many, and not at each request; those that are forgotten show then.
        """
        now = self._clock.monotonic()
        kept, counted_at = self._kept.get(caller, (limits.REPLIES, now - COUNT_AGAIN_S))
        if kept >= limits.REPLIES and now - counted_at >= COUNT_AGAIN_S:
            kept, counted_at = replies.count(self._database.reading, caller), now
        if kept >= limits.REPLIES:
            self._kept[caller] = kept, counted_at
            raise GateError(GateReason.REQUEST_KEY_LIMIT, f"{kept} answers are kept for you already")
        if len(self._kept) >= CALLERS:
            self._kept.clear()
        self._kept[caller] = kept + 1, counted_at

    async def once(
        self, request: web.Request, caller: Caller, body: bytes, do: Callable[[Keep], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        """What ``do`` answers, or what it answered before. GateError ``request.key_*`` where that can't be said."""
        secret = request.headers[HEADER].strip('"')
        asked = f"{request.method} {request.path}\n".encode() + body
        key = Key.of(str(caller.role), caller.name, secret, asked)
        if key.name in self._answering:
            raise GateError(GateReason.REQUEST_KEY_IN_USE, "a request under this Idempotency-Key is being answered")
        found = replies.find(self._database.reading, key, self._clock.now_ms())
        if found is not None:
            return _again(found)
        self._require_room(key.caller)
        self._answering.add(key.name)
        try:
            return await do(Keep(key, self._clock))
        finally:
            self._answering.discard(key.name)


def _again(reply: Reply) -> web.Response:
    if reply.code is not None:
        raise Refusal(reply)
    headers = {"Cache-Control": "no-store", REPLAYED: "true"}
    return web.Response(text=reply.body, status=reply.status, content_type="application/json", headers=headers)
