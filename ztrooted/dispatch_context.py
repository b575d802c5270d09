"""The question to the dispatch policy, made from what was verified and from nothing else.

The gateway asks it, and an auditor makes it again from the bundle: both through ``policy_request``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ztrooted.cedar_schema import LIMITS, VECTOR
from ztrooted.entities import Entities
from ztrooted.policy import Request
from ztrooted.risk import Inputs, Score, age_points, risk

MINUTE_MS = 60_000


@dataclass(frozen=True, slots=True)
class Delegation:
    """What an authorization may hand on: how many levels may be below it, and how many children it may have."""

    depth: int = 0
    children: int = 0


@dataclass(frozen=True, slots=True)
class Parent:
    """The live authorization that a child dispatch names. ``depth`` is 0 for one that has no parent itself.

    ``children`` counts the children it had been given before this one; ``tier`` is that of its last artifact.
    """

    authorization: str
    orchestrator: str
    executor: str
    workflow: str
    step: str
    depth: int
    children: int
    tier: int


@dataclass(frozen=True, slots=True)
class Facts:
    """What a dispatch decision may depend on. ``job`` is the job's encoded form; ``now_ms`` the round's instant.

    ``proved`` is the tier that the verdict has by the rules of the executor's class (``ztrooted.results.tier``).
    ``vector`` is the AR4SI trust vector by claim name, underscores for dashes; a claim that is missing is 0, no claim.
    ``max_runtime_s`` is the longest the job may run: what was asked for, or else what it gets at most. ``baseline_at`` is
    when the baseline that the round was judged by was captured, in milliseconds; None where there was none.
    """

    orchestrator: str
    executor: str
    executor_class: str
    virtual: bool
    manufacturer: str
    proved: int
    trusted: bool
    job: Mapping[str, Any]
    job_digest: str
    max_runtime_s: int
    now_ms: int
    labels: Mapping[str, str] = field(default_factory=dict)
    vector: Mapping[str, int] = field(default_factory=dict)
    baseline_at: int | None = None
    delegation: Delegation = Delegation()
    parent: Parent | None = None

    @property
    def tier(self) -> int:
        """The tier of the verdict, and never above that of the parent."""
        return self.proved if self.parent is None else min(self.proved, self.parent.tier)

    @property
    def _age_s(self) -> int | None:
        return None if self.baseline_at is None else max(0, self.now_ms - self.baseline_at) // 1000

    def asks_like(self, other: "Facts") -> bool:
        """Whether the question about these facts is that about ``other``: only their instants differ, and it does not show.

        What a request tells of the instant is the minute, and what the age of the baseline then adds to the risk.
        """
        if self.now_ms // MINUTE_MS != other.now_ms // MINUTE_MS or self.age_points != other.age_points:
            return False
        return replace(self, now_ms=other.now_ms) == other

    @property
    def age_points(self) -> int | None:
        """What the age of the baseline adds to the risk; None where there was none."""
        return None if self._age_s is None else age_points(self._age_s)

    def risk(self) -> Score:
        """The risk score, with its parts."""
        age_s = self._age_s
        return risk(
            Inputs(
                tier=self.tier,
                virtual=self.virtual,
                vector=self.vector,
                baseline_age_s=age_s,
                attempt=self.job["attempt"],
                depth=0 if self.parent is None else self.parent.depth + 1,
                delegation=self.delegation.depth,
                max_runtime_s=self.max_runtime_s,
            )
        )


def policy_request(action: str, facts: Facts, entities: Entities) -> Request:
    """The request for ``action``: dispatch, delegate (a dispatch that names a parent) or renew."""
    return Request(
        action=action,
        orchestrator=facts.orchestrator,
        groups=entities.groups_of(facts.orchestrator),
        executor=facts.executor,
        pools=entities.pools_of(facts.executor, facts.executor_class, facts.labels),
        executor_attributes={
            "class": facts.executor_class,
            "virtual": facts.virtual,
            "manufacturer": facts.manufacturer,
        },
        context=_context(facts),
        labels=dict(facts.labels),
        parent_groups=() if facts.parent is None else entities.groups_of(facts.parent.orchestrator),
    )


def _context(facts: Facts) -> dict[str, Any]:
    job = facts.job
    told: dict[str, Any] = {
        "trusted": facts.trusted,
        "tier": facts.tier,
        "virtual": facts.virtual,
        "vector": {name: facts.vector.get(name, 0) for name in VECTOR},
        "risk": facts.risk().total,
        **{name: job[name] for name in ("workflow", "run", "step", "attempt")},
        "job": facts.job_digest,
        "job_files": sorted(set(job["files"].values())),
        "env": job["env"],
        "max_runtime_s": facts.max_runtime_s,
        "time": time_of_day(facts.now_ms),
        "delegation": {"depth": facts.delegation.depth, "children": facts.delegation.children},
    }
    if job.get("user") is not None:
        told["user"] = job["user"]
    if limits := {name: job[name] for name in LIMITS if job.get(name) is not None}:
        told["limits"] = limits
    if (parent := facts.parent) is not None:
        told["parent"] = {
            "authorization": parent.authorization,
            "orchestrator": {"__entity": {"type": "Orchestrator", "id": parent.orchestrator}},
            "executor": parent.executor,
            "workflow": parent.workflow,
            "step": parent.step,
            "depth": parent.depth,
            "children": parent.children,
            "tier": parent.tier,
        }
    return told


def time_of_day(now_ms: int) -> dict[str, int]:
    """``now_ms`` in UTC, as a policy sees it. Weeks begin with Monday, which is 1 (ISO 8601)."""
    days, minutes = divmod(now_ms // MINUTE_MS, 24 * 60)
    return {
        "hour": minutes // 60,
        "minute": minutes % 60,
        "weekday": (days + 3) % 7 + 1,  # the epoch was a Thursday
        "day_minutes": minutes,
    }
