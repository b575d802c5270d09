"""Who belongs together: groups of orchestrators and pools of executors, for the dispatch policy to speak about.

TOML, strict. A pool takes executors in by id, by class, or by the labels that an operator gave them::

    format = "ztrooted-entities/1"

    [group.release-engineering]
    members = ["ci", "nightly"]
    in = ["engineering"]

    [pool.gpu]
    labels = { gpu = "yes" }
    executors = ["ex-0123456789abcdef0123456789abcdef"]
    classes = ["boot"]
"""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

from ztrooted import strict_toml
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.toml_lines import line_of
from ztrooted.validation import explain_document

FORMAT = "ztrooted-entities/1"
STARTER = f"""\
# Groups of orchestrators and pools of executors that the dispatch policy may name.
format = "{FORMAT}"
"""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
ExecutorId = Annotated[str, StringConstraints(pattern=r"^ex-[0-9a-f]{32}$")]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ignored_types=(cached_property,))


class Group(_Strict):
    """Orchestrators, and the groups that this one belongs to."""

    members: list[Name] = []
    within: list[Name] = Field([], alias="in")


class Pool(_Strict):
    """Executors, and the pools that this one belongs to. ``labels`` must all be there for an executor to belong."""

    executors: list[ExecutorId] = []
    classes: list[Name] = []
    labels: dict[Name, Name] = {}
    within: list[Name] = Field([], alias="in")

    def contains(self, executor: str, executor_class: str, labels: Mapping[str, str]) -> bool:
        """Whether an executor belongs here by itself."""
        labelled = bool(self.labels) and all(labels.get(name) == value for name, value in self.labels.items())
        return executor in self.executors or executor_class in self.classes or labelled


class _Document(_Strict):
    format: Literal["ztrooted-entities/1"]
    groups: dict[Name, Group] = Field({}, alias="group")
    pools: dict[Name, Pool] = Field({}, alias="pool")


class Entities:
    """A loaded document: its groups and pools, its exact bytes and their digest. PolicyError when it can't be used."""

    def __init__(self, data: bytes, name: str) -> None:
        def refuse(detail: str) -> PolicyError:
            return PolicyError(GateReason.POLICY_INVALID, f"{name} is {detail}")

        parsed = strict_toml.parse(data, refuse)
        try:
            document = _Document.model_validate(parsed)
        except ValidationError as error:
            detail = explain_document(error, name=name, text=data.decode(), model=_Document)
            raise PolicyError(GateReason.POLICY_INVALID, detail) from error
        self.groups, self.pools = document.groups, document.pools
        for kind, found in (("group", self.groups), ("pool", self.pools)):
            for one, entry in found.items():
                if unknown := [other for other in entry.within if other not in found]:
                    line = line_of(data.decode(), (kind, one, "in"))
                    detail = f"{name}:{line}: {kind}.{one}.in: there is no {kind} {unknown[0]!r}"
                    raise PolicyError(GateReason.POLICY_INVALID, detail)
        self.data = data
        self.digest = sha256(data)

    def groups_of(self, orchestrator: str) -> tuple[str, ...]:
        """Every group that an orchestrator belongs to, directly or through another, in alphabetical order."""
        return _closure((name for name, group in self.groups.items() if orchestrator in group.members), self.groups)

    def pools_of(self, executor: str, executor_class: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Every pool that an executor belongs to, directly or through another, in alphabetical order."""
        direct = (name for name, pool in self.pools.items() if pool.contains(executor, executor_class, labels))
        return _closure(direct, self.pools)


T = TypeVar("T", Group, Pool)


def _closure(start: Iterable[str], known: Mapping[str, T]) -> tuple[str, ...]:
    found: set[str] = set()
    left = list(start)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += known[name].within
    return tuple(sorted(found))
