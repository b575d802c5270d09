"""The lineage in SQLite: records as leaves, complete tiles of 256 hashes, and the proofs that follow from them.

A tile of level t and index i holds the hashes of the complete subtrees (8t, 256·i) to (8t, 256·i + 255). Only complete
tiles are stored, so nothing is ever rewritten; the incomplete ones on the right edge follow from the records.
"""

import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import chain
from typing import Any, TypeAlias

from ztrooted import merkle, tiles
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason
from ztrooted.records import Link, Record

TILE_HEIGHT, TILE_WIDTH = tiles.HEIGHT, tiles.WIDTH
WHOLE = 20_000  # records that a start looks at in about a second
PIECE = 64  # records: a millisecond or two, for which everybody else waits


TOGETHER = 32  # records in one statement: more gains nothing measurable

_Row: TypeAlias = tuple[int, bytes, str, int, str | None, bytes]

# Whether a checkpoint note is ours, and about so many records with that root.
Trusted = Callable[[bytes, int, bytes], bool]


@dataclass(frozen=True, slots=True)
class Appended:
    """Where a record went, and the tree right behind it."""

    index: int
    leaf: bytes
    tree: merkle.Frontier

    @property
    def size(self) -> int:
        """The number of records up to and with this one."""
        return self.tree.size

    @property
    def root(self) -> bytes:
        """The root hash over them."""
        return self.tree.root()

    def link(self) -> Link:
        """For the next record of the same authorization."""
        return Link(self.index, self.leaf)


class Lineage:
    """The append side, used by the one writer inside its transactions."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tree = merkle.Tree(merkle.frontier(size(connection), Reader(connection).read))
        self._rows: list[_Row] = []  # not written yet, in order
        self._tiles: list[merkle.Node] = []  # which those complete

    @property
    def size(self) -> int:
        """The number of records, with those that are not written yet."""
        return self._tree.size

    def append(self, record: Record) -> Appended:
        """Add one record to the open transaction."""
        appended = self.add(record)
        self.write()
        return appended

    def add(self, record: Record) -> Appended:
        """Add one record to the tree. ``write`` has to be called before the transaction reads it, or ends."""
        data = record.encode()
        leaf = merkle.leaf_hash(data)
        index = self._tree.size
        self._rows.append((index, leaf, record.type, record.at, record.authorization, data))
        made = self._tree.append(leaf)
        if len(made) > TILE_HEIGHT:
            self._tiles += made[TILE_HEIGHT::TILE_HEIGHT]
        return Appended(index, leaf, self._tree.snapshot())

    def write(self, until: int | None = None) -> None:
        """Write what was added before record ``until``, or all of it, to the open transaction."""
        if not self._rows:
            return
        end = self._tree.size if until is None else until
        rows, tiles = self._rows, self._tiles
        self._rows = [row for row in rows if row[0] >= end]
        self._tiles = [node for node in tiles if _after(node) > end]
        at, count = 0, len(rows) - len(self._rows)
        while at < count:  # a statement for each power of two: SQLite keeps them, and is entered a few times only
            some = min(TOGETHER, 1 << ((count - at).bit_length() - 1))
            self._connection.execute(_insert(some), tuple(chain.from_iterable(rows[at : at + some])))
            at += some
        for node in tiles[: len(tiles) - len(self._tiles)]:
            self._store_tile(node)

    def snapshot(self) -> merkle.Frontier:
        """The tree as it is, to come back to when the transaction is undone."""
        return self._tree.snapshot()

    def restore(self, frontier: merkle.Frontier) -> None:
        """Forget everything since ``snapshot``. What was written of it, SQLite has to undo."""
        self._tree.restore(frontier)
        self._rows = [row for row in self._rows if row[0] < frontier.size]
        self._tiles = [node for node in self._tiles if _after(node) <= frontier.size]

    def _store_tile(self, node: merkle.Node) -> None:
        level = node.level // TILE_HEIGHT - 1
        hashes = Reader(self._connection).hashes(level, node.index * TILE_WIDTH, TILE_WIDTH)
        self._connection.execute(
            "INSERT INTO tiles(level, idx, hashes, root) VALUES (?, ?, ?, ?)",
            (level, node.index, b"".join(hashes), node.hash),
        )


@cache
def _insert(count: int) -> str:
    columns = "seq, leaf, type, at, authorization, bytes"
    return f"INSERT INTO records({columns}) VALUES {', '.join(['(?, ?, ?, ?, ?, ?)'] * count)}"  # noqa: S608


def _after(node: merkle.Node) -> int:
    """The number of the record that comes behind a complete subtree."""
    return (node.index + 1) << node.level


class Reader:
    """The read side: hashes of complete subtrees, for proofs, from any connection."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        # The complete tiles read last: they never change, and one proof reads the same few again and again.
        self._tile = lru_cache(maxsize=64)(self._complete)
        self._inside = lru_cache(maxsize=64)(self._nodes)
        self._edge = lru_cache(maxsize=1024)(self._at_edge)  # complete subtrees in tiles that are not, likewise

    def read(self, level: int, index: int) -> bytes:
        """The hash of a complete subtree, as ``merkle.Read``."""
        tile_level, inside = divmod(level, TILE_HEIGHT)
        tile, place = divmod(index, TILE_WIDTH >> inside)
        if nodes := self._inside(tile_level, tile):
            return nodes[inside][place]
        return self._edge(tile_level, inside, index)

    def hashes(self, tile_level: int, start: int, count: int) -> list[bytes]:
        """``count`` consecutive hashes of the subtrees of level 8·``tile_level``, from number ``start`` on."""
        index, first = divmod(start, TILE_WIDTH)
        if first + count <= TILE_WIDTH and (tile := self._tile(tile_level, index)):
            return tile[first : first + count]
        if tile_level == 0:
            query = "SELECT leaf FROM records WHERE seq >= ? AND seq < ? ORDER BY seq"
            rows = self._connection.execute(query, (start, start + count)).fetchall()
        else:
            query = "SELECT root FROM tiles WHERE level = ? AND idx >= ? AND idx < ? ORDER BY idx"
            rows = self._connection.execute(query, (tile_level - 1, start, start + count)).fetchall()
        if len(rows) != count:
            raise GateError(GateReason.LINEAGE_CHAIN_BROKEN, f"{count - len(rows)} hashes of the tree are missing")
        return [bytes(row[0]) for row in rows]

    def _at_edge(self, tile_level: int, inside: int, index: int) -> bytes:
        return merkle.complete_levels(self.hashes(tile_level, index << inside, 1 << inside))[-1][0]

    def _nodes(self, level: int, index: int) -> list[list[bytes]]:
        """Everything inside of a complete tile, from its hashes up to its root; empty where it is not complete."""
        tile = self._tile(level, index)
        return merkle.complete_levels(tile) if tile else []

    def _complete(self, level: int, index: int) -> list[bytes]:
        """The hashes of a complete tile; empty where it is not complete."""
        query = "SELECT hashes FROM tiles WHERE level = ? AND idx = ?"
        row = self._connection.execute(query, (level, index)).fetchone()
        return [] if row is None else tiles.parse_hashes(bytes(row[0]), TILE_WIDTH)


