"""Deadlines: one action per key when its time has come, and none is forgotten."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Any

import pytest

from gateway import deadlines as module
from gateway.deadlines import Deadlines
from gateway.tasks import Tasks
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason


class FakeClock:
    """Time that passes when the test says so."""

    def __init__(self) -> None:
        self.time = 1000.0

    def now_ms(self) -> int:
        return int(self.time * 1000)

    def monotonic(self) -> float:
        return self.time


class Bench:
    """Deadlines with a clock of their own, and what they did."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.failures = 0
        self.tasks = Tasks(self._fail)
        self.deadlines = Deadlines(self.clock, self.tasks.start)
        self.done: list[tuple[str, float]] = []

    def _fail(self) -> None:
        self.failures += 1

    def note(self, name: str) -> Callable[[], Awaitable[None]]:
        async def action() -> None:
            self.done.append((name, self.clock.time - 1000))

        return action

    async def pass_time(self, seconds: float) -> None:
        """Let the clock go on, and the watching task see it."""
        self.clock.time += seconds
        self.deadlines._changed.set()
        for _ in range(10):
            await asyncio.sleep(0)

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.done]


@asynccontextmanager
async def watching() -> AsyncIterator[Bench]:
    bench = Bench()
    bench.tasks.start(bench.deadlines.run())
    await bench.pass_time(0)
    try:
        yield bench
    finally:
        await bench.tasks.stop()


async def test_an_action_runs_when_its_time_has_come_and_not_before() -> None:
    async with watching() as bench:
        bench.deadlines.set("a", 10, bench.note("a"))
        await bench.pass_time(9.9)
        assert bench.done == []
        await bench.pass_time(0.1)
        assert bench.names == ["a"]
        await bench.pass_time(100)
        assert bench.names == ["a"]  # once


async def test_actions_run_in_the_order_of_their_times() -> None:
    async with watching() as bench:
        for name, after in (("c", 3), ("a", 1), ("b", 2)):
            bench.deadlines.set(name, after, bench.note(name))
        for _ in range(3):
            await bench.pass_time(1)
        assert bench.done == [("a", 1), ("b", 2), ("c", 3)]


async def test_all_that_is_due_runs_at_once() -> None:
    async with watching() as bench:
        for number in range(50):
            bench.deadlines.set(number, number / 10, bench.note(str(number)))
        await bench.pass_time(60)
        assert bench.names == [str(number) for number in range(50)]


@pytest.mark.parametrize("second", [5, 20])
async def test_a_deadline_set_again_replaces_the_earlier_one(second: float) -> None:
    async with watching() as bench:
        bench.deadlines.set("a", 10, bench.note("first"))
        bench.deadlines.set("a", second, bench.note("second"))
        await bench.pass_time(second)
        assert bench.names == ["second"]
        await bench.pass_time(30)
        assert bench.names == ["second"]


async def test_a_cleared_deadline_does_not_run() -> None:
    async with watching() as bench:
        bench.deadlines.set("a", 10, bench.note("a"))
        bench.deadlines.set("b", 10, bench.note("b"))
        bench.deadlines.clear("a")
        bench.deadlines.clear("unknown")
        await bench.pass_time(10)
        assert bench.names == ["b"]


async def test_a_deadline_in_the_past_runs_now() -> None:
    """A restart finds deadlines that passed meanwhile."""
    async with watching() as bench:
        bench.deadlines.set("a", -3600, bench.note("a"))
        await bench.pass_time(0)
        assert bench.names == ["a"]


async def test_an_action_may_set_its_own_deadline_again() -> None:
    async with watching() as bench:

        async def again() -> None:
            await bench.note("again")()
            bench.deadlines.set("a", 10, again)

        bench.deadlines.set("a", 10, again)
        for _ in range(5):
            await bench.pass_time(10)
        assert bench.names == ["again"] * 5


async def test_a_slow_action_delays_no_other() -> None:
    async with watching() as bench:

        async def hang() -> None:
            await asyncio.Event().wait()

        bench.deadlines.set("a", 1, hang)
        bench.deadlines.set("b", 2, bench.note("b"))
        await bench.pass_time(5)
        assert bench.names == ["b"]


async def test_K1_an_action_that_cannot_be_recorded_is_tried_until_it_is() -> None:
    async with watching() as bench:
        refusals = 3

        async def revoke() -> None:
            nonlocal refusals
            if refusals:
                refusals -= 1
                raise GateError(GateReason.DATABASE_UNAVAILABLE, "the disk is full")
            await bench.note("revoked")()

        bench.deadlines.set("a", 10, revoke)
        await bench.pass_time(10)
        for _ in range(3):
            assert bench.done == []
            await bench.pass_time(module.RETRY_S)
        assert bench.names == ["revoked"]
        assert bench.failures == 0
        await bench.pass_time(60)
        assert bench.names == ["revoked"]


