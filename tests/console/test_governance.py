"""The governance console in a browser: what stands how, live, hostile strings, and operators' orders."""

import asyncio
import re
import time
from typing import Any

import pytest

from tests.support.browser import Browse, accessible, fits, live, picture
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.client import Refused
from ztrooted.models import Grant

# What somebody might write where we let them write anything, and what they would like to come of it.
HOSTILE = "</td><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">'{{7*7}}"
PAGES = ("", "executors", "authorizations", "policies", "baselines", "orders")


async def running(executor: ScriptedExecutor, channel: Channel, **asked: Any) -> Grant:
    grant = await executor.authorize(job("train", argv=("/bin/true", HOSTILE)), **asked)
    await channel.activate(grant)
    await channel.started(grant)
    return grant


async def test_everything_at_a_glance(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse
) -> None:
    """Each page with something on it: it is usable, fits a telephone, and what somebody else wrote stays text."""
    await running(executor, channel)
    ended = await running(executor, channel)
    await channel.ended(ended)
    async with await gate.client("operator", "olivia") as operator:
        await operator.order("revocations", "authorization", (await running(executor, channel)).authorization, HOSTILE)
        await operator.order("quarantines", "class", "default", HOSTILE)
        with pytest.raises(Refused):
            await executor.authorize(job("denied"))
        await operator.order("releases", "class", "default", "it was a drill")
        await operator.order("quarantines", "orchestrator", "flows", HOSTILE)
    executor.drift("/tmp/" + HOSTILE.replace("/", "∕").replace(" ", "_"))
    await channel.renew()  # a round that finds what drifted
    page = await browse("operator", "olivia")
    (digest,) = [one["body"]["baseline"] for one in gate.records("baseline.approved")]
    (start, *_) = [seq for (seq,) in gate.gateway.database.reading.execute(POLICY)]
    for path in (*PAGES, f"executors/{executor.id}", f"authorizations/{ended.authorization}", f"baselines/{digest}"):
        await page.goto(f"{gate.url}/console/{path}")
        await picture(page, f"governance-{path.partition('/')[0] or 'overview'}{'-one' if '/' in path else ''}")
        assert "owned" not in await page.title(), path
    for path in (f"policies/{start}", f"baselines/{digest}/approve", f"orders/revoke?kind=executor&id={executor.id}"):
        await page.goto(f"{gate.url}/console/{path}")
        await accessible(page)
    await page.goto(f"{gate.url}/console/orders")
    assert HOSTILE in await page.locator("#quarantined").inner_text()
    await page.goto(f"{gate.url}/console/authorizations/{ended.authorization}")
    assert HOSTILE in await page.get_by_text("/bin/true").locator("..").inner_text()


POLICY = "SELECT seq FROM records WHERE type = 'policy.activated' ORDER BY seq"


async def test_what_happens_is_shown_within_a_second(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse
) -> None:
    """A dispatch appears, its lease drains, and its end is seen, without anybody touching the page."""
    page = await browse("auditor")
    slow = await round_trip(page)
    await live(page)
    assert await page.locator("#running").count() == 0
    grant = await running(executor, channel)
    began = time.monotonic()
    row = page.locator(f'#running tr[data-key="{grant.authorization}"]')
    await row.get_by_text("running").wait_for()
    took = time.monotonic() - began
    assert took < 1 + 4 * slow
    lease = row.locator("progress")
    first = float(str(await lease.evaluate("(one) => one.value")))
    await page.wait_for_function(
        "([key, before]) => document.querySelector(`#running tr[data-key='${key}'] progress`).value < before",
        arg=[grant.authorization, first],
    )
    await channel.ended(grant)
    await page.get_by_text("Nothing is authorized at the moment.").wait_for()


async def round_trip(page: Any) -> float:
    """How long this machine takes to render a page and show it, now."""
    began = time.monotonic()
    await page.reload()
    return time.monotonic() - began


async def test_a_stream_ends_with_the_token_and_the_page_says_so(
    gate: GatewayInProcess, browse: Browse, watched: Any
) -> None:
    watched.expected += ["401"]  # what is asked for afterwards
    page = await browse("auditor", "anna")
    await live(page)
    (token,) = [
        one["id"]
        for one in (await gate.call("GET", "/v1/tokens", token=await gate.token("operator"))).json["tokens"]
        if one["name"] == "anna"
    ]
    await gate.call("DELETE", f"/v1/tokens/{token}", token=await gate.token("operator"))
    await page.get_by_text("not live: the session has ended").wait_for()
    await page.reload()
    assert "/console/login" in page.url


async def test_an_operator_quarantines_and_releases_on_a_page_that_says_what_will_happen(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse
) -> None:
    grant = await running(executor, channel)
    page = await browse("operator", "olivia")
    await page.goto(f"{gate.url}/console/executors/{executor.id}")
    await page.get_by_role("link", name="Quarantine…").click()
    await page.get_by_text("1 live authorization").wait_for()
    await picture(page, "governance-order")
    assert executor.state(grant.authorization) == "running"
    await page.get_by_label("Reason").fill("a drill")
    await page.get_by_role("button", name="Quarantine now").click()
    await page.get_by_text("1 authorization ended.").wait_for()
    assert executor.state(grant.authorization) != "running"
    (record,) = gate.records("operator.quarantined")
    assert (record["body"]["operator"], record["body"]["reason"], record["body"]["ended"]) == ("olivia", "a drill", 1)
    await page.get_by_role("link", name="Release…").click()
    await page.get_by_label("Reason").fill("it is over")
    await page.get_by_role("button", name="Release").click()
    await page.get_by_role("link", name="Quarantine…").wait_for()
    assert [one["body"]["operator"] for one in gate.records("operator.released")] == ["olivia"]


