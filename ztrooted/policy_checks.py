"""What has to be true of a dispatch policy before it is used: each check, with file, line and a hint where one is known.

1. It is Cedar, within the limits of ``ztrooted.cedar_text``.
2. It fits the schema.
3. It has no templates, since nobody would fill in their slots: a forbid that is one would forbid nothing.
4. Its annotations are ones we know; each ``@id`` is there once. A policy without one is called by its line.
5. It only asks about who the request is about: about others no request says anything.
6. No permit in it permits everything, unless it says that this is intended.
"""

import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import cedarpy
from cedarpy import pst

from ztrooted.cedar_schema import ACTIONS, PATHS, SCHEMA
from ztrooted.cedar_text import CedarText, Refusal, Statement
from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason
from ztrooted.tautology import unconditional

MAX_REFUSALS = 20  # of one file; whoever mistyped more than that fixes the first ones first
MAX_ID = 128  # characters of an @id, which stands in every decision's record
INTENDED = "permits_everything"
ANNOTATIONS = ("id", "description", INTENDED)
CEDAR_SCHEMA = cedarpy.Schema.from_str(SCHEMA)

_TYPES = ("Orchestrator", "Executor", "Group", "Pool", "Action")
_NAMED = re.compile(r"`([^`]*)`")


@dataclass(frozen=True, slots=True)
class Rule:
    """One policy of a file: its id, as decisions name it, where it stands, and its parsed form."""

    id: str
    statement: Statement
    parsed: pst.Template

    @property
    def line(self) -> int:
        """The line it begins on."""
        return self.statement.line

    @property
    def effect(self) -> str:
        """``permit`` or ``forbid``."""
        return str(self.parsed.effect)

    @property
    def permits_everything(self) -> bool:
        """Whether it says that it is meant to."""
        return INTENDED in self.parsed.annotations


def read_rules(text: str, name: str) -> tuple[Rule, ...]:
    """The policies of a file called ``name``, in their order. PolicyError ``policy.*``, a line for each finding."""
    source = CedarText(text)
    parsed = _parse(source, name)
    if not parsed.static_policies:
        raise PolicyError(
            GateReason.POLICY_EMPTY, f"{name} contains no policy, so it could only deny; say so with a forbid"
        )
    if len(source.statements) != len(parsed.static_policies) + len(parsed.templates):
        raise PolicyError(GateReason.POLICY_INVALID, f"{name}: it can't be told where its policies begin and end")
    _refuse(name, _schema_refusals(source))
    _refuse(name, [_of(source, number, "a template: nothing fills in its slots") for number in parsed.templates])
    policies = [parsed.static_policies[f"policy{number}"] for number in range(len(source.statements))]
    rules = tuple(
        Rule(_name(policy, one, source.statements), one, policy)
        for policy, one in zip(policies, source.statements, strict=True)
    )
    _refuse(name, list(_annotation_refusals(rules)))
    _refuse(name, [found for rule in rules for found in _reach_refusals(rule)])
    _refuse(name, list(_permit_all_refusals(rules)), GateReason.POLICY_PERMITS_ALL)
    return rules


def _refuse(name: str, refusals: list[Refusal], reason: GateReason = GateReason.POLICY_INVALID) -> None:
    if refusals:
        lines = [f"{name}:{one.line}: {one.detail}" for one in sorted(refusals, key=lambda one: one.line)]
        more = [f"{name}: and {len(lines) - MAX_REFUSALS} more"] if len(lines) > MAX_REFUSALS else []
        raise PolicyError(reason, "\n".join(lines[:MAX_REFUSALS] + more))


# 1.
def _parse(source: CedarText, name: str) -> pst.PolicySet:
    _refuse(name, source.refusals)
    try:
        return cedarpy.policies_to_pst(source.text)
    except ValueError as error:
        found = source.explain(cedarpy.policies_to_pst, MAX_REFUSALS)
        _refuse(name, [Refusal(one.line, f"{one.detail}{_first_word(one, source)}") for one in found])
        raise PolicyError(GateReason.POLICY_INVALID, f"{name} is not a Cedar policy: {error}") from error


def _first_word(refusal: Refusal, source: CedarText) -> str:
    """What to write instead of a statement that begins with no word of Cedar's."""
    for one in source.statements:
        word = re.match(r"\w+", one.text)
        if one.line == refusal.line and word is not None and word[0] not in {"permit", "forbid"}:
            close = difflib.get_close_matches(word[0], ("permit", "forbid"), 1, 0.5)
            return f"; did you mean {close[0]}?" if close else "; a policy begins with permit or forbid"
    return ""


# 2.
def _schema_refusals(source: CedarText) -> list[Refusal]:
    checked = cedarpy.validate_policies(source.text, CEDAR_SCHEMA)
    if checked.validation_passed:
        return []
    found: dict[tuple[str, str], Refusal] = {}
    for error in checked.errors:
        detail = error.error.removeprefix(f"for policy `{error.policy_id}`, ")
        detail = re.sub(r' for Action::"\w+"', "", detail)  # the same for each action
        number = int(error.policy_id.removeprefix("policy"))
        statement = source.statements[number]
        line = statement.find(_word(detail))
        refusal = Refusal(line, f"{_label(statement)}: {detail}{_hint(detail)}")
        found.setdefault((error.policy_id, detail), refusal)
    if not found:
        return [Refusal(1, "it does not fit the schema")]
    vague = "unable to find an applicable action"  # follows from what is said besides
    clear = {policy for policy, detail in found if not detail.startswith(vague)}
    return [one for (policy, detail), one in found.items() if not detail.startswith(vague) or policy not in clear]


