"""Which policies are in force, and how that changes: at once, for everybody, on the record.

Three documents are activated together. The transaction that records it also decides every live authorization again under
them; whoever is not permitted any more is revoked there. Appraisal bites next: every connected executor is challenged at
once. A decision that was under way meanwhile is not recorded (``require_in_force``).

The documents in the data folder are what counts at the next start, so an activation writes them there too. Between its
commit and the last file stands a row in ``pending_policy``; a start that finds one writes the files first.
"""

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

import structlog

from gateway.config import GatewayConfig, policy_paths, read_policies
from gateway.delegations import ask_again
from gateway.rounds import Round, Rounds
from gateway.storage import authorizations, executors
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.lifecycle import State
from ztrooted.policies import Policies
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Activation:
    """When and by whom what is in force was activated. ``operator`` is None for the files that a start found."""

    digests: dict[str, str]
    operator: str | None
    at: int


class PolicyStore:
    """The policies in force. ``current`` changes only after the change is durable."""

    def __init__(self, config: GatewayConfig, database: Database) -> None:
        self._paths = policy_paths(config)
        self._database = database
        self._pending = _finish_pending(database.reading, self._paths)
        self.current = read_policies(config)
        # What a transaction sees: set inside of the activation's own, in the writer's thread.
        self._recorded = self.current.digests()

    def require_in_force(self, policies: Policies, done: Round) -> None:
        """GateError ``policy.changed`` unless what a good round leads to rests on what is in force as its transaction runs.

        A round that is not trusted counts under any policy: it only takes away.
        """
        stale = policies.digests() != self._recorded or done.policy_digest != self._recorded["appraisal"]
        if done.trusted and stale:
            raise GateError(GateReason.POLICY_CHANGED, "the policies changed while this was being decided; ask again")

    def last_activation(self) -> Activation | None:
        """The last activation on the record."""
        row = self._database.reading.execute(
            "SELECT bytes FROM records WHERE authorization IS NULL AND type = 'policy.activated' ORDER BY seq DESC LIMIT 1"
        ).fetchone()
        return None if row is None else _activation(bytes(row[0]))

    async def start(self, now_ms: int, rounds: Rounds) -> list[Authorization]:
        """Activate what the files say, and settle the pending row. What was revoked for it is returned."""
        last = self.last_activation()
        changed = last is not None and last.digests != self.current.digests()

        def commit(tx: Transaction) -> list[Authorization]:
            tx.execute("DELETE FROM pending_policy")
            return self._activate(tx, self.current, None, now_ms, rounds, changed=changed)

        return await self._database.write(commit)

    async def activate(
        self, policies: Policies, operator: str, now_ms: int, rounds: Rounds, *, allow_rollback: bool
    ) -> list[Authorization]:
        """Put ``policies`` in force. GateError ``policy.rollback`` for ones that were in force before, unless allowed."""
        digests = policies.digests()

        def commit(tx: Transaction) -> list[Authorization]:
            if digests != self._recorded and not allow_rollback:
                _refuse_rollback(tx.connection, digests)
            changed = digests != self._recorded
            tx.execute("DELETE FROM pending_policy")
            tx.execute(
                "INSERT INTO pending_policy(appraisal, dispatch, entities) VALUES (?, ?, ?)", tuple(digests.values())
            )
            revoked = self._activate(tx, policies, operator, now_ms, rounds, changed=changed)
            self._recorded = digests
            return revoked

        before = self._recorded
        try:
            revoked = await self._database.write(commit)
        except GateError:
            self._recorded = before  # the group of transactions may have been undone as a whole
            raise
        self.current = policies
        try:
            _write_files(self._paths, policies.documents())
        except OSError as error:  # it is in force and on record; the row stays, and the next start writes the files
            log.error("the policies are in force, and their files can't be written", detail=str(error))
            return revoked
        await self._database.write(lambda tx: tx.execute("DELETE FROM pending_policy") and None)
        return revoked

    def _activate(
        self,
        tx: Transaction,
        policies: Policies,
        operator: str | None,
        now_ms: int,
        rounds: Rounds,
        *,
        changed: bool,
    ) -> list[Authorization]:
        for data in policies.documents().values():
            tx.blob(data)
        tx.append(Record("policy.activated", now_ms, {**policies.digests(), "operator": operator}))
        if not changed:
            return []
        executors.forget_every_file_check(tx)
        return redecide(tx, policies, now_ms, rounds)


def redecide(tx: Transaction, policies: Policies, now_ms: int, rounds: Rounds) -> list[Authorization]:
    """Ask ``policies`` about every live authorization, on its executor's last verdict; revoke what is not permitted.

    Parents come first: with them go their children.
    """
    revoked: list[Authorization] = []
    for found in sorted(authorizations.unfinished(tx.connection), key=lambda one: one.depth):
        authorization = authorizations.get(tx.connection, found.id)
        if not authorization.live or authorization.state is State.REQUESTED:
            continue
        try:
            done = rounds.last(tx.connection, authorization.executor, policies.appraisal, now_ms)
            asked = ask_again(tx.connection, authorization, done, policies)
        except GateError as error:
            revoked += authorizations.revoke(tx, authorization, now_ms, error.reason, error.detail)
            continue
        if not asked.decision.permitted:
            by = ", ".join(asked.decision.determining) or "no permit matches"
            detail = f"the policy that was activated does not permit it ({by})"
            reason = asked.decision.reason or GateReason.POLICY_DENIED
            revoked += authorizations.revoke(tx, authorization, now_ms, reason, detail)
    return revoked


def _activation(data: bytes) -> Activation:
    record = parse_record(data)
    digests = {role: record.body[role] for role in ("appraisal", "dispatch", "entities")}
    return Activation(digests, record.body["operator"], record.at)


def _refuse_rollback(connection: sqlite3.Connection, digests: dict[str, str]) -> None:
    rows = connection.execute(
        "SELECT bytes FROM records WHERE authorization IS NULL AND type = 'policy.activated' ORDER BY seq"
    )
    if any(_activation(bytes(data)).digests == digests for (data,) in rows.fetchall()):
        raise GateError(
            GateReason.POLICY_ROLLBACK, "these policies were in force before and were replaced; say so if that is meant"
        )


def _finish_pending(connection: sqlite3.Connection, paths: dict[str, Path]) -> bool:
    """Write the files of an activation that was interrupted behind its commit."""
    row = connection.execute("SELECT appraisal, dispatch, entities FROM pending_policy").fetchone()
    if row is None:
        return False
    documents = {}
    for role, digest in zip(("appraisal", "dispatch", "entities"), row, strict=True):
        blob = connection.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if blob is None:
            raise GateError(GateReason.DATABASE_CORRUPT, f"the bytes of the activated {role} {digest} are missing")
        documents[role] = bytes(blob[0])
    _write_files(paths, documents)
    return True


def _write_files(paths: dict[str, Path], documents: dict[str, bytes]) -> None:
    """Each whole or not at all, and all of them there when this returns."""
    for role, path in paths.items():
        fresh = path.with_name(f".{path.name}.new")
        with fresh.open("wb") as file:
            file.write(documents[role])
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def check_documents(documents: dict[str, str]) -> Policies:
    """Documents as they came over the network. PolicyError naming document, line and reason."""
    encoded = {role: text.encode() for role, text in documents.items()}
    for role, data in encoded.items():
        if len(data) > limits.POLICY:
            raise GateError(GateReason.REQUEST_TOO_LARGE, f"the {role} document is over {limits.POLICY} bytes")
    return Policies.load(encoded)
