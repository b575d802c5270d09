"""What the lineage says of one authorization, found by its records: the first and last of its story, and what they name.

A story of a day has thousands of records, of which a page shows some at a time. What it rests on is looked for by name,
from the newest record that was there before it.
"""

import json
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from gateway.storage import authorizations, lineage
from gateway.storage.authorizations import Authorization
from gateway.storage.listings import stands

SHOWN = 50  # records at a time
LOOKED_AT = 2000  # records of one type, from the newest; what is older is not found, and said to be so
COUNTED = 5000  # records of one execution, from the newest, that are counted by type: each is a row to be looked at
MOST_NODES = 200
ORDERS = ("operator.quarantined", "operator.released", "operator.revoked")


@dataclass(frozen=True, slots=True)
class Told:
    """One record as it stands."""

    index: int
    type: str
    at: int
    body: Mapping[str, Any]

    @property
    def round(self) -> Mapping[str, Any]:
        """The round of proof that it tells of; empty for others."""
        found = self.body.get("round", self.body)
        return found if isinstance(found, dict) and isinstance(found.get("verdict"), dict) else {}


@dataclass(frozen=True, slots=True)
class Node:
    """An authorization in the tree of its parent and children. ``more`` of its children are not shown."""

    id: str
    step: str
    state: str
    own: bool
    children: list["Node"] = field(default_factory=list)
    more: int = 0


@dataclass(frozen=True, slots=True)
class Story:
    """One authorization and its records: ``first`` and ``last`` of them, how many there are, and those shown.

    ``counts`` says how many of each type, of the ``COUNTED`` newest.
    """

    authorization: Authorization
    first: tuple[Told, ...]
    last: tuple[Told, ...]
    records: int
    counts: Mapping[str, int]
    shown: tuple[Told, ...]
    tree: Node

    def one(self, *types: str) -> Told | None:
        """The first record of a type among the first and last."""
        return next((one for one in (*self.first, *self.last) if one.type in types), None)

    def final(self, *types: str) -> Told | None:
        """The last one."""
        return next((one for one in (*reversed(self.last), *reversed(self.first)) if one.type in types), None)

    @property
    def counted_all(self) -> bool:
        """Whether ``counts`` is of all of them."""
        return sum(self.counts.values()) == self.records


def read_story(connection: sqlite3.Connection, authorization: str, *, behind: int = -1) -> Story:
    """The story of one; shown are the records behind the one with this index. GateError ``artifact.unknown``."""
    found = authorizations.get(connection, authorization)
    first = _records(connection, authorization, "seq > -1 ORDER BY seq", SHOWN)
    last = tuple(reversed(_records(connection, authorization, "seq > -1 ORDER BY seq DESC", SHOWN)))
    every = "SELECT COUNT(*) FROM records WHERE authorization = ?"  # from its index alone
    counts = (
        "SELECT type, COUNT(*) FROM (SELECT type FROM records WHERE authorization = ? ORDER BY seq DESC LIMIT ?)"
        " GROUP BY type"
    )
    shown = first if behind < 0 else _records(connection, authorization, f"seq > {behind:d} ORDER BY seq", SHOWN)
    return Story(
        authorization=found,
        first=first,
        last=last,
        records=connection.execute(every, (authorization,)).fetchone()[0],
        counts=dict(connection.execute(counts, (authorization, COUNTED)).fetchall()),
        shown=shown,
        tree=_tree(connection, found),
    )


def _records(connection: sqlite3.Connection, authorization: str, which: str, limit: int) -> tuple[Told, ...]:
    rows = connection.execute(
        f"SELECT seq, type, at, bytes FROM records WHERE authorization = ? AND {which} LIMIT ?",  # noqa: S608 -- ours
        (authorization, limit),
    )
    return tuple(_told(*row) for row in rows)


def _told(seq: int, kind: str, at: int, data: bytes) -> Told:
    return Told(seq, kind, at, json.loads(bytes(data))["body"])


def record_at(connection: sqlite3.Connection, index: int) -> Told | None:
    """One record by its index."""
    row = connection.execute("SELECT seq, type, at, bytes FROM records WHERE seq = ?", (index,)).fetchone()
    return None if row is None else _told(*row)


def newest(
    connection: sqlite3.Connection, kind: str, before: int, is_wanted: Callable[[Mapping[str, Any]], bool]
) -> Told | None:
    """The newest record of a type, about no authorization, before an index, whose body is wanted."""
    rows = connection.execute(
        "SELECT seq, type, at, bytes FROM records WHERE authorization IS NULL AND type = ? AND seq < ?"
        " ORDER BY seq DESC LIMIT ?",
        (kind, before, LOOKED_AT),
    )
    return next((told for told in (_told(*row) for row in rows) if is_wanted(told.body)), None)


def orders_between(connection: sqlite3.Connection, first: int, last: int, subjects: set[str]) -> list[Told]:
    """What operators ordered about any of ``subjects`` between two records."""
    found = []
    for kind in ORDERS:
        rows = connection.execute(
            "SELECT seq, type, at, bytes FROM records WHERE authorization IS NULL AND type = ? AND seq BETWEEN ? AND ?"
            " ORDER BY seq LIMIT ?",
            (kind, first, last, LOOKED_AT),
        )
        found += [told for told in (_told(*row) for row in rows) if subjects & set(_texts(told.body))]
    return sorted(found, key=lambda told: told.index)


def _texts(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [text for item in value.values() for text in _texts(item)]
    return [value] if isinstance(value, str) else []


def blob(connection: sqlite3.Connection, digest: str, most: int) -> tuple[bytes, int]:
    """The first ``most`` of stored bytes by their SHA-256, and how many there are; nothing where they are not stored."""
    query = "SELECT substr(bytes, 1, ?), length(bytes) FROM blobs WHERE digest = ?"
    row = connection.execute(query, (most, digest)).fetchone()
    return (b"", 0) if row is None else (bytes(row[0]), row[1])


def _tree(connection: sqlite3.Connection, own: Authorization) -> Node:
    """From the top of its chain down to it, and everything below it, as far as a page has room."""
    left = [MOST_NODES]
    node = _below(connection, own, left, own.id)
    for parent in authorizations.above(connection, own):
        others = authorizations.count_children(connection, parent.id) - (1 if own.place is not None else 0)
        node = Node(parent.id, parent.job.step, _stands(connection, parent), False, [node], max(0, others))
    return node


def _below(connection: sqlite3.Connection, one: Authorization, left: list[int], own: str) -> Node:
    query = (
        "SELECT id FROM authorizations WHERE parent = ? AND place IS NOT NULL ORDER BY place LIMIT ?"  # as ``children``
    )
    children: list[Node] = []
    for (name,) in connection.execute(query, (one.id, left[0])).fetchall():
        if left[0] <= 0:
            break
        left[0] -= 1
        children.append(_below(connection, authorizations.get(connection, name), left, own))
    more = authorizations.count_children(connection, one.id) - len(children)
    return Node(one.id, one.job.step, _stands(connection, one), one.id == own, children, more)


def _stands(connection: sqlite3.Connection, one: Authorization) -> str:
    return stands(connection, one.id, one.state, one.reason)


def size(connection: sqlite3.Connection) -> int:
    """The number of records in the lineage."""
    return lineage.size(connection)
