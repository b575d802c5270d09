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

A group may be in other groups, and then so are its members; never in itself, by whatever way. Pools likewise.
"""

from collections.abc import Iterable, Mapping
from functools import cached_property, lru_cache
from graphlib import CycleError, TopologicalSorter
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, ValidationError

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

MAX_ENTITIES = 1000  # groups, and as many pools; what one orchestrator belongs to is in each of its requests
MAX_REMEMBERED = 4096  # orchestrators, and as many executors, whose groups and pools are looked up once

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
ExecutorId = Annotated[str, StringConstraints(pattern=r"^ex-[0-9a-f]{32}$")]


def _once(names: list[str]) -> list[str]:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise ValueError(f"{name!r} is there more than once")
        seen.add(name)
    return names


Once = AfterValidator(_once)


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ignored_types=(cached_property,))


class Group(_Strict):
    """Orchestrators, and the groups that this one belongs to."""

    members: Annotated[list[Name], Once] = []
    within: Annotated[list[Name], Once] = Field([], alias="in")


class Pool(_Strict):
    """Executors, and the pools that this one belongs to. ``labels`` must all be there for an executor to belong."""

    executors: Annotated[list[ExecutorId], Once] = []
    classes: Annotated[list[Name], Once] = []
    labels: dict[Name, Name] = {}
    within: Annotated[list[Name], Once] = Field([], alias="in")


class _Document(_Strict):
    format: Literal["ztrooted-entities/1"]
    groups: dict[Name, Group] = Field({}, alias="group", max_length=MAX_ENTITIES)
    pools: dict[Name, Pool] = Field({}, alias="pool", max_length=MAX_ENTITIES)


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
        _check_hierarchy("group", self.groups, name, data.decode())
        _check_hierarchy("pool", self.pools, name, data.decode())
        self.data = data
        self.digest = sha256(data)
        self._groups_with = _index((name, group.members) for name, group in self.groups.items())
        self._pools_with = _index((name, pool.executors) for name, pool in self.pools.items())
        self._pools_of_class = _index((name, pool.classes) for name, pool in self.pools.items())
        # A pool is looked up by one of its labels; the others are compared then.
        self._pools_of_label = _index((name, sorted(pool.labels.items())[:1]) for name, pool in self.pools.items())
        self._known_groups = lru_cache(MAX_REMEMBERED)(self._find_groups)
        self._known_pools = lru_cache(MAX_REMEMBERED)(self._find_pools)

    def groups_of(self, orchestrator: str) -> tuple[str, ...]:
        """Every group that an orchestrator belongs to, directly or through another, in alphabetical order."""
        return self._known_groups(orchestrator)

    def pools_of(self, executor: str, executor_class: str, labels: Mapping[str, str]) -> tuple[str, ...]:
        """Every pool that an executor belongs to, directly or through another, in alphabetical order."""
        return self._known_pools(executor, executor_class, tuple(sorted(labels.items())))

    def _find_groups(self, orchestrator: str) -> tuple[str, ...]:
        return _closure(self._groups_with.get(orchestrator, ()), self.groups)

    def _find_pools(self, executor: str, executor_class: str, labels: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
        direct = {*self._pools_with.get(executor, ()), *self._pools_of_class.get(executor_class, ())}
        given = set(labels)
        for label in labels:
            direct |= {
                name for name in self._pools_of_label.get(label, ()) if set(self.pools[name].labels.items()) <= given
            }
        return _closure(direct, self.pools)


T = TypeVar("T", Group, Pool)
K = TypeVar("K")


def _check_hierarchy(kind: str, found: Mapping[str, T], document: str, text: str) -> None:
    def refuse(name: str, detail: str) -> PolicyError:
        line = line_of(text, (kind, name, "in"))
        return PolicyError(GateReason.POLICY_INVALID, f"{document}:{line}: {kind}.{name}.in: {detail}")

    for name, entry in found.items():
        if unknown := [other for other in entry.within if other not in found]:
            raise refuse(name, f"there is no {kind} {unknown[0]!r}")
    try:
        TopologicalSorter({name: entry.within for name, entry in found.items()}).prepare()
    except CycleError as error:
        way = error.args[1][::-1]
        raise refuse(way[0], f"it would be in itself: {' in '.join(way)}") from error


def _index(entries: Iterable[tuple[str, Iterable[K]]]) -> dict[K, list[str]]:
    """By what is listed, who lists it."""
    found: dict[K, list[str]] = {}
    for name, listed in entries:
        for one in listed:
            found.setdefault(one, []).append(name)
    return found


def _closure(start: Iterable[str], known: Mapping[str, T]) -> tuple[str, ...]:
    found: set[str] = set()
    left = list(start)
    while left:
        name = left.pop()
        if name not in found:
            found.add(name)
            left += known[name].within
    return tuple(sorted(found))