def _word(detail: str) -> str:
    """The word in a message that stands in the policy."""
    named = _NAMED.search(detail)
    return "" if named is None else named[1].rpartition("::")[2].strip('"').rpartition(".")[2]


def _hint(detail: str) -> str:
    if "optional attribute" in detail:
        return "; ask 'context has parent' before"
    if "tag" in detail and "safety" in detail:
        return '; ask resource.hasTag("…") before'
    word = _word(detail)
    if detail.startswith("attribute"):
        by_end = {path.rpartition(".")[2]: path for path in reversed(PATHS)}
        wanted = [path for path in PATHS if path.rpartition(".")[2] == word]
        close = wanted[:1] or [by_end[one] for one in difflib.get_close_matches(word, by_end, 1, 0.7)]
    elif "entity type" in detail:
        close = difflib.get_close_matches(word, _TYPES, 1, 0.5)
    elif "unrecognized action" in detail:
        close = [f'Action::"{one}"' for one in difflib.get_close_matches(word, ACTIONS, 1, 0.5)]
    else:
        close = []
    return f"; did you mean {close[0]}?" if close else ""


# 4.
def _name(policy: pst.Template, statement: Statement, all_: list[Statement]) -> str:
    """The ``@id``, or else the line."""
    named = policy.annotations.get("id")
    if named is not None:
        return str(named)
    before = sum(one.line == statement.line and one.start < statement.start for one in all_)
    return f"line {statement.line}" + (f", policy {before + 1}" if before else "")


def _label(statement: Statement) -> str:
    """A policy in an error, where it may have no id."""
    found = re.search(r'@id\s*\(\s*("(?:[^"\\]|\\.)*")', statement.text)
    return "this policy" if found is None else f"policy {found[1]}"


def _annotation_refusals(rules: tuple[Rule, ...]) -> Iterator[Refusal]:
    seen: dict[str, int] = {}
    for rule in rules:
        for annotation, value in rule.parsed.annotations.items():
            if annotation not in ANNOTATIONS:
                close = difflib.get_close_matches(annotation, ANNOTATIONS, 1, 0.5)
                meant = f"; did you mean @{close[0]}?" if close else ""
                yield Refusal(rule.line, f"unknown annotation @{annotation}{meant}")
            elif annotation == INTENDED and (value != "intended" or rule.effect != "permit"):
                yield Refusal(rule.line, f'@{INTENDED}("intended") is all it can say, and only before a permit')
        if not (rule.id.isprintable() and 0 < len(rule.id) <= MAX_ID):
            yield Refusal(rule.line, f"an @id is one line of 1 to {MAX_ID} characters")
        if rule.id in seen:
            yield Refusal(rule.line, f'@id("{rule.id}") is that of the policy on line {seen[rule.id]} already')
        seen[rule.id] = rule.line


def _of(source: CedarText, policy_id: str, detail: str) -> Refusal:
    statement = source.statements[int(policy_id.removeprefix("policy"))]
    return Refusal(statement.line, f"{_label(statement)} is {detail}")


# 5.
def _reach_refusals(rule: Rule) -> Iterator[Refusal]:
    """A named entity whose attributes, tags or groups a condition asks for."""
    for base in _bases(rule.parsed.clauses):
        for uid in sorted(pst.entity_uids(base), key=str)[:1]:
            detail = f"a policy can ask about principal, resource and context, and not about {uid}"
            yield Refusal(rule.statement.find(uid.id), f'policy "{rule.id}": {detail}')


def _bases(node: Any) -> Iterator[pst.Expr]:
    """Every expression that is asked for an attribute, a tag, or what it belongs to."""
    for one in nodes(node):
        match one:
            case pst.GetAttr(base, _) | pst.HasAttr(base, _):
                yield base
            case pst.BinaryOp("in" | "get_tag" | "has_tag", left, _):
                yield left
            case pst.Is(base, _, within) if within is not None:
                yield base


def nodes(node: Any) -> Iterator[Any]:
    """Every part of a parsed policy, itself included."""
    yield node
    if isinstance(node, tuple):
        parts: list[Any] = list(node)
    elif isinstance(node, Mapping):
        parts = list(node.values())
    elif is_dataclass(node) and not isinstance(node, type):
        parts = [getattr(node, one.name) for one in fields(node)]
    else:
        parts = []
    for part in parts:
        yield from nodes(part)


# 6.
def _permit_all_refusals(rules: tuple[Rule, ...]) -> Iterator[Refusal]:
    for rule in rules:
        if rule.effect == "permit" and not rule.permits_everything and unconditional(rule.parsed):
            yield permit_all(rule, "whoever asks, on whatever machine; no condition of it can be false")


def permit_all(rule: Rule, how: str) -> Refusal:
    """The refusal of a policy that permits everything."""
    say = f'add a condition, or say @{INTENDED}("intended") before it'
    return Refusal(rule.line, f'policy "{rule.id}" permits everything: {how}; {say}')
