"""Offline verification: does a bundle prove what happened to one authorization?

Inputs are the bundle, the anchors, and nothing else: no network, no TPM, no database, no clock. The plan, in the order in
which it is run; the numbers are the same in this text, in the code, in reports and in docs/bundle-format.md:

 1. ``bundle``: the file is a bundle, and every blob has the digest it is filed under.
 2. ``checkpoint``: its checkpoint is of the anchored lineage, signed by the anchored log key.
 3. ``seal``: the gateway's TPM quoted the anchored state over that checkpoint.
 4. ``log_key``: the log key lives in that TPM, and signs in the anchored state only.
 5. ``inclusion``: every record is in the tree that the checkpoint is about.
 6. ``story``: the authorization's records are one unbroken, legal course from intent to end.
 7. ``executor``: an anchored root vouches for the executor's TPM, its keys are what they should be, its id follows.
 8. ``policies``: the policies and baselines that were applied had been activated and approved before.
 9. ``quotes``: each piece of evidence was made for this purpose, this job and this authorization.
10. ``appraisals``: appraising the evidence again gives the recorded verdicts.
11. ``parents``: where it is a child, its parent had granted this and was live each time, and so on upwards.
12. ``decisions``: evaluating the dispatch policy again gives the recorded decisions, and they were followed.
13. ``artifacts``: the artifacts are those that were recorded, signed by keys that the log key introduced, in one chain.
14. ``continuity``: between two good quotes no more time passed than the lease allowed; nothing was renewed without one.
15. ``outcome``: what ended it is recorded, and if trust failed, the job was stopped.

Each check ends as pass, fail or not checked; what comes after a failure is not checked, because it would rest on it.
*Verified* needs zero of the latter two.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tpm.attestation_key import AttestationKey
from tpm.errors import EvidenceError
from ztrooted.anchors import Anchors
from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.bundle import Bundle, ProvenRecord, parse_bundle
from ztrooted.checkpoint import VerifiedCheckpoint
from ztrooted.collector import collector_paused
from ztrooted.delegation import Delegation
from ztrooted.errors import EnvironmentProblem, GateError, ProofError
from ztrooted.evidence import Evidence
from ztrooted.merkle import KnownTree
from ztrooted.reasons import GateReason, Reason, parse_reason
from ztrooted.records import Record
from ztrooted.reference import Reference
from ztrooted.verdict import Status

DIGEST = 64  # hexadecimal digits

if TYPE_CHECKING:
    from ztrooted.audit_parents import Chain
    from ztrooted.audit_rounds import Round


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One line of a report."""

    number: int
    name: str
    status: Status
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """What a verification found. ``facts`` are numbers for people; they count only if ``verified``."""

    checks: tuple[CheckResult, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def verified(self) -> bool:
        """True only if there were checks and every one of them passed."""
        return bool(self.checks) and all(check.status is Status.PASS for check in self.checks)

    @property
    def failed(self) -> CheckResult | None:
        """The check that failed."""
        return next((check for check in self.checks if check.status is Status.FAIL), None)

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "verified": self.verified,
            "checks": [
                {
                    "number": check.number,
                    "name": check.name,
                    "status": check.status.value,
                    "reason": check.reason,
                    "detail": check.detail,
                }
                for check in self.checks
            ],
            "facts": self.facts,
        }


@dataclass
class Proof:
    """What the checks hand to each other. Each attribute is set by the check that verified it."""

    data: bytes
    anchors: Anchors
    facts: dict[str, Any] = field(default_factory=dict)
    appraisal_policies: dict[str, AppraisalPolicy] = field(default_factory=dict)
    baselines: dict[str, Reference] = field(default_factory=dict)
    evidence: dict[int, Evidence] = field(default_factory=dict)
    attestation_keys: dict[int, AttestationKey] = field(default_factory=dict)
    last_vector: tuple[object, dict[str, int]] | None = None
    rounds: tuple["Round", ...] = ()
    chain: "Chain | None" = None
    _bundle: Bundle | None = None
    _checkpoint: VerifiedCheckpoint | None = None

    @property
    def bundle(self) -> Bundle:
        """Set by check 1."""
        if self._bundle is None:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, "the bundle was not parsed")
        return self._bundle

    @property
    def checkpoint(self) -> VerifiedCheckpoint:
        """Set by check 2."""
        if self._checkpoint is None:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, "the checkpoint was not verified")
        return self._checkpoint

    @cached_property
    def _story(self) -> list[ProvenRecord]:
        return [one for one in self.bundle.records if one.record.authorization == self.bundle.authorization]

    @cached_property
    def _by_index(self) -> dict[int, ProvenRecord]:
        return {one.index: one for one in self.bundle.records}

    def story(self) -> list[ProvenRecord]:
        """The authorization's own records, in their order."""
        return self._story

    @cached_property
    def activated(self) -> ProvenRecord | None:
        """The first record that says that the authorization was activated."""
        return next((one for one in self._story if one.record.type == "authorization.activated"), None)

    @cached_property
    def delegation(self) -> Delegation:
        """What the dispatch asked to hand on."""
        return Delegation.model_validate(self._story[0].record.body["delegation"])

    @cached_property
    def decisions(self) -> list[tuple[int, dict[str, Any]]]:
        """The records of the story that contain a decision of the dispatch policy, by index, in their order."""
        return [(one.index, one.record.body) for one in self._story if "decision" in one.record.body]

    @cached_property
    def _by_type(self) -> dict[str, list[tuple[int, Record]]]:
        found: dict[str, list[tuple[int, Record]]] = {}
        for one in self.bundle.records:
            found.setdefault(one.record.type, []).append((one.index, one.record))
        return found

    def of_type(self, kind: str) -> list[tuple[int, Record]]:
        """All records of a type, in their order."""
        return self._by_type.get(kind, [])

    def at(self, index: int) -> Record:
        """The record with this index. ProofError ``bundle.incomplete`` when it is not here."""
        if index not in self._by_index:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"record {index} is not in the bundle")
        return self._by_index[index].record


