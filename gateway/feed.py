"""The event feed: records of authorizations as server-sent events, from any record on, without gap or duplicate.

New records are read, formatted and framed once, and written to everybody who is up to date and has read all there was; who
is behind reads the database until that is so. A subscriber waits for nobody: each has its own cursor, and one that does
not read is hung up on and may come again.
"""

import asyncio
from bisect import bisect_left
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from dataclasses import dataclass

from gateway.storage.database import Database
from ztrooted import limits
from ztrooted.checkpoint import Checkpoint
from ztrooted.log_memory import format_head

PIECE = 64 << 10  # bytes sent at once; a subscriber must take them within its time
GATHER_S = 0.005  # what is committed within this goes out together: a thousand subscribers are written to once for it
IDLE_S = 15.0  # then a comment is sent, so that both sides notice a dead connection


@dataclass(frozen=True, slots=True)
class Event:
    """One record of an authorization, ready to send."""

    seq: int
    kind: str
    orchestrator: str
    record: bytes
    data: bytes  # the record as a server-sent event

    def concerns(self, orchestrator: str | None) -> bool:
        """Whether it is for this orchestrator; None sees all."""
        return orchestrator is None or orchestrator == self.orchestrator


class Line:
    """A subscriber's connection. ``cursor`` is the record it hears next, ``chunked`` whether HTTP frames what is sent."""

    def __init__(
        self, transport: asyncio.WriteTransport, cursor: int, orchestrator: str | None, *, chunked: bool
    ) -> None:
        self.cursor = cursor
        self.orchestrator = orchestrator
        self.chunked = chunked
        self.left = asyncio.Event()
        self._transport = transport

    def take(self, data: bytes) -> bool:
        """Send ``data``, unless something waits to be read already: then it is for its own task to go on."""
        if self._transport.is_closing() or self._transport.get_write_buffer_size():
            return False
        self._transport.write(data)
        return True


