"""What the gateway measures of itself, in the form Prometheus reads. No label has values that somebody else chooses."""

from collections.abc import Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ztrooted.reasons import Reason

_AGES = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
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

        self._decisions = Counter(
            "ztrooted_decisions_total",
            "Dispatches by what was decided; a reason is one of the closed set, or none.",
            ["decision", "reason"],
            registry=self._registry,
        )
        self._challenge = Histogram(
            "ztrooted_challenge_seconds",
            "From a challenge to its answer; silence is in ztrooted_decisions_total and ztrooted_rounds_total.",
            ["purpose"],
            buckets=_SECONDS,
            registry=self._registry,
        )
        self._evidence_age = Histogram(
            "ztrooted_evidence_age_seconds",
            "How old an executor's last good proof was when the next one was asked for and judged.",
            buckets=_AGES,
            registry=self._registry,
        )
        self.tpm_command = Histogram(
            "ztrooted_tpm_command_seconds",
            "How long the gateway's own TPM took for a piece of work: to sign, to seal, to count.",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.tpm_failures = Counter(
            "ztrooted_tpm_failures_total", "How often the gateway's own TPM refused.", registry=self._registry
        )
        self.connections = Gauge(
            "ztrooted_connections", "Open connections of every kind, accepted ones.", registry=self._registry
        )

        self.connections_refused = Gauge(
            "ztrooted_connections_refused", "Connections closed at once, since the start.", registry=self._registry
        )
        self.limited = Counter(
            "ztrooted_requests_limited",
            "Requests refused by rate: of an address without a credential, or of an identity.",
            ["kind"],
            registry=self._registry,
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

    def decided(self, reason: Reason | None) -> None:
        """A dispatch was permitted, or denied for ``reason``."""
        self._decisions.labels("permitted" if reason is None else "denied", str(reason or "none")).inc()

    def challenged(self, purpose: str, seconds: float) -> None:
        """A challenge of ``purpose``, one of the few there are, took ``seconds``."""
        self._challenge.labels(purpose).observe(seconds)

    def replaced(self, age_s: float) -> None:
        """A proof of ``age_s`` was followed by another round."""
        self._evidence_age.observe(max(0.0, age_s))

    def gauge(self, name: str, what: str, read: Callable[[], float]) -> None:
        """One more gauge, read when somebody asks."""
        Gauge(name, what, registry=self._registry).set_function(read)

    def gauges(self, name: str, what: str, label: str, read: Mapping[str, Callable[[], float]]) -> None:
        """One more with a label that has these values and no others."""
        made = Gauge(name, what, [label], registry=self._registry)
        for value, function in read.items():
            made.labels(value).set_function(function)

    def counted(self, families: Iterable[str]) -> dict[tuple[str, ...], float]:
        """The values of some families of samples, by the family's name and the values of its labels."""
        registry = self._registry.restricted_registry(families)
        return {(one.name, *one.labels.values()): one.value for family in registry.collect() for one in family.samples}

    def text(self) -> bytes:
        """The exposition format, version 0.0.4."""
        return generate_latest(self._registry)
