"""The process that serves: it listens, says that it is ready, hears signals, and stops in order."""

import asyncio
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import structlog
from aiohttp import web

from gateway import local
from gateway.app import Gateway
from gateway.config import GatewayConfig
from gateway.demo import player_of
from gateway.listening import ADDRESS_FILE, Runner, listen, serve_tls, write_address
from gateway.reload import Reloader
from ztrooted.tracing import tracing_to

log = structlog.get_logger()

# Python's threads take turns: what answers executors is not to wait for what reads a large list each time it has waited.
SWITCH_S = 0.0005


async def serve(
    config: GatewayConfig,
    *,
    ready: asyncio.Event | None = None,
    flags: Mapping[str, Any] | None = None,
    demo: Path | None = None,
) -> int:
    """Serve until told to stop. The exit code: 0 after a clean stop, 1 when something we depend on died.

    ``flags`` are what the configuration was loaded with, for when it is read again; ``demo`` is the folder of one, which the
    console then has a page for: see ``gateway.demo``.
    """
    player = None if demo is None else player_of(config, demo)
    listening = listen(config)
    sys.setswitchinterval(SWITCH_S)
    tracing = tracing_to(config.otlp_endpoint, "ztrooted-gateway")
    gateway = Gateway(config)
    gateway.player = player
    try:
        await gateway.start()
        runner = Runner(gateway.application(), shutdown_timeout=2.0)
        await runner.setup()
        gateway.metrics.connections.set_function(lambda: len(runner.server.connections) if runner.server else 0)
        gateway.metrics.connections_refused.set_function(lambda: listening.refused)
        server = await serve_tls(runner, listening, gateway.tls)
        await web.SockSite(runner, local.listen(config.data)).start()
        _hear_signals(gateway, Reloader(gateway, flags or {}))  # before anybody is told that we are here
        host, port = listening.getsockname()[:2]
        log.info("serving", url=f"https://{host}:{port}", virtual_tpm=gateway.signer.identity.virtual)
        write_address(config, f"https://{host}:{port}")
        gateway.manager.tell("READY=1")
        if ready is not None:
            ready.set()
        await gateway.stopping.wait()
        gateway.manager.tell("STOPPING=1")
        # Before the HTTP side, which from now on drops what executors say: their silence would be recorded as theirs.
        await gateway.channels.close()
        gateway.feed.close()
        server.close()
        await runner.cleanup()
    finally:
        for left in (ADDRESS_FILE, local.FILE):
            (config.data / left).unlink(missing_ok=True)  # nobody is there any more
        if player is not None:
            await asyncio.to_thread(player.close)
        await gateway.close()
        if tracing is not None:
            await asyncio.to_thread(tracing.close)
    return 1 if gateway.failed else 0


def _hear_signals(gateway: Gateway, reloader: Reloader) -> None:
    loop = asyncio.get_running_loop()
    for name in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(name, gateway.stopping.set)
    loop.add_signal_handler(signal.SIGHUP, lambda: gateway.tasks.start(reloader.reload()) and None)
