"""Policies: what is in force, who put it there, and what changed each time."""

import asyncio
import difflib
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.console.page import OVERSEERS, Page, Viewer
from gateway.storage import listings
from ztrooted.errors import GateError
from ztrooted.policies import FILES
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

if TYPE_CHECKING:
    from gateway.console.app import Console

ROLES = ("appraisal", "dispatch", "entities")
ACTIVATIONS = 200
MAX_LINES = 4000


class PolicyPages:
    """The documents in force, and each change."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self.pages = (
            Page("GET", "/console/policies", self.in_force, OVERSEERS, live=True),
            Page("GET", "/console/policies/{number}", self.change, OVERSEERS),
        )

    async def in_force(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """The three documents, and the history of them."""
        policies = self._console.gateway.policies.current
        documents = {role: data.decode() for role, data in policies.documents().items()}
        return self._console.render(
            request,
            viewer,
            "governance/policies.html",
            documents=documents,
            digests=policies.digests(),
            files=FILES,
            trusts_everything=list(policies.trusts_everything()),
            history=self._history()[::-1],
        )

    async def change(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """What one activation changed."""
        number, history = request.match_info["number"], self._history()
        at = next((n for n, one in enumerate(history) if str(one["seq"]) == number), None)
        if at is None:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "no activation has that number")
        before = history[at - 1] if at else None
        changes = await asyncio.to_thread(self._compared, before, history[at])
        return self._console.render(
            request, viewer, "governance/policy.html", activation=history[at], before=before, changes=changes
        )

    def _history(self) -> list[dict[str, Any]]:
        """Activations that changed something, the oldest first; a start that found the same files is none."""
        found: list[dict[str, Any]] = []
        rows = listings.latest_records(self._console.gateway.database.reading, ("policy.activated",), ACTIVATIONS)
        for seq, _, data in reversed(rows):
            record = parse_record(bytes(data))
            digests = {role: str(record.body[role]) for role in ROLES}
            if not found or found[-1]["digests"] != digests:
                changed = [role for role in ROLES if not found or found[-1]["digests"][role] != digests[role]]
                operator = record.body["operator"]
                one = {"seq": seq, "at": record.at, "operator": operator, "digests": digests, "changed": changed}
                found.append(one)
        return found

    def _compared(self, before: dict[str, Any] | None, after: dict[str, Any]) -> list[dict[str, Any]]:
        found = []
        for role in ROLES:
            old = "" if before is None else self._text(before["digests"][role])
            new = self._text(after["digests"][role])
            if old != new:
                found.append({"role": role, "file": FILES[role], "lines": changed_lines(old, new)})
        return found

    def _text(self, digest: str) -> str:
        row = self._console.gateway.database.reading.execute(
            "SELECT bytes FROM blobs WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            raise GateError(GateReason.DATABASE_CORRUPT, f"the bytes of the activated policy {digest} are missing")
        return bytes(row[0]).decode()


def changed_lines(old: str, new: str) -> list[tuple[str, str]]:
    """What differs between two texts, with three lines around it: (``add``, ``remove``, ``same`` or ``skip``, line)."""
    kinds = {"+": "add", "-": "remove", " ": "same", "@": "skip"}
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=3))[2:]
    shown = [(kinds.get(line[:1], "same"), line if line.startswith("@") else line[1:]) for line in lines[:MAX_LINES]]
    if len(lines) > MAX_LINES:
        shown.append(("skip", f"{len(lines) - MAX_LINES} more lines"))
    return shown
