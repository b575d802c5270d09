"""A machine that goes for good: what it ran dies, its TPM never comes back, and who has its place is on the record."""

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.app import DATABASE, Gateway
from gateway.config import load_config
from gateway.fsck import fsck
from gateway.storage import retirements
from tests.adversarial.test_bundle import export
from tests.adversarial.test_orders import judging, refused
from tests.support.commands import run
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from tests.support.storage import by_hand
from ztrooted.channel_messages import RefusedMessage
from ztrooted.client import Refused
from ztrooted.errors import EnvironmentProblem
from ztrooted.operator_models import RetirementView
from ztrooted.reasons import GateReason
from ztrooted.verify import verify_bundle

NOBODY = "ex-" + "0" * 32


async def retire(gate: GatewayInProcess, executor: str, successor: str | None = None) -> RetirementView:
    async with await gate.client("operator", "olivia") as operator:
        return await operator.retire(executor, "board swapped", successor=successor)


async def not_retired(gate: GatewayInProcess, executor: str, successor: str | None = None) -> str:
    with pytest.raises(Refused) as no:
        await retire(gate, executor, successor)
    return str(no.value.reason)


def bodies(gate: GatewayInProcess, kind: str) -> list[dict[str, Any]]:
    return [record["body"] for record in gate.records(kind)]


