"""A slice of the soak, and proof that it finds what it looks for."""

from pathlib import Path

import pytest

from gateway.schedule import Schedule
from tests.soak.soak import PACE, Soak

pytestmark = [pytest.mark.asyncio, pytest.mark.timeout(240)]


async def test_ten_minutes_have_no_false_and_no_missed_revocation(tmp_path: Path) -> None:
    outcome = await Soak(tmp_path, seed=7, executors=6).run(600)
    assert (outcome.false, outcome.missed) == ([], [])
    assert outcome.jobs > 10
    assert {"drift", "silence", "operator", "cut"} <= set(outcome.faults)


async def test_a_gateway_that_stretches_its_intervals_is_found_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Schedule.within

    def stretched(self: Schedule, executor: str, interval_s: float, *rest: object, **named: object) -> None:
        before(self, executor, interval_s * 10 if interval_s == PACE["interval_s"] else interval_s, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(Schedule, "within", stretched)
    outcome = await Soak(tmp_path, seed=7, executors=4).run(200)
    assert outcome.false, "leases that nobody renewed in time have ended"
