"""The question to the dispatch policy, made from what was verified and from nothing else.

The gateway asks it, and an auditor makes it again from the bundle: both through ``policy_request``.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ztrooted.appraisal_policy import AppraisalClass
from ztrooted.entities import Entities
from ztrooted.policy import Request
from ztrooted.results import tier


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
    labels: Mapping[str, str] = field(default_factory=dict)
    vector: Mapping[str, int] = field(default_factory=dict)
    delegation: Delegation = Delegation()
    parent: Parent | None = None


def policy_request(action: str, facts: Facts, entities: Entities) -> Request:
    """The request for ``action``: dispatch, delegate (a dispatch that names a parent) or renew."""
    level = tier(facts.rules, trusted=facts.trusted, virtual=facts.virtual)
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
    return Request(
        action=action,
        orchestrator=facts.orchestrator,
        groups=entities.groups_of(facts.orchestrator),
        executor=facts.executor,
        pools=entities.pools_of(facts.executor, facts.executor_class, facts.labels),
        executor_attributes={"class": facts.executor_class, "virtual": facts.virtual},
        context={
            "trusted": facts.trusted,
            "tier": level,
            "virtual": facts.virtual,
            **{name: facts.job[name] for name in ("workflow", "run", "step", "attempt")},
            "job": facts.job_digest,
            "delegation": {"depth": delegation.depth, "children": delegation.children},
            **optional,
        },
    )
