"""Fixtures of the gateway's tests."""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

MEMORY = Path("/dev/shm")


@pytest.fixture
def quick_path() -> Iterator[Path]:
    """A folder in memory where there is one: thousands of durable commits would otherwise wait for a real disk.

    What a test shows doesn't depend on it: a killed process leaves the same file behind, and that commits ask the disk
    to be synchronous is tested by itself.
    """
    with tempfile.TemporaryDirectory(prefix="ztrooted-", dir=MEMORY if MEMORY.is_dir() else None) as folder:
        yield Path(folder)
