"""Why the dispatch policy decides as it does, before it is asked in earnest: which policy, which condition."""

from dataclasses import dataclass
from typing import Any

from ztrooted.cedar_text import Statement
from ztrooted.errors import PolicyError
from ztrooted.policies import Policies
from ztrooted.policy import DispatchPolicy, Request
from ztrooted.risk import Inputs, Score, score


@dataclass(frozen=True, slots=True)
class Considered:
    """One policy and what came of it: ``decided``, ``matches`` (and was overruled), ``does not match``, or ``failed``."""

    statement: Statement
    effect: str
    came: str

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        return {
            "policy": self.statement.name,
            "line": self.statement.line,
            "effect": self.effect,
            "came": self.came,
            "text": self.statement.text,
        }


def consider(policies: Policies, request: Request) -> list[Considered]:
    """Every policy of the set, asked alone. Those that decided come first, then those that match."""
    decision = policies.dispatch.decide(request)
    found = []
    for statement in policies.dispatch.statements:
        effect = "forbid" if _is_forbid(statement) else "permit"
        decided = statement.name in decision.determining
        came = "decided" if decided else _alone(statement, effect, request)
        found.append(Considered(statement, effect, came))
    order = {"decided": 0, "failed": 1, "matches": 2, "does not match": 3}
    return sorted(found, key=lambda one: order[one.came])


def _is_forbid(statement: Statement) -> bool:
    """Past its annotations, a policy begins with its effect."""
    text = statement.text
    while text.startswith("@"):
        text = text[text.index(")") + 1 :].lstrip() if "(" in text.split("\n", 1)[0] else text.split(None, 1)[1]
    return text.startswith("forbid")


def _alone(statement: Statement, effect: str, request: Request) -> str:
    text = statement.text if effect == "permit" else statement.text.replace("forbid", "permit", 1)
    try:
        one = DispatchPolicy(f'@permits_everything("intended")\n{text}'.encode(), statement.name)
    except PolicyError:
        one = DispatchPolicy(text.encode(), statement.name)
    answer = one.decide(request)
    if answer.errors:
        return "failed"
    return "matches" if answer.permitted else "does not match"


def risk_of(request: Request) -> Score:
    """The risk score of a question with its parts, as far as the question itself says them."""
    context = request.context
    parent = context.get("parent")
    delegation = context["delegation"]
    return score(
        Inputs(
            tier=context["tier"],
            virtual=context["virtual"],
            attempt=context["attempt"],
            depth=0 if parent is None else parent["depth"] + 1,
            hands_on=delegation["depth"] > 0 and delegation["children"] > 0,
            max_runtime_s=context["max_runtime_s"],
            vector=context["vector"],
        )
    )
