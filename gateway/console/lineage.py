"""Lineage: executions found among very many, what is known of one, and any record with its way to the sealed checkpoint.

A page tells what the records say; its browser computes the proofs again, with the second verifier's own functions.
"""

import json
import sqlite3
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from aiohttp import web

from gateway.console.answers import answers
from gateway.console.forms import HEADERS
from gateway.console.page import OVERSEERS, Page, Surface, Viewer
from gateway.console.stories import read_story
from gateway.pages import Page as Rows
from gateway.storage import lineage
from gateway.storage.aside import aside
from gateway.storage.listings import stands
from gateway.storage.searching import Found, Wanted, reasons, search
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint, parse_checkpoint
from ztrooted.errors import GateError
from ztrooted.note import parse_note
from ztrooted.reasons import GateReason
from ztrooted.tlog_proof import TlogProof, format_tlog_proof

if TYPE_CHECKING:
    from gateway.console.app import Console

URL = "/console/lineage"
NAMED = ("job", "executor", "orchestrator", "reason")
TIMES = ("from", "to")
MOST = 256  # characters of what is looked for
PAGE = 50


@dataclass(frozen=True, slots=True)
class Proved:
    """A record's bytes, and its way to a checkpoint's root; no way where no checkpoint covers it yet."""

    data: bytes
    size: int
    path: tuple[bytes, ...] | None
    note: bytes
    checkpoint: Checkpoint | None


class LineagePages:
    """For auditors and operators: records say who runs what."""

    def __init__(self, console: "Console") -> None:
        self._console = console
        self._gateway = console.gateway
        self._path = console.gateway.config.data / "gateway.db"
        self.pages = (
            Page("GET", URL, self.found, OVERSEERS),
            Page("GET", URL + "/records/{index:[0-9]{1,15}}", self.record, OVERSEERS),
            Page("GET", URL + "/records/{index:[0-9]{1,15}}/bytes", self.record_bytes, OVERSEERS),
            Page("GET", URL + "/records/{index:[0-9]{1,15}}/proof", self.record_proof, OVERSEERS),
            Page("GET", URL + "/{authorization}", self.execution, OVERSEERS),
        )

    async def found(self, request: web.Request, viewer: Viewer) -> web.Response:
        """What is looked for, newest first."""
        given = _given(request)
        rows = Rows.wanted(request, int, str)
        wanted = _wanted(given)

        def read(connection: sqlite3.Connection) -> tuple[list[Found], list[str], int]:
            rows_found = search(connection, wanted, limit=PAGE + 1, after=rows.after)
            told = [replace(one, state=stands(connection, one.id, one.state, one.reason)) for one in rows_found]
            return told, reasons(connection), lineage.size(connection)

        found, codes, size = await aside(self._path, read)
        shown, cursor = Rows(PAGE).cut(found, lambda one: (one.requested_at, one.id))
        query = {name: value for name, value in given.items() if value}
        following = None if cursor is None else "?" + urlencode({**query, "cursor": cursor})
        return self._console.render(
            request,
            viewer,
            "lineage/search.html",
            given=given,
            found=shown,
            reasons=codes,
            size=size,
            following=following,
            first=rows.after is None,
        )

    async def execution(self, request: web.Request, viewer: Viewer) -> web.Response:
        """One authorization: seven questions, its tree, its records."""
        name, behind = request.match_info["authorization"], _number(request.query.get("behind", "-1"))

        def read(connection: sqlite3.Connection) -> tuple[Any, Any, str]:
            story = read_story(connection, name, behind=behind)
            one = story.authorization
            return story, answers(connection, story), stands(connection, one.id, one.state, one.reason)

        story, said, standing = await aside(self._path, read)
        last = story.last[-1].index
        following = story.shown[-1].index if story.shown and story.shown[-1].index < last else None
        return self._console.render(
            request,
            viewer,
            "lineage/execution.html",
            story=story,
            standing=standing,
            answers=said,
            following=following,
            behind=behind,
        )

    async def record(self, request: web.Request, viewer: Viewer) -> web.Response:
        """One record: its bytes, its proof, the checkpoint."""
        index = int(request.match_info["index"])
        proved = await self._proved(index)
        value = json.loads(proved.data)
        return self._console.render(
            request,
            viewer,
            "lineage/record.html",
            index=index,
            record=value,
            text=proved.data.decode(),
            pretty=json.dumps(value["body"], indent=2, ensure_ascii=False),
            leaf=merkle.leaf_hash(proved.data).hex(),
            way=None if proved.path is None else [one.hex() for one in proved.path],
            note=proved.note.decode(),
            checkpoint=proved.checkpoint,
            root="" if proved.checkpoint is None else proved.checkpoint.root.hex(),
            size=proved.size,
        )

    async def record_bytes(self, request: web.Request, _viewer: Viewer) -> web.Response:
        """What was hashed, and nothing else."""
        index = int(request.match_info["index"])
        return _file((await self._proved(index)).data, f"{index}.json", "application/json")

    async def record_proof(self, request: web.Request, _viewer: Viewer) -> web.Response:
        """The same proof as a C2SP tlog-proof. GateError ``lineage.range`` where no checkpoint covers the record yet."""
        index = int(request.match_info["index"])
        proved = await self._proved(index)
        if proved.path is None:
            raise GateError(GateReason.LINEAGE_RANGE, f"no checkpoint covers record {index} yet; the next one will")
        return _file(format_tlog_proof(TlogProof(index, proved.path, proved.note)), f"{index}.tlog-proof", "text/plain")

    async def _proved(self, index: int) -> Proved:
        latest = self._gateway.checkpointer.latest()

        def read(connection: sqlite3.Connection) -> Proved:
            row = connection.execute("SELECT bytes FROM records WHERE seq = ?", (index,)).fetchone()
            size = lineage.size(connection)
            if row is None:
                raise GateError(GateReason.LINEAGE_RANGE, f"there is no record {index}; the lineage has {size}")
            if latest is None or index >= latest[0]:
                return Proved(bytes(row[0]), size, None, b"", None)
            covered, note = latest
            path = tuple(merkle.inclusion_proof(covered, index, lineage.Reader(connection).read))
            return Proved(bytes(row[0]), size, path, note, parse_checkpoint(parse_note(note).text))

        return await aside(self._path, read)


