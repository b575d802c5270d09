"""The checks of ``ztrooted.verify`` that are about what the records say: the story, its evidence, and its end.

A round of proof is stored with everything its appraisal depended on, so each is appraised again from the bytes. What one
round took over from the one before is checked against the rounds in the bundle: the TPM's counters may only have gone on,
and the measurement list may only have grown.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

from tpm.attestation_key import AttestationKey, accept_attestation_key, accept_signing_key
from tpm.certify import verify_certify
from tpm.ek_template import check_ek_template
from tpm.endorsement import verify_ek_certificate
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_entry import ImaEntries
from tpm.ima_replay import VerifiedImaEntries, extend
from tpm.public import EK, parse_public
from tpm.quote import check_clock
from tpm.templates import policy_pcr
from ztrooted import artifact
from ztrooted.appraisal import Progress, Question, appraise, ima_rules
from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.artifact import ArtifactClaims
from ztrooted.errors import ProofError
from ztrooted.evidence import Evidence, Purpose, live_set_digest, qualifying_data
from ztrooted.issuer import certify_qualifying_data, verify_introduction
from ztrooted.jose import IssuerKey, thumbprint
from ztrooted.keys import executor_id, load_p256, spki
from ztrooted.lifecycle import FINAL, RECORD_EVENTS, State, advance
from ztrooted.merkle import leaf_hash
from ztrooted.models import Job
from ztrooted.policy import DispatchPolicy, Request
from ztrooted.reasons import GateReason
from ztrooted.records import Link, Record
from ztrooted.reference import parse_baseline

if TYPE_CHECKING:
    from ztrooted.verify import Proof

REFUSALS = frozenset({"attestation.failed", "attestation.overdue"})


def mismatch(detail: str) -> ProofError:
    """Two things that have to agree do not."""
    return ProofError(GateReason.BUNDLE_MISMATCH, detail)


def lifecycle(detail: str) -> ProofError:
    """The story is not one that can have happened."""
    return ProofError(GateReason.BUNDLE_LIFECYCLE, detail)


# 4. The log key lives in the gateway's TPM, and signs in the anchored state only.
def check_log_key(proof: "Proof") -> None:
    """The identity a gateway started with: its attestation key certified the log key, whose policy is the anchored state."""
    anchors = proof.anchors
    for _, record in proof.of_type("gateway.started"):
        identity = record.body["identity"]
        log_key = parse_public(bytes.fromhex(identity["log_key_public"]))
        accept_signing_key(log_key, policy_pcr(anchors.gateway_selection, anchors.gateway_pcrs))
        verify_certify(
            bytes.fromhex(identity["certify_attest"]),
            bytes.fromhex(identity["certify_signature"]),
            anchors.gateway_ak,
            qualifying_data=certify_qualifying_data(anchors.origin),
            certified=log_key,
        )
        if spki(_p256(log_key.key())) != anchors.log_key.material:
            raise ProofError(GateReason.CHECKPOINT_KEY, "the certified log key is not the anchored one")
        return
    raise ProofError(GateReason.BUNDLE_INCOMPLETE, "no record says with which keys the gateway started")


# 6. The authorization's records are one unbroken, legal course from intent to end.
def check_story(proof: "Proof") -> None:
    """Each record names the one before, and each step is one the lifecycle table has."""
    story = proof.story()
    if not story or story[0].record.type != "dispatch.requested":
        raise lifecycle("the story does not begin with the intent")
    previous: Link | None = None
    state = State.REQUESTED
    for one in story:
        record = one.record
        if record.prev != previous:
            raise lifecycle(f"record {one.index} does not name the record before it: something is missing")
        event = RECORD_EVENTS.get(record.type)
        if event is not None:
            state = advance(state, event)
        elif record.type not in REFUSALS and record.type != "dispatch.requested":
            raise lifecycle(f"record {one.index} of type {record.type} has no place in the story of an authorization")
        previous = Link(one.index, leaf_hash(one.data))
    if state not in FINAL:
        raise lifecycle(f"the story ends while the authorization is {state}: export the bundle again after its end")
    job = Job.model_validate(story[0].record.body["job"])
    if job.digest() != story[0].record.body["job_digest"]:
        raise mismatch("the job is not the one its digest names")
    proof.facts |= {
        "authorization": proof.bundle.authorization,
        "orchestrator": story[0].record.body["orchestrator"],
        "workflow": job.workflow,
        "step": job.step,
        "argv": job.argv,
        "final_state": state.value,
        "outcome": story[-1].record.body.get("outcome") or "denied",
    }


# 7. An anchored root vouches for the executor's TPM, its keys are what they should be, and its id follows from them.
def check_executor(proof: "Proof") -> None:
    """For each enrollment that a round of this story names."""
    for index in sorted({one.enrollment for one in rounds(proof)}):
        record = proof.at(index)
        if record.type != "executor.enrolled":
            raise mismatch(f"record {index} is not an enrollment")
        body = record.body
        ek_public = parse_public(proof.bundle.blob(body["ek_public"]), reasons=EK)
        check_ek_template(ek_public)
        leaf, *intermediates = [proof.bundle.blob(digest) for digest in body["ek_chain"]]
        ek = verify_ek_certificate(
            leaf,
            intermediates,
            proof.anchors.ek_roots,
            at=datetime.fromtimestamp(record.at / 1000, UTC),
            ek_public=ek_public,
            policy=proof.anchors.ek_policy,
        )
        ak = accept_attestation_key(parse_public(proof.bundle.blob(body["ak_public"])))
        load_p256(proof.bundle.blob(body["session_key"]))
        if ak.name.hex() != body["ak"] or executor_id(ek_public.raw) != body["executor"]:
            raise mismatch("the executor's id or the Name of its key does not follow from its keys")
        if ek.virtual != body["virtual"]:
            raise mismatch("the record is wrong about whether the executor's TPM is virtual")
        proof.facts |= {"executor": body["executor"], "virtual": ek.virtual, "tpm_manufacturer": ek.manufacturer}
    requested = proof.story()[0].record.body["executor"]
    if proof.facts.get("executor", requested) != requested:
        raise mismatch("the evidence is of another executor than the dispatch was for")


# 8. The policies and baselines that were applied had been activated and approved before.
def check_policies(proof: "Proof") -> None:
    """Each by a record with a lower index than its first use."""
    for one in rounds(proof):
        _activated_before(proof, one.index, "appraisal", one.body["appraisal_policy"])
        if one.body["baseline"] is not None:
            approved = [
                record.body["operator"]
                for index, record in proof.of_type("baseline.approved")
                if index < one.index and record.body["baseline"] == one.body["baseline"]
            ]
            if not approved:
                raise mismatch(
                    f"baseline {one.body['baseline']} had not been approved when record {one.index} was written"
                )
            proof.facts["baseline_approved_by"] = approved[-1]
    for index, body in decisions(proof):
        _activated_before(proof, index, "dispatch", body["dispatch_policy"])


def _activated_before(proof: "Proof", index: int, which: str, digest: str) -> None:
    proof.bundle.blob(digest)
    if not any(at < index and record.body[which] == digest for at, record in proof.of_type("policy.activated")):
        raise mismatch(f"the {which} policy {digest} had not been activated when record {index} was written")


# 9. Each piece of evidence was made for this purpose, this job and this authorization.
def check_quotes(proof: "Proof") -> None:
    """What a quote must be bound to is computed here, never read; nonces are never used twice."""
    authorization, request = proof.bundle.authorization, proof.story()[0].record.body
    job = bytes.fromhex(request["job_digest"])
    seen: set[str] = set()
    for one in rounds(proof):
        body = one.body
        bindings = [bytes.fromhex(binding) for binding in body["bindings"]]
        if body["nonce"] in seen or len(body["nonce"]) != 64:
            raise ProofError(GateReason.CHALLENGE_USED, f"the nonce of record {one.index} is not fresh")
        seen.add(body["nonce"])
        purpose = Purpose(body["purpose"])
        wanted: list[bytes] | None = None
        if purpose is Purpose.DISPATCH and one.kind == "policy.evaluated":
            wanted = [job]
        elif purpose is Purpose.START and one.kind != "policy.evaluated":
            wanted = [authorization.encode(), job]
        elif purpose is Purpose.RUNTIME and one.kind == "attestation.passed":
            live = frozenset(one.body["live"])
            wanted = [live_set_digest(live)] if authorization in live else None
        elif one.kind in REFUSALS:
            wanted = bindings  # a refusal needs no binding to this job: drift seen by any round counts
        if wanted is None or wanted != bindings:
            raise mismatch(f"the quote of record {one.index} was not made for this authorization")
        if one.evidence is not None and one.evidence.digest() != body["evidence"]:
            raise mismatch(f"record {one.index} names other evidence than its manifest")


# 10. Appraising the evidence again gives the recorded verdicts.
def check_appraisals(proof: "Proof") -> None:
    """From the enrollment on, in the order in which it happened."""
    history = _History(proof)
    for one in rounds(proof):
        history.follow(one)


class _History:
    """One executor's rounds, followed through the bundle."""

    def __init__(self, proof: "Proof") -> None:
        self.proof = proof
        self.entries = _whole_list(proof)
        self.clocks: dict[int, Progress] = {}
        self.judged: dict[str, int] = {}

    def follow(self, one: "Round") -> None:
        """Appraise one round again."""
        if one.enrollment not in self.clocks:
            self._enrollment(one.enrollment)
        policy = AppraisalPolicy(self.proof.bundle.blob(one.body["appraisal_policy"]), "the recorded appraisal policy")
        rules = policy.for_class(one.body["class"])
        if one.evidence is None:
            if one.body["verdict"]["trusted"] is not False:
                raise mismatch(f"record {one.index} trusts an executor that gave no evidence")
            return
        previous = Progress.decode(one.body["previous"])
        self._plausible(one, previous)
        baseline = None
        if one.body["baseline"] is not None:
            baseline = parse_baseline(self.proof.bundle.blob(one.body["baseline"]))
        question = Question(
            key=_attestation_key(self.proof, one.enrollment),
            qualifying_data=qualifying_data(
                Purpose(one.body["purpose"]),
                bytes.fromhex(one.body["nonce"]),
                *[bytes.fromhex(binding) for binding in one.body["bindings"]],
            ),
            policy=rules,
            baseline=baseline,
            baseline_rules=None if baseline is None else ima_rules(baseline),
            previous=previous,
            now_ms=one.body["now"],
        )
        again = appraise(one.evidence, question)
        if again.verdict.encode() != one.body["verdict"]:
            raise mismatch(f"appraising the evidence of record {one.index} again gives another verdict")
        if again.progress is not None:
            self.clocks[one.enrollment] = again.progress
        if again.verdict.trusted and question.baseline_rules is not None and rules.ima is not None:
            earlier = self.entries[: previous.ima.entries]
            if len(earlier) > self.judged.get(one.body["baseline"], 0):
                appraise_ima(VerifiedImaEntries(0, earlier), question.baseline_rules, pcrs=one.evidence.pcrs)
                self.judged[one.body["baseline"]] = len(earlier)

    def _enrollment(self, index: int) -> None:
        self.clocks[index] = Progress()
        body = self.proof.at(index).body["round"]
        self.follow(Round(index, "executor.enrolled", index, body, _evidence(self.proof, body)))

    def _plausible(self, one: "Round", previous: Progress) -> None:
        """What a round took over must follow from what is here: counters go on, and the list is the list."""
        last = self.clocks[one.enrollment].clock
        if previous.clock is not None and last is not None and previous.clock != last:
            check_clock(last, previous.clock)
        if (previous.clock is None) != (last is None):
            raise mismatch(f"record {one.index} does not continue the rounds before it")
        for bank, value in previous.ima.pcrs.items():
            listed = self.entries[: previous.ima.entries]
            if len(listed) != previous.ima.entries or extend(bytes(len(value)), listed, bank)[1] != value:
                raise mismatch(
                    f"the measurement list in the bundle is not the one that record {one.index} went on from"
                )


