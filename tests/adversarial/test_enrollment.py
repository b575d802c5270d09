"""Enrollment: an identity follows from a TPM's endorsement key, and can be neither claimed, shared, kept nor taken away."""

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.executor import Channel, Proof, ScriptedExecutor, job, wire
from tests.support.gateway_in_process import GatewayInProcess
from tpm.errors import DeviceError
from tpm.public import parse_public
from ztrooted import limits
from ztrooted.channel_messages import RefusedMessage
from ztrooted.client import Refused
from ztrooted.enrollment import activation_mac, transcript
from ztrooted.evidence import Purpose, qualifying_data
from ztrooted.keys import executor_id, spki
from ztrooted.models import EnrollmentChallenge
from ztrooted.reasons import GateReason

Make = Callable[..., ScriptedExecutor]


def row(gate: GatewayInProcess, executor: str) -> tuple[Any, ...] | None:
    """All that the gateway holds of one executor."""
    found = gate.gateway.database.reading.execute("SELECT * FROM executors WHERE id = ?", (executor,)).fetchone()
    return None if found is None else tuple(found)


def enrolled(gate: GatewayInProcess) -> int:
    return int(gate.gateway.database.reading.execute("SELECT COUNT(*) FROM executors").fetchone()[0])


async def refused(executor: ScriptedExecutor, challenge: EnrollmentChallenge, proof: Proof) -> Refused:
    with pytest.raises(Refused) as refusal:
        await executor.finish(challenge, proof)
    return refusal.value


