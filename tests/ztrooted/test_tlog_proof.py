"""The text of one record's proof: read back as written, refused in every other form, and only true of its record."""

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.seals import CHECKPOINT, RECORDS, note, verify
from ztrooted import merkle
from ztrooted.checkpoint import parse_checkpoint
from ztrooted.errors import ProofError
from ztrooted.note import parse_note
from ztrooted.reasons import GateReason
from ztrooted.tlog_proof import TlogProof, format_tlog_proof, parse_tlog_proof, verify_tlog_proof

NODES = {
    (node.level, node.index): node.hash
    for tree in [merkle.Tree()]
    for record in RECORDS
    for node in tree.append(merkle.leaf_hash(record))
}
NOTE = note()


def proof(index: int) -> TlogProof:
    hashes = merkle.inclusion_proof(len(RECORDS), index, lambda level, at: NODES[level, at])
    return TlogProof(index, tuple(hashes), NOTE)


TEXT = format_tlog_proof(proof(3))


def refused(call: Any, *args: Any) -> None:
    with pytest.raises(ProofError) as caught:
        call(*args)
    assert caught.value.reason is GateReason.LINEAGE_PROOF_INVALID


@given(st.integers(0, 2**62), st.lists(st.binary(min_size=32, max_size=32), max_size=70), st.none() | st.binary())
def test_a_proof_is_read_back_as_written(index: int, hashes: list[bytes], extra: bytes | None) -> None:
    made = TlogProof(index, tuple(hashes), NOTE, extra)
    assert parse_tlog_proof(format_tlog_proof(made)) == made


def test_the_text_is_that_of_the_specification() -> None:
    lines = TEXT.split(b"\n")
    assert lines[:2] == [b"c2sp.org/tlog-proof@v1", b"index 3"]
    assert [base64.b64decode(line) for line in lines[2:5]] == list(proof(3).hashes)
    assert b"\n".join(lines[5:]) == b"\n" + NOTE


@pytest.mark.parametrize("index", range(len(RECORDS)))
def test_a_proof_proves_its_record_and_no_other(index: int) -> None:
    parsed = parse_tlog_proof(format_tlog_proof(proof(index)))
    verified = verify(parsed.checkpoint)
    verify_tlog_proof(parsed, RECORDS[index], verified)
    for other in {b"", RECORDS[index] + b" ", *RECORDS} - {RECORDS[index]}:
        refused(verify_tlog_proof, parsed, other, verified)


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n", TEXT[1:], b"c2sp.org/tlog-proof@v1\n\n" + NOTE, TEXT.replace(b"index", b"indez"),
        TEXT.replace(b"@v1", b"@v2"), TEXT.replace(b"index 3", b"index 03"),
        TEXT.replace(b"index 3", b"index -3"), TEXT.replace(b"index 3", b"index  3"),
        TEXT.replace(b"index 3", b"index "),
        TEXT.replace(b"index 3\n", b""), TEXT.replace(b"index 3", b"index 3\nindex 3"),
        TEXT.replace(b"index 3", b"index " + b"9" * 20), TEXT.replace(b"index 3", b"extra !\nindex 3"),
        TEXT.replace(b"index 3", b"index 3\nextra AA=="), TEXT.replace(b"index 3", b"extra AB==\nindex 3"),
        TEXT.replace(b"index 3", b"extra " + b"AAAA" * 1366 + b"\nindex 3"), TEXT.replace(b"\n", b"\r\n"),
        TEXT.replace(b"index 3", b"index 3\n" + b"A" * 43), TEXT.replace(b"index 3", b"index 3\nAAAA"),
        TEXT.replace(b"index 3", b"index 3" + (b"\n" + b"A" * 43 + b"=") * 129), TEXT.split(b"\n\n")[0],
        TEXT + bytes(1 << 20),
    ],
)  # fmt: skip
def test_other_texts_are_no_proofs(text: bytes) -> None:
    refused(parse_tlog_proof, text)


@given(st.binary(max_size=100), st.integers(0, 120))
def test_no_bytes_raise_anything_else(data: bytes, place: int) -> None:
    for text in (data, TEXT[:place] + data + TEXT[place:]):
        try:
            parsed = parse_tlog_proof(text)
        except ProofError:
            continue
        assert format_tlog_proof(parsed) == text


def test_the_checkpoint_in_a_proof_is_a_note() -> None:
    assert parse_checkpoint(parse_note(parse_tlog_proof(TEXT).checkpoint).text) == CHECKPOINT
