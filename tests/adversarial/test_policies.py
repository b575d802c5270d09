"""Policies put in force over the API: at once, for everybody, on the record, and never half."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.app import Gateway
from gateway.config import load_config
from tests.adversarial.test_bundle import export
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.channel_messages import LeaseMessage, RefusedMessage
from ztrooted.client import Refused
from ztrooted.models import Grant
from ztrooted.policies import FILES
from ztrooted.reasons import GateReason
from ztrooted.verify import verify_bundle

ONLY_NIGHTLY = """\
@id("nightly-only")
permit (principal, action, resource) when { context.trusted && context.workflow == "nightly" };
"""
NARROWER = """\
@id("trusted-and-first")
permit (principal, action, resource) when { context.trusted && context.attempt == 1 };
"""


def documents(gate: GatewayInProcess, **changed: str) -> dict[str, str]:
    """What lies in the data folder, with other texts for some roles."""
    return {role: (gate.data / "policy" / name).read_text() for role, name in FILES.items()} | changed


async def activate(gate: GatewayInProcess, *, allow_rollback: bool = False, **changed: str) -> Any:
    async with await gate.client("operator", "olivia") as operator:
        return await operator.activate_policies(documents(gate, **changed), allow_rollback=allow_rollback)


async def running(channel: Channel, grant: Grant) -> Grant:
    await channel.activate(grant)
    await channel.started(grant)
    return grant


def in_force(gate: GatewayInProcess) -> dict[str, str]:
    return gate.gateway.policies.current.digests()


# --- at once -----------------------------------------------------------------------------------------------------
async def test_J6_the_next_decision_is_by_the_new_policy(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    await executor.authorize(job("a"))
    view = await activate(gate, dispatch=NARROWER)
    assert (view.operator, view.revoked) == ("olivia", [])
    await executor.authorize(job("b"))
    first, second = gate.records("policy.evaluated")
    assert first["body"]["dispatch_policy"] != second["body"]["dispatch_policy"] == view.dispatch
    assert second["body"]["decision"]["determining"] == ["trusted-and-first"]
    activated = gate.records("policy.activated")[-1]["body"]
    assert activated == {**in_force(gate), "operator": "olivia"}


async def test_what_is_not_permitted_any_more_is_revoked_in_the_same_transaction(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    runs = await running(channel, await executor.authorize(job("a")))
    waits = await executor.authorize(job("b"))
    view = await activate(gate, dispatch=ONLY_NIGHTLY)
    assert sorted(view.revoked) == sorted([runs.authorization, waits.authorization])
    told = {(await channel.next(RefusedMessage)).authorization for _ in range(2)}
    assert told == {runs.authorization, waits.authorization}
    kinds = [(record["type"], record["authorization"]) for record in gate.records()]
    at = next(number for number, (kind, _) in enumerate(kinds) if kind == "policy.activated" and number > 3)
    assert [kind for kind, _ in kinds[at : at + 3]] == [
        "policy.activated",
        "authorization.revoked",
        "authorization.revoked",
    ]
    revoked = gate.records("authorization.revoked")[0]["body"]
    assert revoked["reason"] == "policy.denied"
    assert "no permit matches" in revoked["detail"]
    await channel.ended(runs, "killed", exit_status=None, signal=9, reason="policy.denied")
    report = verify_bundle(await export(gate, runs), gate.anchors())
    assert report.verified, report.failed


async def test_what_is_still_permitted_goes_on_under_the_new_policy(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await running(channel, await executor.authorize(job("a")))
    waits = await executor.authorize(job("b"))
    view = await activate(gate, dispatch=NARROWER)
    lease = await channel.next(LeaseMessage)  # no interval had to pass: everybody is challenged at once
    assert lease.authorization == grant.authorization
    renewal = gate.records("attestation.passed")[-1]["body"]
    assert renewal["dispatch_policy"] == view.dispatch
    await running(channel, waits)  # authorized under the old policy, started under the new one
    for one in (grant, waits):
        await channel.ended(one)
        report = verify_bundle(await export(gate, one), gate.anchors())
        assert report.failed is None, report.failed
        assert report.verified


async def test_a_stricter_appraisal_bites_at_once(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await running(channel, await executor.authorize(job("a")))
    text = documents(gate)["appraisal"]
    stricter = text.replace("secure_boot = true", f'secure_boot = true\nimages = ["{"00" * 32}"]')
    assert stricter != text
    view = await activate(gate, appraisal=stricter)
    assert view.revoked == []  # the policy permits it still; only a new quote can tell what it shows
    assert (await channel.next(RefusedMessage)).authorization == grant.authorization
    await gate.recorded("authorization.revoked")
    assert gate.records("authorization.revoked")[-1]["body"]["reason"] == "boot.image"


async def test_an_executor_without_a_class_is_not_trusted_and_breaks_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await running(channel, await executor.authorize(job("a")))
    text = documents(gate)["appraisal"]
    unlabelled = text.replace("[class.default]\n", '[class.default]\nmatch = { labels = { zone = "eu" } }\n')
    view = await activate(gate, appraisal=unlabelled)
    assert view.revoked == [grant.authorization]
    assert gate.records("authorization.revoked")[-1]["body"]["reason"] == "policy.no_class"
    with pytest.raises(Refused) as refused:
        await executor.authorize(job("b"))
    assert refused.value.reason is GateReason.POLICY_NO_CLASS
    async with await gate.client("operator") as operator:
        (seen,) = await operator.executors()
        assert (seen.trusted, seen.tier) == (False, "A0")
        await operator.label(executor.id, {"zone": "eu"})  # the class is for it again, and it is proved at once
    async with asyncio.timeout(20):
        while not gate.gateway.rounds.executor(executor.id).trusted:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    labelled = await running(channel, await executor.authorize(job("c")))
    await channel.ended(labelled)
    report = verify_bundle(await export(gate, labelled), gate.anchors())
    assert report.verified, report.failed
    assert gate.records("executor.labelled")[-1]["body"]["labels"] == {"zone": "eu"}


async def test_a_decision_that_was_under_way_is_not_made_by_the_old_policy(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """The quote is there already when the policy changes; what it would have led to is dropped."""
    asked, go = asyncio.Event(), asyncio.Event()
    settle = gate.gateway.rounds._appraise

    async def slowly(*args: Any) -> Any:
        found = await settle(*args)
        if not asked.is_set():
            asked.set()
            await go.wait()
        return found

    gate.gateway.rounds._appraise = slowly  # type: ignore[method-assign]
    waiting = asyncio.create_task(executor.authorize(job("a")))
    await asked.wait()
    await activate(gate, appraisal=documents(gate)["appraisal"] + "# newer\n")
    go.set()
    with pytest.raises(Refused) as refused:
        await waiting
    assert refused.value.reason is GateReason.POLICY_CHANGED
    assert gate.records("authorization.issued") == []
    assert gate.records("authorization.denied")[-1]["body"]["reason"] == "policy.changed"


async def test_files_are_judged_anew_after_a_change(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Entries that an earlier policy accepted are asked for again: the new one may not."""
    before = gate.gateway.rounds.executor(executor.id).progress.ima.entries
    assert before > 0
    channel.challenges.clear()
    text = documents(gate)["appraisal"]
    await activate(
        gate, appraisal=text.replace('allow_list = "baseline"', 'allow_list = "baseline"\ndigest_algs = ["sha256"]')
    )
    async with asyncio.timeout(20):
        while not channel.challenges:  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    assert channel.challenges[0].ima_offset == 0


