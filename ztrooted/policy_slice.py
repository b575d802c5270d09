"""Which policies of a set a request can concern at all, by their scope. The others could neither decide nor fail.

A scope is compared with the request before any condition is evaluated, so a decision of the slice is that of the whole
set; of 200 policies, mostly a handful is left to evaluate.
"""

from collections.abc import Iterable
from functools import lru_cache

import cedarpy
from cedarpy import pst

from ztrooted.cedar_schema import ACTIONS
from ztrooted.policy_checks import Rule

MAX_SLICES = 1024  # parsed and kept ready; there is one for each combination of policies that requests concern


class Slices:
    """A set of policies, indexed by what their scopes name. A set of policies is a number with a bit for each."""

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self._principals: dict[str, int] = {}
        self._actions: dict[str, int] = {}
        self._resources: dict[str, int] = {}
        for number, rule in enumerate(rules):
            bit = 1 << number
            for index, names in (
                (self._principals, _entity(rule.parsed.principal)),
                (self._actions, _action(rule.parsed.action)),
                (self._resources, _entity(rule.parsed.resource)),
            ):
                for name in names:
                    index[name] = index.get(name, 0) | bit
        self._parsed = lru_cache(MAX_SLICES)(self._parse)

    def of(
        self, action: str, orchestrator: str, groups: Iterable[str], executor: str, pools: Iterable[str]
    ) -> tuple[cedarpy.PolicySet, tuple[Rule, ...]]:
        """The policies for a request; ``policy<n>`` of the parsed set is the ``n``-th of the rules."""
        principals, resources = self._principals, self._resources
        who = principals.get("", 0) | principals.get(f"Orchestrator {orchestrator}", 0)
        for name in groups:
            who |= principals.get(f"Group {name}", 0)
        where = resources.get("", 0) | resources.get(f"Executor {executor}", 0)
        for name in pools:
            where |= resources.get(f"Pool {name}", 0)
        return self._parsed(who & where & (self._actions.get("", 0) | self._actions.get(action, 0)))

    def _parse(self, wanted: int) -> tuple[cedarpy.PolicySet, tuple[Rule, ...]]:
        rules = tuple(rule for number, rule in enumerate(self._rules) if wanted >> number & 1)
        return cedarpy.PolicySet.from_str("\n".join(rule.statement.text for rule in rules)), rules


def _entity(scope: pst.PrincipalOrResourceConstraint) -> list[str]:
    """What an entity has to be, or to belong to, for a scope to hold; "" is any. Types are right by the schema."""
    if isinstance(scope, (pst.ScopeAny, pst.ScopeIs)) or not isinstance(scope.entity, pst.EntityUid):
        return [""]
    return [f"{scope.entity.type} {scope.entity.id}"]


def _action(scope: pst.ActionConstraint) -> list[str]:
    if isinstance(scope, pst.ScopeAny):
        return [""]
    named = [scope.entity] if isinstance(scope, pst.ActionEq) else list(scope.entities)
    return [one.id for one in named if one.id in ACTIONS]
