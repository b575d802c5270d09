"""The checks of ``ztrooted.verify`` that are about rounds of proof: what each quote was made for, and what it is worth.

A round is stored with everything its appraisal depended on, so each is appraised again from the bytes. What one round took
over from the one before is checked against the rounds in the bundle: the TPM's counters may only have gone on, and the
measurement list may only have grown.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from pydantic_core import to_json

from tpm.attestation_key import AttestationKey, accept_attestation_key
from tpm.ima_appraisal import appraise_ima
from tpm.ima_entry import ImaEntries
from tpm.ima_replay import ImaState, VerifiedImaEntries, extend
from tpm.public import parse_public
from tpm.quote import check_clock
from ztrooted import limits
from ztrooted.appraisal import Appraisal, Before, Question, appraise, required_checks
from ztrooted.appraisal_policy import NO_CLASS, NO_RULES, AppraisalClass, AppraisalPolicy, Subject
from ztrooted.errors import PolicyError, ProofError
from ztrooted.evidence import Evidence, Purpose, live_set_digest, qualifying_data, sha256
from ztrooted.progress import Progress
from ztrooted.reasons import GateReason
from ztrooted.reference import Reference
from ztrooted.remembered import listed_entries
from ztrooted.verdict import Check, Verdict

if TYPE_CHECKING:
    from ztrooted.verify import Proof

REFUSALS = frozenset({"attestation.failed", "attestation.overdue"})
KINDS = frozenset({"policy.evaluated", "attestation.passed"}) | REFUSALS


def mismatch(detail: str) -> ProofError:
    """Two things that have to agree do not."""
    return ProofError(GateReason.BUNDLE_MISMATCH, detail)


@dataclass(frozen=True, slots=True)
class Round:
    """A round of proof as a record tells it; ``enrollment`` is the index of the record its executor enrolled with."""

    index: int
    kind: str
    enrollment: int
    body: dict[str, Any]

    @property
    def trusted(self) -> bool:
        """The recorded verdict in one word."""
        return self.body["verdict"]["trusted"] is True

    @property
    def now_ms(self) -> int:
        """The instant it was judged at."""
        return int(self.body["now"])

    def evidence(self, proof: "Proof") -> Evidence | None:
        """The evidence from its parts, put together once, or None where none came."""
        manifest = self.body["manifest"]
        if manifest is None:
            return None
        if self.index in proof.evidence:
            return proof.evidence[self.index]
        proof.evidence[self.index] = Evidence(
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
        return proof.evidence[self.index]


def read_rounds(proof: "Proof") -> tuple[Round, ...]:
    """The rounds of the story, in order. Each record that stands for a round must contain one.

    The one exception is a lease that ended: a deadline that passed, without any challenge.
    """
    found = []
    for one in proof.story():
        kind, body = one.record.type, one.record.body
        if kind not in KINDS or (kind == "attestation.overdue" and body["verdict"] is None):
            continue
        body = body["round"] if kind == "policy.evaluated" else body
        judged = Round(one.index, kind, body["enrollment"], body)
        if type(judged.enrollment) is not int or judged.now_ms != one.record.at:
            raise mismatch(f"record {one.index} does not say when and of whom its round was")
        if kind != "policy.evaluated" and judged.trusted is not (kind == "attestation.passed"):
            raise mismatch(f"record {one.index} of type {kind} has another verdict")
        found.append(judged)
    return tuple(found)


# 9. Each piece of evidence was made for this purpose, this job and this authorization.
def check_quotes(proof: "Proof") -> None:
    """What a quote must be bound to is computed here, never read; nonces are never used twice."""
    story = proof.story()
    follows = {one.index: after.record.type for one, after in pairwise(story)}
    seen: set[bytes] = set()
    for one in proof.rounds:
        body = one.body
        bindings = [bytes.fromhex(binding) for binding in body["bindings"]]
        nonce = bytes.fromhex(body["nonce"])
        if nonce in seen or len(nonce) != limits.NONCE:
            raise ProofError(GateReason.CHALLENGE_USED, f"the nonce of record {one.index} is not fresh")
        seen.add(nonce)
        if one.kind not in REFUSALS and _binding(proof, one, follows.get(one.index, "")) != bindings:
            # A refusal needs no binding to this job: drift seen by any round counts.
            raise mismatch(f"the quote of record {one.index} was not made for this authorization")
        check_evidence_name(proof, one)


def _binding(proof: "Proof", one: Round, follows: str) -> list[bytes] | None:
    """What the quote of a round had to be bound to, by what it led to; None where its purpose is another."""
    purpose, authorization = Purpose(one.body["purpose"]), proof.bundle.authorization
    job = bytes.fromhex(proof.story()[0].record.body["job_digest"])
    if one.kind == "policy.evaluated":
        return [job] if purpose is Purpose.DISPATCH else None
    begun = proof.activated is not None and proof.activated.index < one.index
    if follows == "authorization.activated" or (purpose is Purpose.START and not begun):
        return [authorization.encode(), job] if purpose is Purpose.START and not begun else None
    live = frozenset(one.body["live"])
    return [live_set_digest(live)] if purpose is Purpose.RUNTIME and authorization in live else None


def check_evidence_name(proof: "Proof", one: Round) -> None:
    """The evidence is the one that the record names. ProofError ``bundle.mismatch``."""
    evidence, manifest = one.evidence(proof), one.body["manifest"]
    named = None
    if evidence is not None:
        same = manifest == evidence.manifest(proof.bundle.name)
        # As a part of a record it is in its canonical order already, which need not be found again.
        named = sha256(to_json(manifest)) if same else evidence.digest(proof.bundle.name)
    if one.body["evidence"] != named:
        raise mismatch(f"record {one.index} names other evidence than its manifest")


# 10. Appraising the evidence again gives the recorded verdicts.
def check_appraisals(proof: "Proof") -> None:
    """From the enrollment on, in the order in which it happened."""
    history = _History(proof)
    for one in proof.rounds:
        history.follow(one)
    history.check_whole_list()


class _History:
    """One executor's rounds, followed through the bundle."""

    def __init__(self, proof: "Proof") -> None:
        self.proof = proof
        self.entries = _whole_list(proof)
        self.needed = 0
        self.clocks: dict[int, Progress] = {}
        self.judged: dict[tuple[str | None, str, str], int] = {}
        self.replayed: dict[str, tuple[int, bytes]] = {}
        self.approved: dict[tuple[str, int | None], Reference] = {}
        self.before = Before()
        # What the last round had, as it was recorded and as it was read: most have the same.
        self.listed: tuple[Any, ImaState] | None = None
        self.plausible: ImaState | None = None
        self.found: tuple[tuple[Check, ...], dict[str, Any]] = ((), {})

    def follow(self, one: Round) -> None:
        """Appraise one round again."""
        if one.enrollment not in self.clocks:
            self._enrollment(one.enrollment)
        if one.body["manifest"] is None:
            if one.trusted:
                raise mismatch(f"record {one.index} trusts an executor that gave no evidence")
            return
        previous = self._previous(one.body["previous"])
        self._plausible(one, previous)
        again, evidence = self._appraise(one, previous)
        if again.progress is not None:
            self.clocks[one.enrollment] = again.progress
        digest = one.body["baseline"]
        rules = class_rules(self.proof, one)
        listed = "files" in required_checks(rules)
        by = (digest, one.body["appraisal_policy"], one.body["class"])
        count = min(previous.ima.entries, len(self.entries))
        if again.verdict.trusted and listed and count > self.judged.get(by, 0):
            allow = None if digest is None else _baseline(self.proof, digest).allow
            earlier = VerifiedImaEntries(0, self.entries[:count])
            appraise_ima(earlier, rules.ima_rules(allow), pcrs=evidence.pcrs)
            self.judged[by] = count

    def _appraise(self, one: Round, previous: Progress) -> tuple[Appraisal, Evidence]:
        evidence = one.evidence(self.proof)
        if evidence is None:
            raise mismatch(f"record {one.index} has no evidence")
        digest = one.body["baseline"]
        question = Question(
            key=_attestation_key(self.proof, one.enrollment),
            qualifying_data=qualifying_data(
                Purpose(one.body["purpose"]),
                bytes.fromhex(one.body["nonce"]),
                *[bytes.fromhex(binding) for binding in one.body["bindings"]],
            ),
            policy=class_rules(self.proof, one),
            reference=None if digest is None else self._approved(one, digest),
            previous=previous,
            now_ms=one.now_ms,
            virtual=self.proof.at(one.enrollment).body["virtual"],
        )
        again = appraise(evidence, question, self.before)
        if self._encoded(again.verdict) != one.body["verdict"]:
            raise mismatch(f"appraising the evidence of record {one.index} again gives another verdict")
        return again, evidence

    def _previous(self, told: dict[str, Any]) -> Progress:
        """``Progress.decode``, but for the list's state where that is told as the round before told it."""
        if self.listed is None or self.listed[0] != told["ima"]:
            self.listed = told["ima"], ImaState.from_dict(told["ima"])
        return Progress(Progress.decode_clock(told["clock"]), self.listed[1])

    def _encoded(self, verdict: Verdict) -> dict[str, Any]:
        """``Verdict.encode``: all of it but the expiry follows from the checks."""
        if self.found[0] != verdict.checks:
            self.found = verdict.checks, verdict.encode()
        return {**self.found[1], "expires": verdict.expires_ms}

    def _approved(self, one: Round, digest: str) -> Reference:
        """A baseline with the expiry that its last approval before this round gave it."""
        expires_ms = approval(self.proof, one)["expires"]
        if (digest, expires_ms) not in self.approved:
            self.approved[digest, expires_ms] = replace(_baseline(self.proof, digest), expires_ms=expires_ms)
        return self.approved[digest, expires_ms]

    def _enrollment(self, index: int) -> None:
        """The first round of all: nothing came before it, and its evidence was genuine, whatever it showed."""
        one = Round(index, "executor.enrolled", index, self.proof.at(index).body["round"])
        if Progress.decode(one.body["previous"]) != Progress():
            raise mismatch(f"the enrollment in record {index} continues something")
        again, _ = self._appraise(one, Progress())
        if not again.authentic or again.progress is None:
            raise mismatch(f"the evidence of the enrollment in record {index} is not genuine")
        self.clocks[index] = again.progress

    def _plausible(self, one: Round, previous: Progress) -> None:
        """What a round took over must follow from what is here: counters go on, and the list is the list."""
        last = self.clocks[one.enrollment].clock
        if previous.clock is None or last is None:
            raise mismatch(f"record {one.index} does not continue the rounds before it")
        if previous.clock != last:
            check_clock(last, previous.clock)
        if previous.ima is self.plausible:
            return  # as the round before: it was compared with the list
        count = previous.ima.entries
        self.needed = max(self.needed, count)
        for bank, value in previous.ima.pcrs.items():
            if len(self.entries) < count or self._replay(bank, count, len(value)) != value:
                raise mismatch(
                    f"the measurement list in the bundle is not the one that record {one.index} went on from"
                )
        self.plausible = previous.ima

    def _replay(self, bank: str, count: int, size: int) -> bytes:
        """PCR 10 after the first ``count`` entries, going on from what was replayed before."""
        done, value = self.replayed.get(bank, (0, bytes(size)))
        if done > count:
            done, value = 0, bytes(size)
        if count > done:
            value = extend(value, self.entries[:count], bank, skip=done)[1]
        self.replayed[bank] = count, value
        return value

    def check_whole_list(self) -> None:
        """No entry is here that no round went on from: nobody would have verified it."""
        if len(self.entries) != self.needed:
            raise mismatch(
                f"the measurement list has {len(self.entries)} entries, and the rounds rest on {self.needed}"
            )


