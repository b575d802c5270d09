"""A TCP proxy between an executor and its gateway, for the ways in which a network fails."""

import selectors
import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Forwards every connection to ``target`` until told otherwise. Use it as a context manager."""

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"https://127.0.0.1:{self._listening.getsockname()[1]}"
        self._peers: dict[socket.socket, socket.socket] = {}
        self._wake, self._woken = socket.socketpair()
        self._forwarding = True
        self._refusing = False
        self._closing = False
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._tell()
        self._thread.join(5)
        for end in (*self._peers, self._listening, self._wake, self._woken):
            end.close()

    def freeze(self) -> None:
        """Forward nothing more in either direction, and close nothing: what a dead route looks like from both ends."""
        self._forwarding = False
        self._tell()

    def cut(self) -> None:
        """Hang up every connection and refuse new ones: what a dead host looks like."""
        self._refusing = True
        self._tell()

    def _tell(self) -> None:
        with suppress(OSError):
            self._wake.send(b"!")

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listening, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while not self._closing:
                for key, _ in selector.select():
                    if key.fileobj is self._woken:
                        self._woken.recv(64)
                    elif key.fileobj is self._listening:
                        self._accept(selector)
                    elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peers:
                        self._pump(selector, key.fileobj)
                if self._refusing:
                    self._hang_up(selector)
                elif not self._forwarding:
                    self._forget(selector)

    def _accept(self, selector: selectors.BaseSelector) -> None:
        near, _ = self._listening.accept()
        far = socket.create_connection(self._target)
        self._peers |= {near: far, far: near}
        for end in (near, far):
            selector.register(end, selectors.EVENT_READ)

    def _pump(self, selector: selectors.BaseSelector, end: socket.socket) -> None:
        other = self._peers[end]
        data = b""
        with suppress(OSError):
            data = end.recv(1 << 16)
        if data:
            with suppress(OSError):
                other.sendall(data)
            return
        for one in (end, other):
            selector.unregister(one)
            del self._peers[one]
            one.close()

    def _hang_up(self, selector: selectors.BaseSelector) -> None:
        for end in (*self._peers, self._listening):
            if end.fileno() < 0:
                continue  # closed already
            with suppress(KeyError):
                selector.unregister(end)
            end.close()
        self._peers.clear()

    def _forget(self, selector: selectors.BaseSelector) -> None:
        """Stop looking at them; nothing is read, nothing is closed."""
        for end in (*self._peers, self._listening):
            with suppress(KeyError):
                selector.unregister(end)
