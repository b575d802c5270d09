"""Two verifiers and many changed bundles: what Python fails, the other one must not pass.

Without a key little of what comes behind check 5 is ever reached, so most changes are made to what a gateway says and then
signed with all of its keys (``tests.support.forger``). By hand, thousands of them: ZTROOTED_DIFFERENTIAL=3000.
"""

import copy
import json
import random
from collections import Counter
from collections.abc import Callable
from typing import Any

from tests.adversarial.test_bundle import _DELETE, _restate, changed, places
from tests.support.forger import Forger, Value
from tests.vectors.node import failure, first_report, judged, require_no_wrong_pass
from ztrooted import canonical
from ztrooted.errors import GateError

BATCH = 250


def unsigned(bundle: bytes, chosen: random.Random) -> bytes:
    """A bundle that somebody without a key changed: bits, or a member of its JSON."""
    if chosen.random() < 0.4:
        data = bytearray(bundle)
        for _ in range(chosen.choice((1, 1, 2, 5))):
            data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        return bytes(data)
    value = json.loads(bundle)
    _change(value, chosen)
    try:
        return canonical.encode(value)
    except GateError:  # it has no canonical form
        return json.dumps(value).encode()


async def signed(forger: Forger, chosen: random.Random) -> bytes | None:
    """A bundle that its gateway changed; None where nobody could sign that."""
    try:
        for _ in range(chosen.choice((1, 1, 1, 2))):
            _lie(forger, chosen)
        if chosen.random() < 0.5:
            _restate(forger)
        return await forger.forge()
    except (GateError, ValueError, KeyError, TypeError, AttributeError, IndexError):
        return None


def _lie(forger: Forger, chosen: random.Random) -> None:
    record = chosen.choice(forger.records)
    match chosen.randrange(10):
        case 0:
            forger.remove(record)
        case 1:
            forger.insert_after(record, copy.deepcopy(record))
        case 2:
            other = chosen.choice(forger.records)
            forger.remove(record)
            if other is not record:
                forger.insert_before(other, record)
        case 3:
            other = chosen.choice(forger.records)
            record["type"], other["type"] = other["type"], record["type"]
        case 4:
            record["at"] += chosen.choice((-60_000, -1, 1, 1000, 60_000))
        case 5 | 6:
            _evidence(forger, chosen)
        case _:
            _change(record["body"], chosen)


def _evidence(forger: Forger, chosen: random.Random) -> None:
    """Other bytes under the name of some, and what names them told accordingly."""
    digest = chosen.choice(sorted(forger.blobs))
    data = bytearray(forger.blobs[digest])
    if data:
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    new = forger.blob(bytes(data))
    text = json.dumps(forger.records).replace(digest, new)
    forger.records = json.loads(text)
    forger.ima = [new if one == digest else one for one in forger.ima]
    for record in forger.records:
        for body in (record["body"], record["body"].get("round")):
            if isinstance(body, dict) and isinstance(body.get("manifest"), dict) and chosen.random() < 0.9:
                body["evidence"] = canonical.digest(body["manifest"])


def _change(value: Value, chosen: random.Random) -> None:
    found = list(places(value))
    if not found:
        return
    *parents, name = chosen.choice(found)
    for parent in parents:
        value = value[parent]
    replacement = chosen.choice([*changed(value[name]), _DELETE])
    if replacement is _DELETE:
        del value[name]
    else:
        value[name] = replacement


class Comparison:
    """Counts what came of it: how often they found the same, and where they differed without harm."""

    def __init__(self, anchors: bytes) -> None:
        self.anchors = anchors
        self.tried = 0
        self.outcomes: Counter[str] = Counter()
        self.failed: Counter[str] = Counter()
        self.stricter: list[tuple[str, str]] = []

    def compare(self, bundles: list[bytes]) -> None:
        for start in range(0, len(bundles), BATCH):
            batch = bundles[start : start + BATCH]
            for bundle, second in zip(batch, judged((one, self.anchors) for one in batch), strict=True):
                self._one(bundle, second)

    def _one(self, bundle: bytes, second: dict[str, Any]) -> None:
        report = first_report(bundle, self.anchors)
        assert report is not None
        first = report.encode()
        require_no_wrong_pass(first, second, repr(bundle[:200]))
        found, other = failure(first), failure(second)
        self.tried += 1
        self.failed[found[0] or "none"] += 1
        if found == other:
            self.outcomes["same"] += 1
        elif found[0] == other[0]:
            self.outcomes["same check, other reason"] += 1
        elif other[0] is None:
            self.outcomes["left to Python"] += 1
        elif found[0] is None:
            self.outcomes["stricter"] += 1
            detail = next(one["detail"] for one in second["checks"] if one["status"] == "fail")
            self.stricter.append((str(other[0]), detail))
        else:
            self.outcomes["another check"] += 1


async def mutants(
    genuine: bytes, forgers: list[Callable[[], Forger]], count: int, chosen: random.Random
) -> list[bytes]:
    """``count`` changed bundles: a third without keys, the others with all of them."""
    made: list[bytes] = []
    while len(made) < count:
        if chosen.random() < 1 / 3:
            made.append(unsigned(genuine, chosen))
        elif (bundle := await signed(chosen.choice(forgers)(), chosen)) is not None:
            made.append(bundle)
    return made
