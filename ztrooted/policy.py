"""The dispatch policy: may this orchestrator run this job on this executor, now?

Cedar: deny by default, deterministic, validated against the schema below before it is used. An evaluation error denies.
The request is plain data, so an auditor gets the same decision from the recorded bytes.
"""

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cedarpy

from ztrooted import canonical
from ztrooted.cedar_text import Statement, statements
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason, Reason

SCHEMA = """
entity Group;
entity Pool;
entity Orchestrator in [Group];
entity Executor in [Pool] = { class: String, virtual: Bool, manufacturer: String, labels: Set<String> };
action dispatch, delegate, renew appliesTo {
  principal: [Orchestrator],
  resource: [Executor],
  context: {
    trusted: Bool,
    tier: Long,
    virtual: Bool,
    vector: {
      instance_identity: Long,
      configuration: Long,
      executables: Long,
      file_system: Long,
      hardware: Long,
      runtime_opaque: Long,
      storage_opaque: Long,
      sourced_data: Long,
    },
    risk: Long,
    workflow: String,
    run: String,
    step: String,
    attempt: Long,
    job: String,
    env: String,
    files: Set<String>,
    max_runtime_s: Long,
    time: { hour: Long, minute: Long, weekday: Long },
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
ACTIONS = frozenset({"dispatch", "delegate", "renew"})
MAX_SLICES = 4096  # parsed selections of one set, and parsed pairs of orchestrator and executor; a few KB each
# The explicit word for a permit that permits everything.
OPEN_ANNOTATION, OPEN_WORD = "permits_everything", "intended"
# Nobody, asking for anything, on a machine that proved nothing.
_PROBE_CONTEXT: dict[str, Any] = {
    "trusted": False,
    "tier": 0,
    "virtual": True,
    "vector": dict.fromkeys(
        (
            "instance_identity",
            "configuration",
            "executables",
            "file_system",
            "hardware",
            "runtime_opaque",
            "storage_opaque",
            "sourced_data",
        ),
        99,
    ),
    "risk": 100,
    "workflow": "?",
    "run": "?",
    "step": "?",
    "attempt": 1,
    "job": "?",
    "env": "?",
    "files": [],
    "max_runtime_s": 1,
    "time": {"hour": 0, "minute": 0, "weekday": 1},
    "delegation": {"depth": 0, "children": 0},
}

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
    """A policy set, parsed and validated once. PolicyError when it can't be used.

    ``permits_everything`` names the policies that permit without any condition; they say so by an annotation, or the set
    is refused.
    """

    def __init__(self, data: bytes, name: str) -> None:
        text = _decoded(data, name)
        self.statements = statements(text)
        self._policies = _parsed(text, name, self.statements)
        policies: dict[str, Any] = json.loads(cedarpy.policies_to_json_str(text)).get("staticPolicies") or {}
        if not policies:
            raise PolicyError(
                GateReason.POLICY_EMPTY, f"{name} contains no policy, so it could only deny; say so with a forbid"
            )
        # cedarpy numbers policies in the order of the text.
        self.names = {f"policy{number}": one.name for number, one in enumerate(self.statements)}
        if self.names.keys() != policies.keys():
            raise PolicyError(GateReason.POLICY_INVALID, f"{name} holds templates or something else that is no policy")
        _check_names(self.statements, name)
        self._check_schema(text, name)
        self._schema = cedarpy.Schema.from_str(SCHEMA)
        self.data = data
        self.digest = sha256(data)
        self._scopes = [policies[policy] for policy in self.names]
        self._fitting: dict[tuple[object, ...], tuple[int, ...]] = {}
        self._slices: dict[tuple[int, ...], Any] = {}
        self._entities: dict[bytes, Any] = {}
        self.permits_everything = self._open_permits(policies, name)

    def _check_schema(self, text: str, name: str) -> None:
        checked = cedarpy.validate_policies(text, SCHEMA)
        if checked.validation_passed:
            return
        lines = {f"policy{number}": one.line for number, one in enumerate(self.statements)}
        found: dict[str, None] = {}
        for error in checked.errors:
            what = _without_action(error.error.replace(f"for policy `{error.policy_id}`, ", ""))
            where = (
                f"{name}:{lines[error.policy_id]}: {self.names[error.policy_id]}: " if error.policy_id in lines else ""
            )
            found[f"{where}{what}{_meant(what)}"] = None
        raise PolicyError(GateReason.POLICY_INVALID, "\n".join(found) or f"{name} does not fit the schema")

    def _open_permits(self, policies: Mapping[str, Any], name: str) -> tuple[str, ...]:
        """Policies that permit everything, by the form of their text or by what they do. Each must say that it is meant."""
        found = {policy for policy, value in policies.items() if _is_open(value)}
        for action in sorted(ACTIONS):
            probe = Request(action, "?", (), "ex-" + "f" * 32, (), _PROBE_EXECUTOR, _PROBE_CONTEXT)
            decided, answer = self._ask(probe)
            if answer.allowed is True:
                found |= {f"policy{decided[int(one.removeprefix('policy'))]}" for one in answer.diagnostics.reasons}
        for policy in sorted(found):
            if policies[policy].get("annotations", {}).get(OPEN_ANNOTATION) != OPEN_WORD:
                line = self.statements[int(policy.removeprefix("policy"))].line
                raise PolicyError(
                    GateReason.POLICY_PERMITS_ALL,
                    f"{name}:{line}: {self.names[policy]}: this permits everything, on machines that proved nothing too",
                    f'add a condition such as when {{ context.trusted }}; if it is meant, @{OPEN_ANNOTATION}("{OPEN_WORD}")',
                )
        return tuple(self.names[policy] for policy in sorted(found))

    def decide(self, request: Request) -> Decision:
        """Evaluate one request. An error in evaluation is a denial with ``policy.error``."""
        decided, answer = self._ask(request)
        names = {f"policy{number}": self.statements[index].name for number, index in enumerate(decided)}
        errors = tuple(sorted(_named(str(error), names) for error in answer.diagnostics.errors))
        determining = tuple(sorted(names[policy] for policy in answer.diagnostics.reasons))
        if errors:
            return Decision(False, determining, errors, GateReason.POLICY_ERROR)
        if answer.allowed is not True:
            return Decision(False, determining, (), GateReason.POLICY_DENIED)
        return Decision(True, determining, (), None)

    def _ask(self, request: Request) -> tuple[tuple[int, ...], Any]:
        """Cedar's answer, and the policies that were asked, by their place in the set.

        Only policies whose scope fits are: a scope can't fail, and one that does not fit decides nothing.
        """
        question = {
            "principal": {"type": "Orchestrator", "id": request.orchestrator},
            "action": {"type": "Action", "id": request.action},
            "resource": {"type": "Executor", "id": request.executor},
            "context": dict(request.context),
        }
        asked = self._asked(request)
        try:
            entities = self._entities_of(request)
        except ValueError:  # they do not fit the schema, which is for Cedar to say
            entities = _entities(request)
        return asked, cedarpy.is_authorized(question, self._slice(asked), entities, self._schema)

    def _asked(self, request: Request) -> tuple[int, ...]:
        """The policies whose scope fits; at least one, since Cedar also says whether the question fits the schema."""
        who = (request.action, request.orchestrator, request.groups, request.executor, request.pools)
        found = self._fitting.get(who)
        if found is None:
            if len(self._fitting) >= MAX_SLICES:
                self._fitting.clear()
            fitting = tuple(n for n, scope in enumerate(self._scopes) if _scope_fits(scope, request))
            found = self._fitting[who] = fitting or (0,)
        return found

    def _slice(self, asked: tuple[int, ...]) -> Any:
        """Some of the policies, parsed once for all questions that come down to them."""
        found = self._slices.get(asked)
        if found is None:
            if len(self._slices) >= MAX_SLICES:
                self._slices.clear()
            whole = len(asked) == len(self.statements)
            text = "\n".join(self.statements[index].text for index in asked)
            found = self._slices[asked] = self._policies if whole else cedarpy.PolicySet.from_str(text)
        return found

    def _entities_of(self, request: Request) -> Any:
        """Who asks and what for, parsed once: an orchestrator and an executor meet again and again."""
        text = json.dumps(_entities(request)).encode()
        found = self._entities.get(text)
        if found is None:
            if len(self._entities) >= MAX_SLICES:
                self._entities.clear()
            found = self._entities[text] = cedarpy.Entities.from_json_str(text.decode(), self._schema)
        return found


def _entities(request: Request) -> list[dict[str, Any]]:
    return [
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


def _scope_fits(policy: Mapping[str, Any], request: Request) -> bool:
    """Whether the scope of a policy (its JSON form) can hold for a request; True for any form that is not known here."""
    return (
        _end_fits(policy["principal"], ("Orchestrator", request.orchestrator), ("Group", request.groups))
        and _end_fits(policy["action"], ("Action", request.action), ("", ()))
        and _end_fits(policy["resource"], ("Executor", request.executor), ("Pool", request.pools))
    )


def _end_fits(scope: Mapping[str, Any], itself: tuple[str, str], above: tuple[str, tuple[str, ...]]) -> bool:
    listed = scope.get("entities") or ([scope["entity"]] if "entity" in scope else [])
    if scope["op"] == "==" and len(listed) == 1:
        return (listed[0]["type"], listed[0]["id"]) == itself
    if scope["op"] == "in" and listed:
        kind, names = above
        return any((one["type"], one["id"]) == itself or (one["type"] == kind and one["id"] in names) for one in listed)
    return True


_PROBE_EXECUTOR: dict[str, Any] = {"class": "?", "virtual": True, "manufacturer": "?", "labels": []}


def _decoded(data: bytes, name: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise PolicyError(GateReason.POLICY_INVALID, f"{name} is not a Cedar policy: {error}") from error


def _parsed(text: str, name: str, found: tuple[Statement, ...]) -> Any:
    try:
        return cedarpy.PolicySet.from_str(text)
    except ValueError as error:
        # Which statement it is, cedarpy does not say; alone, the wrong one is wrong too.
        for one in found:
            try:
                cedarpy.PolicySet.from_str(one.text)
            except ValueError as alone:
                raise PolicyError(
                    GateReason.POLICY_INVALID, f"{name}:{one.line}: not a Cedar policy: {alone}"
                ) from error
        raise PolicyError(GateReason.POLICY_INVALID, f"{name} is not a Cedar policy: {error}") from error


def _check_names(found: tuple[Statement, ...], name: str) -> None:
    seen: dict[str, int] = {}
    for one in found:
        if one.name in seen:
            detail = f"{name}:{one.line}: the @id {one.name!r} is that of line {seen[one.name]} already"
            raise PolicyError(GateReason.POLICY_INVALID, detail)
        seen[one.name] = one.line


def _without_action(message: str) -> str:
    """The same complaint comes once for each action."""
    return re.sub(r" in context for Action::\"\w+\"", " in context", message)


def _meant(message: str) -> str:
    """A known attribute that looks like the one that a message does not find."""
    found = re.search(r"attribute `([^`]+)`", message)
    known = re.findall(r"(\w+)\??: ", SCHEMA)
    close = difflib.get_close_matches(found[1].rpartition(".")[2], known, 1, 0.6) if found else []
    return f"; did you mean {close[0]!r}?" if close else ""


def _named(message: str, names: Mapping[str, str]) -> str:
    """An error of evaluation with the policy's own name."""
    return re.sub(r"`(policy\d+)`", lambda found: f"`{names.get(found[1], found[1])}`", message)


