"""Policies: what is in force, who put it there, and what changed each time."""

import difflib
import re
import sqlite3
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.console.page import OVERSEERS, Page, Viewer
from gateway.storage import listings
from gateway.storage.aside import aside
from ztrooted.errors import GateError
from ztrooted.policies import FILES
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

if TYPE_CHECKING:
    from gateway.console.app import Console

ROLES = ("appraisal", "dispatch", "entities")
ACTIVATIONS = 200
MAX_LINES = 2000  # shown of what changed in one document, each as far as a reader would follow it
MAX_LINE = 400
MAX_SHOWN = 56 << 10  # characters of what changed in one document
MAX_COMPARED = 1500  # lines between the first and the last that differ: comparing takes the square of them
MAX_DOCUMENT = 48 << 10  # bytes shown of one that is in force


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
        documents = {role: _beginning(data) for role, data in policies.documents().items()}
        history = await self._console.look(_history)
        return self._console.render(
            request,
            viewer,
            "governance/policies.html",
            documents=documents,
            digests=policies.digests(),
            files=FILES,
            trusts_everything=list(policies.trusts_everything()),
            history=history[::-1],
        )

    async def change(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """What one activation changed."""
        number, history = request.match_info["number"], await self._console.look(_history)
        at = next((n for n, one in enumerate(history) if str(one["seq"]) == number), None)
        if at is None:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "no activation has that number")
        before = history[at - 1] if at else None
        changes = await aside(
            self._console.gateway.config.data / "gateway.db", lambda one: _compared(one, before, history[at])
        )
        return self._console.render(
            request, viewer, "governance/policy.html", activation=history[at], before=before, changes=changes
        )


def _beginning(data: bytes) -> tuple[str, int, int]:
    """A document as far as it is shown, its lines, and how many bytes of it are not shown."""
    shown = data[:MAX_DOCUMENT].decode("utf-8", "ignore")
    return shown, len(data.splitlines()), max(0, len(data) - MAX_DOCUMENT)


def _history(connection: sqlite3.Connection) -> list[dict[str, Any]]:
    """Activations that changed something, the oldest first; a start that found the same files is none."""
    found: list[dict[str, Any]] = []
    for seq, _, data in reversed(listings.latest_records(connection, ("policy.activated",), ACTIVATIONS)):
        record = parse_record(bytes(data))
        digests = {role: str(record.body[role]) for role in ROLES}
        if not found or found[-1]["digests"] != digests:
            changed = [role for role in ROLES if not found or found[-1]["digests"][role] != digests[role]]
            operator = record.body["operator"]
            found.append({"seq": seq, "at": record.at, "operator": operator, "digests": digests, "changed": changed})
    return found


def _compared(
    connection: sqlite3.Connection, before: dict[str, Any] | None, after: dict[str, Any]
) -> list[dict[str, Any]]:
    found = []
    for role in ROLES:
        old = "" if before is None else _text(connection, before["digests"][role])
        new = _text(connection, after["digests"][role])
        if old != new:
            found.append({"role": role, "file": FILES[role], "lines": changed_lines(old, new)})
    return found


def _text(connection: sqlite3.Connection, digest: str) -> str:
    row = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        raise GateError(GateReason.DATABASE_CORRUPT, f"the bytes of the activated policy {digest} are missing")
    return bytes(row[0]).decode()


def changed_lines(old: str, new: str) -> list[tuple[str, str]]:
    """What differs between two texts, with three lines around it: (``add``, ``remove``, ``same`` or ``skip``, line).

    Where more than ``MAX_COMPARED`` lines lie between the first and the last difference, those are removed and added.
    """
    before, after = old.splitlines(), new.splitlines()
    first = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(before, after, strict=False)))
    rest = zip(reversed(before[first:]), reversed(after[first:]), strict=False)
    last = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest))
    gone, come = before[first : len(before) - last], after[first : len(after) - last]
    if max(len(gone), len(come)) > MAX_COMPARED:
        half = MAX_LINES // 2
        parts = (("remove", gone[:half]), ("add", come[:half]))
        lines = [("skip", f"@@ from line {first + 1} on @@"), *((kind, line) for kind, some in parts for line in some)]
        return _bounded(lines, len(gone[half:]) + len(come[half:]))
    start = max(0, first - 3)
    unified = difflib.unified_diff(
        before[start : len(before) - last + 3], after[start : len(after) - last + 3], lineterm="", n=3
    )
    kinds = {"+": "add", "-": "remove", " ": "same", "@": "skip"}
    lines = [
        (kinds.get(line[:1], "same"), _numbered(line, start) if line.startswith("@") else line[1:])
        for line in list(unified)[2:]
    ]
    return _bounded(lines[:MAX_LINES], len(lines[MAX_LINES:]))


def _numbered(head: str, start: int) -> str:
    """The head of a group of lines, ``@@ -1,4 +1,5 @@``, with its lines counted from the document's first."""
    return re.sub(r"(?<=[-+])\d+", lambda found: str(int(found[0]) + start), head)


def _bounded(lines: list[tuple[str, str]], left: int) -> list[tuple[str, str]]:
    """As many of them as a page holds, none longer than ``MAX_LINE``."""
    shown: list[tuple[str, str]] = []
    room = MAX_SHOWN
    for kind, line in lines:
        cut = line if len(line) <= MAX_LINE else f"{line[:MAX_LINE]}… {len(line) - MAX_LINE} more characters"
        room -= len(cut)
        if room < 0:
            break
        shown.append((kind, cut))
    left += len(lines) - len(shown)
    return [*shown, ("skip", f"{left} more lines")] if left else shown
