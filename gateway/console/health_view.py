"""What the health page shows, as plain values: read off a running gateway and the ring of its own metrics."""

import shutil
import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gateway import history
from gateway.checkpointer import STALE_INTERVALS, STALE_S
from gateway.console.charts import Bar, LineChart, bars, duration, line_chart, share, size
from gateway.gauges import NV_CYCLES
from gateway.history import Span
from gateway.storage import lineage
from ztrooted.clock import instant
from ztrooted.explanations import explain
from ztrooted.reasons import parse_reason

if TYPE_CHECKING:
    from gateway.app import Gateway

SPANS = 60  # of an hour: a minute each
AGES_FRESH_S = 5.0  # the ages of all proofs are counted anew no sooner than this after the last time
AGE_BOUNDS_S = (1.0, 5.0, 15.0, 30.0, 120.0, 300.0, 900.0, 7200.0)
MOST_REASONS = 40  # rows of the table of decisions: those with the most
PERMITTED = "permitted"


@dataclass(frozen=True, slots=True)
class Failing:
    """One reason why nothing can be authorized."""

    reason: str
    meaning: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Fact:
    """One figure: its name, the figure, and what to compare it with. ``bad`` where it is beyond its limit."""

    name: str
    value: str
    note: str
    bad: bool = False


@dataclass(frozen=True, slots=True)
class Timed:
    """A chart of quantiles over time, with its figures: rows of (time, one text for each series)."""

    chart: LineChart
    top: str
    names: tuple[str, ...]
    rows: tuple[tuple[str, tuple[str, ...]], ...]
    summary: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class AgeRow:
    """How many executors have a last good proof of an age up to ``label``."""

    label: str
    count: int
    width: float


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """Decisions for one reason: bars over time, how many in the time shown, and since the start."""

    reason: str
    meaning: str
    permitted: bool
    bars: tuple[Bar, ...]
    lately: int
    since_start: int


@dataclass(frozen=True, slots=True)
class Health:
    """Everything on the page, as of ``at``; what is shown over time begins at ``since``."""

    at: str
    since: str
    covered: str
    failing: tuple[Failing, ...]
    facts: tuple[Fact, ...]
    lateness: Timed
    tpm: Timed
    tpm_facts: tuple[Fact, ...]
    worn: float  # of 100
    ages: tuple[AgeRow, ...]
    decisions: tuple[DecisionRow, ...]
    slots: int = SPANS


Look = Callable[[Callable[[sqlite3.Connection], tuple[AgeRow, ...]]], Awaitable[tuple[AgeRow, ...]]]


class HealthView:
    """Reads it. Whatever costs more than a look at a number is kept for a moment."""

    def __init__(self, gateway: "Gateway", look: Look) -> None:
        self._gateway = gateway
        self._look = look
        self._ages: tuple[float, tuple[AgeRow, ...]] | None = None

    async def read(self) -> Health:
        """The health of the gateway now."""
        ages = await self.ages()
        kept = self._gateway.history
        now, spans, whole = kept.now(), kept.spans(SPANS), kept.whole()
        return Health(
            at=instant(now.at_ms),
            since=instant(spans[0].before.at_ms if spans else now.at_ms),
            covered=duration(whole.seconds if whole else 0.0),
            failing=tuple(_failing(reason) for reason in now.not_ready),
            facts=self._facts(),
            lateness=_lateness(spans, whole),
            tpm=_tpm(spans, whole),
            tpm_facts=self._tpm_facts(whole),
            worn=share(self._used(), NV_CYCLES),
            ages=ages,
            decisions=_decisions(spans, now),
        )

    def _facts(self) -> tuple[Fact, ...]:
        gateway = self._gateway
        records = lineage.size(gateway.database.reading)
        behind = records - gateway.feed.end
        limit_s = max(STALE_INTERVALS * gateway.config.checkpoint_interval_s, STALE_S)
        age_s, head = gateway.checkpointer.age_s, gateway.checkpointer.head()
        free = shutil.disk_usage(gateway.config.data).free
        late = gateway.deadlines.lateness_s
        unsealed = records - (head.size if head else 0)
        waiting = round(gateway.history.now().counts.get((history.WAITING,), 0))
        return (
            Fact("Executors connected", f"{len(gateway.channels.executors()):,}", f"{waiting:,} wait to be asked"),
            Fact(
                "Last checkpoint",
                f"{duration(age_s)} ago" if head else "none",
                f"nothing is issued from {duration(limit_s)} on",
                age_s > limit_s,
            ),
            Fact("Records", f"{records:,}", f"{unsealed:,} since the last checkpoint"),
            Fact("Event feed", f"{behind:,} behind", "records that subscribers have yet to be sent"),
            Fact("Last deadline", f"{duration(late)} late", f"looked at {duration(gateway.beat_age_s)} ago"),
            Fact("Disk", f"{size(free)} free", "where the database grows"),
        )

    def _used(self) -> int:
        gateway = self._gateway
        return gateway.checkpointer.anchors.counter - gateway.signer.identity.counter_start

    def _tpm_facts(self, whole: Span | None) -> tuple[Fact, ...]:
        config = self._gateway.config
        left = NV_CYCLES - self._used()
        failures = round(whole.count(history.TPM_FAILURES)) if whole else 0
        virtual = self._gateway.signer.identity.virtual
        return (
            Fact("TPM", "software (virtual)" if virtual else "hardware", "of this gateway"),
            Fact("Counter increments", f"{self._used():,}", f"of {NV_CYCLES:,} that a chip's memory may bear"),
            Fact(
                "Memory lasts",
                duration(left * config.anchor_interval_s),
                f"at one increment every {duration(config.anchor_interval_s)}",
            ),
            Fact("Refused commands", f"{failures:,}", "in the time shown", failures > 0),
        )

    async def ages(self) -> tuple[AgeRow, ...]:
        """Connected executors by the age of their last good proof."""
        now_s = self._gateway.clock.monotonic()
        if self._ages is None or not 0 <= now_s - self._ages[0] < AGES_FRESH_S:
            connected, now_ms = set(self._gateway.channels.executors()), self._gateway.clock.now_ms()
            self._ages = now_s, await self._look(lambda connection: _ages(connection, connected, now_ms))
        return self._ages[1]


