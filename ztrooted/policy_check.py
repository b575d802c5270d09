"""Whether the three documents of a folder fit together: what each loader can't see by itself."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

from ztrooted.cedar_text import Statement
from ztrooted.policies import FILES, Policies

_GROUP = re.compile(r'Group::"([^"]+)"')
_POOL = re.compile(r'Pool::"([^"]+)"')
_CLASS = re.compile(r'resource\.class\s*==\s*"([^"]+)"')


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that loads, and can't be meant. ``where`` is file and line."""

    where: str
    what: str


def problems(policies: Policies) -> list[Problem]:
    """Names in the dispatch policy that the other documents don't know: such a rule would never match."""
    return [found for statement in policies.dispatch.statements for found in _of(statement, policies)]


def _of(statement: Statement, policies: Policies) -> Iterator[Problem]:
    for pattern, known, what in (
        (_GROUP, policies.entities.groups, "group"),
        (_POOL, policies.entities.pools, "pool"),
        (_CLASS, policies.appraisal.classes, "class"),
    ):
        for found in pattern.finditer(statement.text):
            if found[1] not in known:
                line = statement.line + statement.text.count("\n", 0, found.start())
                document = FILES["appraisal"] if what == "class" else FILES["entities"]
                where = f"{FILES['dispatch']}:{line}"
                yield Problem(where, f"{statement.name}: there is no {what} {found[1]!r} in {document}")
