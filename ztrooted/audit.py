"""The checks of ``ztrooted.verify`` that are about keys, rules and permissions: whose they were, and whether they held.

The story and its rounds are next door, in ``ztrooted.audit_story`` and ``ztrooted.audit_rounds``.
"""

from bisect import bisect_left, bisect_right
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from operator import attrgetter, itemgetter
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric import ec

from tpm.attestation_key import accept_attestation_key, accept_signing_key
from tpm.certify import verify_certify
from tpm.counter import NvPublic, parse_nv_public, verify_counter
from tpm.ek_template import check_ek_template
from tpm.endorsement import verify_ek_certificate
from tpm.public import EK, parse_public
from ztrooted import artifact, jose
from ztrooted.anchors import Anchors
from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.ar4si import vector_of
from ztrooted.artifact import ArtifactClaims
from ztrooted.audit_rounds import Round, approval, baseline_at, check_class, check_evidence_name, class_rules, mismatch
from ztrooted.bundle import ProvenRecord
from ztrooted.checkpoint import verify_counter_line
from ztrooted.delegation import ends_ms
from ztrooted.dispatch_context import Facts, policy_request
from ztrooted.enrollment import transcript
from ztrooted.entities import Entities
from ztrooted.errors import ProofError
from ztrooted.evidence import Purpose
from ztrooted.issuer import certify_qualifying_data, verify_introduction
from ztrooted.jose import IssuerKey, thumbprint
from ztrooted.keys import executor_id, load_p256, spki
from ztrooted.merkle import head_at
from ztrooted.models import EnrollmentRequest
from ztrooted.policy import Decision, DispatchPolicy, Request
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.results import tier, tier_name
from ztrooted.verdict import Verdict

if TYPE_CHECKING:
    from ztrooted.verify import Proof

GRANTS = frozenset({"authorization.issued", "authorization.renewed"})


# 4. The log key lives in the gateway's TPM, and signs in the anchored state only.
def check_log_key(proof: "Proof") -> None:
    """The identity a gateway started with. Where the checkpoint is an anchor, what the TPM's counter was."""
    for _, record in proof.of_type("gateway.started"):
        counter = check_identity(record.body["identity"], proof.anchors)
        value = verify_counter_line(proof.bundle.checkpoint, ak=proof.anchors.gateway_ak, counter=counter)
        if value is not None:
            proof.facts["counter"] = value
        return
    raise ProofError(GateReason.BUNDLE_INCOMPLETE, "no record says with which keys the gateway started")


def check_identity(identity: dict[str, Any], anchors: Anchors) -> NvPublic:
    """The anchored attestation key certified the log key: the anchored one, whose policy is the anchored state.

    And the counter, which is returned: it goes up in that state only, too.
    """
    log_key = parse_public(bytes.fromhex(identity["log_key_public"]))
    accept_signing_key(log_key, anchors.sealing_policy)
    verify_certify(
        bytes.fromhex(identity["certify_attest"]),
        bytes.fromhex(identity["certify_signature"]),
        anchors.gateway_ak,
        qualifying_data=certify_qualifying_data(anchors.origin),
        certified=log_key,
    )
    if spki(_p256(log_key.key())) != anchors.log_key.material:
        raise ProofError(GateReason.CHECKPOINT_KEY, "the certified log key is not the anchored one")
    counter = parse_nv_public(bytes.fromhex(identity["counter_public"]))
    start = verify_counter(
        bytes.fromhex(identity["counter_attest"]),
        bytes.fromhex(identity["counter_signature"]),
        anchors.gateway_ak,
        qualifying_data=certify_qualifying_data(anchors.origin),
        counter=counter,
    )
    if counter.policy != log_key.auth_policy or str(start) != identity["counter_start"]:
        raise ProofError(
            GateReason.CHECKPOINT_SEAL, "the counter is not bound to the anchored state, or began elsewhere"
        )
    return counter


# 7. An anchored root vouches for the executor's TPM, its keys are what they should be, and its id follows from them.
def check_executor(proof: "Proof") -> None:
    """One story is about one enrollment of one executor: what was proved under another proves nothing here."""
    enrollments = {one.enrollment for one in proof.rounds}
    if len(enrollments) > 1:
        raise mismatch("the evidence is of more than one enrollment")
    for index in enrollments:  # none where the dispatch was denied before anybody was asked
        record = proof.at(index)
        if record.type != "executor.enrolled" or index > proof.rounds[0].index:
            raise mismatch(f"record {index} is not an enrollment that came before the rounds under it")
        _check_keys(proof, record)
        _check_enrollment_round(proof, Round(index, record.type, index, record.body["round"]), record)
        body = record.body
        if any(one.body["executor"] != body["executor"] for one in proof.rounds):
            raise mismatch("a round is of another executor than was enrolled")
        if proof.story()[0].record.body["executor"] != body["executor"]:
            raise mismatch("the evidence is of another executor than the dispatch was for")


