"""The Merkle tree of RFC 6962 §2.1: hashes, proofs, and an append-only builder that keeps only its right edge.

A *complete subtree* is named (level, index): it covers the leaves ``index << level`` up to ``(index + 1) << level``.
Once all its leaves exist its hash never changes, so that is what storage keeps and what ``Read`` answers. Everything
else is computed from those.

Proofs over a part [start, end) of a tree are the subtree proofs of draft-ietf-plants-merkle-tree-certs; the consistency
proofs of RFC 6962 are their special case with ``start`` 0.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

HASH_SIZE = 32
# A tree of 2^63 leaves is more than any log writes; sizes beyond are attacks on somebody's arithmetic.
MAX_SIZE = 1 << 63
# No proof needs more hashes than twice the height of the largest tree.
MAX_PROOF = 128

EMPTY_ROOT = hashlib.sha256(b"").digest()

Read: TypeAlias = Callable[[int, int], bytes]
"""``read(level, index)`` gives the hash of a complete subtree."""


def leaf_hash(data: bytes) -> bytes:
    """Hash of a leaf: SHA-256(0x00 ‖ data)."""
    return hashlib.sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Hash of an inner node: SHA-256(0x01 ‖ left ‖ right), each of 32 bytes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Node:
    """A complete subtree and its hash."""

    level: int
    index: int
    hash: bytes


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree as its size and the hashes of the complete subtrees on its right edge, largest first. Never changes."""

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def root(self) -> bytes:
        """The root hash; ``EMPTY_ROOT`` for no leaves."""
        return _fold(self.peaks) if self.peaks else EMPTY_ROOT


class Tree:
    """An append-only tree of which only the right edge is held.

    ``snapshot()`` costs nothing and ``restore()`` goes back to it, for a database transaction that has to be undone.
    """

    __slots__ = ("_peaks", "_size")

    def __init__(self, frontier: Frontier | None = None) -> None:
        start = frontier or Frontier()
        self._size = start.size
        self._peaks = start.peaks

    @property
    def size(self) -> int:
        """Number of leaves."""
        return self._size

    def append(self, leaf: bytes) -> list[Node]:
        """Add a leaf hash of 32 bytes. Storage has to keep what it completes: the leaf first, then inner nodes."""
        if len(leaf) != HASH_SIZE:
            raise ValueError(f"a leaf hash has {HASH_SIZE} bytes, not {len(leaf)}")
        level, index, current = 0, self._size, leaf
        made = [Node(level, index, current)]
        kept = len(self._peaks)
        while index & 1:
            kept -= 1
            current = node_hash(self._peaks[kept], current)
            level, index = level + 1, index >> 1
            made.append(Node(level, index, current))
        self._peaks = (*self._peaks[:kept], current)
        self._size += 1
        return made

    def root(self) -> bytes:
        """The root hash; ``EMPTY_ROOT`` for no leaves."""
        return self.snapshot().root()

    def snapshot(self) -> Frontier:
        """The tree as it is now."""
        return Frontier(self._size, self._peaks)

    def restore(self, frontier: Frontier) -> None:
        """Become the tree that ``frontier`` is."""
        self._size, self._peaks = frontier.size, frontier.peaks


def complete_levels(hashes: Sequence[bytes]) -> list[list[bytes]]:
    """The complete tree over a power of two of hashes, of leaves or of subtrees of one size: its levels, root last."""
    digest, levels = hashlib.sha256, [list(hashes)]
    while len(level := levels[-1]) > 1:  # ``node_hash``, without the call: a proof needs hundreds of these
        levels.append([digest(b"\x01" + level[at] + level[at + 1]).digest() for at in range(0, len(level), 2)])
    return levels


def root(leaf_hashes: Iterable[bytes]) -> bytes:
    """The root over leaf hashes of 32 bytes each."""
    tree = Tree()
    for leaf in leaf_hashes:
        tree.append(leaf)
    return tree.root()


def frontier(size: int, read: Read) -> Frontier:
    """The right edge of the tree of ``size`` leaves, so that a ``Tree`` can go on from what storage holds."""
    return Frontier(size, tuple(read(level, index) for level, index in _complete(0, size)))


def subtree_root(start: int, end: int, read: Read) -> bytes:
    """The hash of the leaves [start, end), which must be a valid subtree (see ``is_subtree``) and not empty."""
    return _fold([read(level, index) for level, index in _complete(start, end)])


def is_subtree(start: int, end: int) -> bool:
    """Whether [start, end) holds leaves and starts at a multiple of its size rounded up to a power of two."""
    return 0 <= start < end <= MAX_SIZE and start % (1 << (end - start - 1).bit_length()) == 0


