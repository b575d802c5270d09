"""The lineage as a log that other tools can follow: C2SP tlog-tiles below ``/log``, for auditors and operators.

Records say who runs what, so they are for those who may see everything. Proofs of consistency are hashes, so they are
for everybody whom we know: who remembers a checkpoint can ask whether this is still that log.
"""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import BYTES, NUMBER, TEXT, Parameter, Route, bytes_of, json_of
from gateway.routes.route import json_answer
from gateway.storage.lineage import Reader
from ztrooted import merkle, tiles
from ztrooted.errors import GateError
from ztrooted.log_memory import ConsistencyView
from ztrooted.models import IssuerList
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

BINARY = "application/octet-stream"
KNOWN = frozenset({Role.EXECUTOR, Role.ORCHESTRATOR, Role.AUDITOR, Role.OPERATOR})
AUDITORS = frozenset({Role.AUDITOR, Role.OPERATOR})
FOR_EVER = {"Cache-Control": "private, max-age=31536000, immutable"}  # a tile never changes
LEVELS = {str(level): level for level in range(tiles.MAX_LEVEL + 1)}
POSITIVE = NUMBER | {"minimum": 1}
FROM = Parameter("from", "a number of records, at least 1", POSITIVE, required=True)
TO = Parameter("to", "a number of records, not less than 'from'; that of the newest checkpoint unless told", POSITIVE)
FRESH = {"Cache-Control": "no-store"}


class LogRoutes:
    """Checkpoint, hash tiles, entries. Nothing beyond the newest checkpoint is shown: nobody could verify it."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._reader = Reader(gateway.database.reading)
        self.routes = (
            Route(
                "GET",
                "/v1/log/consistency",
                KNOWN,
                self.consistency,
                json_of(ConsistencyView),
                frozenset({404, 503}),
                query=(FROM, TO),
            ),
            Route("GET", "/v1/issuers", KNOWN, self.issuers, json_of(IssuerList), frozenset({503})),
            Route(
                "GET",
                "/log/checkpoint",
                AUDITORS,
                self.checkpoint,
                bytes_of("text/plain", "A C2SP signed note.", TEXT),
                frozenset({503}),
            ),
            Route(
                "GET",
                "/log/tile/entries/{number:.+}",
                AUDITORS,
                self.entries,
                bytes_of(BINARY, "A bundle of entries (C2SP tlog-tiles).", BYTES),
                frozenset({503}),
            ),
            Route(
                "GET",
                "/log/tile/{level}/{number:.+}",
                AUDITORS,
                self.hashes,
                bytes_of(BINARY, "A tile of hashes (C2SP tlog-tiles).", BYTES),
                frozenset({503}),
            ),
        )

    async def issuers(self, _request: web.Request, _caller: Caller) -> web.Response:
        """How the log key introduced the issuing keys in use: with anchors, enough to verify an artifact anywhere."""
        return json_answer(IssuerList(issuers=self._gateway.signer.introductions()).model_dump())

    async def checkpoint(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The newest sealed checkpoint."""
        return web.Response(body=self._latest()[1], content_type="text/plain", charset="utf-8", headers=FRESH)

    async def consistency(self, request: web.Request, _caller: Caller) -> web.Response:
        """Proof that the log of ``to`` records (the newest checkpoint's, unless told) begins with that of ``from``."""
        newest, note = self._latest()
        old, new = int(request.query["from"]), int(request.query.get("to", newest))
        if old > new:
            raise GateError(GateReason.REQUEST_MALFORMED, "ask with ?from=N&to=M, where 0 < N <= M")
        if new > newest:
            raise GateError(GateReason.LINEAGE_RANGE, f"the newest checkpoint is over {newest} records, not {new}")
        hashes = merkle.consistency_proof(old, new, self._reader.read)
        answer = ConsistencyView(
            from_size=old, to_size=new, hashes=[one.hex() for one in hashes], checkpoint=note.decode()
        )
        return json_answer(answer.model_dump())

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
    return web.Response(body=data, content_type=BINARY, headers=FOR_EVER)
