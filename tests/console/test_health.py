"""The health dashboard in a real browser: what it shows, that it follows what happens, and that nobody is shut out."""

import json

from gateway import history
from tests.support.browser import Browse, accessible, fits, live, picture
from tests.support.executor import ScriptedExecutor
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.reasons import GateReason

FIRST_PAGE = 100_000  # bytes, of everything that the first visit loads


async def denied(gate: GatewayInProcess, executor: str) -> None:
    body = {
        "executor": executor,
        "job": {"workflow": "w", "run": "1", "step": "s", "argv": ["/bin/true"], "env": "0" * 64},
    }
    token = await gate.token("orchestrator")
    await gate.call("POST", "/v1/dispatches", token=token, body=json.dumps(body).encode())


async def test_the_dashboard_shows_what_happens_within_a_second(gate: GatewayInProcess, browse: Browse) -> None:
    page = await browse("operator")
    loaded: list[int] = []
    page.on("response", lambda answer: loaded.append(int(answer.headers.get("content-length", 0))))
    await page.goto(gate.url + "/console/health")
    await live(page)
    assert 0 < sum(loaded) < FIRST_PAGE
    assert await page.get_by_text("Ready: an authorization could be given").is_visible()
    assert await page.get_by_text("Nobody has asked for anything").is_visible()
    await denied(gate, f"ex-{7:032x}")
    row = page.get_by_role("row", name="dispatch.executor_unknown")
    await row.wait_for(timeout=5000)
    assert (await row.get_by_role("cell").all_inner_texts())[-2:] == ["1", "1"]


async def test_why_nothing_is_authorized_stands_first(gate: GatewayInProcess, browse: Browse) -> None:
    page = await browse("auditor")
    gate.gateway.checkpointer.sealed_at = 0.0
    gate.clock.passed_s += history.FRESH_S
    await page.goto(gate.url + "/console/health")
    told = await page.get_by_role("status").filter(has_text="Not ready").inner_text()
    assert "checkpoint.stale" in told
    assert "What to do" in told


async def test_it_looks_well_and_can_be_used_by_everybody(
    gate: GatewayInProcess, executor: ScriptedExecutor, browse: Browse
) -> None:
    """An hour of a gateway's life, written into its metrics; then axe, both themes and a small window."""
    await executor.enroll()
    metrics, kept = gate.gateway.metrics, gate.gateway.history
    reasons = (GateReason.POLICY_DENIED, GateReason.DISPATCH_EXECUTOR_UNKNOWN)
    for minute in range(history.KEPT):
        for number in range(minute % 5):
            metrics.late(0.002 * (1 + (minute * 7 + number) % 9), live=True)
            metrics.late(0.004 * (1 + (minute * 5 + number) % 17), live=False)
            metrics.tpm_command.observe(0.0015 * (1 + (minute + number) % 6))
            metrics.decided(None)
        if minute % 40 < 9:
            metrics.decided(reasons[minute // 40 % 2])
        gate.clock.passed_s += history.EVERY_S
        kept._samples.append(kept._sample())
    gate.gateway.checkpointer.sealed_at = gate.clock.monotonic()
    page = await browse("operator")
    await page.goto(gate.url + "/console/health")
    assert await page.locator(".spark rect").count() > 20
    for summary in await page.get_by_role("group").all():
        await summary.locator("summary").click()
    await accessible(page)
    await page.reload()
    await picture(page, "health")
    await fits(page)


async def test_it_is_for_whoever_may_read_the_metrics(gate: GatewayInProcess) -> None:
    answer = await gate.call("GET", "/console/health")
    assert (answer.status, answer.headers["Location"]) == (303, "/console/login?next=%2Fconsole%2Fhealth")
    gate.gateway.config = gate.gateway.config.model_copy(update={"console_public": True})
    assert (await gate.call("GET", "/console/health")).status == 303, (
        "public is who is trusted, not how the gateway does"
    )
