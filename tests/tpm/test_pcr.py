"""Selections, digests, extending and resetting."""

import hashlib
from typing import Any

import pytest

from tests.support import corpus
from tests.support.judged import check_evidence
from tpm.algorithms import Alg
from tpm.codec import Reader
from tpm.errors import EvidenceError
from tpm.pcr import PcrSelection, extend, parse_pcr_selection, pcr_digest, reset_value
from tpm.reasons import EvidenceReason

ZERO = bytes(32)


@pytest.mark.parametrize(
    "banks",
    [{"md5": [0]}, {"sha256": [24]}, {"sha256": [-1]}, {"sha256": [1, 1]}, {"sha256": [True]}, {"SHA256": [0]}],
)
def test_a_selection_no_tpm_has_is_refused(banks: Any) -> None:
    with pytest.raises(ValueError, match=r"bank|PCR"):
        PcrSelection.of(banks)


def test_a_bank_cannot_be_listed_twice() -> None:
    with pytest.raises(ValueError, match="twice"):
        PcrSelection((("sha256", (0,)), ("sha256", (1,))))


def test_a_selection_is_canonical_whatever_order_it_was_written_in() -> None:
    one = PcrSelection.of({"sha256": [10, 0], "sha1": [3]})
    assert one == PcrSelection.of({"sha1": [3], "sha256": [0, 10]})
    assert one.marshal() == bytes.fromhex("00000002 0004 03 080000 000b 03 010400")


def test_the_order_of_banks_counts_for_the_digest_and_not_for_what_is_selected() -> None:
    usual = PcrSelection.of({"sha1": [0], "sha256": [0]})
    other = PcrSelection(usual.banks[::-1])
    values = {"sha1": {0: b"a" * 20}, "sha256": {0: b"b" * 32}}
    assert usual.same_pcrs(other)
    assert usual != other
    assert pcr_digest(usual, values, Alg.SHA256) == hashlib.sha256(b"a" * 20 + b"b" * 32).digest()
    assert pcr_digest(other, values, Alg.SHA256) == hashlib.sha256(b"b" * 32 + b"a" * 20).digest()
    assert not usual.same_pcrs(PcrSelection.of({"sha256": [0]}))


def test_a_digest_needs_each_value_at_its_length() -> None:
    selection = PcrSelection.of({"sha256": [0, 1]})
    for values, reason in (
        ({}, "quote.pcr_values_missing"),
        ({"sha256": {0: ZERO}}, "quote.pcr_values_missing"),
        ({"sha1": {0: ZERO, 1: ZERO}}, "quote.pcr_values_missing"),
        ({"sha256": {0: ZERO, 1: ZERO + b"\0"}}, "quote.pcr_value_length"),
        ({"sha256": {0: ZERO, 1: b""}}, "quote.pcr_value_length"),
    ):
        with pytest.raises(EvidenceError) as caught:
            pcr_digest(selection, values, Alg.SHA256)
        assert caught.value.reason == reason


def test_a_selection_in_another_form_is_refused_with_the_callers_code() -> None:
    for data in ("00000001 000b 02 0104", "00000001 0001 03 010000", "00000011", "00000001 000b 03 01"):
        with pytest.raises(EvidenceError) as caught:
            parse_pcr_selection(Reader(bytes.fromhex(data) + b"\0", EvidenceReason.ATTEST_MALFORMED))
        assert caught.value.reason in ("pcr.malformed", "attest.malformed")


def test_extending_hashes_old_value_and_measurement() -> None:
    assert extend(Alg.SHA384, bytes(48), b"\1" * 48) == hashlib.sha384(bytes(48) + b"\1" * 48).digest()


@pytest.mark.parametrize(
    ("index", "locality", "expected"),
    [
        (0, 0, bytes(32)),
        (0, 3, bytes(31) + b"\3"),
        (0, 4, bytes(31) + b"\4"),
        (1, 3, bytes(32)),
        (16, 0, bytes(32)),
        (17, 0, b"\xff" * 32),
        (22, 3, b"\xff" * 32),
        (23, 0, bytes(32)),
    ],
)
def test_reset_values(index: int, locality: int, expected: bytes) -> None:
    assert reset_value(Alg.SHA256, index, locality) == expected


@pytest.mark.swtpm
def test_reset_values_and_extending_are_those_of_a_tpm(device: Any) -> None:
    selection = {"sha256": list(range(24))}
    for index, value in device.read_pcrs(selection)["sha256"].items():
        assert value == reset_value(Alg.SHA256, index), index
    device.extend(16, {"sha256": b"\1" * 32})
    assert device.read_pcrs({"sha256": [16]})["sha256"][16] == extend(Alg.SHA256, ZERO, b"\1" * 32)


@pytest.mark.parametrize("entry", corpus.entries("evidence", "pcr_selection_case"))
def test_corpus_selection_case(entry: corpus.Entry) -> None:
    """Whether provided PCRs and a quoted selection are the same, as the origin's own test says."""
    check_evidence(entry)
