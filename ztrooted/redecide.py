"""A recorded decision made again, from nothing but bytes: the evidence, the rules, and the instant.

The gateway replays recorded decisions under policies that are not in force yet; an auditor decides them again under the
recorded ones and compares. Both use ``decide_again``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tpm.attestation_key import accept_attestation_key
from tpm.public import parse_public
from ztrooted.appraisal import Question, appraise
from ztrooted.appraisal_policy import NO_CLASS, NO_RULES, Subject
from ztrooted.ar4si import vector_of
from ztrooted.delegation import Delegation
from ztrooted.dispatch_context import Facts, Parent, policy_request
from ztrooted.errors import PolicyError
from ztrooted.evidence import Evidence, Purpose, qualifying_data
from ztrooted.policies import Policies
from ztrooted.policy import Decision, Request
from ztrooted.progress import Progress
from ztrooted.reference import Reference
from ztrooted.results import tier
from ztrooted.verdict import Verdict

Blob = Callable[[str], bytes]


@dataclass(frozen=True, slots=True)
class Recorded:
    """A decision as the lineage has it: its round, the question, and what was asked for.

    ``round`` is the recorded body of the round; ``request`` and ``decision`` are None for a round without a question.
    ``asked`` is the body of ``dispatch.requested``, ``enrolled`` that of ``executor.enrolled``.
    """

    index: int
    round: Mapping[str, Any]
    request: Mapping[str, Any] | None
    decision: Mapping[str, Any] | None
    enrolled: Mapping[str, Any]
    asked: Mapping[str, Any] | None

    @property
    def permitted(self) -> bool:
        """Whether it was a yes."""
        return self.round["verdict"]["trusted"] is True and (
            self.decision is None or self.decision["permitted"] is True
        )


@dataclass(frozen=True, slots=True)
class Again:
    """The decision, made again."""

    verdict: Verdict
    request: Request | None
    decision: Decision | None

    @property
    def permitted(self) -> bool:
        """Whether it is a yes."""
        return self.verdict.trusted and (self.decision is None or self.decision.permitted)


def evidence_of(body: Mapping[str, Any], blob: Blob) -> Evidence | None:
    """The evidence of a recorded round, from its parts; None where none came."""
    manifest = body["manifest"]
    if manifest is None:
        return None
    return Evidence(
        attest=blob(manifest["attest"]),
        signature=blob(manifest["signature"]),
        pcrs={
            bank: {int(index): bytes.fromhex(value) for index, value in values.items()}
            for bank, values in manifest["pcrs"].items()
        },
        event_log=blob(manifest["event_log"]),
        ima_offset=manifest["ima"]["offset"],
        ima=blob(manifest["ima"]["entries"]),
    )


def decide_again(
    recorded: Recorded, policies: Policies, reference_of: Callable[[str], Reference | None], blob: Blob
) -> Again:
    """Appraise the evidence and ask the dispatch policy, both under ``policies``, at the recorded instant.

    ``reference_of`` gives the baseline in force for a class. KeyError or GateError where the record or its bytes are not
    complete.
    """
    body, enrolled = recorded.round, recorded.enrolled
    subject = Subject(body["executor"], enrolled["virtual"], enrolled["manufacturer"], body["labels"])
    evidence = evidence_of(body, blob)
    try:
        executor_class = policies.appraisal.class_of(subject)
        rules = policies.appraisal.for_class(executor_class)
        unclassed = None
    except PolicyError as error:
        executor_class, rules = NO_CLASS, NO_RULES
        unclassed = Verdict.without_class(error, body["now"])
    reference = None if unclassed else reference_of(executor_class)
    if unclassed is not None:
        verdict = unclassed  # whatever it showed: under these rules nothing would have been believed
    elif evidence is None:
        # Nobody answered, so the rules had nothing to judge: the verdict stands as it is.
        verdict = Verdict.decode(body["verdict"])
    else:
        nonce, bindings = bytes.fromhex(body["nonce"]), [bytes.fromhex(one) for one in body["bindings"]]
        question = Question(
            key=accept_attestation_key(parse_public(blob(enrolled["ak_public"]))),
            qualifying_data=qualifying_data(Purpose(body["purpose"]), nonce, *bindings),
            policy=rules,
            reference=reference,
            previous=Progress.decode(body["previous"]),
            now_ms=body["now"],
            virtual=enrolled["virtual"],
        )
        verdict = appraise(evidence, question).verdict
    if recorded.request is None or recorded.asked is None:
        return Again(verdict, None, None)
    asked, before = recorded.asked, Request.decode(recorded.request)
    facts = Facts(
        orchestrator=asked["orchestrator"],
        executor=asked["executor"],
        executor_class=executor_class,
        virtual=enrolled["virtual"],
        proved=tier(rules, trusted=verdict.trusted, virtual=enrolled["virtual"]),
        trusted=verdict.trusted,
        job=asked["job"],
        job_digest=asked["job_digest"],
        now_ms=body["now"],
        manufacturer=enrolled["manufacturer"],
        max_runtime_s=before.context["max_runtime_s"],
        labels=body["labels"],
        baseline_at=None if reference is None else reference.baseline.captured_at,
        vector=vector_of(verdict, rules, virtual=enrolled["virtual"]).as_context(),
        delegation=Delegation.model_validate(asked["delegation"]).facts(),
        parent=_parent(before.context.get("parent")),
    )
    request = policy_request(before.action, facts, policies.entities)
    return Again(verdict, request, policies.dispatch.decide(request))


def _parent(told: Mapping[str, Any] | None) -> Parent | None:
    """The parent as the policy was told of it; whether that was true is for the bundle to show."""
    if told is None:
        return None
    return Parent(
        authorization=told["authorization"],
        orchestrator=told["orchestrator"]["__entity"]["id"],
        executor=told["executor"],
        workflow=told["workflow"],
        step=told["step"],
        depth=told["depth"],
        children=told["children"],
        tier=told["tier"],
    )


def differences(recorded: Recorded, again: Again) -> tuple[str, ...]:
    """Which parts of a decision do not come out as they were recorded; none when all bytes are the same."""
    found = []
    if again.verdict.encode() != recorded.round["verdict"]:
        found.append("verdict")
    if again.request is not None and again.request.encode() != recorded.request:
        found.append("request")
    if again.decision is not None and again.decision.encode() != recorded.decision:
        found.append("decision")
    return tuple(found)
