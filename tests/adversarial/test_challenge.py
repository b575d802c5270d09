"""Nonces and what a quote is bound to: used once, by whom it was for, for what it was for, in time."""

import asyncio
import base64
import hashlib
import inspect
import secrets
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import structlog

import gateway.enrollments
import gateway.rounds
from gateway.channel import Session
from gateway.rounds import Round
from tests.support.executor import Channel, ScriptedExecutor, job, wire
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import limits
from ztrooted.channel_messages import ChallengeMessage, EvidenceMessage
from ztrooted.client import Refused
from ztrooted.evidence import Evidence, Purpose, live_set_digest, qualifying_data
from ztrooted.models import Job
from ztrooted.reasons import GateReason


def session_of(gate: GatewayInProcess, executor: ScriptedExecutor) -> Session:
    session = gate.gateway.channels.get(executor.id)
    assert session is not None
    return session


async def prove(gate: GatewayInProcess, executor: ScriptedExecutor, *bindings: bytes) -> Round:
    """One round at run time."""
    session = session_of(gate, executor)
    async with session.proving:
        return await gate.gateway.rounds.prove(session, Purpose.RUNTIME, bindings)


def logged_codes(entries: list[Any]) -> list[str]:
    return [str(entry["code"]) for entry in entries if entry["event"] == "evidence for no open challenge"]


