"""What the gateway measured of itself lately: a ring of samples in memory, for its own health page.

A sample is taken every ``EVERY_S`` and one more whenever somebody looks; ``KEPT`` of the former are kept, which is an hour.
Each holds the counts of a few fixed families of ``gateway.metrics``: some 150 numbers, a few megabytes for the whole ring,
and no more however many executors, orchestrators or viewers there are. Nothing of it is written: a restart begins anew.
"""

from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from gateway.metrics import Metrics
from ztrooted.clock import Clock

EVERY_S = 10.0
KEPT = 360
FRESH_S = 0.5  # what was looked at within this is shown again: twenty viewers cost what one does

Key = tuple[str, ...]
Counts = Mapping[Key, float]

# Family of the metrics, and the labels whose values name one of its counters here.
DECISIONS = "ztrooted_decisions_total"
LATENESS = "ztrooted_challenge_lateness_seconds_bucket"
ROUNDS = "ztrooted_round_seconds_bucket"
TPM = "ztrooted_tpm_command_seconds_bucket"
TPM_FAILURES = "ztrooted_tpm_failures_total"
WAITING = "ztrooted_rounds_waiting"
KEPT_FAMILIES = (DECISIONS, LATENESS, ROUNDS, TPM, TPM_FAILURES, WAITING)


@dataclass(frozen=True, slots=True)
class Sample:
    """What was measured at one moment.

    ``counts`` has, by family and values of its labels, how often each thing has happened since the start; those of a
    histogram are cumulative by bucket, as Prometheus has them. ``not_ready`` names why nothing could be authorized.
    """

    at_ms: int
    monotonic_s: float
    not_ready: tuple[str, ...]
    counts: Counts


@dataclass(frozen=True, slots=True)
class Span:
    """What happened between two samples."""

    before: Sample
    after: Sample

    @property
    def seconds(self) -> float:
        """How long it lasted, by the clock that nobody sets."""
        return self.after.monotonic_s - self.before.monotonic_s

    def count(self, *key: str) -> float:
        """How often ``key`` happened."""
        return self.after.counts.get(key, 0.0) - self.before.counts.get(key, 0.0)

    def buckets(self, *prefix: str) -> list[tuple[float, float]]:
        """A histogram as (upper bound in seconds, how many up to it), ascending; the last bound is infinite."""
        keys = [key for key in self.after.counts if key[:-1] == prefix]
        return sorted((float(key[-1]), self.count(*key)) for key in keys)

    def quantile(self, share: float, *prefix: str) -> float | None:
        """Seconds that ``share`` of a histogram stayed below, see ``quantile``; None where there was nothing."""
        return quantile(self.buckets(*prefix), share)


def quantile(buckets: Sequence[tuple[float, float]], share: float) -> float | None:
    """What ``share`` of the observations stay below, as far as buckets can tell; None where there are none.

    Within a bucket it is interpolated; of what is beyond the last finite bound that bound is known, and no more.
    """
    if not buckets or buckets[-1][1] <= 0:
        return None
    wanted, lower, below = share * buckets[-1][1], 0.0, 0.0
    for bound, count in buckets:
        if count >= wanted and count > below:
            if bound == float("inf"):
                return lower
            return lower + (bound - lower) * (wanted - below) / (count - below)
        lower, below = bound, count
    return lower


class History:
    """The ring."""

    def __init__(self, metrics: Metrics, clock: Clock, not_ready: Callable[[], Sequence[str]]) -> None:
        self._metrics = metrics
        self._clock = clock
        self._not_ready = not_ready
        self._samples: deque[Sample] = deque(maxlen=KEPT)
        self._looked: Sample | None = None

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Take samples for ever; ``sleep`` waits between two."""
        while True:
            self._samples.append(self._sample())
            await sleep(EVERY_S)

    def now(self) -> Sample:
        """The present; not older than ``FRESH_S``, and shared by everybody who asks within that."""
        looked, now = self._looked, self._clock.monotonic()
        if looked is None or not 0 <= now - looked.monotonic_s < FRESH_S:
            looked = self._looked = self._sample()
        return looked

    def samples(self) -> list[Sample]:
        """Every sample that is kept, oldest first, and the present."""
        now = self.now()
        return [*(one for one in self._samples if one.monotonic_s < now.monotonic_s), now]

    def spans(self, most: int) -> list[Span]:
        """What is kept as at most ``most`` spans of time, oldest first; none before there are two samples.

        All but the last are equally long, and they end where the ring's own samples do, so that a bar that was drawn once
        stays as it is. The last one is the present, and grows.
        """
        samples = self.samples()
        each = max(1, -(-KEPT // most))
        edges = [*_edges(samples[:-1], each), samples[-1]]
        return [Span(before, after) for before, after in pairwise(edges)][-most:]

    def whole(self) -> Span | None:
        """Everything that is kept, as one."""
        samples = self.samples()
        return Span(samples[0], samples[-1]) if len(samples) > 1 else None

    def _sample(self) -> Sample:
        counts = self._metrics.counted(KEPT_FAMILIES)
        return Sample(self._clock.now_ms(), self._clock.monotonic(), tuple(self._not_ready()), counts)


def _edges(samples: Sequence[Sample], each: int) -> Iterator[Sample]:
    """The oldest sample, and each that begins another span of ``each`` samples by the clock."""
    number = None
    for sample in samples:
        of = int(sample.monotonic_s // (each * EVERY_S))
        if of != number:
            yield sample
        number = of
