"""The proof viewer in a browser: as a page of the gateway, and as a file with the network off."""

import json
from pathlib import Path
from typing import Any

import pytest
from playwright.async_api import Browser, Page

from gateway.anchors import anchors_file
from gateway.console.saved import saved_viewer
from tests.console.test_sessions import Browser as Visitor
from tests.support.browser import SMALL, Browse, accessible, fits, new_context, picture
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.vectors.operations import apply
from ztrooted import canonical

DATA = Path(__file__).parents[1] / "vectors" / "data"
ANCHORS = DATA / "anchors.toml"
HOSTILE = '<img src=x onerror="window.hurt=1">\u202egnp.exe</script><b>verified'
KINDS = ("pass", "part", "fail")


async def checked(page: Page, bundle: Path | dict[str, Any], anchors: Path | dict[str, Any] | None = ANCHORS) -> str:
    """Choose both files; the kind of verdict that came of it."""
    if anchors is not None:
        await page.set_input_files("#viewer-anchors", anchors)  # type: ignore[arg-type]
    await page.set_input_files("#viewer-bundle", bundle)  # type: ignore[arg-type]
    return await verdict(page)


async def verdict(page: Page) -> str:
    await page.wait_for_selector(", ".join(f'#viewer[data-verdict="{kind}"]' for kind in KINDS))
    found = await page.get_attribute("#viewer", "data-verdict")
    assert found in KINDS
    return found


async def statuses(page: Page) -> dict[str, str]:
    """Each check's status, by its name."""
    items = page.locator("ol.checks > li")
    return dict(await items.evaluate_all("(all) => all.map((one) => [one.dataset.check, one.dataset.status])"))


@pytest.fixture
async def offline(browser: Browser, tmp_path: Path) -> Any:
    """The saved file, opened with the network off; whatever it says to its console fails the test."""
    file, errors = tmp_path / "viewer.html", []
    file.write_text(saved_viewer())
    context = await new_context(browser, offline=True)
    page = await context.new_page()
    page.on("console", lambda message: errors.append(message.text))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("request", lambda asked: errors.append(asked.url) if asked.url != file.as_uri() else None)
    await page.goto(file.as_uri())
    yield page
    await context.close()
    assert errors == []


async def test_a_saved_file_checks_with_the_network_off(offline: Page) -> None:
    """Whole, in part, and not at all: the best word is there only where all fifteen passed."""
    assert await checked(offline, DATA / "unasked.json") == "pass"
    assert set((await statuses(offline)).values()) == {"pass"}
    assert len(await statuses(offline)) == 15
    assert "Verified" in await offline.inner_text('[data-part="verdict"]')
    await picture(offline, "viewer-denial")

    assert await checked(offline, DATA / "drift.json") == "part"
    found = await statuses(offline)
    assert [name for name, status in found.items() if status == "not_checked"] == [
        "executor", "policies", "appraisals", "decisions", "artifacts",
    ]  # fmt: skip
    assert "verified" not in (await offline.inner_text("body")).lower()
    timeline = offline.locator("svg.timeline")
    assert await timeline.locator(".good").count() == 3
    assert await timeline.locator(".failed").count() == 1
    assert await timeline.locator(".gap").count() == await timeline.locator(".exposure").count() == 1
    assert "exposure 49 ms" in await timeline.locator(".exposure text").inner_html()
    await picture(offline, "viewer-drift")

    assert await checked(offline, DATA / "drift.json", DATA / "anchors-other-ak.toml") == "fail"
    assert list((await statuses(offline)).values()) == ["pass", "pass", "fail"] + ["not_checked"] * 12
    assert "verified" not in (await offline.inner_text("body")).lower()
    assert "nothing of it is established" in await offline.inner_text("#viewer")
    assert "What follows from them" not in await offline.inner_text("#viewer")


async def test_quotes_logs_and_policies_are_decoded(offline: Page) -> None:
    await checked(offline, DATA / "drift.json")
    await offline.locator("details.round").nth(4).locator("> summary").click()
    opened = offline.locator("details.round").nth(4)
    for fold in await opened.locator("details:not(.raw) > summary").all():
        await fold.click()
    said = await opened.inner_text()
    for part in (
        "TPM_ST_ATTEST_QUOTE",
        "resetCount",
        "sha256:10",
        "EV_S_CRTM_VERSION",
        "ecdsa",
        "ima.not_allowed",
        "/tmp/",
    ):
        assert part in said
    await offline.get_by_text("Dispatch policy, 460 bytes").click()
    assert "permit" in await offline.locator("#viewer pre").last.inner_text()
    await accessible(offline)
    await offline.set_viewport_size(SMALL)  # type: ignore[arg-type]
    await fits(offline)


async def test_a_changed_bundle_is_refused_and_a_newer_choice_wins(offline: Page) -> None:
    whole = (DATA / "drift.json").read_bytes()
    record = next(
        at for at, one in enumerate(json.loads(whole)["records"]) if '"type":"execution.started"' in one["record"]
    )
    splice = {"op": "splice", "path": ["records", record, "record"], "at": 17, "remove": 1, "insert": "9"}
    changed = apply(whole, [splice])
    assert changed != whole
    file = {"name": "changed.json", "mimeType": "application/json", "buffer": changed}
    assert await checked(offline, file) == "fail"
    failed = [name for name, status in (await statuses(offline)).items() if status == "fail"]
    assert failed == ["inclusion"]
    await offline.set_input_files("#viewer-bundle", DATA / "unasked.json")
    await offline.wait_for_selector('#viewer[data-verdict="pass"]')
    assert await checked(offline, {"name": "x", "mimeType": "text/plain", "buffer": b"no bundle"}) == "fail"
    assert (await statuses(offline))["bundle"] == "fail"


