"""The HTTP side of a witness: ``POST /add-checkpoint`` and nothing else.

With TLS where it has a certificate. It is not needed for what is said, every word of which is signed or public. What one
address may ask, how many are answered at once and how long a body may take are bounded.
"""

import asyncio
import signal
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path

import structlog
from aiohttp import web

from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason
from ztrooted.request_rate import RequestRate
from ztrooted.witness import MAX_BODY, SIZE_TYPE, Refused, Witness
from ztrooted.witness_folder import WitnessFolder
from ztrooted.witness_store import WitnessStore

log = structlog.get_logger()

ADDRESS_FILE = "address"
READ_S = 10.0  # for a body of a few kilobytes
MAX_AT_ONCE = 32  # requests: a body of each is held, and they are answered one after the other
# A log asks about once a minute, and a second time where it was behind; a proxy in front is one address for many of them.
RATE_PER_S, BURST = 20.0, 60
RETRY = {"Retry-After": "1"}


class WitnessService:
    """Requests in, cosignatures out."""

    def __init__(self, witness: Witness, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._witness = witness
        self._rate = RequestRate(RATE_PER_S, BURST, monotonic)
        self._under_way = 0

    def application(self) -> web.Application:
        """To be served."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/add-checkpoint", self._add_checkpoint)
        return app

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
        """One request, if there is room for it. Nothing is read of one that has to come again."""
        if not self._rate.take(request.remote or ""):
            return _busy(HTTPStatus.TOO_MANY_REQUESTS, f"over {RATE_PER_S:g} requests a second from one address")
        if self._under_way >= MAX_AT_ONCE:
            return _busy(HTTPStatus.SERVICE_UNAVAILABLE, f"{MAX_AT_ONCE} requests are under way")
        self._under_way += 1
        try:
            return await self._answer(request)
        finally:
            self._under_way -= 1

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(READ_S):
                body = await request.read()
        except TimeoutError:
            return web.Response(status=HTTPStatus.REQUEST_TIMEOUT, text="the body did not arrive in time\n")
        try:
            lines = await asyncio.to_thread(self._witness.add_checkpoint, body)
        except Refused as refused:
            cause = refused.cause
            log.warning("not cosigned", status=refused.status, code=cause.reason, detail=cause.detail)
            if refused.size is not None:
                headers = {"Content-Type": SIZE_TYPE}
                return web.Response(status=refused.status, body=b"%d\n" % refused.size, headers=headers)
            return web.Response(status=refused.status, text=f"{cause.reason}: {cause.detail}\n")
        except sqlite3.Error as error:  # the disk refused: nothing is remembered, so nothing is cosigned
            log.error("not remembered", code=str(GateReason.DATABASE_UNAVAILABLE), detail=str(error))
            return web.Response(status=HTTPStatus.SERVICE_UNAVAILABLE, text=f"{GateReason.DATABASE_UNAVAILABLE}\n")
        return web.Response(body=lines, content_type="text/plain", charset="utf-8")


def _busy(status: HTTPStatus, detail: str) -> web.Response:
    log.warning("not answered", status=status, code=str(GateReason.SERVICE_BUSY), detail=detail)
    return web.Response(status=status, headers=RETRY, text=f"{GateReason.SERVICE_BUSY}: {detail}\n")


def server_tls(certificate: Path, key: Path) -> ssl.SSLContext:
    """TLS 1.2 or newer with a chain and its private key (PEM, its owner's alone). EnvironmentProblem where they are none."""
    try:
        if key.stat().st_mode & 0o077:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_KEY_FILE,
                f"the key {key} can be read by others than its owner",
                f"if nobody has read it: chmod 600 {key}; otherwise make another one",
            )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        # Without a callback OpenSSL would ask on the terminal for the password of a key that has one.
        context.load_cert_chain(certificate, key, password=lambda: "")
    except OSError as error:  # ssl.SSLError is one
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_TLS,
            f"{certificate} and {key} can't be used: {error.strerror or error}",
            "name the certificate's chain and its private key, both PEM, the key without a password",
        ) from error
    return context


async def serve(folder: WitnessFolder, host: str, port: int, tls: ssl.SSLContext | None = None) -> None:
    """Serve until SIGTERM or SIGINT. EnvironmentProblem when that can't begin; the address is in the file ``address``."""
    store = WitnessStore(folder.database)
    try:
        service = WitnessService(Witness(folder.logs, folder.cosigners, store, SystemClock()))
        runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        listening = _listen(host, port)
        await web.SockSite(runner, listening, ssl_context=tls).start()
        url = f"{'http' if tls is None else 'https'}://{host}:{listening.getsockname()[1]}"
        _write_address(folder.path, url)
        log.info("serving", url=url, logs=len(folder.logs))
        stopping = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stopping.set)
        await stopping.wait()
        await runner.cleanup()
    finally:
        (folder.path / ADDRESS_FILE).unlink(missing_ok=True)
        store.close()


def _listen(host: str, port: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_ADDRESS_IN_USE,
            f"can't listen on {host}:{port}: {error.strerror}",
            "choose another address with --listen, or stop what uses this one",
        ) from error
    return listening


def _write_address(folder: Path, url: str) -> None:
    """In place at once, never half written."""
    fresh = folder / f"{ADDRESS_FILE}.new"
    fresh.write_text(url + "\n")
    fresh.replace(folder / ADDRESS_FILE)
