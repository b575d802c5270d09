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
from enum import StrEnum
from functools import lru_cache
from typing import Any

from tpm.attestation_key import AttestationKey
from tpm.errors import EvidenceError
from tpm.eventlog import EventLogRules, Quirk, VerifiedEventLog, parse_event_log, verify_event_log
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import appraise_ima
from tpm.ima_entry import ImaEntries
from tpm.ima_replay import ImaState, VerifiedImaEntries, replay
from tpm.ima_rules import AllowList, ImaRules
from tpm.observation import observed
from tpm.quote import Clock, VerifiedQuote, check_clock, parse_quote, verify_quote
from ztrooted.appraisal_policy import IMA_PCR, AppraisalClass
from ztrooted.boot_reference import BootReference, boot_reference
from ztrooted.errors import GateError, PolicyError
from ztrooted.event_rules import EventLogPolicy, first_difference, judge_boot
from ztrooted.evidence import Evidence
from ztrooted.reasons import GateReason, Reason, parse_reason
from ztrooted.reference import Reference
from ztrooted.results import tier, tier_name


class Status(StrEnum):
    """How a check ended."""

    PASS = "pass"  # noqa: S105 -- not a password
    FAIL = "fail"
    NOT_CHECKED = "not_checked"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of one appraisal. ``reason`` and ``detail`` say why when it did not pass."""

    name: str
    status: Status
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an appraisal found, and until when it may be believed (milliseconds since the epoch)."""

    checks: tuple[Check, ...]
    expires_ms: int

    @property
    def trusted(self) -> bool:
        """True only if there were checks and every one of them passed."""
        return bool(self.checks) and all(check.status is Status.PASS for check in self.checks)

    @property
    def reason(self) -> Reason | None:
        """Why not: the first check that failed, or else the first that did not run."""
        for status in (Status.FAIL, Status.NOT_CHECKED):
            for check in self.checks:
                if check.status is status:
                    return check.reason or GateReason.ATTESTATION_POLICY
        return None

    @property
    def detail(self) -> str:
        """The sentence that belongs to ``reason``."""
        failed = [check for check in self.checks if check.status is Status.FAIL]
        return failed[0].detail if failed else ""

    @classmethod
    def without_class(cls, error: PolicyError, now_ms: int) -> "Verdict":
        """The verdict over an executor that no class of the policy is for, whatever it may show."""
        return cls((Check("class", Status.FAIL, error.reason, error.detail),), now_ms)

    @staticmethod
    def detail_of(encoded: Mapping[str, Any]) -> str:
        """``detail`` of a verdict in its encoded form."""
        return next((check["detail"] for check in encoded["checks"] if check["status"] == Status.FAIL.value), "")

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> "Verdict":
        """The inverse of ``encode``. KeyError or ValueError when ``value`` is something else."""
        checks = tuple(
            Check(
                check["name"],
                Status(check["status"]),
                None if check["reason"] is None else parse_reason(check["reason"]),
                check["detail"],
            )
            for check in value["checks"]
        )
        return cls(checks, value["expires"])

    def encode(self) -> dict[str, Any]:
        """For records: equal appraisals give equal bytes."""
        return {
            "trusted": self.trusted,
            "reason": self.reason,
            "expires": self.expires_ms,
            "checks": [
                {"name": check.name, "status": check.status.value, "reason": check.reason, "detail": check.detail}
                for check in self.checks
            ],
        }


@dataclass(frozen=True, slots=True)
class Progress:
    """What one round hands to the next: the TPM's counters, and how far the measurement list was replayed."""

    clock: Clock | None = None
    ima: ImaState = field(default_factory=ImaState.initial)

    def encode(self) -> dict[str, Any]:
        """As canonical JSON values. The TPM's numbers have 64 bits, more than JSON's, so they are decimal text."""
        clock = None
        if self.clock is not None:
            clock = {name: str(number) for name, number in self.clock.to_dict().items()}
        return {"clock": clock, "ima": self.ima.to_dict()}

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> "Progress":
        """The inverse of ``encode``."""
        clock = None
        if value["clock"] is not None:
            clock = Clock.from_dict({name: int(number) for name, number in value["clock"].items()})
        return cls(clock, ImaState.from_dict(value["ima"]))


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


_GENUINE = frozenset({"quote", "clock", "event_log", "ima"})
_RESTS_ON = {"boot": "event_log", "files": "ima"}
_NO_ENTRIES = ImaEntries([], "sha1")


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
    entries: ImaEntries = _NO_ENTRIES
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


def appraise(evidence: Evidence, question: Question) -> Appraisal:
    """Judge one piece of evidence. Never raises for what the evidence contains: a refusal is a verdict."""
    return _Run(evidence, question).appraise()