# --- or not at all -----------------------------------------------------------------------------------------------
BROKEN = {
    "J3 unknown key": (
        "appraisal",
        lambda text: text.replace("lease_s", "leese_s"),
        "appraisal:",
        "did you mean 'lease_s'",
    ),
    "J2 nothing required": (
        "appraisal",
        lambda _: 'format = "ztrooted-appraisal/1"\n[class.a]\npcrs = [0]\n',
        "appraisal:",
        "observe",
    ),
    "J14 no Cedar": ("dispatch", lambda _: "permit (", "dispatch:1: ", "unexpected end of input"),
    "J14 another schema": (
        "dispatch",
        lambda _: "permit (principal, action, resource) when { context.trust };",
        "dispatch",
        "trust",
    ),
    "J2 empty": ("dispatch", lambda _: "", "dispatch", "no policy"),
    "J3 unknown group": (
        "entities",
        lambda text: text + '[group.a]\nin = ["b"]\n',
        "entities:",
        "there is no group 'b'",
    ),
    "no TOML": ("entities", lambda _: "format: x", "entities", "not TOML"),
}


@pytest.mark.parametrize(("role", "change", "place", "says"), BROKEN.values(), ids=BROKEN.keys())
async def test_a_broken_document_refuses_all_three(
    gate: GatewayInProcess, role: str, change: Callable[[str], str], place: str, says: str
) -> None:
    before, stored = in_force(gate), list(gate.gateway.database.reading.iterdump())
    changed = {"dispatch": NARROWER} | {role: change(documents(gate)[role])}
    token = await gate.token("operator")
    stored = list(gate.gateway.database.reading.iterdump())
    answer = await gate.call("POST", "/v1/policies", token=token, body=json.dumps(documents(gate, **changed)).encode())
    assert answer.status in {400, 403, 422}, answer
    assert answer.code.startswith("policy.")
    assert place in answer.json["detail"]
    assert says in answer.json["detail"]
    assert in_force(gate) == before
    assert list(gate.gateway.database.reading.iterdump()) == stored