def size(connection: sqlite3.Connection) -> int:
    """The number of records."""
    row = connection.execute("SELECT COALESCE(MAX(seq) + 1, 0) FROM records").fetchone()
    return int(row[0])


def check(connection: sqlite3.Connection, trusted: Trusted | None = None) -> merkle.Frontier:
    """Re-derive everything from the stored bytes of the records. EnvironmentProblem names the first thing that is wrong.

    1. Records are numbered without a gap, and each has its leaf hash. The columns that queries use say what it says.
    2. Each tile follows from the records, and there are no others.
    3. Each checkpoint is over the records before it.

    With ``trusted``, which verifies a checkpoint, and more than ``WHOLE`` records: only what follows the newest
    checkpoint. What lies before it is compared with its root as far as the tree's right edge goes; ``recheck`` is for the
    rest.
    """
    whole = trusted is None or size(connection) <= WHOLE
    start = merkle.Frontier() if whole or trusted is None else _sealed(connection, trusted)
    checking = _Checking(connection, start)
    for row in connection.execute(_RECORDS + " ORDER BY seq", (start.size or _LEAST,)):
        checking.take(row)
    checking.end()
    return checking.tree.snapshot()


def recheck(connection: sqlite3.Connection) -> Iterator[None]:
    """Check, a few records at a time, what ``check`` did not look at. EnvironmentProblem when something is wrong."""
    row = connection.execute("SELECT MAX(size) FROM checkpoints").fetchone()
    until = 0 if row[0] is None or size(connection) <= WHOLE else int(row[0])
    checking = _Checking(connection, merkle.Frontier())
    while checking.tree.size < until:
        query = _RECORDS + " AND seq < ? ORDER BY seq LIMIT ?"
        rows = connection.execute(query, (checking.tree.size or _LEAST, until, PIECE)).fetchall()
        if not rows:
            raise _broken(f"record {checking.tree.size} of the lineage is missing")
        for row in rows:
            checking.take(row)
        yield
    checking.compare()


