"""Checkpoints: three lines, the log's own signature, witnesses that count once, and a seal that binds PCRs to them."""

import base64
import hashlib
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.attestation import SELECTION, VALUES, SoftwareAk
from tests.support.notes import TIME, NoteSigner
from tests.support.seals import AK, CHECKPOINT, LOG, ORIGIN, POLICY, WITNESSES, note, seal, verify
from tpm.pcr import PcrSelection
from ztrooted import checkpoint, merkle
from ztrooted.checkpoint import Checkpoint, SealPolicy, parse_checkpoint
from ztrooted.errors import ProofError
from ztrooted.note import Signature, parse_note
from ztrooted.note_keys import SignatureType
from ztrooted.reasons import GateReason

ROOT = base64.b64encode(CHECKPOINT.root)


def refused(reason: GateReason, data: bytes, **expected: Any) -> ProofError:
    with pytest.raises(ProofError) as caught:
        verify(data, **expected)
    assert caught.value.reason is reason
    return caught.value


@given(st.integers(1, 2**63 - 1), st.binary(min_size=32, max_size=32))
def test_the_text_of_a_checkpoint_comes_back(size: int, root: bytes) -> None:
    made = Checkpoint(ORIGIN, size, root)
    assert parse_checkpoint(made.text) == made
    assert made.text == f"{ORIGIN}\n{size}\n{base64.b64encode(root).decode()}\n".encode()


@pytest.mark.parametrize(
    "text",
    [
        b"", b"\n7\n" + ROOT + b"\n", b"a b\n7\n" + ROOT + b"\n", b"a+b\n7\n" + ROOT + b"\n",
        b"log\n07\n" + ROOT + b"\n",
        b"log\n-7\n" + ROOT + b"\n", b"log\n+7\n" + ROOT + b"\n",
        b"log\n7 \n" + ROOT + b"\n", b"log\n\n" + ROOT + b"\n",
        b"log\n7\n" + ROOT, b"log\n7\n" + ROOT + b"\nextension\n", b"log\n7\n" + ROOT + b"\n\n",
        b"log\n7\n" + ROOT[:-1] + b"\n", b"log\n7\nAAAA\n", b"log\n7\n\n", b"log\n" + b"9" * 20 + b"\n" + ROOT + b"\n",
        b"log\n\xd9\xa7\n" + ROOT + b"\n", b"log\n7\n" + ROOT[:-2] + b"B=\n", b"log\n0\n" + ROOT + b"\n",
        b"\xff\n7\n" + ROOT + b"\n", b"log\n7\n" + ROOT.replace(b"=", b"") + b"\n",
    ],
)  # fmt: skip
def test_other_texts_are_no_checkpoints(text: bytes) -> None:
    with pytest.raises(ProofError) as caught:
        parse_checkpoint(text)
    assert caught.value.reason is GateReason.CHECKPOINT_MALFORMED


def test_the_empty_log_has_the_empty_root() -> None:
    assert parse_checkpoint(Checkpoint("log", 0, merkle.EMPTY_ROOT).text).size == 0


def test_a_signed_checkpoint_verifies_and_is_not_sealed_by_that() -> None:
    verified = verify(note(seal()))
    assert verified.checkpoint == CHECKPOINT
    assert (verified.sealed, verified.seal, verified.cosigners) == (False, None, ())


def test_a_note_with_another_text_than_a_checkpoint_is_refused() -> None:
    text = CHECKPOINT.text + b"extension\n"
    data = text + b"\n" + LOG.sign(text).line().encode()
    refused(GateReason.CHECKPOINT_MALFORMED, data)


def test_only_the_logs_key_speaks_for_the_log() -> None:
    other = NoteSigner.of(ORIGIN, SignatureType.ECDSA)
    refused(GateReason.CHECKPOINT_KEY, note(log=other))
    refused(GateReason.CHECKPOINT_KEY, note(WITNESSES[0].sign(CHECKPOINT.text), log=None), witnesses=[WITNESSES[0].key])
    forged = Signature(ORIGIN, LOG.key.key_id, other.sign(CHECKPOINT.text).value)
    refused(GateReason.NOTE_SIGNATURE, note(forged, log=None))


def test_a_signature_is_over_this_checkpoint() -> None:
    larger = replace(CHECKPOINT, size=CHECKPOINT.size + 1)
    refused(GateReason.NOTE_SIGNATURE, note(LOG.sign(CHECKPOINT.text), checkpoint=larger, log=None))


def test_a_log_may_sign_with_an_ed25519_key_for_stock_tools() -> None:
    stock = NoteSigner.of(ORIGIN, SignatureType.ED25519)
    data = note(stock.sign(CHECKPOINT.text))
    assert verify(data).checkpoint == verify(data, log_key=stock.key).checkpoint == CHECKPOINT


def test_witnesses_are_counted_and_say_when() -> None:
    keys = [witness.key for witness in WITNESSES]
    data = note(*(witness.sign(CHECKPOINT.text) for witness in WITNESSES))
    verified = verify(data, witnesses=keys, quorum=2)
    assert [(item.key, item.timestamp) for item in verified.cosigners] == [(key, TIME) for key in keys]
    refused(GateReason.CHECKPOINT_QUORUM, data, witnesses=keys[:1], quorum=2)
    refused(GateReason.CHECKPOINT_QUORUM, data, quorum=1)