# 11. Evaluating the dispatch policy again gives the recorded decisions, and they were followed.
def check_decisions(proof: "Proof") -> None:
    """The request is compared with what was verified, so that the policy was asked about this job and this verdict."""
    story = proof.story()
    asked = story[0].record.body
    for index, body in decisions(proof):
        policy = DispatchPolicy(proof.bundle.blob(body["dispatch_policy"]), "the recorded dispatch policy")
        request = Request.decode(body["request"])
        decision = policy.decide(request)
        if decision.encode() != body["decision"]:
            raise mismatch(f"evaluating the dispatch policy of record {index} again gives another decision")
        judged = body.get("round", body)
        context = request.context
        job = asked["job"]
        expected = (
            asked["orchestrator"],
            asked["executor"],
            judged["verdict"]["trusted"],
            asked["job_digest"],
            *(job[name] for name in ("workflow", "run", "step", "attempt")),
        )
        found = (
            request.orchestrator,
            request.executor,
            context["trusted"],
            context["job"],
            *(context[name] for name in ("workflow", "run", "step", "attempt")),
        )
        if found != expected:
            raise mismatch(f"the policy was asked about something else in record {index}")
        follows = next((one.record.type for one in story if one.index > index), "")
        permitted = decision.permitted and judged["verdict"]["trusted"] is True
        granted = follows in {"authorization.issued", "authorization.renewed"}
        no_time_left = permitted and follows == "authorization.revoked"
        if permitted is not granted and not no_time_left:
            raise mismatch(f"what followed record {index} is not what was decided")


