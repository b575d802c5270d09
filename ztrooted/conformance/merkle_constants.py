"""Constants of other implementations of the tree: roots, nodes, and digests over all proofs of a tree."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ztrooted import merkle
from ztrooted.conformance.results import Case, Expectation, NotApplicableError

_KIND = "merkle_constants"
_RIGHT = Expectation("accept")

# Accumulated digests grow with the cube of the tree.
MAX_ACCUMULATED = 256


class _Store:
    """A tree with all its complete subtrees."""

    def __init__(self, leaves: Sequence[bytes]) -> None:
        self.nodes: dict[tuple[int, int], bytes] = {}
        tree = merkle.Tree()
        for leaf in leaves:
            self.nodes.update({(node.level, node.index): node.hash for node in tree.append(leaf)})

    def read(self, level: int, index: int) -> bytes:
        return self.nodes[level, index]


def cases_of(document: Mapping[str, Any]) -> Iterator[Case]:
    """The constants in a parsed file."""
    if "leaf_inputs_hex" in document:
        yield from _tree_cases(document)
    if isinstance(document.get("digests"), dict):
        yield from _accumulated_cases(document)


def _tree_cases(document: Mapping[str, Any]) -> Iterator[Case]:
    inputs = [bytes.fromhex(item) for item in document["leaf_inputs_hex"]]
    store = _Store([merkle.leaf_hash(item) for item in inputs])
    for size, root in enumerate(document.get("root_hash_by_size_hex") or []):
        yield f"root {size}", _KIND, _RIGHT, _equal(merkle.frontier(size, store.read).root().hex(), root)
    for level, nodes in enumerate(document.get("node_hashes_hex_by_level") or []):
        for index, node in enumerate(nodes):
            yield f"node {level}:{index}", _KIND, _RIGHT, _equal(store.read(level, index).hex(), node)


def _equal(found: str, expected: str) -> Callable[[], None]:
    def compare() -> None:
        if found != expected:
            raise ValueError(f"{found}, expected {expected}")

    return compare


def _accumulated_cases(document: Mapping[str, Any]) -> Iterator[Case]:
    count = int(document.get("max", 0))
    known: dict[str, Callable[[_Store, int], str]] = {
        "TestSubtreeHashVectors": _subtree_hashes,
        "TestSubtreeInclusionProofVectors": _inclusion_proofs,
        "TestSubtreeConsistencyProofVectors": _consistency_proofs,
    }
    for name, expected in document["digests"].items():
        yield name, _KIND, _RIGHT, _accumulated(known.get(name), count, expected)


def _accumulated(digest: Callable[[_Store, int], str] | None, count: int, expected: str) -> Callable[[], None]:
    def compare() -> None:
        if digest is None:
            raise NotApplicableError("a digest over something that is not computed here")
        if not 0 < count <= MAX_ACCUMULATED:
            raise NotApplicableError(f"over a tree of {count} leaves")
        store = _Store([merkle.leaf_hash(bytes([index])) for index in range(count)])
        _equal(digest(store, count), expected)()

    return compare


def _subtrees(count: int) -> Iterator[tuple[int, int]]:
    """[start, end) of every subtree of a tree of ``count`` leaves, and of every empty range, by their ends."""
    for end in range(count + 1):
        yield from ((start, end) for start in range(end + 1) if start == end or merkle.is_subtree(start, end))


def _subtree_hashes(store: _Store, count: int) -> str:
    hashes = hashlib.sha256()
    for start, end in _subtrees(count):
        root = merkle.EMPTY_ROOT if start == end else merkle.subtree_root(start, end, store.read)
        hashes.update(f"[{start}, {end}) {root.hex()}\n".encode())
    return hashes.hexdigest()


def _inclusion_proofs(store: _Store, count: int) -> str:
    """Every proof is also verified."""
    hashes = hashlib.sha256()
    for start, end in _subtrees(count):
        if start == end:
            continue
        root = merkle.subtree_root(start, end, store.read)
        for index in range(start, end):
            proof = merkle.inclusion_proof(
                end - start,
                index - start,
                lambda level, at, start=start: store.read(level, at + (start >> level)),  # type: ignore[misc]
            )
            merkle.verify_subtree_inclusion(store.read(0, index), index, start, end, proof, root)
            hashes.update(f"{index} [{start}, {end}){_hex(proof)}".encode())
    return hashes.hexdigest()


def _consistency_proofs(store: _Store, count: int) -> str:
    """Every proof is also verified."""
    hashes = hashlib.sha256()
    for size in range(count + 1):
        root = merkle.frontier(size, store.read).root()
        for start, end in _subtrees(size):
            if start == end:
                hashes.update(f"[{start}, {end}) {size}\n".encode())
                continue
            proof = merkle.subtree_consistency_proof(start, end, size, store.read)
            known = merkle.subtree_root(start, end, store.read)
            merkle.verify_subtree_consistency(start, end, size, known, root, proof)
            hashes.update(f"[{start}, {end}) {size}{_hex(proof)}".encode())
    return hashes.hexdigest()


def _hex(proof: Sequence[bytes]) -> str:
    return "".join(f" {item.hex()}" for item in proof) + "\n"
