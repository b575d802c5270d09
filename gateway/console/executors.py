"""Executors: how each stands, when it was proved, and when it has to be proved next."""

import re
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.console.page import Page, Viewer
from gateway.console.rows import authorization_row, executor_row
from gateway.storage import executors, listings, retirements
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.console.app import Console

SHOWN = 100
LATEST = 15
_BEGINNING = re.compile(r"[a-z0-9-]{0,40}")


class ExecutorPages:
    """The list, and one of them."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (
            Page("GET", "/console/executors", self.every, public=True, live=True),
            Page("GET", "/console/executors/{executor}", self.one, public=True, live=True),
        )

    async def every(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """A page of executors by id; ``standing`` and ``id`` choose, ``after`` goes on."""
        gateway = self._console.gateway
        standing, beginning = request.query.get("standing", ""), request.query.get("id", "").strip().lower()
        after = request.query.get("after", "")
        if standing and standing not in listings.STANDINGS:
            raise GateError(GateReason.REQUEST_MALFORMED, f"'standing' is one of {', '.join(listings.STANDINGS)}")
        if not _BEGINNING.fullmatch(beginning) or not _BEGINNING.fullmatch(after):
            raise GateError(GateReason.REQUEST_MALFORMED, "an executor's id is 'ex-' and 32 hexadecimal digits")
        now_ms = gateway.clock.now_ms()
        found = await self._console.look(
            lambda connection: listings.list_executors(
                connection, now_ms=now_ms, standing=standing, beginning=beginning, after=after, limit=SHOWN + 1
            )
        )
        return self._console.render(
            request,
            viewer,
            "governance/executors.html",
            rows=[executor_row(gateway, one, viewer) for one in found[:SHOWN]],
            following=found[SHOWN - 1].id if len(found) > SHOWN else None,
            standing=standing,
            standings=list(listings.STANDINGS),
            beginning=beginning,
            after=after,
        )

    async def one(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """One executor: the checks of its last round, its work, and who ordered what about it."""
        gateway, name = self._console.gateway, request.match_info["executor"]
        reading = gateway.database.reading
        executor = executors.find(reading, name)
        if executor is None:
            raise GateError(GateReason.DISPATCH_EXECUTOR_UNKNOWN, f"no executor {name!r:.60} is enrolled")
        found = await self._console.look(
            lambda connection: listings.list_authorizations(
                connection, orchestrator=viewer.own, executor=name, limit=LATEST
            )
        )
        quarantine = reading.execute(
            "SELECT operator, reason, at FROM quarantines WHERE kind = 'executor' AND id = ?", (name,)
        ).fetchone()
        return self._console.render(
            request,
            viewer,
            "governance/executor.html",
            row=executor_row(gateway, executor, viewer),
            executor=executor,
            checks=executor.verdict["checks"],
            authorizations=[authorization_row(gateway, one, viewer) for one in found],
            quarantine=quarantine,
            retirement=retirements.find(reading, name),
            baseline=gateway.references.current(executor.executor_class),
        )
