"""The three documents of a folder, checked together: everything that is wrong with each, and where they disagree."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ztrooted.appraisal_policy import AppraisalPolicy
from ztrooted.entities import Entities
from ztrooted.errors import PolicyError
from ztrooted.policies import Policies
from ztrooted.policy import DispatchPolicy
from ztrooted.policy_explain import summary
from ztrooted.policy_names import unknown_names
from ztrooted.results import tier, tier_name

_KINDS = {"appraisal": AppraisalPolicy, "dispatch": DispatchPolicy, "entities": Entities}


@dataclass(frozen=True, slots=True)
class Checked:
    """``policies`` is None where a document can't be used; ``errors`` has a line for each finding then, and otherwise for
    each name that the documents don't agree on."""

    policies: Policies | None
    errors: tuple[str, ...]
    names: Mapping[str, str]

    def classes(self) -> list[dict[str, Any]]:
        """The classes in their order, with the tier each can prove at most."""
        if self.policies is None:
            return []
        return [
            {
                "class": name,
                "best_tier": tier_name(tier(rules, trusted=True, virtual=False)),
                "observes_only": rules.observe,
            }
            for name, rules in self.policies.appraisal.classes.items()
        ]

    def rules(self) -> list[dict[str, Any]]:
        """The dispatch policies in their order."""
        if self.policies is None:
            return []
        return [
            {
                "id": rule.id,
                "effect": rule.effect,
                "where": f"{self.names['dispatch']}:{rule.line}",
                "summary": summary(rule),
                "permits_everything": rule.permits_everything,
            }
            for rule in self.policies.dispatch.rules
        ]

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        policies = self.policies
        return {
            "ok": not self.errors,
            "errors": list(self.errors),
            "trusts_everything": [] if policies is None else list(policies.trusts_everything()),
            "classes": self.classes(),
            "policies": self.rules(),
            "groups": [] if policies is None else sorted(policies.entities.groups),
            "pools": [] if policies is None else sorted(policies.entities.pools),
            "digests": None if policies is None else policies.digests(),
        }


def check_folder(documents: Mapping[str, bytes], names: Mapping[str, str]) -> Checked:
    """Check documents by role; ``names`` says what to call them. Never raises for what they contain."""
    loaded: dict[str, Any] = {}
    errors: list[str] = []
    for role, kind in _KINDS.items():
        try:
            loaded[role] = kind(documents[role], names[role])
        except PolicyError as error:
            errors += error.detail.splitlines()
    if errors:
        return Checked(None, tuple(errors), names)
    policies = Policies(**loaded)
    return Checked(policies, tuple(unknown_names(policies, names)), names)
