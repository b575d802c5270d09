"""The dispatch policy: may this orchestrator run this job on this executor, now?

Cedar: deny by default, deterministic, validated against the schema below before it is used. An evaluation error denies.
The request is plain data, so an auditor gets the same decision from the recorded bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cedarpy

from ztrooted import canonical
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason, Reason

SCHEMA = """
entity Group;
entity Pool;
entity Orchestrator in [Group];
entity Executor in [Pool] = { class: String, virtual: Bool };
action dispatch, delegate, renew appliesTo {
  principal: [Orchestrator],
  resource: [Executor],
  context: {
    trusted: Bool,
    tier: Long,
    virtual: Bool,
    workflow: String,
    run: String,
    step: String,
    attempt: Long,
    job: String,
    delegation: { depth: Long, children: Long },
    parent?: {
      authorization: String,
      orchestrator: Orchestrator,
      executor: Executor,
      workflow: String,
      step: String,
      depth: Long,
      children: Long,
      tier: Long,
    },
  },
};
"""

# What a new gateway starts with: any authenticated orchestrator, any job, but only on a machine that has just proved
# itself. The operator narrows it down.
STARTER = """\
// Deny is the default: without a matching permit nothing runs.
@id("trusted-machines-only")
permit (principal, action in [Action::"dispatch", Action::"renew"], resource)
when { context.trusted };
"""


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy said. ``determining`` are the ids of the policies that decided."""

    permitted: bool
    determining: tuple[str, ...]
    errors: tuple[str, ...]
    reason: Reason | None

    def encode(self) -> dict[str, Any]:
        """For records: equal decisions give equal bytes."""
        return {
            "permitted": self.permitted,
            "determining": list(self.determining),
            "errors": list(self.errors),
            "reason": self.reason,
        }


@dataclass(frozen=True, slots=True)
class Request:
    """One question to the policy, complete: its canonical bytes are what the record's digest refers to."""

    action: str
    orchestrator: str
    groups: tuple[str, ...]
    executor: str
    pools: tuple[str, ...]
    executor_attributes: Mapping[str, Any]
    context: Mapping[str, Any]

    def encode(self) -> dict[str, Any]:
        """As canonical JSON values."""
        return {
            "action": self.action,
            "orchestrator": self.orchestrator,
            "groups": list(self.groups),
            "executor": self.executor,
            "pools": list(self.pools),
            "executor_attributes": dict(self.executor_attributes),
            "context": dict(self.context),
        }

    def digest(self) -> str:
        """SHA-256 of the canonical bytes."""
        return canonical.digest(self.encode())

    @classmethod
    def decode(cls, value: Mapping[str, Any]) -> "Request":
        """The inverse of ``encode``. KeyError or TypeError when ``value`` is something else."""
        return cls(
            action=value["action"],
            orchestrator=value["orchestrator"],
            groups=tuple(value["groups"]),
            executor=value["executor"],
            pools=tuple(value["pools"]),
            executor_attributes=value["executor_attributes"],
            context=value["context"],
        )


class DispatchPolicy:
    """A policy set, parsed and validated once. PolicyError when it can't be used."""

    def __init__(self, data: bytes, name: str) -> None:
        try:
            text = data.decode()
            self._policies = cedarpy.PolicySet.from_str(text)
        except (UnicodeDecodeError, ValueError) as error:
            raise PolicyError(GateReason.POLICY_INVALID, f"{name} is not a Cedar policy: {error}") from error
        checked = cedarpy.validate_policies(text, SCHEMA)
        if not checked.validation_passed:
            found = "; ".join(str(error) for error in checked.errors)
            raise PolicyError(GateReason.POLICY_INVALID, f"{name} does not fit the schema: {found}")
        if not json.loads(cedarpy.policies_to_json_str(text)).get("staticPolicies"):
            raise PolicyError(
                GateReason.POLICY_EMPTY, f"{name} contains no policy, so it could only deny; say so with a forbid"
            )
        self._schema = cedarpy.Schema.from_str(SCHEMA)
        self.data = data
        self.digest = sha256(data)

    def decide(self, request: Request) -> Decision:
        """Evaluate one request. An error in evaluation is a denial with ``policy.error``."""
        entities = [
            {
                "uid": {"type": "Orchestrator", "id": request.orchestrator},
                "attrs": {},
                "parents": [{"type": "Group", "id": name} for name in request.groups],
            },
            {
                "uid": {"type": "Executor", "id": request.executor},
                "attrs": dict(request.executor_attributes),
                "parents": [{"type": "Pool", "id": name} for name in request.pools],
            },
        ]
        question = {
            "principal": {"type": "Orchestrator", "id": request.orchestrator},
            "action": {"type": "Action", "id": request.action},
            "resource": {"type": "Executor", "id": request.executor},
            "context": dict(request.context),
        }
        answer = cedarpy.is_authorized(question, self._policies, entities, self._schema)
        errors = tuple(str(error) for error in answer.diagnostics.errors)
        names = answer.diagnostics.id_annotations_by_reason
        determining = tuple(sorted(names.get(policy) or policy for policy in answer.diagnostics.reasons))
        if errors:
            return Decision(False, determining, errors, GateReason.POLICY_ERROR)
        if answer.allowed is not True:
            return Decision(False, determining, (), GateReason.POLICY_DENIED)
        return Decision(True, determining, (), None)
