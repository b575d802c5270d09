"""Files that are no database of ours, or not any more: refused with a reason, kept as evidence, never a traceback."""

import asyncio
import sqlite3
from contextlib import closing
from pathlib import Path
from random import Random

import pytest

from gateway.storage.database import Database
from tests.support.storage import by_hand, fill, opened
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

PAGE = 4096
FOUND = {
    GateReason.DATABASE_CORRUPT,
    GateReason.LINEAGE_CHAIN_BROKEN,
    GateReason.LINEAGE_TRUNCATED,
    # A flipped version number in the header makes the file one that SQLite only reads; it looks like a permission.
    GateReason.DATABASE_UNAVAILABLE,
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A database with some of everything, closed."""
    path = tmp_path_factory.mktemp("damage") / "gateway.db"

    async def make() -> None:
        async with opened(path) as database:
            await fill(database, 300)
            await database.write(lambda tx: [tx.blob(bytes([number]) * 3000) for number in range(20)])

    asyncio.run(make())
    return path.read_bytes()


def noise(pages: int) -> bytes:
    return Random(7).randbytes(pages * PAGE)  # noqa: S311 -- repeatable


def content(path: Path) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        records = connection.execute("SELECT * FROM records ORDER BY seq").fetchall()
        return [*records, *connection.execute("SELECT * FROM tiles ORDER BY level, idx")]


def refused(path: Path) -> EnvironmentProblem:
    before = path.read_bytes()
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(path, on_failure=lambda: None)
    assert refusal.value.remedy
    assert path.read_bytes() == before  # the evidence is kept as it is
    return refusal.value


GARBAGE = {
    "text": b"this is not a database\n" * 300,
    "zeros": bytes(8 * PAGE),
    "noise": noise(8),
    "a line": b"nothing to see here\n" * 50,
    "another format": b"PK\x03\x04" + bytes(2 * PAGE),
    "a header and noise": b"SQLite format 3\0" + noise(4),
}


@pytest.mark.parametrize("data", GARBAGE.values(), ids=GARBAGE.keys())
async def test_O21_a_file_that_is_no_database_is_refused(quick_path: Path, data: bytes) -> None:
    path = quick_path / "gateway.db"
    path.write_bytes(data)
    assert refused(path).reason is GateReason.DATABASE_CORRUPT


@pytest.mark.parametrize("keep", [100, 1000, PAGE - 1, PAGE, PAGE + 1, 3 * PAGE, 20 * PAGE, -PAGE])
async def test_O21_a_file_that_was_cut_is_refused(quick_path: Path, original: bytes, keep: int) -> None:
    path = quick_path / "gateway.db"
    path.write_bytes(original[:keep])
    problem = refused(path)
    assert problem.reason is GateReason.DATABASE_CORRUPT


async def test_O21_pages_exchanged_are_refused(quick_path: Path, original: bytes) -> None:
    pages = [original[start : start + PAGE] for start in range(0, len(original), PAGE)]
    pages[3], pages[-1] = pages[-1], pages[3]
    path = quick_path / "gateway.db"
    path.write_bytes(b"".join(pages))
    assert refused(path).reason in FOUND


@pytest.mark.parametrize("seed", range(8))
async def test_O21_flipped_bits_are_found_or_harmless(quick_path: Path, original: bytes, seed: int) -> None:
    """Whatever is hit: refused with a reason, or the lineage is byte for byte what it was. Never a third thing."""
    random = Random(seed)  # noqa: S311 -- repeatable
    path, good = quick_path / "gateway.db", quick_path / "good.db"
    good.write_bytes(original)
    expected = content(good)
    for _ in range(25):
        data = bytearray(original)
        for _ in range(random.choice((1, 1, 8, 64))):
            # The schema and the roots of the trees are few pages; hit them as often as all others together.
            end = random.choice((PAGE, 16 * PAGE, len(data)))
            data[random.randrange(end)] ^= 1 << random.randrange(8)
        path.write_bytes(data)
        for beside in ("-wal", "-shm"):
            path.with_name(path.name + beside).unlink(missing_ok=True)
        try:
            database = Database(path, on_failure=lambda: None)
        except EnvironmentProblem as problem:
            assert problem.reason in FOUND, problem  # noqa: PT017 -- either way is right
            continue
        await database.close()
        assert content(path) == expected


@pytest.mark.parametrize("page", range(12))
async def test_O21_a_page_of_noise_is_found_or_harmless(quick_path: Path, original: bytes, page: int) -> None:
    path, good = quick_path / "gateway.db", quick_path / "good.db"
    good.write_bytes(original)
    start = page * len(original) // (12 * PAGE) * PAGE
    path.write_bytes(original[:start] + noise(1) + original[start + PAGE :])
    try:
        database = Database(path, on_failure=lambda: None)
    except EnvironmentProblem as problem:
        assert problem.reason in FOUND  # noqa: PT017 -- either way is right
        return
    await database.close()
    assert content(path) == content(good)


@pytest.mark.parametrize("table", ["tokens", "authorizations", "records_by_authorization"])
async def test_O21_damage_outside_the_lineage_is_found_too(quick_path: Path, original: bytes, table: str) -> None:
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    with closing(sqlite3.connect(path)) as connection:
        (page,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = ?", (table,)).fetchone()
    path.write_bytes(original[: (page - 1) * PAGE] + noise(1) + original[page * PAGE :])
    assert refused(path).reason is GateReason.DATABASE_CORRUPT


async def test_O21_a_write_ahead_log_of_noise_is_ignored(quick_path: Path, original: bytes) -> None:
    """SQLite believes a frame only with its checksum: what was committed into the file itself stays."""
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    expected = content(path)
    (quick_path / "gateway.db-wal").write_bytes(noise(250))
    async with opened(path) as database:
        await fill(database, 1, start=300)
    assert content(path)[:300] == expected[:300]


OTHERS = {
    "a database of somebody else": ("CREATE TABLE records(name TEXT)",),
    "records of another shape": ("CREATE TABLE records(seq INTEGER PRIMARY KEY, leaf BLOB)",),
    "a view in place of a table": ("CREATE TABLE t(seq, leaf, bytes)", "CREATE VIEW records AS SELECT * FROM t"),
}


@pytest.mark.parametrize("statements", OTHERS.values(), ids=OTHERS.keys())
async def test_K12_a_database_of_another_shape_is_refused(quick_path: Path, statements: tuple[str, ...]) -> None:
    path = quick_path / "gateway.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        for statement in statements:
            connection.execute(statement)
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(path, on_failure=lambda: None)
    assert refusal.value.reason is GateReason.DATABASE_CORRUPT


@pytest.mark.parametrize("table", ["records", "tiles", "checkpoints"])
async def test_a_database_without_one_of_its_tables_is_refused(quick_path: Path, original: bytes, table: str) -> None:
    path = quick_path / "gateway.db"
    path.write_bytes(original)
    by_hand(path, f"DROP TABLE {table}")
    with pytest.raises(EnvironmentProblem) as refusal:
        Database(path, on_failure=lambda: None)
    assert refusal.value.reason is GateReason.DATABASE_CORRUPT
