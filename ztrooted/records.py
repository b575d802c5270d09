"""Lineage records: what they contain and how their bytes are made.

A record is canonical JSON and one leaf of the tree. Its bytes are made once, stored, hashed and never re-serialised::

    {"v": 1, "type": "authorization.issued", "at": 1780000000000, "authorization": "…" or null,
     "prev": {"index": 41, "leaf": "<hex>"} or null, "body": {…}}

``prev`` names the previous record of the same authorization, so that a story can't be shown with a page torn out. No
proof rests on that chain alone: each record also has its own inclusion proof.
"""

from dataclasses import dataclass
from typing import Any, cast

from ztrooted import canonical, limits
from ztrooted.errors import GateError, ProofError
from ztrooted.reasons import GateReason

VERSION = 1
_MEMBERS = frozenset({"v", "type", "at", "authorization", "prev", "body"})

# Everything that can happen, by name. A record of any other type is refused on reading and can't be written.
TYPES = frozenset(
    {
        "attestation.failed",
        "attestation.overdue",
        "attestation.passed",
        "authorization.activated",
        "authorization.delegated",
        "authorization.denied",
        "authorization.issued",
        "authorization.renewed",
        "authorization.revoked",
        "baseline.approved",
        "dispatch.requested",
        "execution.closed",
        "execution.interrupted",
        "execution.started",
        "executor.enrolled",
        "executor.labelled",
        "executor.refused",
        "executor.retired",
        "executor.superseded",
        "executor.trust_changed",
        "gateway.keys_exported",
        "gateway.keys_restored",
        "gateway.keys_sealed",
        "gateway.recovered",
        "gateway.resealed",
        "gateway.started",
        "gateway.stopped",
        "key.introduced",
        "operator.local_access",
        "operator.quarantined",
        "operator.released",
        "operator.revoked",
        "operator.token_created",
        "operator.token_revoked",
        "policy.activated",
        "policy.evaluated",
        "webhook.failing",
        "webhook.recovered",
    }
)


@dataclass(frozen=True, slots=True)
class Link:
    """Names an earlier record: its index in the lineage and its leaf hash (32 bytes)."""

    index: int
    leaf: bytes


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of the lineage. ``at`` is milliseconds since the epoch; ``body`` depends on the type."""

    type: str
    at: int
    body: dict[str, Any]
    authorization: str | None = None
    prev: Link | None = None

    def encode(self) -> bytes:
        """The canonical bytes that are stored and hashed. GateError when they would be too large."""
        if self.type not in TYPES:
            raise GateError(GateReason.LINEAGE_RECORD_MALFORMED, f"there is no record type {self.type!r}")
        prev = None if self.prev is None else {"index": self.prev.index, "leaf": self.prev.leaf.hex()}
        around = {"v": VERSION, "type": self.type, "at": self.at, "authorization": self.authorization, "prev": prev}
        if isinstance(self.body, canonical.Encoded):
            data = _with_body(canonical.encode(around), self.body.data)
        else:
            data = canonical.encode(around | {"body": self.body})
        if len(data) > limits.RECORD:
            raise GateError(
                GateReason.LINEAGE_RECORD_MALFORMED, f"a record of {len(data)} bytes is over {limits.RECORD}"
            )
        return data


def _with_body(around: bytes, body: bytes) -> bytes:
    """Put ``body`` where its name belongs: members are sorted, and "prev" is the next one.

    It is the first of that name: what stands before it are a number and an id, and in an id a quote would be escaped.
    """
    at = around.index(b'"prev":')
    return around[:at] + b'"body":' + body + b"," + around[at:]


def parse_record(data: bytes) -> Record:
    """Read a record strictly: ProofError for anything else than what ``encode`` writes.

    ``canonical.malformed`` where the bytes are not canonical JSON, ``lineage.record_malformed`` where they are no record.
    """

    def refuse(detail: str) -> ProofError:
        return ProofError(GateReason.LINEAGE_RECORD_MALFORMED, detail)

    if len(data) > limits.RECORD:
        raise refuse(f"a record of {len(data)} bytes is over {limits.RECORD}")
    value = canonical.decode(data)
    if not isinstance(value, dict) or value.keys() != _MEMBERS:
        raise refuse("a record has exactly the members v, type, at, authorization, prev and body")
    if value["v"] != VERSION or isinstance(value["v"], bool):
        raise refuse(f"record version {value['v']!r} is not {VERSION}")
    if not isinstance(value["type"], str) or value["type"] not in TYPES:
        raise refuse(f"there is no record type {value['type']!r}")
    if type(value["at"]) is not int or value["at"] < 0:
        raise refuse("'at' is not a time in milliseconds")
    if not (value["authorization"] is None or isinstance(value["authorization"], str)):
        raise refuse("'authorization' is neither an id nor null")
    if not isinstance(value["body"], dict):
        raise refuse("'body' is not an object")
    return Record(
        type=value["type"],
        at=value["at"],
        body=cast("dict[str, Any]", value["body"]),
        authorization=value["authorization"],
        prev=_parse_link(value["prev"], refuse),
    )


def _parse_link(value: object, refuse: Any) -> Link | None:
    if value is None:
        return None
    if not isinstance(value, dict) or set(value) != {"index", "leaf"} or type(value["index"]) is not int:
        raise refuse("'prev' does not name an index and a leaf")
    try:
        leaf = bytes.fromhex(value["leaf"])
    except (TypeError, ValueError):
        raise refuse("the leaf of 'prev' is not hexadecimal") from None
    # fromhex() also reads upper case and spaces; only one form of a record may exist.
    if leaf.hex() != value["leaf"] or len(leaf) != 32 or value["index"] < 0:
        raise refuse("'prev' does not name an index and a leaf")
    return Link(value["index"], leaf)
