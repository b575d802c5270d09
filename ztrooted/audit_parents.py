"""The check of ``ztrooted.verify`` about chains of work: a child was no more than its parent, and did not outlive it.

A child's bundle holds the stories of all that is above it, as far as its own goes. They are read as what they are, records
of the lineage in one unbroken course each; whether a parent itself should have been authorized is for its own bundle.
"""

from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from ztrooted import limits
from ztrooted.audit_rounds import mismatch
from ztrooted.audit_story import check_intent, follow, lifecycle
from ztrooted.bundle import ProvenRecord
from ztrooted.delegation import Delegation, Granted, Wanted, narrow, require_live
from ztrooted.errors import GateError, ProofError
from ztrooted.lifecycle import LIVE, State
from ztrooted.models import Job
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from ztrooted.verify import Proof

TIERS = ("A0", "A1", "A2", "A3", "A4")
GRANTS = frozenset({"authorization.issued", "authorization.activated", "authorization.renewed"})


@dataclass(frozen=True, slots=True)
class Moment:
    """Where an authorization stood behind one of its records."""

    state: State = State.REQUESTED
    lease_expires: int | None = None
    activated_at: int | None = None
    max_runtime_s: int = 0
    tier: int = 0
    children: tuple[str, ...] = ()


class Course:
    """One authorization's story from its intent on, followed once, so that every moment of it can be looked up."""

    def __init__(self, authorization: str, story: list[ProvenRecord], depth: int) -> None:
        self.authorization = authorization
        self.story = story
        self.depth = depth
        self.asked: dict[str, Any] = story[0].record.body
        self.job = Job.model_validate(self.asked["job"])
        self.delegation = Delegation.model_validate(self.asked["delegation"])
        self.indices = [one.index for one in story]
        self.moments = [Moment()]
        for before, one in pairwise(story):
            self.moments.append(self._after(self.moments[-1], before, one))

    def _after(self, moment: Moment, before: ProvenRecord, one: ProvenRecord) -> Moment:
        kind, body = one.record.type, one.record.body
        moment = replace(moment, state=follow(moment.state, before, one))
        if kind == "authorization.activated":
            return replace(moment, activated_at=one.record.at)
        if kind in {"authorization.issued", "authorization.renewed"}:
            claims = body["claims"]
            return replace(
                moment,
                lease_expires=claims["exp"] * 1000,
                max_runtime_s=claims["lim"]["max_runtime_s"],
                tier=_tier(claims),
            )
        if kind == "authorization.delegated":
            place = len(moment.children)
            if body["place"] != place or place >= self.delegation.children or self.delegation.depth < 1:
                raise mismatch(f"record {one.index} gives a child that {self.authorization} had no place for")
            return replace(moment, children=(*moment.children, body["child"]))
        return moment

    def before(self, index: int) -> Moment:
        """Where it stood when record ``index`` was written. ProofError where it had not begun."""
        found = bisect_left(self.indices, index)
        if found == 0:
            raise mismatch(f"record {index} is older than its parent {self.authorization}")
        return self.moments[found - 1]

    def ended_at(self) -> int | None:
        """The index of the record behind which it was not live any more."""
        for (before, after), one in zip(pairwise(self.moments), self.story[1:], strict=True):
            if before.state in LIVE and after.state not in LIVE:
                return one.index
        return None

    def wanted(self) -> Wanted:
        """What it asked for, as a child."""
        return Wanted(
            self.asked["executor"],
            self.job.workflow,
            self.job.run,
            self.job.step,
            self.delegation,
            self._asked_runtime(),
        )

    def _asked_runtime(self) -> int | None:
        asked: int | None = self.asked["max_runtime_s"]
        if asked is not None and (type(asked) is not int or asked < 1):
            raise ValueError(f"{asked!r:.40} is no time to run")
        return asked


@dataclass(frozen=True, slots=True)
class Chain:
    """A child and everything above it, nearest first. ``place`` is the child's number among its parent's children."""

    own: Course
    above: tuple[Course, ...]
    place: int
    max_runtime_s: int

    def parent_at(self, index: int) -> Granted:
        """The parent as it was when record ``index`` was written."""
        return granted(self.above, index)


def _tier(claims: Mapping[str, Any]) -> int:
    if claims["tier"] not in TIERS:
        raise ValueError(f"{claims['tier']!r:.40} is no tier")
    return TIERS.index(claims["tier"])


def granted(upwards: tuple[Course, ...], index: int) -> Granted:
    """The first of ``upwards`` as a parent, and the others above it, when record ``index`` was written."""
    course, *above = upwards
    moment = course.before(index)
    return Granted(
        authorization=course.authorization,
        orchestrator=course.asked["orchestrator"],
        executor=course.asked["executor"],
        workflow=course.job.workflow,
        run=course.job.run,
        step=course.job.step,
        delegation=course.delegation,
        depth=course.depth,
        children=len(moment.children),
        tier=moment.tier,
        state=moment.state,
        lease_expires=moment.lease_expires,
        activated_at=moment.activated_at,
        max_runtime_s=moment.max_runtime_s,
        above=granted(tuple(above), index) if above else None,
    )


