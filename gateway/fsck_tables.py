"""What is kept beside the lineage and acted upon: tokens, labels, baselines, approvals, executors' keys.

No leaf hash covers a row of these. Each is what a record says, so whatever was written beside the records shows.
"""

import json
import sqlite3
from collections.abc import Iterator
from typing import Any

from gateway.findings import Finding
from ztrooted.errors import GateError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.reference import parse_baseline

_BASELINE = ("pcrs", "events", "files", "captured_from", "captured_at")
_EXECUTOR = ("enrollment", "virtual", "manufacturer", "ak_public", "session_key", "event_log")


class Tables:
    """Takes the records that say something of these tables, and compares in the end."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._tokens: dict[str, tuple[Any, ...]] = {}
        self._labels: dict[str, dict[str, str]] = {}
        self._approvals: dict[tuple[str, int], tuple[Any, ...]] = {}
        self._executors: dict[str, tuple[Any, ...]] = {}

    def take(self, seq: int, record: Record) -> None:
        """Take one record. KeyError, TypeError and so on for one that does not contain what it should."""
        body = record.body
        match record.type:
            case "operator.token_created":
                self._tokens[body["hash"]] = body["role"], body["name"], record.at, body["expires"]
            case "operator.token_revoked":
                del self._tokens[body["hash"]]
            case "executor.labelled":
                self._labels[body["executor"]] = body["labels"]
            case "baseline.approved":
                row = body["baseline"], body["operator"], record.at, body["expires"]
                self._approvals[body["class"], body["version"]] = row
            case "executor.enrolled":
                keys = body["ak_public"], body["session_key"], body["round"]["manifest"]["event_log"]
                self._executors[body["executor"]] = seq, int(body["virtual"]), body["manufacturer"], *keys

    def end(self) -> Iterator[Finding]:
        """There are no more records."""
        yield from self._compare_tokens()
        yield from self._compare_labels()
        yield from self._compare_approvals()
        yield from self._compare_baselines()
        yield from self._compare_executors()

    def _compare_tokens(self) -> Iterator[Finding]:
        left = dict(self._tokens)
        for hashed, *row in self._connection.execute("SELECT hash, role, name, created_at, expires FROM tokens"):
            if left.pop(hashed, None) != tuple(row):
                detail = "no record says that it was created for this role and name, with this end, or it was revoked"
                yield _broken(f"token of {row[0]} {row[1]}", detail)
        for role, name, *_ in left.values():
            yield _broken(f"token of {role} {name}", "it was created, and is not stored as it was")

    def _compare_labels(self) -> Iterator[Finding]:
        left = dict(self._labels)
        for executor, labels in self._connection.execute("SELECT executor, labels FROM labels"):
            said = left.pop(executor, None)
            if said is None or _json(labels) != said:
                detail = f"it is labelled {labels:.200}, its last record says {'nothing' if said is None else said}"
                yield _broken(f"labels of {executor}", detail)
        for executor in left:
            yield _broken(f"labels of {executor}", "they were given, and are not stored")

    def _compare_approvals(self) -> Iterator[Finding]:
        left = dict(self._approvals)
        proposed = set(self._connection.execute("SELECT digest, class FROM baselines"))
        query = "SELECT class, version, digest, operator, at, expires FROM approvals"
        for name, version, *row in self._connection.execute(query):
            where = f"approval {version} of class {name}"
            if left.pop((name, version), None) != tuple(row):
                yield _broken(where, "no record says that this baseline was approved so")
            if (row[0], name) not in proposed:
                yield _broken(where, f"the baseline {row[0]} was never proposed for this class")
        for name, version in left:
            yield _broken(f"approval {version} of class {name}", "it was recorded, and is not stored")

    def _compare_baselines(self) -> Iterator[Finding]:
        query = f"SELECT b.digest, class, bytes, {', '.join(_BASELINE)} FROM baselines b LEFT JOIN blobs USING (digest)"  # noqa: S608 -- constants
        for digest, name, data, *stored in self._connection.execute(query):
            where = f"baseline {digest} of class {name}"
            if data is None:
                yield Finding(where, GateReason.BUNDLE_INCOMPLETE, "its bytes are missing")
                continue
            try:
                said = parse_baseline(bytes(data))
            except GateError as error:
                yield Finding(where, error.reason, error.detail)
                continue
            events = 0 if said.boot is None else len(said.boot.events)
            row = len(said.pcrs), events, len(said.ima), said.captured_from, said.captured_at
            differing = [column for column, one, other in zip(_BASELINE, stored, row, strict=True) if one != other]
            if differing:
                yield _broken(where, f"what is shown of it is not what its bytes say: {', '.join(differing)}")

    def _compare_executors(self) -> Iterator[Finding]:
        left = dict(self._executors)
        query = f"SELECT id, {', '.join(_EXECUTOR)} FROM executors"  # noqa: S608 -- constants
        for name, *row in self._connection.execute(query):
            where, said = f"executor {name}", left.pop(name, None)
            if said is None:
                yield _broken(where, "no record says that it was enrolled")
                continue
            stored = [sha256(bytes(value)) if isinstance(value, bytes) else value for value in row]
            differing = [column for column, one, other in zip(_EXECUTOR, stored, said, strict=True) if one != other]
            if differing:
                yield _broken(where, f"it is not what was enrolled in record {said[0]}: {', '.join(differing)}")
        for name in left:
            yield _broken(f"executor {name}", "it was enrolled, and is not stored")


def _json(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return None


def _broken(where: str, detail: str) -> Finding:
    return Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, detail)
