"""Reference values: who approved which, what is different from what is in force, and the approval of another."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.console.forms import FORM, redirect
from gateway.console.page import OPERATORS, OVERSEERS, Page, Viewer
from gateway.pages import Page as Wanted
from gateway.storage.aside import apart
from ztrooted.baseline_diff import Difference, diff
from ztrooted.baseline_models import ApprovalRequest, BaselineView
from ztrooted.errors import GateError
from ztrooted.models import compose
from ztrooted.reasons import GateReason
from ztrooted.reference import Reference, parse_baseline

if TYPE_CHECKING:
    from gateway.console.app import Console

SHOWN = 50
DIFFERENCES = 500
MAX_TEXT = 256  # characters of a path, or of what it should be
MOST_COMPARED = 16  # pairs that are remembered: a baseline of 100,000 files takes half a second to read
DAY_S = 86400


class BaselinePages:
    """The list, one of them beside the one in force, and the approval."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._compared_before: dict[tuple[str, str], tuple[list[Difference], int]] = {}
        self.pages = (
            Page("GET", "/console/baselines", self.every, OVERSEERS, live=True),
            Page("GET", "/console/baselines/{baseline}", self.one, OVERSEERS),
            Page("GET", "/console/baselines/{baseline}/approve", self.ask, OPERATORS),
            Page("POST", "/console/baselines/{baseline}/approve", self.approve, OPERATORS),
        )

    async def every(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """The latest proposal first."""
        after = Wanted.wanted(request, int, str, str).after
        shown, following = self._console.gateway.references.page(Wanted(SHOWN, after))
        rows = [(one, self.standing(one)) for one in shown]
        return self._console.render(request, viewer, "governance/baselines.html", rows=rows, following=following)

    async def one(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """One, and what differs from what is in force for its class."""
        context = await self._compared(request.match_info["baseline"])
        return self._console.render(request, viewer, "governance/baseline.html", **context)

    async def ask(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Is it meant?"""
        context = await self._compared(request.match_info["baseline"])
        return self._console.render(request, viewer, "governance/approve.html", **context)

    async def approve(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Put it in force, as the API does; the record names who did."""
        gateway, form, digest = self._console.gateway, request[FORM], request.match_info["baseline"]
        days = form.get("days", "").strip()
        if days and not (days.isascii() and days.isdigit() and len(days) < 6):
            raise GateError(GateReason.REQUEST_MALFORMED, "'days' is a whole number of days, or nothing")
        asked = compose(ApprovalRequest, expires_in_s=int(days) * DAY_S if days else None)
        now_ms = gateway.clock.now_ms()
        expires_ms = None if asked.expires_in_s is None else now_ms + asked.expires_in_s * 1000
        view = await gateway.references.approve(digest, viewer.caller.name, now_ms, expires_ms=expires_ms)
        gateway.prove_all()
        if viewer.session is not None:
            viewer.session.note(f"Baseline {digest[:12]}… is in force for class {view.executor_class}.")
        return redirect(f"/console/baselines/{digest}")

    def standing(self, view: BaselineView) -> str:
        """In a word."""
        if view.in_force:
            expired = view.expires is not None and view.expires <= self._console.gateway.clock.now_ms()
            return "expired" if expired else "in force"
        return "proposed" if view.version is None else "approved before"

    async def _compared(self, digest: str) -> dict[str, Any]:
        references = self._console.gateway.references
        view = references.view(digest)
        current = references.current(view.executor_class)
        found: list[Difference] = []
        count = 0
        if current is not None and current.digest != digest:
            found, count = await self._differences(current, digest)
        return {
            "view": view,
            "standing": self.standing(view),
            "in_force": None if current is None else current.digest,
            "differences": found,
            "count": count,
        }

    async def _differences(self, current: Reference, digest: str) -> tuple[list[Difference], int]:
        """From what is in force, as far as a page shows them, and how many. What has one digest stays as it is."""
        pair = current.digest, digest
        if pair not in self._compared_before:
            data = self._console.gateway.references.data(digest)
            found = await apart(lambda: diff(current.baseline, parse_baseline(data)))
            if len(self._compared_before) >= MOST_COMPARED:
                self._compared_before.clear()
            self._compared_before[pair] = [_short(one) for one in found[:DIFFERENCES]], len(found)
        return self._compared_before[pair]


def _short(one: Difference) -> Difference:
    name, before, after = (
        text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]}…" for text in (one.name, one.before, one.after)
    )
    return replace(one, name=name, before=before, after=after)
