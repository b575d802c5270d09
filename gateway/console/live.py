"""What happens, told to browsers: a server-sent event for each record of the lineage that a viewer may know of.

It says which record of which type is about whom, and nothing of what is in it; a page that wants to show more asks for its
parts again. Who comes back with the number of what it saw last is told the rest; who is too far behind starts anew.
"""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from aiohttp import web

from gateway.addresses import source_of
from gateway.auth import Role
from gateway.console.page import PEOPLE, Page, Viewer
from gateway.console.sessions import Session
from gateway.streams import Stream
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

if TYPE_CHECKING:
    from gateway.console.app import Console

TICK_S = 0.2  # what is committed between two of these is told at once, to everybody at the same moment
BEAT_S = 10.0  # then it is said that there is nothing new, so that a page knows it is live
BATCH = 500
MAX_BEHIND = BATCH  # a page asks for its parts anew once it was told anything: nobody needs to hear of each
MAX_STREAMS = 256
MAX_STREAMS_OF_PUBLIC = 128  # the others are for those who are signed in
MAX_STREAMS_OF_ONE = 32  # tabs of one person, or whoever is not signed in behind one address
UNREAD_S = 30.0
# Of what is about no authorization, what everybody who may see executors may know of.
_OF_EXECUTORS = ("executor.", "attestation.")
_PUBLIC = f"{Role.ANYONE}:"


class Told(NamedTuple):
    """One record, as far as browsers are told."""

    seq: int
    kind: str
    at: int
    authorization: str | None
    executor: str | None
    orchestrator: str | None
    event: bytes  # as it is sent


@dataclass(frozen=True, slots=True)
class Batch:
    """What was committed from record ``start`` on, as of ``end``, and what was made of it to be sent, by scope."""

    start: int
    end: int
    told: list[Told]
    sent: dict[str, bytes] = field(default_factory=dict)

    def of(self, viewer: Viewer) -> bytes:
        """Made once for everybody of a scope."""
        if viewer.scope not in self.sent:
            events = b"".join(one.event for one in self.told if _concerns(one, viewer))
            self.sent[viewer.scope] = events or b": nothing for you\n\n"
        return self.sent[viewer.scope]


