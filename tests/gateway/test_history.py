"""The ring of the gateway's own metrics, and what the health page reads off it."""

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gateway import history
from gateway.app import DATABASE
from gateway.console.charts import HEIGHT, WIDTH, bars, duration, line_chart, nice, size
from gateway.console.health_view import AGE_BOUNDS_S, SPANS, HealthView
from gateway.history import EVERY_S, KEPT, History, quantile
from gateway.metrics import Metrics
from gateway.storage.aside import glance
from tests.support.endorsement import INTEL, vendor
from tests.support.fleet import SimulatedExecutor, SimulatedMachine, connect_all, enroll_all
from tests.support.gateway_in_process import GatewayInProcess, MovedClock
from tests.support.tpm import SoftwareTpms
from ztrooted.reasons import GateReason


class EnoughError(Exception):
    """Ends a task that would run for ever."""


async def filled(kept: History, clock: MovedClock, count: int) -> None:
    """Take ``count`` samples as fast as the clock can be moved."""
    taken = 0

    async def sleep(seconds: float) -> None:
        nonlocal taken
        taken += 1
        if taken == count:
            raise EnoughError
        clock.passed_s += seconds

    with pytest.raises(EnoughError):
        await kept.run(sleep)


async def test_the_ring_is_bounded_and_keeps_the_newest() -> None:
    clock, metrics = MovedClock(), Metrics()
    kept = History(metrics, clock, list)
    began = clock.monotonic()
    await filled(kept, clock, KEPT + 25)
    samples = kept.samples()
    assert KEPT <= len(samples) <= KEPT + 1
    assert samples[0].monotonic_s >= began + 25 * EVERY_S, "the oldest are forgotten"
    assert clock.monotonic() - samples[-1].monotonic_s < EVERY_S


async def test_spans_neither_lose_nor_repeat_a_decision() -> None:
    clock, metrics = MovedClock(), Metrics()
    kept = History(metrics, clock, list)
    await filled(kept, clock, 1)
    for number in range(1, 90):
        if number % 7 == 0:
            metrics.decided(GateReason.DISPATCH_EXECUTOR_UNKNOWN)
        metrics.decided(None)
        clock.passed_s += EVERY_S
        await filled(kept, clock, 1)
    clock.passed_s += history.FRESH_S
    metrics.decided(None)  # after the last sample: the present is shown, too
    spans = kept.spans(SPANS)
    permitted = [span.count(history.DECISIONS, "permitted", "none") for span in spans]
    assert sum(permitted) == 90
    assert sum(span.count(history.DECISIONS, "denied", "dispatch.executor_unknown") for span in spans) == 12
    assert len({round(span.seconds) for span in spans[1:-1]}) == 1
    whole = kept.whole()
    assert whole is not None
    assert whole.count(history.DECISIONS, "permitted", "none") == 90


def test_who_looks_within_a_moment_sees_the_same_and_pays_nothing() -> None:
    clock, metrics = MovedClock(), Metrics()
    kept = History(metrics, clock, list)
    first = kept.now()
    assert kept.now() is first
    clock.passed_s += history.FRESH_S
    assert kept.now() is not first


@pytest.mark.parametrize(
    ("buckets", "share", "seconds"),
    [
        ([], 0.5, None),
        ([(0.1, 0), (float("inf"), 0)], 0.5, None),
        ([(0.1, 10), (float("inf"), 10)], 0.5, 0.05),
        ([(0.1, 0), (0.2, 10), (float("inf"), 10)], 0.5, 0.15),
        ([(0.1, 0), (float("inf"), 10)], 0.99, 0.1),
    ],
)
def test_a_quantile_of_buckets(buckets: list[tuple[float, float]], share: float, seconds: float | None) -> None:
    assert quantile(buckets, share) == (None if seconds is None else pytest.approx(seconds))


def test_the_geometry_of_charts() -> None:
    chart = line_chart([("a", [0.0, None, 0.3]), ("b", [None, None, None])], 0.05)
    assert chart.top == 0.5
    assert chart.lines[0].path == f"M0.0 {HEIGHT:.1f}h0M{WIDTH:.1f} {HEIGHT * 0.4:.1f}h0"
    assert chart.lines[1].path == ""
    assert not chart.empty
    assert line_chart([("a", [None])], 0.05).empty
    row = bars([0, 1, 1000], slots=4)
    assert [(bar.x, bar.height) for bar in row] == [(2.1, 1.0), (3.1, 20.0)]
    assert [nice(value) for value in (0, 0.011, 1, 1.01, 6, 10)] == [1, 0.02, 1, 2, 10, 10]
    told = [duration(value) for value in (None, 0.0008, 0.25, 1.5, 600, 90000, 1e9, float("inf"))]
    assert told == ["–", "0.8 ms", "250 ms", "1.5 s", "10 min", "25 h", "32 years", "never"]
    assert [size(value) for value in (12, 4096, 2.5e9)] == ["12 bytes", "4.1 KB", "2.5 GB"]


@pytest.fixture
async def gate(tmp_path: Path, software_tpms: SoftwareTpms) -> AsyncIterator[GatewayInProcess]:
    """A gateway that knows the maker of simulated machines."""
    made = GatewayInProcess(tmp_path, software_tpms(fresh=True), vendor().root.pem, {}, vendors=[INTEL])
    try:
        await made.start()
        yield made
    finally:
        await made.stop()


async def test_what_the_page_shows_of_a_gateway(gate: GatewayInProcess, tmp_path: Path) -> None:
    """A denial, a connected executor's proof, a TPM at work, and a gateway that gets into trouble."""
    machine = SimulatedMachine(tmp_path / "machine", {"/bin/true": b"true"})
    path = gate.gateway.config.data / DATABASE
    view = HealthView(gate.gateway, lambda read: glance(path, read))
    executors = [SimulatedExecutor(gate.url, gate.ca, machine) for _ in range(2)]
    await enroll_all(executors)
    body = json.dumps(
        {
            "executor": executors[0].id,
            "job": {"workflow": "w", "run": "1", "step": "s", "argv": ["/bin/true"], "env": "0" * 64},
        }
    ).encode()
    async with connect_all(executors[:1]):
        answer = await gate.call("POST", "/v1/dispatches", token=await gate.token("orchestrator"), body=body)
        assert answer.code == "attestation.no_baseline", answer
        gate.clock.passed_s += history.FRESH_S
        seen = await view.read()
        assert sum(row.count for row in seen.ages) == 1, "one of two is connected"
    assert seen.failing == ()
    assert [(row.reason, row.lately, row.since_start) for row in seen.decisions] == [("attestation.no_baseline", 1, 1)]
    assert len(seen.decisions[0].bars) == 1
    assert seen.tpm.summary[0][1] != "–"
    assert {fact.name: fact.value for fact in seen.tpm_facts}["TPM"] == "software (virtual)"
    assert len(seen.ages) == len(AGE_BOUNDS_S) + 2
    gate.gateway.checkpointer.sealed_at = 0.0
    gate.clock.passed_s += history.FRESH_S
    failing = (await view.read()).failing
    assert [one.reason for one in failing] == ["checkpoint.stale"]
    assert failing[0].meaning
    assert failing[0].remedy
