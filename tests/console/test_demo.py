"""The demo by clicks: a gateway as ``ztrooted demo --console`` starts it, and a real browser that presses every button."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.async_api import Browser, Page

from gateway.app import Gateway
from tests.support.browser import Browse, Watched, accessible, new_context, picture
from tests.support.demo_console import demo
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.tpm import missing
from ztrooted.anchors import parse_anchors
from ztrooted.demo.player import Act, Player
from ztrooted.records import Record
from ztrooted.verify import verify_bundle

pytestmark = [
    pytest.mark.swtpm,
    pytest.mark.timeout(420),
    pytest.mark.skipif(missing() is not None, reason=missing() or ""),
]
HOSTILE = '<img src=x onerror="document.title = 1">\u202egnp.exe</script>'
ACT_MS = 120_000  # on a busy machine each command of a role may take several seconds


@pytest.fixture
def link(tmp_path: Path) -> Iterator[str]:
    """Where a demo shows itself that runs as long as the test."""
    with demo(tmp_path) as url:
        yield url


async def press(page: Page, act: Act) -> None:
    """Press the button of an act, and wait until it was played."""
    button = page.get_by_role("button", name=act.capitalize())
    await button.click()
    done = page.locator(f'.act.done[data-key="{act}"]')
    failed = page.locator(".steps .mark.bad").first
    await done.or_(failed).first.wait_for(timeout=ACT_MS)
    if await failed.count():
        raise AssertionError(await page.locator(".steps").inner_text())


async def test_the_whole_demo_by_clicks(link: str, browser: Browser) -> None:
    """Boot, authorize, run, tamper; the kill is seen, the proof verifies here, and each record's bytes are a click away."""
    watched = Watched(lambda: link.partition("/console")[0])
    context = await new_context(browser)
    page = await context.new_page()
    watched.watch(page)
    await page.goto(link)
    await page.wait_for_url("**/console/demo")
    assert await page.get_by_role("button", name="Authorize").is_disabled()
    await press(page, Act.BOOT)
    verdict = page.get_by_role("region", name="Verdict")
    await verdict.locator(".mark.good", has_text="trusted").wait_for()
    await press(page, Act.AUTHORIZE)
    await press(page, Act.RUN)
    job = page.get_by_role("region", name="Job", exact=True)
    await job.get_by_text("alive").wait_for()
    await picture(page, "demo-running")
    await press(page, Act.TAMPER)
    await job.get_by_text("dead").wait_for()
    assert await job.get_by_text("ima.not_allowed").is_visible()
    await page.get_by_role("region", name="Proof").get_by_text("verified, 15 checks").wait_for()
    assert await job.get_by_text("killed").is_visible()
    await picture(page, "demo")
    answers = [await context.request.get(page.url + name) for name in ("/bundle.json", "/anchors.toml")]
    bundle, anchors = [await answer.body() for answer in answers]
    assert verify_bundle(bundle, parse_anchors(anchors, "anchors.toml")).verified
    await page.get_by_role("row", name="attestation.failed").get_by_role("link", name="evidence").click()
    for title in ("Quote (TPMS_ATTEST)", "Measurement list (IMA)", "Boot log (TCG)"):
        assert await page.get_by_role("heading", name=title).is_visible()
    shown = await page.get_by_role("region", name="Quote (TPMS_ATTEST), bytes").inner_text()
    assert shown.startswith("0000  ff 54 43 47 80 18")  # TPM_GENERATED, TPM_ST_ATTEST_QUOTE (Part 2 §10.12.8)
    assert "intruder" in await page.get_by_role("region", name="Measurement list (IMA), decoded").inner_text()
    await picture(page, "demo-bytes")
    await page.goto(link)  # a second time
    await page.get_by_role("link", name="check it in this browser").click()
    await page.get_by_text("The anchors are missing").wait_for()
    files = [{"name": "anchors.toml", "mimeType": "application/toml", "buffer": anchors}]
    await page.get_by_label("Anchors").set_input_files(files)  # type: ignore[arg-type]
    await page.wait_for_selector('#viewer[data-verdict="part"]')  # Cedar is not asked in a browser
    await page.goto(link)
    assert page.url.endswith("/console/demo")
    assert watched.unexpected() == []
    await context.close()


async def test_the_whole_demo_without_scripts(link: str, browser: Browser) -> None:
    """Its buttons are forms, and the page is asked for again while an act is played. The link lets in one visitor."""
    context, other = [await new_context(browser, java_script_enabled=False) for _ in range(2)]
    page = await context.new_page()
    await page.goto(link)
    await page.wait_for_url("**/console/demo")
    for act in (Act.BOOT, Act.AUTHORIZE, Act.RUN, Act.TAMPER):
        await press(page, act)
    job = page.get_by_role("region", name="Job", exact=True)
    assert await job.get_by_text("killed").is_visible()
    assert await job.get_by_text("ima.not_allowed").is_visible()
    assert await page.get_by_role("region", name="Proof").get_by_text("verified, 15 checks").is_visible()
    late = await other.new_page()
    await late.goto(link)
    await late.wait_for_url("**/console/login**")
    for one in (context, other):
        await one.close()


async def test_a_plain_gateway_has_no_such_page(gate: GatewayInProcess) -> None:
    token = await gate.token("operator")
    for path in ("/console/demo", "/console/demo/enter/x", "/console/demo/state", "/console/demo/bundle.json"):
        assert (await gate.call("GET", path, token=token)).status == 404


async def test_hostile_text_stays_text(
    gate: GatewayInProcess, browse: Browse, watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """File names are whatever an executor says they are."""
    player = Player(tmp_path)
    monkeypatch.setattr(Gateway, "player", player)
    await gate.restart()
    try:
        record = Record("gateway.stopped", gate.clock.now_ms(), {"detail": HOSTILE, "reason": "ima.not_allowed"})
        await gate.gateway.database.write(lambda tx: tx.append(record))
        page = await browse("operator")
        await page.goto(gate.url + "/console/demo")
        told = page.get_by_role("row", name="gateway.stopped").first
        assert "<img src=x" in await told.inner_text()
        number = await told.get_by_role("link").first.inner_text()
        await told.get_by_role("link").first.click()
        await page.wait_for_url(f"**/records/{number}")
        assert "<img src=x" in await page.get_by_role("region", name="The record, decoded").inner_text()
        for address in (page.url, gate.url + "/console/demo"):
            await page.goto(address)
            assert await page.locator("img[src=x]").count() == 0
            assert "\u202e" not in await page.inner_text("main")
            await accessible(page)
    finally:
        player.close()
