"""How a benchmark measures: a value and its reference in turns, many short rounds, medians.

What is measured computes and waits for nothing, so time is this process's own: what others take from it between two
instructions is not counted. A busy machine is slower all the same, but slows both alike for as long as a round takes, so
their ratio holds where absolute times do not. What the machine was is part of the result.
"""

import os
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

# A round is long enough for the clock and short enough to fit between two interruptions.
ROUND_S = 0.004
ROUNDS = 51


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a result.

    ``value`` is the median over the rounds in ``unit``, ``best`` the best round. ``reference`` says what it is compared
    with, measured in the same rounds; ``ratio`` is the median of value by reference in a form where larger is better.
    ``met`` says whether ``target`` holds.
    """

    name: str
    value: float
    unit: str
    reference: str
    reference_value: float
    ratio: float
    target: str
    met: bool
    best: float

    def encode(self) -> dict[str, Any]:
        """For ``--json``, rounded to what means something."""
        return {
            key: float(f"{value:.4g}") if isinstance(value, float) else value for key, value in asdict(self).items()
        }


@dataclass(frozen=True, slots=True)
class Comparison:
    """Seconds for one call of each, by round."""

    values: tuple[float, ...]
    references: tuple[float, ...]

    @property
    def value(self) -> float:
        """The median of the values."""
        return statistics.median(self.values)

    @property
    def reference(self) -> float:
        """The median of the references."""
        return statistics.median(self.references)

    @property
    def speed(self) -> float:
        """The median over the rounds of reference by value: 1 is as fast as the reference, 0.5 takes twice as long."""
        return statistics.median(one / other for one, other in zip(self.references, self.values, strict=True))


def compare(value: Callable[[], object], reference: Callable[[], object], *, rounds: int = ROUNDS) -> Comparison:
    """Time both in turns; each is called often enough for a round to be measurable."""
    calls, reference_calls = _calls(value), _calls(reference)
    values, references = [], []
    for _ in range(rounds):
        references.append(_seconds(reference, reference_calls))
        values.append(_seconds(value, calls))
    return Comparison(tuple(values), tuple(references))


def _calls(function: Callable[[], object]) -> int:
    """How many calls fill a round; the first call warms caches up."""
    function()
    return max(1, round(ROUND_S / max(_seconds(function, 1), 1e-7)))


def _seconds(function: Callable[[], object], calls: int) -> float:
    began = time.process_time()
    for _ in range(calls):
        function()
    return (time.process_time() - began) / calls


def machine() -> dict[str, Any]:
    """What ran this: never assumed, always printed."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "load": os.getloadavg()[0],
        "system": platform.platform(),
        "python": platform.python_version(),
        "cryptography": version("cryptography"),
    }


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def row(name: str, found: Comparison, unit: str, scale: float, reference: str, target: str, met: bool) -> Row:
    """A row of a comparison, its seconds times ``scale`` in ``unit``."""
    value, known, best = (scale * number for number in (found.value, found.reference, min(found.values)))
    return Row(name, value, unit, reference, known, found.speed, target, met, best)