async def test_strings_of_a_bundle_stay_strings(offline: Page) -> None:
    """A bundle that its checkpoint covers is not needed: what a file claims is shown before anything is believed."""
    value = json.loads((DATA / "drift.json").read_bytes())
    for one in value["records"]:
        record = json.loads(one["record"])
        if record["type"] in {"dispatch.requested", "authorization.revoked", "attestation.failed"}:
            record["body"] |= {"orchestrator": HOSTILE, "executor": HOSTILE, "reason": HOSTILE, "purpose": HOSTILE}
            one["record"] = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    data = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    name = '<i onclick="hurt()">.json'
    assert await checked(offline, {"name": name, "mimeType": "application/json", "buffer": data}) == "fail"
    for fold in await offline.locator("#viewer details > summary").all():
        await fold.click()
    said = await offline.inner_text("#viewer")
    assert "\\u{202e}gnp.exe</script><b>" in said
    assert "\u202e" not in said
    assert name in said
    assert await offline.locator("#viewer img, #viewer b, #viewer i, #viewer section script").count() == 0
    assert await offline.evaluate("window.hurt") is None


async def test_the_page_checks_alone_against_pinned_anchors(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, browse: Browse, tmp_path: Path
) -> None:
    """Opened from the gateway by a link; pinned anchors stay; while it checks nobody is asked."""
    grant = await executor.authorize(job())
    await channel.activate(grant)
    await channel.started(grant)
    await channel.ended(grant)
    page = await browse("auditor", "ada")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url.removeprefix(gate.url)))
    address = f"/console/viewer?authorization={grant.authorization}"
    await page.goto(gate.url + address)
    await page.wait_for_selector(".claim")  # what it claims is shown, and nothing was checked
    assert asked.count(f"/console/viewer/bundle/{grant.authorization}") == 1
    assert await page.locator("body[data-events]").count() == 0
    asked.clear()
    anchors = tmp_path / "anchors.toml"
    anchors.write_text(anchors_file(gate.gateway.config))
    await page.set_input_files("#viewer-anchors", anchors)
    assert await verdict(page) == "part"
    await page.get_by_role("button", name="Pin these").click()
    await page.wait_for_selector("text=Pinned in this browser for gate.test/lineage")
    assert asked == []
    await picture(page, "viewer")
    await page.goto(gate.url + address)
    await page.wait_for_selector(".claim")
    await page.get_by_label("Pinned").select_option(index=1)
    assert await verdict(page) == "part"
    # By keyboard: the pins, then forgetting them.
    await page.get_by_role("button", name="Forget").focus()
    await page.keyboard.press("Enter")
    await page.wait_for_selector("text=Forgotten.")
    assert await page.evaluate("JSON.parse(localStorage.getItem('ztrooted.anchors')).length") == 0
    async with page.expect_download() as saving:
        await page.get_by_role("link", name="save the viewer as one file").click()
    await (await saving.value).save_as(tmp_path / "saved.html")
    assert (tmp_path / "saved.html").read_text() == saved_viewer()


async def test_whose_bundles_an_orchestrator_opens(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize(job())
    path = f"/console/viewer/bundle/{grant.authorization}"
    for role, name, status in (
        ("orchestrator", "flows", 200),
        ("orchestrator", "others", 404),
        ("auditor", "ada", 200),
    ):
        visitor = Visitor(gate)
        await visitor.sign_in(await gate.token(role, name))
        assert (await visitor.get(path)).status == status
    assert (await Visitor(gate).get(path)).status == 303


TICKS = """() => {
  const gaps = (window.gaps = []);
  let last = performance.now();
  const tick = () => {
    gaps.push(performance.now() - last);
    last = performance.now();
    setTimeout(tick);
  };
  tick();
}"""
BUSY = "() => [Math.max(...window.gaps), window.gaps.filter((gap) => gap > 20).reduce((sum, gap) => sum + gap, 0)]"


async def test_a_large_file_leaves_the_page_to_its_reader(offline: Page, tmp_path: Path) -> None:
    """Whatever is clicked while it is checked is answered; and what is shown of it is as much as a page holds."""
    bundle = json.loads((DATA / "drift.json").read_text())
    last = bundle["records"][-1]
    bundle["records"] += [{**last, "index": last["index"] + 1 + number} for number in range(1500)]
    await offline.set_input_files("#viewer-anchors", ANCHORS)
    await offline.evaluate(TICKS)
    file = tmp_path / "large.json"
    file.write_bytes(canonical.encode(bundle))
    assert await checked(offline, file, None) == "fail"
    longest, busy = await offline.evaluate(BUSY)
    assert longest < 0.75 * busy, "in one go it would be all of it"
    assert await offline.locator("*").count() < 10_000
    shown = offline.locator("section", has=offline.get_by_role("heading", name="Records")).locator("details")
    before = await shown.count()
    await offline.get_by_role("button", name="Show more").last.click()
    assert await shown.count() > before