def _check_keys(proof: "Proof", record: Record) -> None:
    """The chain of an enrollment, from an anchored root to the session key."""
    body, blob = record.body, proof.bundle.blob
    ek_public = parse_public(blob(body["ek_public"]), reasons=EK)
    check_ek_template(ek_public)
    leaf, *intermediates = [blob(digest) for digest in body["ek_chain"]]
    ek = verify_ek_certificate(
        leaf,
        intermediates,
        proof.anchors.ek_roots,
        at=datetime.fromtimestamp(record.at / 1000, UTC),
        ek_public=ek_public,
        policy=proof.anchors.ek_policy,
    )
    ak = accept_attestation_key(parse_public(blob(body["ak_public"])))
    load_p256(blob(body["session_key"]))
    if ak.name.hex() != body["ak"] or executor_id(ek_public.raw) != body["executor"]:
        raise mismatch("the executor's id or the Name of its key does not follow from its keys")
    if (ek.virtual, ek.manufacturer) != (body["virtual"], body["manufacturer"]):
        raise mismatch("the record is wrong about who made the executor's TPM, or whether it is virtual")
    proof.facts |= {"executor": body["executor"], "virtual": ek.virtual, "tpm_manufacturer": ek.manufacturer}


def _check_enrollment_round(proof: "Proof", one: Round, record: Record) -> None:
    """The quote of an enrollment was made for its session key, and the transcript is of what is here."""
    body, blob = record.body, proof.bundle.blob
    session_key = blob(body["session_key"])
    if one.body["purpose"] != Purpose.ENROLL or one.body["bindings"] != [session_key.hex()]:
        raise mismatch("the quote of the enrollment was not made for its session key")
    named = (one.body["executor"], one.body["class"], one.now_ms)
    if named != (body["executor"], body["class"], record.at):
        raise mismatch("the round of the enrollment is of another executor, class or time")
    check_evidence_name(proof, one)
    leaf, *chain = [blob(digest) for digest in body["ek_chain"]]
    asked = EnrollmentRequest(
        ek_public=blob(body["ek_public"]),
        ek_certificate=leaf,
        ek_chain=chain,
        ak_public=blob(body["ak_public"]),
        session_key=session_key,
    )
    if transcript(body["enrollment"], bytes.fromhex(one.body["nonce"]), asked).hex() != body["transcript"]:
        raise mismatch("the transcript of the enrollment is not that of what was said")


# 8. The policies and baselines that were applied had been activated and approved before.
def check_policies(proof: "Proof") -> None:
    """Each by a record with a lower index than its first use."""
    for one in proof.rounds:
        _activated_before(proof, one.index, "appraisal", one.body["appraisal_policy"])
        check_class(proof, one, proof.at(one.enrollment).body)
        if one.body["baseline"] is not None:
            proof.facts["baseline_approved_by"] = approval(proof, one)["operator"]
    for index, body in proof.decisions:
        _activated_before(proof, index, "dispatch", body["dispatch_policy"])
        _activated_before(proof, index, "entities", body["entities"])


def _activated_before(proof: "Proof", index: int, which: str, digest: str) -> None:
    proof.bundle.blob(digest)
    if not any(at < index and record.body[which] == digest for at, record in proof.of_type("policy.activated")):
        raise mismatch(f"the {which} policy {digest} had not been activated when record {index} was written")


