"""Cases that policies have to decide as their author expects: ``policy.cases.toml`` beside the policies.

TOML, strict; whatever a case leaves out has a harmless default::

    format = "ztrooted-cases/1"

    [[case]]
    name = "the nightly build runs on machines with a verified boot"
    orchestrator = "ci"
    labels = { gpu = "yes" }
    tier = 3
    workflow = "nightly"
    time = "wed 02:30"
    expect = "permit"
    by = ["nightly"]

    [[class_case]]
    name = "machines with a GPU"
    labels = { gpu = "yes" }
    expect = "gpu"

``expect`` of a case is what the dispatch policy says; a machine that is not trusted gets nothing whatever it says. A class
that is left out is the one that the executor falls into, and a tier what that class proves at most.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ztrooted import limits, strict_toml
from ztrooted.appraisal_policy import NO_CLASS, AppraisalPolicy, Subject
from ztrooted.cedar_schema import VECTOR
from ztrooted.delegation import MAX_RUNTIME_S
from ztrooted.dispatch_context import Delegation, Facts, Parent, policy_request
from ztrooted.entities import ExecutorId, Name
from ztrooted.errors import PolicyError
from ztrooted.models import User
from ztrooted.policies import Policies
from ztrooted.policy import Decision, Request
from ztrooted.reasons import GateReason
from ztrooted.results import tier
from ztrooted.toml_lines import line_of
from ztrooted.validation import explain_document, explain_validation

FORMAT = "ztrooted-cases/1"
MAX_CASES = 1000  # each costs a decision

_OF_THE_JOB = ("workflow", "run", "step", "attempt", "env", "user", "memory", "pids", "cpu")
_DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_TIME = re.compile(rf"({'|'.join(_DAYS)}) ([01][0-9]|2[0-3]):([0-5][0-9])")
_DAY_MS = 86_400_000
_MONDAY_MS = 2_900 * 7 * _DAY_MS + 4 * _DAY_MS  # a Monday; the epoch was a Thursday

Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Title = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")]
Tier = Annotated[int, Field(ge=0, le=4)]
Claim = Annotated[int, Field(ge=-128, le=127)]
SOMEBODY = "somebody"
ZEROS = "0" * 64


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class DelegationCase(_Strict):
    """What is asked to be handed on."""

    depth: Annotated[int, Field(ge=0, le=limits.DELEGATION_DEPTH)] = 0
    children: Annotated[int, Field(ge=0, le=limits.DELEGATION_CHILDREN)] = 0


class ParentCase(_Strict):
    """The authorization above. ``depth`` counts what is above it in turn."""

    authorization: Name = "0" * 32
    orchestrator: Name = SOMEBODY
    executor: ExecutorId = "ex-" + "0" * 32
    workflow: Name = "workflow"
    step: Name = "step"
    depth: Annotated[int, Field(ge=0, le=limits.DELEGATION_DEPTH)] = 0
    children: Annotated[int, Field(ge=0, le=limits.DELEGATION_CHILDREN)] = 0
    tier: Tier = 4


class _About(_Strict):
    """An executor, as its class may depend on it."""

    name: Title
    executor: ExecutorId = "ex-" + "0" * 32
    virtual: bool = False
    manufacturer: str = "id:494E5443"
    labels: dict[Name, Name] = {}

    def subject(self) -> Subject:
        """The executor for the appraisal policy."""
        return Subject(self.executor, self.virtual, self.manufacturer, self.labels)


class Case(_About):
    """One question to the dispatch policy, and the answer that is expected."""

    expect: Literal["permit", "deny"]
    by: list[str] | None = None
    action: Literal["dispatch", "delegate", "renew"] = "dispatch"
    orchestrator: Name = SOMEBODY
    executor_class: Name | None = Field(None, alias="class")
    trusted: bool | None = None
    tier: Tier | None = None
    vector: dict[Literal[VECTOR], Claim] = {}  # type: ignore[valid-type]
    baseline_age_days: Annotated[int, Field(ge=0, le=10_000)] = 0
    workflow: Name = "workflow"
    run: Name = "run"
    step: Name = "step"
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    job: Hex32 = ZEROS
    job_files: list[Hex32] = []
    env: Hex32 = ZEROS
    user: User | None = None
    memory: Annotated[int, Field(ge=1 << 20, le=limits.JOB_MEMORY)] | None = None
    pids: Annotated[int, Field(ge=1, le=limits.JOB_PIDS)] | None = None
    cpu: Annotated[int, Field(ge=1, le=limits.JOB_CPU)] | None = None
    max_runtime_s: Annotated[int, Field(ge=1, le=limits.MAX_RUNTIME_S)] = MAX_RUNTIME_S
    time: str = "wed 12:00"
    delegation: DelegationCase = DelegationCase()
    parent: ParentCase | None = None

    @model_validator(mode="after")
    def _sense(self) -> "Case":
        if _TIME.fullmatch(self.time) is None:
            raise ValueError("'time' is a day and a time in UTC, such as \"wed 14:30\"")
        if self.action == "delegate" and self.parent is None:
            raise ValueError("a 'delegate' has a 'parent'; give at least parent = {}")
        if self.action == "dispatch" and self.parent is not None:
            raise ValueError("a dispatch that has a 'parent' is a 'delegate'")
        if self.trusted is False and self.tier:
            raise ValueError("a machine that is not trusted has tier 0")
        if self.trusted and self.tier == 0:
            raise ValueError("a machine that is trusted has a tier from 1 on")
        return self

    def facts(self, appraisal: AppraisalPolicy) -> Facts:
        """The case as what a gateway would have verified. PolicyError for a class that the appraisal policy lacks."""
        executor_class = self.executor_class
        if executor_class is None:
            executor_class = class_of(appraisal, self.subject())
        trusted = (executor_class != NO_CLASS and self.tier != 0) if self.trusted is None else self.trusted
        best = 0
        if executor_class != NO_CLASS:
            best = tier(appraisal.for_class(executor_class), trusted=trusted, virtual=self.virtual)
        elif trusted:
            raise PolicyError(GateReason.POLICY_NO_CLASS, "no class is for this executor, so it can't be trusted")
        day, hour, minute = self._time()
        now_ms = _MONDAY_MS + day * _DAY_MS + (hour * 60 + minute) * 60_000
        files = {f"/{number}": digest for number, digest in enumerate(self.job_files)}
        return Facts(
            orchestrator=self.orchestrator,
            executor=self.executor,
            executor_class=executor_class,
            virtual=self.virtual,
            manufacturer=self.manufacturer,
            proved=best if self.tier is None else self.tier,
            trusted=trusted,
            job={
                **{name: getattr(self, name) for name in _OF_THE_JOB},
                "files": files,
            },
            job_digest=self.job,
            max_runtime_s=self.max_runtime_s,
            now_ms=now_ms,
            labels=self.labels,
            vector=self.vector,
            baseline_at=now_ms - self.baseline_age_days * _DAY_MS,
            delegation=Delegation(self.delegation.depth, self.delegation.children),
            parent=None if self.parent is None else Parent(**self.parent.model_dump()),
        )

    def _time(self) -> tuple[int, int, int]:
        day, _, clock = self.time.partition(" ")
        hour, _, minute = clock.partition(":")
        return _DAYS.index(day), int(hour), int(minute)


class ClassCase(_About):
    """Which class of the appraisal policy an executor falls into; "" is none."""

    expect: Name | Literal[""]


class _Document(_Strict):
    format: Literal["ztrooted-cases/1"]
    cases: Annotated[list[Case], Field(alias="case", max_length=MAX_CASES)] = []
    class_cases: Annotated[list[ClassCase], Field(alias="class_case", max_length=MAX_CASES)] = []


@dataclass(frozen=True, slots=True)
class Cases:
    """A table of cases, each with its line in the file called ``name``."""

    name: str
    cases: tuple[tuple[int, Case], ...]
    class_cases: tuple[tuple[int, ClassCase], ...]

    def find(self, name: str) -> Case | None:
        """The case of that name."""
        return next((case for _, case in self.cases if case.name == name), None)


@dataclass(frozen=True, slots=True)
class Result:
    """How one case went. ``detail`` says what came out instead, or is "" where it passed."""

    name: str
    line: int
    expected: str
    found: str
    by: tuple[str, ...]
    detail: str

    @property
    def passed(self) -> bool:
        """Whether it came out as expected."""
        return not self.detail

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "name": self.name,
            "line": self.line,
            "passed": self.passed,
            "expected": self.expected,
            "found": self.found,
            "by": list(self.by),
            "detail": self.detail,
        }


def parse_cases(data: bytes, name: str) -> Cases:
    """Read a table. PolicyError with a line ``name:line`` for each finding; one without any case is refused too."""

    def refuse(detail: str) -> PolicyError:
        return PolicyError(GateReason.POLICY_INVALID, f"{name} is {detail}")

    parsed = strict_toml.parse(data, refuse)
    text = data.decode()
    try:
        document = _Document.model_validate(parsed)
    except ValidationError as error:
        detail = explain_document(error, name=name, text=text, model=_Document)
        raise PolicyError(GateReason.POLICY_INVALID, detail) from error
    if not document.cases and not document.class_cases:
        raise PolicyError(GateReason.POLICY_EMPTY, f"{name} has no case, so it would pass whatever the policies say")
    cases = tuple((line_of(text, ("case", number)) or 1, one) for number, one in enumerate(document.cases))
    class_cases = tuple(
        (line_of(text, ("class_case", number)) or 1, one) for number, one in enumerate(document.class_cases)
    )
    seen: dict[str, int] = {}
    for line, one in (*cases, *class_cases):
        if one.name in seen:
            detail = f"{name}:{line}: {one.name!r} is the name of the case on line {seen[one.name]} already"
            raise PolicyError(GateReason.POLICY_INVALID, detail)
        seen[one.name] = line
    return Cases(name, cases, class_cases)


def make_case(values: Mapping[str, Any]) -> Case:
    """One case from values that somebody gave one by one. PolicyError where they are none."""
    try:
        return Case.model_validate({"name": "the case", "expect": "permit", **values})
    except ValidationError as error:
        raise PolicyError(GateReason.POLICY_INVALID, explain_validation(error)) from error


def run_cases(cases: Cases, policies: Policies) -> list[Result]:
    """Every case, in the order of the file."""
    found = [_run(line, case, policies) for line, case in cases.cases]
    found += [_run_class(line, case, policies.appraisal) for line, case in cases.class_cases]
    return sorted(found, key=lambda one: one.line)


def decide_case(case: Case, policies: Policies) -> tuple[Facts, Request, Decision]:
    """The facts of a case, the question that they make, and the answer."""
    facts = case.facts(policies.appraisal)
    request = policy_request(case.action, facts, policies.entities)
    return facts, request, policies.dispatch.decide(request)


def _run(line: int, case: Case, policies: Policies) -> Result:
    try:
        _, _, decision = decide_case(case, policies)
    except PolicyError as error:
        return Result(case.name, line, case.expect, "error", (), error.detail)
    found = "permit" if decision.permitted else "deny"
    by = ", ".join(decision.determining) or "no permit matches"
    detail = ""
    if decision.errors:
        detail = f"a policy failed: {decision.errors[0]}"
    elif found != case.expect:
        detail = f"expected {case.expect}, and it is {found} ({by})"
    elif case.by is not None and sorted(case.by) != list(decision.determining):
        detail = f"expected by {', '.join(sorted(case.by)) or 'no policy at all'}, and it is by {by}"
    return Result(case.name, line, case.expect, found, decision.determining, detail)


def _run_class(line: int, case: ClassCase, appraisal: AppraisalPolicy) -> Result:
    found = class_of(appraisal, case.subject())
    detail = "" if found == case.expect else f"expected class {case.expect or 'none'!r}, and it is {found or 'none'!r}"
    return Result(case.name, line, case.expect, found, (), detail)


def class_of(appraisal: AppraisalPolicy, subject: Subject) -> str:
    """The class of an executor, "" for none."""
    try:
        return appraisal.class_of(subject)
    except PolicyError:
        return NO_CLASS
