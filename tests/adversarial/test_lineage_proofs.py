"""Family O, the rows about proofs alone: forged ones, confused hashes, counted witnesses, second encodings, origins."""

import hashlib
import json
import random
import unicodedata
from dataclasses import replace
from typing import Any

import pytest

from tests.support.notes import NoteSigner
from tests.support.seals import CHECKPOINT, LOG, POLICY, WITNESSES, note, seal, verify
from ztrooted import canonical, merkle
from ztrooted.checkpoint import Checkpoint
from ztrooted.errors import ProofError
from ztrooted.note_keys import SignatureType
from ztrooted.reasons import GateReason

RECORDS = [canonical.encode({"number": number}) for number in range(100)]
LEAVES = [merkle.leaf_hash(record) for record in RECORDS]
NODES = {
    (node.level, node.index): node.hash for tree in [merkle.Tree()] for leaf in LEAVES for node in tree.append(leaf)
}


def read(level: int, index: int) -> bytes:
    return NODES[level, index]


def refused(reason: GateReason, call: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(ProofError) as caught:
        call(*args, **options)
    assert caught.value.reason is reason


def invalid(call: Any, *args: Any) -> None:
    refused(GateReason.LINEAGE_PROOF_INVALID, call, *args)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 63, 64, 65, 100])
