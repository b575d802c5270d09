"""Command line of the fuzzer; ``scripts/fuzz`` calls it.

Exit code 0 when every promise held, 1 when one was broken, 2 for wrong usage. Inputs that broke one are kept in files.
"""

import argparse
import hashlib
import json
import resource
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.campaign import MAX_BYTES, Campaign, Finding, Result, cpu_seconds, max_seconds, peak_memory
from tests.fuzz.target import Target
from tests.fuzz.targets import TARGETS

# What one target may take before it is stopped: a process that eats the machine finds nothing more.
ADDRESS_SPACE = 4 << 30


@dataclass(frozen=True, slots=True)
class Order:
    """What to do with one target."""

    name: str
    executions: int
    seed: int
    seconds: float | None


def explode(target: Target) -> Iterator[Finding]:
    """The target's bombs, each held against the limits of time and memory."""
    for name, data in target.bombs().items():
        try:
            took, used = cpu_seconds(target, data, 1), peak_memory(target, data)
        except (MemoryError, Exception) as error:  # noqa: BLE001 -- whatever comes out is the finding
            yield Finding("exception", f"bomb {name}: {type(error).__name__}: {str(error)[:200]}", data)
            continue
        if took > max_seconds() and (took := cpu_seconds(target, data)) > max_seconds():
            yield Finding("slow", f"bomb {name}: {took:.2f} s for {len(data)} bytes", data)
        if used > MAX_BYTES:
            yield Finding("memory", f"bomb {name}: {used >> 20} MiB for {len(data)} bytes", data)


def work(order: Order) -> Result:
    """One campaign, in a process of its own."""
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE if hard < 0 else min(hard, ADDRESS_SPACE), hard))
    target = TARGETS[order.name]
    found = list(explode(target))
    deadline = None if order.seconds is None else time.monotonic() + order.seconds
    result = Campaign(target, order.seed).run(order.executions, deadline)
    result.findings[:0] = found
    return result


def keep(folder: Path, result: Result) -> list[str]:
    """Write the inputs of findings to files, and say which."""
    paths = []
    for finding in result.findings:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{result.target}-{finding.kind}-{hashlib.sha256(finding.data).hexdigest()[:12]}"
        path.write_bytes(finding.data)
        paths.append(str(path))
    return paths


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser("scripts/fuzz", description="Feed changed inputs to our parsers.")
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}; all when none is named")
    parser.add_argument("--executions", type=int, default=50_000, metavar="N", help="for each target (default 50000)")
    parser.add_argument("--seconds", type=float, metavar="S", help="at most so long for each target")
    parser.add_argument("--seed", type=int, default=1, metavar="S", help="another seed, other inputs (default 1)")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="targets at a time (default 1)")
    parser.add_argument("--findings", type=Path, metavar="DIR", help="where to keep inputs that broke a promise")
    parser.add_argument("--json", action="store_true", help="one JSON document for scripts")
    arguments = parser.parse_args(argv)
    unknown = [name for name in arguments.targets if name not in TARGETS]
    if unknown or arguments.executions < 1 or arguments.processes < 1:
        parser.error(f"no target is called {unknown[0]}" if unknown else "counts begin at 1")
    return arguments


def main(argv: Sequence[str] | None = None) -> int:
    """Run the campaigns and report; the exit code."""
    arguments = parse(argv)
    names = arguments.targets or list(TARGETS)
    folder = arguments.findings or Path(tempfile.gettempdir(), "ztrooted-fuzz")
    orders = [Order(name, arguments.executions, arguments.seed, arguments.seconds) for name in names]
    rows, broken = [], False
    if not arguments.json:
        print(
            f"{'target':18}{'executions':>12}{'accepted':>10}{'outcomes':>10}{'per second':>12}{'slowest ms':>12}  findings"
        )
    with ProcessPoolExecutor(arguments.processes, max_tasks_per_child=1) as pool:
        for result in pool.map(work, orders):
            paths = keep(folder, result)
            broken = broken or bool(result.findings)
            rate = result.executions / max(result.seconds, 1e-9)
            found = [
                {"kind": one.kind, "detail": one.detail, "input": path}
                for one, path in zip(result.findings, paths, strict=True)
            ]
            rows.append(
                {
                    "target": result.target,
                    "executions": result.executions,
                    "accepted": result.accepted,
                    "outcomes": result.outcomes,
                    "per_second": round(rate),
                    "slowest_ms": round(result.slowest_s * 1000, 1),
                    "findings": found,
                }
            )
            if not arguments.json:
                numbers = f"{result.executions:12}{result.accepted:10}{result.outcomes:10}{rate:12.0f}"
                print(f"{result.target:18}{numbers}{result.slowest_s * 1000:12.1f}  {len(found)}", flush=True)
                for one in found:
                    print(f"  {one['kind']}: {one['detail']}\n    {one['input']}", flush=True)
    if arguments.json:
        print(json.dumps({"seed": arguments.seed, "targets": rows, "ok": not broken}, indent=1))
    return int(broken)
