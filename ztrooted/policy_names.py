"""Names that three documents have to agree on: groups, pools and classes that one of them speaks of and another lacks.

Each is an error, since it is mostly a slip of the pen, and not a harmless one: a forbid for a pool that isn't there forbids
nothing.
"""

import difflib
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from cedarpy import pst

from ztrooted.policies import Policies
from ztrooted.policy_checks import Rule, nodes
from ztrooted.tautology import path_of
from ztrooted.toml_lines import line_of


def unknown_names(policies: Policies, names: Mapping[str, str]) -> list[str]:
    """A line ``name:line: …`` for each name that another document lacks. ``names`` says what the documents are called."""
    found = []
    known: Mapping[str, Collection[str]] = {"Group": policies.entities.groups, "Pool": policies.entities.pools}
    for rule in policies.dispatch.rules:
        for uid in sorted(pst.entity_uids(rule.parsed), key=str):
            there = known.get(str(uid.type))
            if there is not None and uid.id not in there:
                detail = f"{names['entities']} has no {str(uid.type).lower()} {uid.id!r}{_meant(uid.id, there)}"
                found.append(_finding(names["dispatch"], rule, uid.id, detail))
        for name in sorted(set(_classes(rule.parsed)) - set(policies.appraisal.classes)):
            detail = f"{names['appraisal']} has no class {name!r}{_meant(name, policies.appraisal.classes)}"
            found.append(_finding(names["dispatch"], rule, name, detail))
    text = policies.entities.data.decode()
    for pool, entry in policies.entities.pools.items():
        for name in entry.classes:
            if name not in policies.appraisal.classes:
                line = line_of(text, ("pool", pool, "classes"))
                meant = _meant(name, policies.appraisal.classes)
                found.append(
                    f"{names['entities']}:{line}: pool {pool!r}: {names['appraisal']} has no class {name!r}{meant}"
                )
    return found


def _finding(document: str, rule: Rule, word: str, detail: str) -> str:
    return f'{document}:{rule.statement.find(word)}: policy "{rule.id}": {detail}'


def _meant(name: str, known: Collection[str]) -> str:
    close = difflib.get_close_matches(name, list(known), 1, 0.6)
    return f"; did you mean {close[0]!r}?" if close else ""


def _classes(node: Any) -> Iterator[str]:
    """Every text that a policy compares ``resource.class`` with."""
    for one in nodes(node):
        match one:
            case pst.BinaryOp("eq" | "not_eq", pst.StringLit(name), other) | pst.BinaryOp(
                "eq" | "not_eq", other, pst.StringLit(name)
            ) if path_of(other) == "resource.class":
                yield name
            case pst.BinaryOp("contains", pst.Set(elements), other) if path_of(other) == "resource.class":
                yield from (text.value for text in elements if isinstance(text, pst.StringLit))
