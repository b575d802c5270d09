"""Killed at any moment: what was acknowledged is there, and everything stored fits together."""

import asyncio
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

from gateway.storage import lineage
from tests.support.storage import assert_replays, leaves, opened
from ztrooted import merkle
from ztrooted.evidence import sha256

ROUNDS = 30
PROJECT = Path(__file__).parents[2]
DURABLE = re.compile(r"durable (\d+) ([0-9a-f]{64}) \S+")


def test_O15_no_acknowledged_record_is_lost_to_kill_9(quick_path: Path) -> None:
    path = quick_path / "gateway.db"
    random = Random(20)  # noqa: S311 -- repeatable
    acknowledged: dict[int, str] = {}
    sizes = [0]
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.storage_writer", str(path)],
        cwd=PROJECT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as writer:
        assert writer.stdin is not None
        assert writer.stdout is not None
        longest = 0.12  # a usual machine opens the folder and writes for a while in that
        for seed in range(ROUNDS):
            known = len(acknowledged)
            writer.stdin.write(f"{seed}\n")
            writer.stdin.flush()
            child = int(next(line for line in writer.stdout if line.startswith("child")).split()[1])
            # Somewhere in the middle of opening, or of whatever is written at that moment.
            time.sleep(random.uniform(0, longest))
            os.kill(child, signal.SIGKILL)
            for line in writer.stdout:
                if line == "dead\n":
                    break
                if match := DURABLE.fullmatch(line.strip()):
                    index, leaf = int(match[1]), match[2]
                    assert acknowledged.setdefault(index, leaf) == leaf  # no index was given away twice
            if len(acknowledged) == known:
                longest = min(longest * 1.2, 2)
            sizes.append(asyncio.run(check(path, acknowledged)))
    assert sizes == sorted(sizes)
    assert len(acknowledged) > 100, "the child was killed before it could write anything; the test showed nothing"


async def check(path: Path, acknowledged: dict[int, str]) -> int:
    async with opened(path) as database:  # which re-derives the whole tree by itself
        stored = leaves(database.reading)
        assert {index: stored[index].hex() for index in acknowledged} == acknowledged
        assert merkle.root(stored) == lineage.check(database.reading).root()
        assert_replays(database.reading)
        for digest, data in database.reading.execute("SELECT digest, bytes FROM blobs"):
            assert sha256(data) == digest
        return len(stored)
