"""The loop of a fuzzing campaign over one target, and what it holds against it.

1. No exception but those that are declared.
2. No input of at most a mebibyte takes more than a second of a usual machine, or more than 64 MiB.

Inputs that lead to an outcome never seen before (another reason, another text of refusal, another place of an
exception) are kept and changed further: refusals that name what is wrong are as good a guide as a coverage counter, and
cost nothing.
"""

import gc
import re
import resource
import signal
import time
import traceback
import tracemalloc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from random import Random

from tests.fuzz.mutation import Mutator, mutate_length
from tests.fuzz.target import DECLARED, Target
from tests.support.pace import slowness

MAX_INPUT = 1 << 20
MAX_SECONDS = 1.0
MAX_BYTES = 64 << 20
# Of this process's own time; far beyond what is allowed, so that a loop without end becomes a finding as well.
HANG_S = 20.0
# Some of this is the machine's doing: what looks slow is measured again, in time of this process.
SUSPICIOUS_S = 0.5
# Kept inputs; beyond, one of them is replaced.
POOL = 2000
# Kept ones are small: a parser that reads 1 KB in 20 us is asked 50 times as much as with 50 KB.
KEPT_BYTES = 4096
GROWN = 0.0005
FINDINGS = 20

# Refusals show what they refuse; that part is not the outcome. Where it gets through all the same, a reason has so many
# outcomes and no more.
_VARIABLE = re.compile(r"""0x[0-9a-fA-F]+|'[^']*'|"[^"]*"|\b[0-9a-fA-F]{6,}\b|[0-9]+|[^ -~]+""")
OUTCOMES_OF_A_REASON = 200


@dataclass(frozen=True, slots=True)
class Finding:
    """An input that breaks a promise: ``kind`` is "exception", "slow" or "memory"."""

    kind: str
    detail: str
    data: bytes = field(repr=False)


@dataclass(slots=True)
class Result:
    """What a campaign did and found."""

    target: str
    executions: int = 0
    accepted: int = 0
    seconds: float = 0.0
    outcomes: int = 0
    slowest_s: float = 0.0
    findings: list[Finding] = field(default_factory=list)


class HangError(BaseException):
    """Raised into a target that does not come back; no target can catch it by accident."""


def measure(target: Target, data: bytes) -> tuple[str, bool, float]:
    """Run once: (outcome, whether it was accepted, seconds). An undeclared exception is the caller's."""
    began = time.process_time()
    try:
        target.run(data)
    except DECLARED as error:
        took = time.process_time() - began
        return f"{error.reason} {_VARIABLE.sub('', error.detail)}", False, took
    return "accepted", True, time.process_time() - began


def peak_memory(target: Target, data: bytes) -> int:
    """Bytes allocated at the peak of one execution."""
    tracemalloc.start()
    try:
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        with suppress(*DECLARED):
            target.run(data)
        return tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()


def cpu_seconds(target: Target, data: bytes, rounds: int = 3) -> float:
    """The least of some executions, in this process's own time."""
    best = float("inf")
    gc.freeze()  # what other tests left behind is not looked through while this one is timed
    try:
        for _ in range(rounds):
            began = time.process_time()
            with suppress(*DECLARED):
                target.run(data)
            best = min(best, time.process_time() - began)
    finally:
        gc.unfreeze()
    return best


@cache
def max_seconds() -> float:
    """``MAX_SECONDS`` on this machine."""
    return MAX_SECONDS * slowness()