# 11. Where it is a child: its parent had granted this, and was live each time; and so on for everything above.
def check_parents(proof: "Proof") -> None:
    """A dispatch that was denied before policy was asked was nobody's child, whatever it named."""
    stories: dict[str, list[ProvenRecord]] = {}
    for one in proof.bundle.records:
        if one.record.authorization is not None:
            stories.setdefault(one.record.authorization, []).append(one)
    own = proof.bundle.authorization
    names = [own]
    if any(one.record.type == "policy.evaluated" for one in stories[own]):
        names += _names_above(own, stories)
    if foreign := stories.keys() - names:
        raise mismatch(f"nothing in the story leads to the authorization {min(foreign)}")
    if len(names) > 1:
        courses = [Course(name, stories[name], len(names) - 1 - at) for at, name in enumerate(names)]
        place, max_runtime_s = 0, courses[-1].asked["max_runtime_s"]
        _check_claims(courses[-1], (), max_runtime_s)
        for at in reversed(range(len(courses) - 1)):  # from the top down: each parent was checked as a child before
            upwards = tuple(courses[at + 1 :])
            place, max_runtime_s = _check_link(courses[at], upwards)
            if at > 0:
                _check_claims(courses[at], upwards, max_runtime_s)
        proof.chain = Chain(courses[0], tuple(courses[1:]), place, max_runtime_s)
        proof.facts |= {"parent": names[1], "depth": len(names) - 1}


def _names_above(own: str, stories: dict[str, list[ProvenRecord]]) -> list[str]:
    found: list[str] = []
    parent = stories[own][0].record.body["parent"]
    while parent is not None:
        if parent not in stories:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"the records of the parent {parent} are not in the bundle")
        if parent in {own, *found} or len(found) >= limits.DELEGATION_DEPTH:
            raise lifecycle(f"too many are above the authorization {own}")
        check_intent(parent, stories[parent])
        found.append(parent)
        parent = stories[parent][0].record.body["parent"]
    return found


def _check_link(child: Course, upwards: tuple[Course, ...]) -> tuple[int, int]:
    """A child and its parent. The child's place, and the maximum runtime it was given, in seconds."""
    parent = upwards[0]
    (evaluated,) = [one for one in child.story if one.record.type == "policy.evaluated"]
    then = granted(upwards, evaluated.index)
    max_runtime_s = narrow(then, child.wanted(), evaluated.record.at)
    for one in child.story:
        if one.record.type in GRANTS:
            _check_live(granted(upwards, one.index), one)
    _check_place(child, parent, evaluated.index, then.children)
    _check_end(child, upwards)
    return then.children, max_runtime_s


def _check_claims(course: Course, upwards: tuple[Course, ...], max_runtime_s: int) -> None:
    """What is above was given no more than it asked for, and no more than its own parent was. Check 13 is for the child."""
    for one in course.story:
        claims = one.record.body.get("claims")
        if claims is None:
            continue
        if claims["lim"]["max_runtime_s"] != max_runtime_s:
            raise mismatch(
                f"record {one.index} gives another time to run than the {max_runtime_s} s that were asked for"
            )
        parent = granted(upwards, one.index) if upwards else None
        if claims.get("par") != (None if parent is None else parent.authorization):
            raise mismatch(f"record {one.index} names another parent than was asked for")
        if parent is not None and _tier(claims) > parent.tier:
            raise mismatch(f"record {one.index} gives a higher tier than that of its parent")


def _check_live(parent: Granted, one: ProvenRecord) -> None:
    try:
        require_live(parent, one.record.at)
    except GateError as error:
        raise ProofError(GateReason.PARENT_ENDED, f"record {one.index} came too late: {error.detail}") from error


def _check_place(child: Course, parent: Course, evaluated: int, place: int) -> None:
    """A child that was authorized has its record in the parent's story, between question and answer; no other has one."""
    answers = [one.index for one in child.story if one.record.type == "authorization.issued"]
    told = [one for one in parent.story if one.record.body.get("child") == child.authorization]
    if len(told) != len(answers):
        raise mismatch(f"the parent {parent.authorization} tells of {len(told)} children {child.authorization}")
    for one, answer in zip(told, answers, strict=True):
        if one.record.type != "authorization.delegated" or not evaluated < one.index < answer:
            raise mismatch(f"record {one.index} does not stand where the child {child.authorization} was authorized")
        if one.record.body["place"] != place:
            raise mismatch(f"record {one.index} gives {child.authorization} another place than it was asked about")


def _check_end(child: Course, upwards: tuple[Course, ...]) -> None:
    """What ends takes everything below along at once, and is blamed for nothing while it is live."""
    ends = [ended for course in upwards if (ended := course.ended_at()) is not None]
    later = [one for one in child.story if ends and one.index > min(ends)]
    if later and child.before(later[0].index).state in LIVE:
        body = later[0].record.body
        if later[0].record.type != "authorization.revoked" or body["reason"] != GateReason.PARENT_ENDED:
            raise lifecycle(f"record {later[0].index} goes on although something above had ended in record {min(ends)}")
    blaming = [one for one in child.story if one.record.body.get("reason") == GateReason.PARENT_ENDED]
    for one in blaming:
        if all(above.live_at(one.record.at) for above in granted(upwards, one.index).chain()):
            raise mismatch(f"record {one.index} blames a parent that was live")
