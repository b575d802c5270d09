"""The stored lineage: its tree at every size that matters, and the check that finds whatever was changed by hand."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from random import Random

import pytest
from sqlite_utils import Database as SqliteUtils

from gateway.storage import lineage
from gateway.storage.database import Database
from gateway.storage.migrations import MIGRATIONS
from tests.support.storage import by_hand, fill, leaves, opened, record
from ztrooted import merkle
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason

WIDTH = lineage.TILE_WIDTH


@pytest.fixture(scope="module")
def grown() -> Iterator[tuple[sqlite3.Connection, dict[int, bytes]]]:
    """A lineage of 65,538 records in memory, and the roots that its appends reported on the way."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        MIGRATIONS.apply(SqliteUtils(connection))
        log = lineage.Lineage(connection)
        connection.execute("BEGIN")
        roots = {}
        for number in range(WIDTH * WIDTH + 2):
            one = log.append(record(number))
            roots[one.size] = one.root
        connection.execute("COMMIT")
        yield connection, roots


SIZES = [1, 2, 3, 255, 256, 257, 511, 512, 513, 4096, 65_279, 65_280, 65_535, 65_536, 65_537, 65_538]


@pytest.mark.parametrize("size", SIZES)
def test_the_tree_equals_the_naive_one(grown: tuple[sqlite3.Connection, dict[int, bytes]], size: int) -> None:
    """What append reported, what the tiles give, and RFC 6962 over the leaves."""
    connection, roots = grown
    naive = merkle.root(leaves(connection)[:size])
    assert roots[size] == naive
    assert merkle.frontier(size, lineage.Reader(connection).read).root() == naive


