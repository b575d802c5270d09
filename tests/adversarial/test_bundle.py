"""Bundles that lie. First with no key at all, then with every key that a gateway's operator has.

Whoever holds only genuine bundles can change nothing. An operator who signs anything can't make a verifier believe in a
quote that was not made, a verdict that the evidence does not give, or a permission that policy did not.
"""

import asyncio
import base64
import copy
import json
import marshal
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from gateway.rounds import Rounds
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.forger import Forger, Value
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import canonical
from ztrooted.anchors import Anchors
from ztrooted.bundle import parse_bundle
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose, live_set_digest
from ztrooted.models import Grant
from ztrooted.verify import Report, verify_bundle

FLIPS = int(os.environ.get("ZTROOTED_FLIPS", "2000"))
EVERY = bool(os.environ.get("ZTROOTED_EVERY"))  # scripts/tamper: every place instead of some


async def run_job(executor: ScriptedExecutor, channel: Channel, *, renewals: int = 2, step: str = "train") -> Grant:
    """A job from intent to its normal end."""
    grant = await executor.authorize(job(step))
    await channel.activate(grant)
    await channel.started(grant)
    for _ in range(renewals):
        await channel.renew()
    await channel.ended(grant)
    return grant


async def drift_away(executor: ScriptedExecutor, channel: Channel, *, step: str = "train") -> Grant:
    """A job that is stopped because the machine drifted."""
    grant = await executor.authorize(job(step))
    await channel.activate(grant)
    await channel.started(grant)
    await channel.renew()
    executor.drift()
    await channel.renew()
    await channel.ended(grant, "killed", exit_status=None, signal=9, kill_ms=3)
    return grant


async def export(gate: GatewayInProcess, grant: Grant) -> bytes:
    async with await gate.client("auditor") as auditor:
        return await auditor.bundle(grant.authorization)


def refused_by(report: Report, *checks: str) -> None:
    """It was refused, and by one of these checks."""
    assert not report.verified
    assert report.failed is not None
    assert report.failed.name in checks, report.failed


