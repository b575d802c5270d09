"""What strangers and people of one role try with the console: to hold it up, to outlast their right, to see another's."""

import asyncio
import html
import re
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from gateway.app import Gateway
from gateway.auth import token_id
from gateway.console import live, viewer
from gateway.console.sessions import MAX_IDLE_S, MAX_SESSIONS_OF_ONE
from gateway.rates import RateExceededError
from gateway.storage import aside, listings
from gateway.storage.database import Transaction
from tests.console.test_sessions import Browser, number_of
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.client import tls_context
from ztrooted.demo.player import Player
from ztrooted.errors import GateError


@pytest.fixture
async def public(gate: GatewayInProcess) -> GatewayInProcess:
    """A gateway whose console anybody may read."""
    file = gate.data / "gateway.toml"
    file.write_text("console_public = true\n" + file.read_text())
    await gate.restart()
    return gate


@asynccontextmanager
async def following(browser: Browser) -> AsyncIterator[aiohttp.ClientResponse]:
    """An open stream of the console, of which the first event has come."""
    gate = browser.gate
    connector = aiohttp.TCPConnector(ssl=tls_context(gate.ca, None))
    cookies = "; ".join(f"{name}={value}" for name, value in browser.cookies.items())
    async with (
        aiohttp.ClientSession(gate.url, connector=connector, headers={"Cookie": cookies}) as session,
        session.get("/console/events", timeout=aiohttp.ClientTimeout(total=30)) as response,
    ):
        if response.status == 200:
            await response.content.readuntil(b"\n\n")
        yield response


