"""Quotes that must not verify: nonce (D6, D7), structure (E), signature (F), clock (G)."""

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, hmac
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support import attestation, corpus
from tests.support.attestation import CLOCK, FIRMWARE, NONCE, SELECTION, VALUES, SoftwareAk, check
from tests.support.judged import check_attack
from tpm.algorithms import Alg
from tpm.attest import (
    Attested,
    AttestType,
    CertifyInfo,
    CommandAuditInfo,
    CreationInfo,
    NvCertifyInfo,
    NvDigestInfo,
    QuoteInfo,
    SessionAuditInfo,
    TimeInfo,
)
from tpm.attestation_key import VouchedKey
from tpm.errors import EvidenceError, MalformedError
from tpm.pcr import PcrSelection, pcr_digest
from tpm.public import Curve
from tpm.quote import MAX_QUOTE, Clock, check_clock, parse_quote
from tpm.signature import Signature

AKS = [
    pytest.param(SoftwareAk.ecc, id="p256"),
    pytest.param(lambda: SoftwareAk.ecc(Curve.P384, Alg.SHA384), id="p384"),
    pytest.param(SoftwareAk.rsa, id="rsassa"),
    pytest.param(lambda: SoftwareAk.rsa(alg=Alg.RSAPSS), id="rsapss"),
]
# Where the selection starts in a quote by a key with a SHA-256 Name and a nonce of 32 bytes.
SELECTION_AT = 4 + 2 + 36 + 34 + 17 + 8


def info(selection: PcrSelection = SELECTION, values: Any = VALUES, alg: Alg = Alg.SHA256) -> QuoteInfo:
    return QuoteInfo(selection, pcr_digest(selection, values, alg))


def refused(reason: str, call: Callable[[], object]) -> EvidenceError:
    with pytest.raises(EvidenceError) as caught:
        call()
    assert caught.value.reason == reason, caught.value
    return caught.value


@pytest.fixture
def ak() -> SoftwareAk:
    return SoftwareAk.ecc()


# D. Nonce


@pytest.mark.parametrize(
    "found",
    [NONCE[:16], NONCE[:-1], NONCE + b"\0", NONCE + NONCE, b"", NONCE[::-1], bytes(32)],
    ids=["half", "short", "extended", "twice", "empty", "reversed", "zero"],
)
def test_D6_another_nonce_is_refused(ak: SoftwareAk, found: bytes) -> None:
    refused("quote.nonce_mismatch", lambda: check(ak, ak.quote(extra_data=found)))


def test_D6_an_empty_challenge_is_refused_even_where_the_quote_is_empty_too(ak: SoftwareAk) -> None:
    refused("quote.nonce_mismatch", lambda: check(ak, ak.quote(extra_data=b""), nonce=b""))


@pytest.mark.parametrize(
    "found", [NONCE.hex().encode(), NONCE.hex().upper().encode()[:66], b"AAECAwQFBgcICQoLDA0ODw=="]
)
def test_D7_a_text_encoding_of_the_nonce_is_refused(ak: SoftwareAk, found: bytes) -> None:
    refused("quote.nonce_mismatch", lambda: check(ak, ak.quote(extra_data=found)))


# E. Structure


@pytest.mark.parametrize("magic", [b"\x47\x43\x54\xff", b"\xff\x54\x43\x48", b"\0\0\0\0"])
def test_E1_a_structure_no_tpm_generated_is_refused(ak: SoftwareAk, magic: bytes) -> None:
    attest, _ = ak.quote()
    refused("quote.magic", lambda: check(ak, ak.quote(magic + attest[4:])))


OTHER_BODIES: dict[AttestType, Attested] = {
    AttestType.CERTIFY: CertifyInfo(b"\x00\x0b" + bytes(32), b"\x00\x0b" + bytes(32)),
    AttestType.CREATION: CreationInfo(b"\x00\x0b" + bytes(32), bytes(32)),
    AttestType.NV: NvCertifyInfo(b"\x00\x0b" + bytes(32), 0, bytes(8)),
    AttestType.NV_DIGEST: NvDigestInfo(b"\x00\x0b" + bytes(32), bytes(32)),
    AttestType.TIME: TimeInfo(1, CLOCK, FIRMWARE),
    AttestType.SESSION_AUDIT: SessionAuditInfo(exclusive=True, session_digest=bytes(32)),
    AttestType.COMMAND_AUDIT: CommandAuditInfo(1, Alg.SHA256, bytes(32), bytes(32)),
}


