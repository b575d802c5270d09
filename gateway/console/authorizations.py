"""Authorizations: what runs and for how long yet, what was refused and why, and the story of one."""

import sqlite3
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.console.page import Page, Viewer
from gateway.console.rows import authorization_row
from gateway.pages import Page as Wanted
from gateway.storage import authorizations, listings
from gateway.storage.authorizations import Authorization
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

if TYPE_CHECKING:
    from gateway.console.app import Console

SHOWN = 50
STORY = 200


class AuthorizationPages:
    """The list, and one of them."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (
            Page("GET", "/console/authorizations", self.every, public=True, live=True),
            Page("GET", "/console/authorizations/{authorization}", self.one, public=True, live=True),
        )

    async def every(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """The latest first; ``show`` chooses what is live, or what was refused."""
        gateway, choice = self._console.gateway, request.query.get("show", "all")
        if choice not in listings.CHOICES:
            raise GateError(GateReason.REQUEST_MALFORMED, f"'show' is one of {', '.join(listings.CHOICES)}")
        after = Wanted.wanted(request, int, str).after
        found = await self._console.look(
            lambda connection: listings.list_authorizations(
                connection, choice=choice, orchestrator=viewer.own, after=after, limit=SHOWN + 1
            )
        )
        shown, following = Wanted(limit=SHOWN).cut(found, lambda one: (one.requested_at, one.id))
        return self._console.render(
            request,
            viewer,
            "governance/authorizations.html",
            rows=[authorization_row(gateway, one, viewer) for one in shown],
            choice=choice,
            following=following,
        )

    async def one(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """One authorization, with each of its records."""
        gateway, found = self._console.gateway, self._found(request, viewer)

        def read(connection: sqlite3.Connection) -> tuple[list[Any], list[Authorization]]:
            return listings.story(connection, found.id, STORY), authorizations.children(connection, found.id)

        story, below = await self._console.look(read)
        children = [one for one in below if viewer.own in {None, one.orchestrator}]
        return self._console.render(
            request,
            viewer,
            "governance/authorization.html",
            row=authorization_row(gateway, found, viewer),
            found=found,
            story=[_step(*row) for row in story],
            children=[authorization_row(gateway, one, viewer) for one in children],
        )

    def _found(self, request: web.Request, viewer: Viewer) -> Authorization:
        found = authorizations.get(self._console.gateway.database.reading, request.match_info["authorization"])
        if viewer.own is not None and found.orchestrator != viewer.own:
            raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {found.id!r}")
        return found


def _step(seq: int, kind: str, at: int, data: bytes) -> dict[str, Any]:
    """One record for people: what it says of why, where it says anything."""
    body = parse_record(bytes(data)).body
    why, detail = body.get("reason"), body.get("detail")
    return {
        "seq": seq,
        "kind": kind,
        "at": at,
        "reason": why if isinstance(why, str) else None,
        "detail": detail if isinstance(detail, str) else "",
    }
