"""Risk: a score from 0 to 100 that a dispatch policy may ask for. Added up from what was verified; not a guess.

=================================================  =======
what counts                                        points
=================================================  =======
assurance tier A0 / A1 / A2 / A3 / A4              100 / 40 / 25 / 10 / 0
a software TPM                                     20
each attempt after the first                       5, at most 20
each level below the first of a chain of work      5, at most 20
the right to hand on work                          5
more than an hour / a day of runtime               5 / 10
each AR4SI claim in the warning tier               10, at most 30
a contraindicated AR4SI claim                      100
=================================================  =======

The sum is cut at 100. Each line only ever adds, so a worse machine or a bolder request never lowers the score.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from ztrooted.ar4si import CONTRAINDICATED, WARNING, tier_of

MAXIMUM = 100
BY_TIER = (100, 40, 25, 10, 0)
HOUR_S, DAY_S = 3600, 86400


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the score is made of. ``max_runtime_s`` in seconds; ``depth`` is 0 for a dispatch without a parent."""

    tier: int
    virtual: bool
    attempt: int
    depth: int
    hands_on: bool
    max_runtime_s: int
    vector: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Score:
    """The score and what it is made of: the parts that count, each with its points."""

    total: int
    parts: tuple[tuple[str, int], ...]


def score(inputs: Inputs) -> Score:
    """Add up the table above."""
    tiers = [tier_of(value) for value in inputs.vector.values()]
    parts = (
        (f"tier A{inputs.tier}", BY_TIER[inputs.tier]),
        ("a software TPM", 20 if inputs.virtual else 0),
        (f"attempt {inputs.attempt}", min(5 * (inputs.attempt - 1), 20)),
        (f"level {inputs.depth} of a chain", min(5 * inputs.depth, 20)),
        ("may hand on work", 5 if inputs.hands_on else 0),
        (
            f"{inputs.max_runtime_s} s of runtime",
            5 * (inputs.max_runtime_s > HOUR_S) + 5 * (inputs.max_runtime_s > DAY_S),
        ),
        ("claims in the warning tier", min(10 * tiers.count(WARNING), 30)),
        ("a contraindicated claim", 100 if CONTRAINDICATED in tiers else 0),
    )
    counted = tuple((name, points) for name, points in parts if points)
    return Score(min(sum(points for _, points in counted), MAXIMUM), counted)
