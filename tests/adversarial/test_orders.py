"""Operators' orders: everything that is meant ends at once, nothing else does, and no yes that was under way survives."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from typing import Any

import pytest

from tests.adversarial.test_bundle import export
from tests.adversarial.test_chains import WIDE, child_of
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.channel_messages import RefusedMessage
from ztrooted.client import Refused
from ztrooted.errors import EnvironmentProblem
from ztrooted.models import Grant
from ztrooted.operator_models import OrderView
from ztrooted.policies import FILES
from ztrooted.verify import verify_bundle

CHAINS = """
permit (principal, action in [Action::"dispatch", Action::"renew", Action::"delegate"], resource)
when { context.trusted };
"""


async def order(gate: GatewayInProcess, what: Any, kind: str, name: str, reason: str = "a drill") -> OrderView:
    async with await gate.client("operator", "olivia") as operator:
        return await operator.order(what, kind, name, reason)


async def running(channel: Channel, grant: Grant) -> Grant:
    await channel.activate(grant)
    await channel.started(grant)
    return grant


async def refused(executor: ScriptedExecutor, step: str = "again", orchestrator: str = "flows") -> str:
    with pytest.raises(Refused) as denied:
        await executor.authorize(job(step), name=orchestrator)
    return str(denied.value.reason)


@asynccontextmanager
async def judging(gate: GatewayInProcess) -> AsyncIterator[tuple[asyncio.Event, asyncio.Event]]:
    """Hold the next round between its evidence and its verdict: (it is there, let it go)."""
    there, go = asyncio.Event(), asyncio.Event()
    appraise = gate.gateway.rounds._appraise

    async def slowly(*arguments: Any) -> Any:
        found = await appraise(*arguments)
        if not there.is_set():
            there.set()
            await go.wait()
        return found

    gate.gateway.rounds._appraise = slowly  # type: ignore[method-assign]
    yield there, go
    gate.gateway.rounds._appraise = appraise  # type: ignore[method-assign]


# --- what ends ---------------------------------------------------------------------------------------------------
async def test_everything_of_a_subject_ends_and_nothing_else(
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    channel: Channel,
    executors: Callable[[], ScriptedExecutor],
) -> None:
    other = executors()
    await other.enroll()
    async with other.connect() as beside:
        await beside.renew()
        ours = [await running(channel, await executor.authorize(job(step))) for step in ("a", "b")]
        theirs = await running(channel, await executor.authorize(job("c"), name="nightly"))
        there = await running(beside, await other.authorize(job("d"), name="nightly"))
        view = await order(gate, "revocations", "orchestrator", "flows")
        assert set(view.revoked) == {one.authorization for one in ours}
        assert {(await channel.next(RefusedMessage)).authorization for _ in ours} == set(view.revoked)
        assert executor.state(theirs.authorization) == other.state(there.authorization) == "running"
        view = await order(gate, "revocations", "executor", executor.id)
        assert view.revoked == [theirs.authorization]
        assert other.state(there.authorization) == "running"
        view = await order(gate, "revocations", "class", "default")
        assert view.revoked == [there.authorization]
        assert (await order(gate, "revocations", "class", "default")).revoked == []
        recorded = [(one["kind"], one["ended"], one["operator"], one["reason"]) for one in bodies(gate)]
        assert recorded == [
            ("orchestrator", 2, "olivia", "a drill"),
            ("executor", 1, "olivia", "a drill"),
            ("class", 1, "olivia", "a drill"),
            ("class", 0, "olivia", "a drill"),
        ]
        assert gate.records("authorization.revoked")[-1]["body"] == {
            "reason": "operator.revoked",
            "detail": "by operator olivia: a drill",
        }
        await beside.ended(there, "killed", exit_status=None, signal=9)
        report = verify_bundle(await export(gate, there), gate.anchors())
        assert report.verified, report.failed
        await executor.authorize(job("afterwards"))  # a revocation is for what is there


def bodies(gate: GatewayInProcess, kind: str = "operator.revoked") -> list[dict[str, Any]]:
    return [record["body"] for record in gate.records(kind)]


async def test_descendants_on_other_machines_end_with_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, executors: Callable[[], ScriptedExecutor]
) -> None:
    gate.set_dispatch_policy(CHAINS)
    await gate.restart()
    async with executor.connect() as here:
        await here.renew()
        other = executors()
        await other.enroll()
        async with other.connect() as beside:
            await beside.renew()
            root = await running(here, await executor.authorize(job("root"), delegation=WIDE))
            child = await running(beside, await child_of(other, root))
            view = await order(gate, "revocations", "executor", executor.id)
            assert view.revoked == [root.authorization, child.authorization]
            assert (await beside.next(RefusedMessage)).authorization == child.authorization


@pytest.mark.parametrize(
    ("what", "kind", "name", "reason"),
    [
        ("revocations", "authorization", "0" * 32, "artifact.unknown"),
        ("revocations", "executor", "ex-" + "0" * 32, "dispatch.executor_unknown"),
        ("revocations", "executor", "host.example", "id.invalid"),
        ("revocations", "class", "gold", "operator.subject"),
        ("revocations", "orchestrator", "ghost", "operator.subject"),
        ("quarantines", "orchestrator", "ghost", "operator.subject"),
        ("quarantines", "orchestrator", "olivia", "operator.subject"),
        ("quarantines", "authorization", "0" * 32, "artifact.unknown"),
        ("quarantines", "class", "gold", "operator.subject"),
        ("releases", "orchestrator", "flows", "operator.not_quarantined"),
    ],
)
async def test_what_is_not_there_is_not_ordered_about(
    gate: GatewayInProcess, what: str, kind: str, name: str, reason: str
) -> None:
    with pytest.raises(Refused) as told:
        await order(gate, what, kind, name)
    assert told.value.reason == reason
    assert gate.records("operator.revoked", "operator.quarantined", "operator.released") == []


async def test_an_orchestrator_whose_token_is_gone_can_be_ordered_about(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """What it asked for may still be running."""
    grant = await running(channel, await executor.authorize(job("a")))
    await gate.gateway.database.write(lambda tx: tx.execute("DELETE FROM tokens"))
    assert (await order(gate, "quarantines", "orchestrator", "flows")).revoked == [grant.authorization]


async def test_an_orchestrator_that_asked_for_nothing_yet_can_be_ordered_about(gate: GatewayInProcess) -> None:
    await gate.token("orchestrator", "nightly")
    assert (await order(gate, "quarantines", "orchestrator", "nightly")).revoked == []


@pytest.mark.parametrize("reason", ["", "x" * 201, "two\nlines", "\x1b[31m", "\x9b31m", "\u202etxet"])
async def test_an_order_has_a_reason_that_can_be_read(gate: GatewayInProcess, reason: str) -> None:
    token = await gate.token("operator")
    body = b'{"subject":{"kind":"class","id":"default"},"reason":' + json_text(reason) + b"}"
    answer = await gate.call("POST", "/v1/revocations", token=token, body=body)
    assert (answer.status, answer.code) == (400, "request.malformed")


def json_text(text: str) -> bytes:
    import json  # noqa: PLC0415

    return json.dumps(text).encode()


@pytest.mark.parametrize("path", ["/v1/revocations", "/v1/quarantines", "/v1/releases"])
@pytest.mark.parametrize("role", ["orchestrator", "auditor"])
async def test_only_operators_order(gate: GatewayInProcess, path: str, role: str) -> None:
    body = b'{"subject":{"kind":"class","id":"default"},"reason":"mine"}'
    answer = await gate.call("POST", path, token=await gate.token(role), body=body)
    assert (answer.status, answer.code) == (403, "auth.role")


# --- quarantine --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["executor", "orchestrator", "class"])
async def test_a_quarantine_lasts_until_it_is_released(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, kind: str
) -> None:
    name = {"executor": executor.id, "orchestrator": "flows", "class": "default"}[kind]
    grant = await running(channel, await executor.authorize(job("a")))
    waits = await executor.authorize(job("b"))
    view = await order(gate, "quarantines", kind, name, "it smells")
    assert set(view.revoked) == {grant.authorization, waits.authorization}
    assert await refused(executor) == "operator.quarantined"
    denial = gate.records("authorization.denied")[-1]["body"]
    assert denial["reason"] == "operator.quarantined"
    assert "olivia: it smells" in denial["detail"]
    for _ in view.revoked:
        await channel.next(RefusedMessage)
    assert (await channel.refused(waits)).reason == "artifact.used"
    await gate.restart()
    async with executor.connect() as again:
        await again.renew()
        assert await refused(executor) == "operator.quarantined"
        async with await gate.client("auditor") as auditor:
            (one,) = await auditor.quarantined()
        assert (one.kind, one.id, one.operator, one.reason) == (kind, name, "olivia", "it smells")
        if kind == "orchestrator":
            await executor.authorize(job("other"), name="nightly")  # nobody else is meant
        await order(gate, "releases", kind, name)
        assert executor.state(grant.authorization) in {"revoked", "closed"}  # nothing comes back
        await running(again, await executor.authorize(job("released")))


async def test_C6_an_executor_in_quarantine_does_not_enroll(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    await order(gate, "quarantines", "executor", executor.id)
    with pytest.raises(Refused) as told:
        await executor.enroll()
    assert told.value.reason == "operator.quarantined"
    assert gate.records("executor.refused") == []  # it asks again and again, and the order is on record already
    await order(gate, "releases", "executor", executor.id)
    await executor.enroll()


async def test_a_machine_can_be_in_quarantine_before_it_comes(
    gate: GatewayInProcess, executors: Callable[[], ScriptedExecutor]
) -> None:
    stranger = executors()
    challenge = await stranger.begin()
    await order(gate, "quarantines", "executor", challenge.executor)
    with pytest.raises(Refused) as told:
        await stranger.enroll()
    assert told.value.reason == "operator.quarantined"


async def test_who_moves_into_a_class_in_quarantine_is_in_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Neither what runs nor what was authorized before goes on there, trusted as the machine is."""
    appraisal = gate.data / "policy" / "appraisal.toml"
    head, default = appraisal.read_text().split("[class.default]", 1)
    moved = f'[class.gpu]{default}\n[class.gpu.match]\nlabels = {{ gpu = "yes" }}\n'.replace(
        "[class.default.", "[class.gpu."
    )
    async with await gate.client("operator", "olivia") as operator:
        texts = {role: (gate.data / "policy" / name).read_text() for role, name in FILES.items()}
        await operator.activate_policies(texts | {"appraisal": f"{head}{moved}[class.default]{default}"})
        await operator.label(executor.id, {"gpu": "yes"})
        await channel.renew()
        await executor.approve()
        await operator.label(executor.id, {"gpu": "no"})
        await channel.renew()
        runs = await running(channel, await executor.authorize(job("runs")))
        waits = await executor.authorize(job("waits"))
        assert (await order(gate, "quarantines", "class", "gpu")).revoked == []
        await operator.label(executor.id, {"gpu": "yes"})
        assert (await channel.next(RefusedMessage)).reason == "operator.quarantined"
        assert (await channel.refused(waits)).reason == "operator.quarantined"
        (view,) = await operator.executors()
        assert (view.executor_class, view.trusted) == ("gpu", True)
    await channel.ended(runs, "killed", exit_status=None, signal=9)
    report = verify_bundle(await export(gate, runs), gate.anchors())
    assert report.verified, report.failed


