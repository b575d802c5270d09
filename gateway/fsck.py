"""Looks at everything in a stopped gateway's database, and says what is wrong. It changes nothing.

1. ``file``: every page of the database, as SQLite sees it.
2. ``records``: numbered without a gap, each with its leaf hash; the columns beside the bytes say what the bytes say.
3. ``chains``: each record of an authorization names the one before it, and moves it as the lifecycle table says.
4. ``tiles``: each complete tile follows from the records, and there are no others.
5. ``checkpoints``: each is ours, signed and sealed, over the records before it; what known witnesses signed verifies.
6. ``anchors``: each is certified by the TPM, counted one by one, over the records before it.
7. ``evidence``: what a record names by digest is there, and every blob has the digest it is filed under.
8. ``states``: what is stored of authorizations, artifacts and quarantines is what the records lead to.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from gateway import orders
from gateway.app import DATABASE
from gateway.config import GatewayConfig
from gateway.signer import Identity
from gateway.storage import authorizations
from gateway.storage.lineage import TILE_HEIGHT, TILE_WIDTH
from tpm.attestation_key import accept_attestation_key
from tpm.counter import verify_counter
from tpm.errors import EvidenceError
from tpm.public import parse_public
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint, seal_nonce, verify_checkpoint
from ztrooted.errors import EnvironmentProblem, ProofError
from ztrooted.evidence import sha256
from ztrooted.lifecycle import RECORD_EVENTS, TRANSITIONS, State
from ztrooted.models import Job
from ztrooted.note_keys import ecdsa_key
from ztrooted.reasons import GateReason, Reason
from ztrooted.records import Record, parse_record

PROGRESS_EVERY = 4096  # records
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something that is wrong. ``where`` names the row."""

    where: str
    reason: Reason
    detail: str

    def encode(self) -> dict[str, str]:
        """For scripts."""
        return {"where": self.where, "reason": str(self.reason), "detail": self.detail}


def fsck(config: GatewayConfig, progress: Progress = lambda _done, _of: None) -> tuple[int, Iterator[Finding]]:
    """The number of records, and what is wrong, as it is found. EnvironmentProblem when there is no database to look at."""
    path = config.data / DATABASE
    identity = Identity.load(config.data)
    if not path.is_file():
        raise EnvironmentProblem(
            GateReason.DATABASE_UNAVAILABLE, f"there is no database {path}", "name a gateway's data folder"
        )
    try:
        connection = _connect(path)
        (count,) = connection.execute("SELECT COUNT(*) FROM records").fetchone()
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        raise EnvironmentProblem(
            GateReason.DATABASE_CORRUPT, f"{path} can't be read: {error}", "restore a backup, and keep this file"
        ) from error
    return int(count), _guarded(_Fsck(config, identity, connection, int(count), progress), connection)


