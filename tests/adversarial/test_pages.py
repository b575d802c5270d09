"""Lists in pages and answers that one has already: nothing is missed, repeated, or shown to whom it is not for."""

import base64
import json
from typing import Any

import pytest

from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import limits
from ztrooted.models import DispatchRequest

LISTS = ("/v1/authorizations", "/v1/baselines", "/v1/quarantines")
NOBODY = "ex-" + "0" * 32


async def ask(gate: GatewayInProcess, token: str, step: str) -> str:
    """A dispatch that is denied at once; its authorization."""
    body = DispatchRequest(executor=NOBODY, job=job(step)).model_dump_json().encode()
    return str((await gate.call("POST", "/v1/dispatches", token=token, body=body)).json["authorization"])


async def walk(gate: GatewayInProcess, token: str, path: str, member: str, limit: int) -> list[list[Any]]:
    """Every page."""
    pages, cursor = [], ""
    while cursor is not None:
        found = (await gate.call("GET", f"{path}?limit={limit}{cursor}", token=token)).json
        pages.append(found[member])
        cursor = None if found["next"] is None else f"&cursor={found['next']}"
    return pages


async def test_pages_have_everything_once_whatever_comes_meanwhile(gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator", "flows")
    for step in range(5):
        await ask(gate, token, f"s{step}")
    whole = (await gate.call("GET", "/v1/authorizations", token=token)).json
    assert whole["next"] is None
    everything = [one["authorization"] for one in whole["authorizations"]]
    for limit in (1, 2, 4, 5, 200):
        pages = await walk(gate, token, "/v1/authorizations", "authorizations", limit)
        assert [one["authorization"] for page in pages for one in page] == everything
        assert all(len(page) <= limit for page in pages)
        assert all(pages), "no page is empty"
    first = (await gate.call("GET", "/v1/authorizations?limit=2", token=token)).json
    gate.clock.set_s += 1
    await ask(gate, token, "later")
    rest = (await gate.call("GET", f"/v1/authorizations?cursor={first['next']}", token=token)).json
    assert [one["authorization"] for one in rest["authorizations"]] == everything[2:]


async def test_those_of_one_moment_are_told_apart(gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch) -> None:
    token, stopped = await gate.token("orchestrator", "flows"), gate.gateway.clock.now_ms()
    monkeypatch.setattr(gate.gateway.clock, "now_ms", lambda: stopped)
    made = {await ask(gate, token, f"s{step}") for step in range(5)}
    pages = await walk(gate, token, "/v1/authorizations", "authorizations", 2)
    found = [one["authorization"] for page in pages for one in page]
    assert len(found) == 5
    assert set(found) == made


async def test_a_cursor_of_another_shows_nothing_of_theirs(gate: GatewayInProcess) -> None:
    mine, theirs = await gate.token("orchestrator", "flows"), await gate.token("orchestrator", "others")
    for token in (theirs, mine, theirs, mine):
        await ask(gate, token, "s")
    cursor = (await gate.call("GET", "/v1/authorizations?limit=1", token=theirs)).json["next"]
    shown = (await gate.call("GET", f"/v1/authorizations?cursor={cursor}", token=mine)).json["authorizations"]
    assert {one["orchestrator"] for one in shown} <= {"flows"}


async def test_quarantines_and_baselines_come_in_pages_too(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    token = await gate.token("operator")
    for number in range(3):
        subject = {"kind": "executor", "id": f"ex-{number:032x}"}
        body = json.dumps({"subject": subject, "reason": "a drill"}).encode()
        assert (await gate.call("POST", "/v1/quarantines", token=token, body=body)).status == 200
    pages = await walk(gate, token, "/v1/quarantines", "quarantined", 2)
    assert [len(page) for page in pages] == [2, 1]
    assert len({one["id"] for page in pages for one in page}) == 3
    body = json.dumps({"executor": executor.id}).encode()
    executor.drift()
    assert (await gate.call("POST", "/v1/baselines", token=token, body=body)).status == 201
    pages = await walk(gate, token, "/v1/baselines", "baselines", 1)
    assert [len(page) for page in pages] == [1, 1]
    async with gate.client_with(token) as client:
        assert len(await client.quarantined()) == 3
        assert [one.baseline for one in await client.baselines()] == [page[0]["baseline"] for page in pages]
    listed = await gate.call("GET", "/v1/executors?limit=1", token=token)
    assert (len(listed.json["executors"]), listed.json["next"]) == (1, None)


@pytest.mark.parametrize("path", LISTS)
async def test_a_cursor_that_no_list_gave_is_refused(path: str, gate: GatewayInProcess) -> None:
    def made(value: object) -> str:
        return base64.urlsafe_b64encode(json.dumps(value, separators=(",", ":")).encode()).decode().rstrip("=")

    token = await gate.token("operator")
    wrong = ["", "x", "!", "x" * 513, "%00", made([]), made({}), made(1), made([1]), made(["a", 1]), made([1, 2, 3])]
    wrong += [made([True, "a", "b"]), made([1.5, "a", "b"]), made([1, "a", "b", "c"]), made([[], "a"]), made([1, None])]
    wrong += [made([1, "a"]) + "=", base64.urlsafe_b64encode(b'[1, "a"]').decode().rstrip("=")]
    for cursor in wrong:
        answer = await gate.call("GET", f"{path}?cursor={cursor}", token=token)
        assert (answer.status, answer.code) == (400, "request.malformed"), cursor
    for limit in ("0", "-1", str(limits.PAGE + 1), "1e1", "\u0661", "", "1&limit=2", "9" * 30):
        answer = await gate.call("GET", f"{path}?limit={limit}", token=token)
        assert (answer.status, answer.code) == (400, "request.malformed"), limit


async def test_what_one_has_already_is_not_sent_again(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    token = await gate.token("operator")
    baseline = (await gate.call("GET", "/v1/baselines", token=token)).json["baselines"][0]["baseline"]
    for path in ("/v1/openapi.json", "/v1/docs", "/v1/policies", "/v1/keys", f"/v1/baselines/{baseline}"):
        first = await gate.call("GET", path, token=token)
        tag = first.headers["Etag"]
        assert first.headers["Cache-Control"] == "private, no-cache"
        for named in (tag, f"W/{tag}", f'"other", {tag}', "*"):
            again = await gate.call("GET", path, token=token, headers={"If-None-Match": named})
            assert (again.status, again.data, again.headers["Etag"]) == (304, b"", tag)
        for other in ('"other"', tag.strip('"'), "", f'{tag[:-1]}x"'):
            again = await gate.call("GET", path, token=token, headers={"If-None-Match": other})
            assert (again.status, again.data) == (200, first.data)
    # Whoever may not see it does not learn that it is unchanged.
    answer = await gate.call("GET", "/v1/policies", headers={"If-None-Match": "*"})
    assert (answer.status, answer.code) == (401, "auth.credential_missing")


async def test_answers_that_nobody_may_keep_say_so(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Artifacts, tokens, bundles, decisions, problem documents."""
    grant = await executor.authorize()
    token = await gate.token("operator")
    body = json.dumps({"role": "auditor", "name": "a"}).encode()
    own = f"/v1/authorizations/{grant.authorization}"
    paths = (own, f"{own}/bundle", f"/v1/decisions/{grant.authorization}", f"/v1/executors/{executor.id}/result")
    answers = [await gate.call("GET", path, token=token) for path in (*paths, "/v1/tokens", "/v1/nothing")]
    answers.append(await gate.call("POST", "/v1/tokens", token=token, body=body))
    for answer in answers:
        assert answer.headers["Cache-Control"] == "no-store", answer