@pytest.mark.parametrize("kind", list(OTHER_BODIES), ids=lambda kind: kind.name)
def test_E2_another_attestation_with_the_right_nonce_is_refused(ak: SoftwareAk, kind: AttestType) -> None:
    attest = ak.attest(OTHER_BODIES[kind], kind).marshal()
    refused("quote.type", lambda: check(ak, ak.quote(attest)))


@pytest.mark.parametrize("identifier", [0x8019, 0x8014, 0x8017, 0x0000, 0x8018 ^ 0x8000, 0xFFFF])
def test_E2_a_quote_body_under_another_type_is_refused(ak: SoftwareAk, identifier: int) -> None:
    attest, _ = ak.quote()
    refused("quote.type", lambda: check(ak, ak.quote(attest[:4] + identifier.to_bytes(2, "big") + attest[6:])))


@pytest.mark.parametrize("indices", [[0], [0, 1], [0, 1, 10, 16], [0, 1, 2, 10], [0, 1, 11]])
def test_E3_a_selection_other_than_asked_is_refused(ak: SoftwareAk, indices: list[int]) -> None:
    values = {"sha256": {index: bytes(32) for index in indices}}
    made = ak.quote(attested=info(PcrSelection.of({"sha256": indices}), values))
    refused("quote.selection_mismatch", lambda: check(ak, made, pcr_values=values))


@pytest.mark.parametrize("empty", [PcrSelection(()), PcrSelection((("sha256", ()),))])
def test_E4_an_empty_selection_is_refused_quoted_or_asked_for(ak: SoftwareAk, empty: PcrSelection) -> None:
    made = ak.quote(attested=info(empty, {}))
    refused("quote.selection_mismatch", lambda: check(ak, made))
    refused("quote.selection_mismatch", lambda: check(ak, made, selection=empty, pcr_values={}))


@pytest.mark.parametrize(
    "extra",
    [{"sha256": {**VALUES["sha256"], 7: bytes(32)}}, {**VALUES, "sha1": {0: bytes(20)}}, {**VALUES, "md5": {0: b""}}],
    ids=["index", "bank", "unknown bank"],
)
def test_E5_a_value_the_quote_does_not_cover_is_refused(ak: SoftwareAk, extra: Any) -> None:
    refused("quote.pcr_values_extra", lambda: check(ak, pcr_values=extra))


def test_E5_a_missing_value_is_refused(ak: SoftwareAk) -> None:
    fewer = {"sha256": {0: VALUES["sha256"][0], 1: VALUES["sha256"][1]}}
    refused("quote.pcr_values_missing", lambda: check(ak, pcr_values=fewer))
    refused("quote.pcr_values_missing", lambda: check(ak, pcr_values={}))


def test_E6_relabelled_pcr_is_refused(ak: SoftwareAk) -> None:
    """PCR 16 can be reset by anybody; its value offered as that of PCR 10."""
    values = {"sha256": {0: VALUES["sha256"][0], 1: VALUES["sha256"][1], 16: VALUES["sha256"][10]}}
    made = ak.quote(attested=info(PcrSelection.of({"sha256": [0, 1, 16]}), values))
    refused("quote.selection_mismatch", lambda: check(ak, made))


@pytest.mark.parametrize("banks", [["sha1"], ["sha384"], ["sha1", "sha256"], ["sha256", "sha384"]])
def test_E7_another_bank_is_refused(ak: SoftwareAk, banks: list[str]) -> None:
    sizes = {"sha1": 20, "sha256": 32, "sha384": 48}
    values = {bank: {index: bytes(sizes[bank]) for index in (0, 1, 10)} for bank in banks}
    made = ak.quote(attested=info(PcrSelection.of({bank: [0, 1, 10] for bank in banks}), values))
    refused("quote.bank_not_allowed", lambda: check(ak, made, pcr_values=values))


