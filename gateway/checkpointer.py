"""Seals the lineage: every so often, and before the process ends, the TPM signs what it has become.

A checkpoint is *sealed* once it is signed and stored, and *published* once witnesses cosigned it, as many as the
configuration demands. Only what is published is shown to anybody, goes into a bundle, and lets more be issued. Where no
witness is demanded, sealed is published.
"""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from gateway.config import GatewayConfig
from gateway.metrics import Metrics
from gateway.rollback import Anchor, Anchors
from gateway.signer import Signer
from gateway.storage import lineage
from gateway.storage.database import Database, Transaction
from gateway.witnesses import Witnesses
from tpm.attestation_key import accept_attestation_key
from tpm.observation import observed
from tpm.public import parse_public
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint, counter_line, parse_checkpoint, seal_line, verify_checkpoint
from ztrooted.clock import Clock
from ztrooted.errors import GateError, ProofError
from ztrooted.note import format_note, parse_note, signature_of
from ztrooted.note_keys import ecdsa_key
from ztrooted.reasons import GateReason

log = structlog.get_logger()


# After this many intervals without a checkpoint nothing more is issued: what can't be sealed can't be proved.
STALE_INTERVALS = 3
STALE_S = 30.0  # and never before this, so that one slow answer of a chip is no outage
LOOKED_AT = 256  # cosigned checkpoints at a start, from the newest; an older one is made up for by the next


@dataclass(frozen=True, slots=True)
class Cosigned:
    """A sealed checkpoint with what witnesses signed below it; ``cosigners`` are different ones."""

    size: int
    note: bytes
    cosigners: int