async def test_what_it_runs_is_killed_and_told_and_its_tpm_never_comes_back(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize(job("a"))
    await channel.activate(grant)
    await channel.started(grant)
    view = await retire(gate, executor.id)
    assert view.revoked == [grant.authorization]
    assert (await channel.next(RefusedMessage)).authorization == grant.authorization
    await channel.ended(grant, "killed", exit_status=None, signal=9)
    await executor.wait_for("execution.closed", grant.authorization)
    await channel.closed()  # it had the time to say so
    assert bodies(gate, "executor.retired") == [
        {
            "kind": "executor",
            "id": executor.id,
            "operator": "olivia",
            "reason": "board swapped",
            "ended": 1,
            "successor": None,
        }
    ]
    assert len(gate.records("execution.interrupted")) == 1
    assert bodies(gate, "authorization.revoked")[-1]["reason"] == "operator.retired"
    report = verify_bundle(await export(gate, grant), gate.anchors())
    assert report.verified, report.failed  # which tells it
    assert await refused(executor) == "enroll.retired"
    with pytest.raises(Exception, match="403"):  # its session, whose certificate is still valid
        async with executor.connect():
            pass
    with pytest.raises(Refused) as no:  # the same TPM, from the start; nothing is asked of it
        await executor.begin()
    assert no.value.reason is GateReason.ENROLL_RETIRED
    async with await gate.client("auditor") as auditor:
        (seen,) = await auditor.executors()
    assert (seen.trusted, seen.reason) == (False, "operator.retired")
    await gate.restart()
    assert await refused(executor) == "enroll.retired"
    await gate.stop()
    assert list(fsck(load_config(gate.data))[1]) == []


async def test_a_proof_that_was_under_way_admits_nobody(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    """Its credential was made before, and its quote is good: what counts is the moment at which it would be recorded."""
    await executor.enroll()
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    await retire(gate, executor.id)
    with pytest.raises(Refused) as no:
        await executor.finish(challenge, proof)
    assert no.value.reason is GateReason.ENROLL_RETIRED
    assert len(gate.records("executor.enrolled")) == 1


async def test_a_dispatch_that_was_being_proved_is_denied(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    async with judging(gate) as (there, go):
        asked = asyncio.create_task(refused(executor))
        await there.wait()
        await retire(gate, executor.id)
        go.set()
        assert await asked in {"enroll.retired", "channel.closed"}
    assert gate.records("authorization.issued") == []
    assert channel


async def test_who_is_retired_and_not_hung_up_on_yet_gets_no_certificate(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    session = gate.gateway.channels.get(executor.id)
    assert session is not None
    ends = session.certificate_ends_ms
    session.certificate_ends_ms = 0  # so one is due
    gate.gateway.retirements.part = lambda _: asyncio.sleep(0)  # type: ignore[method-assign]
    await retire(gate, executor.id)
    await gate.gateway.enrollments.renew_session(session)
    assert session.certificate_ends_ms == 0
    assert ends > 0
    assert channel


async def test_the_successor_has_its_labels_and_enrolls_as_ever(
    gate: GatewayInProcess, executor: ScriptedExecutor, executors: Callable[[], ScriptedExecutor]
) -> None:
    await executor.enroll()
    other = executors()
    challenge = await other.begin()  # which tells the id that follows from its EK
    async with await gate.client("operator", "olivia") as operator:
        await operator.label(executor.id, {"rack": "7"})
    assert not gate.records("executor.superseded")
    view = await retire(gate, executor.id, challenge.executor)
    assert (view.successor, view.labels) == (challenge.executor, {"rack": "7"})
    assert bodies(gate, "executor.labelled")[-1] == {
        "executor": challenge.executor,
        "labels": {"rack": "7"},
        "operator": "olivia",
    }
    await other.finish(challenge, other.prove(challenge))
    async with await gate.client("auditor") as auditor:
        seen = {one.executor: one for one in await auditor.executors()}
    assert seen[challenge.executor].labels == {"rack": "7"}
    assert seen[executor.id].reason == "operator.retired"
    with pytest.raises(Refused, match=f"{challenge.executor} is in its place"):
        await executor.begin()
    await gate.restart()
    await gate.stop()
    assert list(fsck(load_config(gate.data))[1]) == []


async def test_done_again_it_changes_nothing_and_a_place_is_taken_once(
    gate: GatewayInProcess, executor: ScriptedExecutor, executors: Callable[[], ScriptedExecutor]
) -> None:
    await executor.enroll()
    other = executors()
    await other.enroll()
    for wrong in (executor.id, other.id):
        if wrong == other.id:
            await retire(gate, other.id)
        assert await not_retired(gate, executor.id, wrong) == "operator.successor"
    assert len(bodies(gate, "executor.retired")) == 1  # of the other one
    await retire(gate, executor.id)
    await retire(gate, executor.id)
    assert len(bodies(gate, "executor.retired")) == 2
    await retire(gate, executor.id, NOBODY)  # known only afterwards
    again = await retire(gate, executor.id, NOBODY)
    assert (again.successor, again.revoked) == (NOBODY, [])
    assert (await retire(gate, executor.id)).successor == NOBODY
    assert [one["successor"] for one in bodies(gate, "executor.retired")] == [None, None, NOBODY]
    assert await not_retired(gate, executor.id, "ex-" + "1" * 32) == "operator.successor"


async def test_who_may_and_about_whom(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    path, body = f"/v1/executors/{executor.id}/retirement", b'{"reason":"x"}'
    for role in ("orchestrator", "auditor"):
        answer = await gate.call("POST", path, token=await gate.token(role), body=body)
        assert (answer.status, answer.code) == (403, "auth.role")
    assert (await gate.call("POST", path, body=body)).status == 401
    assert await not_retired(gate, NOBODY) == "dispatch.executor_unknown"
    assert await not_retired(gate, "x") == "id.invalid"
    token = await gate.token("operator")
    for wrong in (b"{}", b'{"reason":""}', b'{"reason":"x","successor":"x"}', b'{"reason":"x","more":1}'):
        assert (await gate.call("POST", path, token=token, body=wrong)).status == 400
    assert gate.records("executor.retired") == []


@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM retirements",
        "UPDATE retirements SET successor = NULL",
        "INSERT INTO retirements(executor, operator, reason, at) VALUES ('ex-1', 'x', 'x', 1)",
    ],
)
async def test_one_that_was_written_by_hand_is_found(
    gate: GatewayInProcess, executor: ScriptedExecutor, change: str
) -> None:
    await executor.enroll()
    await retire(gate, executor.id, NOBODY)
    await gate.stop()
    by_hand(gate.data / DATABASE, change)
    with pytest.raises(EnvironmentProblem, match="retirement of ex-"):
        Gateway(load_config(gate.data), clock=gate.clock)
    assert any("retirement" in one.detail for one in fsck(load_config(gate.data))[1])


async def test_an_enrollment_after_a_retirement_is_found(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a gateway that was tampered with would record it."""
    await executor.enroll()
    await retire(gate, executor.id)
    with monkeypatch.context() as patch:
        patch.setattr(retirements, "require_in_service", lambda *_: None)
        await executor.finish(challenge := await executor.begin(), executor.prove(challenge))
    await gate.stop()
    with pytest.raises(EnvironmentProblem, match="enrolled after it was retired"):
        Gateway(load_config(gate.data), clock=gate.clock)


async def test_the_command_line(gate: GatewayInProcess, executor: ScriptedExecutor, tmp_path: Path) -> None:
    await executor.enroll()
    file = tmp_path / "token"
    await asyncio.to_thread(file.write_text, await gate.token("operator", "olivia"))
    os.chmod(file, 0o600)  # noqa: PTH101
    where = ("--gateway", gate.url, "--ca", str(gate.ca), "--token-file", str(file), "--reason", "board swapped")
    done = await asyncio.to_thread(run, "executor", "replace", executor.id, NOBODY, *where)
    assert done.returncode == 0, done.stderr
    assert f"{NOBODY} is in its place" in done.stdout
    done = await asyncio.to_thread(run, "executor", "retire", NOBODY, *where)
    assert done.returncode == 1
    assert "dispatch.executor_unknown" in done.stderr
