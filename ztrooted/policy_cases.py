"""A table of cases for policies: what must be permitted, what denied, and by which rule. For CI, before an activation.

TOML, strict. A case says only what matters to it; everything else has a harmless default::

    format = "ztrooted-cases/1"

    [[case]]
    name = "nobody deploys on a machine that drifted"
    trusted = false
    step = "deploy"
    expect = "deny"

    [[class_case]]
    name = "GPU machines are strict"
    labels = { gpu = "yes" }
    expect = "strict"
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from ztrooted import strict_toml
from ztrooted.appraisal_policy import NO_RULES, Subject
from ztrooted.ar4si import CLAIMS
from ztrooted.dispatch_context import Delegation, Facts, Parent, policy_request
from ztrooted.entities import ExecutorId, Name
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.policies import Policies
from ztrooted.policy import Decision, Request
from ztrooted.reasons import GateReason
from ztrooted.validation import explain_document

FILE = "policy.cases.toml"
FORMAT = "ztrooted-cases/1"
MAX_CASES = 10_000
EXECUTOR = "ex-" + "0" * 32
MONDAY_NOON_MS = 1_767_614_400_000  # 2026-01-05T12:00:00Z

Text = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class ParentCase(_Strict):
    """The parent of a child dispatch."""

    orchestrator: Name = "orchestrator"
    executor: ExecutorId = EXECUTOR
    workflow: Name = "workflow"
    step: Name = "parent"
    depth: Annotated[int, Field(ge=0, le=8)] = 0
    children: Annotated[int, Field(ge=0, le=256)] = 0
    tier: Annotated[int, Field(ge=0, le=4)] = 4


class DelegationCase(_Strict):
    """What a dispatch asks to hand on."""

    depth: Annotated[int, Field(ge=0, le=8)] = 0
    children: Annotated[int, Field(ge=0, le=256)] = 0


class Case(_Strict):
    """One question to the dispatch policy. Without ``tier`` it is what the class's rules prove at their best."""

    name: Text
    expect: Literal["permit", "deny"]
    by: list[Text] | None = None
    action: Literal["dispatch", "delegate", "renew"] = "dispatch"
    orchestrator: Name = "orchestrator"
    executor: ExecutorId = EXECUTOR
    executor_class: Name | None = Field(None, alias="class")
    virtual: bool = False
    manufacturer: Text = "id:494E5443"
    labels: dict[Name, Name] = {}
    trusted: bool = True
    tier: Annotated[int, Field(ge=0, le=4)] | None = None
    vector: dict[Literal[CLAIMS], Annotated[int, Field(ge=-128, le=127)]] = {}  # type: ignore[valid-type]
    workflow: Name = "workflow"
    run: Name = "1"
    step: Name = "step"
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    max_runtime_s: Annotated[int, Field(ge=1, le=7 * 86400)] = 600
    files: list[Annotated[str, StringConstraints(pattern="^[0-9a-f]{64}$")]] = []
    at: datetime | None = None
    parent: ParentCase | None = None
    delegation: DelegationCase = DelegationCase()

    @model_validator(mode="after")
    def _sensible(self) -> "Case":
        if (self.action == "delegate") is (self.parent is None) and self.action != "renew":
            raise ValueError("a case has a 'parent' where its action is 'delegate', and only there")
        if self.at is not None and self.at.tzinfo is None:
            raise ValueError("'at' needs a time zone, like 2026-01-05T12:00:00Z")
        return self


class ClassCase(_Strict):
    """Which class of the appraisal policy an executor is of; ``none`` where no class is for it."""

    name: Text
    expect: Text
    executor: ExecutorId = EXECUTOR
    virtual: bool = False
    manufacturer: Text = "id:494E5443"
    labels: dict[Name, Name] = {}