def inclusion_proof(size: int, index: int, read: Read) -> list[bytes]:
    """PATH(index, D[size]) of RFC 6962 §2.1.1, from the leaf's sibling upwards. ValueError for an index outside."""
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    return _siblings(0, index, size, read)


def consistency_proof(old: int, new: int, read: Read) -> list[bytes]:
    """PROOF(old, D[new]) of RFC 6962 §2.1.2. ValueError unless 0 < old <= new."""
    return subtree_consistency_proof(0, old, new, read)


def subtree_consistency_proof(start: int, end: int, size: int, read: Read) -> list[bytes]:
    """Proof that the subtree [start, end) is part of the tree of ``size`` leaves. ValueError where it is none."""
    if not is_subtree(start, end) or end > size:
        raise ValueError(f"[{start}, {end}) is no subtree of a tree of {size}")
    if end == size:
        # Nothing joins the subtree on its right: only its siblings on the left are needed.
        level = (end - start - 1).bit_length()
        return _siblings(level, start >> level, size, read)
    # The last complete subtree inside [start, end), unless it is all of it and so known to the verifier already.
    level, index = _complete(start, end)[-1]
    first = [] if index << level == start else [read(level, index)]
    return first + _siblings(level, index, size, read)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root_hash: bytes) -> None:
    """Check that the leaf hash ``leaf`` is at ``index`` of the tree of ``size`` leaves with this root.

    RFC 9162 §2.1.3.2. Raises ProofError ``lineage.proof_invalid``.
    """
    _check_hashes(proof, leaf)
    if not 0 <= index < size <= MAX_SIZE:
        raise _invalid(f"there is no leaf {index} in a tree of {size}")
    number, last, current = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _invalid("the inclusion proof is longer than the tree is high")
        if number & 1 or number == last:
            current = node_hash(sibling, current)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        else:
            current = node_hash(current, sibling)
        number, last = number >> 1, last >> 1
    if last:
        raise _invalid("the inclusion proof is shorter than the tree is high")
    if current != root_hash:
        raise _invalid(f"the inclusion proof leads to root {current.hex()}, not to {root_hash.hex()}")


class KnownTree:
    """A tree of which the root is known, for many leaves: the ways of neighbours to the root are mostly the same.

    Where a way comes to a node that an earlier one came through, with the same hash and the same siblings above it, the
    rest was computed before. No proof is accepted that ``verify_inclusion`` would refuse.
    """

    __slots__ = ("_root", "_size", "_ways")

    def __init__(self, size: int, root_hash: bytes) -> None:
        self._size = size
        self._root = root_hash
        self._ways: dict[tuple[int, int], tuple[bytes, Sequence[bytes]]] = {}

    def verify_inclusion(self, leaf: bytes, index: int, proof: Sequence[bytes]) -> None:
        """As ``verify_inclusion`` does, and with the same errors."""
        if not self._joins(leaf, index, proof):
            verify_inclusion(leaf, index, self._size, proof, self._root)
            self._joins(leaf, index, proof, good=True)

    def _joins(self, leaf: bytes, index: int, proof: Sequence[bytes], *, good: bool = False) -> bool:
        """Whether this way comes to a known one. Then it is known itself, as it is where it is told to be ``good``."""
        digest, ways, passed = hashlib.sha256, self._ways, []
        level, number, last, current = 0, index, self._size - 1, leaf
        for at, sibling in enumerate(proof):
            if (known := ways.get((level, number))) is not None and known == (current, proof[at:]):
                good = True
                break
            passed.append(((level, number), (current, proof[at:])))
            if len(sibling) != HASH_SIZE or not 0 <= number <= last:
                return False
            if number & 1 or number == last:
                current = digest(b"\x01" + sibling + current).digest()
                while number and not number & 1:
                    level, number, last = level + 1, number >> 1, last >> 1
            else:
                current = digest(b"\x01" + current + sibling).digest()
            level, number, last = level + 1, number >> 1, last >> 1
        if good:
            ways.update(passed)
        return good


def head_at(leaf: bytes, index: int, size: int, proof: Sequence[bytes]) -> bytes:
    """The root of the first ``index`` + 1 leaves, from a verified inclusion proof of the last of them.

    What lies to the left of a leaf in an inclusion proof is what completes the tree that ends with it (RFC 9162 §2.1.3).
    """
    number, last, current = index, size - 1, leaf
    for sibling in proof:
        if number & 1 or number == last:
            current = node_hash(sibling, current)
            while number and not number & 1:
                number, last = number >> 1, last >> 1
        number, last = number >> 1, last >> 1
    return current


