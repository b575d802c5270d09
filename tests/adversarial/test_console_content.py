"""Pages of what somebody else wrote: too long, too much of it, or nonsense. They stay small, and no page breaks."""

import asyncio
import json
from dataclasses import replace
from urllib.parse import quote

import aiohttp
import pytest

from gateway.console import baselines, live, policies
from gateway.console.policies import changed_lines
from gateway.console.words import clock
from tests.adversarial.test_console import following, public
from tests.console.test_sessions import Browser
from tests.support.executor import Channel, ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.client import tls_context
from ztrooted.reference import Baseline, parse_baseline

__all__ = ["public"]

PAGE = 1_000_000  # bytes
TEXTS = ("\x00", "'; DROP TABLE records; --", "%", "\udcff", "𝕏" * 60, "9" * 400, "１")
PATHS = (
    "executors?standing={}",
    "executors?id={}",
    "executors?after={}",
    "executors/{}",
    "authorizations?show={}",
    "authorizations?cursor={}",
    "authorizations/{}",
    "authorizations/{}/bundle",
    "policies/{}",
    "baselines?cursor={}",
    "baselines/{}",
    "baselines/{}/approve",
    "orders?cursor={}",
    "orders/{}",
    "orders/revoke?kind={}&id=x",
    "orders/revoke?kind=executor&id={}",
    "orders/release?kind=class&id={}",
    "lineage?job={}&executor={}&orchestrator={}&reason={}",
    "lineage?from={}",
    "lineage?to={}",
    "lineage?from=0001-01-01T00:00%2B23:59",
    "lineage?to=9999-12-31T23:59-23:59",
    "lineage?cursor={}",
    "lineage/{}",
    "lineage/{}?behind={}",
    "lineage/records/{}",
    "lineage/records/999999999999999/proof",
    "viewer?authorization={}",
    "viewer/bundle/{}",
    "static/{}/{}",
    "login?next={}",
    "{}",
)


async def test_nonsense_in_an_address_is_refused_and_no_defect(gate: GatewayInProcess) -> None:
    """Each page, asked by an operator for what no page of ours asks for."""
    visitor = Browser(gate)
    await visitor.sign_in(await gate.token("operator"))
    visitor.headers["Accept"] = "application/json"
    for path in PATHS:
        for text in TEXTS if "{}" in path else ("",):
            written = quote(text, safe="", errors="surrogateescape")
            address = "/console/" + path.replace("{}", written)
            answer = await visitor.get(address)
            assert answer.status < 500, (address, answer)
            assert "default-src 'none'" in answer.headers.get("Content-Security-Policy", ""), (address, answer)
            assert "public" not in answer.headers.get("Cache-Control", ""), address


def test_a_time_that_is_none_is_shown_as_the_number_that_it_is() -> None:
    assert "2023-11-14" in clock(1_700_000_000_000)
    for number in (1 << 53, 253_402_300_800_000, -1):
        assert clock(number) == f"<code>{number}</code>"


def hostile(baseline: Baseline) -> Baseline:
    """Names as long as may be, and of a time that no calendar has."""
    files = {f"/{number}/{'<' * 3000}": frozenset({("sha256", b"\x11" * 32)}) for number in range(600)}
    digests = next(iter(baseline.ima.values()))
    return replace(baseline, captured_at=(1 << 53) - 1, ima={**baseline.ima, **dict.fromkeys(files, digests)})