# 12. Evaluating the dispatch policy again gives the recorded decisions, and they were followed.
def check_decisions(proof: "Proof") -> None:
    """The request is made again from what was verified, so the policy was asked about this job and this verdict."""
    story = proof.story()
    follows = {one.index: after.record.type for one, after in pairwise(story)}
    decided = dict(proof.decisions)
    policies: dict[str, DispatchPolicy] = {}
    entities: dict[str, Entities] = {}
    asked: tuple[str, Request] | None = None
    decision: Decision | None = None
    question: tuple[str, str, Facts, Request] | None = None
    for one in proof.rounds:
        led_to = follows.get(one.index, "")
        body = decided.get(one.index)
        if body is None:
            if one.trusted:
                raise mismatch(f"record {one.index} goes on without asking the dispatch policy")
            continue
        digest, listed = body["dispatch_policy"], body["entities"]
        if digest not in policies:
            policies[digest] = DispatchPolicy(proof.bundle.blob(digest), "the recorded dispatch policy")
        if listed not in entities:
            entities[listed] = Entities(proof.bundle.blob(listed), "the recorded entities")
        action, facts = _facts(proof, one)
        # Most rounds ask what the one before asked, and the answer is a function of that.
        if question is None or question[:2] != (action, listed) or not facts.asks_like(question[2]):
            question = action, listed, facts, policy_request(action, facts, entities[listed])
        request = question[3]
        if request.encode() != body["request"]:
            raise mismatch(f"the policy was asked about something else in record {one.index}")
        if asked != (digest, request):
            asked, decision = (digest, request), policies[digest].decide(request)
        if decision is None or decision.encode() != body["decision"]:
            raise mismatch(f"evaluating the dispatch policy of record {one.index} again gives another decision")
        permitted = decision.permitted and one.trusted
        no_time_left = permitted and led_to == "authorization.revoked"
        if permitted is not (led_to in {*GRANTS, "authorization.activated"}) and not no_time_left:
            raise mismatch(f"what followed record {one.index} is not what was decided")


def _facts(proof: "Proof", one: Round) -> tuple[str, Facts]:
    """What the dispatch policy has to be asked, and about what: it follows from what was verified, and nothing else."""
    asked, enrolled = proof.story()[0].record.body, proof.at(one.enrollment).body
    chain, rules, virtual = proof.chain, class_rules(proof, one), enrolled["virtual"]
    facts = Facts(
        orchestrator=asked["orchestrator"],
        executor=asked["executor"],
        executor_class=one.body["class"],
        virtual=virtual,
        manufacturer=enrolled["manufacturer"],
        proved=tier(rules, trusted=one.trusted, virtual=virtual),
        trusted=one.trusted,
        job=asked["job"],
        job_digest=asked["job_digest"],
        max_runtime_s=_max_runtime_s(proof),
        now_ms=one.now_ms,
        labels=one.body["labels"],
        vector=_vector(proof, one, rules, virtual=virtual),
        baseline_at=baseline_at(proof, one),
        delegation=proof.delegation.facts(),
        parent=None if chain is None else chain.parent_at(one.index).facts(chain.place),
    )
    asked_for = "dispatch" if chain is None else "delegate"
    return (asked_for if one.kind == "policy.evaluated" else "renew"), facts


def _vector(proof: "Proof", one: Round, rules: AppraisalClass, *, virtual: bool) -> dict[str, int]:
    """The AR4SI vector of a round, which follows from how its checks ended; that of the last round where all is alike."""
    told = one.body["verdict"]["checks"], rules, virtual
    if proof.last_vector is None or proof.last_vector[0] != told:
        found = vector_of(Verdict.decode(one.body["verdict"]), rules, virtual=virtual)
        proof.last_vector = told, found.as_context()
    return proof.last_vector[1]


