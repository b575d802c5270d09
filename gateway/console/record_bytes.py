"""A record of the lineage with the bytes behind it, for people: what was hashed, and each piece of evidence it names.

Bytes are shown as they are stored, and beside them what our own decoders read in them. Nothing here verifies anything, and
whatever can't be decoded is shown as bytes alone, with the reason.
"""

import base64
import binascii
import json
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tpm.errors import TpmError
from tpm.signature import parse_signature
from ztrooted import merkle
from ztrooted.inspect import inspect_attest, inspect_event_log, inspect_ima
from ztrooted.inspect.plain import printable
from ztrooted.records import Record, parse_record

SHOWN_BYTES = 1024  # of each piece, in hexadecimal; its size is told
SHOWN_LINES = 40
MAX_TEXT = 160
ROW = 16

Facts = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Piece:
    """One piece: what it is, what is read in it as facts and lines of text, and its bytes as rows of a dump."""

    title: str
    digest: str
    size: int
    facts: Facts
    lines: tuple[str, ...]
    dump: tuple[str, ...]
    problem: str = ""

    @property
    def cut(self) -> int:
        """How many bytes are not in the dump."""
        return max(0, self.size - SHOWN_BYTES)


@dataclass(frozen=True, slots=True)
class RecordBytes:
    """A record, and the pieces it names."""

    seq: int
    record: Record
    leaf: str
    pieces: tuple[Piece, ...]


def find(connection: sqlite3.Connection, seq: int) -> RecordBytes | None:
    """Record ``seq`` with everything it names, or None where there is no such record."""
    row = connection.execute("SELECT bytes FROM records WHERE seq = ?", (seq,)).fetchone()
    if row is None:
        return None
    data = bytes(row[0])
    record = parse_record(data)
    text = json.dumps(json.loads(data), indent=2, ensure_ascii=True)
    own = Piece("The record", "", len(data), (), tuple(text.splitlines()), dump(data))
    pieces = [
        own,
        *(_piece(title, name, *_read(connection, name, title)) for title, name in _named(connection, record)),
    ]
    return RecordBytes(seq, record, merkle.leaf_hash(data).hex(), tuple(pieces))


def dump(data: bytes) -> tuple[str, ...]:
    """Rows of offset, sixteen bytes in hexadecimal, and those that are printable ASCII."""
    rows = []
    for at in range(0, min(len(data), SHOWN_BYTES), ROW):
        row = data[at : at + ROW]
        text = "".join(chr(byte) if 0x20 <= byte < 0x7F else "·" for byte in row)
        rows.append(f"{at:04x}  {row[:8].hex(' '):<23}  {row[8:].hex(' '):<23}  {text}")
    return tuple(rows)


def _named(connection: sqlite3.Connection, record: Record) -> Iterator[tuple[str, str]]:
    """Title and digest of each piece: the evidence of a round, the artifact of an authorization."""
    for manifest in _manifests(record.body):
        yield "Quote (TPMS_ATTEST)", str(manifest["attest"])
        yield "Its signature (TPMT_SIGNATURE)", str(manifest["signature"])
        yield "Measurement list (IMA)", str(manifest["ima"]["entries"])
        yield "Boot log (TCG)", str(manifest["event_log"])
    claims = record.body.get("claims")
    if record.authorization is not None and isinstance(claims, dict):
        number = claims.get("ren", {}).get("n", 0)
        query = "SELECT digest FROM artifacts WHERE authorization = ? AND n = ?"
        for (digest,) in connection.execute(query, (record.authorization, number)):
            yield "Artifact (JWT)", str(digest)


def _manifests(body: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    for holder in (body, body.get("round"), body.get("evidence")):
        if isinstance(holder, dict) and isinstance(holder.get("manifest"), dict):
            yield holder["manifest"]


def _read(connection: sqlite3.Connection, digest: str, title: str) -> tuple[bytes | None, "_Decoded"]:
    row = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
    if row is None:
        return None, _Decoded((), (), "it is not stored")
    data = bytes(row[0])
    try:
        return data, _DECODERS[title](data)
    except (TpmError, ValueError) as error:
        return data, _Decoded((), (), f"not decoded: {printable(str(error))}")


@dataclass(frozen=True, slots=True)
class _Decoded:
    facts: Facts
    lines: tuple[str, ...]
    problem: str = ""


def _piece(title: str, digest: str, data: bytes | None, decoded: _Decoded) -> Piece:
    data = data or b""
    return Piece(title, digest, len(data), decoded.facts, decoded.lines, dump(data), decoded.problem)


def _attest(data: bytes) -> _Decoded:
    report = inspect_attest(data)
    clock, attested = report["clock"], report["attested"]
    facts = [
        ("type", report["type"]),
        ("extraData: purpose, nonce and binding, hashed", report["extra_data"]),
        ("signer's qualified Name", report["qualified_signer"]),
        ("clock", f"{clock['clock']} ms, {clock['reset_count']} resets, {clock['restart_count']} restarts"),
        ("clock is safe", "yes" if clock["safe"] else "no"),
        ("firmware version", report["firmware_version"]),
    ]
    selection = attested.get("selection", {})
    facts += [(f"PCRs of {bank}", ", ".join(map(str, pcrs))) for bank, pcrs in selection.items()]
    if "pcr_digest" in attested:
        facts.append(("digest over those PCRs", attested["pcr_digest"]))
    return _Decoded(tuple((name, _short(value)) for name, value in facts), ())


def _signature(data: bytes) -> _Decoded:
    return _Decoded((("scheme", parse_signature(data).scheme_name),), ())


def _event_log(data: bytes) -> _Decoded:
    report = inspect_event_log(data)
    events = report["events"]
    lines = [f"{one['number']:>3}  PCR {one['pcr'] & 0xFF:<3} {one['type']}" for one in events[:SHOWN_LINES]]
    if len(events) > SHOWN_LINES:
        lines.append(f"… and {len(events) - SHOWN_LINES} more")
    secure = {True: "on", False: "off"}.get(report["secure_boot"], "not told")
    return _Decoded((("events", str(len(events))), ("Secure Boot", secure)), tuple(lines))


def _ima(data: bytes) -> _Decoded:
    if not data:
        return _Decoded((("entries", "none that are new since the last quote"),), ())
    entries = inspect_ima(data, form="ascii").report["entries"]
    lines = [f"{_short(one['digest'], 24)}  {_short(one['path'])}" for one in entries[-SHOWN_LINES:]]
    return _Decoded((("entries", str(len(entries))),), tuple(lines))


def _artifact(data: bytes) -> _Decoded:
    parts = data.decode("ascii").strip().split(".")
    lines: list[str] = []
    for part in parts[:2]:
        try:
            said = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
        except binascii.Error as error:
            raise ValueError("this is no base64url") from error
        lines += json.dumps(said, indent=2, ensure_ascii=True).splitlines()
    return _Decoded((("signature (ES256, r and s)", _short(parts[-1])),), tuple(lines))


_DECODERS: Mapping[str, Callable[[bytes], _Decoded]] = {
    "Quote (TPMS_ATTEST)": _attest,
    "Its signature (TPMT_SIGNATURE)": _signature,
    "Measurement list (IMA)": _ima,
    "Boot log (TCG)": _event_log,
    "Artifact (JWT)": _artifact,
}


def _short(value: object, most: int = MAX_TEXT) -> str:
    text = printable(str(value))
    return text if len(text) <= most else f"{text[: most - 1]}…"
