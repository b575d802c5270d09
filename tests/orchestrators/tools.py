"""Functions that are governed in tests; a new process finds them here by their names."""

import os
import signal
import time
from pathlib import Path


def add(a: int, b: int) -> int:
    return a + b


async def later(text: str) -> str:
    return text.upper()


def fails(why: str) -> None:
    raise ValueError(why)


def silent() -> object:
    return object()


def leaves() -> None:
    os._exit(0)


def write(path: str, text: str = "done") -> str:
    """Leave something that can be seen from outside."""
    Path(path).write_text(text)
    return text


def variables(path: str) -> str:
    """Which of our variables it has."""
    return write(path, " ".join(sorted(name for name in os.environ if name.startswith("ZTROOTED_"))))


def beats(base: str) -> None:
    """Never end, and have a grandchild that does not want to, either: see ``tests.support.agent_in_process``."""

    def live(name: str) -> None:
        beat = os.open(base + name, os.O_WRONLY | os.O_CREAT, 0o600)
        while True:
            os.pwrite(beat, b"%020d" % time.monotonic_ns(), 0)
            time.sleep(0.005)

    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            live(".grandchild")
        os._exit(0)
    live(".job")
