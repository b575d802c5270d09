"""The risk score of a dispatch: 0 (nothing speaks against it) to 100 (nothing speaks for it), for the dispatch policy.

An integer, added up from a table of weights over what was verified and what was asked for, so that an auditor gets the same
number. It weighs what a verdict leaves open: a verdict says yes or no, and jobs differ in how much of a doubt they bear.
Nothing is measured and nothing is learned; whoever wants other weights writes conditions on the same facts instead.

No bad input ever lowers the score. The parts, in this order:

``tier``
    How far the proof reaches. A0 is 100 by itself: of an unverified machine nothing is known. A1 is genuine evidence that
    was compared with nothing; A2 was compared, without hardware behind the boot; A3 leaves the files after the boot open.
``virtual``
    A software TPM's keys belong to whoever runs its process, whatever its evidence says.
``vector``
    For each AR4SI claim: contraindicated values (96 and above), warnings (32 to 95), and claims from an appraisal that
    went wrong (1 and -1). Negative values mirror the positive ones (AR4SI §2.3.2).
``baseline``
    Reference values age: what was a good state a year ago lacks a year of repairs. Nothing where nothing was compared.
``attempt``
    A job that is tried again and again fails for a reason that nobody has looked at.
``depth``
    How many authorizations are above this one: each was decided about something else than this job.
``delegation``
    How many levels it may hand on to: each is a job that has not been seen.
``runtime``
    How long the job may run: drift during the job is found by its rounds, and what it did until then is done.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

MAXIMUM = 100
DAY_S = 86400

# Points by tier, A0 to A4.
TIER = (100, 30, 15, 5, 0)
VIRTUAL = 10
# Points for each claim in these ranges.
CONTRAINDICATED, WARNING, MALFUNCTION = 20, 6, 6
# Points for each one more than the first, up to a most.
ATTEMPT, ATTEMPT_MOST = 3, 15
DEPTH, DEPTH_MOST = 3, 12
DELEGATION, DELEGATION_MOST = 2, 10
# (more than this many seconds, points); the last that applies.
BASELINE_AGE = ((30 * DAY_S, 3), (90 * DAY_S, 6), (180 * DAY_S, 10), (365 * DAY_S, 15))
RUNTIME = ((3600, 2), (8 * 3600, 5), (DAY_S, 8), (3 * DAY_S, 12))


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the score depends on.

    ``tier`` 0 to 4; ``vector`` the AR4SI claims, -128 to 127; ``baseline_age_s`` None where nothing was compared with
    reference values; ``attempt`` from 1; ``depth`` the authorizations above; ``delegation`` the levels below.
    """

    tier: int
    virtual: bool
    vector: Mapping[str, int] = field(default_factory=dict)
    baseline_age_s: int | None = None
    attempt: int = 1
    depth: int = 0
    delegation: int = 0
    max_runtime_s: int = 0


@dataclass(frozen=True, slots=True)
class Part:
    """Points for one input, and what it was."""

    name: str
    points: int
    because: str


@dataclass(frozen=True, slots=True)
class Score:
    """``total`` is the sum of the parts, at most 100. Parts without points are left out."""

    total: int
    parts: tuple[Part, ...]

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        parts = [{"name": one.name, "points": one.points, "because": one.because} for one in self.parts]
        return {"total": self.total, "parts": parts}


def risk(inputs: Inputs) -> Score:
    """The score of one dispatch. Never raises: a tier beyond the table counts as the nearest in it."""
    level = min(max(inputs.tier, 0), len(TIER) - 1)
    found = [
        Part("tier", TIER[level], f"A{level}"),
        Part("virtual", VIRTUAL * inputs.virtual, "a software TPM"),
        *(Part(f"vector.{name}", claim_points(value), f"{value}") for name, value in sorted(inputs.vector.items())),
    ]
    if inputs.baseline_age_s is not None:
        days = inputs.baseline_age_s // DAY_S
        found.append(Part("baseline", age_points(inputs.baseline_age_s), f"captured {days} days before"))
    found += [
        Part("attempt", _each(inputs.attempt - 1, ATTEMPT, ATTEMPT_MOST), f"attempt {inputs.attempt}"),
        Part("depth", _each(inputs.depth, DEPTH, DEPTH_MOST), f"{inputs.depth} authorizations above"),
        Part(
            "delegation",
            _each(inputs.delegation, DELEGATION, DELEGATION_MOST),
            f"{inputs.delegation} levels may be below",
        ),
        Part("runtime", _step(RUNTIME, inputs.max_runtime_s), f"may run {inputs.max_runtime_s} s"),
    ]
    parts = tuple(part for part in found if part.points)
    return Score(min(MAXIMUM, sum(part.points for part in parts)), parts)


def claim_points(value: int) -> int:
    """Points for one AR4SI claim. Affirming values (2 to 31) and no claim (0) have none."""
    size = -value - 1 if value < -1 else value  # -2 mirrors 1 and so on, as two's complement does
    if value in {-1, 1}:
        return MALFUNCTION
    if size >= 96:
        return CONTRAINDICATED
    return WARNING if size >= 32 else 0


def age_points(age_s: int) -> int:
    """Points for the age of a baseline, in seconds."""
    return _step(BASELINE_AGE, age_s)


def _each(count: int, points: int, most: int) -> int:
    return min(max(count, 0) * points, most)


def _step(table: tuple[tuple[int, int], ...], value: int) -> int:
    return max((points for limit, points in table if value > limit), default=0)


def weights() -> dict[str, list[tuple[str, int]]]:
    """The table for people: for each part, what gives how many points."""
    return {
        "tier": [(f"A{level}", points) for level, points in enumerate(TIER)],
        "virtual": [("a software TPM", VIRTUAL)],
        "vector": [
            ("each claim contraindicated", CONTRAINDICATED),
            ("each claim with a warning", WARNING),
            ("each claim that could not be made", MALFUNCTION),
        ],
        "baseline": [(f"older than {limit // DAY_S} days", points) for limit, points in BASELINE_AGE],
        "attempt": [("each after the first", ATTEMPT), ("at most", ATTEMPT_MOST)],
        "depth": [("each authorization above", DEPTH), ("at most", DEPTH_MOST)],
        "delegation": [("each level below", DELEGATION), ("at most", DELEGATION_MOST)],
        "runtime": [(f"more than {limit // 3600} hours", points) for limit, points in RUNTIME],
    }


# The steps only ever rise; a table that falls would make something worse count as better.
assert all(  # noqa: S101 -- checked once, when this is imported
    first < second for table in (BASELINE_AGE, RUNTIME) for first, second in pairwise(table)
)
