"""The dispatch policy: may this orchestrator run this job on this executor, now?

Cedar: deny by default, deterministic, validated against ``ztrooted.cedar_schema`` before it is used. An evaluation error
denies.
The request is plain data, so an auditor gets the same decision from the recorded bytes.
"""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import product
from typing import Any

import cedarpy

from ztrooted import canonical
from ztrooted.cedar_schema import ACTIONS, ATTRIBUTES, CONTEXT, VECTOR, misfit
from ztrooted.entities import MAX_REMEMBERED
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.policy_checks import permit_all, read_rules
from ztrooted.policy_slice import Slices
from ztrooted.reasons import GateReason, Reason

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
    labels: Mapping[str, str] = field(default_factory=dict)
    parent_groups: tuple[str, ...] = ()

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
            "labels": dict(self.labels),
            "parent_groups": list(self.parent_groups),
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
            labels=value["labels"],
            parent_groups=tuple(value["parent_groups"]),
        )


class DispatchPolicy:
    """A policy set, parsed and validated once. PolicyError ``policy.*`` with file and line when it can't be used.

    ``rules`` are its policies in their order.
    """

    def __init__(self, data: bytes, name: str) -> None:
        try:
            text = data.decode()
        except UnicodeDecodeError as error:
            raise PolicyError(GateReason.POLICY_INVALID, f"{name} is not a Cedar policy: {error}") from error
        self.rules = read_rules(text, name)
        self.name = name
        self.data = data
        self.digest = sha256(data)
        self._slices = Slices(self.rules)
        self._refuse_trust_in_strangers()

    @property
    def permits_everything(self) -> bool:
        """Whether a permit says that it is meant to permit everything; people are shown that in red."""
        return any(rule.permits_everything for rule in self.rules)

    def decide(self, request: Request) -> Decision:
        """Evaluate one request. An error in evaluation is a denial with ``policy.error``."""
        if wrong := _misfit(request):
            return Decision(False, (), (wrong,), GateReason.POLICY_ERROR)
        policies, rules = self._slices.of(
            request.action, request.orchestrator, request.groups, request.executor, request.pools
        )
        answer = ask_cedar(policies, request)
        found = answer.diagnostics
        determining = tuple(sorted(rules[int(policy.removeprefix("policy"))].id for policy in found.reasons))
        if found.errors:
            errors = sorted(
                _NUMBERED.sub(lambda number: rules[int(number[1])].id, str(error)) for error in found.errors
            )
            return Decision(False, determining, tuple(errors), GateReason.POLICY_ERROR)
        if answer.allowed is not True:
            return Decision(False, determining, (), GateReason.POLICY_DENIED)
        return Decision(True, determining, (), None)

    def _refuse_trust_in_strangers(self) -> None:
        """A machine that proved nothing, asked for by somebody whom no policy names: nothing may permit that."""
        meant = {rule.id for rule in self.rules if rule.permits_everything}
        known = {rule.id: rule for rule in self.rules}
        for request in strangers():
            decision = self.decide(request)
            if decision.permitted and (wrong := sorted(set(decision.determining) - meant)):
                how = f"it permits anybody to {request.action} on a machine that proved nothing"
                found = permit_all(known[wrong[0]], how)
                raise PolicyError(GateReason.POLICY_PERMITS_ALL, f"{self.name}:{found.line}: {found.detail}")


def strangers() -> Iterator[Request]:
    """Requests of an unknown orchestrator on an unverified machine (tier A0), at several hours of the week."""
    for action, (weekday, hour) in product(ACTIONS, ((1, 3), (3, 12), (5, 20), (7, 0))):
        context: dict[str, Any] = {
            "trusted": False,
            "tier": 0,
            "virtual": True,
            "vector": dict.fromkeys(VECTOR, 99),
            "risk": 100,
            **dict.fromkeys(("workflow", "run", "step", "job", "env"), _STRANGE),
            "attempt": 1,
            "job_files": [_STRANGE],
            "max_runtime_s": 7 * 86400,
            "time": {"hour": hour, "minute": 0, "weekday": weekday, "day_minutes": 60 * hour},
            "delegation": {"depth": 8, "children": 256},
        }
        if hour < 10:  # at some hours as root, and with as good as no limits
            context |= {"user": "0:0", "limits": {"memory": 1 << 50, "pids": 1 << 22, "cpu": 1 << 19}}
        if action == "delegate":
            above = {"__entity": {"type": "Orchestrator", "id": f"above {_STRANGE}"}}
            named = dict.fromkeys(("authorization", "executor", "workflow", "step"), f"above {_STRANGE}")
            context["parent"] = {**named, "orchestrator": above, "depth": 0, "children": 0, "tier": 0}
        attributes = {"class": _STRANGE, "virtual": True, "manufacturer": _STRANGE}
        yield Request(action, _STRANGE, (), _STRANGE, (), attributes, context)


# A name that no policy says.
_STRANGE = "stranger 5c1d0c3e"
_NUMBERED = re.compile(r"(?<=`)policy([0-9]+)(?=`)")  # as the library calls them in errors


def _misfit(request: Request) -> str:
    """Why a request is none that the schema knows; "" if it is one."""
    if request.action not in ACTIONS:
        return f"there is no action {request.action!r}"
    names = [request.orchestrator, request.executor, *request.groups, *request.pools, *request.parent_groups]
    attributes = {"id": request.executor, **request.executor_attributes}
    return (
        misfit(names, "Set<String>", "names")
        or misfit(attributes, ATTRIBUTES, "resource")
        or misfit([*request.labels, *request.labels.values()], "Set<String>", "labels")
        or misfit(request.context, CONTEXT, "context")
    )


def ask_cedar(policies: cedarpy.PolicySet, request: Request) -> cedarpy.AuthzResult:
    """Cedar's own answer to a request that fits the schema."""
    question = {
        "principal": {"type": "Orchestrator", "id": request.orchestrator},
        "action": {"type": "Action", "id": request.action},
        "resource": {"type": "Executor", "id": request.executor},
        "context": dict(request.context),
    }
    return cedarpy.is_authorized(question, policies, _parsed(json.dumps(_entities(request))))


@lru_cache(MAX_REMEMBERED)
def _parsed(entities: str) -> cedarpy.Entities:
    """Renewals ask about the same entities again and again."""
    return cedarpy.Entities.from_json_str(entities)


def _entities(request: Request) -> list[dict[str, Any]]:
    """The two that a request is about, and the parent's orchestrator, with what they belong to.

    No policy can ask about another one, so this decides as all entities together would.
    """
    executor = {
        "uid": {"type": "Executor", "id": request.executor},
        "attrs": {**request.executor_attributes, "id": request.executor},
        "parents": [{"type": "Pool", "id": name} for name in request.pools],
        "tags": dict(request.labels),
    }
    found = [_orchestrator(request.orchestrator, request.groups), executor]
    if "parent" in request.context:
        above = request.context["parent"]["orchestrator"]["__entity"]["id"]
        if above != request.orchestrator:
            found.append(_orchestrator(above, request.parent_groups))
    return found


def _orchestrator(name: str, groups: tuple[str, ...]) -> dict[str, Any]:
    return {
        "uid": {"type": "Orchestrator", "id": name},
        "attrs": {},
        "parents": [{"type": "Group", "id": group} for group in groups],
    }
