import os
import signal
from collections.abc import Callable, Iterator
from contextlib import suppress

import pytest

from tests.ztrooted.executor.processes import Agent, Marked, Streams, until
from ztrooted.executor.supervisor import JobSpec, enforcement_available


@pytest.fixture(scope="session")
def _namespaces() -> None:
    granted = enforcement_available()
    if not granted.available:
        pytest.skip(f"no PID namespace on this machine: {granted.detail}")


@pytest.fixture
def marked(_namespaces: None) -> Iterator[Marked]:
    """Jobs of this test. Whatever is left of them when it ends is the test's failure, and is removed."""
    jobs = Marked()
    yield jobs
    try:
        until(lambda: not jobs.alive(), "every process of the test is dead")
    finally:
        for pid in jobs.alive():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


@pytest.fixture
def agent() -> Iterator[Callable[..., Agent]]:
    agents: list[Agent] = []

    def run(spec: JobSpec, **options: float) -> Agent:
        agents.append(Agent(spec, **options))  # type: ignore[arg-type]
        return agents[-1]

    yield run
    for each in agents:
        each.end()


@pytest.fixture
def streams() -> Iterator[Streams]:
    made = Streams()
    yield made
    made.close()
