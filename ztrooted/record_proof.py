"""The proof that one record is in a log, as a text that needs nothing else (``ztrooted.tlog_proof``): taken from a bundle,
or made of a log's own files.

Neither is believed: what is not a proof of that record is refused here already. That the checkpoint in it is one to
believe, only who has anchors can say.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from ztrooted import merkle, tiles
from ztrooted.anchors import Anchors
from ztrooted.bundle import Bundle
from ztrooted.checkpoint import Checkpoint, VerifiedCheckpoint, parse_checkpoint
from ztrooted.errors import GateError, UsageProblem
from ztrooted.note import parse_note
from ztrooted.reasons import GateReason
from ztrooted.records import Record, parse_record
from ztrooted.tlog_proof import TlogProof, parse_tlog_proof, verify_tlog_proof

Fetch = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class RecordProof:
    """A record's bytes as they stand in the log, and the proof of its place."""

    record: bytes
    proof: TlogProof
    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Proven:
    """What a proof proves to who has anchors."""

    index: int
    record: Record
    checkpoint: VerifiedCheckpoint

    def encode(self) -> dict[str, Any]:
        """For scripts."""
        covered = self.checkpoint.checkpoint
        return {
            "proven": True,
            "index": self.index,
            "type": self.record.type,
            "at": self.record.at,
            "authorization": self.record.authorization,
            "origin": covered.origin,
            "size": covered.size,
            "root": covered.root.hex(),
            "witnesses": [one.key.name for one in self.checkpoint.cosigners],
        }


def proof_from_bundle(bundle: Bundle, index: int) -> RecordProof:
    """The proof of record ``index`` in a bundle. UsageProblem ``lineage.range`` where it is not in there."""
    for one in bundle.records:
        if one.index == index:
            return _checked(one.data, TlogProof(index, one.proof, bundle.checkpoint))
    known = ", ".join(str(one.index) for one in bundle.records[:20])
    raise UsageProblem(
        GateReason.LINEAGE_RANGE,
        f"record {index} is not in this bundle",
        f"it has {known}{', …' if len(bundle.records) > 20 else ''}; any other is to be had from the gateway",
    )


async def proof_from_log(fetch: Fetch, index: int) -> RecordProof:
    """The proof of record ``index`` by the newest checkpoint; ``fetch`` gets a file of the log (C2SP tlog-tiles).

    UsageProblem ``lineage.range`` where there is no such record yet, ProofError where the files don't fit each other.
    """
    note = await fetch("checkpoint")
    size = parse_checkpoint(parse_note(note).text).size
    if not 0 <= index < size:
        raise UsageProblem(
            GateReason.LINEAGE_RANGE,
            f"there is no record {index} below the newest checkpoint, which covers {size}",
            "records are counted from 0; a new one is covered after an interval",
        )
    # Asked for once to know which nodes it takes, and again with those.
    nodes: dict[tuple[int, int], bytes] = {}
    merkle.inclusion_proof(size, index, lambda level, at: nodes.setdefault((level, at), merkle.EMPTY_ROOT))
    kept: dict[str, list[bytes]] = {}
    for level, at in nodes:
        nodes[level, at] = await _node(fetch, size, level, at, kept)
    hashes = merkle.inclusion_proof(size, index, lambda level, at: nodes[level, at])
    number = index // tiles.WIDTH
    width = min(tiles.WIDTH, size - number * tiles.WIDTH)
    entries = tiles.parse_entries(await fetch(tiles.path("entries", number, width)), width)
    return _checked(entries[index % tiles.WIDTH], TlogProof(index, tuple(hashes), note))


async def _node(fetch: Fetch, size: int, level: int, at: int, kept: dict[str, list[bytes]]) -> bytes:
    """One hash of the tree, out of the tile that it is in or that is below it."""
    above, inside = divmod(level, tiles.HEIGHT)
    number, first = divmod(at << inside, tiles.WIDTH)
    width = min(tiles.WIDTH, (size >> (tiles.HEIGHT * above)) - number * tiles.WIDTH)
    path = tiles.path(above, number, width)
    if path not in kept:
        kept[path] = tiles.parse_hashes(await fetch(path), width)
    return merkle.complete_levels(kept[path][first : first + (1 << inside)])[-1][0]


def _checked(record: bytes, proof: TlogProof) -> RecordProof:
    checkpoint = parse_checkpoint(parse_note(proof.checkpoint).text)
    leaf = merkle.leaf_hash(record)
    merkle.verify_inclusion(leaf, proof.index, checkpoint.size, proof.hashes, checkpoint.root)
    return RecordProof(record, proof, checkpoint)


def verify_record_proof(text: bytes, record: bytes, anchors: Anchors) -> Proven:
    """Verify a proof. Raises ProofError.

    1. The text is a proof: ``lineage.proof_invalid``.
    2. Its checkpoint is of the anchored log, signed, cosigned and sealed as the anchors say: ``note.*``, ``checkpoint.*``.
    3. The record is at its index below that: ``lineage.proof_invalid``.
    4. It is a record: ``canonical.malformed``, ``lineage.record_malformed``.
    """
    # 1.
    proof = parse_tlog_proof(text)
    # 2.
    verified = anchors.verify_checkpoint(proof.checkpoint)
    # 3.
    try:
        verify_tlog_proof(proof, record, verified)
    except GateError as error:
        error.detail = f"this is not the proof of this record: {error.detail}"
        raise
    # 4.
    return Proven(proof.index, parse_record(record), verified)
