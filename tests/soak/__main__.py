"""``scripts/soak [--hours H] [--executors N] [--seed S]``; exit 1 when anything was false or missed."""

import argparse
import asyncio
import logging
import tempfile
import time
from pathlib import Path

import structlog

from tests.soak.soak import Soak

parser = argparse.ArgumentParser("scripts/soak", description="Let hours of the schedule pass in minutes, with faults.")
parser.add_argument("--hours", type=float, default=24.0)
parser.add_argument("--executors", type=int, default=10)
parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000)
arguments = parser.parse_args()
structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
with tempfile.TemporaryDirectory() as folder:
    began = time.monotonic()
    soak = Soak(Path(folder), arguments.seed, arguments.executors)
    outcome = asyncio.run(soak.run(arguments.hours * 3600))
print(
    f"seed {arguments.seed}: {arguments.hours:g} h of schedule in {time.monotonic() - began:.0f} s, {outcome.jobs} jobs"
)
print("faults: " + ", ".join(f"{name} {count}" for name, count in sorted(outcome.faults.items())))
for name, lines in (("false", outcome.false), ("missed", outcome.missed)):
    print(f"{name}: {len(lines)}", *lines[:20], sep="\n  ")
raise SystemExit(1 if outcome.false or outcome.missed or not outcome.jobs else 0)
