"""Where the gateway is reached: its address, and what HTTP itself refuses, in the one shape of all refusals."""

import asyncio
import secrets
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from gateway.addresses import network_of, source_of
from gateway.config import GatewayConfig
from gateway.middleware import RATES, problem, refused
from gateway.rates import RateExceededError, Rates
from ztrooted import limits
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason
from ztrooted.request_rate import RequestRate

log = structlog.get_logger()

ADDRESS_FILE = "address"
# First asked after 30 s without a word, then every 10 s, three times; what was sent is to be acknowledged within a minute.
KEEPALIVE = (
    (socket.TCP_KEEPIDLE, 30),
    (socket.TCP_KEEPINTVL, 10),
    (socket.TCP_KEEPCNT, 3),
    (socket.TCP_USER_TIMEOUT, 60_000),
)


class Listener(socket.socket):
    """A listening socket that takes so many connections and no more, of one address and altogether.

    They are counted from the moment the kernel hands them over, so that one that never says a word of TLS counts too.
    One too many is closed at once, and so is one too soon after many others of its address: a handshake costs us as
    much as a request.
    """

    def __init__(self, family: int, *, most: int, most_of_address: int, per_second: float = 100.0) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._most = most
        self._most_of_address = most_of_address
        self._new = RequestRate(per_second, most_of_address, time.monotonic)
        self.refused = 0
        self._open: Counter[str] = Counter()
        self._count = 0  # of all of them

    def accept(self) -> tuple[socket.socket, Any]:
        """As asyncio asks for it. BlockingIOError where nobody waits, or who waited was one too many."""
        descriptor, address = self._accept()  # type: ignore[attr-defined]  # what socket.accept itself is made of
        network = network_of(address[0])
        many = self._count >= self._most or self._open[network] >= self._most_of_address
        if many or not self._new.take(network):
            self.refused += 1
            socket.close(descriptor)
            raise BlockingIOError(f"too many connections, the last one of {network}")
        self._open[network] += 1
        self._count += 1
        accepted = _Accepted(self.family, self.type, self.proto, fileno=descriptor)
        accepted.setblocking(False)
        accepted.on_close = partial(self._forget, network)
        return accepted, address

    def _forget(self, network: str) -> None:
        self._open[network] -= 1
        self._count -= 1
        if not self._open[network]:
            del self._open[network]


class _Accepted(socket.socket):
    """One connection, which says once when it is closed."""

    on_close: Callable[[], None] | None = None

    def close(self) -> None:
        """Close it."""
        super().close()
        told, self.on_close = self.on_close, None
        if told is not None:
            told()


class Runner(web.AppRunner):
    """An application behind a parser that is bounded, and whose refusals are problem documents as well."""

    def __init__(self, app: web.Application, *, shutdown_timeout: float) -> None:
        super().__init__(
            app,
            access_log=None,
            shutdown_timeout=shutdown_timeout,
            keepalive_timeout=limits.IDLE_S,
            lingering_time=limits.LINGER_S,
            max_line_size=limits.REQUEST_LINE,
            max_field_size=limits.HEADER_FIELD,
            max_headers=limits.HEADERS,
        )

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()

        async def answered(request: web.BaseRequest) -> web.StreamResponse:
            try:
                return await made.request_handler(request)
            except web.HTTPException as error:  # of an Expect header, which is looked at before any middleware
                return refused(request, error)

        return _Server(self.app[RATES], answered, request_factory=made.request_factory, **made._kwargs)  # noqa: SLF001


class _Server(web.Server):
    def __init__(self, rates: Rates, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rates = rates

    def __call__(self) -> web.RequestHandler:
        return _Connection(self._rates, self, loop=self._loop, **self._kwargs)


class _Connection(web.RequestHandler):
    """One connection. What never becomes a request is refused here, before any middleware sees it."""

    __slots__ = ("_rates",)

    def __init__(self, rates: Rates, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._rates = rates

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Its first request is to be whole within ``HEADERS_S``; what aiohttp gives every later one is ``IDLE_S``."""
        patience, self._keepalive_timeout = self._keepalive_timeout, limits.HEADERS_S
        super().connection_made(transport)
        self._keepalive_timeout = patience

    def leave_unread(self) -> None:
        """Read no more of a body that was refused: to read it on costs as much as it did to send it."""
        self._lingering_time = 0.0

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 -- it repeats what was sent
    ) -> web.StreamResponse:
        """A problem document, and the end of the connection: nobody knows where a next request would begin."""
        instance = secrets.token_hex(8)
        if request.writer is not None and request.writer.output_size > 0:
            raise ConnectionError("an answer had begun already")
        if isinstance(exc, LineTooLong):
            answer = problem(
                GateReason.REQUEST_TOO_LARGE,
                f"the request line is over {limits.REQUEST_LINE} bytes, or a header field over {limits.HEADER_FIELD}",
                instance,
                status=431,
            )
        elif status < 500:
            answer = problem(GateReason.REQUEST_MALFORMED, "this is not one request of HTTP/1.1 (RFC 9112)", instance)
        else:
            answer = problem(GateReason.INTERNAL_ERROR, "this is a defect of the gateway; its log has more", instance)
        if status < 500:
            with suppress(RateExceededError):  # then it is answered all the same, and not one more line is written
                self._rates.unproved(source_of(request))
                log.info("refused", instance=instance, status=answer.status, kind=type(exc).__name__)
        else:
            log.error("internal error", instance=instance, exc_info=exc)
        answer.force_close()
        return answer


def listen(config: GatewayConfig) -> Listener:
    """The listening socket, before anything is written: a port in use must leave no trace."""
    family = socket.AF_INET6 if ":" in config.listen_host else socket.AF_INET
    listening = Listener(
        family,
        most=config.connections,
        most_of_address=config.connections_per_address,
        per_second=config.connections_per_address_s,
    )
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # The kernel looks after connections that were lost without a word; what is accepted inherits this.
    for option, value in KEEPALIVE:
        listening.setsockopt(socket.IPPROTO_TCP, option, value)
    try:
        listening.bind((config.listen_host, config.listen_port))
        listening.listen(1024)
    except OSError as error:
        listening.close()
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_ADDRESS_IN_USE,
            f"can't listen on {config.listen_host}:{config.listen_port}: {error.strerror}",
            "choose another port with --port, or stop what uses this one",
        ) from error
    return listening


async def serve_tls(runner: Runner, listening: socket.socket, tls: ssl.SSLContext) -> asyncio.Server:
    """Serve on ``listening``. aiohttp's own sites give a handshake a minute, in which it holds a connection."""
    if runner.server is None:
        raise RuntimeError("the runner is not set up")
    return await asyncio.get_running_loop().create_server(
        runner.server, sock=listening, ssl=tls, ssl_handshake_timeout=limits.HANDSHAKE_S, ssl_shutdown_timeout=2.0
    )


def write_address(config: GatewayConfig, url: str) -> None:
    """Where we listen, for scripts that asked for any free port; in place at once, never half written."""
    path: Path = config.data / ADDRESS_FILE
    fresh = path.with_suffix(".new")
    fresh.write_text(url + "\n")
    fresh.replace(path)
