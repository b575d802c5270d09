"""Tells a service manager how we are: the datagrams of sd_notify(3). Without NOTIFY_SOCKET nothing is told to anybody.

A gateway feeds the watchdog where deadlines are looked at, an executor's agent where its channel is worked off. When that
stops, the manager kills and restarts us, and every job has ended with its lease by then.
"""

import os
import socket
import time

import structlog

from ztrooted.inspect.plain import printable

log = structlog.get_logger()

STATUS = 256  # characters


class Manager:
    """Whoever started us, as the environment names it."""

    def __init__(self) -> None:
        self._address = os.environ.get("NOTIFY_SOCKET", "")
        self._every_s: float | None = None
        if os.environ.get("WATCHDOG_USEC", "").isdigit() and os.environ.get("WATCHDOG_PID") in {None, str(os.getpid())}:
            self._every_s = int(os.environ["WATCHDOG_USEC"]) / 1e6 / 4  # sd_watchdog_enabled(3) asks for half at most
        self._fed = 0.0

    def tell(self, state: str) -> None:
        """Send one state, such as ``READY=1``. A manager that does not listen is no reason to stop."""
        if not self._address:
            return
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sending:
                sending.setblocking(False)
                sending.sendto(state.encode(), address)
        except OSError as error:
            log.warning("the service manager does not listen", detail=str(error))

    def status(self, text: str) -> None:
        """One line for people, as ``systemctl status`` shows it. Whatever is in it, it can't be another state."""
        self.tell(f"STATUS={printable(text)[:STATUS]}")

    def feed(self) -> None:
        """Say that we are alive, as often as is needed; to be called at least once a second."""
        now = time.monotonic()
        if self._every_s is not None and now - self._fed >= self._every_s:
            self._fed = now
            self.tell("WATCHDOG=1")