# --- what was under way ------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["executor", "orchestrator", "class"])
@pytest.mark.parametrize("what", ["revocations", "quarantines"])
async def test_a_dispatch_that_was_under_way_is_refused(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, kind: str, what: str
) -> None:
    """Its proof is good and older than the order."""
    name = {"executor": executor.id, "orchestrator": "flows", "class": "default"}[kind]
    async with judging(gate) as (there, go):
        waiting = asyncio.create_task(executor.authorize(job("a")))
        await there.wait()
        await order(gate, what, kind, name)
        go.set()
        with pytest.raises(Refused) as told:
            await waiting
    assert told.value.reason == {"revocations": "operator.revoked", "quarantines": "operator.quarantined"}[what]
    assert gate.records("authorization.issued") == []


async def test_an_order_about_somebody_else_refuses_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    async with judging(gate) as (there, go):
        waiting = asyncio.create_task(executor.authorize(job("a")))
        await there.wait()
        await gate.token("orchestrator", "nightly")
        await order(gate, "revocations", "orchestrator", "nightly")
        await order(gate, "quarantines", "executor", "ex-" + "0" * 32)
        go.set()
        await waiting


@pytest.mark.parametrize("kind", ["authorization", "executor", "orchestrator", "class"])
async def test_an_activation_that_was_under_way_is_refused(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, kind: str
) -> None:
    grant = await executor.authorize(job("a"))
    name = {"executor": executor.id, "orchestrator": "flows", "class": "default", "authorization": grant.authorization}
    async with judging(gate) as (there, go):
        waiting = asyncio.create_task(channel.refused(grant))
        await there.wait()
        await order(gate, "revocations", kind, name[kind])
        go.set()
        await waiting
    assert gate.records("authorization.activated") == []
    assert executor.state(grant.authorization) in {"revoked", "closed"}


