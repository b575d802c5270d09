"""The HTTP side of a witness: ``POST /add-checkpoint`` and nothing else. No TLS: every word of it is signed or public."""

import asyncio
import signal
import socket
import sqlite3
from http import HTTPStatus
from pathlib import Path

import structlog
from aiohttp import web

from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason
from ztrooted.witness import MAX_BODY, SIZE_TYPE, Refused, Witness
from ztrooted.witness_folder import WitnessFolder
from ztrooted.witness_store import WitnessStore

log = structlog.get_logger()

ADDRESS_FILE = "address"
READ_S = 10.0  # for a body of a few kilobytes


class WitnessService:
    """Requests in, cosignatures out."""

    def __init__(self, witness: Witness) -> None:
        self._witness = witness

    def application(self) -> web.Application:
        """To be served."""
        app = web.Application(client_max_size=MAX_BODY)
        app.router.add_post("/add-checkpoint", self._add_checkpoint)
        return app

    async def _add_checkpoint(self, request: web.Request) -> web.Response:
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


async def serve(folder: WitnessFolder, host: str, port: int) -> None:
    """Serve until SIGTERM or SIGINT. EnvironmentProblem when that can't begin; the address is in the file ``address``."""
    store = WitnessStore(folder.database)
    try:
        service = WitnessService(Witness(folder.logs, folder.cosigners, store, SystemClock()))
        runner = web.AppRunner(service.application(), access_log=None, shutdown_timeout=2.0)
        await runner.setup()
        listening = _listen(host, port)
        await web.SockSite(runner, listening).start()
        url = f"http://{host}:{listening.getsockname()[1]}"
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