# 12. The artifacts are those that were recorded, signed by keys that the log key introduced, in one chain.
def check_artifacts(proof: "Proof") -> None:
    """One artifact for each record that issued one, and no other."""
    anchors = proof.anchors
    log_key = _p256(anchors.log_key.public_key)
    issuers: dict[str, IssuerKey] = {}
    introduced: dict[str, int] = {}
    for index, record in proof.of_type("key.introduced"):
        known = verify_introduction(
            record.body["statement"].encode(), bytes.fromhex(record.body["signature"]), log_key, anchors.origin
        )
        issuers[known.kid] = IssuerKey(known.key, known.not_before, known.expires)
        introduced.setdefault(known.kid, index)
    tokens = _tokens(proof)
    previous: tuple[str, ArtifactClaims] | None = None
    for one in proof.story():
        if one.record.type not in {"authorization.issued", "authorization.renewed"}:
            continue
        stated = one.record.body["claims"]
        token = tokens.pop(stated["ren"]["n"], None)
        if token is None:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"the artifact that record {one.index} issued is not here")
        claims = artifact.verify(
            token, keys=issuers, issuer=anchors.issuer, audience=anchors.audience, now=stated["iat"]
        )
        _check_claims(proof, one.index, one.record, claims)
        if introduced[one.record.body["kid"]] > one.index:
            raise ProofError(GateReason.LINEAGE_KEY, f"record {one.index} uses a key that was introduced later")
        if previous is not None:
            artifact.verify_renewal(previous[1], claims, previous_token=previous[0])
        previous = (token, claims)
    if tokens:
        raise mismatch("the bundle contains an artifact that no record issued")
    proof.facts["artifacts"] = 0 if previous is None else previous[1].ren.n + 1


