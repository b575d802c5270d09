"""When executors are asked: jitter only shortens, early is never late, lateness is measured."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.deadlines import Deadlines
from gateway.metrics import Metrics
from gateway.schedule import EARLY_SHARE, Schedule
from gateway.tasks import Tasks
from tests.gateway.test_deadlines import FakeClock
from ztrooted.clock import Clock, SystemClock


class Recording(Deadlines):
    """Deadlines that only remember."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock, lambda _work: None)
        self.set_to: dict[object, float] = {}

    def set(self, key: object, in_s: float, action: object) -> None:  # type: ignore[override]
        self.set_to[key] = in_s


async def nothing() -> None:
    return


def made() -> tuple[Schedule, Recording, FakeClock, Metrics]:
    clock, metrics = FakeClock(), Metrics()
    deadlines = Recording(clock)
    return Schedule(deadlines, clock, metrics), deadlines, clock, metrics


def value(metrics: Metrics, name: str, **labels: str) -> float:
    for family in text_string_to_metric_families(metrics.text().decode()):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    raise AssertionError(name)


def test_jitter_spreads_and_never_stretches() -> None:
    schedule, deadlines, _, _ = made()
    drawn = []
    for number in range(2000):
        schedule.within(str(number), 10.0, 0.2, nothing, live=False)
        drawn.append(deadlines.set_to["prove", str(number)])
    assert max(drawn) <= 10.0
    assert min(drawn) >= 8.0
    fifths = [sum(8 + 0.4 * n <= one <= 8.4 + 0.4 * n for one in drawn) for n in range(5)]
    assert min(fifths) > 300, fifths  # 400 expected each


def test_early_is_sooner_than_set_and_bounded() -> None:
    schedule, deadlines, clock, _ = made()
    schedule.at("x", 0.0, nothing)
    schedule.asking("x", live=True)
    schedule.at("x", 10.0, nothing)
    schedule.early("x", 10.0, nothing)
    assert deadlines.set_to["prove", "x"] == pytest.approx(10 * EARLY_SHARE)
    clock.time += 0.9
    schedule.early("x", 10.0, nothing)  # again: no sooner, and not postponed
    assert deadlines.set_to["prove", "x"] == pytest.approx(1.0)
    clock.time += 5
    schedule.at("x", 0.05, nothing)
    schedule.early("x", 100.0, nothing)  # what was set is sooner already
    assert deadlines.set_to["prove", "x"] == pytest.approx(0.05)


def test_lateness_is_what_passed_since_the_due_time() -> None:
    schedule, _, clock, metrics = made()
    schedule.at("x", 2.0, nothing)
    clock.time += 5.0
    schedule.asking("x", live=False)
    assert value(metrics, "ztrooted_challenge_lateness_seconds_sum", kind="idle") == pytest.approx(3.0)
    assert value(metrics, "ztrooted_challenge_lateness_seconds_count", kind="live") == 0


@pytest.mark.asyncio
async def test_idle_turns_are_bounded_and_live_ones_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.schedule.IDLE_AT_ONCE", 2)
    monkeypatch.setattr("gateway.schedule.ANSWERS_IN_S", 60.0)
    async with running() as (schedule, metrics):
        asked: list[str] = []
        release = asyncio.Event()

        async def ask(name: str) -> None:
            asked.append(name)
            await release.wait()

        for live, count in ((False, 5), (True, 3)):
            for number in range(count):
                name = f"{'live' if live else 'idle'}-{number}"
                schedule.within(name, 0.0, 0.0, partial(ask, name), live=live)
        await asyncio.sleep(0.01)
        assert sorted(asked) == ["idle-0", "idle-1", "live-0", "live-1", "live-2"]
        assert value(metrics, "ztrooted_rounds_waiting") == 3
        schedule.forget("idle-2")
        schedule.answered("idle-0")  # its verdict is still being written; somebody else may be asked
        await asyncio.sleep(0.01)
        assert asked[5:] == ["idle-3"]
        release.set()
        await asyncio.sleep(0.01)
        assert asked[5:] == ["idle-3", "idle-4"]
        assert value(metrics, "ztrooted_rounds_waiting") == 0


@pytest.mark.asyncio
async def test_a_silent_machine_gives_up_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gateway.schedule.IDLE_AT_ONCE", 1)
    async with running() as (schedule, _):
        asked: list[str] = []
        silent = asyncio.Event()

        async def ask(name: str) -> None:
            asked.append(name)
            await silent.wait()

        for name in ("a", "b", "c"):
            schedule.within(name, 0.0, 0.0, partial(ask, name), live=False)
        async with asyncio.timeout(20):
            while len(asked) < 3:  # noqa: ASYNC110 -- nothing tells
                await asyncio.sleep(0.01)
        assert asked == ["a", "b", "c"]
        silent.set()


@asynccontextmanager
async def running() -> AsyncIterator[tuple[Schedule, Metrics]]:
    """A schedule whose deadlines are run, by the real clock."""
    tasks, metrics, clock = Tasks(lambda: None), Metrics(), SystemClock()
    deadlines = Deadlines(clock, tasks.start)
    tasks.start(deadlines.run())
    yield Schedule(deadlines, clock, metrics), metrics
    assert not tasks.failed
    await tasks.stop()
