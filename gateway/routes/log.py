"""The lineage as a log that other tools can follow: C2SP tlog-tiles below ``/log``, for auditors and operators.

Records say who runs what, so they are for those who may see everything.
"""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.routes.route import Route
from gateway.storage.lineage import Reader
from ztrooted import tiles
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

AUDITORS = frozenset({Role.AUDITOR, Role.OPERATOR})
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a tile never changes
LEVELS = {str(level): level for level in range(tiles.MAX_LEVEL + 1)}
FRESH = {"Cache-Control": "no-store"}


class LogRoutes:
    """Checkpoint, hash tiles, entries. Nothing beyond the newest checkpoint is shown: nobody could verify it."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._reader = Reader(gateway.database.reading)
        self.routes = (
            Route("GET", "/log/checkpoint", AUDITORS, self.checkpoint),
            Route("GET", "/log/tile/entries/{number:.+}", AUDITORS, self.entries),
            Route("GET", "/log/tile/{level}/{number:.+}", AUDITORS, self.hashes),
        )

    async def checkpoint(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The newest sealed checkpoint."""
        return web.Response(body=self._latest()[1], content_type="text/plain", charset="utf-8", headers=FRESH)

    async def hashes(self, request: web.Request, _caller: Caller) -> web.Response:
        """A hash tile."""
        level = LEVELS.get(request.match_info["level"])
        if level is None:
            raise _no_tile()
        number, width = self._tile(request, tiles.HEIGHT * level)
        return _answer(b"".join(self._reader.hashes(level, number * tiles.WIDTH, width)))

    async def entries(self, request: web.Request, _caller: Caller) -> web.Response:
        """A bundle of records."""
        number, width = self._tile(request, 0)
        first = number * tiles.WIDTH
        rows = self._gateway.database.reading.execute(
            "SELECT bytes FROM records WHERE seq >= ? AND seq < ? ORDER BY seq", (first, first + width)
        )
        return _answer(tiles.format_entries([bytes(data) for (data,) in rows]))

    def _latest(self) -> tuple[int, bytes]:
        latest = self._gateway.checkpointer.latest()
        if latest is None:
            raise GateError(GateReason.SERVICE_NOT_READY, "nothing has been sealed yet")
        return latest

    def _tile(self, request: web.Request, shift: int) -> tuple[int, int]:
        """(number, width) of the tile asked for, where the newest checkpoint covers it."""
        found = tiles.parse_number(request.match_info["number"])
        size, _ = self._latest()
        if found is None or found[0] * tiles.WIDTH + found[1] > size >> shift:
            raise _no_tile()
        return found


def _no_tile() -> GateError:
    return GateError(GateReason.LINEAGE_NO_TILE, "the newest checkpoint has no such tile")


def _answer(data: bytes) -> web.Response:
    return web.Response(body=data, content_type="application/octet-stream", headers=FOR_EVER)