def test_E7_a_sha1_bank_is_refused_even_where_asked_for_unless_allowed(ak: SoftwareAk) -> None:
    selection, values = PcrSelection.of({"sha1": [0]}), {"sha1": {0: bytes(20)}}
    made, asked = ak.quote(attested=info(selection, values)), {"selection": selection, "pcr_values": values}
    refused("quote.bank_not_allowed", lambda: check(ak, made, **asked))
    assert check(ak, made, **asked, allowed_banks=frozenset({"sha1"})).pcr_values == values


ENTRY = SELECTION.marshal()[4:]


@pytest.mark.parametrize(
    ("selection", "reason"),
    [
        (b"\0\0\0\2" + ENTRY + ENTRY, "quote.selection_mismatch"),
        (b"\0\0\0\2" + b"\0\x0b\3\3\0\0" + b"\0\x0b\3\0\4\0", "quote.selection_mismatch"),
        (b"\0\0\0\1" + b"\0\x0b\0", "quote.selection_mismatch"),
        (b"\0\0\0\1" + b"\0\x0b\4" + ENTRY[3:] + b"\0", "quote.selection_mismatch"),
        (b"\0\0\0\1" + b"\0\x0b\4" + ENTRY[3:] + b"\x40", "quote.selection_mismatch"),
        (b"\0\0\0\1" + b"\0\x10\3" + ENTRY[3:], "quote.selection_mismatch"),
        (b"\0\0\0\1" + b"\0\x12\3" + ENTRY[3:], "quote.selection_mismatch"),
        (b"\0\0\0\x11" + ENTRY * 17, "quote.malformed"),
        (b"\xff\xff\xff\xff" + ENTRY, "quote.malformed"),
    ],
    ids=["bank twice", "bank split", "size 0", "size 4", "pcr 30", "null", "sm3", "17 banks", "2^32-1 banks"],
)
def test_E8_a_selection_in_another_form_is_refused(ak: SoftwareAk, selection: bytes, reason: str) -> None:
    attest, _ = ak.quote()
    end = SELECTION_AT + len(SELECTION.marshal())
    changed = attest[:SELECTION_AT] + selection + attest[end:]
    refused(reason, lambda: check(ak, ak.quote(changed)))


@pytest.mark.parametrize(
    "found",
    [
        pcr_digest(SELECTION, {"sha256": dict.fromkeys((0, 1, 10), bytes(32))}, Alg.SHA256),
        pcr_digest(SELECTION, VALUES, Alg.SHA256)[:16],
        pcr_digest(SELECTION, VALUES, Alg.SHA1),
        pcr_digest(SELECTION, VALUES, Alg.SHA384),
        hashlib.sha256(b"".join(VALUES["sha256"][index] for index in (10, 1, 0))).digest(),
        b"",
    ],
    ids=["drift", "prefix", "sha1", "sha384", "swapped", "empty"],
)
def test_E9_another_pcr_digest_is_refused(ak: SoftwareAk, found: bytes) -> None:
    made = ak.quote(attested=QuoteInfo(SELECTION, found))
    refused("quote.pcr_digest_mismatch", lambda: check(ak, made))


def test_E10_bytes_moved_from_one_value_to_the_next_are_refused(ak: SoftwareAk) -> None:
    """33 + 31 bytes hash like 32 + 32."""
    whole = VALUES["sha256"][0] + VALUES["sha256"][1]
    shifted = {"sha256": {0: whole[:33], 1: whole[33:], 10: VALUES["sha256"][10]}}
    refused("quote.pcr_value_length", lambda: check(ak, pcr_values=shifted))


@pytest.mark.parametrize("tail", [b"\0", b"\xff" * 40], ids=["byte", "structure"])
def test_E11_bytes_after_the_structure_are_refused(ak: SoftwareAk, tail: bytes) -> None:
    attest, _ = ak.quote()
    refused("quote.trailing_bytes", lambda: check(ak, ak.quote(attest + tail)))


def test_E12_every_truncation_is_refused_as_malformed(ak: SoftwareAk) -> None:
    attest, _ = ak.quote()
    for size in range(len(attest)):
        refused("quote.malformed", lambda size=size: check(ak, ak.quote(attest[:size])))  # type: ignore[misc]


