"""Appraisal: evidence, reference values, policy and one instant in; a verdict out. No I/O, no clock, no memory.

The list of required checks is computed from the policy first. Then they run, in this order:

1. ``quote``: the TPM signed exactly the challenged PCRs for exactly this challenge.
2. ``clock``: it is still the same boot of the same TPM as in the round before.
3. ``event_log``: the firmware's log explains the quoted PCRs, and tells one story about Secure Boot.
4. ``boot``: its events are those that the policy asks for.
5. ``baseline``: the pinned PCRs are the approved ones.
6. ``ima``: the kernel's measurement list explains the quoted PCR 10.
7. ``files``: every file measured so far is an approved one.
8. ``tier``: the assurance tier is the one that the policy asks for.

``trusted`` needs each required check to have run and passed. A check that could not run is *not checked*, which is as
bad as *fail*. When the quote is refused nothing else runs: without it there is no evidence to look at.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from tpm.attestation_key import AttestationKey
from tpm.errors import EvidenceError
from tpm.eventlog import VerifiedEventLog
from tpm.ima_appraisal import appraise_ima
from tpm.ima_entry import ImaEntries
from tpm.ima_replay import ImaState, VerifiedImaEntries, replay
from tpm.observation import observed
from tpm.pcr import PcrValues
from tpm.quote import VerifiedQuote, check_clock, parse_quote, verify_quote
from ztrooted.appraisal_policy import IMA_PCR, AppraisalClass
from ztrooted.errors import GateError
from ztrooted.event_rules import first_difference
from ztrooted.evidence import Evidence
from ztrooted.progress import Progress
from ztrooted.reasons import GateReason, parse_reason
from ztrooted.reference import Reference
from ztrooted.remembered import (
    NO_ENTRIES,
    Same,
    boot_refusal,
    facts_of,
    ima_rules,
    listed_entries,
    verified_event_log,
)
from ztrooted.results import tier, tier_name
from ztrooted.verdict import Check, Status, Verdict, passed


@dataclass(frozen=True, slots=True)
class Question:
    """Everything an appraisal depends on besides the evidence."""

    key: AttestationKey
    qualifying_data: bytes
    policy: AppraisalClass
    reference: Reference | None
    previous: Progress
    now_ms: int
    virtual: bool

    @property
    def expired(self) -> bool:
        """Whether the approval of the baseline has ended."""
        return self.reference is not None and self.reference.expired(self.now_ms)


MAX_KEPT = 64 << 10  # bytes of new measurements; a round with more is not followed by one with the same
_GENUINE = frozenset({"quote", "clock", "event_log", "ima"})
_RESTS_ON = {"boot": "event_log", "files": "ima"}
_OF_THE_QUOTE = ("quote", "clock")


@dataclass(frozen=True, slots=True)
class Appraisal:
    """A verdict with what was learned on the way. ``progress`` is None unless the evidence explained itself.

    ``authentic`` says that the evidence is genuine and complete (checks 1, 2, 3 and 6), whatever it shows: this is what
    enrollment needs, before any baseline can exist. ``entries`` are the verified new entries of the measurement list.
    """

    verdict: Verdict
    authentic: bool
    progress: Progress | None = None
    pcrs: Mapping[int, bytes] = field(default_factory=dict)
    entries: ImaEntries = NO_ENTRIES
    event_log: VerifiedEventLog | None = None

    def require_authentic(self) -> None:
        """GateError with the reason why the evidence is not genuine, which is not always the verdict's first reason."""
        if self.authentic:
            return
        found = (check for check in self.verdict.checks if check.name in _GENUINE and check.status is not Status.PASS)
        check = next(found, self.verdict.checks[0])
        raise GateError(check.reason or GateReason.ATTESTATION_POLICY, check.detail)


def required_checks(policy: AppraisalClass) -> tuple[str, ...]:
    """The checks a verdict under ``policy`` rests on, in their order."""
    return policy.required_checks


@dataclass(frozen=True, slots=True)
class _Rests:
    """Everything that checks 3 to 8 depend on. Policy and baseline are compared as objects: they are loaded once."""

    pcrs: PcrValues
    previous: ImaState
    ima_offset: int
    ima: bytes
    event_log: bytes
    policy: Same
    reference: Same
    expired: bool
    virtual: bool

    @classmethod
    def of(cls, quote: VerifiedQuote, evidence: Evidence, question: Question) -> "_Rests":
        return cls(
            pcrs=quote.pcr_values,
            previous=question.previous.ima,
            ima_offset=evidence.ima_offset,
            ima=evidence.ima,
            event_log=evidence.event_log,
            policy=Same(question.policy),
            reference=Same(question.reference),
            expired=question.expired,
            virtual=question.virtual,
        )


