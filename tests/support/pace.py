"""How long something may take, told so that a slow machine does not break it: seconds of a usual machine."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

# What a usual machine takes for the work below.
USUAL_S = 0.06


@cache
def slowness() -> float:
    """How many times as long as usual this machine takes for a fixed piece of work; at least 1."""

    def work() -> float:
        began = time.process_time()
        sum(number * number for number in range(1_000_000))
        return time.process_time() - began

    return max(1.0, min(work() for _ in range(3)) / USUAL_S)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """What is done inside takes at most so many seconds of a usual machine, in this process's own time."""
    allowed = seconds * slowness()
    began = time.process_time()
    yield
    took = time.process_time() - began
    assert took < allowed, f"{took:.3f} s of {allowed:.3f} s"