@pytest.mark.parametrize("offset", [6, 6 + 36], ids=["qualified signer", "extra data"])
@pytest.mark.parametrize("size", [67, 0x7FFF, 0xFFFF])
def test_E13_an_oversize_inner_buffer_is_refused(ak: SoftwareAk, offset: int, size: int) -> None:
    attest, _ = ak.quote()
    lying = attest[:offset] + size.to_bytes(2, "big") + attest[offset + 2 :]
    refused("quote.malformed", lambda: check(ak, ak.quote(lying)))
    honest = attest[:offset] + size.to_bytes(2, "big") + bytes(size) + attest[offset + 2 + 32 :]
    caught = refused(
        "quote.malformed" if len(honest) <= MAX_QUOTE else "quote.too_large", lambda: parse_quote(honest, b"")
    )
    assert isinstance(caught, MalformedError)


def test_E14_old_values_for_a_drifted_quote_are_refused_and_the_new_ones_verify(ak: SoftwareAk) -> None:
    drifted = {"sha256": {**VALUES["sha256"], 10: bytes(32)}}
    made = ak.quote(attested=info(values=drifted))
    refused("quote.pcr_digest_mismatch", lambda: check(ak, made))
    assert check(ak, made, pcr_values=drifted).pcr_values["sha256"][10] == bytes(32)


def test_E16_E17_a_quote_by_another_key_is_refused(ak: SoftwareAk) -> None:
    """The healthy machine next door, or a second key of the same TPM: the bytes are right, the key is not."""
    other = SoftwareAk.ecc(fresh=True)
    refused("quote.sig_invalid", lambda: check(ak, other.quote(qualified_signer=ak.qualified_name)))


@pytest.mark.parametrize(
    "found",
    [b"", b"\x40\x00\x00\x07", b"\x00\x04" + bytes(20), b"\x00\x0b" + bytes(31), b"\x00\x0c" + bytes(32)],
    ids=["empty", "handle", "sha1", "short", "wrong algorithm"],
)
def test_E18_a_qualified_signer_that_cannot_be_the_keys_is_refused(ak: SoftwareAk, found: bytes) -> None:
    refused("quote.qualified_signer", lambda: check(ak, ak.quote(qualified_signer=found)))


def test_E18_a_qualified_signer_other_than_the_known_one_is_refused(ak: SoftwareAk) -> None:
    assert check(ak, qualified_signer=ak.qualified_name).qualified_signer == ak.qualified_name
    moved = ak.quote(qualified_signer=b"\x00\x0b" + bytes(32))
    refused("quote.qualified_signer", lambda: check(ak, moved, qualified_signer=ak.qualified_name))


@settings(deadline=None)
@given(st.data())
def test_E20_no_change_of_a_byte_verifies_or_leaks_another_exception(data: st.DataObject) -> None:
    ak = SoftwareAk.ecc()
    parts = [*ak.quote()]
    part = data.draw(st.integers(0, 1))
    offset = data.draw(st.integers(0, len(parts[part]) - 1))
    changed = bytearray(parts[part])
    changed[offset] ^= data.draw(st.integers(1, 255))
    parts[part] = bytes(changed)
    with pytest.raises(EvidenceError):
        check(ak, (parts[0], parts[1]))


@settings(deadline=None)
@given(st.binary(max_size=200), st.binary(max_size=100))
def test_E20_arbitrary_bytes_only_raise_evidence_errors(attest: bytes, signature: bytes) -> None:
    with pytest.raises(EvidenceError):
        parse_quote(attest, signature)
    with pytest.raises(EvidenceError):
        parse_quote(b"\xff\x54\x43\x47\x80\x18" + attest, signature)


# F. Signature


@pytest.mark.parametrize("hash_alg", [Alg.SHA1, Alg.SHA384, Alg.SHA512])
@pytest.mark.parametrize("make", [AKS[0], AKS[2]])
def test_F1_a_valid_signature_by_another_hash_is_refused(make: Callable[[], SoftwareAk], hash_alg: Alg) -> None:
    ak = make()
    attest, _ = ak.quote()
    alg = ak.key.alg
    signature = attestation.sign(ak.private, attest, alg, hash_alg).marshal()
    refused("quote.hash_alg_not_allowed", lambda: check(ak, (attest, signature)))


