"""A watch over a log: every checkpoint that it shows is kept, and has to go on from the one before. Hashes only.

Each look, in this order; the first that fails is the alarm:

1. The checkpoint is the log's, signed and sealed as the anchors say: ``note.*``, ``checkpoint.*``.
2. It is not smaller than the one kept here, nor another one of its size: ``checkpoint.split_view``.
3. What is larger begins with what is kept, by a proof of consistency: ``checkpoint.split_view``.
4. The TPM's counter, where the checkpoint is an anchor, did not go back, and stands for one checkpoint only:
   ``lineage.rolled_back``.
5. The log went on within ``stale_s``: ``checkpoint.stale``. A gateway that serves introduces a key every hour.

``checkpoint`` is the newest, ``checkpoints/N`` each that was seen, ``evidence/`` both notes of each alarm, ``monitor.json``
when the newest was first seen and what the counter was.
"""

import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tpm.counter import NvPublic
from ztrooted import merkle
from ztrooted.anchors import Anchors
from ztrooted.checkpoint import Checkpoint, verify_counter_line
from ztrooted.clock import Clock
from ztrooted.errors import ProofError
from ztrooted.kept_files import locked, replace
from ztrooted.mirror import CHECKPOINT, LOCK, compare, split, verified
from ztrooted.models import Model, parse_json
from ztrooted.reasons import GateReason

STALE_S = 7200.0  # twice the life of an issuing key, whose successor is a record
Prove = Callable[[int, int], Awaitable[list[bytes]]]
"""``await prove(old, new)`` gives the hashes of a consistency proof between two sizes."""


class _State(Model):
    format: str = "ztrooted-monitor/1"
    since_ms: int
    counter: int | None
    counted: int | None


@dataclass(frozen=True, slots=True)
class Looked:
    """What a look found: the log's size before and now, its root now, and the counter of its newest anchor seen."""

    before: int
    size: int
    root: bytes
    counter: int | None

    def encode(self) -> dict[str, object]:
        """For scripts."""
        return {"before": self.before, "size": self.size, "root": self.root.hex(), "counter": self.counter}


class Monitor:
    """Watches the log that ``anchors`` describe, from ``folder``. ``counter`` is the gateway's, verified before."""

    def __init__(
        self, folder: Path, anchors: Anchors, counter: NvPublic, clock: Clock, *, stale_s: float = STALE_S
    ) -> None:
        self._folder = folder
        self._anchors = anchors
        self._counter = counter
        self._clock = clock
        self._stale_s = stale_s

    async def look(self, note: bytes, prove: Prove) -> Looked:
        """Judge the checkpoint that the log shows now, and keep it. ProofError with the first check that fails."""
        with locked(self._folder / LOCK, wait=False):
            path = self._folder / CHECKPOINT
            kept_note = path.read_bytes() if path.exists() else b""
            try:
                return await self._look(note, kept_note, prove)
            except ProofError as error:
                error.remedy = self._keep_evidence(kept_note, note)
                raise

    async def _look(self, note: bytes, kept_note: bytes, prove: Prove) -> Looked:
        new = verified(note, self._anchors)  # 1.
        kept = Checkpoint(new.origin, 0, merkle.EMPTY_ROOT) if not kept_note else verified(kept_note, self._anchors)
        compare(kept, new)  # 2.
        if 0 < kept.size < new.size:
            await _goes_on(kept, new, prove)  # 3.
        state = self._counted(self._read(), note, new)  # 4.
        now_ms = self._clock.now_ms()
        if new.size > kept.size or not kept_note:
            state = state.model_copy(update={"since_ms": now_ms})
            replace(self._folder / "checkpoints" / str(new.size), note)
        replace(self._folder / "monitor.json", state.model_dump_json().encode())
        replace(self._folder / CHECKPOINT, note)
        self.check_age()  # 5.
        return Looked(kept.size, new.size, new.root, state.counter)

    async def compare(self, elsewhere: bytes, prove: Prove) -> Checkpoint:
        """Whether a checkpoint that came another way is of the log kept here; after a ``look``. ProofError where not.

        What this log never signed is none of its checkpoints, and no evidence against it.
        """
        kept_note = (self._folder / CHECKPOINT).read_bytes()
        kept = verified(kept_note, self._anchors)
        try:
            other = verified(elsewhere, self._anchors)
            compare(other, kept)
            if 0 < other.size < kept.size:
                await _goes_on(other, kept, prove)
        except ProofError as error:
            if error.reason not in _NOT_OF_THIS_LOG:
                error.remedy = self._keep_evidence(kept_note, elsewhere)
            raise
        return other

    def check_age(self) -> None:
        """ProofError ``checkpoint.stale`` where the log did not go on for too long, or could not be asked."""
        age_s = (self._clock.now_ms() - self._read().since_ms) / 1000
        if (self._folder / CHECKPOINT).exists() and age_s > self._stale_s:
            raise ProofError(
                GateReason.CHECKPOINT_STALE, f"the log shows nothing new for {age_s:.0f} s, over {self._stale_s:.0f} s"
            )

    def _counted(self, state: _State, note: bytes, new: Checkpoint) -> _State:
        counter = verify_counter_line(note, ak=self._anchors.gateway_ak, counter=self._counter)
        if counter is None:
            return state
        if state.counter is not None and (
            counter < state.counter or (counter == state.counter and new.size != state.counted)
        ):
            raise ProofError(
                GateReason.LINEAGE_ROLLED_BACK,
                f"the TPM's counter was {state.counter} for {state.counted} records, and is {counter} for {new.size}",
            )
        return state.model_copy(update={"counter": counter, "counted": new.size})

    def _read(self) -> _State:
        path = self._folder / "monitor.json"
        if not path.exists():
            return _State(since_ms=self._clock.now_ms(), counter=None, counted=None)
        state: _State = parse_json(_State, path.read_bytes())
        return state

    def _keep_evidence(self, kept: bytes, shown: bytes) -> str:
        """Both notes, on the disk; what to do with them."""
        folder = self._folder / "evidence" / hashlib.sha256(kept + b"\0" + shown).hexdigest()[:16]
        replace(folder / "kept", kept)
        replace(folder / "shown", shown)
        return f"both checkpoints are in {folder}: keep them, and ask the gateway's operator what happened"


_NOT_OF_THIS_LOG = frozenset(
    {
        GateReason.NOTE_MALFORMED,
        GateReason.CHECKPOINT_MALFORMED,
        GateReason.CHECKPOINT_ORIGIN,
        GateReason.CHECKPOINT_KEY,
    }
)


async def _goes_on(old: Checkpoint, new: Checkpoint, prove: Prove) -> None:
    try:
        merkle.verify_consistency(old.size, new.size, old.root, new.root, await prove(old.size, new.size))
    except ProofError as error:
        raise split(f"{new.size} records do not begin with the {old.size} of before: {error.detail}") from error