# --- what is genuine verifies ------------------------------------------------------------------------------------
async def test_a_genuine_bundle_verifies_and_so_does_one_signed_anew_unchanged(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    bundle = await export(gate, await run_job(executor, channel))
    report = verify_bundle(bundle, gate.anchors())
    assert report.failed is None
    assert report.verified
    forged = await Forger(bundle, gate).verify()
    assert forged.failed is None, "the bench itself must not be what is found"
    left_out = {"lineage_size"}  # the bench leaves no gaps between the records
    assert {k: v for k, v in forged.facts.items() if k not in left_out} == {
        k: v for k, v in report.facts.items() if k not in left_out
    }


async def test_bundles_of_every_end_verify(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    async with await gate.client("operator") as operator:
        revoked = await executor.authorize(job("revoked"))
        await channel.activate(revoked)
        await channel.started(revoked)
        await operator.revoke(revoked.authorization)
        await channel.ended(revoked, "killed", exit_status=None, signal=9)
        unused = await executor.authorize(job("unused"))
        await operator.revoke(unused.authorization)
        await channel.ended(unused, "not_started", exit_status=None)
    drifted = await drift_away(executor, channel)
    with pytest.raises(GateError) as denied:
        await executor.authorize(job("denied"))
    ends = {
        revoked.authorization: "operator.revoked",
        unused.authorization: "operator.revoked",
        drifted.authorization: "ima.not_allowed",
        denied.value.authorization: "ima.not_allowed",  # type: ignore[attr-defined]
    }
    for authorization, reason in ends.items():
        async with await gate.client("auditor") as auditor:
            report = verify_bundle(await auditor.bundle(authorization), gate.anchors())
        assert report.failed is None
        assert report.facts["reason"] == reason


async def test_each_question_to_the_policy_has_its_own_answer(
    gate: GatewayInProcess, executor: ScriptedExecutor
) -> None:
    """A policy that lets a job be authorized and not be started: the first answer does not stand for the second."""
    gate.set_dispatch_policy(
        '@id("once") permit (principal, action == Action::"dispatch", resource) when { context.trusted };'
    )
    await gate.restart()
    await executor.enroll()
    async with executor.connect() as channel:
        await executor.approve()
        await channel.renew()
        grant = await executor.authorize()
        await channel.refused(grant)
        await channel.ended(grant, "not_started", exit_status=None)
        data = await export(gate, grant)
    report = verify_bundle(data, gate.anchors())
    assert report.failed is None
    assert report.facts["reason"] == "policy.denied"
    forger = Forger(data, gate)
    told = {record["type"]: record["body"] for record in forger.all("policy.evaluated", "attestation.passed")}
    told["attestation.passed"]["decision"] = told["policy.evaluated"]["decision"]
    refused_by(await forger.verify(), "decisions")


async def test_a_bundle_holds_only_what_its_story_rests_on(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """However long a gateway has lived: each hour brings a key, each start a policy, each day files."""
    grant = await run_job(executor, channel)
    before = parse_bundle(await export(gate, grant))
    for name in ("a", "b", "c"):
        executor.drift(f"/usr/bin/{name}")
    await executor.approve()
    await channel.renew()
    await gate.restart()
    after = parse_bundle(await export(gate, grant))
    assert [one.data for one in after.records] == [one.data for one in before.records]
    assert after.blobs == before.blobs
    assert verify_bundle(await export(gate, grant), gate.anchors()).verified


# --- without a key -----------------------------------------------------------------------------------------------
def says(report: Report) -> Any:
    """Everything that a verified report states, except how many records it looked at."""
    return {name: value for name, value in report.facts.items() if name != "records"}


def content(bundle: bytes) -> Any:
    """The parsed content that counts: the story and what its records name."""
    parsed = parse_bundle(bundle)
    story = [(one.index, one.data) for one in parsed.records if one.record.authorization == parsed.authorization]
    return parsed.authorization, parsed.origin, story, parsed.artifacts, parsed.ima


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every member and item."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield (*path, key)
        yield from places(item, (*path, key))


def changed(value: Any) -> Iterator[Any]:
    """Other values than this, near and far, of its own type and of others."""
    if isinstance(value, str):
        yield from (value + "0", value[:-1], value.upper(), value[::-1], "", "0" * len(value))
    elif isinstance(value, bool):
        yield not value
    elif isinstance(value, int):
        yield from (value + 1, value - 1, 0, -value, str(value))
    elif isinstance(value, list):
        yield from (value[::-1], value[:-1], value[1:], value + value[-1:])
    elif isinstance(value, dict):
        yield {}
    yield from (None, True, 1, [], {"a": 1}, "x")


def copied(value: Any) -> Any:
    """A copy of what JSON can hold; ``copy.deepcopy`` took as long as all verifications together."""
    return marshal.loads(marshal.dumps(value))  # noqa: S302 -- our own, made just now


def mutants(value: Any) -> Iterator[Any]:
    """``value`` with one place changed, deleted or there twice."""
    for path in list(places(value)):
        for replacement in [*changed(_at(value, path)), _DELETE]:
            mutant = copied(value)
            parent = _at(mutant, path[:-1])
            if replacement is _DELETE:
                del parent[path[-1]]
            elif replacement == parent[path[-1]] and type(replacement) is type(parent[path[-1]]):
                continue
            else:
                parent[path[-1]] = replacement
            yield mutant


_DELETE = object()


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


class Judge:
    """Verifies variants of one bundle; none may be believed that says anything else."""

    def __init__(self, bundle: bytes, anchors: Anchors) -> None:
        self.bundle = bundle
        self.anchors = anchors
        genuine = verify_bundle(bundle, anchors)
        assert genuine.verified
        self.says, self.content = says(genuine), content(bundle)
        self.tried = self.accepted = 0

    def try_(self, variant: bytes) -> None:
        self.tried += 1
        report = verify_bundle(variant, self.anchors)
        if report.verified and variant != self.bundle:
            self.accepted += 1
            assert (says(report), content(variant)) == (self.says, self.content)

    def try_value(self, value: Any) -> None:
        try:
            self.try_(canonical.encode(value))
        except GateError:  # it has no canonical form, so nobody could even write it down
            self.tried += 1
            self.try_(json.dumps(value).encode())


@pytest.mark.timeout(240)
async def test_L20_no_member_of_a_bundle_can_be_changed_deleted_or_doubled(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    judge = Judge(await export(gate, await drift_away(executor, channel)), gate.anchors())
    value = json.loads(judge.bundle)
    for mutant in mutants(value):
        judge.try_value(mutant)
    for number, record in enumerate(value["records"]):  # inside the records, which are text
        inner = json.loads(record["record"])
        every = list(mutants(inner))
        for mutant in every if EVERY else random.Random(number).sample(every, 20):  # noqa: S311
            other = copied(value)
            other["records"][number]["record"] = json.dumps(mutant, separators=(",", ":"), sort_keys=True)
            judge.try_value(other)
    text = judge.bundle.decode()
    for name in value:  # twice the same member
        judge.try_(text.replace(f'"{name}":', f'"{name}":null,"{name}":', 1).encode())
    assert judge.tried > 2000
    assert judge.accepted == 0


async def test_L20_records_and_blobs_can_be_neither_reordered_nor_swapped_nor_removed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    judge = Judge(await export(gate, await run_job(executor, channel)), gate.anchors())
    value = json.loads(judge.bundle)
    for first in range(len(value["records"])):
        without = copied(value)
        del without["records"][first]
        judge.try_value(without)
        for second in range(first):
            for names in (("index", "record", "proof"), ("record",), ("record", "proof"), ("proof",), ("index",)):
                other = copied(value)
                a, b = other["records"][first], other["records"][second]
                for name in names:
                    a[name], b[name] = b[name], a[name]
                judge.try_value(other)
    for digest in value["blobs"]:
        without = copied(value)
        del without["blobs"][digest]
        judge.try_value(without)
        for other_digest in value["blobs"]:
            other = copied(value)
            other["blobs"][digest] = value["blobs"][other_digest]
            judge.try_value(other)
    for listed in ("artifacts", "ima"):
        for digest in value["blobs"]:
            other = copied(value)
            other[listed] = [*value[listed][:-1], digest]
            judge.try_value(other)
    assert judge.accepted == 0


async def test_L20_a_page_can_not_be_torn_out_of_a_story(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """The last renewal with everything that belongs to it: what is left is a course of events that could have been."""
    bundle = parse_bundle(await export(gate, await run_job(executor, channel)))
    story = [one for one in bundle.records if one.record.authorization]
    torn = {next(one.index for one in reversed(story) if one.record.type == kind) for kind in PAGE}
    records = tuple(one for one in bundle.records if one.index not in torn)
    named = b"".join(one.data for one in records).decode()
    kept = {*bundle.artifacts[:-1], *bundle.ima}
    blobs = {digest: data for digest, data in bundle.blobs.items() if digest in kept or f'"{digest}"' in named}
    left = replace(bundle, records=records, artifacts=bundle.artifacts[:-1], blobs=blobs)
    refused_by(verify_bundle(left.encode(), gate.anchors()), "story")


PAGE = ("attestation.passed", "authorization.renewed")


async def test_O9_bytes_that_nothing_names_are_refused(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """An extra measurement list, an extra artifact, an extra anything: somebody would show it to somebody."""
    bundle = parse_bundle(await export(gate, await run_job(executor, channel)))
    value = json.loads(bundle.encode())
    forger = Forger(bundle.encode(), gate)
    extra = forger.blob(b"10 " + b"ab" * 20 + b" ima-ng sha256:" + b"cd" * 32 + b" /usr/bin/never\n")
    value["blobs"][extra] = base64.b64encode(forger.blobs[extra]).decode()
    refused_by(verify_bundle(canonical.encode(value), gate.anchors()), "bundle")
    for listed, check in (("ima", "appraisals"), ("artifacts", "artifacts")):
        other = {**value, listed: [*value[listed], extra]}
        refused_by(verify_bundle(canonical.encode(other), gate.anchors()), check)


async def test_O18_random_bit_flips_are_never_believed(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    judge = Judge(await export(gate, await run_job(executor, channel)), gate.anchors())
    seed = random.randrange(1 << 30)  # noqa: S311
    chosen = random.Random(seed)  # noqa: S311
    for _ in range(FLIPS):
        data = bytearray(judge.bundle)
        for _ in range(chosen.choice((1, 1, 1, 2, 8))):
            data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        judge.try_(bytes(data))
    assert judge.accepted == 0, f"seed {seed}"


async def test_L20_parts_of_two_genuine_bundles_make_no_third(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Whoever has many bundles of one lineage can put any of their parts together."""
    await run_job(executor, channel, step="one")
    one = json.loads(await export(gate, await run_job(executor, channel, step="one")))
    two = json.loads(await export(gate, await drift_away(executor, channel, step="one")))
    anchors = gate.anchors()
    for name in one:
        if one[name] == two[name]:
            continue
        mixed = {**one, name: two[name]}
        mixed["blobs"] = one["blobs"] | two["blobs"]
        assert not verify_bundle(canonical.encode(mixed), anchors).verified, name
        mixed["blobs"] = dict(one["blobs"] if name != "blobs" else two["blobs"])
        assert not verify_bundle(canonical.encode(mixed), anchors).verified, name
    renamed = {**one, "authorization": two["authorization"]}
    assert not verify_bundle(canonical.encode(renamed), anchors).verified
    own = [record for record in two["records"] if '"authorization":null' not in record["record"]]
    spliced = {**two, "records": [record for record in two["records"] if "attestation.failed" not in record["record"]]}
    assert own
    assert not verify_bundle(canonical.encode(spliced), anchors).verified


async def test_O10_a_bundle_can_not_bring_its_own_keys(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Everything re-signed by another gateway's keys, with its own identity inside, is refused before it is read."""
    bundle = await export(gate, await run_job(executor, channel))
    anchors = gate.anchors()
    forger = Forger(bundle, gate)
    other = parse_bundle(await forger.forge()).checkpoint.decode()
    value = json.loads(bundle)
    refused_by(verify_bundle(canonical.encode({**value, "checkpoint": other}), anchors), "inclusion", "seal")
    lines = value["checkpoint"].split("\n")
    for left_out in (4, 5):
        note = "\n".join(line for number, line in enumerate(lines) if number != left_out)
        refused_by(verify_bundle(canonical.encode({**value, "checkpoint": note}), anchors), "checkpoint", "seal")


async def test_O17_an_old_bundle_names_its_run_and_its_time(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """A good bundle shown for another run is told apart by facts that were verified."""
    grant = await run_job(executor, channel)
    facts = verify_bundle(await export(gate, grant), gate.anchors()).facts
    assert (facts["workflow"], facts["run"], facts["step"], facts["attempt"]) == ("w", "1", "train", 1)
    assert facts["job"] == job().digest()
    assert facts["requested_at"] <= facts["ended_at"] <= gate.clock.now_ms()
    assert facts["authorization"] == grant.authorization


# --- with every key ----------------------------------------------------------------------------------------------
Lie = Callable[[Forger], Any]


def _drop(kind: str) -> Lie:
    return lambda forger: forger.remove(*forger.all(kind))


def _restate(forger: Forger) -> None:
    """Let each artifact rest on the last round before it that there is."""
    basis: Value = {}
    for record in forger.all():
        body = record["body"].get("round", record["body"])
        if body.get("nonce"):
            basis = body
        elif record["type"] in {"authorization.issued", "authorization.renewed"} and basis:
            seconds = basis["now"] // 1000
            record["body"]["claims"] |= {"ev": basis["evidence"], "iat": seconds, "nbf": seconds}


def _no_round(kind: str) -> Lie:
    """A record that only says that all was well, without the round that would show it."""

    def lie(forger: Forger) -> None:
        for record in forger.all(kind):
            for part in (record["body"], record["body"].get("round", {})):
                for name in ("nonce", "manifest", "bindings", "evidence"):
                    part.pop(name, None)
        _restate(forger)

    return lie


def _no_renewal_quotes(forger: Forger) -> None:
    """The start was honest; after that nobody asked again, and the leases were renewed all the same."""
    forger.remove(*forger.all("attestation.passed")[1:])
    _restate(forger)


def _no_start_quote(forger: Forger) -> None:
    forger.remove(forger.first("attestation.passed"))
    _restate(forger)


def _silence_was_trust(forger: Forger) -> None:
    body = forger.all("attestation.passed")[-1]["body"]
    body |= {"manifest": None, "evidence": None}


def _evidence_misnamed(forger: Forger) -> None:
    """Round and artifact agree on evidence that is not the one in the bundle."""
    forger.all("attestation.passed")[-1]["body"]["evidence"] = "ab" * 32
    _restate(forger)


def _unfollowed_failure(forger: Forger) -> None:
    """Drift was recorded, nobody was stopped, and the job went on to its normal end."""
    revoked, closed = forger.first("authorization.revoked"), forger.first("execution.closed")
    forger.remove(revoked, forger.first("execution.interrupted"))
    closed["body"] |= {"outcome": "exited", "exit_status": 0, "signal": None}


def _verdict_turned(forger: Forger) -> None:
    record = forger.first("attestation.failed")
    record["type"] = "attestation.passed"
    verdict = record["body"]["verdict"]
    verdict |= {"trusted": True, "reason": None}
    for check in verdict["checks"]:
        check |= {"status": "pass", "reason": None, "detail": ""}


def _kind_turned(forger: Forger) -> None:
    forger.all("attestation.passed")[-1]["type"] = "attestation.failed"


def _claims(**changes: Any) -> Lie:
    def lie(forger: Forger) -> None:
        for record in forger.all("authorization.issued", "authorization.renewed"):
            for path, value in changes.items():
                *parents, name = path.split("__")
                target = record["body"]["claims"]
                for parent in parents:
                    target = target[parent]
                target[name] = value(target[name]) if callable(value) else value

    return lie


def _asked(**changes: Any) -> Lie:
    """The policy was asked about a machine that is better than the one that was seen."""

    def lie(forger: Forger) -> None:
        for record in forger.all("policy.evaluated", "attestation.passed"):
            request = record["body"].get("request")
            if request is not None:
                for name, value in changes.items():
                    request["context"][name] = value
                    if name in request["executor_attributes"]:
                        request["executor_attributes"][name] = value

    return lie


def _renewals_without_policy(forger: Forger) -> None:
    for record in forger.all("attestation.passed"):
        for name in ("decision", "request", "dispatch_policy", "entities"):
            record["body"].pop(name, None)


def _another_class(forger: Forger) -> None:
    for record in forger.all("policy.evaluated", "attestation.passed"):
        record["body"].get("round", record["body"])["class"] = "lenient"


def _other_labels(forger: Forger) -> None:
    for record in forger.all("policy.evaluated", "attestation.passed"):
        record["body"].get("round", record["body"])["labels"] = {"zone": "safe"}


def _labels_afterwards(forger: Forger) -> None:
    """The label that the rounds count by is given only behind them."""
    _other_labels(forger)
    body = {"executor": forger.first("executor.enrolled")["body"]["executor"], "labels": {"zone": "safe"}}
    given = forger.record("executor.labelled", forger.records[-1]["at"], {**body, "operator": "x"})
    forger.insert_after(forger.records[-1], given)


def _virtual_is_hardware(forger: Forger) -> None:
    forger.first("executor.enrolled")["body"]["virtual"] = False


def _quote_used_twice(forger: Forger) -> None:
    """The last good round is told again a little later, with everything that followed from it."""
    passed, renewed = forger.all("attestation.passed")[-1], forger.all("authorization.renewed")[-1]
    again, lease = copy.deepcopy(passed), copy.deepcopy(renewed)
    again["body"]["nonce"] = again["body"]["nonce"].upper()
    lease["body"]["claims"]["ren"]["n"] += 1
    forger.insert_after(renewed, again, lease)


def _other_binding(forger: Forger) -> None:
    forger.all("attestation.passed")[-1]["body"]["live"] = ["f" * 32]


def _start_quote_as_renewal(forger: Forger) -> None:
    """What was quoted at the start is passed off as a renewal."""
    start, activated = forger.first("attestation.passed"), forger.first("authorization.activated")
    later = forger.all("attestation.passed")[1]
    forger.remove(start, activated)
    forger.insert_after(later, activated)


def _unbound_enrollment(forger: Forger) -> None:
    forger.first("executor.enrolled")["body"]["round"]["bindings"] = []


def _other_session_key(forger: Forger) -> None:
    """Artifacts for a key that the executor's TPM never quoted."""
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415

    from ztrooted.jose import thumbprint  # noqa: PLC0415
    from ztrooted.keys import spki  # noqa: PLC0415

    key = ec.generate_private_key(ec.SECP256R1()).public_key()
    forger.first("executor.enrolled")["body"]["session_key"] = forger.blob(spki(key))
    _claims(cnf__jkt=thumbprint(key))(forger)


def _longer_lease(forger: Forger) -> None:
    _claims(exp=lambda exp: exp + 400)(forger)


def _closed_long_after(forger: Forger) -> None:
    forger.first("execution.closed")["at"] += 3_600_000


def _backdated(forger: Forger) -> None:
    """The last quote came an hour late, and the record says otherwise: time in a round is that of its record."""
    forger.all("attestation.passed")[-1]["at"] -= 1000


def _intent_twice(forger: Forger) -> None:
    intent = forger.first("dispatch.requested")
    forger.insert_after(intent, copy.deepcopy(intent))


def _asked_until_yes(forger: Forger) -> None:
    """A first evaluation is told besides the one that led to the artifact."""
    evaluated = forger.first("policy.evaluated")
    forger.insert_after(forger.first("dispatch.requested"), copy.deepcopy(evaluated))


def _other_policy(forger: Forger) -> None:
    """Another dispatch policy than was activated, which permits everything to everybody."""
    digest = forger.blob(b'@id("all") permit (principal, action, resource);\n')
    for record in forger.all("policy.evaluated", "attestation.passed"):
        if "decision" in record["body"]:
            record["body"]["dispatch_policy"] = digest
            record["body"]["decision"]["determining"] = ["all"]
    _claims(pol__dispatch=digest)(forger)


def _baseline_of_another_class(forger: Forger) -> None:
    forger.first("baseline.approved")["body"]["class"] = "lenient"


def _approved_afterwards(forger: Forger) -> None:
    approved = forger.first("baseline.approved")
    forger.remove(approved)
    forger.insert_after(forger.all("authorization.issued")[0], approved)


def _activated_afterwards(forger: Forger) -> None:
    activated = forger.first("policy.activated")
    forger.remove(activated)
    forger.insert_after(forger.all("authorization.issued")[0], activated)


def _key_introduced_afterwards(forger: Forger) -> None:
    introduced = forger.first("key.introduced")
    forger.remove(introduced)
    forger.insert_after(forger.all("authorization.issued")[0], introduced)


def _split_view(forger: Forger) -> None:
    """The executor was shown a lineage with another history than the auditor."""

    def other_root(_number: int, claims: Value) -> Value:
        return {**claims, "lin": {**claims["lin"], "root": "00" * 32}}

    forger.claims = other_root


def _artifact_says_more(forger: Forger) -> None:
    forger.claims = lambda _number, claims: {**claims, "lim": {"max_runtime_s": 86400}}


def _killed_without_cause(forger: Forger) -> None:
    forger.first("execution.closed")["body"] |= {"outcome": "killed", "exit_status": None, "signal": 9}


def _clock_restarted(forger: Forger) -> None:
    """The machine was reset between two rounds, and the round says that it continued one it did not."""
    body = forger.all("attestation.passed")[-1]["body"]
    body["previous"]["clock"]["clock"] = "1"


def _no_clock(forger: Forger) -> None:
    forger.all("attestation.passed")[-1]["body"]["previous"]["clock"] = None


def _unlisted_history(forger: Forger) -> None:
    """Files that were measured before the round are left out of the list."""
    lines = b"".join(forger.blobs[digest] for digest in forger.ima).split(b"\n")[:-1]
    forger.ima = [forger.blob(b"".join(line + b"\n" for line in lines[:-1]))]


def _list_reordered(forger: Forger) -> None:
    lines = b"".join(forger.blobs[digest] for digest in forger.ima).split(b"\n")[:-1]
    forger.ima = [forger.blob(b"".join(line + b"\n" for line in [*lines[:-2], lines[-1], lines[-2]]))]


def _other_transcript(forger: Forger) -> None:
    forger.first("executor.enrolled")["body"]["transcript"] = "0" * 64


def _drift_covered_up(forger: Forger) -> None:
    """All of it: the drifted round passed, its lease was renewed, and the job went on to its normal end."""
    failed, revoked = forger.first("attestation.failed"), forger.first("authorization.revoked")
    passed, renewed = forger.all("attestation.passed")[-1], forger.all("authorization.renewed")[-1]
    kept = {
        name: copy.deepcopy(passed["body"][name])
        for name in ("dispatch_policy", "entities", "request", "decision", "live")
    }
    _verdict_turned(forger)
    failed["body"] |= kept
    seconds = failed["body"]["now"] // 1000
    claims = copy.deepcopy(renewed["body"]["claims"])
    claims |= {"ev": failed["body"]["evidence"], "iat": seconds, "nbf": seconds}
    claims["ren"]["n"] += 1
    revoked |= {"type": renewed["type"], "body": {"claims": claims, "kid": renewed["body"]["kid"]}}
    forger.remove(forger.first("execution.interrupted"))
    forger.first("execution.closed")["body"] |= {"outcome": "exited", "exit_status": 0, "signal": None}


def _decision_turned(forger: Forger) -> None:
    forger.first("policy.evaluated")["body"]["decision"]["determining"] = ["another-rule"]


def _artifact_ends_earlier(forger: Forger) -> None:
    forger.claims = lambda _number, claims: {**claims, "exp": claims["exp"] - 1}


LIES: dict[str, tuple[Lie, tuple[str, ...]]] = {
    "no_evaluation": (_drop("policy.evaluated"), ("story",)),
    "no_intent": (_drop("dispatch.requested"), ("story",)),
    "no_activation": (_drop("authorization.activated"), ("story",)),
    "no_end": (_drop("execution.closed"), ("story",)),
    "activated_without_start_quote": (_no_start_quote, ("story",)),
    "renewed_without_quote": (_drop("attestation.passed"), ("story",)),
    "renewed_without_asking_again": (_no_renewal_quotes, ("story",)),
    "renewed_on_an_empty_round": (_no_round("attestation.passed"), ("story", "quotes")),
    "authorized_on_an_empty_round": (_no_round("policy.evaluated"), ("story", "quotes")),
    "silence_was_trust": (_silence_was_trust, ("appraisals",)),
    "evidence_misnamed": (_evidence_misnamed, ("quotes",)),
    "passed_told_as_failed": (_kind_turned, ("story",)),
    "tier": (_claims(tier="A4"), ("artifacts",)),
    "artifact_for_another_step": (_claims(act__step="deploy"), ("artifacts",)),
    "artifact_with_more_time": (_claims(lim__max_runtime_s=86400), ("artifacts",)),
    "artifact_from_later": (_claims(iat=lambda iat: iat + 1), ("artifacts",)),
    "artifact_on_other_policy": (_claims(pol__appraisal="0" * 64), ("artifacts",)),
    "artifact_on_other_evidence": (_claims(ev="0" * 64), ("artifacts",)),
    "artifact_says_more": (_artifact_says_more, ("artifacts",)),
    "asked_about_hardware": (_asked(virtual=False), ("decisions",)),
    "asked_about_a_better_tier": (_asked(tier=4), ("decisions",)),
    "asked_about_another_step": (_asked(step="harmless"), ("decisions",)),
    "renewals_without_policy": (_renewals_without_policy, ("decisions",)),
    "another_class": (_another_class, ("policies",)),
    "labels_nobody_gave": (_other_labels, ("policies",)),
    "labels_given_afterwards": (_labels_afterwards, ("policies",)),
    "virtual_is_hardware": (_virtual_is_hardware, ("executor",)),
    "quote_used_twice": (_quote_used_twice, ("quotes",)),
    "quote_for_other_authorizations": (_other_binding, ("quotes",)),
    "start_quote_as_renewal": (_start_quote_as_renewal, ("story", "quotes")),
    "enrollment_not_bound_to_its_session": (_unbound_enrollment, ("executor",)),
    "session_key_that_was_never_quoted": (_other_session_key, ("executor",)),
    "longer_lease": (_longer_lease, ("artifacts",)),
    "closed_long_after_the_lease": (_closed_long_after, ("continuity",)),
    "round_at_another_time_than_its_record": (_backdated, ("story",)),
    "intent_twice": (_intent_twice, ("story",)),
    "asked_until_yes": (_asked_until_yes, ("story",)),
    "policy_never_activated": (_other_policy, ("policies",)),
    "baseline_of_another_class": (_baseline_of_another_class, ("policies",)),
    "baseline_approved_afterwards": (_approved_afterwards, ("policies",)),
    "policy_activated_afterwards": (_activated_afterwards, ("policies",)),
    "key_introduced_afterwards": (_key_introduced_afterwards, ("artifacts",)),
    "split_view": (_split_view, ("artifacts",)),
    "killed_without_cause": (_killed_without_cause, ("outcome",)),
    "clock_of_another_round": (_clock_restarted, ("appraisals",)),
    "clock_forgotten": (_no_clock, ("appraisals",)),
    "measurements_reordered": (_list_reordered, ("appraisals",)),
    "decision_turned": (_decision_turned, ("decisions",)),
    "artifact_ends_earlier": (_artifact_ends_earlier, ("artifacts",)),
    "another_transcript": (_other_transcript, ("executor",)),
    "measurements_left_out": (_unlisted_history, ("appraisals",)),
}
LIES_ABOUT_DRIFT: dict[str, tuple[Lie, tuple[str, ...]]] = {
    "failure_without_consequence": (_unfollowed_failure, ("story",)),
    "drift_covered_up": (_drift_covered_up, ("appraisals",)),
    "verdict_turned": (_verdict_turned, ("decisions", "quotes", "story", "appraisals")),
    "not_interrupted": (_drop("execution.interrupted"), ("outcome",)),
    "another_reason": (
        lambda forger: forger.first("authorization.revoked")["body"].update(reason="operator.revoked"),
        ("outcome",),
    ),
}


@pytest.mark.parametrize("lie", LIES)
async def test_O9_a_lying_gateway_is_found_out(
    lie: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    tell, checks = LIES[lie]
    forger = Forger(await export(gate, await run_job(executor, channel)), gate)
    tell(forger)
    refused_by(await forger.verify(), *checks)


@pytest.mark.parametrize("lie", LIES_ABOUT_DRIFT)
async def test_O9_a_gateway_that_hides_drift_is_found_out(
    lie: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    tell, checks = LIES_ABOUT_DRIFT[lie]
    forger = Forger(await export(gate, await drift_away(executor, channel)), gate)
    tell(forger)
    refused_by(await forger.verify(), *checks)


async def test_O9_rounds_of_a_healthy_machine_do_not_keep_another_one_alive(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel, executors: Callable[[], ScriptedExecutor]
) -> None:
    """The gateway has a second machine quote for the authorization of the first, which never answers again."""
    healthy = executors()
    await healthy.enroll()
    grant = await executor.authorize()
    await channel.activate(grant)
    await channel.started(grant)
    rounds: Rounds = gate.gateway.rounds
    async with healthy.connect():
        session = gate.gateway.channels.get(healthy.id)
        assert session is not None
        borrowed = await rounds.prove(session, Purpose.RUNTIME, (live_set_digest(frozenset({grant.authorization})),))
    assert borrowed.trusted
    await channel.renew()
    await channel.ended(grant)
    forger = Forger(await export(gate, grant), gate)
    passed = forger.all("attestation.passed")[-1]
    enrolled = gate.gateway.rounds.executor(healthy.id).enrollment
    data = gate.gateway.database.reading.execute("SELECT bytes FROM records WHERE seq = ?", (enrolled,)).fetchone()[0]
    other = {**json.loads(bytes(data)), "was": enrolled}
    forger.insert_first(other)
    for (blob,) in gate.gateway.database.reading.execute("SELECT bytes FROM blobs"):
        forger.blob(bytes(blob))
    kept = {name: passed["body"][name] for name in ("dispatch_policy", "entities", "request", "decision", "live")}
    passed["body"] = forger.keep(borrowed) | kept
    passed["at"] = borrowed.now_ms
    renewed = forger.all("authorization.renewed")[-1]["body"]["claims"]
    renewed |= {"ev": passed["body"]["evidence"], "iat": borrowed.now_ms // 1000, "nbf": borrowed.now_ms // 1000}
    refused_by(await forger.verify(), "executor")


async def test_O9_evidence_of_an_earlier_run_proves_nothing_now(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """The same job, the same machine, the same baseline; only the authorization is another one."""
    earlier = Forger(await export(gate, await run_job(executor, channel)), gate)
    forger = Forger(await export(gate, await run_job(executor, channel)), gate)
    old, new = earlier.all("attestation.passed"), forger.all("attestation.passed")
    for before, now in zip(old, new, strict=True):
        kept = {name: now["body"][name] for name in ("live", "request", "decision") if name in now["body"]}
        now["body"], now["at"] = before["body"] | kept, before["at"]
    forger.blobs |= earlier.blobs
    refused_by(await forger.verify(), "quotes")


async def test_verifying_takes_time_in_proportion_to_the_story(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Each round is looked at once, not once for each other round."""
    short = await export(gate, await run_job(executor, channel, renewals=10))
    long = await export(gate, await run_job(executor, channel, renewals=100))
    anchors = gate.anchors()
    loop = asyncio.get_running_loop()

    def seconds(bundle: bytes) -> float:
        best = float("inf")
        for _ in range(3):
            began = loop.time()
            assert verify_bundle(bundle, anchors).verified
            best = min(best, loop.time() - began)
        return best

    assert seconds(long) < 25 * seconds(short)