def test_F1_a_mislabelled_hash_is_refused(ak: SoftwareAk) -> None:
    attest, signature = ak.quote()
    relabelled = signature[:2] + b"\x00\x0c" + signature[4:]
    refused("quote.hash_alg_not_allowed", lambda: check(ak, (attest, relabelled)))
    refused("quote.sig_invalid", lambda: check(ak, (attest, relabelled), key=VouchedKey(ak.key.key)))


@pytest.mark.parametrize("identifier", [0x0010, 0x0005, 0x001A, 0x001B, 0x001C, 0x0000, 0xFFFF])
@pytest.mark.parametrize("make", [AKS[0], AKS[2]])
def test_F2_any_scheme_but_the_three_is_refused(make: Callable[[], SoftwareAk], identifier: int) -> None:
    ak = make()
    attest, signature = ak.quote()
    relabelled = identifier.to_bytes(2, "big") + signature[2:]
    refused("quote.sig_alg_not_allowed", lambda: check(ak, (attest, relabelled)))


def test_F2_hmac_keyed_with_the_public_key_is_refused() -> None:
    ak = SoftwareAk.rsa()
    attest, _ = ak.quote()
    assert isinstance(ak.public.unique, bytes)
    mac = hmac.HMAC(ak.public.unique, hashes.SHA256())
    mac.update(attest)
    refused("quote.sig_alg_not_allowed", lambda: check(ak, (attest, b"\x00\x05\x00\x0b" + mac.finalize())))


@pytest.mark.parametrize(("made", "claimed"), [(Alg.RSAPSS, Alg.RSASSA), (Alg.RSASSA, Alg.RSAPSS)])
def test_F2_the_other_rsa_scheme_is_refused_relabelled_or_not(made: Alg, claimed: Alg) -> None:
    ak = SoftwareAk.rsa(alg=claimed)
    attest, _ = ak.quote()
    honest = attestation.sign(ak.private, attest, made, Alg.SHA256)
    refused("quote.sig_alg_not_allowed", lambda: check(ak, (attest, honest.marshal())))
    refused("quote.sig_invalid", lambda: check(ak, (attest, replace(honest, alg=claimed).marshal())))


def test_F2_a_signature_for_another_type_of_key_is_refused() -> None:
    ecc, rsa = SoftwareAk.ecc(), SoftwareAk.rsa()
    attest, ecc_signature = ecc.quote()
    _, rsa_signature = rsa.quote()
    for ak, signature in ((rsa, ecc_signature), (ecc, rsa_signature)):
        refused("quote.sig_alg_not_allowed", lambda ak=ak, s=signature: check(ak, (attest, s)))  # type: ignore[misc]
        vouched = VouchedKey(ak.key.key)
        refused(
            "quote.sig_alg_not_allowed",
            lambda ak=ak, s=signature, key=vouched: check(ak, (attest, s), key=key),  # type: ignore[misc]
        )


def test_F2_a_scheme_outside_the_allowed_ones_is_refused(ak: SoftwareAk) -> None:
    allowed = frozenset({"rsassa-sha256"})
    refused("quote.sig_alg_not_allowed", lambda: check(ak, allowed_signatures=allowed))


ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@pytest.mark.parametrize(
    "values",
    [
        lambda r, s: (bytes(32), bytes(32)),
        lambda r, s: (bytes(32), s),
        lambda r, s: (r, bytes(32)),
        lambda r, s: (b"", s),
        lambda r, s: (r, b""),
        lambda r, s: (ORDER.to_bytes(32, "big"), s),
        lambda r, s: (r, ORDER.to_bytes(32, "big")),
        lambda r, s: ((int.from_bytes(r, "big") + ORDER).to_bytes(33, "big"), s),
        lambda r, s: (r, (int.from_bytes(s, "big") + ORDER).to_bytes(33, "big")),
        lambda r, s: (b"\0" + r, s),
        lambda r, s: (s, r),
        lambda r, s: (b"\xff" * 32, s),
    ],
    ids=["0,0", "0,s", "r,0", "empty,s", "r,empty", "n,s", "r,n", "r+n,s", "r,s+n", "00r,s", "s,r", "max,s"],
)
def test_F3_ecdsa_values_out_of_range_are_refused(ak: SoftwareAk, values: Callable[[bytes, bytes], Any]) -> None:
    quote = parse_quote(*ak.quote())
    changed = values(*quote.signature.values)
    signature = Signature(Alg.ECDSA, Alg.SHA256, changed).marshal()
    refused("quote.sig_invalid", lambda: check(ak, (quote.attest.raw, signature)))


