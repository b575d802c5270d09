"""The question to the dispatch policy, made from what was verified and from nothing else.

The gateway asks it, and an auditor makes it again from the bundle: both through ``policy_request``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.ar4si import TrustVector
from ztrooted.entities import Entities
from ztrooted.policy import Request
from ztrooted.results import tier
from ztrooted.risk import Inputs, score


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

    ``vector`` is the AR4SI trust vector by claim name, underscores for dashes.
    """

    orchestrator: str
    executor: str
    executor_class: str
    virtual: bool
    rules: AppraisalClass
    trusted: bool
    job: Mapping[str, Any]
    job_digest: str
    now_ms: int
    manufacturer: str = ""
    max_runtime_s: int = 0
    labels: Mapping[str, str] = field(default_factory=dict)
    vector: Mapping[str, int] = field(default_factory=dict)
    delegation: Delegation = Delegation()
    parent: Parent | None = None


def risk_inputs(facts: Facts, level: int) -> Inputs:
    """What the risk score of a request is made of, at an assurance tier of ``level``."""
    return Inputs(
        tier=level,
        virtual=facts.virtual,
        attempt=facts.job["attempt"],
        depth=0 if facts.parent is None else facts.parent.depth + 1,
        hands_on=facts.delegation.depth > 0 and facts.delegation.children > 0,
        max_runtime_s=facts.max_runtime_s,
        vector=facts.vector,
    )


def time_of(now_ms: int) -> dict[str, int]:
    """An instant as policies speak of time: UTC, ``weekday`` 1 (Monday) to 7, ``minute`` of the day 0 to 1439."""
    at = datetime.fromtimestamp(now_ms / 1000, UTC)
    return {"hour": at.hour, "minute": at.hour * 60 + at.minute, "weekday": at.isoweekday()}


def policy_request(action: str, facts: Facts, entities: Entities, *, tier_override: int | None = None) -> Request:
    """The request for ``action``: dispatch, delegate (a dispatch that names a parent) or renew.

    ``tier_override`` is for tables of cases, which ask about machines that the class's rules could not describe.
    """
    level = tier(facts.rules, trusted=facts.trusted, virtual=facts.virtual) if tier_override is None else tier_override
    delegation, parent = facts.delegation, facts.parent
    optional: dict[str, Any] = {}
    if parent is not None:
        level = min(level, parent.tier)
        optional["parent"] = {
            "authorization": parent.authorization,
            "orchestrator": {"__entity": {"type": "Orchestrator", "id": parent.orchestrator}},
            "executor": {"__entity": {"type": "Executor", "id": parent.executor}},
            "workflow": parent.workflow,
            "step": parent.step,
            "depth": parent.depth,
            "children": parent.children,
            "tier": parent.tier,
        }
    vector = {name: facts.vector.get(name, 0) for name in TrustVector().as_context()}
    inputs = risk_inputs(facts, level)
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
            "labels": sorted(f"{name}={value}" for name, value in facts.labels.items()),
        },
        context={
            "trusted": facts.trusted,
            "tier": level,
            "virtual": facts.virtual,
            **{name: facts.job[name] for name in ("workflow", "run", "step", "attempt")},
            "job": facts.job_digest,
            "env": facts.job["env"],
            "files": sorted(facts.job["files"].values()),
            "max_runtime_s": facts.max_runtime_s,
            "vector": vector,
            "risk": score(inputs).total,
            "time": time_of(facts.now_ms),
            "delegation": {"depth": delegation.depth, "children": delegation.children},
            **optional,
        },
    )