class Feed:
    """Follows the lineage for every subscriber. Start ``run`` before anybody follows."""

    def __init__(self, database: Database, head: Callable[[], Checkpoint | None] = lambda: None) -> None:
        """``head`` says what the newest checkpoint is: subscribers hear of it."""
        self._database = database
        self._head = head
        self._told: Checkpoint | None = None
        self._recent: list[Event] = []
        # ``_recent`` has every event from record ``_first`` on, up to the one before ``_next``.
        self._first = self._next = _end(database)
        self._news = asyncio.Event()
        self._lines: dict[Line, None] = {}  # those that are up to date
        self._closed = False

    async def run(self) -> None:
        """Read what is committed, for ever."""
        while True:
            before = self._next
            events, self._next = self._read(before)
            if self._next > before:
                self._recent += events
                if len(self._recent) > 2 * limits.FEED_RECENT:
                    del self._recent[: limits.FEED_RECENT]
                    self._first = self._recent[0].seq
                self._pass_on(events, before)
                self._wake()
            if self._next - before < limits.FEED_BATCH:  # there are no more
                await self._database.wait_for_commit()  # nothing is awaited in between: no commit is missed
                await asyncio.sleep(GATHER_S)

    def close(self) -> None:
        """Everybody's feed ends."""
        self._closed = True
        self._leave(list(self._lines))
        self._wake()

    def _wake(self) -> None:
        news, self._news = self._news, asyncio.Event()
        news.set()

    @property
    def end(self) -> int:
        """The number of the record that comes next."""
        return self._next

    async def news(self, cursor: int, idle_s: float = IDLE_S) -> int:
        """The number of the record that comes next, once that is beyond ``cursor``; or where nothing came for a while.

        For those who look at the lineage themselves. A feed that is closed raises ConnectionError.
        """
        if self._next <= cursor:
            news = self._news
            try:
                async with asyncio.timeout(idle_s):
                    await news.wait()
            except TimeoutError:
                pass
        if self._closed:
            raise ConnectionError("the feed is closed")
        return self._next

    async def follow(self, line: Line) -> AsyncIterator[bytes]:
        """What is to be sent on ``line``, in pieces, for ever; a comment where there is nothing for a while.

        While it is up to date, what is new is sent here.
        """
        while not self._closed:
            if line.cursor < self._next:
                events, line.cursor = self._since(line.cursor)
                for piece in _pieces(event.data for event in events if event.concerns(line.orchestrator)):
                    yield piece
                await asyncio.sleep(0)  # who catches up with a long lineage takes turns with everybody else
                continue
            if not await self._listening(line):
                yield _comment(self._head()) or b": still here\n\n"

    async def _listening(self, line: Line) -> bool:
        """Have what is new written to ``line`` by the feed, until it is behind; false where nothing came for a while."""
        line.left.clear()
        self._lines[line] = None
        try:
            async with asyncio.timeout(IDLE_S):
                await line.left.wait()
        except TimeoutError:
            return False
        finally:
            self._lines.pop(line, None)
        return True

    def _pass_on(self, events: list[Event], before: int) -> None:
        """Send what is new, from record ``before`` on, to everybody who was up to date until then."""
        framed: dict[tuple[str | None, bool], bytes] = {}
        left, head = [], self._head()
        news = b"" if head == self._told else _comment(head)
        self._told = head
        for line in self._lines:
            key = (line.orchestrator, line.chunked)
            if key not in framed:
                data = b"".join(event.data for event in events if event.concerns(line.orchestrator))
                data = news + data if data else data
                framed[key] = b"%x\r\n%s\r\n" % (len(data), data) if data and line.chunked else data
            data = framed[key]
            if line.cursor > self._next:  # it asked for what is yet to come
                continue
            if line.cursor > before or len(data) > PIECE or (data and not line.take(data)):
                left.append(line)
            else:
                line.cursor = self._next
        self._leave(left)

    def _leave(self, lines: list[Line]) -> None:
        for line in lines:
            del self._lines[line]
            line.left.set()

    async def events(self, start: int, orchestrator: str | None) -> AsyncIterator[Event]:
        """The same, one by one."""
        async for events in self._batches(start):
            for event in events:
                if event.concerns(orchestrator):
                    yield event

    async def _batches(self, cursor: int) -> AsyncIterator[list[Event]]:
        """Everybody's events from record ``cursor`` on; an empty list where nothing was committed for a while."""
        while not self._closed:
            news = self._news
            if cursor >= self._next:
                try:
                    async with asyncio.timeout(IDLE_S):
                        await news.wait()
                except TimeoutError:
                    yield []
                continue
            events, cursor = self._since(cursor)
            await asyncio.sleep(0)
            if events:
                yield events

    def _since(self, cursor: int) -> tuple[list[Event], int]:
        """A batch of events from record ``cursor`` on, and where the next one begins."""
        if cursor < self._first:
            return self._read(cursor)
        at = bisect_left(self._recent, cursor, key=lambda event: event.seq)
        events = self._recent[at : at + limits.FEED_BATCH]
        return events, events[-1].seq + 1 if len(events) == limits.FEED_BATCH else self._next

    def _read(self, start: int) -> tuple[list[Event], int]:
        """One batch from the database, and where the next one begins."""
        rows = self._database.reading.execute(
            "SELECT r.seq, r.type, r.bytes, a.orchestrator FROM records r"
            " LEFT JOIN authorizations a ON a.id = r.authorization WHERE r.seq >= ? ORDER BY r.seq LIMIT ?",
            (start, limits.FEED_BATCH),
        ).fetchall()
        events = [
            Event(seq, kind, orchestrator, data, b"id: %d\nevent: %s\ndata: %s\n\n" % (seq, kind.encode(), data))
            for seq, kind, data, orchestrator in rows
            if orchestrator is not None
        ]
        return events, rows[-1][0] + 1 if rows else start


def _pieces(events: Iterable[bytes]) -> Iterator[bytes]:
    """Several small events in one piece, and no piece much larger than the largest event."""
    begun = bytearray()
    for event in events:
        begun += event
        if len(begun) >= PIECE:
            yield bytes(begun)
            begun.clear()
    if begun:
        yield bytes(begun)


def _comment(head: Checkpoint | None) -> bytes:
    """What the newest checkpoint is, as a comment: those who only want the records overlook it."""
    return b"" if head is None else b": checkpoint %s\n\n" % format_head(head).encode()


def _end(database: Database) -> int:
    (size,) = database.reading.execute("SELECT COALESCE(MAX(seq) + 1, 0) FROM records").fetchone()
    return int(size)
