"""Attestation results over the API: in the dialect asked for, verifiable by others, and never better than the truth."""

import jwt
import pytest

from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import ear
from ztrooted.ar4si import AFFIRMING, CONTRAINDICATED, NONE, WARNING
from ztrooted.client import Refused
from ztrooted.ear import Appraised, EarResult, Profile
from ztrooted.reasons import GateReason


async def result(gate: GatewayInProcess, executor: ScriptedExecutor, **asked: str) -> EarResult:
    async with await gate.client("auditor") as auditor:
        token = await auditor.result(executor.id, **asked)
    return ear.verify(token, gate.gateway.signer.keys(), now_s=gate.clock.now_ms() // 1000)


def only(found: EarResult) -> Appraised:
    (part,) = found.appraised().values()
    return part


@pytest.mark.parametrize("profile", ear.WRITTEN)
async def test_a_good_machine_is_affirmed_as_far_as_a_software_tpm_goes(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, profile: Profile
) -> None:
    found = await result(gate, executor, profile=profile, nonce="abcdefgh")
    assert (found.profile, found.nonces) == (profile, ("abcdefgh",))
    part = only(found)
    assert part.status == WARNING  # the hardware claim: this TPM is software
    assert (part.vector["instance-identity"], part.vector["executables"]) == (2, 2)
    assert part.extensions[profile.claim("ztrooted_tier")] == "A2"
    assert part.extensions[profile.claim("ztrooted_virtual")] is True


async def test_a_machine_that_drifted_is_contraindicated(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    executor.drift()
    with pytest.raises(Refused):
        await executor.authorize(job())
    part = only(await result(gate, executor))
    assert (part.status, part.vector["executables"]) == (CONTRAINDICATED, 96)
    assert part.extensions["ear.ztrooted-reason"] == "ima.not_allowed"


async def test_our_own_fault_is_no_claim_about_the_machine(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    part = only(await result(gate, executor))
    assert part.extensions["ear.ztrooted-reason"] == "attestation.no_baseline"
    assert part.vector["configuration"] == -1
    assert 99 not in part.vector.values()
    assert part.status != AFFIRMING


async def test_a_verdict_past_its_deadline_affirms_nothing(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        assert only(await result(gate, executor)).status == WARNING
    await gate.pass_time(200)
    await gate.gateway.checkpointer.seal()
    part = only(await result(gate, executor))
    assert part.status == NONE
    assert set(part.vector.values()) == {0}
    assert part.extensions["ear.ztrooted-tier"] == "A0"
    assert part.extensions["ear.ztrooted-reason"] == "attestation.overdue"


async def test_other_tools_verify_it_with_the_published_keys(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    async with await gate.client("auditor") as auditor:
        token = await auditor.result(executor.id)
    keys = await gate.call("GET", "/v1/keys", token=await gate.token("auditor"))
    published = jwt.PyJWKSet.from_dict(keys.json)
    kid = jwt.get_unverified_header(token)["kid"]
    key = next(one for one in published.keys if one.key_id == kid)
    claims = jwt.decode(token, key, algorithms=["ES256"])
    assert claims["eat_profile"] == Profile.VERAISON
    assert executor.id in claims["submods"]


@pytest.mark.parametrize(
    ("accept", "profile"),
    [
        ("*/*", Profile.VERAISON),
        ("application/eat+jwt", Profile.VERAISON),
        ('application/eat+jwt; eat_profile="tag:ietf.org,2026:rats/ear#04"', Profile.IETF),
        ('text/html, application/eat+jwt; eat_profile="tag:github.com,2023:veraison/ear"', Profile.VERAISON),
        ("application/json", None),
        ('application/eat+jwt; eat_profile="tag:example.org,2026:x"', None),
        ('application/eat+jwt; eat_profile="tag:github.com,2024:confidential-containers/Trustee"', None),
    ],
)
async def test_the_dialect_is_the_one_that_was_asked_for_or_none(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, accept: str, profile: Profile | None
) -> None:
    path = f"/v1/executors/{executor.id}/result"
    answer = await gate.call("GET", path, token=await gate.token("auditor"), headers={"Accept": accept})
    if profile is None:
        assert (answer.status, answer.code) == (406, "ear.profile")
        assert all(str(one) in answer.json["detail"] for one in ear.WRITTEN)
        return
    assert answer.status == 200
    assert profile in answer.headers["Content-Type"]
    read = ear.verify(answer.data.decode(), gate.gateway.signer.keys(), now_s=gate.clock.now_ms() // 1000)
    assert read.profile is profile


@pytest.mark.parametrize("nonce", ["short", "x" * 89, "smörgåsbord"])
async def test_a_nonce_has_a_length(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, nonce: str
) -> None:
    with pytest.raises(Refused) as refused:
        await result(gate, executor, nonce=nonce)
    assert refused.value.reason is GateReason.REQUEST_MALFORMED
