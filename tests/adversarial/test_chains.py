"""Chains of work, attacked: a child that is more than its parent, that outlives it, or that tells of somebody else's."""

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from gateway.channel import Session
from tests.adversarial.test_bundle import export
from tests.support.executor import Channel, Reply, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import limits
from ztrooted.artifact import ArtifactClaims
from ztrooted.bundle import parse_bundle
from ztrooted.channel_messages import ChallengeMessage, EvidenceMessage, RefusedMessage
from ztrooted.client import Refused
from ztrooted.delegation import Delegation
from ztrooted.evidence import Evidence
from ztrooted.models import Grant, Model
from ztrooted.verify import verify_bundle

POLICY = """
@id("trusted") permit (principal, action in [Action::"dispatch", Action::"renew"], resource) when { context.trusted };
@id("own") permit (principal, action == Action::"delegate", resource)
when { context.trusted && context has parent && context.parent.orchestrator == principal };
@id("helper") permit (principal == Orchestrator::"helper", action == Action::"delegate", resource)
when { context.trusted && context has parent && context.parent.children < 2 };
"""
WIDE = Delegation(depth=2, children=3)
NARROW = Delegation(depth=1, children=1)


@pytest.fixture
async def gate(gate: GatewayInProcess) -> GatewayInProcess:
    """A gateway whose policy lets orchestrators delegate under their own authorizations, and one helper under any."""
    gate.set_dispatch_policy(POLICY)
    await gate.restart()
    return gate


async def running(channel: Channel, grant: Grant) -> Grant:
    await channel.activate(grant)
    await channel.started(grant)
    return grant


async def child_of(executor: ScriptedExecutor, parent: Grant, step: str = "child", **asked: Any) -> Grant:
    return await executor.authorize(job(step), parent=parent.authorization, **{"max_runtime_s": None, **asked})


def claims(grant: Grant) -> ArtifactClaims:
    return ArtifactClaims.model_validate(read(grant.artifact))


def read(token: str) -> dict[str, Any]:
    """What an artifact says."""
    payload = token.split(".")[1]
    said: dict[str, Any] = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    return said


async def verifies(gate: GatewayInProcess, grant: Grant) -> dict[str, Any]:
    report = verify_bundle(await export(gate, grant), gate.anchors())
    assert report.failed is None, report.failed
    assert report.verified
    return report.facts


def story(gate: GatewayInProcess, authorization: str) -> list[dict[str, Any]]:
    return [one for one in gate.records() if one["authorization"] == authorization]