class LivePages:
    """The stream of one gateway. Viewers who have seen the same are told from one reading of the database."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._last = Batch(0, 0, [])
        self._open: dict[web.RequestHandler, str] = {}  # each with who has opened it
        self.pages = (Page("GET", "/console/events", self.stream, PEOPLE, public=True, lasting=True),)

    async def stream(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Events, for as long as the session lasts."""
        gateway, session = self._console.gateway, viewer.session
        start = _number(request.headers.get("Last-Event-ID"), -1) + 1 or _number(request.query.get("from"), -1)
        headers = {
            "Content-Type": "text/event-stream",
            "Cache-Control": "no-store",
            "X-Content-Type-Options": "nosniff",
        }
        response = web.StreamResponse(headers=headers)
        with self._counted(request, viewer):
            with suppress(TimeoutError, ConnectionError):
                async with asyncio.timeout(None) as lasting:

                    def end() -> None:
                        lasting.reschedule(asyncio.get_running_loop().time())

                    def ends_ms() -> int | None:
                        return None if session is None else self._console.sessions.ends_ms(session)

                    token = None if session is None else session.caller.token
                    with gateway.streams.open(Stream(ends_ms, token, end)), _of_session(session, end):
                        await response.prepare(request)
                        async for piece in self._pieces(start, viewer):
                            async with asyncio.timeout(UNREAD_S):
                                await response.write(piece)
            if lasting.expired():
                with suppress(TimeoutError, ConnectionError):
                    async with asyncio.timeout(UNREAD_S):
                        await response.write(b"event: end\ndata: {}\n\n")
        return response

    @contextmanager
    def _counted(self, request: web.Request, viewer: Viewer) -> Iterator[None]:
        """While one more is open. GateError ``request.rate`` where there are too many, of all or of who asks.

        A page that was left is seen to be gone by its connection: its stream counts no more, and ends with its next beat.
        """
        name = f"{viewer.role}:{viewer.name}" if viewer.signed_in else f"{_PUBLIC}{source_of(request)}"
        alive = [of for one, of in self._open.items() if one.connected]
        connection = request.protocol
        strangers = 0 if viewer.signed_in else sum(of.startswith(_PUBLIC) for of in alive)
        many = alive.count(name) >= MAX_STREAMS_OF_ONE or len(alive) >= MAX_STREAMS
        if many or strangers >= MAX_STREAMS_OF_PUBLIC:
            raise GateError(GateReason.REQUEST_RATE, "too many pages are being kept up to date already")
        self._open[connection] = name
        try:
            yield
        finally:
            del self._open[connection]

    async def _pieces(self, start: int, viewer: Viewer) -> AsyncIterator[bytes]:
        """What is sent, from record ``start`` on; from now on where that is negative."""
        feed = self._console.gateway.feed
        cursor = start if 0 <= start <= feed.end else feed.end
        yield b"retry: 2000\nid: %d\nevent: beat\ndata: {}\n\n" % (cursor - 1)
        if feed.end - cursor > MAX_BEHIND:
            cursor = feed.end
            yield b"id: %d\nevent: anew\ndata: {}\n\n" % (cursor - 1)
        while True:
            end = await feed.news(cursor, BEAT_S)
            if end <= cursor:
                yield b"event: beat\ndata: {}\n\n"
                continue
            await asyncio.sleep(TICK_S - asyncio.get_running_loop().time() % TICK_S)
            batch = self._read(cursor)
            cursor = batch.told[-1].seq + 1
            yield batch.of(viewer)

    def _read(self, start: int) -> Batch:
        """Records from ``start`` on, of which there is at least one."""
        end = self._console.gateway.feed.end
        if (self._last.start, self._last.end) == (start, end):
            return self._last
        rows = self._console.gateway.database.reading.execute(
            "SELECT r.seq, r.type, r.at, r.authorization, a.executor, a.orchestrator,"
            " CASE WHEN r.authorization IS NULL THEN r.bytes END FROM records r"
            " LEFT JOIN authorizations a ON a.id = r.authorization WHERE r.seq >= ? ORDER BY r.seq LIMIT ?",
            (start, BATCH),
        ).fetchall()
        self._last = Batch(start, end, [_told(*row) for row in rows])
        return self._last


@contextmanager
def _of_session(session: Session | None, end: Callable[[], None]) -> Iterator[None]:
    """While it ends with the session it is of, if it is of one."""
    if session is None:
        yield
        return
    session.streams.add(end)
    try:
        yield
    finally:
        session.streams.discard(end)


def _executor_in(data: bytes | None) -> str | None:
    found = None if data is None else parse_record(bytes(data)).body.get("executor")
    return found if isinstance(found, str) else None


def _concerns(one: Told, viewer: Viewer) -> bool:
    """Whether a viewer is told of a record."""
    if viewer.oversees:
        return True
    if one.authorization is None:
        return one.kind.startswith(_OF_EXECUTORS)
    return viewer.role is Role.ANYONE or one.orchestrator == viewer.own


def _told(
    seq: int, kind: str, at: int, name: str | None, executor: str | None, orchestrator: str | None, data: bytes | None
) -> Told:
    executor = executor or _executor_in(data)
    said = json.dumps({"seq": seq, "type": kind, "at": at, "authorization": name, "executor": executor})
    event = b"id: %d\nevent: record\ndata: %s\n\n" % (seq, said.encode())
    return Told(seq, kind, at, name, executor, orchestrator, event)


def _number(text: str | None, otherwise: int) -> int:
    return int(text) if text is not None and text.isascii() and text.isdigit() and len(text) < 16 else otherwise
