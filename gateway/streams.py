"""What lasts: channels and feeds, which end with the credential that opened them."""

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from ztrooted.clock import Clock

LOOK_S = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Stream:
    """One of them. ``ends_ms`` says when its credential ends now, ``token`` is the hash of a token of ours."""

    ends_ms: Callable[[], int | None]
    token: str | None
    end: Callable[[], None]


class Streams:
    """All that are open."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._open: dict[Stream, None] = {}

    @contextmanager
    def open(self, stream: Stream) -> Iterator[None]:
        """While it is open. Enter it before anything is awaited, or a revocation may come in between."""
        self._open[stream] = None
        try:
            yield
        finally:
            self._open.pop(stream, None)

    def revoked(self, token: str) -> None:
        """End what was opened with a token, by its hash."""
        self._end([stream for stream in self._open if stream.token == token])

    def look(self) -> None:
        """End what has lasted longer than its credential."""
        now_ms = self._clock.now_ms()
        self._end([one for one in self._open if (ends_ms := one.ends_ms()) is not None and ends_ms <= now_ms])

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Look every second, for ever."""
        while True:
            await sleep(LOOK_S)
            self.look()

    def _end(self, streams: list[Stream]) -> None:
        for stream in streams:
            del self._open[stream]
            stream.end()
