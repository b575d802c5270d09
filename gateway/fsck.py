"""Looks at everything in a gateway's database, running or stopped, and says what is wrong. It changes nothing.

1. ``file``: every page of the database, as SQLite sees it.
2. ``records``: numbered without a gap, each with its leaf hash; the columns beside the bytes say what the bytes say.
3. ``chains``: each record of an authorization names the one before it, and moves it as the lifecycle table says.
4. ``tiles``: each complete tile follows from the records, and there are no others.
5. ``checkpoints``: each is ours, signed and sealed, over the records before it; what known witnesses signed verifies.
6. ``anchors`` and ``intents``: each is certified by the TPM, or signed by the log key, counted one by one, over the
   records before it; each anchor was intended, and each intent became its anchor.
7. ``evidence``: what a record names by digest is there, and every blob has the digest it is filed under.
8. ``artifacts``: each is signed by a key that the log key had introduced, and says what its record says, there.
9. ``states``: what is stored of authorizations, quarantines, tokens, labels, baselines and executors is what the records
   lead to.
"""

import json
import sqlite3
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any

from gateway.app import DATABASE
from gateway.config import GatewayConfig
from gateway.findings import Finding
from gateway.fsck_file import Look
from gateway.fsck_seals import Seals
from gateway.fsck_stories import Stories
from gateway.fsck_tables import Tables
from gateway.identity import Identity
from gateway.plain_key import known_key
from gateway.storage.lineage import TILE_HEIGHT, TILE_WIDTH
from ztrooted import merkle
from ztrooted.errors import EnvironmentProblem, ProofError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

__all__ = ["Finding", "fsck", "summary"]

PROGRESS_EVERY = 4096  # records
Progress = Callable[[int, int], None]
# What is fixed for as long as a lineage has its keys, in the identity that each start records.
_FIXED = ("ak_public", "log_key_public", "log_key_policy", "counter_public", "counter_start")


def fsck(config: GatewayConfig, progress: Progress = lambda _done, _of: None) -> tuple[int, Iterator[Finding]]:
    """The number of records, and what is wrong, as it is found. EnvironmentProblem when there is no database to look at.

    Of a stopped gateway that is started meanwhile the last of it is an EnvironmentProblem ``database.in_use``.
    """
    path = config.data / DATABASE
    identity = Identity.load(config.data)
    if not path.is_file():
        raise EnvironmentProblem(
            GateReason.DATABASE_UNAVAILABLE, f"there is no database {path}", "name a gateway's data folder"
        )
    look = Look(path)
    (count,) = look.connection.execute("SELECT COUNT(*) FROM records").fetchone()
    return int(count), _guarded(_Fsck(config, identity, look.connection, int(count), progress), look)


def _guarded(fsck: "_Fsck", look: Look) -> Iterator[Finding]:
    """What is damaged so that SQLite can't read it is a finding, too; the rest can't be looked at then."""
    try:
        try:
            yield from fsck.findings()
        except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
            yield Finding("file", GateReason.DATABASE_CORRUPT, f"SQLite can't read on: {error}")
        look.require_untouched()
    finally:
        look.close()


class _Fsck:
    def __init__(
        self, config: GatewayConfig, identity: Identity, connection: sqlite3.Connection, count: int, progress: Progress
    ) -> None:
        self._identity = identity.encode()
        self._connection = connection
        self._count = count
        self._progress = progress
        self._tree = merkle.Tree()
        self._pending: dict[int, list[bytes]] = {}
        self._complete = 0
        witnesses = [one.key for one in config.witnesses]
        self._seals = Seals(connection, identity, config.origin, witnesses, known_key(config))
        self._stories = Stories(connection, config, identity)
        self._tables = Tables(connection)
        self._exists = lru_cache(maxsize=1 << 16)(self._blob_exists)

    def findings(self) -> Iterator[Finding]:
        # 1.
        for (said,) in self._connection.execute("PRAGMA integrity_check(100)"):
            if said != "ok":
                yield Finding("file", GateReason.DATABASE_CORRUPT, " ".join(str(said).split()))
        # 5. and 6., as far as they are about no record
        yield from self._seals.findings()
        # 2. to 8.
        yield from self._records()
        yield from self._seals.end(self._tree.size)
        yield from self._blobs()
        # 9.
        yield from self._stories.end()
        yield from self._tables.end()

    # 2. to 8., in one pass over the records.
    def _records(self) -> Iterator[Finding]:
        query = "SELECT seq, leaf, type, at, authorization, bytes FROM records ORDER BY seq"
        yield from self._seals.compare(0, self._tree.root())
        for done, row in enumerate(self._connection.execute(query)):
            if done % PROGRESS_EVERY == 0:
                self._progress(done, self._count)
            seq, leaf, data = int(row[0]), bytes(row[1]), bytes(row[5])
            where = f"record {seq}"
            if seq != self._tree.size:
                yield Finding(
                    where, GateReason.LINEAGE_CHAIN_BROKEN, f"it stands where record {self._tree.size} belongs"
                )
            if merkle.leaf_hash(data) != leaf:
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, "its bytes are not the ones that were appended")
            nodes = self._tree.append(leaf)
            yield from self._record(where, seq, leaf, row, data)
            yield from self._follow_tiles(nodes)
            if self._tree.size in self._seals.awaited:
                yield from self._seals.compare(self._tree.size, self._tree.root())
        self._progress(self._count, self._count)
        (stored,) = self._connection.execute("SELECT COUNT(*) FROM tiles").fetchone()
        if stored != self._complete:
            yield Finding(
                "tiles", GateReason.LINEAGE_CHAIN_BROKEN, f"{stored} are stored, the records complete {self._complete}"
            )

    def _record(self, where: str, seq: int, leaf: bytes, row: tuple[Any, ...], data: bytes) -> Iterator[Finding]:
        try:
            record = parse_record(data)
            named = list(_named(record.type, record.body))
            found = list(self._take(where, seq, leaf, record))
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
        yield from found
        for digest in named:
            if not self._exists(digest):
                yield Finding(
                    where, GateReason.BUNDLE_INCOMPLETE, f"the bytes of {digest}, which it names, are missing"
                )

    def _take(self, where: str, seq: int, leaf: bytes, record: Record) -> Iterator[Finding]:
        if record.authorization is not None:
            yield from self._stories.take(where, seq, leaf, record, self._tree)
            return
        self._tables.take(seq, record)
        match record.type:
            case "key.introduced":
                self._stories.introduced(record)
            case "gateway.recovered":
                self._seals.recovered(record)
            case "gateway.started":
                said = record.body["identity"]
                if any(said[name] != self._identity[name] for name in _FIXED):
                    detail = "it says that the gateway started with other keys than it has"
                    yield Finding(where, GateReason.LINEAGE_KEY, detail)

    # 4.
    def _follow_tiles(self, nodes: list[merkle.Node]) -> Iterator[Finding]:
        for node in nodes:
            above, inside = divmod(node.level, TILE_HEIGHT)
            if inside:
                continue
            if above:
                hashes = b"".join(self._pending.pop(above - 1))
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
            self._pending.setdefault(above, []).append(node.hash)

    # 7.
    def _blob_exists(self, digest: str) -> bool:
        return self._connection.execute("SELECT 1 FROM blobs WHERE digest = ?", (digest,)).fetchone() is not None

    def _blobs(self) -> Iterator[Finding]:
        for digest, data in self._connection.execute("SELECT digest, bytes FROM blobs"):
            if sha256(bytes(data)) != digest:
                yield Finding(f"blob {digest}", GateReason.BUNDLE_MISMATCH, "its bytes have another digest")


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
