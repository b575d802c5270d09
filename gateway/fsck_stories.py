"""The stories of authorizations: each record follows the one before it, artifacts say what was recorded and are signed
by keys that the log key introduced, and what is stored is what the records lead to.
"""

import json
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gateway import orders
from gateway.config import GatewayConfig
from gateway.findings import Finding
from gateway.identity import Identity
from gateway.storage import authorizations, retirements
from ztrooted import artifact, jose, merkle
from ztrooted.artifact import ArtifactClaims
from ztrooted.delegation import Delegation
from ztrooted.errors import ArtifactError, GateError
from ztrooted.issuer import verify_introduction
from ztrooted.jose import IssuerKey
from ztrooted.lifecycle import RECORD_EVENTS, TRANSITIONS, State
from ztrooted.models import Job
from ztrooted.reasons import GateReason
from ztrooted.records import Record

_COMPARED = (
    "executor",
    "orchestrator",
    "job_digest",
    "requested_at",
    "parent",
    "delegation",
    "enrollment",
    "max_runtime_s",
    "place",
    "depth",
    "activated_at",
    "lease_expires",
    "renewals",
    "artifact",
    "tier",
    "reason",
)
NO_DELEGATION = Delegation().model_dump()


@dataclass(slots=True)
class _Story:
    """What the records of one authorization lead to; the columns of its row have the same names."""

    last: tuple[int, bytes]
    state: State | None = None
    executor: str = ""
    orchestrator: str = ""
    job_digest: str = ""
    requested_at: int = 0
    parent: str | None = None
    delegation: Any = None
    enrollment: int | None = None
    max_runtime_s: int | None = None  # None: a child's, before it is granted
    place: int | None = None
    depth: int = 0
    activated_at: int | None = None
    lease_expires: int | None = None
    renewals: int = 0
    artifact: str | None = None
    tier: int | None = None
    reason: str | None = None


