"""How an executor stands, told to its service manager: ready once a gateway trusts it, alive while its channel is served.

Nobody decides by this: a manager that is told the wrong thing restarts an agent, and every job ends with its lease.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import structlog

from ztrooted.notify import Manager

log = structlog.get_logger()

STUCK_S = 20.0  # what one message or one quote may take before we count as hung; a chip's slowest takes a second


class Standing:
    """Ready, trusted, connected, alive. ``monotonic`` tells seconds."""

    def __init__(self, manager: Manager, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._manager = manager
        self._monotonic = monotonic
        self._executor = ""
        self._verdict: tuple[bool, str | None] | None = None
        self._connected = False
        self._ready = False
        self._busy: dict[object, float] = {}

    def enrolled(self, executor: str, *, trusted: bool, reason: str | None) -> None:
        """A gateway knows us, and what it thinks of this machine."""
        self._executor = executor
        self.judged(trusted=trusted, reason=reason)

    def judged(self, *, trusted: bool, reason: str | None) -> None:
        """What a round found."""
        if (trusted, reason) != self._verdict and self._verdict is not None:
            log.warning("trusted" if trusted else "not trusted", executor=self._executor, code=reason)
        self._verdict = trusted, reason
        self._tell()

    def connected(self) -> None:
        """The channel is open."""
        self._connected = True
        self._tell()

    def disconnected(self, why: str) -> None:
        """It is not, or could not be opened. ``why`` is a reason code: what a stranger says is nothing to hand on."""
        self._connected = False
        self._manager.status(f"not connected: {why}")

    def _tell(self) -> None:
        if not self._connected or self._verdict is None:
            return
        trusted, reason = self._verdict
        self._manager.status(f"connected as {self._executor}, {'trusted' if trusted else f'not trusted: {reason}'}")
        if trusted and not self._ready:
            self._ready = True
            self._manager.tell("READY=1")

    def stopping(self) -> None:
        """The end, by order."""
        self._manager.tell("STOPPING=1")

    @contextmanager
    def busy(self) -> Iterator[None]:
        """A piece of work of the channel: while it takes too long, nobody is told that we are alive."""
        key = object()
        self._busy[key] = self._monotonic()
        try:
            yield
        finally:
            del self._busy[key]

    def beat(self) -> None:
        """To be called several times a second, by the loop that has the channel."""
        now = self._monotonic()
        if all(now - since < STUCK_S for since in self._busy.values()):
            self._manager.feed()
