"""Bundles of children that lie about what is above them, signed with every key that a gateway's operator has."""

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.adversarial.test_bundle import export, refused_by
from tests.adversarial.test_chains import POLICY, child_of, read, running, verifies
from tests.support.executor import Channel, ScriptedExecutor, job
from tests.support.forger import Forger, Value
from tests.support.gateway_in_process import GatewayInProcess
from ztrooted import canonical
from ztrooted.bundle import parse_bundle
from ztrooted.delegation import Delegation
from ztrooted.models import Grant
from ztrooted.reasons import GateReason
from ztrooted.risk import TIER

Lie = Callable[[Forger], Any]
GRANTS = ("authorization.issued", "authorization.renewed")


@pytest.fixture
async def gate(gate: GatewayInProcess) -> GatewayInProcess:
    """A gateway whose policy lets orchestrators delegate under their own authorizations."""
    gate.set_dispatch_policy(POLICY)
    await gate.restart()
    return gate


async def chain(executor: ScriptedExecutor, channel: Channel, *, renewals: int = 2) -> tuple[Grant, Grant, Grant]:
    """Three levels that run, and were renewed; the lowest has ended."""
    wide = Delegation(depth=3, children=3, steps=["middle", "leaf"], executors=[executor.id])
    root = await running(channel, await executor.authorize(job("root"), delegation=wide))
    asked = Delegation(depth=1, children=2, steps=["leaf"], executors=[executor.id])
    middle = await running(channel, await child_of(executor, root, "middle", delegation=asked))
    leaf = await running(channel, await child_of(executor, middle, "leaf"))
    for _ in range(renewals):
        await channel.renew()
    await channel.ended(leaf)
    return root, middle, leaf


class ChainForger(Forger):
    """The bundle of the lowest of three."""

    def __init__(self, bundle: bytes, gate: GatewayInProcess, names: tuple[str, str, str]) -> None:
        super().__init__(bundle, gate)
        self.root, self.middle, self.leaf = names

    def asked(self, authorization: str) -> Value:
        body: Value = self.story(authorization, "dispatch.requested")[0]["body"]
        return body

    def told(self, parent: str) -> Value:
        (record,) = self.story(parent, "authorization.delegated")
        return record

    def grants(self, authorization: str) -> list[Value]:
        return [one["body"]["claims"] for one in self.story(authorization, *GRANTS)]

    def questions(self) -> list[Value]:
        return [one["body"]["request"]["context"] for one in self.story(self.leaf) if "request" in one["body"]]

    def end(self, authorization: str, before: Value, kind: str = "authorization.revoked") -> None:
        """Let an authorization end before a record, with nothing of it afterwards."""
        at = self.records.index(before)
        later = [one for one in self.records[at:] if one["authorization"] == authorization]
        self.remove(*later)
        body = (
            {"reason": "operator.revoked", "detail": ""} if kind == "authorization.revoked" else {"outcome": "exited"}
        )
        self.insert_before(before, self.record(kind, before["at"], body, authorization=authorization))


def another_parent(forger: ChainForger) -> None:
    forger.asked(forger.leaf)["parent"] = "f" * 32
    for claims in forger.grants(forger.leaf):
        claims["par"] = "f" * 32


def grandparent_as_parent(forger: ChainForger) -> None:
    """What is above its parent would have let it do more."""
    forger.asked(forger.leaf)["parent"] = forger.root
    forger.remove(*forger.story(forger.middle))
    for claims in forger.grants(forger.leaf):
        claims["par"] = forger.root


def itself_as_parent(forger: ChainForger) -> None:
    forger.asked(forger.leaf)["parent"] = forger.leaf


def a_circle(forger: ChainForger) -> None:
    forger.asked(forger.root)["parent"] = forger.middle


def no_parent(forger: ChainForger) -> None:
    forger.asked(forger.leaf)["parent"] = None


def no_parent_and_no_story(forger: ChainForger) -> None:
    """As if it had been dispatched by itself."""
    no_parent(forger)
    forger.remove(*forger.story(forger.root), *forger.story(forger.middle))


def told_by(parent: str, **changes: Any) -> Lie:
    def lie(forger: ChainForger) -> None:
        delegation = forger.asked(getattr(forger, parent))["delegation"]
        assert delegation.items() & changes.items() != changes.items()
        delegation |= changes

    return lie


def _of_story(which: str, *types: str) -> Lie:
    return lambda forger: forger.remove(*forger.story(getattr(forger, which), *types))


def revoked_before_it_was_asked(forger: ChainForger) -> None:
    forger.end(forger.middle, forger.story(forger.leaf, "policy.evaluated")[0])


