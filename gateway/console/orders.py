"""Operators' orders: each asked for on a page that says what it will do, given with a reason, and recorded."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote

from aiohttp import web

from gateway.console.forms import FORM, redirect
from gateway.console.page import OPERATORS, OVERSEERS, Page, Viewer
from gateway.console.words import plural
from gateway.orders import Order, live_of
from gateway.pages import Page as Wanted
from gateway.routes.orders import no_quarantine, require_subject
from gateway.storage.authorizations import Authorization
from ztrooted.errors import GateError
from ztrooted.models import compose
from ztrooted.operator_models import OrderRequest, Subject
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.console.app import Console

SHOWN = 50


class Verb(NamedTuple):
    """One kind of order, for people."""

    title: str
    effect: str
    button: str
    done: str


VERBS: Mapping[str, Verb] = MappingProxyType(
    {
        "revoke": Verb(
            "Revoke",
            "Everything live of it ends at once, with what was authorized under it, and is killed where it runs. New"
            " authorizations remain possible.",
            "Revoke now",
            "was revoked",
        ),
        "quarantine": Verb(
            "Quarantine",
            "Everything live of it ends at once, with what was authorized under it, and whatever comes is refused until"
            " somebody releases it.",
            "Quarantine now",
            "is in quarantine",
        ),
        "release": Verb(
            "Release",
            "It may prove itself and be authorized again. What the quarantine ended stays ended.",
            "Release",
            "was released",
        ),
    }
)


class OrderPages:
    """Who is in quarantine, and the three orders."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (
            Page("GET", "/console/orders", self.quarantined, OVERSEERS, live=True),
            Page("GET", "/console/orders/{verb}", self.ask, OPERATORS),
            Page("POST", "/console/orders/{verb}", self.give, OPERATORS),
        )

    async def quarantined(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Who is in quarantine, and why; and where an order about anything begins."""
        after = Wanted.wanted(request, int, str, str).after
        found = self._console.gateway.orders.quarantined(Wanted(SHOWN, after))
        return self._console.render(
            request, viewer, "governance/orders.html", rows=found.quarantined, following=found.next, urls=subject_url
        )

    async def ask(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Is it meant? Says what would end."""
        name = request.match_info["verb"]
        subject = self._subject(name, request.query.get("kind", ""), request.query.get("id", ""))
        ending = [] if name == "release" else await self._console.look(lambda one: live_of(one, subject))
        return self._console.render(
            request,
            viewer,
            "governance/order.html",
            name=name,
            verb=VERBS[name],
            subject=subject,
            ending=ending[:20],
            count=len(ending),
            back=subject_url(subject),
        )

    async def give(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Carry it out, as the API does, in the name of who is signed in."""
        gateway, form, name = self._console.gateway, request[FORM], request.match_info["verb"]
        subject = self._subject(name, form.get("kind", ""), form.get("id", ""))
        asked = compose(OrderRequest, subject=subject, reason=form.get("reason", "").strip())
        order = Order(asked.subject, viewer.caller.name, asked.reason, gateway.clock.now_ms())
        ended: list[Authorization] = []
        if name == "revoke":
            ended = await gateway.orders.revoke(order)
        elif name == "quarantine":
            ended = await gateway.orders.quarantine(order)
        else:
            await gateway.orders.release(order)
        await gateway.endings.announce(ended)
        if viewer.session is not None:
            told = "" if name == "release" else f" {plural(len(ended), 'authorization')} ended."
            viewer.session.note(f"{subject} {VERBS[name].done}, by {viewer.name}: {asked.reason}.{told}")
        return redirect(subject_url(subject))

    def _subject(self, verb: str, kind: str, name: str) -> Subject:
        if verb not in VERBS:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "there is no such order")
        subject: Subject = compose(Subject, kind=kind, id=name)
        if subject.kind == "authorization" and verb != "revoke":
            raise no_quarantine(subject)
        if verb != "release":  # a class that the policy has no more can be released, too
            require_subject(self._console.gateway, subject, known=verb == "revoke")
        return subject


def subject_url(subject: Subject) -> str:
    """The page of what an order is about."""
    if subject.kind == "executor":
        return f"/console/executors/{quote(subject.id, safe='')}"
    if subject.kind == "authorization":
        return f"/console/authorizations/{quote(subject.id, safe='')}"
    return "/console/orders"