# --- D1, D11 -----------------------------------------------------------------------------------------------------
async def test_D1_nonces_never_repeat_and_come_from_the_system(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    await executor.enroll()
    async with executor.connect() as channel:
        channel.answer = lambda challenge, collect: EvidenceMessage(challenge=challenge.challenge, quote=refusable)
        refusable = wire(channel.executor.collector.collect(bytes(32), {"sha256": [0]}, 0))
        for _ in range(300):
            await prove(gate, executor)
        nonces = [bytes.fromhex(one.nonce) for one in channel.challenges]
        ids = {one.challenge for one in channel.challenges}
    assert len(set(nonces)) == len(ids) == len(nonces) == 300
    assert {len(nonce) for nonce in nonces} == {32}
    ones = sum(byte.bit_count() for nonce in nonces for byte in nonce)
    assert abs(ones - 300 * 128) < 6 * (300 * 256 / 4) ** 0.5, "six sigma"
    for module in (gateway.rounds, gateway.enrollments):
        source = inspect.getsource(module)
        assert "secrets.token_bytes(limits.NONCE)" in source
        assert "import random" not in source


async def test_D1_D11_no_nonce_depends_on_random_or_time(
    gate: GatewayInProcess, executor: ScriptedExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the clock stopped and ``random`` seeded, two rounds still ask for different things."""
    import random  # noqa: PLC0415

    await executor.enroll()
    async with executor.connect() as channel:
        now_ms = gate.clock.now_ms()
        monkeypatch.setattr(gate.clock, "now_ms", lambda: now_ms)
        for _ in range(2):
            random.seed(1)
            await prove(gate, executor)
        first, second = channel.challenges
        assert (first.nonce, first.challenge) != (second.nonce, second.challenge)
        assert len({first.nonce, second.nonce, first.challenge, second.challenge}) == 4


# --- D2, D5, D9: used, late, overtaken ---------------------------------------------------------------------------
async def test_D2_an_answer_is_taken_once(gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel) -> None:
    answers: list[EvidenceMessage] = []

    def twice(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> EvidenceMessage:
        answers.append(EvidenceMessage(challenge=challenge.challenge, quote=wire(collect())))
        return answers[-1]

    channel.answer = twice
    assert (await prove(gate, executor)).trusted
    before = gate.records()
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            await channel.send(answers[0])
        assert (await prove(gate, executor)).trusted
    assert logged_codes(logged) == ["challenge.used"] * 3
    assert gate.records() == before


async def test_D2_an_answer_that_comes_twice_at_once_is_taken_once(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    async def at_once(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> EvidenceMessage:
        answer = EvidenceMessage(challenge=challenge.challenge, quote=wire(collect()))
        for _ in range(5):
            await channel.send(answer)
        return answer

    channel.answer = at_once  # type: ignore[assignment]
    with structlog.testing.capture_logs() as logged:
        for _ in range(3):
            assert (await prove(gate, executor)).trusted
    assert set(logged_codes(logged)) == {"challenge.used"}
    assert not channel.socket.closed


async def test_D2_a_quote_that_was_accepted_is_worth_nothing_for_the_next_challenge(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    first: list[Evidence] = []

    def again(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> EvidenceMessage:
        first.append(collect())
        return EvidenceMessage(challenge=challenge.challenge, quote=wire(first[0]))

    channel.answer = again
    assert (await prove(gate, executor)).trusted
    replayed = await prove(gate, executor)
    assert not replayed.trusted
    assert replayed.appraisal.verdict.reason == "quote.nonce_mismatch"


async def test_D5_a_late_answer_is_no_answer(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    late: list[EvidenceMessage] = []

    def slowly(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> None:
        late.append(EvidenceMessage(challenge=challenge.challenge, quote=wire(collect())))

    channel.answer = slowly
    classes = gate.gateway.policies.current.appraisal.classes
    classes["default"] = classes["default"].model_copy(update={"response_deadline_s": 0.1})
    done = await prove(gate, executor)
    assert not done.trusted
    assert done.appraisal.verdict.reason == "attestation.overdue"
    channel.answer = channel.honestly
    with structlog.testing.capture_logs() as logged:
        await channel.send(late[0])
        await prove(gate, executor)
    assert logged_codes(logged) == ["challenge.expired"]


async def test_D9_of_two_challenges_each_is_answered_by_its_own_quote(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """A dispatch and a round at the same time: one waits for the other, and neither answer serves for both."""
    seen: list[str] = []

    async def watch(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> EvidenceMessage:
        seen.append(f"asked {challenge.purpose}")
        await asyncio.sleep(0.05)
        seen.append(f"answered {challenge.purpose}")
        return EvidenceMessage(challenge=challenge.challenge, quote=wire(collect()))

    channel.answer = watch  # type: ignore[assignment]
    await asyncio.gather(executor.authorize(), channel.renew(), executor.authorize(job("other")))
    assert [line.split()[0] for line in seen] == ["asked", "answered"] * 3
    # An answer under the id of the one before is not taken for the one that is open.
    previous = channel.challenges[-1].challenge

    def misfiled(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> EvidenceMessage:
        return EvidenceMessage(challenge=previous, quote=wire(collect()))

    channel.answer = misfiled
    done = await prove(gate, executor)
    assert done.appraisal.verdict.reason == "attestation.overdue"


# --- D3, D4, D6, D7, D10: whose, what for, and exactly what ------------------------------------------------------
async def test_D3_a_machine_can_not_answer_for_another(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, executors: Callable[[], ScriptedExecutor]
) -> None:
    other = executors()
    await other.enroll()
    async with other.connect() as theirs:

        async def let_them(challenge: ChallengeMessage, _collect: Callable[[], Evidence]) -> None:
            # The other machine sends its own good quote under our challenge, over its own channel.
            await theirs.send(EvidenceMessage(challenge=challenge.challenge, quote=wire(theirs.collect(challenge))))

        channel.answer = let_them  # type: ignore[assignment]
        with structlog.testing.capture_logs() as logged:
            done = await prove(gate, executor)
        assert done.appraisal.verdict.reason == "attestation.overdue"
        assert logged_codes(logged) == ["challenge.unknown"]

        def borrow(challenge: ChallengeMessage, _collect: Callable[[], Evidence]) -> EvidenceMessage:
            return EvidenceMessage(challenge=challenge.challenge, quote=wire(theirs.collect(challenge)))

        channel.answer = borrow
        done = await prove(gate, executor)
        assert str(done.appraisal.verdict.reason).startswith("quote.")
        # Who was borrowed from is as trusted as before.
        assert (await prove(gate, other)).trusted


Made = Callable[[ChallengeMessage, bytes, list[bytes]], bytes]
WRONG: dict[str, Made] = {
    "nonce_alone": lambda _c, nonce, _b: nonce,
    "empty": lambda _c, _n, _b: b"",
    "ascii_hex": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b).hex().encode(),
    "base64": lambda c, nonce, b: base64.b64encode(qualifying_data(c.purpose, nonce, *b)),
    "prefix": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b)[:16],
    "all_but_one": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b)[:-1],
    "extended": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b) + b"\0",
    "doubled": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b) * 2,
    "zeros": lambda _c, _n, _b: bytes(32),
    "reversed": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b)[::-1],
    "hash_without_domain": lambda c, nonce, b: hashlib.sha256(c.purpose.value.encode() + nonce + b"".join(b)).digest(),
    "hash_of_hex_nonce": lambda c, nonce, b: qualifying_data(c.purpose, nonce.hex().encode(), *b),
    "no_bindings": lambda c, nonce, _b: qualifying_data(c.purpose, nonce),
    "bindings_joined": lambda c, nonce, b: qualifying_data(c.purpose, nonce, b"".join(b), b""),
    "one_more_binding": lambda c, nonce, b: qualifying_data(c.purpose, nonce, *b, b""),
    "other_nonce": lambda c, _n, b: qualifying_data(c.purpose, secrets.token_bytes(32), *b),
    "other_live_set": lambda c, nonce, _b: qualifying_data(c.purpose, nonce, live_set_digest(frozenset({"x"}))),
    "for_enroll": lambda _c, nonce, b: qualifying_data(Purpose.ENROLL, nonce, *b),
    "for_dispatch": lambda _c, nonce, b: qualifying_data(Purpose.DISPATCH, nonce, *b),
    "for_start": lambda _c, nonce, b: qualifying_data(Purpose.START, nonce, *b),
}


def lying(channel: Channel, made: Made) -> Callable[..., EvidenceMessage]:
    """Answer with a quote over something else than was asked for."""

    def answer(challenge: ChallengeMessage, _collect: Callable[[], Evidence]) -> EvidenceMessage:
        bindings = [bytes.fromhex(binding) for binding in challenge.bindings]
        data = made(challenge, bytes.fromhex(challenge.nonce), bindings)
        evidence = channel.executor.collector.collect(data, challenge.selection, challenge.ima_offset)
        return EvidenceMessage(challenge=challenge.challenge, quote=wire(evidence))

    return answer


@pytest.mark.parametrize("wrong", WRONG)
async def test_D4_D6_D7_D10_a_quote_over_anything_but_what_was_asked_is_refused(
    wrong: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """At run time, with a job that is live; it is revoked by that, and the reason is in the lineage."""
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    channel.answer = lying(channel, WRONG[wrong])
    await channel.renew()
    assert executor.state(grant.authorization) == "revoked"
    assert gate.records("attestation.failed")[-1]["body"]["verdict"]["reason"] == "quote.nonce_mismatch"
    assert gate.records("authorization.revoked")[-1]["body"]["reason"] == "quote.nonce_mismatch"


@pytest.mark.parametrize("wrong", ["nonce_alone", "no_bindings", "for_enroll", "for_start", "other_live_set"])
async def test_D4_D10_a_dispatch_quote_is_for_this_job_and_nothing_else(
    wrong: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    channel.answer = lying(channel, WRONG[wrong])
    with pytest.raises(Refused) as refused:
        await executor.authorize()
    assert refused.value.reason == "quote.nonce_mismatch"
    assert gate.records("authorization.denied")[-1]["body"]["reason"] == "quote.nonce_mismatch"
    assert gate.records("authorization.issued") == []


async def test_D10_one_changed_field_of_a_job_needs_another_quote(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Somebody in between swaps the job: the quote was made for the one that the executor saw named."""
    honest = job()
    changed = {
        "workflow": "other",
        "run": "2",
        "step": "deploy",
        "attempt": 2,
        "argv": ["/bin/false"],
        "env": "0" * 64,
        "cwd": "/tmp",
        "files": {"/bin/true": "0" * 64},
        "user": "0:0",
        "memory": 1 << 30,
        "pids": 10,
        "cpu": 50,
    }
    assert set(changed) == set(Job.model_fields)
    for name, value in changed.items():
        other = honest.model_copy(update={name: value})
        assert other.digest() != honest.digest()
        channel.answer = lying(
            channel, lambda c, nonce, _b: qualifying_data(c.purpose, nonce, bytes.fromhex(honest.digest()))
        )
        with pytest.raises(Refused) as refused:
            await executor.authorize(other)
        assert refused.value.reason == "quote.nonce_mismatch", name


async def test_D10_the_start_quote_is_for_this_authorization(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Two authorizations of one job: a start quote for the first does not start the second."""
    first, second = await executor.authorize(), await executor.authorize()
    digest = bytes.fromhex(job().digest())
    channel.answer = lying(
        channel, lambda c, nonce, _b: qualifying_data(c.purpose, nonce, first.authorization.encode(), digest)
    )
    assert (await channel.refused(second)).reason == "quote.nonce_mismatch"
    assert executor.state(second.authorization) == "revoked"
    assert gate.records("authorization.activated") == []


# --- D8 ----------------------------------------------------------------------------------------------------------
async def test_D8_a_flood_of_enrollments_of_a_machine_does_not_disturb_it(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Anybody may know a machine's EK certificate, and begin enrollments in its name; nothing of it is touched."""
    request = executor.request()
    before = gate.records()
    flood = [gate.gateway.enrollments.begin(request, "192.0.2.1") for _ in range(limits.PENDING_OF_ADDRESS + 10)]
    outcomes = await asyncio.gather(*flood, return_exceptions=True)
    refusals = [one for one in outcomes if isinstance(one, BaseException)]
    assert len(refusals) == 10  # one address takes no more than its share
    elsewhere = [f"192.0.2.{number}" for number in range(2, 102) for _ in range(3)]
    flood = [gate.gateway.enrollments.begin(request, source) for source in elsewhere]
    refusals += [one for one in await asyncio.gather(*flood, return_exceptions=True) if isinstance(one, BaseException)]
    assert len(refusals) == 10 + 300 - (limits.PENDING_ENROLLMENTS - limits.PENDING_OF_ADDRESS)
    assert {getattr(one, "reason", None) for one in refusals} == {GateReason.SERVICE_NOT_READY}
    assert gate.records() == before
    assert (await prove(gate, executor)).trusted
    assert (await executor.authorize()).artifact
    await gate.pass_time(61)  # and a minute later anybody can enroll again
    await executor.enroll()


async def test_J14_garbage_instead_of_evidence_is_a_verdict_and_ends_only_its_own_channel(
    gate: GatewayInProcess, executors: Callable[[], ScriptedExecutor]
) -> None:
    executor, other = executors(), executors()
    await executor.enroll()
    await other.enroll()
    async with executor.connect():
        await executor.approve()
    async with other.connect():
        for garbage in (
            "{",
            '{"type":"evidence"}',
            b"\x00",
            "[" * 10000,
            '{"type":"evidence","challenge":"x","quote":{}}',
        ):
            async with executor.connect() as mine:
                mine.answer = lambda _challenge, _collect, said=garbage: said  # type: ignore[misc]
                done = await prove(gate, executor)
                assert done.appraisal.verdict.reason == "attestation.overdue"
                await mine.closed()
        assert (await prove(gate, other)).trusted
    assert not gate.gateway.failed


NAMES = {
    "long": "/tmp/" + "x" * 250,
    "longest": "/tmp/" + "/".join(["y" * 200] * 19),
    "escapes": "/tmp/\x1b[2J\x07\x7f",
    "separators": "/tmp/\u2028\u2029\u0085",
    "not_utf8": "/tmp/\udcff\udcfe",
    "braces": '/tmp/{"a":1}%s%n',
    "quotes": "/tmp/'\"\\",
}


@pytest.mark.parametrize("name", NAMES)
async def test_E14_drift_is_recorded_and_shown_whatever_the_file_is_called(
    name: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """The name of what drifted comes from the machine. It must not keep the failure from being written down or read."""
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    executor.drift(NAMES[name])
    await channel.renew()
    assert executor.state(grant.authorization) == "revoked"
    reason = gate.records("attestation.failed")[-1]["body"]["verdict"]["reason"]
    assert reason == ("ima.malformed" if name == "escapes" else "ima.not_allowed")
    async with await gate.client("operator") as operator:
        (view,) = await operator.executors()
    assert (view.trusted, view.reason) == (False, reason)
    assert view.detail.isprintable()
    assert len(view.detail) < 4096
    with pytest.raises(Refused) as refused:
        await executor.authorize()
    assert refused.value.reason == reason


async def test_E14_J11_what_drifted_stays_drifted(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Silence about the file does not help: the quote covers it, and every later round finds it again."""
    executor.drift()
    await channel.renew()
    for _ in range(2):
        with pytest.raises(Refused) as refused:
            await executor.authorize()
        assert refused.value.reason == "ima.not_allowed"

    def silent(challenge: ChallengeMessage, collect: Callable[[], Evidence]) -> EvidenceMessage:
        evidence = collect()
        lines = evidence.ima.split(b"\n")[:-1]
        kept = b"".join(line + b"\n" for line in lines if b"intruder" not in line)
        return EvidenceMessage(challenge=challenge.challenge, quote=wire(replace(evidence, ima=kept)))

    channel.answer = silent
    with pytest.raises(Refused) as refused:
        await executor.authorize()
    assert refused.value.reason == "ima.replay_mismatch"


async def test_G1_G10_L16_a_reset_behind_the_session_is_drift_even_with_the_same_pcrs(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    executor.reboot()
    await channel.renew()
    assert executor.state(grant.authorization) == "revoked"
    assert gate.records("attestation.failed")[-1]["body"]["verdict"]["reason"] == "quote.reset_detected"
    await executor.enroll()  # an honest machine comes back by enrolling
    async with executor.connect():
        assert (await executor.authorize()).artifact


async def test_P5_drift_seen_by_any_round_revokes_everything_that_is_live(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """An artifact that was handed out and not used yet, a job that runs, and the dispatch that found the drift."""
    unused, running = await executor.authorize(job("unused")), await executor.authorize(job("running"))
    await channel.activate(running)
    await channel.started(running)
    executor.drift()
    with pytest.raises(Refused):
        await executor.authorize(job("third"))
    assert [executor.state(one.authorization) for one in (unused, running)] == ["revoked", "revoked"]
    assert (await channel.refused(unused)).reason in {"artifact.used", "ima.not_allowed"}
