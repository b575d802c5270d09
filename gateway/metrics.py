"""What the gateway measures of itself, in the form Prometheus reads. No label has values that somebody else chooses."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """One gateway's measurements; ``text`` is what ``/metrics`` answers."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        lateness = Histogram(
            "ztrooted_challenge_lateness_seconds",
            "How long after its time a periodic challenge left.",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._late = {True: lateness.labels("live"), False: lateness.labels("idle")}
        round_s = Histogram(
            "ztrooted_round_seconds",
            "From a challenge to its recorded verdict, periodic rounds only.",
            ["kind"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._round = {True: round_s.labels("live"), False: round_s.labels("idle")}
        verdicts = Counter(
            "ztrooted_rounds_total", "Periodic rounds by their verdict.", ["verdict"], registry=self._registry
        )
        self._verdict = {True: verdicts.labels("trusted"), False: verdicts.labels("untrusted")}
        self.waiting = Gauge(
            "ztrooted_rounds_waiting", "Idle executors whose challenge is due and waits.", registry=self._registry
        )
        self.connected = Gauge(
            "ztrooted_executors_connected", "Executors with an open channel.", registry=self._registry
        )
        self.conflicts = Counter(
            "ztrooted_session_conflicts_total", "Sessions that two machines held at once.", registry=self._registry
        )

        self.increments = Gauge(
            "ztrooted_tpm_counter_increments",
            "How often this gateway has incremented its TPM's counter, whose memory wears.",
            registry=self._registry,
        )

        self.cosigners = Gauge(
            "ztrooted_checkpoint_cosigners",
            "Witnesses that cosigned when they were asked last.",
            registry=self._registry,
        )
        # Names of witnesses are in the configuration, of which there are few.
        self.witness_failures = Counter(
            "ztrooted_witness_failures_total",
            "How often a witness was asked and did not cosign.",
            ["witness"],
            registry=self._registry,
        )

    def late(self, seconds: float, *, live: bool) -> None:
        """A challenge left ``seconds`` after its time."""
        self._late[live].observe(seconds)

    def round(self, seconds: float, *, live: bool, trusted: bool) -> None:
        """A periodic round took ``seconds`` from challenge to recorded verdict."""
        self._round[live].observe(seconds)
        self._verdict[trusted].inc()

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)
