"""Chains of work in storage: what ends takes everything below it along, in one transaction."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from tests.support.storage import assert_replays, by_hand, opened, requested
from ztrooted import limits
from ztrooted.delegation import Delegation
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.lifecycle import State
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

WAY = ("policy.evaluated", "authorization.issued", "authorization.activated", "execution.started")
# Two levels, three below the root, two below its first child.
TREE = {"root": None, "a": "root", "b": "root", "c": "root", "a1": "a", "a2": "a"}


@pytest_asyncio.fixture
async def database(quick_path: Path) -> AsyncIterator[Database]:
    async with opened(quick_path / "gateway.db") as one:
        yield one


async def grow(database: Database, tree: dict[str, str | None]) -> None:
    """A tree of running authorizations."""
    places: dict[str | None, int] = {}
    for name, parent in tree.items():
        place = places[parent] = places.get(parent, -1) + 1
        one = replace(requested(name), parent=parent, place=None if parent is None else place)

        def run(tx: Transaction, one: Authorization = one) -> None:
            held = authorizations.create(tx, one, {"parent": one.parent})
            for kind in WAY:
                held, _ = authorizations.note(tx, held, kind, 2, {})

        await database.write(run)


def states(database: Database) -> dict[str, State]:
    return {one.id: one.state for one in authorizations.page(database.reading, orchestrator=None, limit=10_000)}


def behind(database: Database, seq: int) -> list[tuple[int, str, str]]:
    rows = database.reading.execute("SELECT seq, authorization, type FROM records WHERE seq >= ? ORDER BY seq", (seq,))
    return [tuple(row) for row in rows]


async def test_revoking_ends_everything_below_breadth_first_in_one_transaction(database: Database) -> None:
    await grow(database, TREE)
    await grow(database, {"other": None})
    size = len(behind(database, 0))
    held = authorizations.get(database.reading, "root")
    noise = [database.write(lambda tx: authorizations.note(tx, requested("other"), "attestation.passed", 3, {}))] * 1
    ended, *_ = await asyncio.gather(
        database.write(lambda tx: authorizations.revoke(tx, held, 3, GateReason.OPERATOR_REVOKED, "by hand")), *noise
    )
    assert [one.id for one in ended] == ["root", "a", "b", "c", "a1", "a2"]
    assert all(one.state is State.REVOKED for one in ended)
    assert [one.reason for one in ended] == ["operator.revoked"] + ["parent.ended"] * 5
    # Nothing lies between the records: one transaction wrote them.
    assert [one.last_seq for one in ended] == list(range(size, size + 6))
    for one in ended[1:]:
        data = database.reading.execute("SELECT bytes FROM records WHERE seq = ?", (one.last_seq,)).fetchone()[0]
        assert parse_record(bytes(data)).body == {
            "reason": "parent.ended",
            "detail": f"its parent {TREE[one.id]} is revoked",
        }
    assert states(database)["other"] is State.RUNNING
    assert_replays(database.reading)


async def test_a_branch_ends_by_itself_and_what_is_dead_stays_as_it_is(database: Database) -> None:
    await grow(database, TREE)
    closed = await database.write(
        lambda tx: authorizations.end(tx, authorizations.get(tx.connection, "a"), "execution.closed", 3, {})
    )
    assert [(one.id, one.state) for one in closed] == [
        ("a", State.CLOSED),
        ("a1", State.REVOKED),
        ("a2", State.REVOKED),
    ]
    held = authorizations.get(database.reading, "root")
    ended = await database.write(lambda tx: authorizations.revoke(tx, held, 4, GateReason.OPERATOR_REVOKED, ""))
    assert [one.id for one in ended] == ["root", "b", "c"]
    assert states(database)["a"] is State.CLOSED
    assert_replays(database.reading)


@pytest.mark.parametrize("kind", ["authorization.revoked", "execution.closed"])
async def test_nothing_can_end_without_what_is_below_it(database: Database, kind: str) -> None:
    """Whoever writes the record: the state moves in one place only."""
    await grow(database, TREE)
    await database.write(lambda tx: authorizations.note(tx, requested("root"), kind, 3, {}))
    assert set(states(database).values()) <= {State.REVOKED, State.CLOSED}
    authorizations.check(database.reading)


async def test_what_is_refused_half_way_ends_nothing(database: Database) -> None:
    await grow(database, TREE)
    before = behind(database, 0)

    def run(tx: Transaction) -> None:
        authorizations.revoke(tx, requested("root"), 3, GateReason.OPERATOR_REVOKED, "")
        raise GateError(GateReason.SERVICE_NOT_READY, "on second thoughts")

    with pytest.raises(GateError):
        await database.write(run)
    assert behind(database, 0) == before
    assert set(states(database).values()) == {State.RUNNING}


async def test_a_place_is_taken_once(database: Database) -> None:
    await grow(database, {"root": None, "a": "root"})
    with pytest.raises(GateError) as refusal:
        await database.write(
            lambda tx: authorizations.create(tx, replace(requested("b"), parent="root", place=0), {"parent": "root"})
        )
    assert refusal.value.reason is GateReason.DATABASE_UNAVAILABLE
    assert states(database).keys() == {"root", "a"}
    # Denied ones name it too, and take none.
    for name in ("c", "d"):
        one = replace(requested(name), parent="root")
        await database.write(lambda tx, one=one: authorizations.create(tx, one, {"parent": "root"}))  # type: ignore[misc]
    assert [one.id for one in authorizations.children(database.reading, "root")] == ["a"]
    assert authorizations.count_children(database.reading, "root") == 1


async def test_descendants_are_counted_while_they_live(database: Database) -> None:
    await grow(database, TREE)
    assert authorizations.count_live_descendants(database.reading, "root") == 5
    assert authorizations.count_live_descendants(database.reading, "a") == 2
    assert authorizations.count_live_descendants(database.reading, "b") == 0
    held = authorizations.get(database.reading, "a")
    await database.write(lambda tx: authorizations.revoke(tx, held, 3, GateReason.OPERATOR_REVOKED, ""))
    assert authorizations.count_live_descendants(database.reading, "root") == 2


async def test_what_is_above_has_an_end(database: Database) -> None:
    chain = {"l0": None, **{f"l{n}": f"l{n - 1}" for n in range(1, limits.DELEGATION_DEPTH + 2)}}
    await grow(database, chain)
    reading = database.reading
    found = authorizations.above(reading, authorizations.get(reading, f"l{limits.DELEGATION_DEPTH}"))
    assert [one.id for one in found] == [f"l{n}" for n in reversed(range(limits.DELEGATION_DEPTH))]
    with pytest.raises(GateError) as refusal:
        authorizations.above(reading, authorizations.get(reading, f"l{limits.DELEGATION_DEPTH + 1}"))
    assert refusal.value.reason is GateReason.LINEAGE_CHAIN_BROKEN


WIDE = Delegation(depth=8, children=256).model_dump_json()


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE authorizations SET parent = 'b' WHERE id = 'a1'",
        "UPDATE authorizations SET parent = NULL WHERE id = 'a1'",
        "UPDATE authorizations SET parent = 'nobody' WHERE id = 'a1'",
        f"UPDATE authorizations SET delegation = '{WIDE}' WHERE id = 'a1'",  # noqa: S608 -- a constant
    ],
)
async def test_a_chain_edited_beside_its_records_is_found(tmp_path: Path, change: str) -> None:
    async with opened(tmp_path / "gateway.db") as database:
        await grow(database, TREE)
        authorizations.check(database.reading)
    by_hand(tmp_path / "gateway.db", change)
    async with opened(tmp_path / "gateway.db") as database:
        with pytest.raises(EnvironmentProblem) as refusal:
            authorizations.check(database.reading)
        assert refusal.value.reason is GateReason.LINEAGE_CHAIN_BROKEN


async def test_a_live_child_of_a_dead_parent_is_found(database: Database) -> None:
    """Records that say so, whoever wrote them, are no state to start from."""
    await grow(database, TREE)

    def orphan(tx: Transaction) -> None:
        tx.execute("UPDATE authorizations SET parent = 'other' WHERE id = 'a'")
        authorizations.revoke(tx, requested("root"), 3, GateReason.OPERATOR_REVOKED, "")
        tx.execute("UPDATE authorizations SET parent = 'root' WHERE id = 'a'")

    await database.write(orphan)
    with pytest.raises(EnvironmentProblem, match="'a' is live, and its parent is 'revoked'"):
        authorizations.check(database.reading)
