"""A bundle: one file that proves one authorization from intent to end.

Strict JSON. It contains everything that is needed to judge again and nothing that has to be believed: records with their
inclusion proofs, one sealed checkpoint, and the bytes that the records name by digest. What to trust comes from elsewhere
(``ztrooted.anchors``)::

    {"format": "ztrooted-bundle/1", "authorization": id, "origin": name, "checkpoint": note,
     "records": [{"index": n, "record": text, "proof": [hex, …]}, …],
     "artifacts": [hex, …], "ima": [hex, …], "blobs": {hex: base64, …}}

``artifacts`` lists the artifacts in the order of their chain; ``ima`` the blobs that make up the executor's measurement
list, as far as trusted rounds had followed it. The file may be packed (gzip); what is digested and signed is the JSON.
"""

import zlib
from binascii import a2b_base64, b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic_core import from_json, to_json

from ztrooted import limits, strict_json
from ztrooted.errors import ProofError
from ztrooted.evidence import sha256
from ztrooted.merkle import leaf_hash
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

FORMAT = "ztrooted-bundle/1"
_MEMBERS = {"format", "authorization", "origin", "checkpoint", "records", "artifacts", "ima", "blobs"}
_ENTRY = ["index", "proof", "record"]
_LISTS = ("records", "artifacts", "ima")
_OTHERWISE = "the file is not as a bundle is written"
# RFC 1952: deflate, no flags, no time, best compression, unknown system. No other header, so no second way to say the same.
_GZIP = bytes.fromhex("1f8b08000000000002ff")
_TRAILER = 8  # CRC-32 and length modulo 2^32, little-endian
MAX_RECORDS = 100_000  # three for each proof: four days at one proof every ten seconds


@dataclass(frozen=True)
class ProvenRecord:
    """A record's stored bytes with its place and the hashes that lead from it to the checkpoint's root."""

    index: int
    data: bytes
    proof: tuple[bytes, ...]

    @cached_property
    def leaf(self) -> bytes:
        """Its hash as a leaf of the tree."""
        return leaf_hash(self.data)

    @cached_property
    def record(self) -> Record:
        """The record itself."""
        return parse_record(self.data)


@dataclass(frozen=True)
class Bundle:
    """A parsed bundle. Nothing in it has been verified, except that each blob has the digest it is filed under."""

    authorization: str
    origin: str
    checkpoint: bytes
    records: tuple[ProvenRecord, ...]
    artifacts: tuple[str, ...]
    ima: tuple[str, ...]
    blobs: Mapping[str, bytes]

    @cached_property
    def _names(self) -> dict[int, str]:
        return {id(data): digest for digest, data in self.blobs.items()}

    def name(self, data: bytes) -> str:
        """The digest of ``data``; looked up where it is one of the blobs themselves, whose digests were computed once."""
        return self._names.get(id(data)) or sha256(data)

    def blob(self, digest: str) -> bytes:
        """The bytes named ``digest``. ProofError ``bundle.incomplete`` when they are not here."""
        if digest not in self.blobs:
            raise ProofError(GateReason.BUNDLE_INCOMPLETE, f"the bytes of {digest} are not in the bundle")
        return self.blobs[digest]

    def encode(self) -> bytes:
        """The file's bytes, canonical JSON; equal bundles give equal bytes. ValueError for what is no text."""
        value = {  # in the order of canonical JSON, so that it can be written as it stands
            "artifacts": self.artifacts,
            "authorization": self.authorization,
            "blobs": {digest: b2a_base64(self.blobs[digest], newline=False).decode() for digest in sorted(self.blobs)},
            "checkpoint": self.checkpoint.decode(),
            "format": FORMAT,
            "ima": self.ima,
            "origin": self.origin,
            "records": [
                {"index": one.index, "proof": [part.hex() for part in one.proof], "record": one.data.decode()}
                for one in self.records
            ],
        }
        return to_json(value)


