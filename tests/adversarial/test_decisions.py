"""Decisions told and made again: what people read of them, who may, and that an auditor gets the same."""

import base64
import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.support.executor import PROGRAMS, Channel, ScriptedExecutor, job, wire
from tests.support.gateway_in_process import GatewayInProcess
from tpm.boot_simulator import Machine
from ztrooted import canonical
from ztrooted.channel_messages import ChallengeMessage, EvidenceMessage
from ztrooted.client import Refused
from ztrooted.decision_file import parse_decision_file, redecide
from ztrooted.errors import ProofError
from ztrooted.evidence import sha256
from ztrooted.explain import explain
from ztrooted.reasons import GateReason
from ztrooted.redecide_bundle import redecide_file


async def told(gate: GatewayInProcess, decision: str, role: str = "auditor") -> str:
    """The explanation, with what differs from run to run left out; the same from API and file."""
    token = await gate.token(role, "flows" if role == "orchestrator" else None)
    path = f"/v1/decisions/{decision}"
    answer = await gate.call("GET", f"{path}/explanation", token=token, headers={"Accept": "text/plain"})
    assert answer.status == 200, answer
    file = await gate.call("GET", path, token=token)
    parsed = parse_decision_file(file.data)
    assert explain(parsed).text() + "\n" == answer.data.decode()
    for line in answer.data.decode().splitlines():
        assert len(line) <= 100 or re.search("[0-9a-f]{64}", line), line
    for line in re.findall(r"line (\d+) of the appraisal", answer.data.decode()):
        said = (gate.data / "policy" / "appraisal.toml").read_text().splitlines()[int(line) - 1]
        assert re.match(r"pcrs = |pinned = |\[class\.default\.ima\]", said), said
    return normal(answer.data.decode())


def normal(text: str) -> str:
    joined = re.sub(r"\n(   \|)? {2,}(?!-->|=)", " ", text)  # as if the terminal were endless
    for pattern, shown in (
        (r"ex-[0-9a-f]{32}", "EXECUTOR"),
        (r"[0-9a-f]{64}", "DIGEST"),
        (r"record \d+", "record N"),
        (r"line \d+ of", "line L of"),
        (r"\d{4}-\d\d-\d\dT[0-9:.]+Z", "TIME"),
    ):
        joined = re.sub(pattern, shown, joined)
    return joined


async def denied(executor: ScriptedExecutor, **changes: Any) -> str:
    with pytest.raises(Refused) as refused:
        await executor.authorize(job(**changes))
    assert refused.value.authorization is not None
    return refused.value.authorization


PCR_4 = (
    "PCR 4 is DIGEST, and the approved baseline has DIGEST; event 5 of PCR 4 is EV_EFI_BOOT_SERVICES_APPLICATION"
    " {path} DIGEST, and the baseline has EV_EFI_BOOT_SERVICES_APPLICATION {path} DIGEST"
)
BASELINE = " | baseline: DIGEST, approved by test-operator at TIME"
FOR = "for: step train of w, run 1, attempt 1, asked for by flows"
NO_PERMIT = (
    " | policy: the dispatch policy does not permit it: no permit matches, and the default is to deny"
    " | asked as: dispatch by flows on EXECUTOR (trusted: false, tier: A0) | led to: authorization.denied"
)
WHERE = "\n  --> executor EXECUTOR, as of record N | |"