def test_a_witness_key_makes_cosignatures_and_nothing_else() -> None:
    plain = NoteSigner.of("witness.test", SignatureType.ED25519)
    refused(GateReason.NOTE_KEY, note(plain.sign(CHECKPOINT.text)), witnesses=[plain.key], quorum=1)
    many = [NoteSigner.of("witness.test", SignatureType.ED25519_COSIGNATURE).key for _ in range(65)]
    assert "65 witnesses" in refused(GateReason.NOTE_KEY, note(), witnesses=many).detail
    assert verify(note(), witnesses=many[1:]).cosigners == ()


# --- the seal ------------------------------------------------------------------------------------------------------


def test_a_seal_binds_the_pcrs_to_the_checkpoint() -> None:
    verified = verify(note(seal()), seal=POLICY)
    assert verified.sealed
    assert verified.seal is not None
    assert verified.seal.pcr_values == VALUES
    assert verified.seal.quote.attest.extra_data == hashlib.sha256(CHECKPOINT.text).digest()


def test_a_seal_line_is_what_the_module_documents() -> None:
    attest, signature = AK.quote(extra_data=checkpoint.seal_nonce(CHECKPOINT))
    line = checkpoint.seal_line(ORIGIN, AK.public.name, attest, signature, VALUES)
    material = ORIGIN.encode() + b"\n\xffztrooted.tpm-quote/v1" + AK.public.name
    assert line.key_id == int.from_bytes(hashlib.sha256(material).digest()[:4], "big")
    values = b"".join(VALUES["sha256"][index] for index in sorted(VALUES["sha256"]))
    sized = b"".join(len(part).to_bytes(2, "big") + part for part in (attest, signature))
    assert line.value == b"ztrooted.tpm-quote/v1\n" + sized + values


@pytest.mark.parametrize("lines", [0, 2])
def test_a_required_seal_is_there_once(lines: int) -> None:
    refused(GateReason.CHECKPOINT_SEAL, note(*[seal()] * lines), seal=POLICY)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (seal(replace(CHECKPOINT, size=6)), "quote.nonce_mismatch"),
        (seal(extra_data=bytes(32)), "quote.nonce_mismatch"),
        (replace(seal(ak=SoftwareAk.ecc(fresh=True)), key_id=seal().key_id), "quote.sig_invalid"),
        (seal(ak=SoftwareAk.ecc(fresh=True)), "0 seals"),
    ],
    ids=["other-size", "other-nonce", "other-key-under-this-name", "other-key"],
)
def test_a_seal_of_something_else_or_by_somebody_else_is_none(line: Signature, words: str) -> None:
    error = refused(GateReason.CHECKPOINT_SEAL, note(line), seal=POLICY)
    assert words in error.detail


@pytest.mark.parametrize(
    ("policy", "words"),
    [
        (SealPolicy(AK.key, PcrSelection.of({"sha256": [0, 1]}), None), "quote.selection_mismatch"),
        (SealPolicy(AK.key, SELECTION, {"sha256": VALUES["sha256"] | {10: bytes(32)}}), "sha256:10"),
        (SealPolicy(AK.key, SELECTION, {"sha256": {0: VALUES["sha256"][0]}}), "sha256:1 "),
        (SealPolicy(AK.key, SELECTION, {}), "sha256:0"),
    ],
    ids=["other-pcrs", "other-value", "value-missing", "no-values"],
)
def test_a_seal_by_a_machine_in_another_state_is_none(policy: SealPolicy, words: str) -> None:
    error = refused(GateReason.CHECKPOINT_SEAL, note(seal()), seal=policy)
    assert words in error.detail


def test_without_expected_values_any_state_seals_and_is_shown() -> None:
    verified = verify(note(seal()), seal=SealPolicy(AK.key, SELECTION))
    assert verified.seal is not None
    assert verified.seal.pcr_values == VALUES


@given(st.data())
def test_no_changed_seal_is_a_seal(data: st.DataObject) -> None:
    line = seal()
    place = data.draw(st.integers(0, len(line.value) - 1))
    flipped = bytes([line.value[place] ^ data.draw(st.integers(1, 255))])
    for value in (
        line.value[:place] + flipped + line.value[place + 1 :],
        line.value[:place],
        line.value + bytes(place + 1),
    ):
        refused(GateReason.CHECKPOINT_SEAL, note(replace(line, value=value or b"\0")), seal=POLICY)


def test_a_seal_that_is_cut_off_says_so() -> None:
    cut = replace(seal(), value=b"ztrooted.tpm-quote/v1\n\x00\x05quot")
    assert "cut off" in refused(GateReason.CHECKPOINT_SEAL, note(cut), seal=POLICY).detail


def test_verifiers_that_know_no_seals_ignore_it() -> None:
    assert len(parse_note(note(seal())).signatures) == 2
    assert verify(note(seal())).checkpoint == CHECKPOINT