def _policy(proof: "Proof", digest: str) -> AppraisalPolicy:
    """A recorded appraisal policy, read once."""
    if digest not in proof.appraisal_policies:
        proof.appraisal_policies[digest] = AppraisalPolicy(proof.bundle.blob(digest), "the recorded appraisal policy")
    return proof.appraisal_policies[digest]


def _baseline(proof: "Proof", digest: str) -> Reference:
    """A recorded baseline, read once."""
    if digest not in proof.baselines:
        proof.baselines[digest] = Reference.load(proof.bundle.blob(digest))
    return proof.baselines[digest]


def baseline_at(proof: "Proof", one: Round) -> int | None:
    """When the baseline that a round was judged by was captured, in milliseconds; None where there was none."""
    digest = one.body["baseline"]
    return None if digest is None else _baseline(proof, digest).baseline.captured_at


def class_rules(proof: "Proof", one: Round) -> AppraisalClass:
    """The appraisal rules that a round was judged by."""
    if one.body["class"] == NO_CLASS:
        return NO_RULES
    return _policy(proof, one.body["appraisal_policy"]).for_class(one.body["class"])


def check_class(proof: "Proof", one: Round, enrolled: dict[str, Any]) -> None:
    """The class follows from what the TPM proved, the labels an operator gave, and the policy. ``bundle.mismatch`` else."""
    given: dict[str, str] = {}
    for index, record in proof.of_type("executor.labelled"):
        if index < one.index and record.body["executor"] == enrolled["executor"]:
            given = record.body["labels"]
    if one.body["labels"] != given:
        raise mismatch(f"record {one.index} says other labels than an operator had given")
    subject = Subject(enrolled["executor"], enrolled["virtual"], enrolled["manufacturer"], given)
    try:
        found = _policy(proof, one.body["appraisal_policy"]).class_of(subject)
    except PolicyError:
        found = NO_CLASS
    if one.body["class"] != found:
        raise mismatch(f"record {one.index} counts the executor as {one.body['class']!r}, and policy as {found!r}")


def approval(proof: "Proof", one: Round) -> dict[str, Any]:
    """The last approval, before a round, of the baseline that it was judged by. ProofError where there was none."""
    wanted = one.body["baseline"], one.body["class"]
    approved = [
        record.body
        for index, record in proof.of_type("baseline.approved")
        if index < one.index and (record.body["baseline"], record.body["class"]) == wanted
    ]
    if not approved:
        raise mismatch(f"baseline {wanted[0]} had not been approved when record {one.index} was written")
    return approved[-1]


def _attestation_key(proof: "Proof", enrollment: int) -> AttestationKey:
    """The key of an enrollment, read once."""
    if enrollment not in proof.attestation_keys:
        public = parse_public(proof.bundle.blob(proof.at(enrollment).body["ak_public"]))
        proof.attestation_keys[enrollment] = accept_attestation_key(public)
    return proof.attestation_keys[enrollment]


def _whole_list(proof: "Proof") -> ImaEntries:
    return listed_entries(b"".join(proof.bundle.blob(digest) for digest in proof.bundle.ima))