class Campaign:
    """One target, one source of randomness, one growing pool of inputs."""

    def __init__(self, target: Target, seed: int) -> None:
        self.target = target
        self.random = Random(f"{target.name}/{seed}")  # noqa: S311 -- repeatable on purpose
        self.result = Result(target.name)
        self.seeds: Sequence[bytes] = [seed for seed in target.seeds() if len(seed) <= MAX_INPUT]
        # Smaller seeds more often: each is drawn as often as its size allows.
        self.weights = [1.0 / (200 + len(seed)) for seed in self.seeds]
        self.pool: list[bytes] = []
        self.outcomes: dict[str, int] = {}
        self.reasons: dict[str, int] = {}
        self.failures: set[str] = set()
        self.high_water = 0
        self.running = False

    def run(self, executions: int, deadline: float | None = None) -> Result:
        """Every seed as it is, then changed ones, until that many ran or ``deadline`` (of time.monotonic) is past."""
        began = time.monotonic()
        with self._hang_guard():
            for data in self.seeds:
                self.execute(data)
            self.high_water = _resident_peak()
            for data in self._inputs(executions - len(self.seeds)):
                self.execute(data)
                if deadline is not None and not self.result.executions & 0xFF and time.monotonic() > deadline:
                    break
                if len(self.result.findings) >= FINDINGS:
                    break
        self.result.seconds = time.monotonic() - began
        self.result.outcomes = len(self.outcomes)
        return self.result

    @contextmanager
    def _hang_guard(self) -> Iterator[None]:
        def ring(_signal: int, _frame: object) -> None:
            # A late ring, after its input came back, is nobody's fault.
            if self.running:
                raise HangError

        before = signal.signal(signal.SIGPROF, ring)
        try:
            yield
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            signal.signal(signal.SIGPROF, before)

    def _inputs(self, count: int) -> Iterator[bytes]:
        random, mutators = self.random, self.target.mutators
        drawn: list[bytes] = []
        for number in range(count):
            if not drawn:
                drawn = random.choices(self.seeds, self.weights, k=64)
            kept = self.pool and random.random() < 0.6
            seed = self.pool[int(random.random() * len(self.pool))] if kept else drawn.pop()
            mutator: Mutator = mutate_length if random.random() < GROWN else mutators[number % len(mutators)]
            yield mutator(random, seed, self.seeds)

    def execute(self, data: bytes) -> None:
        """Run one input and hold it against the promises."""
        result = self.result
        result.executions += 1
        try:
            outcome, accepted, took = self._measure(data)
        except HangError:
            self._find("slow", f"still running after {HANG_S:.0f} s", data, "hang")
            return
        except (MemoryError, Exception) as error:  # noqa: BLE001 -- whatever comes out is the finding
            frames = traceback.extract_tb(error.__traceback__)
            place = " < ".join(f"{frame.filename.rpartition('/')[2]}:{frame.lineno}" for frame in frames[:1:-1][:4])
            detail = f"{type(error).__name__}: {str(error)[:200]} at {place}"
            self._find("exception", detail, data, f"{type(error).__name__} {place}")
            return
        result.accepted += accepted
        result.slowest_s = max(result.slowest_s, took)
        if took > SUSPICIOUS_S and len(data) <= MAX_INPUT:
            self._check_time(data)
        if self.high_water and _resident_peak() > self.high_water + (1 << 20):
            self._check_memory(data)
        self._keep(outcome, data)

    def _measure(self, data: bytes) -> tuple[str, bool, float]:
        signal.setitimer(signal.ITIMER_PROF, HANG_S)
        self.running = True
        try:
            return measure(self.target, data)
        finally:
            self.running = False

    def _keep(self, outcome: str, data: bytes) -> None:
        if outcome not in self.outcomes:
            reason = outcome.partition(" ")[0]
            count = self.reasons[reason] = self.reasons.get(reason, 0) + 1
            if count > OUTCOMES_OF_A_REASON:
                outcome = reason
        seen = self.outcomes.get(outcome, 0)
        # The first few of each outcome, and every now and then another: accepted inputs lead furthest.
        if (seen < 4 or self.random.random() < 0.002) and len(data) <= KEPT_BYTES:
            if len(self.pool) < POOL:
                self.pool.append(data)
            else:
                self.pool[int(self.random.random() * POOL)] = data
        self.outcomes[outcome] = seen + 1

    def _check_time(self, data: bytes) -> None:
        took = cpu_seconds(self.target, data)
        if took > max_seconds():
            self._find("slow", f"{took:.2f} s for {len(data)} bytes", data, "slow")

    def _check_memory(self, data: bytes) -> None:
        self.high_water = _resident_peak()
        used = peak_memory(self.target, data)
        self.high_water = max(self.high_water, _resident_peak())
        if used > MAX_BYTES and len(data) <= MAX_INPUT:
            self._find("memory", f"{used >> 20} MiB for {len(data)} bytes", data, "memory")

    def _find(self, kind: str, detail: str, data: bytes, same: str) -> None:
        """Keep one input, the shortest, of each kind of failure."""
        if same in self.failures:
            for number, known in enumerate(self.result.findings):
                if known.detail.split(" at ")[-1] == detail.rsplit(" at ", maxsplit=1)[-1] and len(data) < len(
                    known.data
                ):
                    self.result.findings[number] = Finding(kind, detail, data)
            return
        self.failures.add(same)
        self.result.findings.append(Finding(kind, detail, data))


def _resident_peak() -> int:
    """The most memory this process ever had resident, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