class Checkpointer:
    """Makes checkpoints; one at a time, never while an append waits for it."""

    def __init__(
        self, config: GatewayConfig, database: Database, clock: Clock, signer: Signer, metrics: Metrics | None = None
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._signer = signer
        self._sealing = asyncio.Lock()
        self._log_key = ecdsa_key(config.origin, signer.identity.log_key())
        self._plain = signer.plain
        self._ak_name = accept_attestation_key(parse_public(signer.identity.ak_public)).name
        self.anchors = Anchors(config, database, clock, signer)
        self._newest_sealed: tuple[int, bytes] | None = None
        self._head: tuple[tuple[int, bytes], Checkpoint] | None = None
        self._asking = asyncio.Lock()
        self._witnesses = Witnesses(config.witnesses, database, clock, metrics or Metrics())
        self._cosigned = self._newest_cosigned()
        self.unwitnessed = False  # the last time that witnesses were asked
        self.sealed_at = 0.0  # and cosigned, where that is demanded

    @property
    def stale(self) -> bool:
        """Whether the last published checkpoint is too old for more to be issued; also when there is none of this run."""
        limit_s = max(STALE_INTERVALS * self._config.checkpoint_interval_s, STALE_S)
        return not self.sealed_at or self._clock.monotonic() - self.sealed_at > limit_s

    @property
    def age_s(self) -> float:
        """How old the last published checkpoint is; infinite where this run has none."""
        return self._clock.monotonic() - self.sealed_at if self.sealed_at else math.inf

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Seal whatever was appended, at the configured interval, for ever; ``sleep`` waits between two.

        A TPM that refuses, or a witness, is asked again; meanwhile the last published checkpoint grows old, and readiness
        ends with it.
        """
        while True:
            try:
                await self.publish()
                if not self._config.witness_quorum and (newest := self._newest()) is not None:
                    await self._cosign(*newest)  # whoever answers
            except GateError as error:
                log.error("not published", code=error.reason, detail=error.detail, remedy=error.remedy)
            await sleep(self._config.checkpoint_interval_s)

    async def begin(self) -> None:
        """The first checkpoint of a run. GateError from the TPM; without its witnesses a gateway runs, and is not ready."""
        try:
            await self.publish()
        except GateError as error:
            if error.reason is not GateReason.CHECKPOINT_UNWITNESSED:
                raise
            log.error("not published", code=error.reason, detail=error.detail)

    async def publish(self, *, anchor: bool = False) -> tuple[int, bytes]:
        """A published checkpoint over everything appended so far, as (size, note).

        As ``seal``, whose checkpoint is on disk before a witness hears of it. Witnesses are asked again where nothing is
        new, so that one that is gone is noticed. GateError ``checkpoint.unwitnessed`` when too few cosign.
        """
        with observed("checkpoint"):
            return await self._publish(anchor=anchor)

    async def _publish(self, *, anchor: bool) -> tuple[int, bytes]:
        quorum = self._config.witness_quorum
        if not quorum:
            await self.seal(anchor=anchor)
            return self._require_latest()
        async with self._asking:
            began = self._clock.monotonic()
            size, note = await self.seal(anchor=anchor)
            found = await self._cosign(size, note)
            self.unwitnessed = found < quorum
            if self.unwitnessed:
                raise GateError(
                    GateReason.CHECKPOINT_UNWITNESSED,
                    f"{found} witnesses cosigned the checkpoint over {size} records, and {quorum} are needed",
                )
            self.sealed_at = began
            return self._require_latest()

    async def _cosign(self, size: int, note: bytes) -> int:
        """Ask the witnesses about a sealed checkpoint, and store what they signed, if it is enough; how many did."""
        sealed = parse_note(note)
        ours = next(line for line in sealed.signatures if line.key_id == self._log_key.key_id)
        lines = await self._witnesses.cosign(parse_checkpoint(sealed.text), ours)
        known = self._cosigned
        if len(lines) < max(1, self._config.witness_quorum):
            return len(lines)
        if known is not None and known.size == size and known.cosigners >= len(lines):
            return len(lines)
        cosigned = Cosigned(size, format_note(sealed.text, [*sealed.signatures, *lines]), len(lines))
        row = (size, self._clock.now_ms(), cosigned.note)
        await self._database.write(
            lambda tx: tx.execute("INSERT INTO cosigned(size, at, note) VALUES (?, ?, ?)", row) and None
        )
        self._cosigned = cosigned
        log.info("cosigned", size=size, witnesses=[line.name for line in lines])
        return len(lines)

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
            newest = self._newest()
            if newest is not None and newest[0] == size:
                await self._signer.seal(checkpoint.text)
                self._sealed()
                return newest
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
        if self._plain is not None:
            lines.append(self._plain.sign(checkpoint.text))
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
        self._newest_sealed = None
        if anchor is not None:
            self.anchors.stored(anchor)
        self._sealed()
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

    def _sealed(self) -> None:
        if not self._config.witness_quorum:
            self.sealed_at = self._clock.monotonic()

    def latest(self) -> tuple[int, bytes] | None:
        """The newest published checkpoint as (size, note), with its cosignatures."""
        cosigned, newest = self._cosigned, None if self._config.witness_quorum else self._newest()
        if cosigned is not None and (newest is None or newest[0] == cosigned.size):
            return cosigned.size, cosigned.note
        return newest

    def _require_latest(self) -> tuple[int, bytes]:
        latest = self.latest()
        if latest is None:
            raise GateError(GateReason.SERVICE_NOT_READY, "no checkpoint has been published yet")
        return latest

    def _newest(self) -> tuple[int, bytes] | None:
        """The newest sealed checkpoint as (size, note). Each answer names it, so it is read once."""
        if self._newest_sealed is None:
            query = "SELECT size, note FROM checkpoints ORDER BY size DESC LIMIT 1"
            row = self._database.reading.execute(query).fetchone()
            self._newest_sealed = None if row is None else (int(row[0]), bytes(row[1]))
        return self._newest_sealed

    def _newest_cosigned(self) -> Cosigned | None:
        """What an earlier run published, if as many of today's witnesses cosigned it as are demanded today."""
        query = (
            "SELECT size, root, cosigned.note FROM cosigned JOIN checkpoints USING (size)"
            " ORDER BY size DESC, n DESC LIMIT ?"
        )
        for size, root, note in self._database.reading.execute(query, (LOOKED_AT,)):
            try:
                found = verify_checkpoint(
                    bytes(note),
                    origin=self._config.origin,
                    log_key=self._log_key,
                    witnesses=self._witnesses.keys,
                    quorum=max(1, self._config.witness_quorum),
                )
            except ProofError:
                continue
            if (found.checkpoint.size, found.checkpoint.root) == (size, bytes(root)):
                return Cosigned(int(size), bytes(note), len(found.cosigners))
        return None