class _Document(_Strict):
    format: Literal["ztrooted-cases/1"]
    cases: list[Case] = Field([], alias="case", max_length=MAX_CASES)
    class_cases: list[ClassCase] = Field([], alias="class_case", max_length=MAX_CASES)

    @model_validator(mode="after")
    def _some(self) -> "_Document":
        if not self.cases and not self.class_cases:
            raise ValueError("the table has no case, and a test of nothing would always pass")
        names = [one.name for one in self.cases] + [one.name for one in self.class_cases]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"two cases have the name {name!r}")
        return self


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one case came out. ``got`` says it in a few words; ``decision`` is None for a case about classes."""

    name: str
    passed: bool
    expected: str
    got: str
    decision: Decision | None = None
    request: Request | None = None


class Cases:
    """A loaded table. PolicyError with file and line when it can't be used."""

    def __init__(self, data: bytes, name: str) -> None:
        def refuse(detail: str) -> PolicyError:
            return PolicyError(GateReason.POLICY_INVALID, f"{name} is {detail}")

        parsed = strict_toml.parse(data, refuse)
        try:
            document = _Document.model_validate(parsed)
        except ValidationError as error:
            detail = explain_document(error, name=name, text=data.decode(), model=_Document)
            raise PolicyError(GateReason.POLICY_INVALID, detail) from error
        self.cases, self.class_cases = tuple(document.cases), tuple(document.class_cases)
        self.digest = sha256(data)

    def run(self, policies: Policies) -> list[Outcome]:
        """Every case under ``policies``, in the order of the table."""
        return [run_case(one, policies) for one in self.cases] + [
            _run_class_case(one, policies) for one in self.class_cases
        ]


def run_case(case: Case, policies: Policies) -> Outcome:
    """Ask the dispatch policy; a case that names ``by`` wants exactly these policies to have decided."""
    request = request_of(case, policies)
    decision = policies.dispatch.decide(request)
    got = "permit" if decision.permitted else "deny"
    by = ", ".join(decision.determining) or ("an error" if decision.errors else "no permit matches")
    passed = got == case.expect and (case.by is None or sorted(case.by) == list(decision.determining))
    expected = case.expect if case.by is None else f"{case.expect} by {', '.join(case.by)}"
    return Outcome(
        case.name, passed, expected, f"{got} by {by}" if decision.determining else f"{got}: {by}", decision, request
    )


def request_of(case: Case, policies: Policies) -> Request:
    """The question of a case, as the gateway would ask it."""
    subject = Subject(case.executor, case.virtual, case.manufacturer, case.labels)
    executor_class, rules = "", NO_RULES
    try:
        executor_class = case.executor_class or policies.appraisal.class_of(subject)
        rules = policies.appraisal.for_class(executor_class)
    except PolicyError:
        if case.executor_class is not None:
            raise
    at_ms = MONDAY_NOON_MS if case.at is None else round(case.at.astimezone(UTC).timestamp() * 1000)
    parent = case.parent
    facts = Facts(
        orchestrator=case.orchestrator,
        executor=case.executor,
        executor_class=executor_class,
        virtual=case.virtual,
        rules=rules,
        trusted=case.trusted,
        job={
            "workflow": case.workflow,
            "run": case.run,
            "step": case.step,
            "attempt": case.attempt,
            "env": "0" * 64,
            "files": {f"/{number}": digest for number, digest in enumerate(case.files)},
        },
        job_digest="0" * 64,
        now_ms=at_ms,
        manufacturer=case.manufacturer,
        max_runtime_s=case.max_runtime_s,
        labels=case.labels,
        vector={name.replace("-", "_"): value for name, value in case.vector.items()},
        delegation=Delegation(case.delegation.depth, case.delegation.children),
        parent=None if parent is None else Parent(authorization="0" * 32, **parent.model_dump()),
    )
    return policy_request(case.action, facts, policies.entities, tier_override=case.tier)


def _run_class_case(case: ClassCase, policies: Policies) -> Outcome:
    subject = Subject(case.executor, case.virtual, case.manufacturer, case.labels)
    try:
        got = policies.appraisal.class_of(subject)
    except PolicyError:
        got = "none"
    return Outcome(case.name, got == case.expect, case.expect, got)
