"""A request that is sent again under its Idempotency-Key: done once, answered alike, whoever dies in between."""

import asyncio
import json
import secrets
import sqlite3
from contextlib import closing
from typing import Any

import pytest

from gateway.storage import replies
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import Answer, GatewayInProcess
from ztrooted import limits
from ztrooted.client import Refused
from ztrooted.models import DispatchRequest
from ztrooted.reasons import GateReason


def key() -> str:
    return secrets.token_urlsafe(24)


async def dispatch(gate: GatewayInProcess, token: str, executor: str, sent: str, **changes: Any) -> Answer:
    body = DispatchRequest(executor=executor, job=job(**changes)).model_dump_json().encode()
    headers = {"Idempotency-Key": sent}
    return await gate.call("POST", "/v1/dispatches", token=token, body=body, headers=headers)


async def test_P8_a_yes_is_given_once_and_again_after_a_restart(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    token, sent = await gate.token("orchestrator", "flows"), key()
    first = await dispatch(gate, token, executor.id, sent)
    assert first.status == 201
    assert "Idempotency-Replayed" not in first.headers
    again = await dispatch(gate, token, executor.id, f'"{sent}"')  # the form of the IETF's draft, quoted
    await gate.restart()
    later = await dispatch(gate, token, executor.id, sent)
    for answer in (again, later):
        assert (answer.status, answer.json) == (201, first.json)
        assert answer.headers["Idempotency-Replayed"] == "true"
        assert answer.headers["Cache-Control"] == "no-store"
    assert len(gate.records("dispatch.requested")) == 1
    assert len(gate.records("authorization.issued")) == 1


async def test_a_no_that_is_on_record_is_given_again_with_its_authorization(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    executor.drift()
    token, sent = await gate.token("orchestrator", "flows"), key()
    first = await dispatch(gate, token, executor.id, sent)
    again = await dispatch(gate, token, executor.id, sent)
    assert first.status == again.status == 403
    assert first.json["instance"] != again.json["instance"], "each has its own line in the log"
    assert {**first.json, "instance": ""} == {**again.json, "instance": ""}
    assert first.json["authorization"]
    assert len(gate.records("authorization.denied")) == 1


async def test_nobody_to_ask_is_a_recorded_no_too(gate: GatewayInProcess) -> None:
    token, sent = await gate.token("orchestrator", "flows"), key()
    answers = [await dispatch(gate, token, "ex-" + "0" * 32, sent) for _ in range(2)]
    assert answers[0].json["authorization"] == answers[1].json["authorization"]
    assert len(gate.records("dispatch.requested")) == 1


async def test_the_same_key_for_another_request_is_refused(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    token, sent = await gate.token("orchestrator", "flows"), key()
    assert (await dispatch(gate, token, executor.id, sent)).status == 201
    other = await dispatch(gate, token, executor.id, sent, step="another")
    assert (other.status, other.code) == (422, "request.key_reused")
    assert len(gate.records("dispatch.requested")) == 1


async def test_keys_of_two_callers_are_two_keys(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    sent = key()
    mine, theirs = await gate.token("orchestrator", "flows"), await gate.token("orchestrator", "others")
    answers = [await dispatch(gate, token, executor.id, sent) for token in (mine, theirs)]
    assert answers[0].json["authorization"] != answers[1].json["authorization"]
    renewed = await gate.token("orchestrator", "flows")  # another token of the same caller
    assert (await dispatch(gate, renewed, executor.id, sent)).json == answers[0].json


async def test_who_may_not_ask_any_more_is_told_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    token, sent = await gate.token("orchestrator", "flows", life_ms=60_000), key()
    assert (await dispatch(gate, token, executor.id, sent)).status == 201
    gate.clock.set_s += 61
    assert (await dispatch(gate, token, executor.id, sent)).status == 401


async def test_ten_at_once_are_one(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    token, sent = await gate.token("orchestrator", "flows"), key()
    answers = await asyncio.gather(*(dispatch(gate, token, executor.id, sent) for _ in range(10)))
    assert {answer.status for answer in answers} <= {201, 409}
    assert {answer.code for answer in answers if answer.status == 409} <= {"request.key_in_use"}
    assert len({answer.data for answer in answers if answer.status == 201}) == 1
    assert len(gate.records("dispatch.requested")) == 1


async def test_what_could_not_be_recorded_is_not_kept_either(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Whatever the disk refuses, both are undone: the decision and the answer. The same key then works."""
    token = await gate.token("orchestrator", "flows")
    for table in ("artifacts", "replies"):
        sent = key()
        issued = len(gate.records("authorization.issued"))
        broken = f"CREATE TRIGGER broken BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'disk full'); END"
        with closing(sqlite3.connect(gate.data / "gateway.db")) as other:
            other.execute(broken)
        answer = await dispatch(gate, token, executor.id, sent)
        assert answer.status == 503
        assert b"eyJ" not in answer.data
        assert len(gate.records("authorization.issued")) == issued
        with closing(sqlite3.connect(gate.data / "gateway.db")) as other:
            other.execute("DROP TRIGGER broken")
        last = await dispatch(gate, token, executor.id, sent)
        assert last.status == (503 if table == "artifacts" else 201), last  # the recorded denial, or a first answer


async def test_whoever_dies_between_commit_and_answer_the_answer_is_there(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The decision is on disk and nobody was told: the same key finds it, in this process and in the next."""
    token, sent = await gate.token("orchestrator", "flows"), key()

    async def lost(_revoked: object) -> None:
        raise RuntimeError("the process ends here")

    monkeypatch.setattr(gate.gateway.endings, "announce", lost)
    assert (await dispatch(gate, token, executor.id, sent)).status == 500
    monkeypatch.undo()
    (issued,) = gate.records("authorization.issued")
    again = await dispatch(gate, token, executor.id, sent)
    await gate.restart()
    later = await dispatch(gate, token, executor.id, sent)
    assert again.status == later.status == 201
    assert again.json == later.json
    assert again.json["authorization"] == issued["authorization"]
    assert len(gate.records("dispatch.requested")) == 1


async def test_orders_are_given_once(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    """A revocation that is sent again must not end what was authorized since."""
    token, sent = await gate.token("operator"), key()
    old = await executor.authorize()
    body = json.dumps({"subject": {"kind": "executor", "id": executor.id}, "reason": "why"}).encode()
    headers = {"Idempotency-Key": sent}
    first = await gate.call("POST", "/v1/revocations", token=token, body=body, headers=headers)
    new = await executor.authorize(job("later"))
    again = await gate.call("POST", "/v1/revocations", token=token, body=body, headers=headers)
    assert (
        first.json == again.json == {"subject": {"kind": "executor", "id": executor.id}, "revoked": [old.authorization]}
    )
    assert executor.state(new.authorization) == "authorized"
    for path in ("/v1/quarantines", "/v1/releases"):  # the same key for another address is another request
        assert (await gate.call("POST", path, token=token, body=body, headers=headers)).code == "request.key_reused"
        headers = {"Idempotency-Key": key()}
        answers = [await gate.call("POST", path, token=token, body=body, headers=headers) for _ in range(2)]
        assert answers[0].status == answers[1].status == 200
        assert answers[0].json == answers[1].json
        headers = {"Idempotency-Key": sent}
    assert len(gate.records("operator.revoked", "operator.quarantined", "operator.released")) == 3


async def test_an_answer_is_kept_for_a_while_and_there_is_an_end_to_how_many(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await gate.token("orchestrator", "flows")
    monkeypatch.setattr(limits, "REPLIES", 3)
    sent = [key() for _ in range(4)]
    for one in sent[:3]:
        assert (await dispatch(gate, token, "ex-" + "0" * 32, one)).code == "dispatch.executor_unknown"
    answer = await dispatch(gate, token, "ex-" + "0" * 32, sent[3])
    assert (answer.status, answer.code) == (429, "request.key_limit")
    other = await gate.token("orchestrator", "others")
    assert (await dispatch(gate, other, "ex-" + "0" * 32, sent[3])).code == "dispatch.executor_unknown"
    assert len(gate.records("dispatch.requested")) == 4
    monkeypatch.setattr(limits, "REPLIES", 100)
    monkeypatch.setattr(limits, "REPLY_LIFE_S", 60)
    await gate.pass_time(61)
    await dispatch(gate, token, "ex-" + "0" * 32, sent[0])
    assert len(gate.records("dispatch.requested")) == 5, "an old key is a new request"
    (kept,) = gate.gateway.database.reading.execute("SELECT COUNT(*) FROM replies").fetchone()
    assert kept == 1, "what is too old has gone"


async def test_what_is_kept_says_nothing_to_who_reads_it_and_takes_nothing_from_who_writes_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    token, sent = await gate.token("orchestrator", "flows"), key()
    artifact = (await dispatch(gate, token, executor.id, sent)).json["artifact"]
    (row,) = gate.gateway.database.reading.execute("SELECT name, caller, request, sealed FROM replies").fetchall()
    for secret in (sent, artifact, artifact[:40], "flows"):
        assert secret.encode() not in b"".join(one if isinstance(one, bytes) else one.encode() for one in row)
    mine = replies.Key.of("orchestrator", "flows", key(), b"another request")
    forged = mine.seal(replies.Reply(201, '{"artifact": "forged"}'))
    for bytes_ in (forged, bytes(row[3])[:-1] + bytes([row[3][-1] ^ 1]), b""):
        with closing(sqlite3.connect(gate.data / "gateway.db")) as other:
            other.execute("UPDATE replies SET sealed = ?", (bytes_,))
            other.commit()
        answer = await dispatch(gate, token, executor.id, sent)
        assert (answer.status, answer.code) == (503, "database.corrupt")


@pytest.mark.parametrize(
    "sent", ["", "short", "x" * 129, "with space in it....", '"' + "x" * 20, "x" * 20 + '"', "é" * 20]
)
async def test_a_key_that_is_none_is_refused_before_anything_is_done(sent: str, gate: GatewayInProcess) -> None:
    token = await gate.token("orchestrator", "flows")
    answer = await dispatch(gate, token, "ex-" + "0" * 32, sent)
    assert (answer.status, answer.code) == (400, "request.malformed")
    assert gate.records("dispatch.requested") == []


async def test_the_client_sends_its_key(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    request, sent = DispatchRequest(executor=executor.id, job=job()), key()
    async with await gate.client("orchestrator", "flows") as client:
        assert await client.authorize(request, key=sent) == await client.authorize(request, key=sent)
        assert await client.authorize(request) != await client.authorize(request, key=sent)
        with pytest.raises(Refused) as refused:
            await client.authorize(DispatchRequest(executor=executor.id, job=job("other")), key=sent)
        assert refused.value.reason is GateReason.REQUEST_KEY_REUSED