@pytest.mark.parametrize("kind", ["authorization", "executor", "orchestrator", "class"])
async def test_a_renewal_that_was_under_way_revives_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, kind: str
) -> None:
    grant = await running(channel, await executor.authorize(job("a")))
    name = {"executor": executor.id, "orchestrator": "flows", "class": "default", "authorization": grant.authorization}
    renewed = len(gate.records("authorization.renewed"))
    async with judging(gate) as (there, go):
        gate.gateway.prove_soon(executor.id)
        await there.wait()
        await order(gate, "revocations", kind, name[kind])
        go.set()
        assert (await channel.next(RefusedMessage)).reason == "operator.revoked"
        await channel.ended(grant, "killed", exit_status=None, signal=9)
    assert len(gate.records("authorization.renewed")) == renewed
    report = verify_bundle(await export(gate, grant), gate.anchors())
    assert report.verified, report.failed


async def test_an_enrollment_that_was_under_way_is_refused(
    gate: GatewayInProcess, executors: Callable[[], ScriptedExecutor]
) -> None:
    machine = executors()
    await machine.enroll()
    challenge = await machine.begin()
    proof = machine.prove(challenge)
    await order(gate, "revocations", "executor", machine.id)
    with pytest.raises(Refused) as told:
        await machine.finish(challenge, proof)
    assert told.value.reason == "operator.revoked"
    await machine.enroll()  # a new one proves itself after the order


