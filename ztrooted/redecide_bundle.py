"""Every recorded decision in a file, made again: what ``ztrooted audit redecide`` does.

A bundle's own verification does this too, and proves besides that the records are the gateway's; this is the comparison
alone, for one decision file or a whole bundle.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ztrooted import decision_file
from ztrooted.bundle import Bundle, parse_bundle, unpack
from ztrooted.decision_file import DecisionFile, parse_decision_file, redecide, told_by
from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason
from ztrooted.records import Record


@dataclass(frozen=True, slots=True)
class Redecided:
    """One decision: whether it was a yes now, and which of its parts came out otherwise than recorded."""

    index: int
    permitted: bool
    differing: tuple[str, ...]

    def encode(self) -> dict[str, Any]:
        """For ``--json``."""
        return {"record": self.index, "permitted": self.permitted, "differing": list(self.differing)}


def redecide_file(data: bytes) -> list[Redecided]:
    """Make every decision of a decision file or a bundle again. ProofError where the file is neither, or lacks bytes."""
    data = unpack(data)
    files = [parse_decision_file(data)] if _is_decision(data) else list(_decisions(parse_bundle(data)))
    results = []
    for file in files:
        again, differing = redecide(file)
        results.append(Redecided(file.index, again.permitted, differing))
    return results


def _is_decision(data: bytes) -> bool:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and value.get("format") == decision_file.FORMAT


def _decisions(bundle: Bundle) -> list[DecisionFile]:
    """The rounds of a bundle's own story that somebody answered, each as a decision file."""
    records = {one.index: one.record for one in bundle.records}
    own = [one for one in bundle.records if one.record.authorization == bundle.authorization]
    found = []
    for one in own:
        with told_by(one.index):
            body = one.record.body.get("round", one.record.body)
            if body.get("manifest") is None:
                continue
            rests_on = {"baseline": body["baseline"], "class": body["class"]}
            found.append(
                DecisionFile(
                    index=one.index,
                    record=one.record,
                    asked=own[0].record,
                    enrolled=_at(records, body["enrollment"]),
                    approved=_last(records, one.index, "baseline.approved", **rests_on),
                    activated=_last(records, one.index, "policy.activated", appraisal=body["appraisal_policy"]),
                    outcome=None,
                    blobs=bundle.blobs,
                )
            )
    if not found:
        raise ProofError(GateReason.BUNDLE_INCOMPLETE, "nobody was asked for proof here, so nothing was decided on")
    return found


def _at(records: Mapping[int, Record], index: int) -> Record:
    if index not in records:
        raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"record {index} is not in the bundle")
    return records[index]


def _last(records: Mapping[int, Record], before: int, kind: str, **wanted: object) -> Record | None:
    """The last record of a type before another one whose body says ``wanted``."""
    matching = [
        record
        for index, record in sorted(records.items())
        if index < before
        and record.type == kind
        and all(record.body.get(name) == value for name, value in wanted.items())
    ]
    return matching[-1] if matching else None