class _Checking:
    """``check`` in progress: the tree as far as the records were looked at."""

    def __init__(self, connection: sqlite3.Connection, start: merkle.Frontier) -> None:
        self.tree = merkle.Tree(start)
        self._tiles = _Tiles(connection, start.size)
        query = "SELECT size, root FROM checkpoints WHERE size >= ?"
        self._sealed = {int(size): bytes(root) for size, root in connection.execute(query, (start.size,))}

    def take(self, row: tuple[Any, ...]) -> None:
        seq, leaf, data, indexed = row
        # 3.
        self.compare()
        # 1.
        if seq != self.tree.size:
            raise _broken(f"record {self.tree.size} of the lineage is missing")
        if merkle.leaf_hash(bytes(data)) != bytes(leaf):
            raise _broken(f"record {seq} of the lineage is not what was appended")
        if not indexed:
            raise _broken(
                f"record {seq} of the lineage is filed under another type, time or authorization than its own"
            )
        # 2.
        self._tiles.check(self.tree.append(bytes(leaf)))

    def compare(self) -> None:
        """The checkpoint over what was looked at so far, if there is one."""
        sealed = self._sealed.pop(self.tree.size, None)
        if sealed is not None and sealed != self.tree.root():
            raise _broken(f"the first {self.tree.size} records are not the ones their checkpoint covers")

    def end(self) -> None:
        # 2.
        self._tiles.check_count()
        # 3.
        self.compare()
        if self._sealed:
            raise _broken(
                f"the lineage has {self.tree.size} records, and a checkpoint covers {max(self._sealed)}",
                GateReason.LINEAGE_TRUNCATED,
            )


def _sealed(connection: sqlite3.Connection, trusted: Trusted) -> merkle.Frontier:
    """The tree of the newest checkpoint, if that is ours and the stored hashes lead to its root; empty if there is none."""
    row = connection.execute("SELECT size, root, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
    if row is None:
        return merkle.Frontier()
    covered, root, note = int(row[0]), bytes(row[1]), bytes(row[2])
    if not trusted(note, covered, root):
        raise _broken(f"the newest checkpoint, over {covered} records, is not one that our TPM signed")
    if covered > size(connection):
        raise _broken(
            f"the lineage has {size(connection)} records, and a checkpoint covers {covered}",
            GateReason.LINEAGE_TRUNCATED,
        )
    try:
        edge = merkle.frontier(covered, Reader(connection).read)
    except GateError as error:
        raise _broken(error.detail) from error
    if edge.root() != root:
        raise _broken(f"the first {covered} records are not the ones their checkpoint covers")
    return edge


_LEAST = -(1 << 63)  # of a row's number: a record before the first one is one too many


# The columns beside the bytes are no part of any leaf hash, so they are compared with the bytes.
_RECORDS = """
    SELECT seq, leaf, bytes,
        CASE WHEN json_valid(CAST(bytes AS TEXT)) THEN
            type IS json_extract(CAST(bytes AS TEXT), '$.type')
            AND at IS json_extract(CAST(bytes AS TEXT), '$.at')
            AND authorization IS json_extract(CAST(bytes AS TEXT), '$.authorization')
        ELSE FALSE END
    FROM records WHERE seq >= ?
"""


class _Tiles:
    """Follows the tree of ``check`` from ``start`` records on; a tile that becomes complete must be the stored one."""

    def __init__(self, connection: sqlite3.Connection, start: int) -> None:
        self._connection = connection
        self._pending: dict[int, list[bytes]] = {}
        self._complete = 0
        level, count, reader = 0, start, Reader(connection)
        while count:
            self._pending[level] = reader.hashes(level, count - count % TILE_WIDTH, count % TILE_WIDTH)
            level, count = level + 1, count // TILE_WIDTH
            self._complete += count

    def check(self, nodes: list[merkle.Node]) -> None:
        """Take the nodes that one record completed, from its leaf upwards."""
        for node in nodes:
            above, inside = divmod(node.level, TILE_HEIGHT)
            if inside:
                continue
            if above:
                key = (above - 1, node.index)
                hashes = b"".join(self._pending.pop(above - 1))
                row = self._connection.execute(
                    "SELECT hashes, root FROM tiles WHERE level = ? AND idx = ?", key
                ).fetchone()
                if row is None or (bytes(row[0]), bytes(row[1])) != (hashes, node.hash):
                    raise _broken(f"tile {key} of the lineage does not follow from its records")
                self._complete += 1
            self._pending.setdefault(above, []).append(node.hash)

    def check_count(self) -> None:
        """Nothing but those tiles is stored."""
        (stored,) = self._connection.execute("SELECT COUNT(*) FROM tiles").fetchone()
        if stored != self._complete:
            raise _broken(f"{stored} tiles are stored, and the records complete {self._complete}")


def _broken(detail: str, reason: GateReason = GateReason.LINEAGE_CHAIN_BROKEN) -> EnvironmentProblem:
    remedy = "the database was altered or damaged; restore a backup, and keep this file as evidence"
    return EnvironmentProblem(reason, detail, remedy)
