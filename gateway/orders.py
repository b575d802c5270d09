"""What operators order about executors, orchestrators and classes: end what runs, refuse what comes, until released.

An order commits in one transaction with every end that it brings. A yes that is under way meanwhile is refused when it
commits: it was proved before the order, and an order is never overwritten (``require_allowed``).
"""

import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import structlog

from gateway.auth import Role
from gateway.pages import Page
from gateway.replies import NOTHING, Keep
from gateway.rounds import Round
from gateway.storage import authorizations, retirements
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.operator_models import OrderView, Quarantined, QuarantineList, Subject
from ztrooted.reasons import GateReason, Reason
from ztrooted.records import Record, parse_record

log = structlog.get_logger()

NO_MORE: Mapping[str, object] = MappingProxyType({})
GATEWAY = "gateway"  # who orders what no person ordered


@dataclass(frozen=True, slots=True)
class Order:
    """Who ordered what, about whom, and why."""

    subject: Subject
    operator: str
    reason: str
    now_ms: int
    code: Reason = GateReason.OPERATOR_REVOKED

    def body(self, ended: int) -> dict[str, object]:
        """For the lineage."""
        return {
            "kind": self.subject.kind,
            "id": self.subject.id,
            "operator": self.operator,
            "reason": self.reason,
            "ended": ended,
        }

    def view(self, ended: list[Authorization]) -> OrderView:
        """For who gave it."""
        return OrderView(subject=self.subject, revoked=[one.id for one in ended])


class Orders:
    """Orders, and whether one stands against a decision."""

    def __init__(self, database: Database) -> None:
        self._database = database
        # Counts orders. It only grows, and in the writer's thread, so a decision knows whether one came after it began.
        self._epoch = 0
        self._last: dict[Subject, int] = {}

    @property
    def epoch(self) -> int:
        """How many orders there were. Whoever decides takes it before anything is proved."""
        return self._epoch

    def require_allowed(self, connection: sqlite3.Connection, began: int, subjects: Iterable[Subject]) -> None:
        """GateError unless nothing stands against a yes on what was begun at epoch ``began``, as its transaction runs.

        ``operator.quarantined`` where one of ``subjects`` is quarantined, ``operator.revoked`` where one was revoked since.
        """
        for subject in subjects:
            self.require_free(connection, subject)
            if self._last.get(subject, 0) > began:
                detail = f"an operator revoked {subject} while this was being decided; ask again"
                raise GateError(GateReason.OPERATOR_REVOKED, detail)

    def require_permitted(
        self, connection: sqlite3.Connection, authorization: Authorization, done: Round, began: int
    ) -> None:
        """The same for what a good round is to lead to. A round that is not trusted only takes away."""
        if done.trusted:
            self.require_allowed(connection, began, subjects_of(authorization, done.executor.executor_class))

    @staticmethod
    def require_free(connection: sqlite3.Connection, subject: Subject) -> None:
        """GateError ``operator.quarantined`` for a subject in quarantine, ``enroll.retired`` for a retired executor."""
        if subject.kind == "executor":
            retirements.require_in_service(connection, subject.id)
        row = connection.execute(
            "SELECT operator, reason FROM quarantines WHERE kind = ? AND id = ?", (subject.kind, subject.id)
        ).fetchone()
        if row is not None:
            raise GateError(GateReason.OPERATOR_QUARANTINED, f"{subject} was put into quarantine by {row[0]}: {row[1]}")

    async def revoke(self, order: Order, keep: Keep = NOTHING) -> list[Authorization]:
        """End everything live of a subject; what ended, descendants included."""

        def commit(tx: Transaction) -> list[Authorization]:
            ended = self.end(tx, order, "operator.revoked")
            keep.answer(tx, 200, order.view(ended))
            return ended

        return await self._database.write(commit)

    async def quarantine(self, order: Order, keep: Keep = NOTHING) -> list[Authorization]:
        """The same, and refuse what comes."""

        def commit(tx: Transaction) -> list[Authorization]:
            ended = self._quarantine(tx, order)
            keep.answer(tx, 200, order.view(ended))
            return ended

        return await self._database.write(commit)

    async def halt(self, order: Order) -> list[Authorization]:
        """A quarantine that the gateway puts itself; none of its own where the subject is in quarantine already."""

        def commit(tx: Transaction) -> list[Authorization]:
            try:
                self.require_free(tx.connection, order.subject)
            except GateError:
                return []
            return self._quarantine(tx, order)

        return await self._database.write(commit)

    def _quarantine(self, tx: Transaction, order: Order) -> list[Authorization]:
        tx.execute(
            "INSERT OR REPLACE INTO quarantines(kind, id, operator, reason, at) VALUES (?, ?, ?, ?, ?)",
            (order.subject.kind, order.subject.id, order.operator, order.reason, order.now_ms),
        )
        return self.end(tx, order, "operator.quarantined")

    async def release(self, order: Order, keep: Keep = NOTHING) -> None:
        """Let a subject prove itself again. Nothing that ended comes back. GateError ``operator.not_quarantined``."""

        def commit(tx: Transaction) -> None:
            subject = order.subject
            gone = tx.execute("DELETE FROM quarantines WHERE kind = ? AND id = ?", (subject.kind, subject.id))
            if gone.rowcount == 0:
                raise GateError(GateReason.OPERATOR_NOT_QUARANTINED, f"{subject} is not in quarantine")
            tx.append(Record("operator.released", order.now_ms, order.body(0)))
            keep.answer(tx, 200, order.view([]))

        await self._database.write(commit)

    def quarantined(self, page: Page) -> QuarantineList:
        """Who is, the latest first."""
        at, kind, name = page.after or (None, None, None)
        rows = self._database.reading.execute(
            "SELECT kind, id, operator, reason, at FROM quarantines"
            " WHERE :at IS NULL OR at < :at OR (at = :at AND (kind, id) > (:kind, :name))"
            " ORDER BY at DESC, kind, id LIMIT :limit",
            {"at": at, "kind": kind, "name": name, "limit": page.limit + 1},
        ).fetchall()
        shown, following = page.cut(rows, lambda row: (row[4], row[0], row[1]))
        found = [
            Quarantined(kind=kind, id=name, operator=operator, reason=reason, at=at)
            for kind, name, operator, reason, at in shown
        ]
        return QuarantineList(quarantined=found, next=following)

    def end(
        self, tx: Transaction, order: Order, kind: str, more: Mapping[str, object] = NO_MORE
    ) -> list[Authorization]:
        """Carry out an order in its transaction: end what is live, and record that as ``kind`` with ``more`` to say."""
        ended: list[Authorization] = []
        by = "the gateway itself" if order.operator == GATEWAY else f"operator {order.operator}"
        detail = f"by {by}: {order.reason}"
        for found in sorted(live_of(tx.connection, order.subject), key=lambda one: one.depth):
            ended += authorizations.revoke(tx, found, order.now_ms, order.code, detail)
        tx.append(Record(kind, order.now_ms, {**order.body(len(ended)), **more}))
        # Raised last, and never lowered: should the transaction be undone, a decision is refused once too often.
        self._epoch += 1
        self._last[order.subject] = self._epoch
        return ended


