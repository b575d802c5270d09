"""The appraisal policy: what evidence an executor class owes, how often, and what must be true of it.

TOML, strict: an unknown key, a wrong type or a rule its evidence can't support refuses the whole file, and the refusal
names the line::

    format = "ztrooted-appraisal/1"

    [class.gpu]
    match = { labels = { gpu = "yes" } }
    pcrs = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 14]
    pinned = [0, 2, 7]

    [class.gpu.event_log]
    images = "baseline"

An executor is of the first class, in the order of the file, that it matches.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from tpm.endorsement_san import normalise_vendor_id
from tpm.eventlog import EventLogRules, Quirk
from tpm.ima_rules import AllowList, ImaRules
from tpm.pcr import PcrSelection
from ztrooted import limits, strict_toml
from ztrooted.errors import PolicyError
from ztrooted.event_rules import EventLogPolicy, PcrIndex
from ztrooted.evidence import sha256
from ztrooted.ima_policy import ImaPolicy
from ztrooted.reasons import GateReason
from ztrooted.results import tier
from ztrooted.validation import explain_document

FORMAT = "ztrooted-appraisal/1"
EXIT_BOOT_SERVICES_PCR = 5
IMA_PCR = 10
MAX_CLASSES = 256

ClassName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
ExecutorId = Annotated[str, StringConstraints(pattern=r"^ex-[0-9a-f]{32}$")]
LabelName = ClassName


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ignored_types=(cached_property,))


@dataclass(frozen=True, slots=True)
class Subject:
    """Who is appraised, as far as a class may depend on it: what its TPM proves, and the labels an operator gave it."""

    executor: str
    virtual: bool
    manufacturer: str
    labels: Mapping[str, str] = field(default_factory=dict)


class Match(_Strict):
    """Which executors a class is for; each condition that is set must hold. Names and addresses prove nothing."""

    labels: dict[LabelName, LabelName] = {}
    executors: list[ExecutorId] = []
    manufacturers: list[str] = []
    virtual: bool | None = None

    @model_validator(mode="after")
    def _something(self) -> "Match":
        if not (self.labels or self.executors or self.manufacturers or self.virtual is not None):
            raise ValueError("an empty 'match' says nothing; leave it out for a class of every executor")
        for one in self.manufacturers:
            try:
                normal = normalise_vendor_id(one)
            except ValueError as error:
                raise ValueError(f"'manufacturers': {error}") from error
            if normal != one:
                raise ValueError(f"'manufacturers': write {normal!r} for {one!r}")
        return self

    def covers(self, subject: Subject) -> bool:
        """Whether ``subject`` is one of these."""
        return (
            all(subject.labels.get(name) == value for name, value in self.labels.items())
            and (not self.executors or subject.executor in self.executors)
            and (not self.manufacturers or subject.manufacturer in self.manufacturers)
            and (self.virtual is None or subject.virtual is self.virtual)
        )


class AppraisalClass(_Strict):
    """The rules for one class of executors. Times are in seconds."""

    match: Match | None = None
    observe: bool = False
    min_tier: Literal["A1", "A2", "A3", "A4"] | None = None
    bank: Literal["sha256", "sha384", "sha512"] = "sha256"
    pcrs: Annotated[list[PcrIndex], Field(min_length=1)]
    pinned: list[PcrIndex] = []
    interval_s: float = Field(10, gt=0, le=3600)
    idle_interval_s: float = Field(60, gt=0, le=86400)
    jitter: float = Field(0.1, ge=0, le=0.5)
    response_deadline_s: float = Field(5, gt=0, le=limits.CHALLENGE_LIFE_S)
    lease_s: float = Field(30, gt=0, le=limits.ARTIFACT_LIFE_S)
    max_evidence_age_s: float | None = Field(None, gt=0, le=2 * 86400)
    event_log: EventLogPolicy | None = None
    ima: ImaPolicy | None = None

    @model_validator(mode="after")
    def _supported_by_evidence(self) -> "AppraisalClass":
        for problem in (*self._evidence_problems(), *self._rule_problems(), *self._time_problems()):
            raise ValueError(problem)
        return self

    def _evidence_problems(self) -> Iterator[str]:
        if sorted(set(self.pcrs)) != self.pcrs or sorted(set(self.pinned)) != self.pinned:
            yield "'pcrs' and 'pinned' are ascending lists without repetition"
        if not set(self.pinned) <= set(self.pcrs):
            yield "'pinned' names PCRs that are not quoted; add them to 'pcrs'"
        if IMA_PCR in self.pinned:
            yield "PCR 10 changes with every file IMA measures; use [class.….ima] instead of pinning it"
        if (self.ima is not None) != (IMA_PCR in self.pcrs):
            yield "IMA rules and PCR 10 in 'pcrs' go together: have both, or neither"
        log = self.event_log
        if log is None:
            return
        if EXIT_BOOT_SERVICES_PCR not in self.pcrs:
            yield "an event log is judged up to ExitBootServices, which PCR 5 proves; add 5 to 'pcrs'"
        for pcr, rule in log.needs().items():
            if pcr not in self.pcrs:
                yield f"the event log's {rule!r} is proved by PCR {pcr}; add {pcr} to 'pcrs'"
        if IMA_PCR in log.events or set(log.events) & set(self.pinned):
            yield "'events' are of PCRs that are neither pinned nor 10; a pinned PCR can't vary"
        for one in log.varying:
            if one.pcr not in log.events:
                yield f"'varying' speaks of PCR {one.pcr}, whose events are not compared; add it to 'events'"

    def _rule_problems(self) -> Iterator[str]:
        rules = self.event_log.rules() if self.event_log is not None else ()
        if self.observe and (self.pinned or rules or self.min_tier not in {None, "A1"}):
            yield "'observe' asks for genuine evidence and nothing else; remove it, or the rules"
        if self.observe:
            return
        if not (self.pinned or rules or self.ima is not None):
            yield (
                "nothing is required of the evidence, and an empty policy would trust every machine;"
                " say observe = true if that is meant"
            )
        if self.ima is not None and not self.ima.allows_anything():
            yield 'no file could be accepted: have allow_list = "baseline", or keys'
        if self.min_tier is not None and (best := tier(self, trusted=True, virtual=False)) < int(self.min_tier[1]):
            yield f"these rules prove A{best} at most, which is below min_tier = {self.min_tier!r}"

    def _time_problems(self) -> Iterator[str]:
        if self.lease_s < self.interval_s + self.response_deadline_s + 1:
            yield (
                "'lease_s' must be at least 'interval_s' + 'response_deadline_s' + 1 (leases end at whole seconds);"
                " with less, jobs on healthy machines would die"
            )
        if self.max_evidence_age_s is not None and (
            self.max_evidence_age_s < self.idle_interval_s + self.response_deadline_s
        ):
            yield (
                "'max_evidence_age_s' must be at least 'idle_interval_s' + 'response_deadline_s';"
                " with less, idle machines in good order would count as untrusted"
            )

    @cached_property
    def selection(self) -> PcrSelection:
        """The exact PCR selection a quote must cover."""
        return PcrSelection.of({self.bank: self.pcrs})

    @property
    def verdict_life_ms(self) -> int:
        """How long a verdict may be believed: until the next proof of an idle executor is due. Leases are shorter."""
        if self.max_evidence_age_s is not None:
            return round(self.max_evidence_age_s * 1000)
        return round((self.idle_interval_s + self.response_deadline_s) * 1000)

    @cached_property
    def event_log_rules(self) -> EventLogRules:
        """The event log policy as rules of the verifier."""
        assert self.event_log is not None  # noqa: S101 -- asked for only when the policy has the section
        return EventLogRules(
            secure_boot=self.event_log.secure_boot,
            boot_attempts=self.event_log.boot_attempts,
            max_bytes=limits.EVENT_LOG,
        )

    @cached_property
    def quirks(self) -> frozenset[Quirk]:
        """What is tolerated in the form of the event log."""
        return frozenset(Quirk(name) for name in (self.event_log.quirks if self.event_log is not None else ()))

    @cached_property
    def required_checks(self) -> tuple[str, ...]:
        """The checks that a verdict rests on, in their order."""
        log = self.event_log
        required = {
            "quote": True,
            "clock": True,
            "event_log": log is not None,
            "boot": log is not None and bool(log.rules()),
            "baseline": bool(self.pinned),
            "ima": self.ima is not None,
            "files": self.ima is not None and not self.observe,
            "tier": self.min_tier is not None,
        }
        return tuple(name for name, wanted in required.items() if wanted)

    def wants_baseline(self) -> bool:
        """Whether a verdict needs an approved baseline."""
        listed = self.ima is not None and self.ima.allow_list == "baseline" and not self.observe
        return bool(self.pinned) or listed or (self.event_log is not None and self.event_log.wants_baseline())

    def ima_rules(self, allow: AllowList | None) -> ImaRules:
        """The IMA policy as rules of the verifier, over an allow-list that was parsed once."""
        assert self.ima is not None  # noqa: S101 -- likewise
        return self.ima.rules(allow)


# What an executor counts as that no class is for. The rules are never used: nothing is asked of it.
NO_CLASS = ""
NO_RULES = AppraisalClass.model_validate({"pcrs": [0], "pinned": [0]})


class _Document(_Strict):
    format: Literal["ztrooted-appraisal/1"]
    classes: dict[ClassName, AppraisalClass] = Field(alias="class", min_length=1, max_length=MAX_CLASSES)

    @model_validator(mode="after")
    def _reachable(self) -> "_Document":
        *before, _ = self.classes.items()
        for name, rules in before:
            if rules.match is None:
                raise ValueError(
                    f"class {name!r} has no 'match', so it takes every executor, and the classes after it none;"
                    " put it last"
                )
        return self


class AppraisalPolicy:
    """A loaded policy: its classes, its exact bytes and their digest."""

    def __init__(self, data: bytes, name: str) -> None:
        def refuse(detail: str) -> PolicyError:
            return PolicyError(GateReason.POLICY_INVALID, f"{name} is {detail}")

        parsed = strict_toml.parse(data, refuse)
        try:
            document = _Document.model_validate(parsed)
        except ValidationError as error:
            detail = explain_document(error, name=name, text=data.decode(), model=_Document)
            raise PolicyError(GateReason.POLICY_INVALID, detail) from error
        self.classes = document.classes
        self.data = data
        self.digest = sha256(data)

    @property
    def open_classes(self) -> tuple[str, ...]:
        """The classes that only observe: they trust every machine whose evidence is genuine."""
        return tuple(name for name, rules in self.classes.items() if rules.observe)

    def class_of(self, subject: Subject) -> str:
        """The class of an executor. PolicyError ``policy.no_class`` when it matches none: no rules means no trust."""
        for name, rules in self.classes.items():
            if rules.match is None or rules.match.covers(subject):
                return name
        raise PolicyError(
            GateReason.POLICY_NO_CLASS, f"no class of the appraisal policy is for executor {subject.executor}"
        )

    def for_class(self, name: str) -> AppraisalClass:
        """The rules of one class. PolicyError ``policy.no_class`` when there are none."""
        if name not in self.classes:
            raise PolicyError(GateReason.POLICY_NO_CLASS, f"the appraisal policy has no class {name!r}")
        return self.classes[name]
