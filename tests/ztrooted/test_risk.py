"""The risk score: integers from a table, and nothing bad ever lowers it."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ztrooted.cedar_schema import VECTOR
from ztrooted.risk import DAY_S, MAXIMUM, Inputs, claim_points, risk, weights

inputs = st.builds(
    Inputs,
    tier=st.integers(0, 4),
    virtual=st.booleans(),
    vector=st.dictionaries(st.sampled_from(VECTOR), st.integers(-128, 127)),
    baseline_age_s=st.none() | st.integers(0, 1000 * DAY_S),
    attempt=st.integers(1, 1_000_000),
    depth=st.integers(0, 9),
    delegation=st.integers(0, 8),
    max_runtime_s=st.integers(1, 7 * DAY_S),
)
BEST = Inputs(tier=4, virtual=False, vector=dict.fromkeys(VECTOR, 2), baseline_age_s=0, max_runtime_s=60)


def test_the_best_that_there_is_has_no_risk() -> None:
    assert risk(BEST).total == 0
    assert risk(BEST).parts == ()


def test_an_unverified_machine_has_every_risk() -> None:
    assert risk(replace(BEST, tier=0)).total == MAXIMUM


@given(inputs)
def test_the_score_is_the_sum_of_its_parts_and_within_its_range(given_: Inputs) -> None:
    score = risk(given_)
    assert type(score.total) is int
    assert score.total == min(MAXIMUM, sum(part.points for part in score.parts))
    assert 0 <= score.total <= MAXIMUM
    assert all(part.points > 0 and part.because for part in score.parts)
    assert risk(given_) == score


@given(inputs, st.data())
def test_nothing_bad_lowers_the_score(given_: Inputs, data: st.DataObject) -> None:
    """One input is made worse, whatever the others are."""
    draw = data.draw
    worse = {
        "tier": replace(given_, tier=draw(st.integers(0, given_.tier))),
        "virtual": replace(given_, virtual=True),
        "baseline_age_s": replace(given_, baseline_age_s=draw(st.integers(given_.baseline_age_s or 0, 2000 * DAY_S))),
        "attempt": replace(given_, attempt=draw(st.integers(given_.attempt, 2_000_000))),
        "depth": replace(given_, depth=draw(st.integers(given_.depth, 20))),
        "delegation": replace(given_, delegation=draw(st.integers(given_.delegation, 20))),
        "max_runtime_s": replace(given_, max_runtime_s=draw(st.integers(given_.max_runtime_s, 10 * DAY_S))),
    }
    for name, other in worse.items():
        assert risk(other).total >= risk(given_).total, name


@given(inputs, st.sampled_from(VECTOR), st.integers(0, 127), st.integers(0, 127))
def test_a_worse_claim_does_not_lower_the_score(given_: Inputs, name: str, one: int, other: int) -> None:
    """From 2 on, a greater claim is a worse one (AR4SI)."""
    better, worse = sorted((max(one, 2), max(other, 2)))
    scores = [risk(replace(given_, vector={**given_.vector, name: value})).total for value in (better, worse)]
    assert scores == sorted(scores)


@given(inputs)
def test_a_claim_that_is_missing_is_no_claim(given_: Inputs) -> None:
    whole = {name: given_.vector.get(name, 0) for name in VECTOR}
    assert risk(replace(given_, vector=whole)).total == risk(given_).total


@pytest.mark.parametrize(
    ("value", "like"), [(0, 2), (-1, 1), (-2, 2), (-32, 31), (-33, 32), (-96, 95), (-97, 96), (-128, 127)]
)
def test_negative_claims_mirror_positive_ones(value: int, like: int) -> None:
    assert claim_points(value) == claim_points(like)


def test_each_class_of_claims_weighs_more_than_the_one_before() -> None:
    assert claim_points(2) == claim_points(31) == 0
    assert 0 < claim_points(32) == claim_points(95) < claim_points(96) == claim_points(127)
    assert claim_points(1) > 0


@pytest.mark.parametrize(
    "worse",
    [
        replace(BEST, tier=3),
        replace(BEST, virtual=True),
        replace(BEST, vector={"executables": 33}),
        replace(BEST, baseline_age_s=40 * DAY_S),
        replace(BEST, attempt=2),
        replace(BEST, depth=1),
        replace(BEST, delegation=1),
        replace(BEST, max_runtime_s=3601),
    ],
)
def test_every_input_counts(worse: Inputs) -> None:
    (part,) = risk(worse).parts
    assert risk(worse).total == part.points > 0
    assert part.name.partition(".")[0] in weights()