def revoked_before_it_was_issued(forger: ChainForger) -> None:
    """The child is told of, then the parent ends, then the child is authorized."""
    issued = forger.story(forger.leaf, "authorization.issued")[0]
    forger.end(forger.middle, issued)


def revoked_before_a_renewal(forger: ChainForger) -> None:
    forger.end(forger.middle, forger.story(forger.leaf, "attestation.passed")[-1])


def root_revoked_before_a_renewal(forger: ChainForger) -> None:
    """Two levels up."""
    forger.end(forger.root, forger.story(forger.leaf, "attestation.passed")[-1])


def root_revoked_and_the_middle_not(forger: ChainForger) -> None:
    before = forger.story(forger.middle, "attestation.passed")[-1]
    forger.end(forger.root, before)


def root_closed_before_the_child(forger: ChainForger) -> None:
    """Two levels up, and nothing in between says so."""
    forger.end(forger.root, forger.story(forger.leaf, "execution.closed")[0], "execution.closed")


def closed_before_the_child(forger: ChainForger) -> None:
    """It ended by itself, and its child went on to its own normal end."""
    forger.end(forger.middle, forger.story(forger.leaf, "execution.closed")[0], "execution.closed")


def lease_over_before_a_renewal(forger: ChainForger) -> None:
    """The parent's leases are told shorter than they were, so that all but the first had ended before."""
    for claims in forger.grants(forger.middle):
        claims["exp"] = claims["iat"] - 1


def lower_tier_above(forger: ChainForger) -> None:
    for claims in forger.grants(forger.middle) + forger.grants(forger.root):
        claims["tier"] = "A1"


def lower_tier_above_and_policy_told(forger: ChainForger) -> None:
    lower_tier_above(forger)
    for context in forger.questions():
        context["risk"] += TIER[1] - TIER[context["tier"]]
        context["parent"]["tier"] = context["tier"] = 1


def higher_tier_in_the_middle(forger: ChainForger) -> None:
    for claims in forger.grants(forger.root):
        claims["tier"] = "A1"


def context(**changes: Any) -> Lie:
    def lie(forger: ChainForger) -> None:
        for asked in forger.questions():
            asked["parent"] |= changes

    return lie


def no_context(forger: ChainForger) -> None:
    for asked in forger.questions():
        del asked["parent"]


def asked_as_a_dispatch(forger: ChainForger) -> None:
    forger.story(forger.leaf, "policy.evaluated")[0]["body"]["request"]["action"] = "dispatch"


def artifact(**changes: Any) -> Lie:
    def lie(forger: ChainForger) -> None:
        for claims in forger.grants(forger.leaf):
            claims.update(changes)

    return lie


def more_time(forger: ChainForger) -> None:
    """An hour, where the parent had ten minutes."""
    for claims in forger.grants(forger.leaf):
        claims["lim"] = {"max_runtime_s": 3600}


def more_time_was_asked_for(forger: ChainForger) -> None:
    forger.asked(forger.leaf)["max_runtime_s"] = 3600
    more_time(forger)


def more_time_in_the_middle(forger: ChainForger) -> None:
    for claims in forger.grants(forger.middle):
        claims["lim"] = {"max_runtime_s": 3600}


def another_par_in_the_middle(forger: ChainForger) -> None:
    for claims in forger.grants(forger.middle):
        claims["par"] = "f" * 32


def another_place(forger: ChainForger) -> None:
    forger.told(forger.middle)["body"]["place"] = 1


def a_sibling_before(forger: ChainForger) -> None:
    """One more child than was told, so that this one had another place."""
    told = forger.told(forger.middle)
    other = copy.deepcopy(told)
    other["body"]["child"], other["was"] = "e" * 32, -1
    told["body"]["place"] = 1
    forger.insert_before(told, other)
    evaluated = forger.story(forger.leaf, "policy.evaluated")[0]
    forger.remove(other)
    forger.insert_before(evaluated, other)


def a_sibling_behind_the_question(forger: ChainForger) -> None:
    """The last place was given away between question and answer."""
    told = forger.told(forger.middle)
    other = copy.deepcopy(told)
    other["body"]["child"], other["was"] = "e" * 32, -1
    told["body"]["place"] = 1
    forger.insert_before(told, other)


def a_sibling_in_a_taken_place(forger: ChainForger) -> None:
    told = forger.told(forger.middle)
    forger.insert_after(told, {**copy.deepcopy(told), "was": -1, "body": {"child": "e" * 32, "place": 0}})