async def test_the_saved_viewer_is_made_once_and_apart(gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes a twentieth of a second, and anybody may ask for it: others are answered meanwhile."""
    made: list[int] = []

    def make() -> str:
        made.append(threading.get_ident())
        return "a page"

    monkeypatch.setattr(viewer, "saved_viewer", make)
    answers = [await gate.call("GET", "/console/viewer/file") for _ in range(3)]
    assert [answer.data for answer in answers] == [b"a page"] * 3
    assert len(made) == 1
    assert made != [threading.get_ident()]


@pytest.mark.parametrize(
    "query", ["limit=x", "limit=", "cursor=%C3%A9", "cursor=x", "cursor=W10", "cursor=WzEsIlx1ZDgwMCJd", "limit=0"]
)
async def test_a_query_that_no_page_of_ours_has_is_refused_and_no_defect(public: GatewayInProcess, query: str) -> None:
    answer = await public.call("GET", f"/console/authorizations?{query}")
    assert (answer.status, answer.code) == (400, "request.malformed")


async def test_strangers_leave_room_for_those_who_are_signed_in(
    public: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And so does everybody else: who keeps many pages open has no more for it."""
    monkeypatch.setattr(live, "MAX_STREAMS_OF_PUBLIC", 2)
    monkeypatch.setattr(live, "MAX_STREAMS_OF_ONE", 2)
    stranger, anna, olivia = Browser(public), Browser(public), Browser(public)
    await anna.sign_in(await public.token("auditor", "anna"))
    await olivia.sign_in(await public.token("operator", "olivia"))
    for browser in (stranger, anna):
        async with following(browser) as first, following(browser) as second, following(browser) as third:
            assert [one.status for one in (first, second, third)] == [200, 200, 429]
            async with following(olivia) as hers:
                assert hers.status == 200
    async with following(olivia) as hers:
        assert hers.status == 200


@pytest.mark.parametrize("how", ["revoked", "signed out", "idle", "replaced", "signed in anew"])
async def test_a_stream_ends_with_its_session_without_another_request(gate: GatewayInProcess, how: str) -> None:
    """Whatever ends it. The other's goes on."""
    anna, other = Browser(gate), Browser(gate)
    token = await gate.token("auditor", "anna")
    await anna.sign_in(token)
    await other.sign_in(await gate.token("operator", "olivia"))
    number = number_of(await anna.get("/console/"))
    async with following(anna) as hers, following(other) as others:
        if how == "revoked":
            answer = await gate.call("DELETE", f"/v1/tokens/{token_id(token)}", token=await gate.token("operator"))
            assert answer.status == 200
        elif how == "signed out":
            await anna.post("/console/logout", {"form": number})
        elif how == "idle":
            await gate.pass_time(MAX_IDLE_S - 60)
            assert not hers.content.at_eof()
            assert await other.signed_in()
            await gate.pass_time(61)
        elif how == "replaced":
            for _ in range(MAX_SESSIONS_OF_ONE):
                await Browser(gate).sign_in(token)
        else:
            await anna.sign_in(token)
        said = await asyncio.wait_for(hers.read(), 10)
        assert said.endswith(b"event: end\ndata: {}\n\n")
        assert not others.content.at_eof()


async def test_a_form_in_live_parts_is_of_one_session(
    gate: GatewayInProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parts are shared by those who may see the same; the number of another's session is not theirs to see."""
    player = Player(tmp_path)
    monkeypatch.setattr(Gateway, "player", player)
    await gate.restart()
    try:
        numbers = []
        for name in ("olivia", "oscar"):
            browser = Browser(gate)
            await browser.sign_in(await gate.token("operator", name))
            numbers.append(number_of(await browser.get("/console/demo", **{"X-Ztrooted-Part": "live"})))
        assert numbers[0] != numbers[1]
    finally:
        player.close()


async def test_who_has_asked_too_much_is_rendered_no_page(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A refusal by rate costs as little as may be."""

    def refuse(_source: str, _cost: float = 1.0) -> None:
        raise RateExceededError("too much was asked", 1.0, hang_up=True)

    monkeypatch.setattr(gate.gateway.rates, "unproved", refuse)
    answer = await gate.call("GET", "/console/", headers={"Accept": "text/html"})
    assert (answer.status, answer.code) == (429, "request.rate")
    assert answer.headers["Content-Type"].startswith("application/problem+json")


async def test_who_searches_takes_no_thread_of_others_and_no_longer_than_somebody_waits(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evidence is appraised on threads, too: were they all taken, leases would end."""
    monkeypatch.setattr(aside, "PATIENCE_S", 0.1)
    path, over = gate.data / "gateway.db", threading.Event()
    waiting = [asyncio.ensure_future(aside.aside(path, lambda _: over.wait(60))) for _ in range(64)]
    try:
        await asyncio.wait_for(asyncio.to_thread(int), 10)
    finally:
        over.set()
        await asyncio.gather(*waiting)
    endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT COUNT(*) FROM n"
    with pytest.raises(GateError) as refused:
        await aside.aside(path, lambda connection: connection.execute(endless).fetchone())
    assert refused.value.reason == "database.unavailable"


async def test_the_page_of_one_orchestrator_does_not_look_at_the_work_of_others(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pages are read where everybody is answered, every ten seconds for each that is open."""
    monkeypatch.setattr(listings, "LOOKED_AT", 100)
    mine = await executor.authorize(name="mine")
    others = await executor.authorize(name="others")
    reading = gate.gateway.database.reading

    def fill(tx: Transaction) -> None:
        names = [row[1] for row in tx.execute("PRAGMA table_info(authorizations)").fetchall()]
        changed = {"id": "printf('%032x', i)", "requested_at": "requested_at - i", "reason": "'policy.denied'"}
        columns = ", ".join(changed.get(name, name) for name in names)
        tx.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)"  # noqa: S608 -- constants
            f" INSERT INTO authorizations SELECT {columns} FROM authorizations, n WHERE id = ?",
            (others.authorization,),
        )

    await gate.gateway.database.write(fill)
    steps: list[int] = []

    def step() -> None:
        steps.append(1)

    reading.set_progress_handler(step, 100)
    for choice, of, name, found in (
        ("all", None, "mine", [mine.authorization]),
        ("all", executor.id, "mine", [mine.authorization]),
        ("refused", None, "mine", []),
        ("all", None, "nobody", []),
        ("all", executor.id, "nobody", []),
        ("refused", None, "nobody", []),
    ):
        rows = listings.list_authorizations(reading, choice=choice, orchestrator=name, executor=of, limit=10)
        assert [one.id for one in rows] == found
    reading.set_progress_handler(None, 0)
    assert len(steps) < 200


async def test_nothing_in_a_text_of_others_turns_or_hides_what_is_beside_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """A command may have any characters: those that nobody sees are spelled out, but for the bytes that were hashed."""
    grant = await executor.authorize(job(argv=("/bin/true", "a\u202egnp.exe\u200b\x1b[2J")))
    visitor = Browser(gate)
    await visitor.sign_in(await gate.token("operator"))
    for path in ("authorizations", "lineage"):
        page = (await visitor.get(f"/console/{path}/{grant.authorization}")).data.decode()
        assert "a\\u{202e}gnp.exe\\u{200b}\\u{1b}[2J" in page
        assert not set("\u202e\u200b\x1b") & set(page)
    query = "SELECT seq, bytes FROM records WHERE type = 'dispatch.requested'"
    ((seq, data),) = gate.gateway.database.reading.execute(query)
    page = (await visitor.get(f"/console/lineage/records/{seq}")).data.decode()
    (exact,) = re.findall(r'<pre id="bytes"[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert html.unescape(exact).encode() == data