@pytest.mark.parametrize("alg", [Alg.RSASSA, Alg.RSAPSS])
@pytest.mark.parametrize(
    "value",
    [
        lambda s, n: (s + n).to_bytes(257, "big"),
        lambda s, n: b"\0" + s.to_bytes(256, "big"),
        lambda s, n: bytes(256),
        lambda s, n: (1).to_bytes(256, "big"),
        lambda s, n: n.to_bytes(256, "big"),
        lambda s, n: (n - s).to_bytes(256, "big"),
        lambda s, n: s.to_bytes(256, "big")[:-1],
        lambda s, n: b"",
    ],
    ids=["s+n", "leading zero", "0", "1", "n", "n-s", "short", "empty"],
)
def test_F3_rsa_values_out_of_range_are_refused(alg: Alg, value: Callable[[int, int], bytes]) -> None:
    ak = SoftwareAk.rsa(alg=alg)
    quote = parse_quote(*ak.quote())
    assert isinstance(ak.public.unique, bytes)
    s, n = (int.from_bytes(number, "big") for number in (quote.signature.values[0], ak.public.unique))
    signature = Signature(alg, Alg.SHA256, (value(s, n),)).marshal()
    refused("quote.sig_invalid", lambda: check(ak, (quote.attest.raw, signature)))


def test_F3_the_length_of_an_rsa_signature_is_checked_before_the_library_sees_it() -> None:
    ak = SoftwareAk.rsa()
    attest, signature = ak.quote()
    longer = Signature(Alg.RSASSA, Alg.SHA256, (b"\0" + signature[6:],)).marshal()
    assert "257 bytes" in refused("quote.sig_invalid", lambda: check(ak, (attest, longer))).detail


def test_F4_the_malleable_twin_verifies_so_signatures_identify_nothing(ak: SoftwareAk) -> None:
    quote = parse_quote(*ak.quote())
    r, s = quote.signature.values
    twin = replace(quote.signature, values=(r, (ORDER - int.from_bytes(s, "big")).to_bytes(32, "big")))
    assert check(ak, (quote.attest.raw, twin.marshal())).quote.signature != quote.signature


def test_F4_leading_zeros_that_a_tpm_stripped_do_not_matter(ak: SoftwareAk) -> None:
    attest, signature = ak.quote()
    while signature[6] != 0:  # 1 in 256 signatures
        signature = ak.sign(attest)
    r, s = parse_quote(attest, signature).signature.values
    assert check(ak, (attest, Signature(Alg.ECDSA, Alg.SHA256, (r[1:], s)).marshal()))


def test_F5_an_absent_signature_is_refused(ak: SoftwareAk) -> None:
    attest, _ = ak.quote()
    refused("quote.sig_malformed", lambda: check(ak, (attest, b"")))


@pytest.mark.parametrize(
    "lie",
    [
        lambda signature: signature + b"\0",
        lambda signature: signature[:-1],
        lambda signature: signature[:3],
        lambda signature: signature[:4] + b"\xff\xff" + signature[6:],
        lambda signature: signature[:4] + b"\x00\x43" + signature[6:],
        lambda signature: signature + bytes(2000),
    ],
    ids=["trailing", "cut", "cut in head", "length beyond the end", "length over the maximum", "huge"],
)
def test_F6_a_signature_that_lies_about_its_lengths_is_refused(ak: SoftwareAk, lie: Callable[[bytes], bytes]) -> None:
    attest, signature = ak.quote()
    refused("quote.sig_malformed", lambda: check(ak, (attest, lie(signature))))


