"""Seals the lineage: every so often, and before the process ends, the TPM signs what it has become."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.config import GatewayConfig
from gateway.rollback import Anchor, Anchors
from gateway.signer import Signer
from gateway.storage import lineage
from gateway.storage.database import Database, Transaction
from tpm.attestation_key import accept_attestation_key
from tpm.public import parse_public
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint, counter_line, parse_checkpoint, seal_line
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.note import format_note, parse_note, signature_of
from ztrooted.note_keys import ecdsa_key

log = structlog.get_logger()


# After this many intervals without a checkpoint nothing more is issued: what can't be sealed can't be proved.
STALE_INTERVALS = 3
STALE_S = 30.0  # and never before this, so that one slow answer of a chip is no outage


class Checkpointer:
    """Makes checkpoints; one at a time, never while an append waits for it."""

    def __init__(self, config: GatewayConfig, database: Database, clock: Clock, signer: Signer) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._signer = signer
        self._sealing = asyncio.Lock()
        self._log_key = ecdsa_key(config.origin, signer.identity.log_key())
        self._ak_name = accept_attestation_key(parse_public(signer.identity.ak_public)).name
        self.anchors = Anchors(config, database, clock, signer)
        self.sealed_at = 0.0
        self._head: tuple[tuple[int, bytes], Checkpoint] | None = None

    @property
    def stale(self) -> bool:
        """Whether the last checkpoint is too old for anything to be issued; also when there is none of this run."""
        limit_s = max(STALE_INTERVALS * self._config.checkpoint_interval_s, STALE_S)
        return not self.sealed_at or self._clock.monotonic() - self.sealed_at > limit_s

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Seal whatever was appended, at the configured interval, for ever; ``sleep`` waits between two.

        A TPM that refuses is asked again; meanwhile the last checkpoint grows old, and readiness ends with it.
        """
        while True:
            try:
                await self.seal()
            except GateError as error:
                log.error("not sealed", code=error.reason, detail=error.detail, remedy=error.remedy)
            await sleep(self._config.checkpoint_interval_s)

    async def finish(self) -> None:
        """Make and store the anchor that a killed process had intended, if there is one. Before anything else is written."""
        async with self._sealing:
            await self._finish()

    async def _finish(self) -> None:
        anchor = await self.anchors.finish()
        if anchor is not None:
            await self._store(anchor.checkpoint, anchor)

    async def seal(self, *, anchor: bool = False) -> tuple[int, bytes]:
        """The checkpoint over everything appended so far, as (size, note); a new one if there are new records.

        The TPM signs in any case, so that one that is gone is noticed while nothing happens, too. ``anchor`` has the
        TPM's counter stand for it although it is not time yet.
        """
        async with self._sealing:
            connection = self._database.reading
            size = lineage.size(connection)
            root = merkle.frontier(size, lineage.Reader(connection).read).root()
            checkpoint = Checkpoint(self._config.origin, size, root)
            latest = self.latest()
            if latest is not None and latest[0] == size:
                await self._signer.seal(checkpoint.text)
                self.sealed_at = self._clock.monotonic()
                return latest
            made = await self._anchor(checkpoint) if anchor or self.anchors.due(size) else None
            return size, await self._store(checkpoint, made)

    async def _anchor(self, checkpoint: Checkpoint) -> Anchor | None:
        """A new anchor; one that was intended before comes first, and may be over as many records already."""
        self.anchors.compare(await self._signer.counted())
        await self._finish()
        return await self.anchors.make(checkpoint) if checkpoint.size > self.anchors.size else None

    async def _store(self, checkpoint: Checkpoint, anchor: Anchor | None) -> bytes:
        """Seal a checkpoint by a quote and store it, with its anchor; its note."""
        signature, quoted = await self._signer.seal(checkpoint.text)
        lines = [
            signature_of(self._log_key, signature),
            seal_line(self._config.origin, self._ak_name, quoted.attest, quoted.signature, quoted.pcrs),
        ]
        if anchor is not None:
            certified = anchor.certified
            lines.append(counter_line(self._config.origin, self._ak_name, certified.attest, certified.signature))
        note = format_note(checkpoint.text, lines)
        now_ms = self._clock.now_ms()

        def store(tx: Transaction) -> None:
            # There is one of this size where a process was killed between the two, or an anchor was finished late.
            tx.execute(
                "INSERT INTO checkpoints(size, root, at, note) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
                (checkpoint.size, checkpoint.root, now_ms, note),
            )
            if anchor is not None:
                self.anchors.store(tx, anchor, now_ms)

        await self._database.write(store)
        if anchor is not None:
            self.anchors.stored(anchor)
        self.sealed_at = self._clock.monotonic()
        log.info("sealed", size=checkpoint.size, root=checkpoint.root.hex())
        return note

    def head(self) -> Checkpoint | None:
        """What the newest checkpoint says; read again only when there is a newer one, since each answer tells it."""
        latest = self.latest()
        if latest is None:
            return None
        if self._head is None or self._head[0] != latest:
            self._head = latest, parse_checkpoint(parse_note(latest[1]).text)
        return self._head[1]

    def latest(self) -> tuple[int, bytes] | None:
        """The newest checkpoint as (size, note)."""
        row = self._database.reading.execute("SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1").fetchone()
        return None if row is None else (int(row[0]), bytes(row[1]))
