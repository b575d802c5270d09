"""Risk: a sum that only ever grows with what is worse."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from ztrooted.ar4si import TrustVector
from ztrooted.risk import MAXIMUM, Inputs, score

BEST = Inputs(tier=4, virtual=False, attempt=1, depth=0, hands_on=False, max_runtime_s=60, vector={"hardware": 2})
INPUTS = st.builds(
    Inputs,
    tier=st.integers(0, 4),
    virtual=st.booleans(),
    attempt=st.integers(1, 100),
    depth=st.integers(0, 8),
    hands_on=st.booleans(),
    max_runtime_s=st.integers(1, 7 * 86400),
    vector=st.dictionaries(st.sampled_from(list(TrustVector().as_context())), st.integers(-128, 127)),
)


def test_the_best_machine_with_the_smallest_request_has_none() -> None:
    assert score(BEST).total == 0
    assert score(BEST).parts == ()


def test_each_line_of_the_table_counts() -> None:
    changes = {
        10: {"tier": 3},
        25: {"tier": 2},
        40: {"tier": 1},
        100: {"tier": 0},
        20: {"virtual": True},
        5: {"attempt": 2},
        15: {"depth": 3},
    }
    for points, change in changes.items():
        assert score(replace(BEST, **change)).total == points, change  # type: ignore[arg-type]
    assert score(replace(BEST, attempt=50)).total == 20
    assert score(replace(BEST, hands_on=True)).total == 5
    assert [score(replace(BEST, max_runtime_s=time)).total for time in (3600, 3601, 86401)] == [0, 5, 10]
    warned = dict.fromkeys(("hardware", "configuration"), 32)
    assert score(replace(BEST, vector=warned)).total == 20
    assert score(replace(BEST, vector={"hardware": 96})).total == MAXIMUM


@given(INPUTS)
def test_the_parts_add_up_and_nothing_else_counts(inputs: Inputs) -> None:
    found = score(inputs)
    assert found == score(inputs)
    assert found.total == min(sum(points for _, points in found.parts), MAXIMUM)
    assert all(points > 0 for _, points in found.parts)


@given(INPUTS, st.data())
def test_what_is_worse_never_lowers_it(inputs: Inputs, data: st.DataObject) -> None:
    worse = replace(
        inputs,
        tier=data.draw(st.integers(0, inputs.tier)),
        virtual=inputs.virtual or data.draw(st.booleans()),
        attempt=data.draw(st.integers(inputs.attempt, 200)),
        depth=data.draw(st.integers(inputs.depth, 16)),
        hands_on=inputs.hands_on or data.draw(st.booleans()),
        max_runtime_s=data.draw(st.integers(inputs.max_runtime_s, 8 * 86400)),
        vector={**inputs.vector, data.draw(st.sampled_from(["hardware", "executables"])): 96},
    )
    assert score(worse).total >= score(inputs).total