# G. Clock

BEFORE = Clock(clock=4_000, reset_count=7, restart_count=2, safe=True, firmware_version=FIRMWARE)
AFTER = replace(BEFORE, clock=5_000)


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (replace(AFTER, reset_count=8), "quote.reset_detected"),
        (replace(AFTER, clock=10, reset_count=8, restart_count=0), "quote.reset_detected"),
    ],
    ids=["clock kept", "clock lost"],
)
def test_G1_a_reset_between_rounds_is_refused(after: Clock, reason: str) -> None:
    refused(reason, lambda: check_clock(BEFORE, after))


def test_G2_a_restart_between_rounds_is_refused() -> None:
    refused("quote.restart_detected", lambda: check_clock(BEFORE, replace(AFTER, restart_count=3)))


@pytest.mark.parametrize("clock", [4_000, 3_999, 0])
def test_G3_a_clock_that_does_not_advance_is_refused(clock: int) -> None:
    refused("quote.clock_rollback", lambda: check_clock(BEFORE, replace(BEFORE, clock=clock)))


@pytest.mark.parametrize("field", ["reset_count", "restart_count"])
def test_G4_a_counter_that_goes_back_is_a_rollback(field: str) -> None:
    after = replace(AFTER, **{field: getattr(BEFORE, field) - 1})
    refused("quote.clock_rollback", lambda: check_clock(BEFORE, after))


def test_G5_both_counters_up_is_a_reset() -> None:
    refused("quote.reset_detected", lambda: check_clock(BEFORE, replace(AFTER, reset_count=8, restart_count=3)))


def test_G6_an_unsafe_clock_within_a_run_is_refused() -> None:
    refused("quote.clock_unsafe", lambda: check_clock(BEFORE, replace(AFTER, safe=False)))


def test_G6_safe_is_yes_or_no(ak: SoftwareAk) -> None:
    attest, _ = ak.quote()
    at = SELECTION_AT - 9
    assert attest[at] == 1
    refused("quote.malformed", lambda: check(ak, ak.quote(attest[:at] + b"\2" + attest[at + 1 :])))


def test_G7_an_honest_boot_is_compared_with_nothing_and_verifies(ak: SoftwareAk) -> None:
    """After a crash the clock is lower and unsafe, the counter higher: a boot attestation starts a new epoch."""
    crashed = replace(CLOCK, clock=10, reset_count=8, restart_count=0, safe=False)
    verified = check(ak, ak.quote(clock=crashed))
    later = check(ak, ak.quote(clock=replace(crashed, clock=4_200, safe=True)))
    check_clock(verified.clock, later.clock)


@pytest.mark.parametrize("offset", [0, 0x5BF03635, 0xFFFFFFFF])
def test_G8_obfuscated_counters_wrap(offset: int) -> None:
    def shown(count: int) -> int:
        return (count + offset) % 2**32

    before = replace(BEFORE, reset_count=shown(0))
    check_clock(before, replace(before, clock=9_000))
    refused("quote.reset_detected", lambda: check_clock(before, replace(before, clock=9_000, reset_count=shown(1))))
    refused("quote.clock_rollback", lambda: check_clock(before, replace(before, clock=9_000, reset_count=shown(-1))))


@pytest.mark.parametrize("version", [FIRMWARE - 1, FIRMWARE + 1, 0])
def test_G9_another_firmware_is_refused(version: int) -> None:
    refused("quote.firmware_changed", lambda: check_clock(BEFORE, replace(AFTER, firmware_version=version)))


# The corpus


@pytest.mark.parametrize("make", AKS)
def test_an_honest_quote_verifies(make: Callable[[], SoftwareAk]) -> None:
    ak = make()
    verified = check(ak)
    assert verified.pcr_values == VALUES
    assert verified.clock == Clock(5_000, 7, 2, safe=True, firmware_version=FIRMWARE)
    check_clock(BEFORE, verified.clock)


@pytest.mark.parametrize("entry", corpus.entries("attacks", "quote"))
def test_corpus_quote(entry: corpus.Entry) -> None:
    """Each published quote gets its verdict, with its reason or one of the alternatives."""
    check_attack(entry)