async def test_an_operator_approves_a_baseline_having_seen_what_differs(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse
) -> None:
    executor.drift("/usr/bin/newer")
    async with await gate.client("operator") as operator:
        view = await operator.capture_baseline(executor.id)
    page = await browse("operator", "olivia")
    await page.goto(f"{gate.url}/console/baselines")
    await page.get_by_role("link", name="Approve…").click()
    await page.get_by_text("/usr/bin/newer").wait_for()
    await page.get_by_label("Ends after days").fill("30")
    await page.get_by_role("button", name="Approve").click()
    await page.get_by_text("is in force for class default").wait_for()
    body = gate.records("baseline.approved")[-1]["body"]
    assert (body["baseline"], body["operator"], body["expires"] is not None) == (view.baseline, "olivia", True)


@pytest.mark.parametrize("role", ["auditor", "orchestrator"])
async def test_others_order_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse, watched: Any, role: str
) -> None:
    """There is no button, the page is refused, and a form that is sent all the same is too."""
    watched.expected += ["403", "404"]
    grant = await executor.authorize()
    page = await browse(role, "somebody")
    await page.goto(f"{gate.url}/console/executors/{executor.id}")
    assert await page.get_by_role("link", name="Quarantine…").count() == 0
    number = await page.locator('input[name="form"]').input_value()
    await page.goto(f"{gate.url}/console/orders/quarantine?kind=executor&id={executor.id}")
    assert await page.get_by_text("auth.role").count() == 1
    status = await page.evaluate(
        "async ([number, id]) => (await fetch('/console/orders/quarantine', {method: 'POST',"
        " body: new URLSearchParams({form: number, kind: 'executor', id, reason: 'none'})})).status",
        [number, executor.id],
    )
    assert (status, gate.records("operator.quarantined")) == (403, [])
    answer = await page.goto(f"{gate.url}/console/authorizations/{grant.authorization}")
    assert answer is not None
    assert answer.status == (200 if role == "auditor" else 404)  # an orchestrator sees its own
    for path in ("policies", "baselines", "orders"):
        answer = await page.goto(f"{gate.url}/console/{path}")
        assert answer is not None
        assert answer.status == (200 if role == "auditor" else 403)


async def test_the_public_is_shown_no_names_and_no_work(
    gate: GatewayInProcess, executor: ScriptedExecutor, browse: Browse
) -> None:
    file = gate.data / "gateway.toml"
    file.write_text("console_public = true\n" + file.read_text())
    await gate.restart()
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        grant = await executor.authorize(job("secret-step", argv=("/bin/secret",)), name="secret-flows")
        async with await gate.client("operator", "secret-olivia") as operator:
            await operator.label(executor.id, {"rack": "secret-rack"})
            await operator.order("revocations", "executor", executor.id, "a secret reason")
        page = await browse()
        await page.goto(f"{gate.url}/console/")
        await live(page)
        for path in (*PAGES[:3], f"executors/{executor.id}", f"authorizations/{grant.authorization}"):
            await page.goto(f"{gate.url}/console/{path}")
            text = await page.content()
            assert executor.id in text or path == ""
            assert re.findall(r"secret|olivia", text) == [], path
            assert await page.locator("form[method=post]").count() == 0
        for path in ("policies", "baselines", "orders", f"viewer/bundle/{grant.authorization}"):
            await page.goto(f"{gate.url}/console/{path}")
            assert "/console/login" in page.url


async def test_without_scripts_it_is_a_page_like_any_other(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse
) -> None:
    grant = await running(executor, channel)
    page = await browse("operator", java_script_enabled=False, viewport={"width": 360, "height": 740})
    for path in ("", "authorizations", f"authorizations/{grant.authorization}"):
        await page.goto(f"{gate.url}/console/{path}")
        assert await page.locator(".mark.live").first.is_visible()
        assert re.search(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC", await page.locator("main").inner_text())
    await page.get_by_role("link", name="Revoke…").click()
    await page.get_by_label("Reason").fill("a drill")
    await page.get_by_role("button", name="Revoke now").click()
    await page.get_by_text("1 authorization ended.").wait_for()


async def test_twenty_who_look_cost_what_one_does(gate: GatewayInProcess) -> None:
    """The parts of a page are made once for everybody who asks for them at about the same time."""
    file = gate.data / "gateway.toml"
    file.write_text("console_public = true\n" + file.read_text())
    await gate.restart()
    asked = [gate.call("GET", "/console/", headers={"X-Ztrooted-Part": "live"}) for _ in range(20)]
    answers = await asyncio.gather(*asked)
    assert {answer.status for answer in answers} == {200}
    assert len({answer.data for answer in answers}) == 1


async def test_every_page_fits_a_telephone_and_can_be_reached_by_keyboard(
    gate: GatewayInProcess, browse: Browse
) -> None:
    page = await browse("operator", viewport={"width": 360, "height": 740})
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.className") == "skip"
    for path in PAGES:
        await page.goto(f"{gate.url}/console/{path}")
        await fits(page)


async def test_signing_in_is_usable(gate: GatewayInProcess, browse: Browse, watched: Any) -> None:
    watched.expected += ["401"]
    page = await browse()
    await page.goto(gate.url + "/console/")
    await picture(page, "login")
    await page.get_by_label("Token").fill("zt-nonsense")
    await page.keyboard.press("Enter")
    await page.get_by_role("alert").wait_for()
    await accessible(page)
