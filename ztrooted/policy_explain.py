"""Why the dispatch policy says what it says: which policies decided, where they stand, and what kept the others from it.

For a denial by default the permits that came closest are shown: each part of their scope and each condition (a ``&&`` at
the top splits one) is evaluated by itself, by Cedar. A condition that only makes sense behind another one may fail alone;
that is told as it is.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import cedarpy
from cedarpy import pst

from ztrooted.policy import Decision, DispatchPolicy, Request, ask_cedar
from ztrooted.policy_checks import Rule
from ztrooted.risk import Score

CLOSEST = 3  # permits shown for a denial by default
_ANY = pst.ScopeAny()
_NAMELESS = pst.Template("policy0", "permit", _ANY, _ANY, _ANY, (), {})
_BRACKETS = re.compile(r"\(((?:context|principal|resource)(?:\.\w+)*)\)")


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a policy, evaluated by itself. ``holds`` is None where it can't be evaluated alone."""

    text: str
    holds: bool | None


@dataclass(frozen=True, slots=True)
class Close:
    """A permit that did not apply, and the parts of it that did not hold."""

    rule: Rule
    failing: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class PolicyExplanation:
    """``deciding`` are the policies that decided; ``closest`` is filled for a denial by default only."""

    name: str
    request: Request
    decision: Decision
    score: Score
    deciding: tuple[Rule, ...]
    closest: tuple[Close, ...]

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "decision": self.decision.encode(),
            "deciding": [_encode(self.name, rule) for rule in self.deciding],
            "closest": [
                {
                    **_encode(self.name, one.rule),
                    "failing": [{"text": part.text, "holds": part.holds} for part in one.failing],
                }
                for one in self.closest
            ],
            "request": self.request.encode(),
            "risk": self.score.encode(),
        }


def _encode(name: str, rule: Rule) -> dict[str, Any]:
    return {
        "id": rule.id,
        "effect": rule.effect,
        "where": f"{name}:{rule.line}",
        "text": rule.statement.text,
    }


def explain_decision(policy: DispatchPolicy, request: Request, score: Score) -> PolicyExplanation:
    """Decide a request, and say why."""
    decision = policy.decide(request)
    deciding = tuple(rule for rule in policy.rules if rule.id in decision.determining)
    closest: tuple[Close, ...] = ()
    if not deciding and not decision.errors:
        found = [
            Close(rule, tuple(part for part in parts(rule, request) if part.holds is not True))
            for rule in policy.rules
            if rule.effect == "permit"
        ]
        closest = tuple(sorted(found, key=lambda one: len(one.failing))[:CLOSEST])
    return PolicyExplanation(policy.name, request, decision, score, deciding, closest)


def parts(rule: Rule, request: Request) -> Iterator[Part]:
    """The scope and the conditions of a policy, each evaluated for ``request`` by itself."""
    parsed = rule.parsed
    for name in ("principal", "action", "resource"):
        if not isinstance(getattr(parsed, name), pst.ScopeAny):
            yield _evaluate(replace(_NAMELESS, **{name: getattr(parsed, name)}), request)
    for clause in parsed.clauses:
        for one in _split(clause):
            yield _evaluate(replace(_NAMELESS, clauses=(one,)), request)


def _split(clause: pst.Clause) -> Iterator[pst.Clause]:
    """``when { a && b }`` is ``when { a } when { b }``, and ``unless { a || b }`` is ``unless { a } unless { b }``."""
    joined = "and" if isinstance(clause, pst.When) else "or"
    left = [clause.expr]
    while left:
        expr = left.pop()
        if isinstance(expr, pst.BinaryOp) and expr.op == joined:
            left += [expr.right, expr.left]
        else:
            yield type(clause)(expr)


def _evaluate(part: pst.Template, request: Request) -> Part:
    policies = cedarpy.PolicySet.from_pst(pst.PolicySet({}, {"policy0": part}, ()))
    answer = ask_cedar(policies, request)
    holds = None if answer.diagnostics.errors else answer.allowed is True
    return Part(_text(str(policies), part), holds)


def _text(policy: str, part: pst.Template) -> str:
    """Only what is said of a policy that says one thing."""
    if part.clauses:
        found = re.search(r"(when|unless) \{(.*)\};?\s*$", policy, re.DOTALL)
        said = policy if found is None else found[2].strip()
        while (plain := _BRACKETS.sub(r"\1", said)) != said:
            said = plain
        return f"unless {said}" if isinstance(part.clauses[0], pst.Unless) else said
    scope = re.match(r"permit\((.*)\)", policy, re.DOTALL)
    bare = {"principal", "action", "resource"}
    said = re.split(r",\s*(?=action|resource)", scope[1]) if scope is not None else [policy]
    return next((one.strip() for one in said if one.strip() not in bare), policy)


def summary(rule: Rule) -> str:
    """A policy in one line: its description if it has one, else what its scope names and how many conditions it has."""
    described = rule.parsed.annotations.get("description")
    if described:
        return str(described)
    said = []
    for name in ("principal", "action", "resource"):
        scope = getattr(rule.parsed, name)
        if not isinstance(scope, pst.ScopeAny):
            part = replace(_NAMELESS, **{name: scope})
            said.append(_text(str(cedarpy.PolicySet.from_pst(pst.PolicySet({}, {"policy0": part}, ()))), part))
    count = sum(1 for clause in rule.parsed.clauses for _ in _split(clause))
    said.append("no condition" if not count else f"{count} condition{'s' if count > 1 else ''}")
    return ", ".join(said)
