"""A copy of a log that somebody else keeps: a static directory (C2SP tlog-tiles) that anything can serve or follow.

Each update verifies before it keeps:

1. The checkpoint is the log's, signed and sealed as the anchors say.
2. It is not older than the one kept here, and not another one of the same size: ``checkpoint.split_view``.
3. The hashes kept here still give the root kept here: ``lineage.chain_broken``.
4. The records that came since, behind those kept here, give the new root: ``checkpoint.split_view``. A log that changed
   anything that was ever mirrored can't produce them.

Files are written beside their place and renamed, the checkpoint last, each on the disk before the next: who is
interrupted goes on where he was. One process at a time works in a folder.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ztrooted import merkle, tiles
from ztrooted.anchors import Anchors
from ztrooted.checkpoint import Checkpoint
from ztrooted.errors import ProofError
from ztrooted.kept_files import locked, publish, replace, stage
from ztrooted.reasons import GateReason

CHECKPOINT = "checkpoint"
LOCK = ".lock"
Fetch = Callable[[str], Awaitable[bytes]]


@dataclass(frozen=True, slots=True)
class Updated:
    """What an update did: the log's size before and now, and its root now (32 bytes)."""

    before: int
    size: int
    root: bytes

    def encode(self) -> dict[str, object]:
        """For scripts."""
        return {"before": self.before, "size": self.size, "root": self.root.hex()}


class Mirror:
    """A mirror in ``folder`` of the log that ``anchors`` describe."""

    def __init__(self, folder: Path, anchors: Anchors) -> None:
        self._folder = folder
        self._anchors = anchors

    async def update(self, fetch: Fetch) -> Updated:
        """Bring it up to date; ``fetch`` gets a file of the log by its path. ProofError with the first check that fails."""
        with locked(self._folder / LOCK, wait=False):
            return await self._update(fetch)

    async def _update(self, fetch: Fetch) -> Updated:
        note = await fetch(CHECKPOINT)
        new, kept = self._verified(note), self._kept()  # 1.
        compare(kept, new)  # 2.
        if new.size > kept.size or not self._path(CHECKPOINT).exists():
            await self._extend(kept, new, fetch)
        replace(self._path(CHECKPOINT), note)
        return Updated(kept.size, new.size, new.root)

    def _verified(self, note: bytes, *, witnessed: bool = True) -> Checkpoint:
        return verified(note, self._anchors, witnessed=witnessed)

    def _kept(self) -> Checkpoint:
        path = self._path(CHECKPOINT)
        if not path.exists():
            return Checkpoint(self._anchors.origin, 0, merkle.EMPTY_ROOT)
        # It was verified when it was kept, by anchors that may have demanded fewer witnesses.
        return self._verified(path.read_bytes(), witnessed=False)

    async def _extend(self, kept: Checkpoint, new: Checkpoint, fetch: Fetch) -> None:
        # 3.
        start = merkle.frontier(kept.size, partial(self._read, kept.size))
        if start.root() != kept.root:
            raise ProofError(
                GateReason.LINEAGE_CHAIN_BROKEN, f"the hashes in {self._folder} are not those of its own checkpoint"
            )
        # 4.
        tree, made, staged = merkle.Tree(start), self._edges(kept.size), []
        for number, width in tiles.tiles_of(new.size, kept.size):
            data = await fetch(tiles.path("entries", number, width))
            entries = tiles.parse_entries(data, width)
            known = max(tree.size - number * tiles.WIDTH, 0)  # of these, the last tile kept here has the hashes
            if [merkle.leaf_hash(entry) for entry in entries[:known]] != made.get(0, [])[:known]:
                raise split(f"among the first {kept.size} records are others than before")
            staged.append(self._stage(tiles.path("entries", number, width), data))
            for entry in entries[known:]:
                for node in tree.append(merkle.leaf_hash(entry)):
                    level, inside = divmod(node.level, tiles.HEIGHT)
                    if not inside:
                        made.setdefault(level, []).append(node.hash)
                        if len(made[level]) == tiles.WIDTH:
                            path = tiles.path(level, node.index // tiles.WIDTH)
                            staged.append(self._stage(path, b"".join(made.pop(level))))
        if tree.root() != new.root:
            raise split(f"the records behind the first {kept.size} do not give the root of its checkpoint")
        for level, hashes in made.items():
            number = (new.size >> tiles.HEIGHT * level) // tiles.WIDTH
            staged.append(self._stage(tiles.path(level, number, len(hashes)), b"".join(hashes)))
        for fresh in staged:
            publish(fresh)

    def _edges(self, size: int) -> dict[int, list[bytes]]:
        """The incomplete tile of each level that is kept here."""
        edges, level = {}, 0
        while count := size >> tiles.HEIGHT * level:
            if width := count % tiles.WIDTH:
                edges[level] = self._hashes(level, count // tiles.WIDTH, width)
            level += 1
        return edges

    def _hashes(self, level: int, number: int, width: int) -> list[bytes]:
        whole = self._path(tiles.path(level, number))
        if whole.exists():
            return tiles.parse_hashes(whole.read_bytes(), tiles.WIDTH)[:width]
        return tiles.parse_hashes(self._path(tiles.path(level, number, width)).read_bytes(), width)

    def _read(self, size: int, level: int, index: int) -> bytes:
        """As ``merkle.Read``, from the tiles kept here of a log of ``size`` records."""
        tile_level, inside = divmod(level, tiles.HEIGHT)
        number, first = divmod(index << inside, tiles.WIDTH)
        width = min(tiles.WIDTH, (size >> tiles.HEIGHT * tile_level) - number * tiles.WIDTH)
        hashes = self._hashes(tile_level, number, width)[first : first + (1 << inside)]
        return merkle.complete_levels(hashes)[-1][0]

    def _path(self, name: str) -> Path:
        return self._folder / name

    def _stage(self, name: str, data: bytes) -> Path:
        """Write a file beside its place, to be renamed once everything is verified."""
        return stage(self._path(name), data)


def verified(note: bytes, anchors: Anchors, *, witnessed: bool = True) -> Checkpoint:
    """A checkpoint that the anchored log signed, its TPM sealed, and witnesses cosigned as is demanded.

    ProofError ``note.*`` or ``checkpoint.*``.
    """
    return anchors.verify_checkpoint(note, witnessed=witnessed).checkpoint


def compare(kept: Checkpoint, new: Checkpoint) -> None:
    """A log neither shrinks nor has two roots of one size. ProofError ``checkpoint.split_view``."""
    if new.size < kept.size:
        raise split(f"it has {new.size} records now, and had {kept.size}")
    if new.size == kept.size and new.root != kept.root:
        raise split(f"it shows another tree of {new.size} records than before")


def split(detail: str) -> ProofError:
    """Two histories."""
    return ProofError(GateReason.CHECKPOINT_SPLIT_VIEW, f"the log is not the one that is kept here: {detail}")