# --- what a chain is ---------------------------------------------------------------------------------------------
async def test_a_chain_of_three_runs_is_seen_and_proved(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
    child = await running(channel, await child_of(executor, root, delegation=NARROW))
    leaf = await running(channel, await child_of(executor, child, "leaf", max_runtime_s=60))
    second = await child_of(executor, root, "second")
    await channel.renew()
    assert [claims(one).par for one in (root, child, leaf)] == [None, root.authorization, child.authorization]
    assert claims(child).lim.max_runtime_s in range(590, 601)
    for one in (root, child, leaf):
        tokens = gate.gateway.database.reading.execute(
            "SELECT bytes FROM artifacts JOIN blobs USING (digest) WHERE authorization = ?", (one.authorization,)
        ).fetchall()
        assert len(tokens) == 3
        assert {read(bytes(row[0]).decode()).get("par") for row in tokens} == {claims(one).par}
    async with await gate.client("orchestrator", "flows") as flows:
        view = await flows.authorization(root.authorization)
        assert (view.parent, view.depth, view.children) == (None, 0, 2)
        view = await flows.authorization(leaf.authorization)
        assert (view.parent, view.depth, view.children) == (child.authorization, 2, 0)
        listed = await flows.children(root.authorization)
        assert [one.authorization for one in listed] == [child.authorization, second.authorization]
    for one in (leaf, child, root):
        await channel.ended(one)
    facts = await verifies(gate, leaf)
    assert (facts["parent"], facts["depth"]) == (child.authorization, 2)
    await verifies(gate, child)
    assert "parent" not in await verifies(gate, root)
    assert executor.state(second.authorization) == "revoked"
    assert story(gate, second.authorization)[-1]["body"]["reason"] == "parent.ended"
    await channel.ended(second, "not_started", exit_status=None)
    await verifies(gate, second)


async def test_a_parent_need_not_run_yet(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    root = await executor.authorize(job("root"), delegation=WIDE, max_runtime_s=300)
    child = await running(channel, await child_of(executor, root))
    assert claims(child).lim.max_runtime_s == 300
    gate.clock.passed_s += 10
    await running(channel, root)
    await channel.renew()
    for one in (child, root):
        await channel.ended(one)
        await verifies(gate, one)


async def test_a_chain_goes_on_after_a_restart(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
        child = await running(channel, await child_of(executor, root))
    await gate.restart()
    async with executor.connect() as channel:
        second = await running(channel, await child_of(executor, root, "second"))
        await channel.renew()
        assert [executor.state(one.authorization) for one in (root, child, second)] == ["running"] * 3
        async with await gate.client("operator") as operator:
            await operator.revoke(root.authorization)
        assert [executor.state(one.authorization) for one in (root, child, second)] == ["revoked"] * 3
        with pytest.raises(Refused) as refusal:
            await child_of(executor, root)
        assert refusal.value.reason == "parent.ended"
    await gate.restart()
    async with executor.connect() as channel:
        for one in (child, second, root):
            await channel.ended(one, "killed", exit_status=None, signal=9)
            await verifies(gate, one)


# --- narrower ----------------------------------------------------------------------------------------------------
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "another workflow": ({"wanted": job("child", workflow="v")}, "parent.scope"),
    "another run": ({"wanted": job("child", run="2")}, "parent.scope"),
    "another step": ({"wanted": job("deploy")}, "parent.scope"),
    "as many levels": ({"delegation": Delegation(depth=1)}, "parent.delegation"),
    "more children": ({"delegation": Delegation(children=2)}, "parent.delegation"),
    "longer": ({"max_runtime_s": 601}, "parent.lifetime"),
}


@pytest.mark.parametrize("what", REFUSED)
async def test_L12_a_child_that_asks_for_more_is_denied(
    what: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    asked, code = REFUSED[what]
    delegation = Delegation(depth=1, children=1, steps=["child"], executors=[executor.id])
    root = await executor.authorize(job("root"), delegation=delegation)
    challenges = len(channel.challenges)
    with pytest.raises(Refused) as refusal:
        await executor.authorize(
            **{"wanted": job("child"), "max_runtime_s": None, "parent": root.authorization} | asked
        )
    assert refusal.value.reason == code
    assert len(channel.challenges) == challenges, "an executor need not be asked for that"
    denied = str(refusal.value.authorization)
    assert [one["type"] for one in story(gate, denied)] == ["dispatch.requested", "authorization.denied"]
    assert executor.state(root.authorization) == "authorized"
    async with await gate.client("auditor") as auditor:
        assert (await auditor.authorization(root.authorization)).children == 0
        assert verify_bundle(await auditor.bundle(denied), gate.anchors()).verified
    await child_of(executor, root)
    with pytest.raises(Refused) as refusal:
        await child_of(executor, root)
    assert refusal.value.reason == "parent.children"


async def test_a_parent_that_did_not_ask_to_delegate_has_no_child(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    root = await running(channel, await executor.authorize(job("root")))
    with pytest.raises(Refused) as refusal:
        await child_of(executor, root)
    assert refusal.value.reason == "parent.depth"


async def test_policy_is_asked_to_delegate_and_what_it_denies_is_proved(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    gate.set_dispatch_policy(
        POLICY + '@id("few") forbid (principal, action, resource) when { context has parent'
        " && context.parent.children > 0 };"
    )
    await gate.restart()
    async with executor.connect() as again:
        root = await running(again, await executor.authorize(job("root"), delegation=WIDE))
        first = await running(again, await child_of(executor, root))
        with pytest.raises(Refused) as refusal:
            await child_of(executor, root, "second")
        assert refusal.value.reason == "policy.denied"
        await again.renew()
        assert executor.state(first.authorization) == "running"
        async with await gate.client("auditor") as auditor:
            denied = await auditor.bundle(str(refusal.value.authorization))
        assert root.authorization.encode() in denied
        assert verify_bundle(denied, gate.anchors()).verified
        request = gate.records("policy.evaluated")[-1]["body"]["request"]
        assert (request["action"], request["context"]["parent"]["children"]) == ("delegate", 1)


async def test_P1_two_children_race_for_the_last_place(
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    channel: Channel,
    executors: Callable[[], ScriptedExecutor],
) -> None:
    other = executors()
    await other.enroll()
    async with other.connect() as beside:
        await beside.renew()
        for _ in range(5):
            root = await executor.authorize(job("root"), delegation=NARROW)
            asked = [child_of(one, root, f"on-{n}") for n in range(3) for one in (executor, other)]
            results = await asyncio.gather(*asked, return_exceptions=True)
            granted = [one for one in results if isinstance(one, Grant)]
            assert len(granted) == 1, results
            assert {str(one.reason) for one in results if isinstance(one, Refused)} == {"parent.children"}
            assert (
                len([one for one in story(gate, root.authorization) if one["type"] == "authorization.delegated"]) == 1
            )


async def test_a_child_has_no_higher_tier_than_its_parent(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Both machines are virtual here, hence of one tier; so the parent's last artifact is told to have had a lower one."""
    root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
    assert claims(root).tier == "A2"
    lower = "UPDATE authorizations SET tier = 1 WHERE id = ?"
    await gate.gateway.database.write(lambda tx: tx.execute(lower, (root.authorization,)))
    child = await running(channel, await child_of(executor, root, delegation=NARROW))
    leaf = await child_of(executor, child, "leaf")
    assert [claims(one).tier for one in (child, leaf)] == ["A1", "A1"]
    context = gate.records("policy.evaluated")[-1]["body"]["request"]["context"]
    assert (context["tier"], context["parent"]["tier"]) == (1, 1)


async def test_N_no_more_live_descendants_than_one_transaction_ends(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "LIVE_DESCENDANTS", 2)
    root = await executor.authorize(job("root"), delegation=WIDE)
    child = await child_of(executor, root, delegation=NARROW)
    leaf = await child_of(executor, child, "leaf")
    before = len(story(gate, root.authorization))
    with pytest.raises(Refused) as refusal:
        await child_of(executor, root, "second")
    assert refusal.value.reason == "parent.children"
    assert len(story(gate, root.authorization)) == before
    async with await gate.client("operator") as operator:
        await operator.revoke(leaf.authorization)
    await child_of(executor, root, "second")


# --- strangers ---------------------------------------------------------------------------------------------------
async def test_a_stranger_can_not_tell_whether_a_parent_exists(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Neither from the answer, nor from the story, nor from the bundle, nor from whether the executor was asked."""
    open_ = await executor.authorize(job("open"), delegation=WIDE)
    shut = await executor.authorize(job("shut"))
    ended = await executor.authorize(job("ended"), delegation=WIDE)
    async with await gate.client("operator") as operator:
        await operator.revoke(ended.authorization)
    seen = []
    for parent in ("f" * 32, open_.authorization, shut.authorization, ended.authorization):
        for change in ({}, {"max_runtime_s": 86400}, {"wanted": job("child", workflow="v")}):
            asked: dict[str, Any] = {"wanted": job("child"), "max_runtime_s": None} | change
            before = len(channel.challenges)
            with pytest.raises(Refused) as refusal:
                await executor.authorize(name="stranger", parent=parent, **asked)
            denied = str(refusal.value.authorization)
            async with await gate.client("orchestrator", "stranger") as stranger:
                view = (await stranger.authorization(denied)).model_dump()
                bundle = await stranger.bundle(denied)
                assert verify_bundle(bundle, gate.anchors()).verified
            kinds = [one.record.type for one in parse_bundle(bundle).records]
            bodies = [one["body"] for one in story(gate, denied)]
            bodies[0] = {**bodies[0], "job": None, "job_digest": None, "parent": None, "max_runtime_s": None}
            said = (refusal.value.reason, refusal.value.detail, refusal.value.remedy)
            shown = {**view, "authorization": "", "parent": "", "job": "", "workflow": ""}
            seen.append((*said, kinds, bodies, shown, len(channel.challenges) - before))
    assert seen[0][0] == "parent.unknown"
    assert all(one == seen[0] for one in seen), seen


async def test_whom_policy_permits_to_delegate_is_told_why_not(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
    with pytest.raises(Refused) as refusal:
        await child_of(executor, root, name="helper", max_runtime_s=86400)
    assert refusal.value.reason == "parent.lifetime"
    helped = await running(channel, await child_of(executor, root, name="helper"))
    await child_of(executor, root, "own")
    with pytest.raises(Refused) as refusal:  # two were given, and policy lets the helper have no third
        await child_of(executor, root, name="helper")
    assert refusal.value.reason == "parent.unknown"
    token = await gate.token("orchestrator", "helper")
    answer = await gate.call("GET", f"/v1/authorizations/{root.authorization}/children", token=token)
    assert (answer.status, answer.code) == (404, "artifact.unknown")
    async with await gate.client("orchestrator", "flows") as flows:
        assert [one.step for one in await flows.children(root.authorization)] == ["own"]
    async with await gate.client("auditor") as auditor:
        assert [one.step for one in await auditor.children(root.authorization)] == ["child", "own"]
    await channel.ended(helped)
    await verifies(gate, helped)


# --- the end -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("end", ["operator", "drift", "lease", "closed", "killed", "enrollment"])
async def test_no_child_outlives_its_parent(
    end: str,
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    channel: Channel,
    executors: Callable[[], ScriptedExecutor],
) -> None:
    """Whatever ended it: the descendants end in the same transaction, and their executor is told at once."""
    other = executors()
    await other.enroll()
    async with other.connect() as beside:
        await beside.renew()
        root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
        child = await running(beside, await child_of(other, root, delegation=NARROW))
        leaf = await running(beside, await child_of(other, child, "leaf"))
        apart = await running(beside, await other.authorize(job("apart")))
        if end == "operator":
            async with await gate.client("operator") as operator:
                await operator.revoke(root.authorization)
        elif end == "drift":
            executor.drift()
            await channel.renew()
        elif end == "lease":
            gate.clock.passed_s += 60
            await beside.renew()
            await gate.pass_time(40)
            await executor.wait_for("authorization.revoked", root.authorization)
        elif end == "closed":
            await channel.ended(root)
        elif end == "killed":
            await channel.ended(root, "killed", exit_status=None, signal=9)
        else:
            await executor.enroll()
        told = [await beside.next(RefusedMessage), await beside.next(RefusedMessage)]
        assert [(one.authorization, one.reason) for one in told] == [
            (child.authorization, "parent.ended"),
            (leaf.authorization, "parent.ended"),
        ]
        rows = gate.gateway.database.reading.execute("SELECT seq, bytes FROM records ORDER BY seq").fetchall()
        records = [(seq, json.loads(data)) for seq, data in rows]
        ended = {"closed": "execution.closed"}.get(end, "authorization.revoked")
        first = next(seq for seq, one in records if one["type"] == ended and one["authorization"] == root.authorization)
        cascade = [one for seq, one in records if first <= seq < first + 3]
        assert [(one["type"], one["authorization"]) for one in cascade] == [
            (ended, root.authorization),
            ("authorization.revoked", child.authorization),
            ("authorization.revoked", leaf.authorization),
        ]
        assert cascade[1]["body"]["detail"].startswith(f"its parent {root.authorization} is ")
        assert cascade[2]["body"]["detail"] == f"its parent {child.authorization} is revoked"
        assert other.state(apart.authorization) == "running"
        for one in (child, leaf):
            assert other.state(one.authorization) == "revoked"
            await beside.ended(one, "killed", exit_status=None, signal=9)
            assert (await verifies(gate, one))["reason"] == "parent.ended"


async def test_the_feed_tells_each_orchestrator_of_its_own_children(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    root = await executor.authorize(job("root"), delegation=WIDE)
    helped = await child_of(executor, root, name="helper")
    async with await gate.client("operator") as operator:
        await operator.revoke(root.authorization)
    async with asyncio.timeout(20), await gate.client("orchestrator", "helper") as helper:
        async for event in helper.events():
            assert event.record.authorization == helped.authorization
            if event.type == "authorization.revoked":
                assert event.record.body["reason"] == "parent.ended"
                break


async def test_a_machine_that_drifts_takes_its_own_chain_along_once(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
    child = await running(channel, await child_of(executor, root))
    executor.drift()
    await channel.renew()
    for one in (root, child):
        assert [record["type"] for record in story(gate, one.authorization)].count("authorization.revoked") == 1
        await channel.ended(one, "killed", exit_status=None, signal=9)
        await verifies(gate, one)


async def test_P1_a_parent_that_ends_while_its_child_is_decided(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """The parent was live when it was asked; what counts is the transaction that would issue."""
    root = await executor.authorize(job("root"), delegation=WIDE)
    go_on = asyncio.Event()

    async def late(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> Reply:
        await go_on.wait()
        reply = channel.honestly(challenge, collect)
        assert isinstance(reply, EvidenceMessage)
        return reply

    channel.answer = late
    before = len(channel.challenges)
    asking = asyncio.create_task(child_of(executor, root))
    while len(channel.challenges) == before:  # noqa: ASYNC110 -- nothing tells
        await asyncio.sleep(0.005)
    async with await gate.client("operator") as operator:
        await operator.revoke(root.authorization)
    go_on.set()
    with pytest.raises(Refused) as refusal:
        await asking
    assert refusal.value.reason == "parent.ended"
    assert [one["type"] for one in story(gate, root.authorization)][-1] == "authorization.revoked"


async def test_K9_an_executor_that_takes_no_message_does_not_keep_the_news_from_others(
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    channel: Channel,
    executors: Callable[[], ScriptedExecutor],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = executors()
    await other.enroll()
    async with other.connect() as beside:
        await beside.renew()
        root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
        child = await running(beside, await child_of(other, root))
        stuck = gate.gateway.channels.get(executor.id)
        assert stuck is not None
        released, send = asyncio.Event(), Session.send

        async def clogged(session: Session, message: Model) -> None:
            if session is stuck:
                await released.wait()
            await send(session, message)

        monkeypatch.setattr(Session, "send", clogged)
        async with await gate.client("operator") as operator:
            revoking = asyncio.create_task(operator.revoke(root.authorization))
            assert (await beside.next(RefusedMessage)).authorization == child.authorization
            assert not revoking.done()
            released.set()
            await revoking


async def test_a_child_is_not_renewed_once_its_parents_lease_is_over(
    gate: GatewayInProcess,
    executor: ScriptedExecutor,
    channel: Channel,
    executors: Callable[[], ScriptedExecutor],
) -> None:
    """Even where nobody has noticed yet: a good quote of the child does not help it."""
    other = executors()
    await other.enroll()
    async with other.connect() as beside:
        await beside.renew()
        root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
        await gate.pass_time(25)
        child = await running(beside, await child_of(other, root))
        for unnoticed in (("lease", root.authorization), ("prove", executor.id), ("prove", other.id)):
            gate.gateway.deadlines.clear(unnoticed)
        await gate.pass_time(70)
        renewed = len(story(gate, child.authorization))
        await beside.renew()
        (last,) = story(gate, child.authorization)[renewed:]
        assert (last["type"], last["body"]["reason"]) == ("authorization.revoked", "parent.ended")
        assert (await beside.next(RefusedMessage)).reason == "parent.ended"
        with pytest.raises(Refused) as refusal:
            await child_of(other, root)
        assert refusal.value.reason == "parent.ended"
        await beside.ended(child, "killed", exit_status=None, signal=9)
        await verifies(gate, child)


async def test_a_child_is_not_started_once_its_parents_lease_is_over(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    root = await running(channel, await executor.authorize(job("root"), delegation=WIDE))
    await gate.pass_time(25)
    child = await child_of(executor, root)
    for unnoticed in (("lease", root.authorization), ("prove", executor.id)):
        gate.gateway.deadlines.clear(unnoticed)
    await gate.pass_time(70)
    assert (await channel.refused(child)).reason == "parent.ended"


async def test_a_renewal_that_ends_a_parent_leaves_its_child_no_lease(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Both on one executor, and renewed in one round: the parent is out of time."""
    root = await running(channel, await executor.authorize(job("root"), delegation=WIDE, max_runtime_s=50))
    child = await running(channel, await child_of(executor, root))
    assert claims(child).exp <= claims(root).iat + 52
    for unnoticed in (("lease", root.authorization), ("lease", child.authorization)):
        gate.gateway.deadlines.clear(unnoticed)
    await gate.pass_time(50.001)  # leases end in whole seconds, so this one may have a moment left
    await channel.renew()
    for one, reasons in ((root, {"execution.max_runtime", "lease.expired"}), (child, {"parent.ended"})):
        assert (await executor.wait_for("authorization.revoked", one.authorization))["reason"] in reasons
        await channel.ended(one, "killed", exit_status=None, signal=9)
        await verifies(gate, one)