def _ages(connection: sqlite3.Connection, connected: set[str], now_ms: int) -> tuple[AgeRow, ...]:
    """How many of ``connected`` have which age; those that are not connected prove nothing and are not counted."""
    rows = connection.execute("SELECT id, proved_at FROM executors")
    counts, without = [0] * (len(AGE_BOUNDS_S) + 1), 0
    for executor, proved_at in rows:
        if executor not in connected:
            continue
        if not proved_at:
            without += 1
            continue
        age_s = (now_ms - proved_at) / 1000
        counts[next((n for n, bound in enumerate(AGE_BOUNDS_S) if age_s <= bound), len(AGE_BOUNDS_S))] += 1
    named = [
        *zip((f"up to {duration(bound)}" for bound in AGE_BOUNDS_S), counts, strict=False),
        (f"over {duration(AGE_BOUNDS_S[-1])}", counts[-1]),
        ("no good proof", without),
    ]
    most = max(count for _, count in named)
    return tuple(AgeRow(name, count, share(count, most)) for name, count in named)


def _failing(reason: str) -> Failing:
    known = explain(parse_reason(reason))
    return Failing(reason, known.meaning, known.remedy)


def _lateness(spans: Sequence[Span], whole: Span | None) -> Timed:
    series = (
        ("with a job, 99 %", 0.99, (history.LATENESS, "live")),
        ("idle, 99 %", 0.99, (history.LATENESS, "idle")),
    )
    return _timed(spans, whole, series, least_top=0.05)


def _tpm(spans: Sequence[Span], whole: Span | None) -> Timed:
    series = (("median", 0.5, (history.TPM,)), ("99 %", 0.99, (history.TPM,)))
    return _timed(spans, whole, series, least_top=0.02)


def _timed(
    spans: Sequence[Span],
    whole: Span | None,
    series: Sequence[tuple[str, float, tuple[str, ...]]],
    *,
    least_top: float,
) -> Timed:
    values = [[span.quantile(quantile, *prefix) for span in spans] for _, quantile, prefix in series]
    nothing: list[float | None] = [None] * (SPANS - len(spans))
    padded = [nothing + known for known in values]
    names = tuple(name for name, _, _ in series)
    chart = line_chart(list(zip(names, padded, strict=True)), least_top)
    rows = [
        (instant(span.after.at_ms)[11:19], tuple(duration(known[at]) for known in values))
        for at, span in enumerate(spans)
        if any(known[at] is not None for known in values)
    ]
    overall = [(name, duration(whole.quantile(q, *prefix) if whole else None)) for name, q, prefix in series]
    return Timed(chart, duration(chart.top), names, tuple(reversed(rows)), tuple(overall))


def _decisions(spans: Sequence[Span], now: history.Sample) -> tuple[DecisionRow, ...]:
    """Permits first, then denials by how many there were lately, and since the start."""
    rows = []
    for key, total in now.counts.items():
        if key[0] != history.DECISIONS:
            continue
        counts = [span.count(*key) for span in spans]
        permitted = key[1] == PERMITTED
        meaning = "the dispatch was authorized" if permitted else explain(parse_reason(key[2])).meaning
        rows.append(
            DecisionRow(
                PERMITTED if permitted else key[2],
                meaning,
                permitted,
                bars(counts, slots=SPANS),
                round(sum(counts)),
                round(total),
            )
        )
    rows.sort(key=lambda row: (not row.permitted, -row.lately, -row.since_start, row.reason))
    return tuple(rows[:MOST_REASONS])