async def test_a_baseline_of_long_names_and_no_time_has_a_page_like_any_other(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what differs is found out once."""
    compared: list[int] = []
    diff = baselines.diff

    def counted(first: Baseline, second: Baseline) -> list[baselines.Difference]:
        compared.append(1)
        return diff(first, second)

    monkeypatch.setattr(baselines, "diff", counted)
    async with await gate.client("operator") as operator:
        (digest,) = [one["body"]["baseline"] for one in gate.records("baseline.approved")]
        captured = parse_baseline(gate.gateway.references.data(digest))
        proposed = await operator.propose_baseline(hostile(captured).encode(), "default")
    visitor = Browser(gate)
    await visitor.sign_in(await gate.token("operator"))
    for path in ("baselines", f"baselines/{proposed.baseline}", f"baselines/{proposed.baseline}/approve"):
        answer = await visitor.get(f"/console/{path}")
        assert (answer.status, len(answer.data) < PAGE) == (200, True), path
        assert str((1 << 53) - 1).encode() in answer.data
    assert b"600 differences" in answer.data
    assert len(compared) == 1


async def test_policies_as_long_as_may_be_have_pages_that_are_not(gate: GatewayInProcess) -> None:
    async with await gate.client("operator") as operator:
        documents = {role: text.decode() for role, text in gate.gateway.policies.current.documents().items()}
        for line in ('"' * 900, "'" * 3):
            count = min(600_000 // (len(line) + 3), 15_000)
            longer = {role: text + f"\n# {line}" * count for role, text in documents.items() if role != "dispatch"}
            longer["dispatch"] = documents["dispatch"] + f"\n// {line}" * (count - 300)
            await operator.activate_policies(longer)
    visitor = Browser(gate)
    await visitor.sign_in(await gate.token("operator"))
    page = await visitor.get("/console/policies")
    assert (page.status, len(page.data) < PAGE) == (200, True)
    assert b"more bytes of entities.toml" in page.data
    for (number,) in gate.gateway.database.reading.execute(
        "SELECT seq FROM records WHERE type = 'policy.activated' ORDER BY seq"
    ).fetchall():
        change = await visitor.get(f"/console/policies/{number}")
        assert (change.status, len(change.data) < PAGE) == (200, True), number


@pytest.mark.parametrize("most", [policies.MAX_COMPARED, 0])
def test_what_changed_is_told_from_the_first_line_to_the_last_that_did(
    monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    monkeypatch.setattr(policies, "MAX_COMPARED", most)
    old = [f"line {number}" for number in range(100)]
    new = [*old[:40], "other", *old[41:60], "more", *old[60:]]
    lines = changed_lines("\n".join(old), "\n".join(new))
    assert [line for kind, line in lines if kind == "remove"][:1] == ["line 40"]
    assert next(line for kind, line in lines if kind == "add") == "other"
    if most:
        assert [line for kind, line in lines if kind == "skip"] == ["@@ -38,7 +38,7 @@", "@@ -58,6 +58,7 @@"]
        assert [kind for kind, _ in lines].count("same") == 12
    else:
        assert {kind for kind, _ in lines} == {"skip", "remove", "add"}


def test_documents_that_have_nothing_in_common_are_not_compared_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same lines again and again, in another order: comparing them takes the square of their number."""
    monkeypatch.setattr(policies.difflib, "unified_diff", None)
    old, new = ("\n".join(f"{begin}{number % 7}" for number in range(90_000)) for begin in ("a", "b"))
    lines = changed_lines(old, new)
    assert len(lines) <= policies.MAX_LINES + 2
    assert lines[-1] == ("skip", f"{180_000 - policies.MAX_LINES} more lines")


async def test_one_stranger_leaves_room_for_others(public: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever looks from another address has streams of their own."""
    monkeypatch.setattr(live, "MAX_STREAMS_OF_ONE", 2)
    stranger = Browser(public)
    async with following(stranger) as first, following(stranger) as second, following(stranger) as third:
        assert [one.status for one in (first, second, third)] == [200, 200, 429]
        connector = aiohttp.TCPConnector(ssl=tls_context(public.ca, None), local_addr=("127.0.0.9", 0))
        async with (
            aiohttp.ClientSession(public.url, connector=connector) as other,
            other.get("/console/events") as hers,
        ):
            assert hers.status == 200


async def test_what_happens_is_written_once_for_everybody_who_is_told_of_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Twenty viewers of one scope are sent the same bytes."""
    written: list[int] = []

    class Counted:
        @staticmethod
        def dumps(value: dict[str, object]) -> str:
            written.append(int(str(value["seq"])))
            return json.dumps(value)

    monkeypatch.setattr(live, "json", Counted)
    viewers = [Browser(gate) for _ in range(4)]
    for viewer in viewers:
        await viewer.sign_in(await gate.token("operator"))
    async with following(viewers[0]) as one, following(viewers[1]) as two, following(viewers[2]) as three:
        await executor.enroll()
        query = "SELECT seq FROM records WHERE type = 'executor.enrolled'"
        ((number,),) = gate.gateway.database.reading.execute(query).fetchall()
        for stream in (one, two, three):
            told = b""
            while b"executor.enrolled" not in told:
                told = await asyncio.wait_for(stream.content.readuntil(b"\n\n"), 10)
        assert written.count(number) == 1
