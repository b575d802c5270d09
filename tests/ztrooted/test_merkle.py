"""The tree against RFC 6962's own definitions, other people's vectors, and a naive implementation."""

import base64
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import corpus
from tests.support.pace import at_most
from ztrooted import merkle
from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

SIZES = st.integers(1, 80)


def leaves(count: int) -> list[bytes]:
    return [merkle.leaf_hash(bytes([number])) for number in range(count)]


class Store:
    """The complete subtrees of a tree, as storage keeps them."""

    def __init__(self, hashes: Sequence[bytes]) -> None:
        self.tree = merkle.Tree()
        self.nodes: dict[tuple[int, int], bytes] = {}
        self.reads = 0
        for leaf in hashes:
            for node in self.tree.append(leaf):
                assert (node.level, node.index) not in self.nodes
                self.nodes[node.level, node.index] = node.hash

    def read(self, level: int, index: int) -> bytes:
        self.reads += 1
        return self.nodes[level, index]


# RFC 6962 §2.1, word for word: MTH, PATH, PROOF and SUBPROOF.


def mth(hashes: Sequence[bytes]) -> bytes:
    if not hashes:
        return hashlib.sha256().digest()
    if len(hashes) == 1:
        return hashes[0]
    k = split(len(hashes))
    return hashlib.sha256(b"\x01" + mth(hashes[:k]) + mth(hashes[k:])).digest()


def split(count: int) -> int:
    return 1 << (count - 1).bit_length() - 1


def path(index: int, hashes: Sequence[bytes]) -> list[bytes]:
    if len(hashes) == 1:
        return []
    k = split(len(hashes))
    if index < k:
        return [*path(index, hashes[:k]), mth(hashes[k:])]
    return [*path(index - k, hashes[k:]), mth(hashes[:k])]


def subproof(old: int, hashes: Sequence[bytes], known: bool) -> list[bytes]:
    if old == len(hashes):
        return [] if known else [mth(hashes)]
    k = split(len(hashes))
    if old <= k:
        return [*subproof(old, hashes[:k], known), mth(hashes[k:])]
    return [*subproof(old - k, hashes[k:], False), mth(hashes[:k])]


def test_roots_are_those_of_the_definition() -> None:
    hashes = leaves(130)
    tree = merkle.Tree()
    assert tree.root() == merkle.EMPTY_ROOT == mth([])
    for size, leaf in enumerate(hashes, 1):
        tree.append(leaf)
        assert tree.size == size
        assert tree.root() == mth(hashes[:size]) == merkle.root(hashes[:size])


@given(SIZES, st.data())
def test_inclusion_proofs_are_those_of_the_definition_and_verify(size: int, data: st.DataObject) -> None:
    index = data.draw(st.integers(0, size - 1))
    hashes = leaves(80)
    store = Store(hashes)  # holds more than the tree asked about
    proof = merkle.inclusion_proof(size, index, store.read)
    assert proof == path(index, hashes[:size])
    merkle.verify_inclusion(hashes[index], index, size, proof, mth(hashes[:size]))


@given(st.integers(1, 20), st.data())
def test_a_known_tree_accepts_what_each_proof_alone_proves(size: int, data: st.DataObject) -> None:
    hashes = leaves(size)
    root, index = mth(hashes), data.draw(st.integers(0, size - 1))
    proof, tree = path(index, hashes), merkle.KnownTree(size, root)
    for known in data.draw(st.lists(st.integers(0, size - 1), max_size=4)):
        tree.verify_inclusion(hashes[known], known, path(known, hashes))
    for place in range(len(proof)):
        flipped = [*proof[:place], bytes([proof[place][0] ^ 1]) + proof[place][1:], *proof[place + 1 :]]
        for wrong in (flipped, proof[:place], [*proof[:place], proof[place][:31], *proof[place + 1 :]]):
            refused(tree.verify_inclusion, hashes[index], index, wrong)
    refused(tree.verify_inclusion, hashes[index], index, [*proof, root])
    refused(tree.verify_inclusion, merkle.leaf_hash(b"other"), index, proof)
    for other in (index - 1, index + 1, size):
        refused(tree.verify_inclusion, hashes[index], other, proof)
    tree.verify_inclusion(hashes[index], index, proof)