def pack(data: bytes) -> bytes:
    """The bundle ``data`` (canonical JSON) as a gzip file, about a sixth of it; the same bytes for the same bundle."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    sums = zlib.crc32(data).to_bytes(4, "little") + (len(data) & 0xFFFFFFFF).to_bytes(4, "little")
    return _GZIP + deflate.compress(data) + deflate.flush() + sums


def unpack(data: bytes) -> bytes:
    """The canonical JSON of a bundle, packed or not. ProofError ``bundle.malformed`` or ``bundle.too_large``.

    Never makes more than the maximum of a bundle out of it. One member, with our own header and nothing behind it.
    """
    if data[:2] != _GZIP[:2]:
        return data
    if data[: len(_GZIP)] != _GZIP:
        raise _refuse("it is compressed, and not as a bundle is: decompress it with gunzip")
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        found = inflate.decompress(data[len(_GZIP) :], limits.BUNDLE + 1)
    except zlib.error as error:
        raise _refuse(f"its compression is damaged: {error}") from error
    if len(found) > limits.BUNDLE:
        raise ProofError(GateReason.BUNDLE_TOO_LARGE, f"it is over {limits.BUNDLE} bytes without its compression")
    sums = zlib.crc32(found).to_bytes(4, "little") + len(found).to_bytes(4, "little")
    if not inflate.eof or inflate.unused_data != sums:
        raise _refuse("its compression is damaged: it does not end as it should")
    return found


def parse_bundle(data: bytes) -> Bundle:
    """Read a bundle, packed or not.

    ProofError ``bundle.malformed``, ``bundle.too_large`` or ``bundle.mismatch`` (a blob's digest).
    """
    if len(data) > limits.BUNDLE:
        raise ProofError(GateReason.BUNDLE_TOO_LARGE, f"a bundle of over {limits.BUNDLE} bytes")
    data = unpack(data)
    try:
        # A quick reader will do: what it might read leniently is not written again as it stands.
        value = from_json(data)
    except ValueError:
        value = strict_json.parse(data, _refuse, maximum=limits.BUNDLE)
    if not isinstance(value, dict) or set(value) != _MEMBERS or value["format"] != FORMAT:
        raise _refuse(f"this is not a bundle of format {FORMAT}")
    try:
        # One bundle has one encoding: canonical JSON, and within it one way to write each list, hexadecimal and base64.
        bundle = _from_value(value)
        same = to_json(value) == data
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _refuse(str(error)) from error
    if not same:
        raise _refuse(_OTHERWISE)
    return bundle


def _from_value(value: dict[str, Any]) -> Bundle:
    """The bundle in ``value``, whose members have to be in order and written as ``encode`` writes them."""
    if list(value) != sorted(_MEMBERS) or any(type(value[name]) is not list for name in _LISTS):
        raise ValueError(_OTHERWISE)
    if len(value["records"]) > MAX_RECORDS:
        raise ProofError(GateReason.BUNDLE_TOO_LARGE, f"{len(value['records'])} records are over {MAX_RECORDS}")
    records, nodes = [], _Nodes()
    for one in value["records"]:
        if list(one) != _ENTRY or type(one["index"]) is not int or type(one["proof"]) is not list:
            raise ValueError("an entry of 'records' has exactly index, proof and record, in this order")
        if not 0 <= one["index"] <= strict_json.MAX_INTEGER:
            raise ValueError(f"{one['index']} is no index of a record")
        records.append(
            ProvenRecord(one["index"], one["record"].encode(), tuple([nodes[text] for text in one["proof"]]))
        )
    if [one.index for one in records] != sorted({one.index for one in records}):
        raise ValueError("'records' are not in ascending order without repetition")
    blobs: dict[str, bytes] = {}
    if list(value["blobs"]) != sorted(value["blobs"]):
        raise ValueError(_OTHERWISE)
    for digest, text in value["blobs"].items():
        blobs[digest] = data = a2b_base64(text)
        if b2a_base64(data, newline=False).decode() != text:
            raise ValueError(_OTHERWISE)
        if sha256(data) != digest:
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


class _Nodes(dict[str, bytes]):
    """Hashes by their hexadecimal form, each read once: the ways of neighbours to the root are mostly the same."""

    def __missing__(self, text: str) -> bytes:
        self[text] = found = bytes.fromhex(text)
        if found.hex() != text:  # it reads capital letters and spaces, too
            raise ValueError(_OTHERWISE)
        return found


def _refuse(detail: str) -> ProofError:
    return ProofError(GateReason.BUNDLE_MALFORMED, detail)