class Stories:
    """Follows them all at once, record by record."""

    def __init__(self, connection: sqlite3.Connection, config: GatewayConfig, identity: Identity) -> None:
        self._connection = connection
        self._config = config
        self._log_key = identity.log_key()
        self._stories: dict[str, _Story] = {}
        self._places: dict[str, tuple[str, int]] = {}
        self._keys: dict[str, IssuerKey] = {}
        self._issued: set[tuple[str, int]] = set()

    def introduced(self, record: Record) -> None:
        """Take a record ``key.introduced``. ProofError where the log key did not introduce it."""
        said = record.body
        known = verify_introduction(
            said["statement"].encode(), bytes.fromhex(said["signature"]), self._log_key, self._config.origin
        )
        self._keys[known.kid] = IssuerKey(known.key, known.not_before, known.expires)

    def take(self, where: str, seq: int, leaf: bytes, record: Record, tree: merkle.Tree) -> Iterator[Finding]:
        """Take a record of an authorization. ``tree`` is the lineage up to it."""
        name = record.authorization or ""
        story = self._stories.get(name)
        before = None if story is None else story.last
        if (None if record.prev is None else (record.prev.index, record.prev.leaf)) != before:
            yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, f"the record before it of {name} is another")
        if story is None:
            story = self._stories[name] = _Story((seq, leaf))
        story.last = seq, leaf
        yield from self._step(where, name, story, record, begun=before is not None)
        yield from self._note(where, seq, name, story, record, tree)

    @staticmethod
    def _step(where: str, name: str, story: _Story, record: Record, *, begun: bool) -> Iterator[Finding]:
        event, state = RECORD_EVENTS.get(record.type), story.state
        if record.type == "dispatch.requested":
            if begun:
                yield Finding(where, GateReason.LIFECYCLE_TRANSITION, f"{name} begins a second time")
            story.state = State.REQUESTED
        elif event is not None:
            following = None if state is None else TRANSITIONS.get((state, event))
            if following is None:
                detail = f"no {record.type} follows the state {state or 'none'}"
                yield Finding(where, GateReason.LIFECYCLE_TRANSITION, detail)
            story.state = following or state

    def _note(
        self, where: str, seq: int, name: str, story: _Story, record: Record, tree: merkle.Tree
    ) -> Iterator[Finding]:
        """Keep what the row is compared with."""
        body = record.body
        match record.type:
            case "dispatch.requested":
                story.executor, story.orchestrator = body["executor"], body["orchestrator"]
                story.job_digest, story.requested_at = body["job_digest"], record.at
                story.parent, story.delegation = body.get("parent"), body.get("delegation", NO_DELEGATION)
                story.max_runtime_s = body["max_runtime_s"]
            case "policy.evaluated":
                story.enrollment = body["round"]["enrollment"]
            case "authorization.delegated":
                self._places[body["child"]] = name, body["place"]
            case "authorization.activated":
                story.activated_at = record.at
            case "authorization.denied" | "authorization.revoked":
                story.reason = body["reason"]
            case "authorization.issued" | "authorization.renewed":
                yield from self._grant(where, seq, name, story, record, tree)

    # --- artifacts ---------------------------------------------------------------------------------------------------
    def _grant(
        self, where: str, seq: int, name: str, story: _Story, record: Record, tree: merkle.Tree
    ) -> Iterator[Finding]:
        """The artifact of a record that issued one."""
        claims = record.body["claims"]
        number, before = int(claims["ren"]["n"]), story.artifact
        self._issued.add((name, number))
        story.lease_expires, story.renewals = claims["exp"] * 1000, number
        story.max_runtime_s, story.tier = claims["lim"]["max_runtime_s"], int(claims["tier"][1:])
        query = (
            "SELECT artifacts.digest, bytes FROM artifacts LEFT JOIN blobs ON blobs.digest = artifacts.digest"
            " WHERE authorization = ? AND n = ?"
        )
        digest, data = self._connection.execute(query, (name, number)).fetchone() or (None, None)
        story.artifact = digest
        what = f"artifact {name}/{number}"
        if data is None:
            yield Finding(what, GateReason.BUNDLE_INCOMPLETE, f"{where} issued it, and its bytes are missing")
            return
        try:
            said = self._verified(bytes(data), record)
        except (ArtifactError, UnicodeDecodeError) as error:
            reason = error.reason if isinstance(error, ArtifactError) else GateReason.JWS_MALFORMED
            yield Finding(what, reason, str(error))
            return
        place = {"origin": self._config.origin, "index": seq, "size": seq + 1, "root": tree.root().hex()}
        if said.pop("lin") != place:
            yield Finding(what, GateReason.BUNDLE_MISMATCH, f"it names another place in the lineage than {where}")
        if said != claims:
            yield Finding(what, GateReason.BUNDLE_MISMATCH, f"it says something else than {where}")
        if said["ren"].get("prev") != before:
            yield Finding(what, GateReason.JWS_RENEWAL, "the artifact that it renews is another one than is stored")

    def _verified(self, data: bytes, record: Record) -> dict[str, Any]:
        parsed = jose.parse(data.decode("ascii"), typ=artifact.TYP)
        if parsed.kid != record.body["kid"]:
            raise ArtifactError(GateReason.JWS_KID, "it is signed by another key than its record says")
        found: ArtifactClaims = artifact.verify_parsed(
            parsed,
            keys=self._keys,
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=record.at // 1000,
        )
        return found.model_dump(exclude_none=True)

    # --- what is stored ----------------------------------------------------------------------------------------------
    def end(self) -> Iterator[Finding]:
        """There are no more records."""
        for child, (parent, place) in self._places.items():
            if child in self._stories and parent in self._stories:  # a parent's depth is known before its child's
                self._stories[child].place, self._stories[child].depth = place, self._stories[parent].depth + 1
        left = dict(self._stories)
        columns = ", ".join(_COMPARED)
        query = f"SELECT id, state, last_seq, last_leaf, job, {columns} FROM authorizations"  # noqa: S608 -- constants
        for name, state, seq, leaf, job, *stored in self._connection.execute(query):
            where = f"authorization {name}"
            story = left.pop(name, None)
            if story is None:
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, f"it is stored as {state}, and has no records")
                continue
            if state != story.state:
                detail = f"it is stored as {state}, its records say {story.state or 'nothing'}"
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, detail)
            if (seq, None if leaf is None else bytes(leaf)) != story.last:
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, "its last record is another one than is stored")
            differing = _differing(dict(zip(_COMPARED, stored, strict=True)), story)
            if differing:
                detail = f"what is stored of it is not what was recorded: {', '.join(differing)}"
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, detail)
            if not _names(story.job_digest, job):
                yield Finding(where, GateReason.JOB_MISMATCH, "the job stored is another one than its digest names")
        for name in left:
            yield Finding(f"authorization {name}", GateReason.LINEAGE_CHAIN_BROKEN, "it has records, and is not stored")
        yield from self._unissued()
        for check in (authorizations.check, orders.check, retirements.check):
            try:
                check(self._connection)
            except GateError as error:
                yield Finding("states", error.reason, error.detail)
            except (KeyError, TypeError, ValueError) as error:  # of a record that does not contain what it should
                yield Finding("states", GateReason.LINEAGE_RECORD_MALFORMED, f"they can't be derived: {error!r}")

    def _unissued(self) -> Iterator[Finding]:
        for name, number in self._connection.execute("SELECT authorization, n FROM artifacts"):
            if (name, number) not in self._issued:
                where = f"artifact {name}/{number}"
                yield Finding(where, GateReason.LINEAGE_CHAIN_BROKEN, "no record says that it was issued")


def _differing(stored: dict[str, Any], story: _Story) -> list[str]:
    try:
        stored["delegation"] = json.loads(stored["delegation"])
    except ValueError:
        stored["delegation"] = None
    if story.lease_expires is None:  # what a child may run is decided, and recorded, with its artifact
        stored["max_runtime_s"] = story.max_runtime_s
    return [name for name in _COMPARED if stored[name] != getattr(story, name)]


def _names(digest: str, job: str) -> bool:
    try:
        return Job.model_validate_json(job).digest() == digest
    except ValueError:
        return False
