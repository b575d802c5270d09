"""What an orchestrator's own process is told about one run, by files in the folder ``CONTRACT_HELD``.

``RUN.held`` says that it is held between permission and delivery, and how: ``around`` asks nobody, ``changed`` are other
settings. ``RUN.told`` has the ticket that was given or the refusal, ``RUN.N.go`` the ticket of the Nth delivery,
``RUN.N.done`` what that came to.
"""

import asyncio
import copy
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HELD = Path(os.environ.get("CONTRACT_HELD", "/nonexistent"))
TIMEOUT_S = 170  # a flow or a task begins after half a minute of imports where nothing else is slow, and much is
WITHIN_S = 0.5


def is_held(run: str) -> bool:
    return (HELD / f"{run}.held").exists()


def put(name: str, told: Any) -> None:
    """All of it, at once."""
    made = HELD / f"{name}.new"
    made.write_text(json.dumps(told))
    made.rename(HELD / name)


async def get(name: str) -> dict[str, Any]:
    """Wait for it."""
    while not (HELD / name).exists():  # noqa: ASYNC110
        await asyncio.sleep(0.02)
    found: dict[str, Any] = json.loads((HELD / name).read_text())
    return found


def wait_for(name: str) -> Any:
    """The same, for a driver."""
    until = time.monotonic() + TIMEOUT_S
    while not (HELD / name).exists():
        if time.monotonic() > until:
            raise TimeoutError(name)
        time.sleep(0.02)
    return json.loads((HELD / name).read_text())


@contextmanager
def clock(off_s: float) -> Iterator[None]:
    """Have who asks read a clock that is off."""
    from ztrooted.client import orchestrator  # noqa: PLC0415 -- a driver needs none

    off = SimpleNamespace(time=lambda: time.time() + off_s, monotonic=time.monotonic)
    orchestrator.time = off  # type: ignore[assignment]
    try:
        yield
    finally:
        orchestrator.time = time


@contextmanager
def wrong(told: dict[str, Any]) -> Iterator[None]:
    """In this process, what ``adapter.Wrong`` says: ``variables`` that are others, a ``clock`` that is off."""
    before = dict(os.environ)
    os.environ.update(told["variables"])
    try:
        with clock(told["clock"]):
            yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextmanager
def changed(holder: Any, told: dict[str, Any] | None) -> Iterator[Any]:
    """Somebody with ``settings`` and ``within_s`` who has others, and a clock that is ``clock`` seconds off."""
    if told is None:
        yield holder
        return
    made = copy.copy(holder)
    off_s = told.pop("clock", 0)
    made.within_s = WITHIN_S if "gateway" in told else 30.0
    made.settings = replace(holder.settings, **(told | ({"ca": Path(told["ca"])} if "ca" in told else {})))
    with clock(off_s):
        yield made