async def test_J12_policies_that_were_replaced_come_back_only_by_an_explicit_word(gate: GatewayInProcess) -> None:
    first = documents(gate)["dispatch"]
    await activate(gate, dispatch=NARROWER)
    await activate(gate, dispatch=NARROWER)  # what is in force already is no way back
    with pytest.raises(Refused) as refused:
        await activate(gate, dispatch=first)
    assert refused.value.reason is GateReason.POLICY_ROLLBACK
    before = in_force(gate)
    assert before["dispatch"] == gate.records("policy.activated")[-1]["body"]["dispatch"]
    view = await activate(gate, dispatch=first, allow_rollback=True)
    assert view.dispatch != before["dispatch"]


@pytest.mark.parametrize("role", ["orchestrator", "auditor"])
async def test_only_operators_activate(gate: GatewayInProcess, role: str) -> None:
    before = in_force(gate)
    async with await gate.client(role) as client:
        with pytest.raises(Refused) as refused:
            await client.activate_policies(documents(gate, dispatch=NARROWER))
    assert refused.value.reason is GateReason.AUTH_ROLE
    assert in_force(gate) == before


# --- and beyond a restart ----------------------------------------------------------------------------------------
async def test_an_activation_outlives_the_process(gate: GatewayInProcess) -> None:
    await activate(gate, dispatch=NARROWER)
    digests = in_force(gate)
    await gate.restart()
    assert in_force(gate) == digests
    assert gate.records("policy.activated")[-1]["body"] == {**digests, "operator": None}
    assert (gate.data / "policy" / "dispatch.cedar").read_text() == NARROWER


@pytest.mark.parametrize("written", [0, 1, 2, 3])
async def test_an_activation_that_died_before_its_files_were_there_is_finished(
    gate: GatewayInProcess, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """The disk takes ``written`` of the three files, and then the gateway is gone."""
    before = documents(gate)
    replace, count = Path.replace, 0

    def full(self: Path, target: Path) -> Path:
        nonlocal count
        if Path(target).parent.name == "policy":
            count += 1
            if count > written:
                raise OSError(28, "No space left on device")
        return replace(self, target)

    changed = {
        "appraisal": before["appraisal"] + "# newer\n",
        "dispatch": NARROWER,
        "entities": before["entities"] + "# newer\n",
    }
    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        await activate(gate, **changed)
    digests = in_force(gate)
    assert count == min(written + 1, 3)
    await gate.restart()
    assert in_force(gate) == digests
    assert documents(gate) == changed
    assert gate.gateway.database.reading.execute("SELECT COUNT(*) FROM pending_policy").fetchone() == (0,)


async def test_a_pending_activation_whose_bytes_are_gone_refuses_the_start(gate: GatewayInProcess) -> None:
    await gate.gateway.database.write(
        lambda tx: tx.execute("INSERT INTO pending_policy VALUES (?, ?, ?)", ("0" * 64,) * 3) and None
    )
    await gate.stop()
    with pytest.raises(Exception, match="missing"):
        Gateway(load_config(gate.data))
    gate._gateway = None


async def test_a_change_of_the_files_decides_live_authorizations_again_at_the_start(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        gone = await running(channel, await executor.authorize(job("a")))
        stays = await running(channel, await executor.authorize(job("b")))
    gate.set_dispatch_policy(
        '@id("only-b") permit (principal, action, resource) when { context.trusted && context.step == "b" };'
    )
    await gate.restart()
    states = {one: executor.state(one) for one in (gone.authorization, stays.authorization)}
    assert states == {gone.authorization: "revoked", stays.authorization: "running"}
