"""Searching authorizations: by whichever index, and page by page, it gives what a look at each would."""

import itertools
import json
import random
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest
from sqlite_utils import Database

from gateway.storage import listings, searching
from gateway.storage.migrations import MIGRATIONS
from gateway.storage.searching import Found, Wanted, search

COUNT, PAGE = 600, 7
EXECUTORS, ORCHESTRATORS, REASONS = ("ex-1", "ex-2"), ("a", "b"), (None, "ima.not_allowed", "lease.expired")
JOB = {"argv": ["/bin/true"], "env": "0" * 64}


@pytest.fixture(scope="module")
def connection() -> Iterator[sqlite3.Connection]:
    """Few of everything, so that everything comes together often, and many at one time."""
    some = random.Random(7)  # noqa: S311 -- the same each time
    with closing(sqlite3.connect(":memory:")) as opened:
        MIGRATIONS.apply(Database(opened))
        for number in range(COUNT):
            job = {**JOB, "workflow": some.choice("wx"), "run": some.choice("wr"), "step": some.choice("st")}
            row = (some.choice(EXECUTORS), some.choice(ORCHESTRATORS), some.choice(REASONS), some.randrange(40))
            opened.execute(
                "INSERT INTO authorizations(id, executor, orchestrator, reason, requested_at, job, job_digest, state,"
                " renewals, depth, delegation) VALUES (?, ?, ?, ?, ?, ?, 'digest', 'closed', 0, 0, '{}')",
                (f"{some.randrange(1 << 64):032x}", *row, json.dumps(job)),
            )
            assert number < COUNT
        yield opened


def each(connection: sqlite3.Connection, wanted: Wanted) -> list[Found]:
    """By looking at every one."""
    rows = connection.execute(f"SELECT {searching._COLUMNS} FROM authorizations").fetchall()  # noqa: S608 -- a constant
    fixed = wanted.fixed()
    found = [one for one in (Found(*row) for row in rows) if all(getattr(one, key) == fixed[key] for key in fixed)]
    if wanted.job is not None:
        found = [one for one in found if wanted.job in {one.workflow, one.run, one.step, one.id}]
    since, until = wanted.since or 0, 1 << 53 if wanted.until is None else wanted.until
    return sorted(
        (one for one in found if since <= one.requested_at < until), key=lambda one: (-one.requested_at, one.id)
    )


@pytest.mark.parametrize("few", [0, searching.FEW], ids=["side by side", "row by row"])
def test_pages_have_what_a_look_at_each_gives(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, few: int
) -> None:
    """``w`` is a workflow and a run; times begin, end, and tie within pages."""
    monkeypatch.setattr(searching, "FEW", few)
    choices = ((None, "w", "none"), (None, "ex-1"), (None, "b"), (None, "ima.not_allowed"), (None, 10), (None, 25))
    for chosen in itertools.product(*choices):
        wanted, found, after = Wanted(*chosen), [], None  # type: ignore[arg-type]
        while page := search(connection, wanted, limit=PAGE, after=after):
            found += page
            after = page[-1].requested_at, page[-1].id
        assert found == each(connection, wanted), chosen


@pytest.mark.parametrize("orchestrator", [None, "a"])
@pytest.mark.parametrize("choice", ["all", "refused"])
def test_lists_go_on_where_the_page_before_ended(
    connection: sqlite3.Connection, monkeypatch: pytest.MonkeyPatch, choice: str, orchestrator: str | None
) -> None:
    monkeypatch.setattr(listings.authorizations, "get", lambda _connection, name: name)
    found: list[str] = []
    after: tuple[int, str] | None = None
    while page := listings.list_authorizations(
        connection, choice=choice, orchestrator=orchestrator, after=after, limit=PAGE
    ):
        found += map(str, page)
        query = "SELECT requested_at, id FROM authorizations WHERE id = ?"
        after = connection.execute(query, (found[-1],)).fetchone()
    every = each(connection, Wanted(orchestrator=orchestrator))
    assert found == [one.id for one in every if choice == "all" or one.reason is not None]