def verify_consistency(old_size: int, new_size: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the tree of ``new_size`` leaves only appended to that of ``old_size`` (RFC 9162 §2.1.4.2).

    The empty tree is a prefix of every tree: a proof from it proves nothing and is refused. Raises ProofError
    ``lineage.proof_invalid``.
    """
    verify_subtree_consistency(0, old_size, new_size, old_root, new_root, proof)


def verify_subtree_inclusion(
    leaf: bytes, index: int, start: int, end: int, proof: Sequence[bytes], subtree_hash: bytes
) -> None:
    """Check that ``leaf`` is at ``index`` of the subtree [start, end). Raises ProofError ``lineage.proof_invalid``."""
    if not is_subtree(start, end):
        raise _invalid(f"[{start}, {end}) is no subtree")
    verify_inclusion(leaf, index - start, end - start, proof, subtree_hash)


def verify_subtree_consistency(
    start: int, end: int, size: int, subtree_hash: bytes, root_hash: bytes, proof: Sequence[bytes]
) -> None:
    """Check that the subtree [start, end) with this hash is part of the tree of ``size`` leaves with this root.

    Raises ProofError ``lineage.proof_invalid``.
    """
    # 1. The sizes describe a subtree of the tree.
    if not is_subtree(start, end) or not end <= size <= MAX_SIZE:
        raise _invalid(f"[{start}, {end}) is no subtree of a tree of {size}")
    # 2. The whole tree is consistent with itself, with nothing to prove.
    if start == 0 and end == size:
        if proof:
            raise _invalid("a proof between two trees of the same size has no hashes")
        if subtree_hash != root_hash:
            raise _invalid("two roots of the same size differ")
        return
    _check_hashes(proof, subtree_hash)
    # 3. Start from the last complete subtree inside [start, end), or from all of it where that is the same.
    first, number, last = _seed_node(start, end - 1, size - 1)
    rest = iter(proof)
    seed = subtree_hash if first == number else next(rest, None)
    if seed is None:
        raise _invalid("the consistency proof is empty")
    # 4. Climb, rebuilding the subtree's hash from what lies inside it, and the root from everything.
    inner = outer = seed
    for sibling in rest:
        if last == 0:
            raise _invalid("the consistency proof is longer than the tree is high")
        if number & 1 or number == last:
            if first < number:
                inner = node_hash(sibling, inner)
            outer = node_hash(sibling, outer)
            while number and not number & 1:
                first, number, last = first >> 1, number >> 1, last >> 1
        else:
            outer = node_hash(outer, sibling)
        first, number, last = first >> 1, number >> 1, last >> 1
    # 5. Both must come out right.
    if last:
        raise _invalid("the consistency proof is shorter than the tree is high")
    if inner != subtree_hash:
        raise _invalid("the consistency proof does not lead to the older root")
    if outer != root_hash:
        raise _invalid("the consistency proof does not lead to the newer root")


def _seed_node(first: int, number: int, last: int) -> tuple[int, int, int]:
    """Climb while the node of the subtree's last leaf is the right child of a node that lies wholly inside it."""
    at_edge = number == last
    while first != number and (at_edge or number & 1):
        first, number, last = first >> 1, number >> 1, last >> 1
    return first, number, last


def _siblings(level: int, index: int, size: int, read: Read) -> list[bytes]:
    """Hashes beside the way from the node (level, index) to the root of a tree of ``size`` leaves."""
    proof: list[bytes] = []
    last = (size - 1) >> level
    while last:
        sibling = index ^ 1
        if sibling < last or (sibling == last and (last + 1) << level == size):
            proof.append(read(level, sibling))
        elif sibling == last:  # the ragged right edge
            proof.append(subtree_root(sibling << level, size, read))
        level, index, last = level + 1, index >> 1, last >> 1
    return proof


def _complete(start: int, end: int) -> list[tuple[int, int]]:
    """The complete subtrees (level, index) that make up [start, end), from left to right."""
    parts: list[tuple[int, int]] = []
    while start < end:
        level = (end - start).bit_length() - 1
        parts.append((level, start >> level))
        start += 1 << level
    return parts


def _fold(peaks: Sequence[bytes]) -> bytes:
    digest, current = hashlib.sha256, peaks[-1]
    for peak in reversed(peaks[:-1]):
        current = digest(b"\x01" + peak + current).digest()  # ``node_hash``, without the call
    return current


def _check_hashes(proof: Sequence[bytes], start: bytes) -> None:
    # Hashes of other lengths would let a node be cut at another place: 33 + 31 bytes hash like 32 + 32.
    if len(proof) > MAX_PROOF:
        raise _invalid(f"a proof of {len(proof)} hashes is over the maximum of {MAX_PROOF}")
    if len(start) != HASH_SIZE or any(len(item) != HASH_SIZE for item in proof):
        raise _invalid(f"a hash in a proof has not {HASH_SIZE} bytes")


def _invalid(detail: str) -> ProofError:
    return ProofError(GateReason.LINEAGE_PROOF_INVALID, detail)
