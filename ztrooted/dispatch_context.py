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
class Facts:
    """What a dispatch decision may depend on. ``job`` is the job's encoded form; ``now_ms`` the round's instant."""

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


def policy_request(action: str, facts: Facts, entities: Entities) -> Request:
    """The request for ``action``: dispatch or renew."""
    return Request(
        action=action,
        orchestrator=facts.orchestrator,
        groups=entities.groups_of(facts.orchestrator),
        executor=facts.executor,
        pools=entities.pools_of(facts.executor, facts.executor_class, facts.labels),
        executor_attributes={"class": facts.executor_class, "virtual": facts.virtual},
        context={
            "trusted": facts.trusted,
            "tier": tier(facts.rules, trusted=facts.trusted, virtual=facts.virtual),
            "virtual": facts.virtual,
            **{name: facts.job[name] for name in ("workflow", "run", "step", "attempt")},
            "job": facts.job_digest,
        },
    )