def _is_open(policy: Mapping[str, Any]) -> bool:
    """Whether a policy is a permit for everybody, everything and everywhere, in the form of its text."""
    if policy["effect"] != "permit":
        return False
    conditions = all(
        _always(one["body"]) if one["kind"] == "when" else _never(one["body"]) for one in policy["conditions"]
    )
    return conditions and all(_is_any(policy[part]) for part in ("principal", "action", "resource"))


def _is_any(scope: Mapping[str, Any]) -> bool:
    if scope["op"] == "is":
        return scope.get("in") is None  # there is only one type of each
    entities = {entity["id"] for entity in scope.get("entities", ())}
    return scope["op"] == "All" or (scope["op"] == "in" and entities >= ACTIONS)


def _always(body: Any) -> bool:
    """Whether an expression is true whatever is asked, as far as its form shows."""
    if not isinstance(body, dict):
        return False
    if "||" in body:
        return any(_always(side) for side in body["||"].values())
    if "&&" in body:
        return all(_always(side) for side in body["&&"].values())
    if "==" in body:
        return bool(body["=="]["left"] == body["=="]["right"])
    if "!" in body:
        return _never(body["!"]["arg"])
    return body.get("Value") is True


def _never(body: Any) -> bool:
    if not isinstance(body, dict):
        return False
    if "||" in body:
        return all(_never(side) for side in body["||"].values())
    if "&&" in body:
        return any(_never(side) for side in body["&&"].values())
    if "!" in body:
        return _always(body["!"]["arg"])
    return body.get("Value") is False
