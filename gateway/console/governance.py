"""The governance console: how everything stands, and what operators order. Its pages are in a module for each subject."""

import sqlite3
import time
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.console.authorizations import AuthorizationPages
from gateway.console.baselines import BaselinePages
from gateway.console.executors import ExecutorPages
from gateway.console.orders import OrderPages
from gateway.console.page import Page, Surface, Viewer
from gateway.console.policies import PolicyPages
from gateway.console.rows import authorization_row
from gateway.pages import Page as Wanted
from gateway.storage import listings
from gateway.storage.authorizations import Authorization
from ztrooted.records import parse_record

if TYPE_CHECKING:
    from gateway.console.app import Console

WITHIN = tuple(f"/console/{one}/" for one in ("executors", "authorizations", "policies", "baselines", "orders"))
COUNTED_S = 2.0  # ten thousand executors are not counted for everybody who looks
SHOWN = 10
# What operators did, in the lineage.
ACTIONS = (
    "operator.revoked",
    "operator.quarantined",
    "operator.released",
    "operator.token_created",
    "operator.token_revoked",
    "baseline.approved",
    "policy.activated",
    "executor.labelled",
    "executor.retired",
)


def surface(console: "Console") -> Surface:
    """Its pages."""
    groups = (
        OverviewPages(console),
        ExecutorPages(console),
        AuthorizationPages(console),
        PolicyPages(console),
        BaselinePages(console),
        OrderPages(console),
    )
    return Surface("Governance", "/console/", tuple(page for group in groups for page in group.pages), within=WITHIN)


class OverviewPages:
    """Everything at a glance."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._counted: tuple[float, dict[str, int]] = (0.0, {})
        self.pages = (Page("GET", "/console/", self.overview, public=True, live=True),)

    async def overview(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Readiness, who is trusted, what runs, what was refused, who did what."""
        gateway = self._console.gateway
        counts = await self._counts()

        def read(connection: sqlite3.Connection) -> tuple[int, dict[str, list[Authorization]]]:
            return listings.count_live(connection, viewer.own), {
                choice: listings.list_authorizations(connection, choice=choice, orchestrator=viewer.own, limit=SHOWN)
                for choice in ("live", "refused")
            }

        live, found = await self._console.look(read)
        rows = {choice: [authorization_row(gateway, one, viewer) for one in some] for choice, some in found.items()}
        return self._console.render(
            request,
            viewer,
            "governance/overview.html",
            failing=gateway.not_ready(),
            counts=counts,
            live=live,
            running=rows["live"],
            refused=rows["refused"],
            quarantined=gateway.orders.quarantined(Wanted(limit=SHOWN)).quarantined if viewer.oversees else [],
            actions=self._actions() if viewer.oversees else [],
            shown=SHOWN,
        )

    async def _counts(self) -> dict[str, int]:
        at, counts = self._counted
        if not counts or time.monotonic() - at > COUNTED_S:
            now_ms = self._console.gateway.clock.now_ms()
            counts = await self._console.look(lambda connection: listings.count_executors(connection, now_ms))
            self._counted = time.monotonic(), counts
        return counts

    def _actions(self) -> list[dict[str, Any]]:
        found = []
        for seq, kind, data in listings.latest_records(self._console.gateway.database.reading, ACTIONS, SHOWN):
            record = parse_record(bytes(data))
            body = record.body
            told = {"operator": body.get("operator"), "reason": body.get("reason"), "text": _said(body)}
            found.append({"seq": seq, "kind": kind, "at": record.at, **told})
        return found


def _said(body: Any) -> str:
    """Whom or what a record is about, in a few words."""
    if "kind" in body and "id" in body:
        return f"{body['kind']} {body['id']}"
    if "baseline" in body:
        return f"{body['class']}: {str(body['baseline'])[:12]}…"
    if "role" in body:
        return f"{body['role']} {body['name']}"
    return str(body.get("executor") or body.get("id") or "")
