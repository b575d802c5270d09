"""The lineage explorer: what is found, what one execution's page answers, and proofs that the page computes itself."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from gateway.anchors import anchors_file
from gateway.storage import authorizations
from tests.console.test_sessions import Browser as Visitor
from tests.support.browser import SMALL, Browse, accessible, fits, picture
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.anchors import parse_anchors
from ztrooted.delegation import Delegation
from ztrooted.models import Grant
from ztrooted.record_proof import verify_record_proof

HOSTILE = "<img src=x onerror=alert(1)>'\"&</pre>"
POLICY = """
@id("trusted") permit (principal, action in [Action::"dispatch", Action::"renew"], resource) when { context.trusted };
@id("own") permit (principal, action == Action::"delegate", resource)
when { context.trusted && context has parent && context.parent.orchestrator == principal };
"""
QUESTIONS = (
    "Where did it come from?",
    "Who authorized it?",
    "Under which policy?",
    "In which environment?",
    "What did it depend on?",
    "What state did it inherit?",
    "Which controls acted?",
)


@pytest.fixture
async def gate(gate: GatewayInProcess) -> GatewayInProcess:
    gate.set_dispatch_policy(POLICY)
    await gate.restart()
    return gate


async def ran(channel: Channel, grant: Grant) -> Grant:
    await channel.activate(grant)
    await channel.started(grant)
    return grant


@pytest.fixture
async def family(executor: ScriptedExecutor, channel: Channel) -> tuple[Grant, Grant, Grant]:
    """A parent whose machine drifted, its child, and one of another orchestrator that ended well."""
    fine = await ran(channel, await executor.authorize(job("fine", argv=("/bin/echo", HOSTILE)), name="others"))
    await channel.ended(fine)
    wide = Delegation(depth=1, children=2, steps=["leaf"], executors=[executor.id])
    root = await ran(channel, await executor.authorize(job("root"), delegation=wide))
    child = await ran(channel, await executor.authorize(job("leaf"), parent=root.authorization, max_runtime_s=None))
    executor.drift()
    await channel.renew()
    for one in (child, root):
        await channel.ended(one, "killed", exit_status=None, signal=9, kill_ms=3)
    return root, child, fine


async def signed_in(gate: GatewayInProcess, role: str = "auditor") -> Visitor:
    visitor = Visitor(gate)
    await visitor.sign_in(await gate.token(role))
    return visitor


async def test_executions_are_found_by_what_they_are(
    gate: GatewayInProcess, family: tuple[Grant, Grant, Grant]
) -> None:
    root, child, fine = (one.authorization for one in family)
    visitor = await signed_in(gate)
    one = authorizations.get(gate.gateway.database.reading, root)
    digest, executor = one.job_digest, one.executor

    async def found(**wanted: str) -> set[str]:
        page = await visitor.get(f"/console/lineage?{urlencode(wanted)}")
        assert page.status == 200
        return {one for one in (root, child, fine) if f'href="/console/lineage/{one}"'.encode() in page.data}

    everything = {root, child, fine}
    assert await found() == everything
    assert await found(job="root") == await found(job=digest) == await found(job=root) == {root}
    assert await found(job="w") == everything
    assert await found(orchestrator="others") == await found(job="w", orchestrator="others") == {fine}
    assert await found(executor=executor) == everything
    assert await found(reason="parent.ended") | await found(reason="ima.not_allowed") == {root, child}
    assert await found(reason="parent.ended", orchestrator="others") == await found(job="nothing") == set()
    assert await found(**{"from": "2020-01-01T00:00"}) == everything
    assert await found(to="2020-01-01T00:00") == set()
    for wrong in ({"from": "yesterday"}, {"job": "x" * 300}, {"other": "x"}, {"cursor": "!"}):
        page = await visitor.get(f"/console/lineage?{urlencode(wrong)}", Accept="application/json")
        assert page.code == "request.malformed"


def _cells(text: str, name: str) -> Iterator[str]:
    for part in text.split(f"<dt>{name}</dt>")[1:]:
        yield part.partition("</dd>")[0]


async def test_one_page_answers_seven_questions_without_scripts(
    gate: GatewayInProcess, executor: ScriptedExecutor, family: tuple[Grant, Grant, Grant]
) -> None:
    root, child, fine = (one.authorization for one in family)
    visitor = await signed_in(gate)
    text = (await visitor.get(f"/console/lineage/{root}")).data.decode()
    assert [text.count(f"<h2>{question.replace(chr(39), '&#39;')}</h2>") for question in QUESTIONS] == [1] * 7
    for name, part in (
        ("Asked for by", "flows"),
        ("The dispatch policy", "permitted by trusted"),
        ("Baseline approved by", "test-operator"),
        ("Appraisal policy", "interval_s"),
        ("Executor", executor.id),
        ("Its TPM", "virtual"),
        ("Command", "/bin/true"),
        ("Measurements followed before", "entries"),
        ("Proof refused for", "ima.not_allowed"),
        ("Revoked for", "ima.not_allowed"),
        ("Stopped", "killed"),
        ("Now", "killed"),
    ):
        assert part in "".join(_cells(text, name)), name
    assert f'<a href="/console/lineage/{child}">leaf</a>' in text
    below = (await visitor.get(f"/console/lineage/{child}")).data.decode()
    assert "parent.ended" in "".join(_cells(below, "Revoked for"))
    assert f'<a href="/console/lineage/{root}">root</a>' in below
    hostile = (await visitor.get(f"/console/lineage/{fine}")).data.decode()
    assert "&lt;img src=x onerror=alert(1)&gt;" in hostile
    assert "<img src=x" not in hostile
    assert (await visitor.get("/console/lineage/none", Accept="application/json")).code == "artifact.unknown"
    assert (await (await signed_in(gate, "orchestrator")).get(f"/console/lineage/{root}")).status == 403


async def test_a_record_is_proved_by_files_that_stand_alone(
    gate: GatewayInProcess, family: tuple[Grant, Grant, Grant]
) -> None:
    visitor = await signed_in(gate)
    await gate.gateway.checkpointer.publish()
    size, _ = gate.gateway.checkpointer.latest() or (0, b"")
    anchors = parse_anchors(anchors_file(gate.gateway.config).encode(), "anchors")
    for index in (0, size // 2, size - 1):
        record = (await visitor.get(f"/console/lineage/records/{index}/bytes")).data
        proof = (await visitor.get(f"/console/lineage/records/{index}/proof")).data
        assert verify_record_proof(proof, record, anchors).index == index
    missing = await visitor.get(f"/console/lineage/records/{size + 100}", Accept="application/json")
    assert missing.code == "lineage.range"


async def test_the_page_computes_a_records_proof_again(
    gate: GatewayInProcess, family: tuple[Grant, Grant, Grant], browse: Browse, tmp_path: Path
) -> None:
    root, _, fine = family
    await gate.gateway.checkpointer.publish()
    page = await browse("auditor", "ada")
    await page.goto(f"{gate.url}/console/lineage")
    await picture(page, "lineage")
    await page.get_by_label("Job").fill("root")
    await page.keyboard.press("Enter")
    await page.get_by_role("table").get_by_role("link").first.click()
    await page.wait_for_url(f"**/console/lineage/{root.authorization}")
    await picture(page, "execution")
    await page.get_by_role("table").get_by_role("link").first.click()
    await page.wait_for_selector("#proof[data-done]")
    marks = page.locator("#steps > li")
    assert await marks.evaluate_all("(all) => all.map((one) => one.dataset.status)") == ["pass"] * 3 + ["open"]
    # With anchors that were pinned in the viewer, the checkpoint's signature and seal are checked, too.
    address = page.url
    file = tmp_path / "anchors.toml"
    file.write_text(anchors_file(gate.gateway.config))
    await page.goto(f"{gate.url}/console/viewer")
    await page.set_input_files("#viewer-anchors", file)
    await page.get_by_role("button", name="Pin these").click()
    await page.wait_for_selector("text=Pinned in this browser")
    await page.goto(address)
    await page.wait_for_selector('#proof[data-done="pass"]')
    await picture(page, "record")
    # A page that shows other bytes than were hashed is found out, and so is one with another way.
    for lie, found in (("#bytes", ["fail"]), ("#path", ["pass", "fail"])):
        async with page.expect_response("**/records/*") as _:
            await page.route(address, _told_otherwise(lie))
            await page.goto(address)
        await page.wait_for_selector('#proof[data-done="fail"]')
        assert await marks.evaluate_all("(all) => all.map((one) => one.dataset.status)") == found
        await page.unroute(address)
    await page.goto(f"{gate.url}/console/lineage/{fine.authorization}")
    await accessible(page)
    assert HOSTILE in await page.inner_text("main")
    await page.set_viewport_size(SMALL)  # type: ignore[arg-type]
    await fits(page)


def _told_otherwise(place: str):  # type: ignore[no-untyped-def]
    async def changed(route) -> None:  # type: ignore[no-untyped-def]
        answer = await route.fetch()
        text = await answer.text()
        before, opening, rest = text.partition('id="bytes"' if place == "#bytes" else 'id="path"')
        at = rest.index("{" if place == "#bytes" else "<code>") + (
            len('{"at":') if place == "#bytes" else len("<code>")
        )
        digit = "1" if rest[at] != "1" else "2"
        await route.fulfill(response=answer, body=before + opening + rest[:at] + digit + rest[at + 1 :])

    return changed
