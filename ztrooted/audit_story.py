"""The checks of ``ztrooted.verify`` that are about the course of events: the story, its leases, and its end."""

from collections.abc import Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import TYPE_CHECKING

from ztrooted import limits
from ztrooted.audit_rounds import REFUSALS, mismatch, read_rounds
from ztrooted.bundle import ProvenRecord
from ztrooted.errors import ProofError
from ztrooted.lifecycle import FINAL, RECORD_EVENTS, State, advance
from ztrooted.models import Job
from ztrooted.reasons import GateReason
from ztrooted.records import Link, Record
from ztrooted.tracing import TRACE_ID

if TYPE_CHECKING:
    from ztrooted.verify import Proof

# What is written in one transaction stands side by side: what a record of this type is followed by …
_FOLLOWED_BY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "dispatch.requested": frozenset({"policy.evaluated", "authorization.denied"}),
        "policy.evaluated": frozenset({"authorization.issued", "authorization.denied"}),
        "attestation.passed": frozenset({"authorization.activated", "authorization.renewed", "authorization.revoked"}),
        "authorization.activated": frozenset({"authorization.renewed"}),
        "attestation.failed": frozenset({"authorization.revoked"}),
        "attestation.overdue": frozenset({"authorization.revoked"}),
    }
)
# … and what has to stand before it: nothing is issued without a decision, nothing activated or renewed without a quote.
_PRECEDED_BY: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "authorization.issued": frozenset({"policy.evaluated"}),
        "authorization.activated": frozenset({"attestation.passed"}),
        "authorization.renewed": frozenset({"attestation.passed", "authorization.activated"}),
    }
)
# A report of a job's end takes this long at most to be written down (milliseconds).
REPORT_MS = limits.CLOCK_LEEWAY_S * 1000


def lifecycle(detail: str) -> ProofError:
    """The story is not one that can have happened."""
    return ProofError(GateReason.BUNDLE_LIFECYCLE, detail)


# 6. The authorization's records are one unbroken, legal course from intent to end.
def check_story(proof: "Proof") -> None:
    """Each record names the one before, each step is one the lifecycle table has, and what belongs together is there."""
    story = proof.story()
    check_intent(proof.bundle.authorization, story)
    trace = check_trace(story)
    state = State.REQUESTED
    for before, one in pairwise(story):
        state = follow(state, before, one)
    if state not in FINAL:
        raise lifecycle(f"the story ends while the authorization is {state}: export the bundle again after its end")
    asked = story[0].record.body
    job = Job.model_validate(asked["job"])
    proof.rounds = read_rounds(proof)
    proof.facts |= {
        "authorization": proof.bundle.authorization,
        "orchestrator": asked["orchestrator"],
        "requested_at": story[0].record.at,
        "ended_at": story[-1].record.at,
        "workflow": job.workflow,
        "run": job.run,
        "step": job.step,
        "attempt": job.attempt,
        "argv": job.argv,
        "job": job.digest(),
        "final_state": state.value,
        "outcome": story[-1].record.body.get("outcome") or "denied",
    }
    if trace is not None:
        proof.facts["trace"] = trace


def check_intent(authorization: str, story: list[ProvenRecord]) -> None:
    """A story begins with what was asked for. ProofError ``bundle.lifecycle`` or ``bundle.mismatch``."""
    if not story or story[0].record.type != "dispatch.requested" or story[0].record.prev is not None:
        raise lifecycle(f"the story of {authorization} does not begin with the intent")
    asked = story[0].record.body
    if Job.model_validate(asked["job"]).digest() != asked["job_digest"]:
        raise mismatch("the job is not the one its digest names")


def check_trace(story: list[ProvenRecord]) -> str | None:
    """The trace (W3C Trace Context) that the request was part of, where one is told: the same in every record that does.

    It proves nothing, and is in one form, so that nothing else can be put there. ProofError ``bundle.mismatch``.
    """
    told = [one.record.body["trace"] for one in story if "trace" in one.record.body]
    if any(not isinstance(one, str) or not TRACE_ID.fullmatch(one) or one != told[0] for one in told):
        raise mismatch("what the records say of a trace is not one trace")
    return told[0] if told else None