def _given(request: web.Request) -> dict[str, str]:
    """What the form says. GateError ``request.malformed`` for anything that no form of ours sends."""
    known = {*NAMED, *TIMES, "cursor"}
    if any(name not in known or len(request.query.getall(name)) > 1 for name in request.query):
        raise GateError(
            GateReason.REQUEST_MALFORMED, f"this takes {', '.join(sorted(known))} in its query, and each once"
        )
    given = {name: request.query.get(name, "").strip() for name in (*NAMED, *TIMES)}
    for name, value in given.items():
        if len(value) > MOST or not value.isprintable():
            raise GateError(GateReason.REQUEST_MALFORMED, f"'{name}' in the query is too long, or no text")
    return given


def _wanted(given: dict[str, str]) -> Wanted:
    job, executor, orchestrator, reason = (given[name] or None for name in NAMED)
    return Wanted(job, executor, orchestrator, reason, _instant(given["from"], 0), _instant(given["to"], 60_000))


def _instant(text: str, more: int) -> int | None:
    """A time as a browser's field says it, in UTC, as milliseconds; ``more`` of them are added, to include its minute."""
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, f"{text!r:.40} is no time: write 2026-01-31T12:00") from error
    return round(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp() * 1000) + more


def _number(text: str) -> int:
    if text != "-1" and not (text.isascii() and text.isdigit() and len(text) < 16):
        raise GateError(GateReason.REQUEST_MALFORMED, "'behind' in the query is no index of a record")
    return int(text)


def _file(data: bytes, name: str, media: str) -> web.Response:
    disposition = f'attachment; filename="{name}"'
    headers = {**HEADERS, "Cache-Control": "no-store", "Content-Disposition": disposition}
    return web.Response(body=data, content_type=media, headers=headers)


def surface(console: "Console") -> Surface:
    """Its entry in the navigation."""
    return Surface("Lineage", URL, LineagePages(console).pages, roles=OVERSEERS, public=False)