def _check_claims(proof: "Proof", index: int, record: Record, claims: ArtifactClaims) -> None:
    stated = claims.model_dump(exclude_none=True)
    place = stated.pop("lin")
    if stated != record.body["claims"]:
        raise mismatch(f"the artifact says something else than record {index}")
    if place["index"] != index or place["origin"] != proof.anchors.origin:
        raise mismatch(f"the artifact of record {index} names another place in the lineage")
    asked = proof.story()[0].record.body
    enrolled = proof.at(next(one.enrollment for one in rounds(proof))).body
    session = thumbprint(load_p256(proof.bundle.blob(enrolled["session_key"])))
    expected = (asked["executor"], asked["job_digest"], proof.bundle.authorization, enrolled["ak"], session)
    if (claims.sub, claims.job, claims.jti, claims.ak, claims.cnf.jkt) != expected:
        raise mismatch(f"the artifact of record {index} is for another executor, job, authorization or session")
    basis = [one for one in rounds(proof) if one.index < index and one.evidence is not None]
    if not basis or basis[-1].body["evidence"] != claims.ev:
        raise mismatch(f"the artifact of record {index} does not rest on the evidence before it")


# 13. Between two good quotes no more time passed than the lease allowed; nothing was renewed without one.
def check_continuity(proof: "Proof") -> None:
    """From the first artifact to the end of authority."""
    good: list[int] = []
    leased_until: int | None = None
    largest = allowed = 0
    trusted = False
    for one in proof.story():
        kind, body = one.record.type, one.record.body
        judged = body.get("round", body) if kind in {"policy.evaluated", "attestation.passed"} else None
        if judged is not None:
            trusted = judged["verdict"]["trusted"] is True
            if trusted:
                if leased_until is not None and judged["now"] > leased_until:
                    raise ProofError(GateReason.BUNDLE_CONTINUITY, f"record {one.index} came after the lease had ended")
                if good:
                    largest = max(largest, judged["now"] - good[-1])
                good.append(judged["now"])
        elif kind in REFUSALS:
            trusted = False
        elif kind in {"authorization.issued", "authorization.renewed"}:
            if not trusted:
                raise ProofError(
                    GateReason.BUNDLE_CONTINUITY, f"record {one.index} renewed a lease without a good quote"
                )
            leased_until = body["claims"]["exp"] * 1000
            allowed = max(allowed, leased_until - good[-1])
    if largest > allowed:
        raise ProofError(
            GateReason.BUNDLE_CONTINUITY, f"{largest} ms passed between two good quotes, {allowed} were allowed"
        )
    proof.facts |= {"good_quotes": len(good), "largest_gap_ms": largest, "allowed_gap_ms": allowed}