async def test_each_kind_of_decision_is_told(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    async with executor.connect() as channel:
        assert await told(gate, await denied(executor)) == (
            "error[attestation.no_baseline]: No baseline is approved for this class of executors, so there is no state to"
            f" compare with{WHERE} when: TIME, a quote with purpose dispatch | {FOR}"
            " | found: no baseline has been approved for this class of executors"
            " | rule: class.default.pinned, line L of the appraisal policy"
            " | checks: quote ok, clock ok, event_log ok, baseline FAILED, ima ok, files FAILED"
            f" | baseline: none was in force for class 'default'{NO_PERMIT}"
            " |  = help: Capture a baseline on a machine you trust, and approve it.\n"
        )
        await executor.approve()
        await channel.renew()
        grant = await executor.authorize(job())
        assert await told(gate, grant.authorization) == (
            f"permitted: everything that was required was proved{WHERE} when: TIME, a quote with purpose dispatch | {FOR}"
            f" | checks: quote ok, clock ok, event_log ok, baseline ok, ima ok, files ok{BASELINE}"
            " | policy: the dispatch policy permits it: decided by trusted-machines-only"
            " | asked as: dispatch by flows on EXECUTOR (trusted: true, tier: A2)\n"
        )
        assert await told(gate, executor.id) == (
            f"permitted: everything that was required was proved{WHERE} when: TIME, a quote with purpose runtime"
            f" | checks: quote ok, clock ok, event_log ok, baseline ok, ima ok, files ok{BASELINE}\n"
        )
        executor.drift()
        assert await told(gate, await denied(executor)) == (
            f"error[ima.not_allowed]: A file or buffer was measured that is not in the approved list{WHERE}"
            f" when: TIME, a quote with purpose dispatch | {FOR}"
            " | found: entry 4, '/tmp/intruder' sha256:DIGEST: the path is not listed"
            " | rule: class.default.ima, line L of the appraisal policy"
            f" | checks: quote ok, clock ok, event_log ok, baseline ok, ima ok, files FAILED{BASELINE}{NO_PERMIT}"
            " |  = help: Remove what doesn't belong, or add it to the baseline and approve that; then reboot.\n"
        )
    executor.reboot(Machine(kernel=b"other kernel"))
    await executor.enroll()
    async with executor.connect() as channel:
        text = await told(gate, await denied(executor))
        path = re.search(r"APPLICATION ('[^']*vmlinuz[^']*') DIGEST", text)
        assert path is not None, text
        assert text == (
            f"error[attestation.drift]: The machine proved a state that is not the approved one{WHERE}"
            f" when: TIME, a quote with purpose dispatch | {FOR} | found: {PCR_4.format(path=path[1])}"
            " | rule: class.default.pinned, line L of the appraisal policy"
            f" | checks: quote ok, clock ok, event_log ok, baseline FAILED, ima ok, files ok{BASELINE}{NO_PERMIT}"
            " |  = help: Find out what changed; restore it or approve a new baseline, then reboot and enroll again.\n"
        )
        assert "purpose enroll" in await told(gate, executor.id)
    assert await told(gate, await denied(executor)) == (
        "error[dispatch.executor_unreachable]: The executor is not connected, so it can't be asked for proof\n"
        f"  --> record N | | when: TIME | {FOR} | found: executor EXECUTOR is not connected"
        " | proof: the executor was not asked for any"
        " |  = help: Start the executor's agent, check its network, and dispatch again.\n"
    )


async def test_a_moved_file_is_recognized(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    path, content = next(iter(PROGRAMS.items()))
    executor.drift("/tmp/copy", content)
    assert f"note: a file of the same content is approved as {path}" in await told(gate, await denied(executor))


async def test_a_wrong_nonce_is_told(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    def replayed(challenge: ChallengeMessage, collect: Any) -> EvidenceMessage:
        stale = challenge.model_copy(update={"nonce": "00" * 32})
        return EvidenceMessage(challenge=challenge.challenge, quote=wire(channel.collect(stale)))

    channel.answer = replayed
    text = await told(gate, await denied(executor))
    assert text.startswith("error[quote.nonce_mismatch]: ")
    assert "rule: class.default.pcrs, line L of the appraisal policy" in text
    assert "quote FAILED, clock not checked, event_log not checked" in text


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        ('@id("never") forbid (principal, action, resource);', "decided by never"),
        ('@id("other") permit (principal == Orchestrator::"x", action, resource);', "no permit matches"),
        (
            '@id("ok") permit (principal, action, resource) when { context.trusted };'
            '@id("big") forbid (principal, action, resource) when { context.attempt * 9223372036854775807 > 1 };',
            "it failed while deciding, and an error is a denial",
        ),
    ],
    ids=["forbidden", "no_permit", "error"],
)
async def test_J5_what_the_dispatch_policy_said_is_told(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, policy: str, says: str
) -> None:
    async with await gate.client("operator") as operator:
        now = gate.gateway.policies.current.documents()
        documents = {role: data.decode() for role, data in now.items()} | {"dispatch": policy}
        await operator.activate_policies(documents)
    text = await told(gate, await denied(executor, attempt=3))
    assert re.match(r"error\[policy\.(denied|error)\]", text), text
    assert says in text
    assert "files ok" in text


async def test_a_decision_comes_out_the_same_offline(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """By record, by authorization, by executor, and the whole bundle."""
    grant = await executor.authorize(job())
    await channel.activate(grant)
    await channel.started(grant)
    await channel.renew()
    await channel.ended(grant)
    executor.drift()
    no = await denied(executor)
    async with await gate.client("auditor") as auditor:
        for name in (
            grant.authorization,
            executor.id,
            no,
            str(
                gate.gateway.database.reading.execute(
                    "SELECT seq FROM records WHERE type = 'policy.evaluated' LIMIT 1"
                ).fetchone()[0]
            ),
        ):
            again, differing = redecide(parse_decision_file(await auditor.decision(name)))
            assert differing == (), name
            assert again.permitted is (name not in {no, executor.id})
        bundle = redecide_file(await auditor.bundle(grant.authorization))
        refused = redecide_file(await auditor.bundle(no))
    assert [one.permitted for one in bundle] == [True] * 3
    assert [one.permitted for one in refused] == [False]
    assert not any(one.differing for one in [*bundle, *refused])


Bend = Callable[[dict[str, Any]], object]
STRANGER = base64.b64encode(b"stranger").decode()
MALFORMED: dict[str, Bend] = {
    "another format": lambda file: file.update(format="ztrooted-decision/2"),
    "a member more": lambda file: file.update(more=1),
    "a member less": lambda file: file.pop("outcome"),
    "an index below zero": lambda file: file.update(index=-1),
    "an index that is true": lambda file: file.update(index=True),
    "a blob under another digest": lambda file: file["blobs"].update({"0" * 64: STRANGER}),
    "a blob that is no base64": lambda file: file["blobs"].update({"0" * 64: "?"}),
    "base64 with bits to spare": lambda file: file["blobs"].update({sha256(b"a"): "YR=="}),
    "blobs in a list": lambda file: file.update(blobs=[]),
    "a record that is none": lambda file: file.update(record="{}"),
    "a record that is no text": lambda file: file.update(record={}),
    "a record that is no decision": lambda file: file.update(record=file["asked"]),
    "a record in another spelling": lambda file: file.update(record=file["record"] + " "),
}
INCOMPLETE: dict[str, Bend] = {
    "no evidence": lambda file: file.update(blobs={}),
    "no enrollment": lambda file: file.update(enrolled=None),
    "no policies": lambda file: file.update(activated=None),
    "no approval": lambda file: file.update(approved=None),
    "another baseline's approval": lambda file: file.update(
        approved=file["approved"].replace(_baseline(file), "0" * 64)
    ),
    "no decision": lambda file: file.update(record=None),
}


def _baseline(file: dict[str, Any]) -> str:
    found: str = json.loads(file["approved"])["body"]["baseline"]
    return found


async def test_a_bent_file_is_no_decision(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    """Each bend is refused for itself: as malformed when it is read, or for what is missing when it is decided again."""
    grant = await executor.authorize(job())
    token = await gate.token("auditor")
    good = (await gate.call("GET", f"/v1/decisions/{grant.authorization}", token=token)).data
    _, differing = redecide(parse_decision_file(good))
    assert differing == ()
    for bends, reasons in (
        (MALFORMED, {"bundle.malformed", "canonical.malformed", "lineage.record_malformed"}),
        (INCOMPLETE, {"bundle.incomplete"}),
    ):
        for name, bend in bends.items():
            file = json.loads(good)
            bend(file)
            with pytest.raises(ProofError) as refused:
                redecide(parse_decision_file(canonical.encode(file)))
            assert refused.value.reason in reasons, (name, refused.value.detail)
    spaced = good.replace(b'"format":', b'"format": ')
    with pytest.raises(ProofError):
        parse_decision_file(spaced)


async def test_decisions_are_nobody_elses_business(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize(job())
    assert "permitted" in await told(gate, grant.authorization, "orchestrator")
    async with await gate.client("orchestrator", "somebody-else") as stranger:
        for name in (grant.authorization, executor.id, "1", "no-such", "f" * 32):
            with pytest.raises(Refused) as refused:
                await stranger.decision(name)
            assert refused.value.reason is GateReason.DECISION_UNKNOWN
            assert refused.value.detail == f"there is no decision {name!r}, or it is not yours"


# --- trials ------------------------------------------------------------------------------------------------------
async def test_a_trial_says_what_would_change_and_changes_nothing(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize(job("a"))
    await channel.activate(grant)
    await channel.started(grant)
    await channel.renew()
    await executor.authorize(job("b"))
    texts = {role: data.decode() for role, data in gate.gateway.policies.current.documents().items()}
    async with await gate.client("operator") as operator:
        before = list(gate.gateway.database.reading.iterdump())

        async def tried(**changed: str) -> Any:
            return await operator.try_policies({**texts, **changed}, last=50)

        same = await tried()
        assert (same.replayed, same.changed, same.skipped) == (4, [], {})
        only_b = await tried(
            dispatch='@id("b") permit (principal, action, resource) when { context.trusted && context.step == "b" };'
        )
        assert (only_b.replayed, len(only_b.changed)) == (4, 3)
        assert {(one.authorization, one.was, one.would_be) for one in only_b.changed} == {
            (grant.authorization, "permit", "deny")
        }
        assert {one.reason for one in only_b.changed} == {"policy.denied"}
        stricter = texts["appraisal"].replace("secure_boot = true", f'secure_boot = true\nfiles = ["{"00" * 32}"]')
        found = await tried(appraisal=stricter)
        assert {one.reason for one in found.changed} == {"boot.file"}
        other = re.sub(r"(?m)^(pcrs|pinned) = .*", r"\1 = [0, 5, 7]", texts["appraisal"])
        other = other[: other.index("[class.default.ima]")]
        skipped = await tried(appraisal=other)
        assert skipped.replayed == 0
        assert sum(skipped.skipped.values()) == 4
        last = await operator.try_policies({**texts, "dispatch": "forbid (principal, action, resource);"}, last=1)
        assert (last.replayed, len(last.changed)) == (1, 1)
        assert list(gate.gateway.database.reading.iterdump()) == before
