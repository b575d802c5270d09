"""Authorizations in storage: moved only with their records, and a revocation is never overwritten."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import pytest_asyncio

from gateway.storage import authorizations, lineage
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from tests.support.storage import assert_replays, by_hand, opened, requested
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.lifecycle import LIVE, RECORD_EVENTS, TRANSITIONS, State
from ztrooted.reasons import GateReason
from ztrooted.records import parse_record

# Records that lead to each state.
WAYS: dict[State, tuple[str, ...]] = {
    State.REQUESTED: (),
    State.DENIED: ("policy.evaluated", "authorization.denied"),
    State.AUTHORIZED: ("policy.evaluated", "authorization.issued"),
    State.ACTIVATED: ("policy.evaluated", "authorization.issued", "authorization.activated"),
    State.RUNNING: ("policy.evaluated", "authorization.issued", "authorization.activated", "execution.started"),
}
WAYS[State.REVOKED] = (*WAYS[State.RUNNING], "authorization.revoked")
WAYS[State.INTERRUPTED] = (*WAYS[State.REVOKED], "execution.interrupted")
WAYS[State.CLOSED] = (*WAYS[State.INTERRUPTED], "execution.closed")


@pytest_asyncio.fixture
async def database(quick_path: Path) -> AsyncIterator[Database]:
    async with opened(quick_path / "gateway.db") as one:
        yield one


async def created(database: Database, name: str = "auth-0001") -> Authorization:
    authorization = requested(name)
    return await database.write(lambda tx: authorizations.create(tx, authorization, {"n": 1}))


async def noted(database: Database, held: Authorization, kind: str, **changes: Any) -> Authorization:
    moved, _ = await database.write(lambda tx: authorizations.note(tx, held, kind, 2, {}, **changes))
    return moved


async def led_to(database: Database, state: State, name: str = "auth-0001") -> Authorization:
    held = await created(database, name)
    for kind in WAYS[state]:
        held = await noted(database, held, kind)
    assert held.state is state
    return held


def stored(database: Database, name: str = "auth-0001") -> Authorization:
    return authorizations.get(database.reading, name)


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("kind", sorted(RECORD_EVENTS))
async def test_a_record_moves_its_authorization_as_the_table_says(database: Database, state: State, kind: str) -> None:
    held = await led_to(database, state)
    before, size = stored(database), lineage.size(database.reading)
    after = TRANSITIONS.get((state, RECORD_EVENTS[kind]))
    if after is None:
        with pytest.raises(GateError) as refusal:
            await noted(database, held, kind)
        assert refusal.value.reason is GateReason.LIFECYCLE_TRANSITION
        assert (stored(database), lineage.size(database.reading)) == (before, size)
    else:
        assert (await noted(database, held, kind)).state is after
        assert stored(database).state is after
        assert lineage.size(database.reading) == size + 1
    assert_replays(database.reading)


@pytest.mark.parametrize("kind", ["attestation.failed", "attestation.overdue"])
async def test_a_record_that_is_no_event_moves_nothing(database: Database, kind: str) -> None:
    held = await led_to(database, State.RUNNING)
    assert (await noted(database, held, kind)).state is State.RUNNING
    assert_replays(database.reading)


async def test_what_is_stored_is_what_was_given(database: Database) -> None:
    held = await led_to(database, State.RUNNING)
    changes = {"lease_expires": 5, "renewals": 3, "activated_at": 4, "enrollment": 0, "reason": "x"}
    moved = await noted(database, held, "authorization.renewed", **changes)
    assert stored(database) == moved
    for name, value in changes.items():
        assert getattr(moved, name) == value
    assert moved.job == held.job
    assert moved.job.digest() == moved.job_digest


async def test_each_record_names_the_one_before_of_the_same_authorization(database: Database) -> None:
    first, second = await created(database, "auth-0001"), await created(database, "auth-0002")
    await noted(database, first, "policy.evaluated")
    await noted(database, second, "policy.evaluated")
    await noted(database, first, "authorization.denied")  # what is held is old, the link is not
    links = [
        (seq, None if (prev := parse_record(data).prev) is None else prev.index)
        for seq, data in database.reading.execute("SELECT seq, bytes FROM records ORDER BY seq")
    ]
    assert links == [(0, None), (1, None), (2, 0), (3, 1), (4, 2)]
    assert_replays(database.reading)


async def test_an_unknown_authorization_is_refused(database: Database) -> None:
    for ask in (authorizations.get, lambda connection, name: connection and stored(database, name)):
        with pytest.raises(GateError) as refusal:
            ask(database.reading, "auth-9999")
        assert refusal.value.reason is GateReason.ARTIFACT_UNKNOWN
    with pytest.raises(GateError) as refusal:
        await noted(database, requested("auth-9999"), "policy.evaluated")
    assert refusal.value.reason is GateReason.ARTIFACT_UNKNOWN
    assert lineage.size(database.reading) == 0


@pytest.mark.parametrize("state", State)
async def test_nothing_begins_twice(database: Database, state: State) -> None:
    """A second one of the same id would be a revoked authorization that came back."""
    await led_to(database, state)
    before = stored(database)
    with pytest.raises(GateError) as refusal:
        await created(database)
    assert refusal.value.reason is GateReason.LIFECYCLE_TRANSITION
    assert stored(database) == before


async def test_no_caller_can_choose_a_state(database: Database) -> None:
    held = await led_to(database, State.REVOKED)
    with pytest.raises(GateError):
        await noted(database, replace(held, state=State.RUNNING), "authorization.renewed")
    assert stored(database).state is State.REVOKED


# --- revocation --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("state", State)
async def test_revoking_ends_what_is_live_and_leaves_the_rest_alone(database: Database, state: State) -> None:
    held = await led_to(database, state)

    def revoke(tx: Transaction) -> list[Authorization]:
        return authorizations.revoke(tx, held, 3, GateReason.OPERATOR_REVOKED, "by hand")

    first, again = await database.write(revoke), await database.write(revoke)
    assert again == []
    if state in LIVE:
        (ended,) = first
        assert (ended.state, ended.reason) == (State.REVOKED, "operator.revoked")
        assert not ended.live
    else:
        assert first == []
        assert stored(database) == held
    assert_replays(database.reading)


@pytest.mark.parametrize("revoke_first", [True, False])
async def test_P1_a_revocation_wins_over_a_renewal_of_the_same_moment(database: Database, revoke_first: bool) -> None:
    """Both start from the same running authorization, and share a commit."""
    held = await led_to(database, State.RUNNING)
    asked = [
        database.write(lambda tx: authorizations.revoke(tx, held, 3, GateReason.ATTESTATION_DRIFT, "drift")),
        database.write(lambda tx: authorizations.note(tx, held, "authorization.renewed", 3, {}, renewals=1)),
    ]
    revoked, renewed = await asyncio.gather(*(asked if revoke_first else reversed(asked)), return_exceptions=True)
    if not revoke_first:
        revoked, renewed = renewed, revoked
    assert isinstance(revoked, list)
    assert isinstance(renewed, GateError) is revoke_first
    assert stored(database).state is State.REVOKED
    assert stored(database).reason == "attestation.drift"
    assert_replays(database.reading)


@pytest.mark.parametrize("seed", range(4))
async def test_P1_random_schedules_never_bring_a_revoked_one_back(database: Database, seed: int) -> None:
    """Every writer holds what it once saw. Whatever the order, storage and records tell one story."""
    random = Random(seed)  # noqa: S311 -- repeatable
    held = {name: await led_to(database, State.RUNNING, name) for name in (f"auth-{n:04}" for n in range(12))}
    revoked: dict[str, int] = {}

    async def revoke(name: str) -> None:
        done = await database.write(
            lambda tx: authorizations.revoke(tx, held[name], 3, GateReason.OPERATOR_REVOKED, "")
        )
        for ended in done:
            assert name not in revoked
            revoked[name] = ended.last_seq or 0

    async def move(name: str, kind: str) -> None:
        try:
            held[name] = await noted(database, held[name], kind)
        except GateError as refusal:
            assert refusal.reason is GateReason.LIFECYCLE_TRANSITION  # noqa: PT017 -- either way is right

    kinds = ["authorization.renewed"] * 6 + ["attestation.passed"] * 3 + ["execution.interrupted", "execution.closed"]
    work = []
    for _ in range(300):
        name = random.choice(list(held))
        work.append(revoke(name) if random.random() < 0.05 else move(name, random.choice(kinds)))
    await asyncio.gather(*work)
    assert revoked
    for name, at in revoked.items():
        assert stored(database, name).state not in LIVE
        behind = database.reading.execute(
            "SELECT type FROM records WHERE authorization = ? AND seq > ?", (name, at)
        ).fetchall()
        assert {kind for (kind,) in behind} <= {"execution.interrupted", "execution.closed"}
    assert_replays(database.reading)
    lineage.check(database.reading)


# --- reading -----------------------------------------------------------------------------------------------------
async def test_lists_hold_what_they_promise(database: Database) -> None:
    for number, state in enumerate(State):
        await led_to(database, state, f"auth-{number:04}")

    def names(found: list[Authorization]) -> set[State]:
        return {one.state for one in found}

    reading = database.reading
    assert names(authorizations.unfinished(reading)) == {*LIVE, State.REVOKED}
    assert names(authorizations.unfinished(reading, requested("x").executor)) == {*LIVE, State.REVOKED}
    assert authorizations.unfinished(reading, "ex-" + "f" * 32) == []
    assert names(authorizations.undecided(reading)) == {State.REQUESTED}
    assert names(authorizations.page(reading, orchestrator=None, limit=50)) == set(State)
    assert len(authorizations.page(reading, orchestrator="ci", limit=3)) == 3
    assert authorizations.page(reading, orchestrator="other", limit=50) == []


@pytest.mark.parametrize("name", ["'; DROP TABLE authorizations; --", '" OR 1=1 --', "%", "_", "\0", ""])
async def test_M5_a_name_is_data_and_never_a_statement(database: Database, name: str) -> None:
    await led_to(database, State.RUNNING)
    with pytest.raises(GateError) as refusal:
        authorizations.get(database.reading, name)
    assert refusal.value.reason is GateReason.ARTIFACT_UNKNOWN
    assert authorizations.unfinished(database.reading, name) == []
    assert authorizations.page(database.reading, orchestrator=name, limit=50) == []
    assert stored(database).state is State.RUNNING


async def test_a_state_that_does_not_exist_is_an_error_and_not_a_live_one(database: Database) -> None:
    await led_to(database, State.REVOKED)
    await database.write(lambda tx: tx.execute("UPDATE authorizations SET state = 'RUNNING'"))
    with pytest.raises(ValueError, match="RUNNING"):
        stored(database)


def test_the_table_refuses_rows_that_are_not_whole(quick_path: Path) -> None:
    async def use() -> None:
        async with opened(quick_path / "gateway.db") as database:
            await created(database)
            for column in ("executor", "state", "job", "job_digest", "requested_at", "renewals"):
                with pytest.raises(sqlite3.IntegrityError):
                    database._writing.execute(f"UPDATE authorizations SET {column} = NULL")  # noqa: S608

    asyncio.run(use())


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE authorizations SET state = 'running' WHERE id = 'a'",
        "UPDATE authorizations SET state = 'no state' WHERE id = 'a'",
        "DELETE FROM authorizations WHERE id = 'a'",
    ],
)
async def test_a_state_edited_beside_its_records_is_found(tmp_path: Path, change: str) -> None:
    """What a gateway would act upon at its start has to follow from the lineage."""
    async with opened(tmp_path / "gateway.db") as database:
        await database.write(lambda tx: authorizations.create(tx, requested("a"), {}))
        authorizations.check(database.reading)
    by_hand(tmp_path / "gateway.db", change)
    async with opened(tmp_path / "gateway.db") as database:
        with pytest.raises(EnvironmentProblem) as refusal:
            authorizations.check(database.reading)
        assert refusal.value.reason is GateReason.LINEAGE_CHAIN_BROKEN


async def test_a_database_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    """Its schema is one we don't know, so nothing in it may be touched."""
    async with opened(tmp_path / "gateway.db"):
        pass
    by_hand(
        tmp_path / "gateway.db",
        "INSERT INTO _sqlite_migrations(migration_set, name, applied_at) VALUES ('ztrooted', 'm9999_later', 'now')",
    )
    with pytest.raises(EnvironmentProblem, match="newer version"):
        async with opened(tmp_path / "gateway.db"):
            pass


@pytest.mark.parametrize("state", ["authorized", "running", "revoked", "no state"])
async def test_in_a_long_lineage_what_could_be_acted_upon_is_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """Whether it was over before or was never more than asked for: only its records say what may be done with it."""
    monkeypatch.setattr(lineage, "WHOLE", 0)
    async with opened(tmp_path / "gateway.db") as database:
        for name in ("a", "b"):
            await database.write(lambda tx, name=name: authorizations.create(tx, requested(name), {}))  # type: ignore[misc]
        authorizations.check(database.reading)
    by_hand(tmp_path / "gateway.db", f"UPDATE authorizations SET state = '{state}' WHERE id = 'b'")  # noqa: S608
    async with opened(tmp_path / "gateway.db") as database:
        with pytest.raises(EnvironmentProblem) as refusal:
            authorizations.check(database.reading)
        assert refusal.value.reason is GateReason.LINEAGE_CHAIN_BROKEN