@dataclass(frozen=True, slots=True)
class _Machine:
    """What checks 3 to 8 found, and what was learned on the way."""

    found: Mapping[str, Check]
    ima: ImaState
    verified: VerifiedImaEntries | None
    event_log: VerifiedEventLog | None


class Before:
    """What the last appraisal of one executor found besides its quote, for the next one.

    A machine that has measured nothing new shows the same in every round but for nonce, clock and signature. What is kept
    is used again only where everything that it rests on is equal; the quote and its clock are verified each time.
    """

    __slots__ = ("_kept",)

    def __init__(self) -> None:
        self._kept: tuple[_Rests, _Machine] | None = None

    def found(self, rests: _Rests) -> _Machine | None:
        """What was found when it rested on exactly this."""
        kept = self._kept
        return kept[1] if kept is not None and kept[0] == rests else None

    def keep(self, rests: _Rests, machine: _Machine) -> None:
        """Remember it instead of what was remembered, and nothing that is large."""
        self._kept = (rests, machine) if len(rests.ima) <= MAX_KEPT else None


def appraise(evidence: Evidence, question: Question, before: Before | None = None) -> Appraisal:
    """Judge one piece of evidence. Never raises for what the evidence contains: a refusal is a verdict.

    ``before`` saves work where appraisals of the same executor follow one another, and changes nothing else.
    """
    return _Run(evidence, question, before or Before()).appraise()