# 14. What ended it is recorded, and if trust failed, the job was stopped.
def check_outcome(proof: "Proof") -> None:
    """A revoked authorization that was running must have been interrupted, or have ended before that."""
    by_type: dict[str, Record] = {}
    for one in proof.story():
        by_type.setdefault(one.record.type, one.record)
    requested = by_type["dispatch.requested"]
    revoked, closed = by_type.get("authorization.revoked"), by_type.get("execution.closed")
    if "authorization.denied" in by_type:
        proof.facts["reason"] = by_type["authorization.denied"].body["reason"]
        return
    if closed is None:
        raise lifecycle("nothing says how the execution ended")
    proof.facts["intent_to_authorization_ms"] = by_type["authorization.issued"].at - requested.at
    if revoked is None:
        proof.facts["exit_status"] = closed.body.get("exit_status")
        return
    proof.facts["reason"] = revoked.body["reason"]
    interrupted = by_type.get("execution.interrupted")
    if "execution.started" in by_type and interrupted is None and closed.body.get("outcome") == "killed":
        raise lifecycle("the job was killed, and no record says that it was interrupted")
    if interrupted is not None:
        good = [one.record.body["now"] for one in proof.story() if one.record.type == "attestation.passed"]
        proof.facts["revoked_to_interrupted_ms"] = interrupted.at - revoked.at
        proof.facts["exposure_at_most_ms"] = interrupted.at - good[-1] if good else None


# --- what several checks look at ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Round:
    """A round of proof as a record tells it."""

    index: int
    kind: str
    enrollment: int
    body: dict[str, Any]
    evidence: Evidence | None


def rounds(proof: "Proof") -> list[Round]:
    """The rounds of this story, in order."""
    found = []
    for one in proof.story():
        body = one.record.body.get("round") if one.record.type == "policy.evaluated" else one.record.body
        if one.record.type not in {"policy.evaluated", "attestation.passed", *REFUSALS} or body is None:
            continue
        if "nonce" in body:  # an overdue lease is a deadline that passed, without any challenge
            found.append(Round(one.index, one.record.type, body["enrollment"], body, _evidence(proof, body)))
    return found


def decisions(proof: "Proof") -> Iterator[tuple[int, dict[str, Any]]]:
    """The records that contain a decision of the dispatch policy."""
    for one in proof.story():
        if "decision" in one.record.body:
            yield one.index, one.record.body


def _evidence(proof: "Proof", body: dict[str, Any]) -> Evidence | None:
    manifest = body["manifest"]
    if manifest is None:
        return None
    return Evidence(
        attest=proof.bundle.blob(manifest["attest"]),
        signature=proof.bundle.blob(manifest["signature"]),
        pcrs={
            bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
            for bank, values in manifest["pcrs"].items()
        },
        event_log=proof.bundle.blob(manifest["event_log"]),
        ima_offset=manifest["ima"]["offset"],
        ima=proof.bundle.blob(manifest["ima"]["entries"]),
    )


def _attestation_key(proof: "Proof", enrollment: int) -> AttestationKey:
    return accept_attestation_key(parse_public(proof.bundle.blob(proof.at(enrollment).body["ak_public"])))


def _whole_list(proof: "Proof") -> ImaEntries:
    data = b"".join(proof.bundle.blob(digest) for digest in proof.bundle.ima)
    return parse_ima_list(data, format="ascii").entries if data else ImaEntries([], "sha1")


def _tokens(proof: "Proof") -> dict[int, str]:
    """The artifacts among the blobs, by their number in the chain."""
    issued = {
        one.record.body["claims"]["ren"]["n"]: one.index
        for one in proof.story()
        if one.record.type in {"authorization.issued", "authorization.renewed"}
    }
    named = proof.bundle.artifacts
    if sorted(issued) != list(range(len(named))):
        raise mismatch(f"{len(named)} artifacts are here, and {len(issued)} were issued")
    return {number: proof.bundle.blob(digest).decode("ascii") for number, digest in enumerate(named)}


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProofError(GateReason.CHECKPOINT_KEY, "the log key is not on P-256")
    return key
