"""Event logs that we hold: an executor sends its log once, and names it by its digest after that."""

from gateway.storage.database import Database
from ztrooted.errors import GateError
from ztrooted.evidence import Evidence, sha256
from ztrooted.models import Quote
from ztrooted.reasons import GateReason

EVENT_LOGS = 256  # kept in memory, of a megabyte at most


class EventLogs:
    """Those in the database, of which the latest are kept in memory, since machines share them."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[str, bytes] = {}

    def complete(self, quote: Quote, held: str) -> Evidence:
        """Evidence with its event log: sent along, or the one we hold, ``held``, if its digest is the one named."""
        if quote.event_log is None and quote.event_log_digest == held:
            return quote.evidence(self._read(held))
        if quote.event_log is not None:
            log = quote.event_log
        else:
            raise GateError(
                GateReason.REQUEST_MALFORMED, "the event log named is not the one we hold, and was not sent"
            )
        if sha256(log) != quote.event_log_digest:
            raise GateError(GateReason.REQUEST_MALFORMED, "the event log and its digest don't belong together")
        return quote.evidence(log)

    def _read(self, digest: str) -> bytes:
        """A stored event log, compared with its digest when it is read."""
        log = self._kept.get(digest)
        if log is None:
            row = self._database.reading.execute("SELECT bytes FROM blobs WHERE digest = ?", (digest,)).fetchone()
            log = b"" if row is None else bytes(row[0])
            if sha256(log) != digest:
                raise GateError(GateReason.REQUEST_MALFORMED, "the event log we hold is missing or damaged")
            if len(self._kept) >= EVENT_LOGS:
                del self._kept[next(iter(self._kept))]
            self._kept[digest] = log
        return log