def test_O7_no_bit_of_an_inclusion_proof_can_change(size: int) -> None:
    root = merkle.root(LEAVES[:size])
    for index in {0, size // 2, size - 1}:
        proof = merkle.inclusion_proof(size, index, read)
        merkle.verify_inclusion(LEAVES[index], index, size, proof, root)
        for place, item in enumerate(proof):
            for bit in range(0, 256, 41):
                flipped = (int.from_bytes(item, "big") ^ 1 << bit).to_bytes(32, "big")
                invalid(
                    merkle.verify_inclusion,
                    LEAVES[index],
                    index,
                    size,
                    [*proof[:place], flipped, *proof[place + 1 :]],
                    root,
                )


def test_O7_random_proofs_prove_nothing() -> None:
    rng = random.Random(7)  # noqa: S311 -- reproducible
    root = merkle.root(LEAVES)
    for _ in range(500):
        made = [rng.randbytes(32) for _ in range(rng.randrange(9))]
        invalid(merkle.verify_inclusion, rng.choice(LEAVES), rng.randrange(100), 100, made, root)
        invalid(merkle.verify_consistency, rng.randrange(1, 100), 100, rng.choice(LEAVES), root, made)


def test_O7_hashes_of_other_lengths_cannot_move_the_cut_between_two_nodes() -> None:
    """SHA-256(1 ‖ 33 bytes ‖ 31 bytes) is the same as of 32 and 32: only the lengths tell."""
    left, right = LEAVES[:2]
    root = merkle.node_hash(left, right)
    merkle.verify_inclusion(left, 0, 2, [right], root)
    assert merkle.node_hash(left + right[:1], right[1:]) == root
    invalid(merkle.verify_inclusion, left + right[:1], 0, 2, [right[1:]], root)
    invalid(merkle.verify_inclusion, right[1:], 1, 2, [left + right[:1]], root)
    invalid(merkle.verify_consistency, 1, 2, left + right[:1], root, [right[1:]])
    invalid(merkle.verify_inclusion, b"", 0, 2, [left + right], root)


def test_O7_a_rewritten_past_is_not_consistent() -> None:
    changed = [*LEAVES[:40], merkle.leaf_hash(b"rewritten"), *LEAVES[41:]]
    proof = merkle.consistency_proof(50, 100, read)
    invalid(merkle.verify_consistency, 50, 100, merkle.root(LEAVES[:50]), merkle.root(changed), proof)
    invalid(merkle.verify_consistency, 50, 100, merkle.root(changed[:50]), merkle.root(LEAVES), proof)


def test_O8_an_inner_node_is_no_leaf() -> None:
    root = merkle.root(LEAVES[:4])
    node = merkle.node_hash(LEAVES[0], LEAVES[1])
    sibling = merkle.node_hash(LEAVES[2], LEAVES[3])
    # In a tree of two leaves whose hashes those were, this would be a proof; the size says that it isn't.
    invalid(merkle.verify_inclusion, node, 0, 4, [sibling], root)
    # And a record that *is* two hashes has another leaf hash than the node above them.
    assert merkle.leaf_hash(LEAVES[0] + LEAVES[1]) != node
    assert merkle.leaf_hash(b"\x01" + LEAVES[0] + LEAVES[1]) != node


def test_O8_an_odd_last_leaf_is_not_doubled() -> None:
    three = merkle.root(LEAVES[:3])
    assert three != merkle.root([*LEAVES[:3], LEAVES[2]])
    left = merkle.node_hash(LEAVES[0], LEAVES[1])
    invalid(merkle.verify_inclusion, LEAVES[2], 3, 4, [LEAVES[2], left], three)
    invalid(merkle.verify_inclusion, LEAVES[2], 2, 3, [LEAVES[2], left], three)
    doubled = merkle.node_hash(left, merkle.node_hash(LEAVES[2], LEAVES[2]))
    invalid(merkle.verify_inclusion, LEAVES[2], 2, 3, [left], doubled)


def test_O13_a_witness_counts_once_however_often_it_signs() -> None:
    line = WITNESSES[0].sign(CHECKPOINT.text)
    later = WITNESSES[0].sign(CHECKPOINT.text, time=1_900_000_000)
    keys = [witness.key for witness in WITNESSES]
    refused(GateReason.CHECKPOINT_QUORUM, verify, note(line, line), witnesses=keys, quorum=2)
    refused(GateReason.CHECKPOINT_QUORUM, verify, note(line, later), witnesses=keys, quorum=2)
    assert len(verify(note(line, line, later), witnesses=keys, quorum=1).cosigners) == 1


def test_O13_a_witness_under_two_names_counts_once() -> None:
    twin = NoteSigner.of("other.test/witness", SignatureType.ED25519_COSIGNATURE, WITNESSES[0].private)
    data = note(WITNESSES[0].sign(CHECKPOINT.text), twin.sign(CHECKPOINT.text))
    refused(GateReason.CHECKPOINT_QUORUM, verify, data, witnesses=[WITNESSES[0].key, twin.key], quorum=2)


def test_O13_the_log_is_not_its_own_witness() -> None:
    log = NoteSigner.of(CHECKPOINT.origin, SignatureType.ED25519)
    itself = NoteSigner.of("witness.test", SignatureType.ED25519_COSIGNATURE, log.private)
    data = note(itself.sign(CHECKPOINT.text), log=log)
    refused(GateReason.CHECKPOINT_QUORUM, verify, data, log_key=log.key, witnesses=[itself.key], quorum=1)


RECORD = {"at": 1, "body": {"note": "caf\u00e9"}, "type": "gateway.started"}


@pytest.mark.parametrize(
    "data",
    [
        json.dumps(RECORD).encode(),
        json.dumps(RECORD, separators=(",", ":")).encode(),
        json.dumps(dict(reversed(RECORD.items())), ensure_ascii=False, separators=(",", ":")).encode(),
        canonical.encode(RECORD).replace(b'"at":1', b'"at":1.0'),
        canonical.encode(RECORD).replace(b'"at":1', b'"at":1,"at":1'),
        canonical.encode(RECORD).replace(b'"at":1', b'"at":01'),
        canonical.encode(RECORD).replace(b"gateway", b"\\u0067ateway"),
        canonical.encode(RECORD) + b"\n",
        b"\xef\xbb\xbf" + canonical.encode(RECORD),
    ],
)
def test_O14_a_second_encoding_of_a_record_is_refused(data: bytes) -> None:
    refused(GateReason.CANONICAL_MALFORMED, canonical.decode, data)


def test_O14_strings_that_look_alike_are_different_records() -> None:
    other = json.loads(unicodedata.normalize("NFD", json.dumps(RECORD, ensure_ascii=False)))
    assert canonical.decode(canonical.encode(other)) == other
    assert canonical.encode(other) != canonical.encode(RECORD)


@pytest.mark.parametrize("value", [1.5, 1.0, float("nan"), 2**53])
def test_O14_numbers_with_more_than_one_form_are_never_written(value: float) -> None:
    refused(GateReason.CANONICAL_MALFORMED, canonical.encode, {"at": value})


@pytest.mark.parametrize("origin", ["other.test/lineage", "log.test/lineage/", "LOG.test/lineage", "log.test"])
def test_O19_a_checkpoint_of_another_log_is_refused(origin: str) -> None:
    """Also when the same key signed it, under either name."""
    other = replace(CHECKPOINT, origin=origin)
    signer = NoteSigner.of(origin, SignatureType.ECDSA, LOG.private)
    refused(GateReason.CHECKPOINT_ORIGIN, verify, note(checkpoint=other, log=signer))
    refused(GateReason.CHECKPOINT_ORIGIN, verify, note(checkpoint=other))
    refused(GateReason.CHECKPOINT_ORIGIN, verify, note(checkpoint=other), log_key=signer.key)


def test_O19_a_seal_of_another_log_is_not_this_ones() -> None:
    other = Checkpoint("other.test/lineage", CHECKPOINT.size, hashlib.sha256(b"other").digest())
    moved = replace(seal(other), name=CHECKPOINT.origin)
    assert verify(note(moved)).sealed is False
    refused(GateReason.CHECKPOINT_SEAL, verify, note(moved), seal=POLICY)
    refused(GateReason.CHECKPOINT_SEAL, verify, note(replace(moved, key_id=seal().key_id)), seal=POLICY)
