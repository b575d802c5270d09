"""Small charts as numbers: where the lines and bars of an SVG go. Templates draw them; nothing here writes markup.

A chart's plot has no text of its own, so that it may be stretched to any width: its labels are HTML beside it. Each comes
with the figures it shows, which the page has as a table, too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

WIDTH, HEIGHT = 600, 120  # of a plot, in its own units
SPARK_HEIGHT = 20


@dataclass(frozen=True, slots=True)
class Line:
    """One series: its name, its number among the chart's (from 1 on, for its stroke) and its path (SVG 2 §9.3)."""

    name: str
    number: int
    path: str


@dataclass(frozen=True, slots=True)
class LineChart:
    """Series over the same times, with the value at the top of the plot; its bottom is 0."""

    lines: tuple[Line, ...]
    top: float
    empty: bool
    width: int = WIDTH
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a row of them."""

    x: float
    y: float
    width: float
    height: float


Values = Sequence[float | None]


def line_chart(series: Sequence[tuple[str, Values]], least_top: float) -> LineChart:
    """Lines through what is known of each series; a time of which nothing is known interrupts them.

    The top is a round number above every value, and not below ``least_top``, so that noise does not look like a mountain.
    """
    known = [value for _, values in series for value in values if value is not None]
    top = nice(max([least_top, *known]))
    lines = tuple(Line(name, n, _path(values, top)) for n, (name, values) in enumerate(series, 1))
    return LineChart(lines, top, not known)


def _path(values: Values, top: float) -> str:
    step = WIDTH / max(1, len(values) - 1)
    parts, drawing = [], False
    for at, value in enumerate(values):
        if value is None:
            drawing = False
            continue
        point = f"{at * step:.1f} {HEIGHT - value / top * HEIGHT:.1f}"
        # A point alone is a line of no length, which round caps show as a dot.
        parts.append(f"L{point}" if drawing else f"M{point}h0")
        drawing = True
    return "".join(parts)


def bars(values: Sequence[float], *, slots: int, height: int = SPARK_HEIGHT) -> tuple[Bar, ...]:
    """A row of ``slots`` places, one unit wide each, of which the last have bars for ``values``; the highest is ``height``.

    What is not nothing is at least one unit high.
    """
    top = max([*values, 1.0])
    first = slots - len(values)
    made = []
    for at, value in enumerate(values):
        if value > 0:
            high = max(1.0, round(value / top * height, 1))
            made.append(Bar(first + at + 0.1, round(height - high, 1), 0.8, high))
    return tuple(made)


def share(value: float, of: float, *, width: int = 100) -> float:
    """How long a bar of ``value`` is where ``of`` has ``width``; what is not nothing can be seen."""
    if value <= 0 or of <= 0:
        return 0.0
    return round(max(0.5, min(1.0, value / of) * width), 1)


def nice(value: float) -> float:
    """The next of 1, 2, 5, 10, 20, … (and 0.5, 0.2, …) that is not below ``value``."""
    if value <= 0 or not math.isfinite(value):
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= value * (1 - 1e-9))


def duration(seconds: float | None) -> str:
    """Seconds as people read them, with two or three digits: 0.8 ms, 12 ms, 1.5 s, 4 min, 3 h, 2 d, 12 years."""
    if seconds is None:
        return "–"
    if not math.isfinite(seconds):
        return "never"
    for below, unit, name in (
        (0.01, 0.001, "ms"),
        (1, 0.001, "ms"),
        (120, 1, "s"),
        (7200, 60, "min"),
        (172800, 3600, "h"),
        (2 * 365 * 86400, 86400, "d"),
    ):
        if abs(seconds) < below:
            number = seconds / unit
            return f"{number:.1f} {name}" if abs(number) < 10 and number != round(number) else f"{number:.0f} {name}"
    return f"{seconds / (365.25 * 86400):,.0f} years"


def size(count: float) -> str:
    """Bytes as people read them."""
    for unit in ("bytes", "KB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" or count >= 10 else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} PB"