# 13. The artifacts are those that were recorded, signed by keys that the log key introduced, in one chain.
def check_artifacts(proof: "Proof") -> None:
    """One artifact for each record that issued one, and no other; each says what follows from the round before it."""
    anchors = proof.anchors
    issuer, audience = anchors.issuer, anchors.audience
    log_key = _p256(anchors.log_key.public_key)
    issuers: dict[str, IssuerKey] = {}
    introduced: dict[str, int] = {}
    for index, record in proof.of_type("key.introduced"):
        known = verify_introduction(
            record.body["statement"].encode(), bytes.fromhex(record.body["signature"]), log_key, anchors.origin
        )
        issuers[known.kid] = IssuerKey(known.key, known.not_before, known.expires)
        introduced.setdefault(known.kid, index)
    grants = [one for one in proof.story() if one.record.type in GRANTS]
    if len(grants) != len(proof.bundle.artifacts):
        raise mismatch(f"{len(proof.bundle.artifacts)} artifacts are here, and {len(grants)} were issued")
    previous: tuple[str, ArtifactClaims] | None = None
    for number, (one, digest) in enumerate(zip(grants, proof.bundle.artifacts, strict=True)):
        token = proof.bundle.blob(digest).decode("ascii")
        parsed = jose.parse(token, typ=artifact.TYP)
        raw = artifact.verify_claims(parsed, keys=issuers, issuer=issuer, audience=audience, now=one.record.at // 1000)
        claims = artifact.parse_claims(raw)
        if parsed.kid != one.record.body["kid"] or introduced[parsed.kid] > one.index:
            raise ProofError(
                GateReason.LINEAGE_KEY, f"record {one.index} uses another key, or one that was introduced later"
            )
        if claims.ren.n != number:
            raise mismatch(f"the artifact of record {one.index} is number {claims.ren.n} of its chain, not {number}")
        _check_claims(proof, one, claims, raw)
        if previous is not None:
            artifact.verify_renewal(previous[1], claims, previous_token=previous[0])
        previous = (token, claims)
    proof.facts["artifacts"] = len(grants)


def _check_claims(proof: "Proof", one: ProvenRecord, claims: ArtifactClaims, raw: dict[str, Any]) -> None:
    """The artifact says what its record says, and that is what follows from what was verified."""
    stated = dict(raw)
    place = stated.pop("lin")
    if stated != one.record.body["claims"]:
        raise mismatch(f"the artifact says something else than record {one.index}")
    head = proof.checkpoint.checkpoint
    root = head_at(one.leaf, one.index, head.size, one.proof)
    if place != {"origin": head.origin, "index": one.index, "size": one.index + 1, "root": root.hex()}:
        raise mismatch(f"the artifact of record {one.index} names another place in the lineage, or another lineage")
    basis = _basis(proof, one.index)
    expected = _expected_claims(proof, one.index, basis)
    if {name: stated[name] for name in stated if name not in {"exp", "ren"}} != expected:
        differing = sorted(name for name in expected if stated.get(name) != expected[name])
        raise mismatch(f"the artifact of record {one.index} says what was not verified: {', '.join(differing)}")
    if claims.exp > _latest_end(proof, one.index, basis):
        raise mismatch(f"the lease of record {one.index} is longer than its policy or its job allows")


def _latest_end(proof: "Proof", index: int, basis: Round) -> int:
    """When a lease may end at the latest, in seconds: a lease length after its quote, or with the maximum runtime."""
    begun = proof.activated is not None and proof.activated.index < index
    began_ms = proof.activated.record.at if proof.activated is not None and begun else basis.now_ms
    last_ms = began_ms + _max_runtime_s(proof) * 1000
    if proof.chain is not None:
        last_ms = min(last_ms, ends_ms(proof.chain.parent_at(index), basis.now_ms))
    end_ms = basis.now_ms + round(class_rules(proof, basis).lease_s * 1000)
    return min(end_ms // 1000, -(-last_ms // 1000))


def _max_runtime_s(proof: "Proof") -> int:
    """What was asked for, or what the parent had left where nothing was."""
    asked = proof.story()[0].record.body["max_runtime_s"]
    if proof.chain is not None:
        return proof.chain.max_runtime_s
    if type(asked) is not int:
        raise mismatch("the dispatch neither says how long it may run nor names a parent")
    return asked


def _basis(proof: "Proof", index: int) -> Round:
    """The round that a grant rests on: the last one before it."""
    number = bisect_left(proof.rounds, index, key=attrgetter("index"))
    if number == 0 or not proof.rounds[number - 1].trusted:
        raise mismatch(f"record {index} does not rest on a round of proof")
    return proof.rounds[number - 1]


def _expected_claims(proof: "Proof", index: int, basis: Round) -> dict[str, Any]:
    """Everything in an artifact that follows from intent, enrollment, parent, and the round it rests on."""
    asked, enrolled = proof.story()[0].record.body, proof.at(basis.enrollment).body
    job = asked["job"]
    _, decided = proof.decisions[bisect_right(proof.decisions, basis.index, key=itemgetter(0)) - 1]
    level = tier(class_rules(proof, basis), trusted=True, virtual=enrolled["virtual"])
    parent = {}
    if proof.chain is not None:
        level = min(level, proof.chain.parent_at(index).tier)
        parent = {"par": asked["parent"]}
    return {
        "iss": proof.anchors.issuer,
        "aud": proof.anchors.audience,
        "sub": asked["executor"],
        "jti": proof.bundle.authorization,
        "iat": basis.now_ms // 1000,
        "nbf": basis.now_ms // 1000,
        "cnf": {"jkt": _session_thumbprint(proof.bundle.blob(enrolled["session_key"]))},
        "ak": enrolled["ak"],
        "job": asked["job_digest"],
        "act": {"workflow": job["workflow"], "run": job["run"], "step": job["step"]},
        "lim": {"max_runtime_s": _max_runtime_s(proof)},
        "pol": {
            "appraisal": basis.body["appraisal_policy"],
            "dispatch": decided["dispatch_policy"],
            "entities": decided["entities"],
        },
        "ev": basis.body["evidence"],
        "tier": tier_name(level),
        **parent,
    }


@lru_cache(maxsize=16)
def _session_thumbprint(key: bytes) -> str:
    return thumbprint(load_p256(key))


def _p256(key: object) -> ec.EllipticCurvePublicKey:
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProofError(GateReason.CHECKPOINT_KEY, "the log key is not on P-256")
    return key
