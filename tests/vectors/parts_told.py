"""What can be told otherwise in the records of a bundle, for ``tests.vectors.parts_story``."""

import copy
from collections.abc import Callable, Iterator
from typing import Any

from ztrooted import canonical

Made = Iterator[tuple[str, str, dict[str, Any]]]
Records = list[dict[str, Any]]
Change = Callable[[Records], Any]


def of(records: Records, kind: str, at: int = 0, authorization: str | None = None) -> dict[str, Any]:
    found = [one for one in records if one["type"] == kind and authorization in (None, one["authorization"])]
    return found[at]


def told(kind: str, at: int = 0, **changes: Any) -> Change:
    """Something else in the body of a record."""
    return lambda records: of(records, kind, at)["body"].update(changes)


def job(**changes: Any) -> Change:
    """Another job, which has its digest; None takes a member away."""

    def change(records: Records) -> None:
        body = of(records, "dispatch.requested")["body"]
        body["job"] = {name: value for name, value in (body["job"] | changes).items() if value is not None}
        body["job_digest"] = canonical.digest(body["job"])

    return change


def round_told(kind: str, at: int = 0, **changes: Any) -> Change:
    """Something else in a round."""

    def change(records: Records) -> None:
        body = of(records, kind, at)["body"]
        body.get("round", body).update(changes)

    return change


def manifest(change: Callable[[dict[str, Any]], Any], kind: str = "attestation.passed", at: int = -1) -> Change:
    """Another manifest, and the evidence named accordingly."""

    def lie(records: Records) -> None:
        body = of(records, kind, at)["body"]
        body = body.get("round", body)
        change(body["manifest"])
        body["evidence"] = canonical.digest(body["manifest"])

    return lie


def at_time(kind: str, at: int, by: int) -> Change:
    """A record of another time, and its round too."""

    def change(records: Records) -> None:
        one = of(records, kind, at)
        one["at"] += by
        body = one["body"].get("round", one["body"])
        if "now" in body:
            body["now"] += by

    return change


def allof(*changes: Change) -> Change:
    return lambda records: [change(records) for change in changes]


def enrolled_twice(records: Records) -> None:
    place = next(number for number, one in enumerate(records) if one["type"] == "executor.enrolled")
    records.append(copy.deepcopy(records[place]))
    records.insert(place + 1, records.pop())
    for one in records:
        body = one["body"].get("round", one["body"])
        if isinstance(body.get("enrollment"), int):
            body["enrollment"] = place
    passed = of(records, "attestation.passed", -1)["body"]
    passed["enrollment"] = place + 1


def verdict(kind: str, at: int, **changes: Any) -> Change:
    def change(records: Records) -> None:
        body = of(records, kind, at)["body"]
        body.get("round", body)["verdict"].update(changes)

    return change


def first_check(**changes: Any) -> Change:
    return lambda records: of(records, "attestation.passed", -1)["body"]["verdict"]["checks"][0].update(changes)