@pytest.mark.parametrize("size", SIZES)
def test_every_proof_from_storage_verifies(grown: tuple[sqlite3.Connection, dict[int, bytes]], size: int) -> None:
    connection, roots = grown
    stored, read = leaves(connection), lineage.Reader(connection).read
    random = Random(size)  # noqa: S311 -- repeatable
    places = {0, size - 1, size // 2, *(random.randrange(size) for _ in range(20))}
    for index in places:
        proof = merkle.inclusion_proof(size, index, read)
        merkle.verify_inclusion(stored[index], index, size, proof, roots[size])
    for old in {1, size, *(random.randrange(1, size + 1) for _ in range(20))}:
        merkle.verify_consistency(old, size, roots[old], roots[size], merkle.consistency_proof(old, size, read))


def test_every_proof_of_a_small_lineage_verifies(grown: tuple[sqlite3.Connection, dict[int, bytes]]) -> None:
    connection, roots = grown
    stored, read = leaves(connection)[:70], lineage.Reader(connection).read
    for size in range(1, 70):
        for index in range(size):
            proof = merkle.inclusion_proof(size, index, read)
            merkle.verify_inclusion(stored[index], index, size, proof, roots[size])
            merkle.verify_consistency(
                index + 1, size, roots[index + 1], roots[size], merkle.consistency_proof(index + 1, size, read)
            )


def test_exactly_the_complete_tiles_are_stored(grown: tuple[sqlite3.Connection, dict[int, bytes]]) -> None:
    connection, _ = grown
    keys = connection.execute("SELECT level, idx FROM tiles ORDER BY level, idx").fetchall()
    assert keys == [*((0, index) for index in range(WIDTH)), (1, 0)]
    stored = leaves(connection)
    (hashes, root) = connection.execute("SELECT hashes, root FROM tiles WHERE level = 0 AND idx = 3").fetchone()
    assert hashes == b"".join(stored[3 * WIDTH : 4 * WIDTH])
    assert root == merkle.root(stored[3 * WIDTH : 4 * WIDTH])
    (hashes, root) = connection.execute("SELECT hashes, root FROM tiles WHERE level = 1").fetchone()
    assert hashes == b"".join(
        bytes(row[0]) for row in connection.execute("SELECT root FROM tiles WHERE level = 0 ORDER BY idx")
    )
    assert root == merkle.root(stored[: WIDTH * WIDTH])


def test_the_whole_lineage_passes_its_check(grown: tuple[sqlite3.Connection, dict[int, bytes]]) -> None:
    connection, roots = grown
    assert lineage.check(connection) == merkle.Frontier(*_frontier(connection))
    assert lineage.check(connection).root() == roots[WIDTH * WIDTH + 2]


def _frontier(connection: sqlite3.Connection) -> tuple[int, tuple[bytes, ...]]:
    made = merkle.frontier(lineage.size(connection), lineage.Reader(connection).read)
    return made.size, made.peaks


def test_a_tree_goes_on_from_storage_at_any_size() -> None:
    for size in (0, 1, 255, 256, 257, 511, 512):
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            MIGRATIONS.apply(SqliteUtils(connection))
            log = lineage.Lineage(connection)
            for number in range(size):
                log.append(record(number))
            again = lineage.Lineage(connection)
            for number in range(size, size + 3):
                one = again.append(record(number))
            assert one.root == merkle.root(leaves(connection))
            lineage.check(connection)


def test_a_hash_that_is_missing_is_an_error_and_not_a_shorter_proof() -> None:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        MIGRATIONS.apply(SqliteUtils(connection))
        log = lineage.Lineage(connection)
        for number in range(10):
            log.append(record(number))
        reader = lineage.Reader(connection)
        for level, index in ((0, 10), (3, 1), (8, 0)):
            with pytest.raises(GateError) as refusal:
                reader.read(level, index)
            assert refusal.value.reason is GateReason.LINEAGE_CHAIN_BROKEN


# --- damage by hand ----------------------------------------------------------------------------------------------
COUNT = 600


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with 600 records, two complete tiles and two checkpoints, as bytes."""
    path = tmp_path_factory.mktemp("lineage") / "gateway.db"

    def seal(connection: sqlite3.Connection, size: int) -> None:
        root = merkle.frontier(size, lineage.Reader(connection).read).root()
        connection.execute("INSERT INTO checkpoints(size, root, at, note) VALUES (?, ?, 1, x'00')", (size, root))

    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        MIGRATIONS.apply(SqliteUtils(connection))
        log = lineage.Lineage(connection)
        connection.execute("BEGIN")
        for number in range(COUNT):
            log.append(record(number, f"auth-{number % 7:04}"))
        seal(connection, 300)
        seal(connection, 590)
        connection.execute("COMMIT")
    return path.read_bytes()


def forge(at: int, number: int) -> tuple[str, str]:
    """Leaf and bytes of a record that is good in itself, as SQL literals."""
    data = record(number, f"auth-{at % 7:04}").encode()
    return f"x'{merkle.leaf_hash(data).hex()}'", f"x'{data.hex()}'"


def rewrite(at: int) -> str:
    """A record replaced with another good one, leaf, bytes and columns together."""
    leaf, data = forge(at, 9999)
    return f"UPDATE records SET leaf = {leaf}, bytes = {data}, at = 9999 WHERE seq = {at}"  # noqa: S608


def insert(at: int) -> tuple[str, str, str]:
    """A good record put between two others."""
    leaf, data = forge(at, 9999)
    return (
        f"UPDATE records SET seq = -seq - 1 WHERE seq >= {at}",  # noqa: S608
        "UPDATE records SET seq = -seq WHERE seq < 0",
        f"INSERT INTO records SELECT {at}, {leaf}, type, 9999, 'auth-{at % 7:04}', {data} FROM records WHERE seq = 0",  # noqa: S608
    )


def swap(one: int, other: int) -> tuple[str, str, str]:
    return (
        f"UPDATE records SET seq = -1 WHERE seq = {one}",  # noqa: S608
        f"UPDATE records SET seq = {one} WHERE seq = {other}",  # noqa: S608
        f"UPDATE records SET seq = {other} WHERE seq = -1",  # noqa: S608
    )


def delete_and_close_up(at: int) -> tuple[str, str, str]:
    return (
        f"DELETE FROM records WHERE seq = {at}",  # noqa: S608
        f"UPDATE records SET seq = -seq WHERE seq > {at}",  # noqa: S608
        "UPDATE records SET seq = -seq - 1 WHERE seq < 0",
    )


COPY = "INSERT INTO records SELECT {}, leaf, type, at, authorization, bytes FROM records WHERE seq = 0"

DAMAGE: dict[str, tuple[str, ...]] = {
    "bytes edited, first": ("UPDATE records SET bytes = CAST(replace(bytes, 'number', 'Number') AS BLOB) WHERE seq = 0",),
    "bytes edited, last": ("UPDATE records SET bytes = CAST(replace(bytes, 'number', 'Number') AS BLOB) WHERE seq = 599",),
    "bytes emptied": ("UPDATE records SET bytes = x'' WHERE seq = 42",),
    "bytes grown": ("UPDATE records SET bytes = CAST(bytes || x'20' AS BLOB) WHERE seq = 42",),
    "leaf edited": ("UPDATE records SET leaf = zeroblob(32) WHERE seq = 42",),
    "leaf cut": ("UPDATE records SET leaf = substr(leaf, 1, 31) WHERE seq = 42",),
    "filed under another type": ("UPDATE records SET type = 'gateway.stopped' WHERE seq = 42",),
    "filed under another time": ("UPDATE records SET at = at + 1 WHERE seq = 42",),
    "filed under another authorization": ("UPDATE records SET authorization = 'auth-9999' WHERE seq = 42",),
    "taken out of its authorization": ("UPDATE records SET authorization = NULL WHERE seq = 42",),
    "record rewritten in a tile": (rewrite(42),),
    "record rewritten behind the tiles": (rewrite(550),),
    "first record deleted": ("DELETE FROM records WHERE seq = 0",),
    "record deleted": ("DELETE FROM records WHERE seq = 42",),
    "record deleted behind the tiles": ("DELETE FROM records WHERE seq = 595",),
    "record deleted and the gap closed": delete_and_close_up(42),
    "record deleted and the gap closed behind the tiles": delete_and_close_up(550),
    "all records deleted": ("DELETE FROM records",),
    "record inserted": insert(42),
    "record inserted behind the tiles": insert(550),
    "a record with a negative number": (COPY.format(-1),),
    "a record far beyond the end": (COPY.format(700),),
    "two records exchanged": swap(41, 42),
    "two records exchanged behind the tiles": swap(550, 551),
    "two records exchanged across tiles": swap(255, 256),
    "tile's root altered": ("UPDATE tiles SET root = zeroblob(32) WHERE idx = 0",),
    "tile's hashes altered": ("UPDATE tiles SET hashes = zeroblob(8192) WHERE idx = 1",),
    "tile's hashes cut": ("UPDATE tiles SET hashes = substr(hashes, 1, 8191) WHERE idx = 1",),
    "tile deleted": ("DELETE FROM tiles WHERE idx = 1",),
    "tile added": ("INSERT INTO tiles SELECT level, 2, hashes, root FROM tiles WHERE idx = 0",),
    "tile added on another level": ("INSERT INTO tiles SELECT 1, 0, hashes, root FROM tiles WHERE idx = 0",),
    "tiles exchanged": (
        "UPDATE tiles SET idx = 9 WHERE idx = 0",
        "UPDATE tiles SET idx = 0 WHERE idx = 1",
        "UPDATE tiles SET idx = 1 WHERE idx = 9",
    ),
    "last checkpoint's root altered": ("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 590",),
    "earlier checkpoint's root altered": ("UPDATE checkpoints SET root = zeroblob(32) WHERE size = 300",),
    "checkpoint moved": ("UPDATE checkpoints SET size = 301 WHERE size = 300",),
}  # fmt: skip


def damaged(quick_path: Path, original: bytes, *statements: str) -> EnvironmentProblem:
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    by_hand(path, *statements)
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(path, on_failure=lambda: None)
    assert refusal.value.remedy
    return refusal.value


async def test_what_nobody_touched_is_served(quick_path: Path, original: bytes) -> None:
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    by_hand(path)
    async with opened(path) as database:
        await fill(database, 200, start=COUNT)
        lineage.check(database.reading)


@pytest.mark.parametrize("statements", DAMAGE.values(), ids=DAMAGE.keys())
async def test_O1_each_change_by_hand_is_found_at_start(
    quick_path: Path, original: bytes, statements: tuple[str, ...]
) -> None:
    assert damaged(quick_path, original, *statements).reason is GateReason.LINEAGE_CHAIN_BROKEN


@pytest.mark.parametrize("at", [0, 1, 42, 255, 256, 299, 300, 511, 512, 589, 590, 599])
async def test_O1_the_record_that_was_edited_is_named(quick_path: Path, original: bytes, at: int) -> None:
    problem = damaged(quick_path, original, f"UPDATE records SET bytes = x'7b7d' WHERE seq = {at}")  # noqa: S608
    assert f"record {at} " in problem.detail


@pytest.mark.parametrize("kept", [589, 512])
async def test_O2_a_tail_cut_off_after_a_checkpoint_is_found(quick_path: Path, original: bytes, kept: int) -> None:
    problem = damaged(quick_path, original, f"DELETE FROM records WHERE seq >= {kept}")  # noqa: S608
    assert problem.reason is GateReason.LINEAGE_TRUNCATED
    assert "590" in problem.detail


async def test_O2_a_tail_cut_off_with_its_tile_is_found(quick_path: Path, original: bytes) -> None:
    statements = ("DELETE FROM records WHERE seq >= 500", "DELETE FROM tiles WHERE idx = 1")
    assert damaged(quick_path, original, *statements).reason is GateReason.LINEAGE_TRUNCATED


async def test_O3_a_tail_cut_off_before_a_checkpoint_is_not_found_here(quick_path: Path, original: bytes) -> None:
    """The bound that the documentation states: what no checkpoint covers, only a witness outside can miss."""
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    by_hand(path, "DELETE FROM records WHERE seq >= 590")
    async with opened(path) as database:
        assert lineage.size(database.reading) == 590


def test_a_long_lineage_is_checked_from_its_newest_checkpoint_and_the_rest_afterwards(
    quick_path: Path, original: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a start leaves out is found while it serves; what it can't leave out is found at once."""
    monkeypatch.setattr(lineage, "WHOLE", 100)
    asked: list[int] = []

    def trusted(_note: bytes, size: int, _root: bytes) -> bool:
        asked.append(size)
        return True

    def state(*statements: str) -> tuple[EnvironmentProblem | None, EnvironmentProblem | None]:
        """What the start says, and what is said afterwards."""
        path = quick_path / "gateway.db"
        path.write_bytes(original)
        by_hand(path, *statements)
        found: list[EnvironmentProblem | None] = []
        with closing(sqlite3.connect(path)) as connection:
            for look in (lambda: lineage.check(connection, trusted), lambda: list(lineage.recheck(connection))):
                try:
                    look()
                    found.append(None)
                except EnvironmentProblem as problem:
                    found.append(problem)
        return found[0], found[1]

    assert state() == (None, None)
    assert asked == [590]
    early = "UPDATE records SET bytes = CAST(bytes || ' ' AS BLOB) WHERE seq = 3"
    start, later = state(early)
    assert start is None
    assert later is not None
    assert "record 3 of the lineage is not what was appended" in later.detail
    start, _ = state(early.replace("seq = 3", "seq = 595"))
    assert start is not None
    assert "record 595" in start.detail
    start, _ = state("DELETE FROM records WHERE seq >= 480")
    assert start is not None
    assert start.reason is GateReason.LINEAGE_TRUNCATED
    start, _ = state("UPDATE tiles SET root = randomblob(32)")
    assert start is not None
    assert "not the ones their checkpoint covers" in start.detail
    _, later = state("DELETE FROM records WHERE seq = 4")
    assert later is not None


def test_a_long_lineage_whose_checkpoint_is_not_ours_is_refused(
    quick_path: Path, original: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lineage, "WHOLE", 100)
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    with closing(sqlite3.connect(path)) as connection, pytest.raises(EnvironmentProblem, match="not one that our TPM"):
        lineage.check(connection, lambda _note, _size, _root: False)