async def test_a_retry_does_not_overwrite_a_deadline_that_was_set_meanwhile() -> None:
    async with watching() as bench:

        async def refused() -> None:
            bench.deadlines.set("a", 60, bench.note("new"))
            raise GateError(GateReason.DATABASE_UNAVAILABLE, "the disk is full")

        bench.deadlines.set("a", 10, refused)
        await bench.pass_time(10)
        await bench.pass_time(module.RETRY_S)
        assert bench.done == []
        await bench.pass_time(60)
        assert bench.names == ["new"]


async def test_K1_an_action_that_fails_by_a_defect_ends_the_process() -> None:
    async with watching() as bench:

        async def defect() -> None:
            raise RuntimeError("a defect")

        bench.deadlines.set("a", 1, defect)
        bench.deadlines.set("b", 2, bench.note("b"))
        await bench.pass_time(5)
        assert bench.failures == 1
        assert bench.tasks.failed
        assert bench.names == ["b"]  # and what else was due still happened


async def test_it_says_how_late_the_last_action_was_and_when_it_last_looked() -> None:
    async with watching() as bench:
        bench.deadlines.set("a", 10, bench.note("a"))
        await bench.pass_time(12.5)
        assert bench.deadlines.lateness_s == pytest.approx(2.5)
        assert bench.deadlines.beat == bench.clock.time


async def test_it_looks_once_a_second_even_if_nothing_is_due(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []
    timeout = asyncio.timeout
    monkeypatch.setattr(asyncio, "timeout", lambda seconds: (waits.append(seconds), timeout(seconds))[1])
    async with watching() as bench:
        bench.deadlines.set("a", 3600, bench.note("a"))
        await bench.pass_time(1)
        bench.deadlines.clear("a")
        await bench.pass_time(1)
    assert waits
    assert all(0 < wait <= 1 for wait in waits)


async def test_real_time_is_kept_without_being_poked() -> None:
    """With the machine's own clock: the task sleeps until the deadline, and a nearer one wakes it.

    Unwoken it would look again after a second. A busy machine is that late now and then; not ten times in a row.
    """
    from ztrooted.clock import SystemClock  # noqa: PLC0415 -- the only test with real time

    async def kept() -> bool:
        tasks, done, clock = Tasks(lambda: None), asyncio.Event(), SystemClock()
        deadlines = Deadlines(clock, tasks.start)
        tasks.start(deadlines.run())

        async def action() -> None:
            done.set()

        deadlines.set("far", 60, action)
        await asyncio.sleep(0.05)
        began = clock.monotonic()
        deadlines.set("near", 0.05, action)
        async with asyncio.timeout(20):
            await done.wait()
        took = clock.monotonic() - began
        await tasks.stop()
        return took < 0.9 and deadlines.lateness_s < 0.5

    for _ in range(10):
        if await kept():
            return
    pytest.fail("a nearer deadline wakes nobody")


@pytest.mark.parametrize("seed", range(5))
async def test_any_order_of_setting_and_clearing_equals_a_simple_model(seed: int) -> None:
    random, model = Random(seed), {}  # noqa: S311 -- repeatable
    expected: list[tuple[str, float]] = []
    async with watching() as bench:
        for number in range(300):
            key = random.choice("abcdefgh")
            match random.randrange(4):
                case 0:
                    bench.deadlines.clear(key)
                    model.pop(key, None)
                case 1 | 2:
                    after = random.randrange(1, 20)
                    bench.deadlines.set(key, after, bench.note(f"{key}{number}"))
                    model[key] = (bench.clock.time + after, f"{key}{number}")
                case _:
                    await bench.pass_time(random.randrange(1, 5))
                    due = sorted((at, name, key) for key, (at, name) in model.items() if at <= bench.clock.time)
                    expected += [(name, bench.clock.time - 1000) for _, name, key in due if model.pop(key)]
        assert sorted(bench.done) == sorted(expected)


def test_cleared_and_replaced_deadlines_are_let_go_of_when_their_time_passes() -> None:
    clock = FakeClock()

    def discard(work: Any) -> None:
        work.close()

    deadlines = Deadlines(clock, discard)
    for _ in range(1000):
        deadlines.set("a", 10, lambda: asyncio.sleep(0))
    clock.time += 11
    deadlines._run_due()
    assert deadlines._heap == []
    assert deadlines._current == {}