class _Run:
    """One appraisal in progress."""

    def __init__(self, evidence: Evidence, question: Question, before: Before) -> None:
        self.evidence = evidence
        self.question = question
        self.before = before
        self.required = required_checks(question.policy)
        self.found: dict[str, Check] = {}
        self.remarks: dict[str, str] = {}
        self.quote: VerifiedQuote | None = None
        self.pcrs: Mapping[int, bytes] = {}
        self.event_log: VerifiedEventLog | None = None
        self.verified: VerifiedImaEntries | None = None
        self.ima = question.previous.ima

    def appraise(self) -> Appraisal:
        self._check("quote", self._quote)
        if self.quote is not None and self._passed("quote"):
            self._check("clock", self._clock)
            self._judge_machine(_Rests.of(self.quote, self.evidence, self.question))
        checks = tuple([self.found.get(name) or Check(name, Status.NOT_CHECKED) for name in self.required])
        verdict = Verdict(checks, self.question.now_ms + self.question.policy.verdict_life_ms)
        authentic = all(self._passed(name) for name in self.required if name in _GENUINE)
        progress = None
        if authentic and self.quote is not None:
            progress = Progress(self.quote.clock, self.ima)
        entries = NO_ENTRIES if self.verified is None else self.verified.entries
        return Appraisal(verdict, authentic, progress, self.pcrs, entries, self.event_log)

    def _judge_machine(self, rests: _Rests) -> None:
        """Checks 3 to 8, or what they found where nothing that they rest on has changed."""
        known = self.before.found(rests)
        if known is not None:
            self.found |= known.found
            self.ima, self.verified, self.event_log = known.ima, known.verified, known.event_log
            return
        steps: dict[str, Callable[[], None]] = {
            "event_log": self._event_log,
            "boot": self._boot,
            "baseline": self._baseline,
            "ima": self._ima,
            "files": self._files,
            "tier": self._tier,
        }
        for name in self.required:
            if name in _OF_THE_QUOTE or (name in _RESTS_ON and not self._passed(_RESTS_ON[name])):
                continue
            self._check(name, steps[name])
        found = {name: check for name, check in self.found.items() if name not in _OF_THE_QUOTE}
        self.before.keep(rests, _Machine(found, self.ima, self.verified, self.event_log))

    def _passed(self, name: str) -> bool:
        check = self.found.get(name)
        return check is not None and check.status is Status.PASS

    def _check(self, name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (EvidenceError, GateError) as error:
            self.found[name] = Check(name, Status.FAIL, parse_reason(error.reason), error.detail)
        else:
            remark = self.remarks.get(name)
            self.found[name] = Check(name, Status.PASS, detail=remark) if remark else passed(name)

    # 1. The TPM signed exactly the challenged PCRs for exactly this challenge.
    def _quote(self) -> None:
        question = self.question
        with observed("quote verification"):
            self.quote = verify_quote(
                parse_quote(self.evidence.attest, self.evidence.signature),
                question.key,
                nonce=question.qualifying_data,
                selection=question.policy.selection,
                pcr_values=self.evidence.pcrs,
            )
        self.pcrs = self.quote.pcr_values[question.policy.bank]

    # 2. It is still the same boot of the same TPM as in the round before.
    def _clock(self) -> None:
        if self.quote is None:
            raise GateError(GateReason.ATTESTATION_POLICY, "there is no verified quote")
        if self.question.previous.clock is not None:
            check_clock(self.question.previous.clock, self.quote.clock)

    # 3. The firmware's log explains the quoted PCRs, and tells one story about Secure Boot.
    def _event_log(self) -> None:
        policy = self.question.policy
        boot = tuple((index, value) for index, value in self.pcrs.items() if index != IMA_PCR)
        self.event_log = verified_event_log(
            self.evidence.event_log, policy.bank, boot, policy.event_log_rules, policy.quirks
        )
        if self.event_log.quirks_used:
            self.remarks["event_log"] = f"tolerated: {', '.join(sorted(self.event_log.quirks_used))}"

    # 4. Its events are those that the policy asks for.
    def _boot(self) -> None:
        policy = self.question.policy
        if self.event_log is None or policy.event_log is None:
            raise GateError(GateReason.ATTESTATION_POLICY, "there is no verified event log")
        good = self._approved().baseline.boot if policy.event_log.wants_baseline() else None
        if (refusal := boot_refusal(policy.event_log, facts_of(self.event_log), good)) is not None:
            raise GateError(*refusal)

    # 5. The pinned PCRs are the approved ones.
    def _baseline(self) -> None:
        baseline = self._approved().baseline
        for index in self.question.policy.pinned:
            wanted = baseline.pcrs.get(index)
            if wanted is None:
                raise GateError(GateReason.ATTESTATION_DRIFT, f"the approved baseline says nothing about PCR {index}")
            if self.pcrs[index] != wanted:
                detail = f"PCR {index} is {self.pcrs[index].hex()}, and the approved baseline has {wanted.hex()}"
                if self.event_log is not None and baseline.boot is not None:
                    difference = first_difference(facts_of(self.event_log).events, baseline.boot.events, index)
                    detail += f"; {difference}" if difference else ""
                raise GateError(GateReason.ATTESTATION_DRIFT, detail)

    # 6. The kernel's measurement list explains the quoted PCR 10.
    def _ima(self) -> None:
        listed = listed_entries(self.evidence.ima)
        result = replay(
            self.question.previous.ima,
            listed,
            bank=self.question.policy.bank,
            pcr10=self.pcrs[IMA_PCR],
            offset=self.evidence.ima_offset,
        )
        self.verified = result.verified
        self.ima = result.state

    # 7. Every file measured so far is an approved one.
    def _files(self) -> None:
        policy = self.question.policy
        if self.verified is None or self.quote is None or policy.ima is None:
            raise GateError(GateReason.ATTESTATION_POLICY, "there are no verified files to judge")
        allow = self._approved().allow if policy.ima.allow_list == "baseline" else None
        appraise_ima(self.verified, ima_rules(policy, allow), pcrs=self.quote.pcr_values)

    # 8. The assurance tier is the one that the policy asks for.
    def _tier(self) -> None:
        policy, virtual = self.question.policy, self.question.virtual
        level = tier(policy, trusted=True, virtual=virtual)
        if policy.min_tier is not None and level < int(policy.min_tier[1]):
            why = "a software TPM" if virtual else "these rules"
            detail = f"{why} can prove {tier_name(level)} at most, and the policy asks for {policy.min_tier}"
            raise GateError(GateReason.ATTESTATION_TIER, detail)

    def _approved(self) -> Reference:
        reference = self.question.reference
        if reference is None:
            raise GateError(
                GateReason.ATTESTATION_NO_BASELINE, "no baseline has been approved for this class of executors"
            )
        if self.question.expired:
            raise GateError(GateReason.BASELINE_EXPIRED, f"the approval of baseline {reference.digest} has ended")
        return reference
