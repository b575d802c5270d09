"""The approved baselines, held ready: parsed once when approved, shared by every appraisal."""

import json

from gateway.storage import executors
from gateway.storage.database import Database, Transaction
from gateway.storage.executors import Executor
from ztrooted.errors import GateError
from ztrooted.models import BaselineView
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.reference import Baseline, Reference, parse_baseline


class References:
    """The baseline in force for each class of executors."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._current: dict[str, Reference] = {}
        rows = database.reading.execute(
            "SELECT class, digest FROM baselines WHERE approved_at IS NOT NULL ORDER BY approved_at"
        )
        for executor_class, digest in rows.fetchall():
            self._current[executor_class] = self._load(digest)

    def current(self, executor_class: str) -> Reference | None:
        """The approved baseline of a class, or None: then nothing of that class is trusted."""
        return self._current.get(executor_class)

    async def propose(self, executor: Executor, baseline: Baseline, now_ms: int) -> BaselineView:
        """Store a captured baseline. It changes nothing until it is approved."""
        data = baseline.encode()

        def store(tx: Transaction) -> str:
            digest = tx.blob(data)
            tx.execute(
                "INSERT INTO baselines(digest, class, proposed_at) VALUES (?, ?, ?) ON CONFLICT DO NOTHING",
                (digest, executor.executor_class, now_ms),
            )
            return digest

        return self.view(await self._database.write(store))

    async def approve(self, digest: str, operator: str, now_ms: int) -> BaselineView:
        """Put a proposed baseline in force. Every executor of the class is judged anew, from its first file on."""
        self.view(digest)
        reference = self._load(digest)

        def store(tx: Transaction) -> str:
            (executor_class,) = tx.execute("SELECT class FROM baselines WHERE digest = ?", (digest,)).fetchone()
            tx.execute(
                "UPDATE baselines SET approved_by = ?, approved_at = ? WHERE digest = ?", (operator, now_ms, digest)
            )
            executors.forget_file_checks(tx, executor_class)
            body = {"baseline": digest, "class": executor_class, "operator": operator, "expires": None}
            tx.append(Record("baseline.approved", now_ms, body))
            return str(executor_class)

        self._current[await self._database.write(store)] = reference
        return self.view(digest)

    def view(self, digest: str) -> BaselineView:
        """One baseline for people; GateError ``baseline.unknown`` when there is none."""
        row = self._database.reading.execute(
            "SELECT class, approved_by, approved_at FROM baselines WHERE digest = ?", (digest,)
        ).fetchone()
        if row is None:
            raise GateError(GateReason.BASELINE_UNKNOWN, f"there is no baseline {digest}")
        baseline = parse_baseline(self._blob(digest))
        return BaselineView(
            baseline=digest,
            executor_class=row[0],
            pcrs=len(baseline.pcrs),
            files=len(baseline.ima),
            approved_by=row[1],
            approved_at=row[2],
        )

    def _load(self, digest: str) -> Reference:
        return Reference.load(self._blob(digest))

    def _blob(self, digest: str) -> bytes:
        row = self._database.reading.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
        if row is None:
            raise GateError(GateReason.BASELINE_UNKNOWN, f"the bytes of baseline {json.dumps(digest)} are missing")
        return bytes(row[0])