class _Run:
    """One appraisal in progress."""

    def __init__(self, evidence: Evidence, question: Question) -> None:
        self.evidence = evidence
        self.question = question
        self.required = required_checks(question.policy)
        self.found: dict[str, Check] = {}
        self.remarks: dict[str, str] = {}
        self.quote: VerifiedQuote | None = None
        self.pcrs: Mapping[int, bytes] = {}
        self.event_log: VerifiedEventLog | None = None
        self.verified: VerifiedImaEntries | None = None
        self.ima = question.previous.ima

    def appraise(self) -> Appraisal:
        steps: dict[str, Callable[[], None]] = {
            "quote": self._quote,
            "clock": self._clock,
            "event_log": self._event_log,
            "boot": self._boot,
            "baseline": self._baseline,
            "ima": self._ima,
            "files": self._files,
            "tier": self._tier,
        }
        for name in self.required:
            if name != "quote" and not self._passed("quote"):
                break
            if name in _RESTS_ON and not self._passed(_RESTS_ON[name]):
                continue
            self._check(name, steps[name])
        checks = tuple(self.found.get(name) or Check(name, Status.NOT_CHECKED) for name in self.required)
        policy = self.question.policy
        verdict = Verdict(checks, self.question.now_ms + policy.verdict_life_ms)
        authentic = all(self._passed(name) for name in self.required if name in _GENUINE)
        progress = None
        if authentic and self.quote is not None:
            progress = Progress(self.quote.clock, self.ima)
        entries = _NO_ENTRIES if self.verified is None else self.verified.entries
        return Appraisal(verdict, authentic, progress, self.pcrs, entries, self.event_log)

    def _passed(self, name: str) -> bool:
        check = self.found.get(name)
        return check is not None and check.status is Status.PASS

    def _check(self, name: str, step: Callable[[], None]) -> None:
        try:
            step()
        except (EvidenceError, GateError) as error:
            self.found[name] = Check(name, Status.FAIL, parse_reason(error.reason), error.detail)
        else:
            self.found[name] = Check(name, Status.PASS, detail=self.remarks.get(name, ""))

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
        if reference.expires_ms is not None and reference.expires_ms < self.question.now_ms:
            raise GateError(GateReason.BASELINE_EXPIRED, f"the approval of baseline {reference.digest} has ended")
        return reference


@lru_cache(maxsize=1)
def listed_entries(data: bytes) -> ImaEntries:
    """The entries of an ASCII measurement list, none for no bytes. The last list is remembered: audits read it twice."""
    return parse_ima_list(data, format="ascii").entries if data else _NO_ENTRIES


@lru_cache(maxsize=1024)
def verified_event_log(
    data: bytes, bank: str, pcrs: tuple[tuple[int, bytes], ...], rules: EventLogRules, quirks: frozenset[Quirk]
) -> VerifiedEventLog:
    """``verify_event_log``, remembered: it is a pure function, and between two boots its arguments never change."""
    return verify_event_log(parse_event_log(data, quirks=quirks), bank=bank, pcrs=dict(pcrs), rules=rules)


class _Same:
    """An object as a key: equal to itself alone, and kept alive by being one."""

    __slots__ = ("it",)

    def __init__(self, it: object) -> None:
        self.it = it

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.it is other.it

    def __hash__(self) -> int:
        return id(self.it)


def facts_of(log: VerifiedEventLog) -> BootReference:
    """``boot_reference``, remembered like the log it is taken from."""
    return _facts_of(_Same(log))


@lru_cache(maxsize=1024)
def _facts_of(log: _Same) -> BootReference:
    assert isinstance(log.it, VerifiedEventLog)  # noqa: S101 -- ``facts_of`` is the only caller
    return boot_reference(log.it)


def ima_rules(policy: AppraisalClass, allow: AllowList | None) -> ImaRules:
    """The IMA policy as rules of the verifier, remembered: between two policies and two baselines they are the same."""
    return _ima_rules(_Same(policy), _Same(allow))


@lru_cache(maxsize=64)
def _ima_rules(policy: _Same, allow: _Same) -> ImaRules:
    assert isinstance(policy.it, AppraisalClass)  # noqa: S101 -- ``ima_rules`` is the only caller
    assert allow.it is None or isinstance(allow.it, AllowList)  # noqa: S101
    return policy.it.ima_rules(allow.it)


def boot_refusal(policy: EventLogPolicy, seen: BootReference, good: BootReference | None) -> tuple[Reason, str] | None:
    """What ``judge_boot`` refuses, remembered likewise: between two boots and two policies it is always the same."""
    return _boot_refusal(_Same(policy), _Same(seen), _Same(good))


@lru_cache(maxsize=4096)
def _boot_refusal(policy: _Same, seen: _Same, good: _Same) -> tuple[Reason, str] | None:
    assert isinstance(policy.it, EventLogPolicy) and isinstance(seen.it, BootReference)  # noqa: S101, PT018
    assert good.it is None or isinstance(good.it, BootReference)  # noqa: S101
    try:
        judge_boot(policy.it, seen.it, good.it)
    except GateError as error:
        return error.reason, error.detail
    return None
