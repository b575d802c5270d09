"""The runtime demo: the visitor presses a button, and sees what happens, down to the bytes.

There only where the gateway is the demo's own (``gateway.demo``). The acts are played by ``ztrooted.demo.player`` with real
processes; everything else on the page is read off the gateway's own tables, as of any other gateway.
"""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web

from gateway.addresses import source_of
from gateway.console import record_bytes
from gateway.console.forms import FORM, HEADERS, redirect
from gateway.console.page import OPERATORS, PEOPLE, Page, Surface, Viewer
from gateway.console.sessions import COOKIE, give_cookie
from gateway.storage import authorizations, executors, listings
from gateway.storage.authorizations import Authorization
from gateway.storage.executors import Executor
from ztrooted.clock import instant
from ztrooted.demo.console import PAGE, take_key
from ztrooted.demo.player import NEXT, Act, NotNowError, Played, Player
from ztrooted.errors import GateError
from ztrooted.inspect.plain import printable
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record
from ztrooted.token_file import read_token
from ztrooted.verdict import Verdict

if TYPE_CHECKING:
    from gateway.console.app import Console

SHOWN_RECORDS = 30
POLL_S = 10.0
SHOWN_PCRS = (0, 4, 7, 10)
MAX_SAYS = 140
# Of a record's body, what is told in a line, in this order.
TOLD = ("purpose", "reason", "detail", "enforcement", "outcome", "kill_ms", "decision", "operator", "role", "name")


@dataclass(frozen=True, slots=True)
class Told:
    """One record in a line: its number, time and type, what it says, and whether it is good or bad news."""

    seq: int
    time: str
    kind: str
    says: str
    news: str
    evidence: bool


@dataclass(frozen=True, slots=True)
class Machine:
    """The executor's row, as far as it is shown."""

    id: str
    trusted: bool
    overdue: bool
    reason: str
    detail: str
    proved_at: int
    proof_due: int
    pcrs: tuple[tuple[int, str], ...]


def surface(console: "Console") -> Surface:
    """Its pages, of a gateway that is the demo's; none of any other."""
    player = console.gateway.player
    return Surface("Demo", PAGE, () if player is None else DemoPages(console, player).pages, public=False)


