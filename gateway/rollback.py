"""Binds the lineage to a counter in the TPM that only goes up, so that an older copy of the database is found out.

An *anchor* is a checkpoint that the counter stands for. It is made in four steps, each of which may be the last one of a
process that is killed:

1. *intent*: what the counter's next value will stand for, signed by the log key, is stored.
2. *increment*: the counter goes up by one.
3. *certify*: the attestation key says what it is now, for this checkpoint.
4. *store*: anchor and checkpoint.

At a start the counter is what the newest anchor says; or one more, with an intent for that value whose checkpoint is the
stored records'. An intent that is there is made up for in both cases, before another one is signed: two for one value would
let an older copy of the database pass for the newest. Anything else is another history than the TPM's, and is not served.
Increments wear the TPM's memory, so there is an anchor every ``anchor_interval_s`` and before a stop; between two,
checkpoints are sealed by quotes.
"""

from dataclasses import dataclass

import structlog
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.config import GatewayConfig
from gateway.signer import Signer
from gateway.storage import lineage
from gateway.storage.database import Database, Transaction
from tpm.device import Certified
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint
from ztrooted.clock import Clock
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.evidence import length_prefixed
from ztrooted.reasons import GateReason

log = structlog.get_logger()

INTENT = b"ztrooted/anchor-intent/v1"


@dataclass(frozen=True, slots=True)
class Anchor:
    """What a value of the counter stands for, once the TPM has said so."""

    counter: int
    checkpoint: Checkpoint
    certified: Certified


class Anchors:
    """The one place that increments the counter."""

    def __init__(self, config: GatewayConfig, database: Database, clock: Clock, signer: Signer) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._signer = signer
        self.made_at = clock.monotonic()  # the newest one, or our start: who starts again and again wears no memory
        self.size, self.counter = self._newest()
        self._unfinished: Checkpoint | None = None
        self._counted = False

    def check(self) -> None:
        """Compare database and TPM, before anything is written. EnvironmentProblem ``lineage.rolled_back``."""
        self.compare(self._signer.counter())

    def compare(self, value: int) -> None:
        """Whether a counter of ``value`` is this database's. EnvironmentProblem ``lineage.rolled_back`` when it is not.

        What was intended for the next value stays intended, counted or not: each value stands for one checkpoint, ever.
        """
        intended = self._intended(self.counter + 1)
        if value != self.counter and (value != self.counter + 1 or intended is None):
            raise EnvironmentProblem(
                GateReason.LINEAGE_ROLLED_BACK,
                f"the TPM's counter is {value}, and the newest anchor in the database is {self.counter}",
                "start with the newest copy of the database; if there is none, 'ztrooted gateway recover' goes on from this"
                " one, and the log shows it for ever",
            )
        self._unfinished, self._counted = intended, value != self.counter

    async def finish(self) -> Anchor | None:
        """The anchor that was intended and is not stored, made now; None where there is none. GateError from the TPM."""
        checkpoint, counter = self._unfinished, self.counter + 1
        if checkpoint is None:
            return None
        if not self._counted:
            await self._count(counter)
        return await self._certify(checkpoint, counter)

    def due(self, size: int) -> bool:
        """Whether a checkpoint of ``size`` records is to be an anchor."""
        return size > self.size and self._clock.monotonic() - self.made_at >= self._config.anchor_interval_s

    async def make(self, checkpoint: Checkpoint) -> Anchor:
        """Steps 1 to 3. GateError when TPM or database refuse; then the next start, or the next anchor, finds out."""
        counter = self.counter + 1
        signature = await self._signer.sign(intent(checkpoint, counter))
        row = (counter, checkpoint.size, checkpoint.root, self._clock.now_ms(), signature)
        await self._database.write(
            lambda tx: tx.execute("INSERT INTO intents(counter, size, root, at, signature) VALUES (?, ?, ?, ?, ?)", row)
        )
        await self._count(counter)
        return await self._certify(checkpoint, counter)

    async def _count(self, counter: int) -> None:
        """Step 2."""
        value = await self._signer.count()
        if value != counter:
            raise GateError(
                GateReason.LINEAGE_ROLLED_BACK,
                f"the TPM's counter went to {value} instead of {counter}: somebody else increments it",
            )

    async def _certify(self, checkpoint: Checkpoint, counter: int) -> Anchor:
        """Step 3."""
        return Anchor(counter, checkpoint, await self._signer.certify_counter(checkpoint.text))

    def store(self, tx: Transaction, anchor: Anchor, now_ms: int) -> None:
        """Step 4, inside ``tx``; ``stored`` follows once that is durable."""
        made = anchor.certified
        tx.execute(
            "INSERT INTO anchors(counter, size, root, at, attest, signature) VALUES (?, ?, ?, ?, ?, ?)",
            (anchor.counter, anchor.checkpoint.size, anchor.checkpoint.root, now_ms, made.attest, made.signature),
        )

    def stored(self, anchor: Anchor) -> None:
        """The anchor is on disk."""
        self.counter, self.size, self._unfinished = anchor.counter, anchor.checkpoint.size, None
        self.made_at = self._clock.monotonic()
        used = anchor.counter - self._signer.identity.counter_start
        log.info("anchored", size=anchor.checkpoint.size, counter=anchor.counter, increments=used)

    def accept(self, counter: int) -> None:
        """Go on from what the TPM says, whatever the database says: for ``recover``, which records it."""
        self.counter, self._unfinished = counter, None

    def _newest(self) -> tuple[int, int]:
        row = self._database.reading.execute(
            "SELECT size, counter FROM anchors ORDER BY counter DESC LIMIT 1"
        ).fetchone()
        return (0, self._signer.identity.counter_start) if row is None else (int(row[0]), int(row[1]))

    def _intended(self, counter: int) -> Checkpoint | None:
        """What was to be anchored as ``counter``: the newest intent for it, if we signed it and have its records."""
        row = self._database.reading.execute(
            "SELECT size, root, signature FROM intents WHERE counter = ? ORDER BY n DESC LIMIT 1", (counter,)
        ).fetchone()
        if row is None:
            return None
        checkpoint = Checkpoint(self._config.origin, int(row[0]), bytes(row[1]))
        try:
            self._signer.identity.log_key().verify(
                bytes(row[2]), intent(checkpoint, counter), ec.ECDSA(hashes.SHA256())
            )
        except InvalidSignature:
            return None
        connection = self._database.reading
        if checkpoint.size > lineage.size(connection):
            return None
        root = merkle.frontier(checkpoint.size, lineage.Reader(connection).read).root()
        return checkpoint if root == checkpoint.root else None


def intent(checkpoint: Checkpoint, counter: int) -> bytes:
    """What the log key signs before the counter goes to ``counter``."""
    return length_prefixed(INTENT, counter.to_bytes(8, "big"), checkpoint.text)
