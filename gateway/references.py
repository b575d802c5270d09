"""The approved baselines, held ready: parsed once when approved, shared by every appraisal."""

import json

from gateway.pages import Page
from gateway.storage import executors
from gateway.storage.database import Database, Transaction
from ztrooted.baseline_models import BaselineView
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.reference import Baseline, Reference, parse_baseline

_VIEW = (
    "SELECT b.digest, b.class, b.pcrs, b.events, b.files, b.captured_from, b.captured_at,"
    " a.version, a.operator, a.at, a.expires,"
    " a.version IS NOT NULL AND a.version = (SELECT MAX(version) FROM approvals WHERE class = b.class), b.proposed_at"
    " FROM baselines b LEFT JOIN approvals a ON a.class = b.class AND a.digest = b.digest"
    " AND a.version = (SELECT MAX(version) FROM approvals WHERE class = b.class AND digest = b.digest)"
)


class References:
    """The baseline in force for each class of executors: the one that was approved last."""

    def __init__(self, database: Database) -> None:
        self._database = database
        rows = database.reading.execute("SELECT class, digest, expires FROM approvals ORDER BY version")
        last = {executor_class: (digest, expires) for executor_class, digest, expires in rows.fetchall()}
        self._current = {name: Reference.load(self.data(digest), expires) for name, (digest, expires) in last.items()}
        # What a transaction sees: set inside of the approval's own, in the writer's thread.
        self._recorded = {name: digest for name, (digest, _) in last.items()}

    def current(self, executor_class: str) -> Reference | None:
        """The approved baseline of a class, or None: then nothing of that class is trusted."""
        return self._current.get(executor_class)

    def require_in_force(self, executor_class: str, digest: str | None) -> None:
        """GateError ``policy.changed`` where a round was judged by another baseline than is in force now."""
        if self._recorded.get(executor_class) != digest:
            raise GateError(GateReason.POLICY_CHANGED, "another baseline was approved during this round; ask again")

    async def propose(self, executor_class: str, baseline: Baseline, now_ms: int) -> BaselineView:
        """Store a baseline for a class. It changes nothing until it is approved."""
        data = baseline.encode()
        events = 0 if baseline.boot is None else len(baseline.boot.events)

        def store(tx: Transaction) -> str:
            digest = tx.blob(data)
            tx.execute(
                "INSERT INTO baselines(digest, class, proposed_at, pcrs, events, files, captured_from, captured_at)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (
                    digest,
                    executor_class,
                    now_ms,
                    len(baseline.pcrs),
                    events,
                    len(baseline.ima),
                    baseline.captured_from,
                    baseline.captured_at,
                ),
            )
            return digest

        return self.view(await self._database.write(store), executor_class)

    async def approve(self, digest: str, operator: str, now_ms: int, *, expires_ms: int | None) -> BaselineView:
        """Put a proposed baseline in force. Every executor of the class is judged anew, from its first file on."""
        executor_class = self.view(digest).executor_class
        reference = Reference.load(self.data(digest), expires_ms)

        def store(tx: Transaction) -> None:
            (version,) = tx.execute(
                "SELECT COALESCE(MAX(version), 0) + 1 FROM approvals WHERE class = ?", (executor_class,)
            ).fetchone()
            tx.execute(
                "INSERT INTO approvals(class, version, digest, operator, at, expires) VALUES (?, ?, ?, ?, ?, ?)",
                (executor_class, version, digest, operator, now_ms, expires_ms),
            )
            executors.forget_file_checks(tx, executor_class)
            body = {
                "baseline": digest,
                "class": executor_class,
                "operator": operator,
                "version": version,
                "expires": expires_ms,
            }
            tx.append(Record("baseline.approved", now_ms, body))
            self._recorded[executor_class] = digest

        before = dict(self._recorded)
        try:
            await self._database.write(store)
        except GateError:
            self._recorded = before  # the group of transactions may have been undone as a whole
            raise
        self._current[executor_class] = reference
        return self.view(digest, executor_class)

    def view(self, digest: str, executor_class: str | None = None) -> BaselineView:
        """One baseline for people, of its latest class; GateError ``baseline.unknown`` when there is none."""
        row = self._database.reading.execute(
            f"{_VIEW} WHERE b.digest = ? AND (? IS NULL OR b.class = ?) ORDER BY b.proposed_at DESC LIMIT 1",
            (digest, executor_class, executor_class),
        ).fetchone()
        if row is None:
            raise GateError(GateReason.BASELINE_UNKNOWN, f"there is no baseline {digest}")
        return _view(row[:-1])

    def page(self, page: Page) -> tuple[list[BaselineView], str | None]:
        """The baselines, the latest proposal first, and the cursor to more."""
        at, digest, name = page.after or (None, None, None)
        query = (
            f"{_VIEW} WHERE :at IS NULL OR b.proposed_at < :at"
            " OR (b.proposed_at = :at AND (b.digest, b.class) > (:digest, :name))"
            " ORDER BY b.proposed_at DESC, b.digest, b.class LIMIT :limit"
        )
        values = {"at": at, "digest": digest, "name": name, "limit": page.limit + 1}
        rows = self._database.reading.execute(query, values).fetchall()
        shown, following = page.cut(rows, lambda row: (row[-1], row[0], row[1]))
        return [_view(row[:-1]) for row in shown], following

    def baseline(self, digest: str) -> Baseline:
        """One baseline, parsed. GateError ``baseline.unknown``."""
        self.view(digest)
        return parse_baseline(self.data(digest))

    def data(self, digest: str) -> bytes:
        """The exact bytes of a baseline. GateError ``baseline.unknown``."""
        row = self._database.reading.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise GateError(GateReason.BASELINE_UNKNOWN, f"the bytes of baseline {json.dumps(digest)} are missing")
        return bytes(row[0])


def _view(row: tuple[object, ...]) -> BaselineView:
    names = list(BaselineView.model_fields)
    return BaselineView(**{**dict(zip(names, row, strict=True)), "in_force": bool(row[-1])})  # type: ignore[arg-type]
