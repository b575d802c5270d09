"""The watched clock: it notices when somebody sets the time, in either direction."""

import pytest

from ztrooted import limits
from ztrooted.clock import SystemClock, WatchedClock


class FakeClock:
    """Wall time and monotonic time, each moved by hand."""

    def __init__(self) -> None:
        self.wall_ms = 1_780_000_000_000
        self.steady = 5_000.0

    def now_ms(self) -> int:
        return self.wall_ms

    def monotonic(self) -> float:
        return self.steady

    def pass_time(self, seconds: float) -> None:
        self.wall_ms += round(seconds * 1000)
        self.steady += seconds


@pytest.mark.parametrize("seconds", [0, 1, 3600, 10 * 365 * 86400])
def test_time_that_passes_is_no_jump(seconds: float) -> None:
    clock = FakeClock()
    watched = WatchedClock(clock)
    clock.pass_time(seconds)
    assert not watched.jumped()
    assert (watched.now_ms(), watched.monotonic()) == (clock.wall_ms, clock.steady)


@pytest.mark.parametrize("ms", [3_600_000, -3_600_000, -1_780_000_000_000, 5_001, -5_001, 10**12])
def test_K6_a_clock_that_was_set_has_jumped(ms: int) -> None:
    clock = FakeClock()
    watched = WatchedClock(clock)
    clock.pass_time(60)
    clock.wall_ms += ms
    assert watched.jumped()


def test_K6_a_machine_that_slept_has_jumped() -> None:
    """Monotonic time stands still in suspend: whatever was proved before is older than it looks."""
    clock = FakeClock()
    watched = WatchedClock(clock)
    clock.wall_ms += 60_000
    assert watched.jumped()


@pytest.mark.parametrize("sign", [1, -1])
def test_what_a_time_server_corrects_is_no_jump(sign: int) -> None:
    clock = FakeClock()
    watched = WatchedClock(clock)
    clock.wall_ms += sign * (limits.CLOCK_LEEWAY_S * 1000 - 1)
    assert not watched.jumped()


def test_K6_many_small_steps_are_a_jump_too() -> None:
    clock = FakeClock()
    watched = WatchedClock(clock)
    for _ in range(6):
        clock.wall_ms += 1000
        clock.pass_time(60)
    assert watched.jumped()


def test_the_clocks_of_this_machine_run() -> None:
    clock = SystemClock()
    first, then = clock.monotonic(), clock.monotonic()
    assert then >= first
    assert clock.now_ms() > 1_700_000_000_000
    assert not WatchedClock(clock).jumped()