@given(SIZES, st.data())
def test_consistency_proofs_are_those_of_the_definition_and_verify(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    hashes = leaves(80)
    proof = merkle.consistency_proof(old, new, Store(hashes).read)
    assert proof == subproof(old, hashes[:new], True)
    merkle.verify_consistency(old, new, mth(hashes[:old]), mth(hashes[:new]), proof)


@given(SIZES, st.data())
def test_an_inclusion_proof_proves_nothing_else(size: int, data: st.DataObject) -> None:
    index, other_index = data.draw(st.integers(0, size - 1)), data.draw(st.integers(-2, 90))
    other_size = data.draw(st.integers(-2, 90))
    hashes = leaves(90)
    root = mth(hashes[:size])
    proof = path(index, hashes[:size])
    if other_index != index:
        refused(merkle.verify_inclusion, hashes[index], other_index, size, proof, root)
    refused(merkle.verify_inclusion, merkle.leaf_hash(b"other"), index, size, proof, root)
    refused(merkle.verify_inclusion, hashes[index], index, size, [*proof, root], root)
    refused(merkle.verify_inclusion, hashes[index], index, size, proof, mth(hashes[: size + 1]))
    for place in range(len(proof)):
        refused(merkle.verify_inclusion, hashes[index], index, size, proof[:place] + proof[place + 1 :], root)
        flipped = [*proof[:place], bytes([proof[place][0] ^ 1]) + proof[place][1:], *proof[place + 1 :]]
        refused(merkle.verify_inclusion, hashes[index], index, size, flipped, root)
    if not 0 <= index < other_size or len(path(index, hashes[:other_size])) != len(proof):
        refused(merkle.verify_inclusion, hashes[index], index, other_size, proof, root)


@given(SIZES, st.data())
def test_a_consistency_proof_proves_nothing_else(new: int, data: st.DataObject) -> None:
    old = data.draw(st.integers(1, new))
    hashes = leaves(90)
    old_root, new_root = mth(hashes[:old]), mth(hashes[:new])
    proof = subproof(old, hashes[:new], True)
    wrong = merkle.leaf_hash(b"other")
    refused(merkle.verify_consistency, old, new, wrong, new_root, proof)
    refused(merkle.verify_consistency, old, new, old_root, wrong, proof)
    refused(merkle.verify_consistency, old, new, old_root, new_root, [*proof, wrong])
    if old != new:
        refused(merkle.verify_consistency, old, new, new_root, old_root, proof)
        refused(merkle.verify_consistency, new, old, new_root, old_root, proof)
        refused(merkle.verify_consistency, old, new, old_root, new_root, [])
    for place in range(len(proof)):
        shorter, changed = proof[:place] + proof[place + 1 :], [*proof[:place], wrong, *proof[place + 1 :]]
        refused(merkle.verify_consistency, old, new, old_root, new_root, shorter)
        refused(merkle.verify_consistency, old, new, old_root, new_root, changed)


def test_nothing_is_consistent_with_the_empty_tree() -> None:
    root = mth(leaves(3))
    refused(merkle.verify_consistency, 0, 3, merkle.EMPTY_ROOT, root, [])
    refused(merkle.verify_consistency, 0, 0, merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, [])
    refused(merkle.verify_consistency, -1, 3, merkle.EMPTY_ROOT, root, [])


def test_sizes_beyond_any_log_are_refused() -> None:
    leaf = leaves(1)[0]
    refused(merkle.verify_inclusion, leaf, 0, 1 << 64, [leaf] * 64, leaf)
    refused(merkle.verify_consistency, 1, 1 << 64, leaf, leaf, [leaf] * 64)
    refused(merkle.verify_inclusion, leaf, 0, 1, [leaf] * 129, leaf)


def test_a_tree_is_not_consistent_with_a_smaller_one() -> None:
    root = mth(leaves(2))
    refused(merkle.verify_consistency, 2, 1, root, root, [])


def test_a_proof_over_what_is_no_subtree_is_refused() -> None:
    hashes = leaves(4)
    refused(merkle.verify_subtree_inclusion, hashes[1], 1, 1, 3, [hashes[2]], merkle.node_hash(hashes[1], hashes[2]))
    merkle.verify_subtree_inclusion(hashes[2], 2, 2, 4, [hashes[3]], merkle.node_hash(hashes[2], hashes[3]))


def test_the_form_of_a_proof_is_looked_at_before_anything_is_hashed() -> None:
    leaf = leaves(1)[0]
    with pytest.raises(ProofError, match="129 hashes"):
        merkle.verify_inclusion(leaf, 0, 2, [leaf] * 129, leaf)
    for wrong in (b"", leaf[:31], leaf + b"x"):
        with pytest.raises(ProofError, match="has not 32 bytes"):
            merkle.verify_inclusion(leaf, 0, 2, [wrong], leaf)
        with pytest.raises(ProofError, match="has not 32 bytes"):
            merkle.verify_consistency(3, 4, leaf, leaf, [leaf, wrong, leaf])


def test_proofs_about_leaves_that_are_not_there_cannot_be_asked_for() -> None:
    store = Store(leaves(4))
    for index in (-1, 4):
        with pytest.raises(ValueError, match="no leaf"):
            merkle.inclusion_proof(4, index, store.read)
    for old in (0, 5):
        with pytest.raises(ValueError, match="no subtree"):
            merkle.consistency_proof(old, 4, store.read)


def test_a_tree_goes_on_from_what_storage_holds() -> None:
    hashes = leaves(50)
    for size in range(51):
        store = Store(hashes[:size])
        resumed = merkle.Tree(merkle.frontier(size, store.read))
        assert resumed.snapshot() == store.tree.snapshot()
        resumed.append(hashes[0])
        assert resumed.root() == mth([*hashes[:size], hashes[0]])


def test_a_snapshot_brings_the_tree_back() -> None:
    tree = merkle.Tree()
    for leaf in leaves(21):
        tree.append(leaf)
    before, root = tree.snapshot(), tree.root()
    for leaf in leaves(13):
        tree.append(leaf)
    assert before.root() == root != tree.root()
    tree.restore(before)
    assert (tree.size, tree.root()) == (21, root)


def test_leaves_of_other_lengths_cannot_be_appended() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        merkle.Tree().append(b"short")


def test_a_proof_among_a_million_leaves_reads_only_its_height() -> None:
    """Complete subtrees of equal leaves are one hash a level, so the tree needs no memory."""
    levels = [merkle.leaf_hash(b"")]
    for _ in range(20):
        levels.append(merkle.node_hash(levels[-1], levels[-1]))
    size, reads = 1_000_000, 0

    def read(level: int, _: int) -> bytes:
        nonlocal reads
        reads += 1
        return levels[level]

    root = merkle.frontier(size, read).root()
    reads = 0
    with at_most(1):
        for index in range(0, size, 10_007):
            merkle.verify_inclusion(levels[0], index, size, merkle.inclusion_proof(size, index, read), root)
    assert reads <= 100 * 30


# --- other people's vectors ----------------------------------------------------------------------------------------


def _vectors(kind: str) -> list[Any]:
    folder = corpus.ROOT / "lineage" / "merkle" / kind
    if not folder.is_dir():
        return [pytest.param(None, marks=pytest.mark.skip(reason=f"no {kind} vectors at {folder}"), id="no-corpus")]
    return [pytest.param(path, id=str(path.relative_to(folder))) for path in sorted(folder.rglob("*.json"))]


def b64(text: str | None) -> bytes:
    return base64.b64decode(text or "")


def proof_of(case: dict[str, Any]) -> list[bytes]:
    return [b64(item) for item in case["proof"] or []]


@pytest.mark.parametrize("vector", _vectors("inclusion"))
def test_inclusion_vectors(vector: Path) -> None:
    case = json.loads(vector.read_text())
    arguments = (b64(case["leafHash"]), case["leafIdx"], case["treeSize"], proof_of(case), b64(case["root"]))
    judged(case, merkle.verify_inclusion, *arguments)


@pytest.mark.parametrize("vector", _vectors("consistency"))
def test_consistency_vectors(vector: Path) -> None:
    case = json.loads(vector.read_text())
    arguments = (case["size1"], case["size2"], b64(case["root1"]), b64(case["root2"]), proof_of(case))
    judged(case, merkle.verify_consistency, *arguments)


def test_constants_of_other_implementations() -> None:
    data = json.loads((corpus.folder("lineage") / "merkle_constants" / "rfc6962_tree.json").read_text())
    store = Store([merkle.leaf_hash(bytes.fromhex(item)) for item in data["leaf_inputs_hex"]])
    for size, expected in enumerate(data["root_hash_by_size_hex"]):
        assert merkle.frontier(size, store.read).root().hex() == expected
    for level, nodes in enumerate(data["node_hashes_hex_by_level"]):
        for index, expected in enumerate(nodes):
            assert store.nodes[level, index].hex() == expected


def test_accumulated_subtree_vectors() -> None:
    """One digest over all subtrees, and all their proofs, of a tree of 130 leaves; each proof is verified besides.

    The vectors begin with empty subtrees, which prove nothing and which we have no proofs for.
    """
    data = json.loads((corpus.folder("lineage") / "merkle_constants" / "mtc_accumulated.json").read_text())
    count = data["max"]
    store = Store(leaves(count))
    roots = [merkle.frontier(size, store.read).root() for size in range(count + 1)]
    hashes, inclusion, consistency = hashlib.sha256(), hashlib.sha256(), hashlib.sha256()
    for end in range(count + 1):
        for start in range(end + 1):
            if start == end:
                hashes.update(f"[{start}, {end}) {merkle.EMPTY_ROOT.hex()}\n".encode())
            elif merkle.is_subtree(start, end):
                hashes.update(f"[{start}, {end}) {merkle.subtree_root(start, end, store.read).hex()}\n".encode())
                for index, proof in _inclusions(store, start, end):
                    inclusion.update(f"{index} [{start}, {end})".encode() + _hex(proof))
    for size in range(count + 1):
        for end in range(size + 1):
            for start in range(end + 1):
                if start == end:
                    consistency.update(f"[{start}, {end}) {size}\n".encode())
                elif merkle.is_subtree(start, end):
                    proof = merkle.subtree_consistency_proof(start, end, size, store.read)
                    known = merkle.subtree_root(start, end, store.read)
                    merkle.verify_subtree_consistency(start, end, size, known, roots[size], proof)
                    consistency.update(f"[{start}, {end}) {size}".encode() + _hex(proof))
    assert hashes.hexdigest() == data["digests"]["TestSubtreeHashVectors"]
    assert inclusion.hexdigest() == data["digests"]["TestSubtreeInclusionProofVectors"]
    assert consistency.hexdigest() == data["digests"]["TestSubtreeConsistencyProofVectors"]


def _inclusions(store: Store, start: int, end: int) -> list[tuple[int, list[bytes]]]:
    known = merkle.subtree_root(start, end, store.read)
    made = []
    for index in range(start, end):
        proof = merkle.inclusion_proof(end - start, index - start, lambda lv, at: store.nodes[lv, at + (start >> lv)])
        merkle.verify_subtree_inclusion(store.nodes[0, index], index, start, end, proof, known)
        made.append((index, proof))
    return made


def _hex(proof: Sequence[bytes]) -> bytes:
    return "".join(f" {item.hex()}" for item in proof).encode() + b"\n"


def judged(case: dict[str, Any], verify: Any, *arguments: Any) -> None:
    if case["wantErr"]:
        refused(verify, *arguments)
    else:
        verify(*arguments)


def refused(verify: Any, *arguments: Any) -> None:
    with pytest.raises(ProofError) as caught:
        verify(*arguments)
    assert caught.value.reason is GateReason.LINEAGE_PROOF_INVALID