def follow(state: State, before: ProvenRecord, one: ProvenRecord) -> State:
    """The state after one more record."""
    previous, kind = before.record.type, one.record.type
    if one.record.prev != Link(before.index, before.leaf):
        raise lifecycle(f"record {one.index} does not name the record before it: something is missing")
    event = RECORD_EVENTS.get(kind)
    if event is not None:
        state = advance(state, event)
    elif kind not in REFUSALS or state in FINAL:
        raise lifecycle(f"record {one.index} of type {kind} has no place in the story of an authorization")
    if kind not in _FOLLOWED_BY.get(previous, {kind}):
        raise lifecycle(f"record {one.index} is {kind}, which can't be what {previous} led to")
    if previous not in _PRECEDED_BY.get(kind, {previous}):
        raise lifecycle(f"record {one.index} is {kind}, which can't follow from {previous}")
    return state


# 14. Between two good quotes no more time passed than the lease allowed; nothing was renewed without one.
def check_continuity(proof: "Proof") -> None:
    """From the first artifact to the end of authority."""
    judged = {one.index: one for one in proof.rounds}
    good: list[int] = []
    leased_until: int | None = None
    largest = allowed = 0
    for one in proof.story():
        kind, body = one.record.type, one.record.body
        found = judged.get(one.index)
        if found is not None and found.trusted:
            if leased_until is not None and found.now_ms > leased_until:
                raise _gap(f"record {one.index} came after the lease had ended")
            if good:
                if found.now_ms < good[-1]:
                    raise _gap(f"record {one.index} is earlier than the round before it")
                largest = max(largest, found.now_ms - good[-1])
            good.append(found.now_ms)
        elif kind in {"authorization.issued", "authorization.renewed"}:
            if not good:
                raise _gap(f"record {one.index} grants a lease without a good quote")
            leased_until = body["claims"]["exp"] * 1000
            allowed = max(allowed, leased_until - good[-1])
        elif kind == "authorization.revoked":
            leased_until = None  # what may happen now is an end, however late it is reported
        elif kind == "execution.closed" and leased_until is not None and one.record.at > leased_until + REPORT_MS:
            raise _gap(f"record {one.index} closes the execution after its lease had ended, and nothing revoked it")
    if largest > allowed:
        raise _gap(f"{largest} ms passed between two good quotes, {allowed} were allowed")
    proof.facts |= {
        "rounds": len(proof.rounds),
        "good_quotes": len(good),
        "largest_gap_ms": largest,
        "allowed_gap_ms": allowed,
    }


def _gap(detail: str) -> ProofError:
    return ProofError(GateReason.BUNDLE_CONTINUITY, detail)


# 15. What ended it is recorded, and if trust failed, the job was stopped.
def check_outcome(proof: "Proof") -> None:
    """A revoked authorization that was running must have been interrupted, or have ended before that."""
    by_type: dict[str, Record] = {}
    for one in proof.story():
        by_type.setdefault(one.record.type, one.record)
    _check_reasons(proof)
    requested = by_type["dispatch.requested"]
    revoked, closed = by_type.get("authorization.revoked"), by_type.get("execution.closed")
    if "authorization.denied" in by_type:
        proof.facts["reason"] = by_type["authorization.denied"].body["reason"]
        return
    if closed is None:
        raise lifecycle("nothing says how the execution ended")
    proof.facts["intent_to_authorization_ms"] = by_type["authorization.issued"].at - requested.at
    if revoked is None:
        if closed.body["outcome"] != "exited":
            raise lifecycle(f"the job was {closed.body['outcome']}, and nothing had revoked its authorization")
        proof.facts["exit_status"] = closed.body.get("exit_status")
        return
    proof.facts["reason"] = revoked.body["reason"]
    interrupted = by_type.get("execution.interrupted")
    if "execution.started" in by_type and interrupted is None and closed.body.get("outcome") == "killed":
        raise lifecycle("the job was killed, and no record says that it was interrupted")
    if interrupted is not None:
        good = [one.now_ms for one in proof.rounds if one.kind == "attestation.passed"]
        proof.facts["revoked_to_interrupted_ms"] = interrupted.at - revoked.at
        proof.facts["exposure_at_most_ms"] = interrupted.at - good[-1] if good else None


def _check_reasons(proof: "Proof") -> None:
    """What is given as the reason of a denial or a revocation is what the record before it found."""
    story = proof.story()
    for before, one in pairwise(story):
        if one.record.type not in {"authorization.denied", "authorization.revoked"}:
            continue
        body = before.record.body
        if before.record.type == "policy.evaluated":
            found = body["round"]["verdict"]["reason"] or body["decision"]["reason"]
        elif before.record.type in REFUSALS:
            found = GateReason.LEASE_EXPIRED if body["verdict"] is None else body["verdict"]["reason"]
        else:
            continue
        if one.record.body["reason"] != found:
            raise mismatch(f"record {one.index} gives another reason than the record before it found")
