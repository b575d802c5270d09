"""Reference values over the API: proposed, approved for a time, replaced, and what each of that means for machines."""

import json
from dataclasses import replace
from typing import Any

import pytest

from tests.adversarial.test_bundle import export
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.forger import Forger
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted.client import Refused
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.reference import MAXIMUM, Baseline, parse_baseline


async def captured(gate: GatewayInProcess, executor: ScriptedExecutor) -> Baseline:
    async with await gate.client("operator") as operator:
        view = await operator.capture_baseline(executor.id)
        return parse_baseline(await operator.baseline(view.baseline))


async def test_a_capture_holds_what_was_booted(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    baseline = await captured(gate, executor)
    assert baseline.boot is not None
    assert baseline.boot.secure_boot is True
    assert {event.pcr for event in baseline.boot.events} == {*range(10), 14}
    assert set(baseline.pcrs) == {*range(10), 14}
    assert set(baseline.boot.keys) == {"PK", "KEK", "db", "dbx"}
    assert len(baseline.boot.images) == 3
    assert any("root=/dev/nvme0n1p2" in text for text in baseline.boot.texts)


async def test_versions_count_and_the_last_one_is_in_force(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    first = await captured(gate, executor)
    second = replace(first, captured_at=first.captured_at + 1)
    async with await gate.client("operator", "olivia") as operator:
        one = await operator.approve_baseline(sha256(first.encode()))
        proposed = await operator.propose_baseline(second.encode(), "default")
        assert (proposed.version, proposed.in_force) == (None, False)
        two = await operator.approve_baseline(proposed.baseline)
        again = await operator.approve_baseline(one.baseline)
        listed = {view.baseline: view for view in await operator.baselines()}
    assert (two.version, again.version) == (one.version + 1, one.version + 2)  # type: ignore[operator]
    assert listed[one.baseline].in_force
    assert not listed[two.baseline].in_force
    assert listed[two.baseline].approved_by == "olivia"
    versions = [body["body"]["version"] for body in gate.records("baseline.approved")]
    assert versions == list(range(1, len(versions) + 1))
    await gate.restart()
    reference = gate.gateway.references.current("default")
    assert reference is not None
    assert reference.digest == one.baseline


async def test_an_approval_ends(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    baseline = await captured(gate, executor)
    async with await gate.client("operator") as operator:
        view = await operator.approve_baseline(sha256(baseline.encode()), expires_in_s=60)
    assert view.expires == gate.records("baseline.approved")[-1]["body"]["expires"]
    await executor.authorize(job())
    await gate.pass_time(61)
    await gate.gateway.checkpointer.seal()
    with pytest.raises(Refused) as refused:
        await executor.authorize(job("late"))
    assert refused.value.reason is GateReason.BASELINE_EXPIRED
    async with await gate.client("operator") as operator:
        await operator.approve_baseline(view.baseline, expires_in_s=60)
    await executor.authorize(job("again"))


async def test_expiry_is_part_of_what_an_auditor_judges(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    baseline = await captured(gate, executor)
    async with await gate.client("operator") as operator:
        await operator.approve_baseline(sha256(baseline.encode()), expires_in_s=60)
    grant = await executor.authorize(job())
    await channel.activate(grant)
    await channel.started(grant)
    await channel.ended(grant)
    bundle = await export(gate, grant)
    assert (await Forger(bundle, gate).verify()).verified
    lie = Forger(bundle, gate)
    for record in lie.records:
        if record["type"] == "baseline.approved":
            record["body"]["expires"] = record["at"] + 1
    report = await lie.verify()
    assert report.failed is not None
    assert report.failed.name == "appraisals"


async def test_a_round_by_the_old_baseline_does_not_count_under_the_new_one(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    baseline = await captured(gate, executor)
    other = replace(baseline, captured_at=baseline.captured_at + 1)
    async with await gate.client("operator") as operator:
        view = await operator.propose_baseline(other.encode(), "default")
    settle, approved = gate.gateway.rounds._appraise, False

    async def approve_meanwhile(*args: Any) -> Any:
        nonlocal approved
        found = await settle(*args)
        if not approved:
            approved = True
            async with await gate.client("operator") as operator:
                await operator.approve_baseline(view.baseline)
        return found

    gate.gateway.rounds._appraise = approve_meanwhile  # type: ignore[method-assign]
    with pytest.raises(Refused) as refused:
        await executor.authorize(job())
    assert refused.value.reason is GateReason.POLICY_CHANGED
    await executor.authorize(job("again"))


def broken(baseline: Baseline) -> dict[str, tuple[bytes, str]]:
    data = baseline.encode()
    value = json.loads(data)

    def changed(**members: Any) -> bytes:
        return json.dumps({**value, **members}, sort_keys=True, separators=(",", ":")).encode()

    boot = value["boot"]
    return {
        "not JSON": (b"{", "canonical.malformed"),
        "spaces": (json.dumps(value, sort_keys=True).encode(), "canonical.malformed"),
        "another format": (changed(format="ztrooted-baseline/9"), "baseline.malformed"),
        "an unknown bank": (changed(bank="sm3"), "baseline.malformed"),
        "an unknown member": (changed(extra=1), "baseline.malformed"),
        "a PCR that is none": (changed(pcrs={"24": "00" * 32}), "baseline.malformed"),
        "a short PCR": (changed(pcrs={"0": "00"}), "baseline.malformed"),
        "pins nothing": (changed(pcrs={}, ima=[], boot=None), "baseline.malformed"),
        "a path that is none": (changed(ima=[["/a/../b", ["sha256:" + "00" * 32]]]), "baseline.malformed"),
        "a digest that is none": (changed(ima=[["/a", ["md5"]]]), "baseline.malformed"),
        "facts without events": (changed(boot={**boot, "events": None}), "baseline.malformed"),
        "facts with a member more": (changed(boot={**boot, "x": 1}), "baseline.malformed"),
        "an event without digest": (changed(boot={**boot, "events": [[0, 1, "", ""]]}), "baseline.malformed"),
        "an event of no PCR": (changed(boot={**boot, "events": [[99, 1, "00" * 32, ""]]}), "baseline.malformed"),
        "keys of no variable": (changed(boot={**boot, "keys": {"mok": []}}), "baseline.malformed"),
        "unsorted images": (changed(boot={**boot, "images": boot["images"][::-1]}), "baseline.malformed"),
        "Secure Boot perhaps": (changed(boot={**boot, "secure_boot": "on"}), "baseline.malformed"),
        "too large": (b" " * (MAXIMUM + 1), "request.too_large"),
    }


async def test_a_broken_baseline_is_refused_whole(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    baseline = await captured(gate, executor)
    token = await gate.token("operator")
    before = list(gate.gateway.database.reading.iterdump())
    for name, (data, code) in broken(baseline).items():
        answer = await gate.call("POST", "/v1/classes/default/baselines", token=token, body=data)
        assert answer.code == code, (name, answer)
        assert 400 <= answer.status < 500
    unknown = await gate.call("POST", "/v1/classes/other/baselines", token=token, body=baseline.encode())
    assert unknown.code == "policy.no_class"
    assert list(gate.gateway.database.reading.iterdump()) == before


async def test_two_baselines_are_compared(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    first = await captured(gate, executor)
    second = replace(
        first, pcrs={**first.pcrs, 4: bytes(32)}, ima={**first.ima, "/new": frozenset({"sha256:" + "1" * 64})}
    )
    async with await gate.client("operator") as operator:
        view = await operator.propose_baseline(second.encode(), "default")
    path = f"/v1/baselines/{sha256(first.encode())}/diff"
    token = await gate.token("auditor")
    answer = await gate.call("GET", f"{path}/{view.baseline}", token=token)
    assert answer.json["same"] is False
    assert [(one["part"], one["kind"], one["name"]) for one in answer.json["differences"]] == [
        ("pcr", "changed", "4"),
        ("file", "added", "/new"),
    ]
    same = await gate.call("GET", f"{path}/{sha256(first.encode())}", token=token)
    assert same.json == {"same": True, "count": 0, "differences": []}
    unknown = await gate.call("GET", f"{path}/{'0' * 64}", token=token)
    assert (unknown.status, unknown.code) == (404, "baseline.unknown")
