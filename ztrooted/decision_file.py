"""A decision file: one recorded decision with every byte that deciding it again needs.

Canonical JSON. Unlike a bundle it proves nothing about the lineage: it is for understanding a decision, and for checking
that it follows from its inputs::

    {"format": "ztrooted-decision/1", "index": n, "record": text, "asked": text or null, "enrolled": text or null,
     "approved": text or null, "activated": text or null, "outcome": text or null, "blobs": {hex: base64, …}}

``record`` holds the round of proof (and, where policy was asked, its decision); ``asked`` the dispatch it was for;
``enrolled``, ``approved`` and ``activated`` what it rests on; ``outcome`` the denial or revocation that it led to. A
dispatch that was denied before anybody was asked has no ``record`` but its ``outcome``.
"""

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from ztrooted import canonical, limits
from ztrooted.errors import ProofError
from ztrooted.evidence import sha256
from ztrooted.policies import Policies
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record
from ztrooted.redecide import Again, Recorded, decide_again, differences
from ztrooted.reference import Reference

FORMAT = "ztrooted-decision/1"
_TEXTS = ("record", "asked", "enrolled", "approved", "activated", "outcome")
_ROUNDS = frozenset(
    {
        "policy.evaluated",
        "attestation.passed",
        "attestation.failed",
        "attestation.overdue",
        "executor.enrolled",
        "executor.trust_changed",
    }
)


@dataclass(frozen=True, slots=True)
class DecisionFile:
    """A parsed file. Each blob has the digest it is filed under; nothing else has been checked."""

    index: int
    record: Record | None
    asked: Record | None
    enrolled: Record | None
    approved: Record | None
    activated: Record | None
    outcome: Record | None
    blobs: Mapping[str, bytes]

    def encode(self) -> bytes:
        """The file's bytes; equal files give equal bytes."""
        texts = {name: getattr(self, name) for name in _TEXTS}
        return canonical.encode(
            {
                "format": FORMAT,
                "index": self.index,
                **{name: None if record is None else record.encode().decode() for name, record in texts.items()},
                "blobs": {digest: base64.b64encode(data).decode() for digest, data in self.blobs.items()},
            }
        )

    def blob(self, digest: str) -> bytes:
        """The bytes named ``digest``. ProofError ``bundle.incomplete`` when they are not here."""
        if digest not in self.blobs:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"the bytes of {digest} are not in the file")
        return self.blobs[digest]

    @property
    def body(self) -> dict[str, Any] | None:
        """The recorded round, or None where there was none."""
        if self.record is None:
            return None
        found: dict[str, Any] = self.record.body.get("round", self.record.body)
        return found if "verdict" in found and found["verdict"] is not None and "purpose" in found else None

    def recorded(self) -> Recorded:
        """The decision in the form that ``ztrooted.redecide`` takes. ProofError where the file has none."""
        body = self.body
        if self.record is None or body is None or self.enrolled is None:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, "nobody was asked for proof here, so nothing was decided on")
        return Recorded(
            index=self.index,
            round=body,
            request=self.record.body.get("request"),
            decision=self.record.body.get("decision"),
            enrolled=self.enrolled.body,
            asked=None if self.asked is None else self.asked.body,
        )

    def policies(self) -> Policies:
        """The policies the decision was made under."""
        record, body = self.record, self.body
        if record is None or body is None or self.activated is None:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, "the file does not say which policies were in force")
        digests = {
            "appraisal": body["appraisal_policy"],
            "dispatch": record.body.get("dispatch_policy", self.activated.body["dispatch"]),
            "entities": record.body.get("entities", self.activated.body["entities"]),
        }
        return Policies.load({role: self.blob(digest) for role, digest in digests.items()})

    def reference(self) -> Reference | None:
        """The baseline the decision rests on, with the end of its approval."""
        body = self.body
        if body is None or body["baseline"] is None:
            return None
        if self.approved is None or self.approved.body["baseline"] != body["baseline"]:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, "the file does not say who approved the baseline")
        return Reference.load(self.blob(body["baseline"]), self.approved.body["expires"])


@contextmanager
def told_by(index: int) -> Iterator[None]:
    """Whatever can't be made of a record's body in here is a ProofError ``lineage.record_malformed``."""
    try:
        yield
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, OSError) as error:
        detail = f"record {index} does not contain what it should: {type(error).__name__}: {error}"
        raise ProofError(GateReason.LINEAGE_RECORD_MALFORMED, detail) from error


def redecide(file: DecisionFile) -> tuple[Again, tuple[str, ...]]:
    """The decision made again, and which of its parts come out otherwise than recorded: none, if it is what it says."""
    with told_by(file.index):
        recorded, reference = file.recorded(), file.reference()
        again = decide_again(recorded, file.policies(), lambda _class: reference, file.blob)
        return again, differences(recorded, again)


def parse_decision_file(data: bytes) -> DecisionFile:
    """Read a file. ProofError ``bundle.malformed`` for anything else than what ``encode`` writes."""
    value = canonical.decode(data, maximum=limits.BUNDLE)
    if not isinstance(value, dict) or set(value) != {"format", "index", "blobs", *_TEXTS} or value["format"] != FORMAT:
        raise _refuse(f"this is not a decision of format {FORMAT}")
    try:
        blobs = {digest: base64.b64decode(text, validate=True) for digest, text in value["blobs"].items()}
        records = {name: None if value[name] is None else parse_record(value[name].encode()) for name in _TEXTS}
    except (AttributeError, TypeError, ValueError, binascii.Error) as error:
        raise _refuse(str(error)) from error
    if type(value["index"]) is not int or value["index"] < 0:
        raise _refuse("'index' is not the number of a record")
    if wrong := [digest for digest, blob in blobs.items() if sha256(blob) != digest]:
        raise _refuse(f"the bytes filed under {wrong[0]} have another digest")
    record = records["record"]
    if record is not None and record.type not in _ROUNDS:
        raise _refuse(f"a record of type {record.type} is no decision")
    file = DecisionFile(index=value["index"], blobs=blobs, **records)
    if file.encode() != data:
        raise _refuse("the file is not as a decision is written")
    return file


def _refuse(detail: str) -> ProofError:
    return ProofError(GateReason.BUNDLE_MALFORMED, detail)
