"""Parts of both verifiers on their own, by ``data/parts.json``; see docs/bundle-format.md."""

from collections import Counter
from functools import cache
from typing import Any

import pytest

from tests.vectors import make_parts
from tests.vectors.parts import DATA, PARTS, expand, first, second, written_parts


@cache
def cases() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The cases as they are written, and with their inputs complete."""
    value = written_parts()
    return value["cases"], [expand(case, value["blobs"]) for case in value["cases"]]


def test_the_parts_are_many_and_small() -> None:
    written, _ = cases()
    assert written_parts()["format"] == "ztrooted-vector-parts/1"
    assert len({(case["part"], case["name"]) for case in written}) == len(written) > 700
    assert {case["part"] for case in written} == set(PARTS)
    assert sum((DATA / name).stat().st_size for name in ("index.json", "parts.json")) < 2 << 20


def test_of_each_part_something_is_accepted_and_something_refused() -> None:
    written, _ = cases()
    accepted = Counter(case["part"] for case in written if case["reason"] is None)
    refused = Counter(case["part"] for case in written if case["reason"] is not None)
    assert set(accepted) == set(refused) == set(PARTS)


def test_python_finds_what_is_written() -> None:
    written, complete = cases()
    for case, given in zip(written, complete, strict=True):
        assert first(given) == case["reason"], (case["part"], case["name"])


def test_the_second_verifier_finds_the_same() -> None:
    """With the same reason, each time: what is no part of it has no case."""
    written, complete = cases()
    found = second(complete)
    differing = [
        (case["part"], case["name"], case["reason"], reason)
        for case, reason in zip(written, found, strict=True)
        if case["reason"] != reason
    ]
    assert not differing


@pytest.mark.timeout(120)
def test_cases_made_anew_are_the_same_for_both() -> None:
    """Other keys, other signatures, the same cases and verdicts."""
    value = make_parts.made()
    written, _ = cases()
    told = [(case["part"], case["name"], case["reason"]) for case in value["cases"]]
    assert told == [(case["part"], case["name"], case["reason"]) for case in written]
    assert second([expand(case, value["blobs"]) for case in value["cases"]]) == [reason for *_, reason in told]
