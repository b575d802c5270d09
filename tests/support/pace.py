"""How long something may take, told so that a slow machine does not break it: seconds of a usual machine."""

import gc
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import repeat

# What a usual machine takes for the work below.
USUAL_S = 0.06


def slowness() -> float:
    """How many times as long as usual this machine takes for a fixed piece of work now; at least 1."""

    def work() -> float:
        """Numbers so small that none is made anew: a test may have every allocation traced, which takes its time."""
        began = time.process_time()
        number = 1
        for _ in repeat(None, 2_000_000):
            number = number * 3 & 63
        return time.process_time() - began

    return max(1.0, min(work() for _ in range(3)) / USUAL_S)


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """What is done inside takes at most so many seconds of a usual machine, in this process's own time.

    Where it takes more, it is asked how fast this machine is now: others work on it, too. What was there before is not
    collected meanwhile, since a large test process would pay for its own past.
    """
    gc.freeze()
    try:
        began = time.process_time()
        yield
        took = time.process_time() - began
    finally:
        gc.unfreeze()
    if took >= seconds:
        allowed = seconds * slowness()
        assert took < allowed, f"{took:.3f} s of {allowed:.3f} s"