def told_too_late(forger: ChainForger) -> None:
    told = forger.told(forger.middle)
    forger.remove(told)
    forger.insert_after(forger.story(forger.leaf, "authorization.issued")[0], told)


def told_twice(forger: ChainForger) -> None:
    told = forger.told(forger.middle)
    forger.insert_after(told, {**copy.deepcopy(told), "was": -1, "body": {**told["body"], "place": 1}})


def told_of_another(forger: ChainForger) -> None:
    forger.told(forger.middle)["body"]["child"] = "e" * 32


def blamed_on_a_live_parent(forger: ChainForger) -> None:
    closed = forger.story(forger.leaf, "execution.closed")[0]
    body = {"reason": "parent.ended", "detail": ""}
    forger.insert_before(closed, forger.record("authorization.revoked", closed["at"], body, authorization=forger.leaf))


def a_story_too_many(forger: ChainForger) -> None:
    asked = forger.story(forger.root, "dispatch.requested")[0]
    forger.insert_before(asked, {**copy.deepcopy(asked), "authorization": "e" * 32, "was": -1})


LIES: dict[str, tuple[Callable[[ChainForger], Any], tuple[str, ...]]] = {
    "another parent": (another_parent, ("parents",)),
    "grandparent as parent": (grandparent_as_parent, ("parents",)),
    "itself as parent": (itself_as_parent, ("parents",)),
    "a circle": (a_circle, ("parents",)),
    "no parent": (no_parent, ("parents",)),
    "no parent and no story": (no_parent_and_no_story, ("decisions",)),
    "another step was allowed": (told_by("middle", steps=["deploy"]), ("parents",)),
    "no step was allowed": (told_by("middle", steps=[]), ("parents",)),
    "another executor was allowed": (told_by("middle", executors=["ex-" + "0" * 32]), ("parents",)),
    "no depth was allowed": (told_by("middle", depth=0), ("parents",)),
    "no child was allowed": (told_by("middle", children=0), ("parents",)),
    "root allowed no such delegation": (told_by("root", children=1), ("parents",)),
    "root allowed fewer levels": (told_by("root", depth=1), ("parents",)),
    "root allowed fewer steps": (told_by("root", steps=["middle"]), ("parents",)),
    "child hands on as much": (told_by("leaf", depth=1), ("parents",)),
    "child asked policy for less": (told_by("leaf", children=1), ("decisions",)),
    "no record of the parent": (_of_story("middle"), ("parents",)),
    "no record of the root": (_of_story("root"), ("parents",)),
    "no intent of the parent": (_of_story("middle", "dispatch.requested"), ("parents",)),
    "no decision on the parent": (_of_story("middle", "policy.evaluated"), ("parents",)),
    "no start of the parent": (_of_story("middle", "authorization.activated"), ("parents",)),
    "parent does not tell of it": (_of_story("middle", "authorization.delegated"), ("parents",)),
    "root does not tell of its child": (_of_story("root", "authorization.delegated"), ("parents",)),
    "parent revoked before the question": (revoked_before_it_was_asked, ("parents",)),
    "parent revoked before the answer": (revoked_before_it_was_issued, ("parents",)),
    "parent revoked before a renewal": (revoked_before_a_renewal, ("parents",)),
    "root revoked before a renewal": (root_revoked_before_a_renewal, ("parents",)),
    "root revoked, parent renewed": (root_revoked_and_the_middle_not, ("parents",)),
    "root closed before": (root_closed_before_the_child, ("parents",)),
    "parent closed before": (closed_before_the_child, ("parents",)),
    "parent's lease was over": (lease_over_before_a_renewal, ("parents",)),
    "higher tier than its parent": (lower_tier_above, ("decisions",)),
    "higher tier than policy was told": (lower_tier_above_and_policy_told, ("decisions", "artifacts")),
    "parent with a higher tier than the root": (higher_tier_in_the_middle, ("parents",)),
    "policy told of another parent": (context(authorization="f" * 32), ("decisions",)),
    "policy told of fewer children": (context(children=5), ("decisions",)),
    "policy told of another depth": (context(depth=0), ("decisions",)),
    "policy told of no parent": (no_context, ("decisions",)),
    "asked as a dispatch": (asked_as_a_dispatch, ("decisions",)),
    "artifact of another parent": (artifact(par="f" * 32), ("artifacts",)),
    "more time": (more_time, ("artifacts",)),
    "more time was asked for": (more_time_was_asked_for, ("parents",)),
    "parent with more time": (more_time_in_the_middle, ("parents",)),
    "parent of another parent": (another_par_in_the_middle, ("parents",)),
    "another place": (another_place, ("parents",)),
    "a sibling before": (a_sibling_before, ("decisions",)),
    "a sibling behind the question": (a_sibling_behind_the_question, ("parents",)),
    "a sibling in a taken place": (a_sibling_in_a_taken_place, ("parents",)),
    "told too late": (told_too_late, ("parents",)),
    "told twice": (told_twice, ("parents",)),
    "told of another": (told_of_another, ("parents",)),
    "blamed on a live parent": (blamed_on_a_live_parent, ("parents",)),
    "a story too many": (a_story_too_many, ("parents",)),
}


