"""A bundle: one file that proves one authorization from intent to end.

Strict JSON. It contains everything that is needed to judge again and nothing that has to be believed: records with their
inclusion proofs, one sealed checkpoint, and the bytes that the records name by digest. What to trust comes from elsewhere
(``ztrooted.anchors``)::

    {"format": "ztrooted-bundle/1", "authorization": id, "origin": name, "checkpoint": note,
     "records": [{"index": n, "record": text, "proof": [hex, …]}, …],
     "artifacts": [hex, …], "ima": [hex, …], "blobs": {hex: base64, …}}

``artifacts`` lists the artifacts in the order of their chain; ``ima`` the blobs that make up the executor's measurement
list, as far as trusted rounds had followed it.
"""

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ztrooted import canonical, limits, strict_json
from ztrooted.errors import ProofError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

FORMAT = "ztrooted-bundle/1"
_MEMBERS = {"format", "authorization", "origin", "checkpoint", "records", "artifacts", "ima", "blobs"}
MAX_RECORDS = 100_000  # three for each proof: four days at one proof every ten seconds


@dataclass(frozen=True)
class ProvenRecord:
    """A record's stored bytes with its place and the hashes that lead from it to the checkpoint's root."""

    index: int
    data: bytes
    proof: tuple[bytes, ...]

    @cached_property
    def record(self) -> Record:
        """The record itself."""
        return parse_record(self.data)


@dataclass(frozen=True, slots=True)
class Bundle:
    """A parsed bundle. Nothing in it has been verified, except that each blob has the digest it is filed under."""

    authorization: str
    origin: str
    checkpoint: bytes
    records: tuple[ProvenRecord, ...]
    artifacts: tuple[str, ...]
    ima: tuple[str, ...]
    blobs: Mapping[str, bytes]

    def blob(self, digest: str) -> bytes:
        """The bytes named ``digest``. ProofError ``bundle.incomplete`` when they are not here."""
        if digest not in self.blobs:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"the bytes of {digest} are not in the bundle")
        return self.blobs[digest]

    def encode(self) -> bytes:
        """The file's bytes; equal bundles give equal bytes."""
        return canonical.encode(
            {
                "format": FORMAT,
                "authorization": self.authorization,
                "origin": self.origin,
                "checkpoint": self.checkpoint.decode(),
                "records": [
                    {"index": one.index, "record": one.data.decode(), "proof": [part.hex() for part in one.proof]}
                    for one in self.records
                ],
                "artifacts": list(self.artifacts),
                "ima": list(self.ima),
                "blobs": {digest: base64.b64encode(data).decode() for digest, data in self.blobs.items()},
            }
        )


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle. ProofError ``bundle.malformed``, ``bundle.too_large`` or ``bundle.mismatch`` (a blob's digest)."""
    if len(data) > limits.BUNDLE:
        raise ProofError(GateReason.BUNDLE_TOO_LARGE, f"a bundle of over {limits.BUNDLE} bytes")
    value = strict_json.parse(data, _refuse, maximum=limits.BUNDLE)
    if not isinstance(value, dict) or set(value) != _MEMBERS or value["format"] != FORMAT:
        raise _refuse(f"this is not a bundle of format {FORMAT}")
    try:
        bundle = _from_value(value)
    except (KeyError, TypeError, ValueError, AttributeError, binascii.Error) as error:
        raise _refuse(str(error)) from error
    # One bundle has one encoding: canonical JSON, and within it one way to write each list, hexadecimal and base64.
    if bundle.encode() != data:
        raise _refuse("the file is not as a bundle is written")
    return bundle


def _from_value(value: dict[str, Any]) -> Bundle:
    if len(value["records"]) > MAX_RECORDS:
        raise ProofError(GateReason.BUNDLE_TOO_LARGE, f"{len(value['records'])} records are over {MAX_RECORDS}")
    records = []
    for one in value["records"]:
        if set(one) != {"index", "record", "proof"} or type(one["index"]) is not int or one["index"] < 0:
            raise ValueError("an entry of 'records' has exactly index, record and proof")
        records.append(ProvenRecord(one["index"], one["record"].encode(), tuple(map(bytes.fromhex, one["proof"]))))
    if [one.index for one in records] != sorted({one.index for one in records}):
        raise ValueError("'records' are not in ascending order without repetition")
    blobs = {}
    for digest, text in value["blobs"].items():
        blobs[digest] = base64.b64decode(text, validate=True)
        if sha256(blobs[digest]) != digest:
            raise ProofError(GateReason.BUNDLE_MISMATCH, f"the bytes filed under {digest} have another digest")
    texts = (value["authorization"], value["origin"], value["checkpoint"], *value["artifacts"], *value["ima"])
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("'authorization', 'origin', 'checkpoint', 'artifacts' and 'ima' hold text")
    return Bundle(
        authorization=value["authorization"],
        origin=value["origin"],
        checkpoint=value["checkpoint"].encode(),
        records=tuple(records),
        artifacts=tuple(value["artifacts"]),
        ima=tuple(value["ima"]),
        blobs=blobs,
    )


def _refuse(detail: str) -> ProofError:
    return ProofError(GateReason.BUNDLE_MALFORMED, detail)