async def test_an_authorization_revoked_while_it_is_decided_is_not_issued(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Its request is on record, so an operator may know it before it is live."""
    async with judging(gate) as (there, go):
        waiting = asyncio.create_task(executor.authorize(job("a")))
        await there.wait()
        while not gate.records("dispatch.requested"):  # it is written while the executor is asked
            await gate.gateway.database.wait_for_commit()
        (asked,) = gate.records("dispatch.requested")
        assert (await order(gate, "revocations", "authorization", asked["authorization"])).revoked == []
        go.set()
        with pytest.raises(Refused) as told:
            await waiting
    assert told.value.reason == "operator.revoked"
    assert gate.records("authorization.issued") == []


async def test_a_class_that_the_policy_has_no_more_is_released(gate: GatewayInProcess, channel: Channel) -> None:
    appraisal = gate.data / "policy" / "appraisal.toml"
    head, default = appraisal.read_text().split("[class.default]", 1)
    gpu = f'[class.gpu]{default}\n[class.gpu.match]\nlabels = {{ gpu = "yes" }}\n'.replace(
        "[class.default.", "[class.gpu."
    )
    async with await gate.client("operator", "olivia") as operator:
        texts = {role: (gate.data / "policy" / name).read_text() for role, name in FILES.items()}
        await operator.activate_policies(texts | {"appraisal": f"{head}{gpu}[class.default]{default}"})
        await order(gate, "quarantines", "class", "gpu")
        await operator.activate_policies(texts, allow_rollback=True)
        assert [one.id for one in await operator.quarantined()] == ["gpu"]
        await order(gate, "releases", "class", "gpu")
        assert await operator.quarantined() == []


@pytest.mark.parametrize(
    "edit", ["DELETE FROM quarantines", "UPDATE quarantines SET id = 'ex-' || substr(id, 5) || '0'"]
)
async def test_a_quarantine_that_was_edited_beside_its_record_is_noticed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, edit: str
) -> None:
    await order(gate, "quarantines", "executor", executor.id)
    await gate.stop()
    with closing(sqlite3.connect(gate.data / "gateway.db")) as database, database:
        database.execute(edit)
    with pytest.raises(EnvironmentProblem) as told:
        await gate.start()
    assert told.value.reason == "lineage.chain_broken"