def check(connection: sqlite3.Connection) -> None:
    """Who is in quarantine must be what the records lead to. EnvironmentProblem where somebody edited it beside them."""
    led_to: dict[tuple[str, str], tuple[str, str, int]] = {}
    rows = connection.execute(
        "SELECT type, at, bytes FROM records WHERE authorization IS NULL"
        " AND type IN ('operator.quarantined', 'operator.released') ORDER BY seq"
    )
    for kind, at, data in rows:
        body = parse_record(bytes(data)).body
        if kind == "operator.quarantined":
            led_to[body["kind"], body["id"]] = body["operator"], body["reason"], at
        else:
            led_to.pop((body["kind"], body["id"]), None)
    stored = {
        (kind, name): (operator, reason, at)
        for kind, name, operator, reason, at in connection.execute(
            "SELECT kind, id, operator, reason, at FROM quarantines"
        )
    }
    if stored != led_to:
        differing = sorted(key for key in stored.keys() | led_to.keys() if stored.get(key) != led_to.get(key))
        raise EnvironmentProblem(
            GateReason.LINEAGE_CHAIN_BROKEN,
            f"the quarantine of {' '.join(differing[0]):.200} is not what its records say",
            "the database was altered or damaged; restore a backup, and keep this file as evidence",
        )


def is_known_orchestrator(connection: sqlite3.Connection, name: str) -> bool:
    """Whether anybody acts under that name: a token was made for it, or, where that is gone, it asked for something."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM tokens WHERE role = ? AND name = ?)"
        " OR EXISTS (SELECT 1 FROM authorizations WHERE orchestrator = ?)",
        (Role.ORCHESTRATOR.value, name, name),
    ).fetchone()
    return bool(row[0])


def live_of(connection: sqlite3.Connection, subject: Subject) -> list[Authorization]:
    """What an order about a subject would end, descendants apart."""
    if subject.kind == "authorization":
        one = authorizations.find(connection, subject.id)
        return [one] if one is not None and one.live else []
    if subject.kind == "executor":
        return [one for one in authorizations.unfinished(connection, subject.id) if one.live]
    live = [one for one in authorizations.unfinished(connection) if one.live]
    if subject.kind == "orchestrator":
        return [one for one in live if one.orchestrator == subject.id]
    members = {name for (name,) in connection.execute("SELECT id FROM executors WHERE class = ?", (subject.id,))}
    return [one for one in live if one.executor in members]


def subjects_of(authorization: Authorization, executor_class: str) -> tuple[Subject, ...]:
    """Whose quarantine or revocation stands against this authorization."""
    return (
        Subject(kind="authorization", id=authorization.id),  # it can be known, and revoked, before it is decided
        Subject(kind="executor", id=authorization.executor),
        Subject(kind="class", id=executor_class),
        Subject(kind="orchestrator", id=authorization.orchestrator),
    )