# --- B: the credential -------------------------------------------------------------------------------------------
async def test_B6_the_name_of_the_key_is_computed_and_never_taken_from_the_machine(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """A request has no place for a Name; and the credential opens for the Name of the key that was sent only."""
    body = json.loads(executor.request().model_dump_json()) | {"ak_name": "000b" + "00" * 32}
    answer = await gate.call("POST", "/v1/enrollments", body=json.dumps(body).encode())
    assert (answer.status, answer.code) == (400, "request.malformed")
    other = executor.device.attestation_key("other")
    challenge = await executor.begin(executor.request(ak_public=other))
    with pytest.raises(DeviceError):  # the TPM compares the Name in the credential with that of its key "ak"
        executor.device.activate_credential(challenge.credential, challenge.encrypted_secret)
    assert executor.device.activate_credential(challenge.credential, challenge.encrypted_secret, label="other")


async def test_B10_a_credential_is_answered_once(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    assert (await executor.finish(challenge, proof)).executor == challenge.executor
    before = gate.records()
    again = await refused(executor, challenge, proof)
    assert again.reason is GateReason.ENROLL_CHALLENGE_USED
    assert gate.records() == before


async def test_B10_a_wrong_answer_burns_the_credential(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    wrong = await refused(executor, challenge, replace(proof, mac="0" * 64))
    assert wrong.reason is GateReason.ENROLL_ACTIVATION_FAILED
    right = await refused(executor, challenge, proof)
    assert right.reason is GateReason.ENROLL_CHALLENGE_USED
    assert enrolled(gate) == 0
    assert [one["body"]["reason"] for one in gate.records("executor.refused")] == ["enroll.activation_failed"]


async def test_B10_an_answer_after_the_deadline_is_too_late(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    await gate.pass_time(61)
    late = await gate.call(
        "POST",
        f"/v1/enrollments/{challenge.enrollment}/activation",
        body=proof.request().model_dump_json().encode(),
    )
    assert (late.status, late.code) == (410, "enroll.challenge_expired")
    assert enrolled(gate) == 0


async def test_B11_a_refusal_tells_nothing_of_the_secret(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    challenge = await executor.begin()
    pending = gate.gateway.enrollments._pending[challenge.enrollment]
    expected = activation_mac(pending.secret, pending.transcript()).hex()
    body = replace(executor.prove(challenge), mac="0" * 64).request().model_dump_json().encode()
    with structlog.testing.capture_logs() as logged:
        answer = await gate.call("POST", f"/v1/enrollments/{challenge.enrollment}/activation", body=body)
    assert (answer.status, answer.code) == (403, "enroll.activation_failed")
    told = answer.data.decode() + repr(logged) + repr(gate.records())
    for secret in (expected, expected[:16], pending.secret.hex(), pending.secret.hex()[:16], repr(pending.secret)):
        assert secret not in told


@pytest.mark.parametrize(
    "mac",
    [None, 1, True, [], {}, "", "0" * 63, "0" * 65, "0" * 63 + "\u00e9", "G" * 64, "A" * 64, "0" * 63 + "\n", " " * 64],
)
async def test_B12_a_mac_of_another_kind_is_malformed_and_never_a_defect(
    mac: Any, gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    challenge = await executor.begin()
    body = json.loads(executor.prove(challenge).request().model_dump_json()) | {"mac": mac}
    answer = await gate.call(
        "POST", f"/v1/enrollments/{challenge.enrollment}/activation", body=json.dumps(body).encode()
    )
    assert (answer.status, answer.code) == (400, "request.malformed")
    # What can't be read was no answer, so the honest one still counts.
    assert (await executor.finish(challenge, executor.prove(challenge))).executor


async def test_B13_secrets_and_nonces_are_long_distinct_and_of_the_system(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    import random  # noqa: PLC0415

    request = executor.request()
    seen: set[bytes] = set()
    for number in range(200):
        random.seed(1)
        challenge = await gate.gateway.enrollments.begin(request, f"192.0.2.{number // limits.PENDING_OF_ADDRESS}")
        pending = gate.gateway.enrollments._pending[challenge.enrollment]
        assert len(pending.secret) == 32
        assert len(bytes.fromhex(challenge.nonce)) == 32
        assert len(challenge.enrollment) >= 22  # 128 bits in base64url
        seen |= {pending.secret, pending.nonce, pending.id.encode(), challenge.credential, challenge.encrypted_secret}
    assert len(seen) == 5 * 200


async def test_B14_nothing_may_change_between_the_two_halves(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """Each part of the transcript: what the machine heard and what the gateway heard must be the same."""
    asked = executor.request()
    other_key = spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    for changes in (
        {"session_key": other_key},
        {"ak_public": executor.device.attestation_key("other")},
        {"ek_public": asked.ak_public},
    ):
        challenge = await executor.begin(asked)
        secret = executor.device.activate_credential(challenge.credential, challenge.encrypted_secret)
        nonce = bytes.fromhex(challenge.nonce)
        mac = activation_mac(secret, transcript(challenge.enrollment, nonce, executor.request(**changes))).hex()
        proof = executor_quote(executor, challenge, mac)
        assert (await refused(executor, challenge, proof)).reason is GateReason.ENROLL_ACTIVATION_FAILED, changes
    assert enrolled(gate) == 0


def executor_quote(executor: ScriptedExecutor, challenge: EnrollmentChallenge, mac: str) -> Proof:
    """An honest quote beside any MAC."""
    data = qualifying_data(Purpose.ENROLL, bytes.fromhex(challenge.nonce), executor.request().session_key)
    return Proof(mac, wire(executor.collector.collect(data, challenge.selection, 0), whole_log=True))


async def test_B14_of_many_answers_at_the_same_time_one_counts(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    outcomes = await asyncio.gather(*(executor.finish(challenge, proof) for _ in range(20)), return_exceptions=True)
    refusals = [one for one in outcomes if isinstance(one, Refused)]
    assert len(refusals) == 19
    assert {one.reason for one in refusals} == {GateReason.ENROLL_CHALLENGE_USED}
    assert len(gate.records("executor.enrolled")) == 1


QUOTES: dict[str, Callable[[bytes, bytes], bytes]] = {
    "for_runtime": lambda nonce, key: qualifying_data(Purpose.RUNTIME, nonce, key),
    "without_session_key": lambda nonce, _key: qualifying_data(Purpose.ENROLL, nonce),
    "nonce_alone": lambda nonce, _key: nonce,
    "other_nonce": lambda nonce, key: qualifying_data(Purpose.ENROLL, bytes(32), key),
    "other_session_key": lambda nonce, _key: qualifying_data(
        Purpose.ENROLL, nonce, spki(ec.generate_private_key(ec.SECP256R1()).public_key())
    ),
}


@pytest.mark.parametrize("wrong", QUOTES)
async def test_D10_the_session_key_is_the_one_that_the_tpm_quoted(
    wrong: str, gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    challenge = await executor.begin()
    proof = executor.prove(challenge)
    data = QUOTES[wrong](bytes.fromhex(challenge.nonce), executor.request().session_key)
    quote = wire(executor.collector.collect(data, challenge.selection, 0), whole_log=True)
    refusal = await refused(executor, challenge, replace(proof, quote=quote))
    assert refusal.reason == "quote.nonce_mismatch"
    assert enrolled(gate) == 0


async def test_J8_an_enrollment_needs_the_whole_evidence(gate: GatewayInProcess, executor: ScriptedExecutor) -> None:
    """No log, another log, no list, part of a list: the machine does not exist before all of it explains its quote."""
    for changes, reason in (
        ({"event_log": None}, "evidence.missing"),
        ({"event_log": b""}, "evidence.missing"),
        ({"event_log_digest": "0" * 64}, "evidence.missing"),
        ({"ima": b""}, "ima.empty"),
        ({"ima_offset": 1}, "ima.offset"),
    ):
        challenge = await executor.begin()
        proof = executor.prove(challenge)
        quote = proof.quote.model_copy(update=changes)
        assert (await refused(executor, challenge, replace(proof, quote=quote))).reason == reason, changes
    assert enrolled(gate) == 0
    assert gate.gateway.not_ready() == []


# --- C: identity -------------------------------------------------------------------------------------------------
async def test_C1_an_id_follows_from_the_endorsement_key_and_can_not_be_asked_for(
    gate: GatewayInProcess, executor: ScriptedExecutor, executors: Make
) -> None:
    victim = await executor.enroll()
    before = row(gate, victim.executor)
    other = executors()
    body = json.loads(other.request().model_dump_json()) | {"executor": victim.executor}
    answer = await gate.call("POST", "/v1/enrollments", body=json.dumps(body).encode())
    assert (answer.status, answer.code) == (400, "request.malformed")
    theirs = await other.enroll()
    assert theirs.executor != victim.executor
    for machine, found in ((executor, victim), (other, theirs)):
        ek = parse_public(machine.device.endorsement_key().public)
        assert found.executor == executor_id(ek.raw)
    assert row(gate, victim.executor) == before


async def test_C1_anothers_endorsement_certificate_is_no_way_in(
    gate: GatewayInProcess, executor: ScriptedExecutor, executors: Make
) -> None:
    """Certificates are public. Whoever shows one must open a credential that only the TPM behind it opens."""
    victim = await executor.enroll()
    before = row(gate, victim.executor)
    thief = executors()
    stolen = executor.request(ak_public=thief.device.attestation_key(), session_key=spki(thief.key.public_key()))
    challenge = await thief.begin(stolen)
    assert challenge.executor == victim.executor
    with pytest.raises(DeviceError):
        thief.device.activate_credential(challenge.credential, challenge.encrypted_secret)
    guess = executor_quote(thief, challenge, "0" * 64)
    assert (await refused(thief, challenge, guess)).reason is GateReason.ENROLL_ACTIVATION_FAILED
    assert row(gate, victim.executor) == before


async def test_C2_of_enrollments_at_the_same_time_the_last_session_is_the_only_one(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """One machine, ten sessions at once: one executor, and only one session key that still opens a channel."""
    sessions = []
    for _ in range(10):
        executor.key = ec.generate_private_key(ec.SECP256R1())
        challenge = await executor.begin()
        sessions.append((executor.key, challenge, executor.prove(challenge)))
    answers = await asyncio.gather(*(executor.finish(challenge, proof) for _, challenge, proof in sessions))
    assert len({one.executor for one in answers}) == 1
    assert enrolled(gate) == 1
    stored = gate.gateway.rounds.executor(answers[0].executor).session_key
    assert [spki(key.public_key()) for key, _, _ in sessions].count(stored) == 1


async def test_C3_one_endorsement_key_is_one_executor(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """A second attestation key supersedes the first, once it is proved; what ran under the first is revoked."""
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    old = executor.enrolled
    executor.key = ec.generate_private_key(ec.SECP256R1())
    asked = executor.request(ak_public=executor.device.attestation_key("second"))
    challenge = await executor.begin(asked)
    assert executor.state(grant.authorization) == "running", "nothing ends before the new key is proved"
    nonce = bytes.fromhex(challenge.nonce)
    secret = executor.device.activate_credential(challenge.credential, challenge.encrypted_secret, label="second")
    data = qualifying_data(Purpose.ENROLL, nonce, asked.session_key)
    honest = executor.collector.collect(data, challenge.selection, 0)
    quoted = executor.device.quote(data, challenge.selection, label="second")
    evidence = replace(honest, attest=quoted.attest, signature=quoted.signature, pcrs=quoted.pcrs)
    mac = activation_mac(secret, transcript(challenge.enrollment, nonce, asked)).hex()
    answer = await executor.finish(challenge, Proof(mac, wire(evidence, whole_log=True)))
    assert answer.executor == old.enrolled.executor
    assert enrolled(gate) == 1
    assert [one["body"]["executor"] for one in gate.records("executor.superseded")] == [answer.executor]
    assert executor.state(grant.authorization) == "revoked"
    assert (await channel.next(RefusedMessage)).authorization == grant.authorization
    await channel.closed()  # the channel of the old session is gone too
    with old.client_certificate() as certificate:
        assert (await gate.call("GET", "/v1/executor/channel", certificate=certificate)).status == 401


async def test_C5_a_failed_activation_leaves_the_machine_as_it_was(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    before = row(gate, executor.id)
    for _ in range(5):
        challenge = await executor.begin()
        proof = replace(executor.prove(challenge), mac="0" * 64)
        assert (await refused(executor, challenge, proof)).reason is GateReason.ENROLL_ACTIVATION_FAILED
    assert row(gate, executor.id) == before
    await channel.renew()
    assert executor.state(grant.authorization) == "running"


async def test_C7_a_half_finished_enrollment_is_no_executor(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge = await executor.begin()
    executor_name = challenge.executor

    async def authorize() -> object:
        from ztrooted.models import DispatchRequest  # noqa: PLC0415

        async with await gate.client("orchestrator") as orchestrator:
            with pytest.raises(Refused) as refusal:
                await orchestrator.authorize(DispatchRequest(executor=executor_name, job=job()))
        return refusal.value.reason

    assert await authorize() is GateReason.DISPATCH_EXECUTOR_UNKNOWN
    # A crash between verifying and storing leaves nothing either, whichever step it comes at.
    inner = gate.gateway.enrollments
    for step in ("_appraise", "session_certificate", "_admit"):
        challenge = await executor.begin()
        with monkeypatch.context() as patched:

            def crash(*_arguments: object) -> None:
                from ztrooted.errors import GateError  # noqa: PLC0415

                raise GateError(GateReason.DATABASE_UNAVAILABLE, "crash")

            patched.setattr(inner, step, crash)
            assert (await refused(executor, challenge, executor.prove(challenge))).reason is (
                GateReason.DATABASE_UNAVAILABLE
            )
        assert enrolled(gate) == 0
        assert await authorize() is GateReason.DISPATCH_EXECUTOR_UNKNOWN
    assert (await executor.enroll()).executor == executor_name


async def test_C8_the_endorsement_key_of_one_tpm_and_the_attestation_key_of_another(
    gate: GatewayInProcess, executor: ScriptedExecutor, executors: Make
) -> None:
    other = executors()
    mixed = executor.request(ak_public=other.device.attestation_key())
    challenge = await executor.begin(mixed)
    for machine in (executor, other):
        with pytest.raises(DeviceError):
            machine.device.activate_credential(challenge.credential, challenge.encrypted_secret)
    data = qualifying_data(Purpose.ENROLL, bytes.fromhex(challenge.nonce), mixed.session_key)
    quote = wire(other.collector.collect(data, challenge.selection, 0), whole_log=True)
    guess = activation_mac(bytes(32), transcript(challenge.enrollment, bytes.fromhex(challenge.nonce), mixed)).hex()
    assert (await refused(executor, challenge, Proof(guess, quote))).reason is GateReason.ENROLL_ACTIVATION_FAILED
    assert enrolled(gate) == 0


async def test_C9_a_cloned_tpm_is_one_executor_and_the_clone_that_falls_behind_is_drift(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, executors: Make
) -> None:
    """Same keys, same certificate: the newer session replaces the older, and quotes of both don't fit one clock."""
    clone = executors(clone=True)
    assert clone.request().ak_public == executor.request().ak_public
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    # Without a session of its own the clone can only speak through the channel of the first.
    clone.key, clone.session = executor.key, executor.session
    clone.tpm.power_cycle()
    clone.boot()
    channel.executor = clone
    await channel.renew()
    assert executor.state(grant.authorization) == "revoked"
    reason = gate.records("attestation.failed")[-1]["body"]["verdict"]["reason"]
    assert reason in {"quote.reset_detected", "quote.clock_rollback"}
    # With one it takes the first one's place, openly: there is one executor, one session, one channel.
    await clone.enroll()
    assert enrolled(gate) == 1
    await channel.closed()


async def test_C10_a_machine_with_another_tpm_is_another_machine(
    gate: GatewayInProcess, executor: ScriptedExecutor, executors: Make
) -> None:
    first = await executor.enroll()
    before = row(gate, first.executor)
    exchanged = await executors().enroll()
    assert exchanged.executor != first.executor
    assert row(gate, first.executor) == before
    assert enrolled(gate) == 2