@pytest.mark.parametrize("lie", LIES)
async def test_O9_a_gateway_that_lies_about_a_chain_is_found_out(
    lie: str, gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    tell, checks = LIES[lie]
    grants = await chain(executor, channel)
    names = (grants[0].authorization, grants[1].authorization, grants[2].authorization)
    forger = ChainForger(await export(gate, grants[2]), gate, names)
    tell(forger)
    report = await forger.verify()
    refused_by(report, *checks)
    assert report.failed is not None
    assert report.failed.reason is not GateReason.LINEAGE_RECORD_MALFORMED, "found out, and not only stumbled over"


async def test_the_bench_itself_is_not_what_is_found(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    grants = await chain(executor, channel)
    forged = await Forger(await export(gate, grants[2]), gate).verify()
    assert forged.failed is None
    assert forged.facts == {**(await verifies(gate, grants[2])), "lineage_size": forged.facts["lineage_size"]}


async def test_a_bundle_of_a_child_holds_its_chain_and_no_more(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """Neither its siblings, nor what became of its parents later, nor what their records name."""
    root, middle, leaf = await chain(executor, channel)
    before = parse_bundle(await export(gate, leaf))
    sibling = await running(channel, await child_of(executor, middle, "leaf"))
    await channel.renew()
    for one in (sibling, middle, root):
        await channel.ended(one)
    after = parse_bundle(await export(gate, leaf))
    assert [one.data for one in after.records] == [one.data for one in before.records]
    assert after.blobs == before.blobs
    named = {one.authorization for one in (root, middle, leaf)}
    assert {one.record.authorization for one in after.records} == {None, *named}
    own = parse_bundle(await export(gate, middle))
    of_parent = [one for one in own.records if one.record.authorization == middle.authorization]
    passed = next(one.record.body for one in of_parent if one.record.type == "attestation.passed")
    assert passed["manifest"]["attest"] in own.blobs
    assert passed["manifest"]["attest"] not in after.blobs
    for one in (root, middle, sibling):
        await verifies(gate, one)


async def test_a_lease_ends_with_the_time_of_what_is_above(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """A child that waits before it starts does not get that time back; a gateway that gives it is found out."""
    wide = Delegation(depth=1, children=1)
    root = await running(channel, await executor.authorize(job("root"), delegation=wide, max_runtime_s=60))
    began = (await executor.wait_for("authorization.renewed", root.authorization))["claims"]["iat"]
    child = await child_of(executor, root)
    await gate.pass_time(20)
    lease = await channel.activate(child)
    await channel.started(child)
    assert read(lease.artifact)["exp"] <= began + 62
    await channel.ended(child)
    bundle = await export(gate, child)
    forger = Forger(bundle, gate)
    renewed = forger.story(child.authorization, "authorization.renewed")[-1]["body"]["claims"]
    renewed["exp"] += 10
    assert renewed["exp"] < renewed["iat"] + 60, "by itself it could have had this"
    refused_by(await forger.verify(), "artifacts")
    await verifies(gate, child)


async def test_a_denied_child_names_a_parent_that_nobody_is_shown(
    gate: GatewayInProcess, executor: ScriptedExecutor, channel: Channel
) -> None:
    """A bundle that tells a parent's story without policy having been asked tells too much."""
    root = await executor.authorize(job("root"))
    token = await gate.token("orchestrator", "flows")
    body = canonical.encode({"executor": executor.id, "job": job("x").model_dump(), "parent": root.authorization})
    answer = await gate.call("POST", "/v1/dispatches", token=token, body=body)
    assert answer.code == "parent.depth"
    async with await gate.client("auditor") as auditor:
        bundle = await auditor.bundle(answer.json["authorization"])
    forger = Forger(bundle, gate)
    asked = forger.first("dispatch.requested")
    forger.insert_before(asked, {**copy.deepcopy(asked), "authorization": root.authorization, "was": -1})
    refused_by(await forger.verify(), "parents")