def verify_bundle(data: bytes, anchors: Anchors) -> Report:
    """Run the plan. Never raises for what the bundle contains: every defect is a failed check."""
    from ztrooted import audit, audit_parents, audit_rounds, audit_story  # noqa: PLC0415 -- they need ``Proof``

    plan: tuple[tuple[str, Callable[[Proof], None]], ...] = (
        ("bundle", _bundle),
        ("checkpoint", _checkpoint),
        ("seal", _seal),
        ("log_key", audit.check_log_key),
        ("inclusion", _inclusion),
        ("story", audit_story.check_story),
        ("executor", audit.check_executor),
        ("policies", audit.check_policies),
        ("quotes", audit_rounds.check_quotes),
        ("appraisals", audit_rounds.check_appraisals),
        ("parents", audit_parents.check_parents),
        ("decisions", audit.check_decisions),
        ("artifacts", audit.check_artifacts),
        ("continuity", audit_story.check_continuity),
        ("outcome", audit_story.check_outcome),
    )
    proof = Proof(data, anchors)
    results: list[CheckResult] = []
    with collector_paused():
        for number, (name, check) in enumerate(plan, 1):
            if results and results[-1].status is not Status.PASS:
                results.append(CheckResult(number, name, Status.NOT_CHECKED))
                continue
            results.append(_run(number, name, check, proof))
    return Report(tuple(results), proof.facts)


def _run(number: int, name: str, check: Callable[[Proof], None], proof: Proof) -> CheckResult:
    try:
        check(proof)
    except EnvironmentProblem:
        raise
    except (GateError, EvidenceError) as error:
        return CheckResult(number, name, Status.FAIL, parse_reason(error.reason), error.detail)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError) as error:
        # A record whose body lacks what its type promises: the bytes are the gateway's own, and still not believed.
        detail = f"a record does not contain what it should: {type(error).__name__}: {error}"
        return CheckResult(number, name, Status.FAIL, GateReason.LINEAGE_RECORD_MALFORMED, detail)
    return CheckResult(number, name, Status.PASS)


# 1. The file is a bundle, and every blob has the digest it is filed under.
def _bundle(proof: Proof) -> None:
    bundle = parse_bundle(proof.data)
    unnamed = bundle.blobs.keys() - {*bundle.artifacts, *bundle.ima}
    for one in bundle.records:  # most are named by rounds, where they are found without taking everything apart
        unnamed.difference_update(_quoted(one.data))
    for one in bundle.records:
        if not unnamed:
            break
        unnamed.difference_update(one.data.decode().split('"'))  # a digest is a whole string
    if unnamed:
        raise ProofError(GateReason.BUNDLE_MISMATCH, f"nothing in the bundle names the bytes {min(unnamed)}")
    proof._bundle = bundle  # noqa: SLF001 -- this check is what sets it


def _quoted(record: bytes) -> Iterator[str]:
    """The strings that the names of a quote and its signature are followed by, where they are digests in length."""
    for name in (b'"attest":"', b'"signature":"'):
        start = record.find(name) + len(name)
        if start >= len(name) and record[start + DIGEST : start + DIGEST + 1] == b'"':
            yield record[start : start + DIGEST].decode()


# 2. Its checkpoint is of the anchored lineage, signed by the anchored log key.
def _checkpoint(proof: Proof) -> None:
    if proof.bundle.origin != proof.anchors.origin:
        raise ProofError(
            GateReason.CHECKPOINT_ORIGIN, f"the bundle is of {proof.bundle.origin!r}, not {proof.anchors.origin!r}"
        )
    proof._checkpoint = proof.anchors.verify_checkpoint(proof.bundle.checkpoint, sealed=False)  # noqa: SLF001


# 3. The gateway's TPM quoted the anchored state over that checkpoint.
def _seal(proof: Proof) -> None:
    sealed = proof.anchors.verify_checkpoint(proof.bundle.checkpoint)
    if not sealed.sealed:
        raise ProofError(GateReason.CHECKPOINT_SEAL, "the checkpoint carries no seal")
    proof._checkpoint = sealed  # noqa: SLF001
    proof.facts["lineage_size"] = sealed.checkpoint.size


# 5. Every record is in the tree that the checkpoint is about.
def _inclusion(proof: Proof) -> None:
    head = proof.checkpoint.checkpoint
    if not proof.bundle.records:
        raise ProofError(GateReason.BUNDLE_INCOMPLETE, "the bundle contains no record")
    tree = KnownTree(head.size, head.root)
    for one in proof.bundle.records:
        tree.verify_inclusion(one.leaf, one.index, one.proof)
    proof.facts["records"] = len(proof.bundle.records)