class DemoPages:
    """The page, its buttons, and what is one click away."""

    def __init__(self, console: "Console", player: Player) -> None:
        self._console = console
        self._player = player
        self._changed = asyncio.Event()
        loop = asyncio.get_running_loop()

        def tell() -> None:
            loop.call_soon_threadsafe(self._tell)

        player.listen(tell)
        self.pages = (
            Page("GET", PAGE, self.show, live=True, forms=True),
            Page("GET", PAGE + "/enter/{key}", self.enter, open=True),
            Page("POST", PAGE + "/play", self.play, OPERATORS),
            Page("GET", PAGE + "/state", self.state, lasting=True),
            Page("GET", PAGE + "/records/{seq:[0-9]{1,15}}", self.record, PEOPLE),
            Page("GET", PAGE + "/bundle.json", self.bundle, PEOPLE),
            Page("GET", PAGE + "/anchors.toml", self.anchors, PEOPLE),
        )

    def _tell(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()

    async def enter(self, request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        """The link that the command line printed: a session of the demo's operator, for whoever comes first."""
        if not take_key(self._player.data, request.match_info["key"]):
            self._console.gateway.rates.unproved(source_of(request))
            return redirect(PAGE)
        token = read_token(self._player.data / "operator.token")
        cookie, _ = await self._console.sessions.begin(request, token)
        answer = redirect(PAGE)
        give_cookie(answer, COOKIE, cookie)
        return answer

    async def show(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Where the story stands."""
        seen = self._player.seen
        context: dict[str, Any] = {
            "seen": seen,
            "acts": [(act, _stands(act, seen)) for act in Act],
            "machine": self._machine(seen),
            "job": (job := self._job(seen)),
            "standing": "" if job is None else self._standing(job),
            "silent_ms": self._silent_ms(),
            "records": self._records(),
            "proof": next((dict(step.observed) for step in seen.steps if _is_proof(step.observed)), None),
        }
        return self._console.render(request, viewer, "demo/demo.html", **context)

    async def play(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """A button was pressed."""
        wanted = request[FORM].get("act", "")
        if wanted not in set(Act):
            raise GateError(GateReason.REQUEST_MALFORMED, "there is no such act")
        try:
            self._player.play(Act(wanted))
        except NotNowError as error:
            if viewer.session is not None:
                viewer.session.note(str(error))
        return redirect(PAGE)

    async def state(self, request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        """Which version of the story there is, once it is another than the one that was seen, or after a while."""
        changed, seen = self._changed, request.query.get("seen", "")
        if str(self._player.seen.version) == seen:
            try:
                async with asyncio.timeout(POLL_S):
                    await changed.wait()
            except TimeoutError:
                pass
        return web.json_response(
            {"version": self._player.seen.version}, headers={**HEADERS, "Cache-Control": "no-store"}
        )

    async def record(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """A record with all its bytes."""
        found = record_bytes.find(self._console.gateway.database.reading, int(request.match_info["seq"]))
        if found is None:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "there is no such record")
        return self._console.render(request, viewer, "demo/record.html", found=found)

    async def bundle(self, _request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        """The proof of the last job."""
        data = await asyncio.to_thread(self._player.bundle)
        if data is None:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "there is no proof yet: it comes after 'tamper'")
        return _download(data, "application/json", "bundle.json")

    async def anchors(self, _request: web.Request, _viewer: Viewer) -> web.StreamResponse:
        """What a verifier of that proof is told to trust."""
        return _download(await asyncio.to_thread(self._player.anchors), "application/toml", "anchors.toml")

    def _machine(self, seen: Played) -> Machine | None:
        gateway = self._console.gateway
        found = executors.find(gateway.database.reading, seen.executor) if seen.executor else None
        return None if found is None else _machine(found, gateway.clock.now_ms())

    def _job(self, seen: Played) -> Authorization | None:
        reading = self._console.gateway.database.reading
        return authorizations.get(reading, seen.authorization) if seen.authorization else None

    def _standing(self, job: Authorization) -> str:
        return listings.stands(self._console.gateway.database.reading, job.id, job.state, job.reason)

    def _silent_ms(self) -> int | None:
        """How long ago the job wrote that it lives; None where none ever did."""
        try:
            written = self._player.heartbeat.stat().st_mtime
        except FileNotFoundError:
            return None
        return max(0, round((time.time() - written) * 1000))

    def _records(self) -> list[Told]:
        rows = self._console.gateway.database.reading.execute(
            "SELECT seq, bytes FROM records ORDER BY seq DESC LIMIT ?", (SHOWN_RECORDS,)
        )
        return [_told(seq, bytes(data)) for seq, data in rows]


def _machine(found: Executor, now_ms: int) -> Machine:
    overdue = found.trusted and now_ms > found.proof_due
    return Machine(
        found.id,
        found.trusted and not overdue,
        overdue,
        str(found.verdict["reason"] or ""),
        printable(Verdict.detail_of(found.verdict)),
        found.proved_at,
        found.proof_due,
        tuple((index, value.hex()) for index, value in sorted(found.pcrs.items()) if index in SHOWN_PCRS),
    )


def _stands(act: Act, seen: Played) -> str:
    """How an act stands: ``now``, ``next``, or ``later``; ``done`` where the story is past it."""
    if seen.act is act:
        return "now"
    order = list(Act)
    following = seen.act or NEXT[seen.scene]
    if seen.act is None and following is act:
        return "next"
    return "done" if order.index(act) < order.index(following) or (following is Act.BOOT and seen.steps) else "later"


def _is_proof(observed: tuple[tuple[str, str], ...]) -> bool:
    return any(name == "checks" for name, _ in observed)


def _told(seq: int, data: bytes) -> Told:
    record = parse_record(data)
    body = {**record.body.get("round", {}), **record.body}
    verdict = body.get("verdict")
    parts = [_worded(name, body[name]) for name in TOLD if body.get(name)]
    if isinstance(verdict, dict) and verdict.get("reason"):
        parts.append(str(verdict["reason"]))
    bad = record.type.endswith((".denied", ".failed", ".overdue", ".revoked", ".interrupted"))
    good = record.type.endswith((".passed", ".issued", ".renewed", ".started", ".activated", ".approved", ".enrolled"))
    return Told(
        seq,
        instant(record.at)[11:19],
        record.type,
        _cut(printable(", ".join(part for part in parts if part))),
        "bad" if bad else "good" if good else "quiet",
        "manifest" in body or "claims" in body,
    )


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SAYS else f"{text[: MAX_SAYS - 1]}…"


def _worded(name: str, value: object) -> str:
    if name == "decision":
        return "permitted" if isinstance(value, dict) and value.get("permitted") else "not permitted"
    if name == "kill_ms":
        return f"dead after {value} ms"
    return str(value)[:200]


def _download(data: bytes, media: str, name: str) -> web.Response:
    headers = {**HEADERS, "Cache-Control": "no-store", "Content-Disposition": f'attachment; filename="{name}"'}
    return web.Response(body=data, content_type=media, headers=headers)