def _connect(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA query_only = ON")
    return connection


def _guarded(fsck: "_Fsck", connection: sqlite3.Connection) -> Iterator[Finding]:
    """What is damaged so that SQLite can't read it is a finding, too; the rest can't be looked at then."""
    with closing(connection):
        try:
            yield from fsck.findings()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            yield Finding("file", GateReason.DATABASE_CORRUPT, f"SQLite can't read on: {error}")


class _Fsck:
    def __init__(
        self, config: GatewayConfig, identity: Identity, connection: sqlite3.Connection, count: int, progress: Progress
    ) -> None:
        self._origin = config.origin
        self._witnesses = [one.key for one in config.witnesses]
        self._identity = identity
        self._connection = connection
        self._count = count
        self._progress = progress
        self._tree = merkle.Tree()
        self._tiles: dict[int, list[bytes]] = {}
        self._complete = 0
        self._last: dict[str, tuple[int, bytes]] = {}
        self._states: dict[str, State | None] = {}
        self._issued: dict[tuple[str, int], str] = {}
        self._asked: dict[str, tuple[str, str, str]] = {}
        self._leases: dict[str, tuple[int, int]] = {}
        # (size, what it is) -> root: compared when the tree has that size.
        self._roots: dict[int, list[tuple[str, bytes]]] = {}
        self._exists = lru_cache(maxsize=1 << 16)(self._blob_exists)

    def findings(self) -> Iterator[Finding]:
        yield from self._file()
        yield from self._checkpoints()
        yield from self._anchors()
        yield from self._records()
        yield from self._blobs()
        yield from self._stored_states()

    # 1.
    def _file(self) -> Iterator[Finding]:
        for (said,) in self._connection.execute("PRAGMA integrity_check(100)"):
            if said != "ok":
                yield Finding("file", GateReason.DATABASE_CORRUPT, " ".join(str(said).split()))

    # 2. to 4., and the digests of 7., in one pass over the records.
    def _records(self) -> Iterator[Finding]:
        query = "SELECT seq, leaf, type, at, authorization, bytes FROM records ORDER BY seq"
        for done, row in enumerate(self._connection.execute(query)):
            if done % PROGRESS_EVERY == 0:
                self._progress(done, self._count)
            yield from self._compare_roots()
            seq, leaf, data = int(row[0]), bytes(row[1]), bytes(row[5])
            where = f"record {seq}"
            if seq != self._tree.size:
                yield Finding(
                    where, GateReason.LINEAGE_CHAIN_BROKEN, f"it stands where record {self._tree.size} belongs"
                )
            if merkle.leaf_hash(data) != leaf:
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, "its bytes are not the ones that were appended")
            yield from self._record(where, seq, leaf, row, data)
            yield from self._follow_tiles(self._tree.append(leaf))
        yield from self._compare_roots()
        self._progress(self._count, self._count)
        (stored,) = self._connection.execute("SELECT COUNT(*) FROM tiles").fetchone()
        if stored != self._complete:
            yield Finding(
                "tiles", GateReason.LINEAGE_CHAIN_BROKEN, f"{stored} are stored, the records complete {self._complete}"
            )
        for size, expected in self._roots.items():
            for what, _ in expected:
                yield Finding(
                    what, GateReason.LINEAGE_TRUNCATED, f"it covers {size} records, and there are {self._tree.size}"
                )

    def _record(self, where: str, seq: int, leaf: bytes, row: tuple[Any, ...], data: bytes) -> Iterator[Finding]:
        try:
            record = parse_record(data)
            named = list(_named(record.type, record.body))
            self._note(record)
        except ProofError as error:
            yield Finding(where, error.reason, error.detail)
            return
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            yield Finding(where, GateReason.LINEAGE_RECORD_MALFORMED, f"it does not contain what it should: {error!r}")
            return
        if (record.type, record.at, record.authorization) != row[2:5]:
            yield Finding(
                where, GateReason.LINEAGE_CHAIN_BROKEN, "it is filed under another type, time or authorization"
            )
        if record.authorization is not None:
            yield from self._step(where, seq, leaf, record.authorization, record.type, record.prev)
        for digest in named:
            if not self._exists(digest):
                yield Finding(
                    where, GateReason.BUNDLE_INCOMPLETE, f"the bytes of {digest}, which it names, are missing"
                )

    def _note(self, record: Record) -> None:
        """Keep what the stored states are compared with."""
        name, body = record.authorization, record.body
        if name is not None and record.type in {"authorization.issued", "authorization.renewed"}:
            claims = body["claims"]
            self._issued[name, int(claims["ren"]["n"])] = record.type
            self._leases[name] = claims["exp"] * 1000, claims["ren"]["n"]
        if name is not None and record.type == "dispatch.requested":
            self._asked[name] = body["executor"], body["orchestrator"], body["job_digest"]

    # 3.
    def _step(self, where: str, seq: int, leaf: bytes, authorization: str, kind: str, prev: Any) -> Iterator[Finding]:
        expected = self._last.get(authorization)
        if (None if prev is None else (prev.index, prev.leaf)) != expected:
            yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, f"the record before it of {authorization} is another")
        self._last[authorization] = seq, leaf
        event, state = RECORD_EVENTS.get(kind), self._states.get(authorization)
        if kind == "dispatch.requested":
            if expected is not None:
                yield Finding(where, GateReason.LIFECYCLE_TRANSITION, f"{authorization} begins a second time")
            self._states[authorization] = State.REQUESTED
        elif event is not None:
            following = None if state is None else TRANSITIONS.get((state, event))
            if following is None:
                yield Finding(where, GateReason.LIFECYCLE_TRANSITION, f"no {kind} follows the state {state or 'none'}")
            self._states[authorization] = following or state

    # 4.
    def _follow_tiles(self, nodes: list[merkle.Node]) -> Iterator[Finding]:
        for node in nodes:
            above, inside = divmod(node.level, TILE_HEIGHT)
            if inside:
                continue
            if above:
                hashes = b"".join(self._tiles.pop(above - 1))
                row = self._connection.execute(
                    "SELECT hashes, root FROM tiles WHERE level = ? AND idx = ?", (above - 1, node.index)
                ).fetchone()
                self._complete += 1
                if row is None or (bytes(row[0]), bytes(row[1])) != (hashes, node.hash):
                    yield Finding(
                        f"tile {above - 1}/{node.index}",
                        GateReason.LINEAGE_CHAIN_BROKEN,
                        f"it does not follow from the {TILE_WIDTH} below it",
                    )
            self._tiles.setdefault(above, []).append(node.hash)

    # 5.
    def _checkpoints(self) -> Iterator[Finding]:
        trusted = self._identity.trusts(self._origin)
        for size, root, note in self._connection.execute("SELECT size, root, note FROM checkpoints ORDER BY size"):
            where = f"checkpoint {size}"
            self._roots.setdefault(int(size), []).append((where, bytes(root)))
            if not trusted(bytes(note), int(size), bytes(root)):
                yield Finding(where, GateReason.NOTE_SIGNATURE, "it is not one that our TPM signed and sealed")
        log_key = ecdsa_key(self._origin, self._identity.log_key())
        query = "SELECT n, size, root, cosigned.note FROM cosigned LEFT JOIN checkpoints USING (size) ORDER BY n"
        for number, size, root, note in self._connection.execute(query):
            where = f"cosigned checkpoint {number}"
            if root is None or not trusted(bytes(note), int(size), bytes(root)):
                yield Finding(where, GateReason.NOTE_SIGNATURE, "it is not a checkpoint that our TPM signed and sealed")
                continue
            try:  # Witnesses change: who is not in the configuration any more is not looked at.
                verify_checkpoint(bytes(note), origin=self._origin, log_key=log_key, witnesses=self._witnesses)
            except ProofError as error:
                yield Finding(where, error.reason, error.detail)

    # 6.
    def _anchors(self) -> Iterator[Finding]:
        ak = accept_attestation_key(parse_public(self._identity.ak_public))
        counter, before = self._identity.counter(), 0
        query = "SELECT counter, size, root, attest, signature FROM anchors ORDER BY counter"
        for value, size, root, attest, signature in self._connection.execute(query):
            where = f"anchor {value}"
            self._roots.setdefault(int(size), []).append((where, bytes(root)))
            nonce = seal_nonce(Checkpoint(self._origin, int(size), bytes(root)))
            try:
                said = verify_counter(bytes(attest), bytes(signature), ak, qualifying_data=nonce, counter=counter)
            except EvidenceError as error:
                yield Finding(where, error.reason, error.detail)
                continue
            if said != value:
                yield Finding(where, GateReason.LINEAGE_ROLLED_BACK, f"the TPM says that the counter was {said}")
            if size <= before:
                yield Finding(where, GateReason.LINEAGE_ROLLED_BACK, "it covers no more than the one before it")
            before = int(size)

    def _compare_roots(self) -> Iterator[Finding]:
        size = self._tree.size
        expected = self._roots.pop(size, None)
        if expected is None:
            return
        root = self._tree.root()
        for what, claimed in expected:
            if claimed != root:
                yield Finding(
                    what, GateReason.LINEAGE_CHAIN_BROKEN, f"the first {size} records are not the ones it covers"
                )

    # 7.
    def _blob_exists(self, digest: str) -> bool:
        return self._connection.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone() is not None

    def _blobs(self) -> Iterator[Finding]:
        for digest, data in self._connection.execute("SELECT digest, bytes FROM blobs"):
            if sha256(bytes(data)) != digest:
                yield Finding(f"blob {digest}", GateReason.BUNDLE_MISMATCH, "its bytes have another digest")

    # 8.
    def _stored_states(self) -> Iterator[Finding]:
        query = (
            "SELECT id, state, last_seq, last_leaf, executor, orchestrator, job_digest, lease_expires, renewals, job"
            " FROM authorizations"
        )
        left = dict(self._states)
        for name, state, last_seq, last_leaf, *columns, job in self._connection.execute(query):
            where, led_to = f"authorization {name}", left.pop(name, None)
            if state != led_to:
                yield Finding(
                    where,
                    GateReason.LINEAGE_CHAIN_BROKEN,
                    f"it is stored as {state}, its records say {led_to or 'nothing'}",
                )
            if (last_seq, None if last_leaf is None else bytes(last_leaf)) != self._last.get(name, (None, None)):
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, "its last record is another one than is stored")
            if tuple(columns) != (*self._asked.get(name, ("", "", "")), *self._leases.get(name, (None, 0))):
                yield Finding(
                    where, GateReason.LINEAGE_CHAIN_BROKEN, "whose it is, or its lease, is not what was recorded"
                )
            if not _names(columns[2], job):
                yield Finding(where, GateReason.JOB_MISMATCH, "the job stored is another one than its digest names")
        for name in left:
            yield Finding(f"authorization {name}", GateReason.LINEAGE_CHAIN_BROKEN, "it has records, and is not stored")
        yield from self._artifacts()
        for check in (authorizations.check, orders.check):
            try:
                check(self._connection)
            except EnvironmentProblem as error:
                yield Finding("states", error.reason, error.detail)

    def _artifacts(self) -> Iterator[Finding]:
        issued = dict(self._issued)
        for name, number, digest in self._connection.execute("SELECT authorization, n, digest FROM artifacts"):
            where = f"artifact {name}/{number}"
            if issued.pop((name, number), None) is None:
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, "no record says that it was issued")
            if not self._exists(digest):
                yield Finding(where, GateReason.BUNDLE_INCOMPLETE, "its bytes are missing")
        for name, number in issued:
            yield Finding(f"artifact {name}/{number}", GateReason.BUNDLE_INCOMPLETE, "it was issued, and is not stored")


def _names(digest: str, job: str) -> bool:
    try:
        return Job.model_validate_json(job).digest() == digest
    except ValueError:
        return False


def _named(kind: str, body: dict[str, Any]) -> Iterator[str]:
    """The digests in a record whose bytes are needed to prove what it says."""
    if kind == "policy.activated":
        yield from (body[role] for role in ("appraisal", "dispatch", "entities"))
    if kind == "baseline.approved":
        yield body["baseline"]
    if kind == "executor.enrolled":
        yield from (body["ek_public"], body["ak_public"], body["session_key"], *body["ek_chain"])
    for part in (body, body.get("round")):
        if isinstance(part, dict) and isinstance(part.get("manifest"), dict):
            manifest = part["manifest"]
            yield from (manifest["attest"], manifest["signature"], manifest["event_log"], manifest["ima"]["entries"])


def summary(count: int, findings: list[Finding]) -> dict[str, Any]:
    """For scripts."""
    return {
        "records": count,
        "sound": not findings,
        "findings": [json.loads(json.dumps(one.encode())) for one in findings],
    }
