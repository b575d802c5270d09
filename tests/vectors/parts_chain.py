"""Lies about a chain of three, for ``tests.vectors.parts_story``."""

from typing import Any

from tests.vectors.parts_told import Change, Records, of
from ztrooted import canonical


def _leaf(records: Records) -> str:
    """The authorization whose bundle it is."""
    return str([one["authorization"] for one in records if one["type"] == "execution.closed"][-1])


def _asked(records: Records, level: int) -> dict[str, Any]:
    """What was asked for: 0 at the top, 2 for the child of a child."""
    return [one["body"] for one in records if one["type"] == "dispatch.requested"][level]


def _denied_leaf(change: Change) -> Change:
    """The child was asked about and denied, so that its parent tells nothing of it."""

    def lie(records: Records) -> None:
        leaf = [one["authorization"] for one in records if one["type"] == "dispatch.requested"][2]
        evaluated = of(records, "policy.evaluated", 0, leaf)
        place = next(number for number, one in enumerate(records) if one is evaluated)
        denied = {**evaluated, "type": "authorization.denied", "body": {"reason": "policy.denied", "detail": ""}}
        kept = [
            one for one in records[place + 1 :] if one["authorization"] != leaf and one["body"].get("child") != leaf
        ]
        records[place + 1 :] = [denied, *kept]
        change(records)

    return lie


def _delegation(level: int, **changes: Any) -> Change:
    return lambda records: _asked(records, level)["delegation"].update(changes)


def _another_run(level: int, **changes: Any) -> Change:
    def change(records: Records) -> None:
        body = _asked(records, level)
        body["job"].update(changes)
        body["job_digest"] = canonical.digest(body["job"])

    return change


def _younger_parent(records: Records) -> None:
    leaf = [one["authorization"] for one in records if one["type"] == "dispatch.requested"][2]
    evaluated = [one for one in records if one["authorization"] == leaf][:2]
    rest = [one for one in records if not any(one is other for other in evaluated)]
    records[:] = [*evaluated, *rest]


def _itself(records: Records) -> None:
    names = [one["authorization"] for one in records if one["type"] == "dispatch.requested"]
    _asked(records, 0)["parent"] = names[1]


PARENTS = ["story", "parents"]
CHAIN: list[tuple[str, list[str], Change]] = [
    ("as it is", PARENTS, lambda records: None),
    ("a delegation of text", PARENTS, _delegation(0, depth="3")),
    ("a delegation with a member more", PARENTS, _delegation(1, extra=1)),
    ("a delegation of nine levels", PARENTS, _delegation(0, depth=9)),
    ("a delegation to an executor that is none", PARENTS, _delegation(0, executors=["somebody"])),
    (
        "a tier that there is not",
        PARENTS,
        lambda records: of(records, "authorization.issued", 0)["body"]["claims"].update(tier="A5"),
    ),
    (
        "a tier in a list",
        PARENTS,
        lambda records: of(records, "authorization.issued", 0)["body"]["claims"].update(tier=["A2"]),
    ),
    ("a child of another run", PARENTS, _another_run(2, run="another")),
    ("a step that was not handed on", PARENTS, _delegation(1, steps=["other"])),
    ("an executor that was not handed on by the first", PARENTS, _delegation(0, executors=["ex-" + "0" * 32])),
    ("an executor that was not handed on", PARENTS, _delegation(1, executors=["ex-" + "0" * 32])),
    ("a denied child", PARENTS, _denied_leaf(lambda records: None)),
    ("a denied child of no depth", PARENTS, _denied_leaf(_delegation(1, depth=0))),
    ("a denied child of no children", PARENTS, _denied_leaf(_delegation(1, children=0))),
    ("a denied child of no time", PARENTS, _denied_leaf(lambda records: _asked(records, 2).update(max_runtime_s=0))),
    (
        "a denied child of a time that is text",
        PARENTS,
        _denied_leaf(lambda records: _asked(records, 2).update(max_runtime_s="long")),
    ),
    (
        "a denied child of much time",
        PARENTS,
        _denied_leaf(lambda records: _asked(records, 2).update(max_runtime_s=604800)),
    ),
    (
        "a denied child of any time",
        PARENTS,
        _denied_leaf(lambda records: _asked(records, 2).update(max_runtime_s=None)),
    ),
    ("a denied child that hands on more", PARENTS, _denied_leaf(_delegation(2, depth=1, children=1))),
    ("a denied child of another run", PARENTS, _denied_leaf(_another_run(2, run="another"))),
    ("a denied child of another step", PARENTS, _denied_leaf(_another_run(2, step="other"))),
    ("a denied child on another executor", PARENTS, _denied_leaf(_delegation(1, executors=["ex-" + "0" * 32]))),
    ("a child that is older than its parent", PARENTS, _denied_leaf(_younger_parent)),
    ("a circle", PARENTS, _itself),
]
