"""Keys that must not become attestation keys (B), and certifications that prove nothing (B15)."""

import hashlib
from collections.abc import Callable
from typing import Any

import pytest

from tests.support import corpus
from tests.support.attestation import (
    AK_ATTRIBUTES,
    NONCE,
    SELECTION,
    SoftwareAk,
    changed,
    ecc_key,
    ecc_public,
    rsa_key,
    rsa_public,
    sign,
)
from tests.support.judged import check_attack
from tpm.algorithms import Alg
from tpm.attest import AttestType, CertifyInfo, CreationInfo, QuoteInfo
from tpm.attestation_key import accept_attestation_key, accept_signing_key
from tpm.certify import verify_certify, verify_creation
from tpm.errors import EvidenceError
from tpm.public import Curve, EccPoint, ObjectAttributes, Public, Scheme, Symmetric, parse_public, parse_tpmt_public

P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
STORAGE = ObjectAttributes.RESTRICTED | ObjectAttributes.DECRYPT | ObjectAttributes.FIXED_TPM


def refused(reason: str, call: Callable[[], object]) -> None:
    with pytest.raises(EvidenceError) as caught:
        call()
    assert caught.value.reason == reason, caught.value


def ecc(**fields: Any) -> Public:
    return ecc_public(ecc_key(), **fields)


def rsa(**fields: Any) -> Public:
    return changed(rsa_public(rsa_key()), **fields)


def keyed_hash(scheme: Scheme | None) -> Public:
    public = Public(Alg.KEYEDHASH, Alg.SHA256, AK_ATTRIBUTES, b"", None, scheme, None, None, None, None, bytes(32), b"")
    return changed(public)


@pytest.mark.parametrize(
    "public",
    [
        ecc(),
        rsa(),
        ecc_public(ecc_key(Curve.P384), Alg.SHA384),
        rsa(scheme=Scheme(Alg.RSAPSS, Alg.SHA512)),
        rsa(exponent=65537),
        ecc(name_alg=Alg.SHA384),
        ecc(attributes=AK_ATTRIBUTES | ObjectAttributes.NO_DA | ObjectAttributes.ADMIN_WITH_POLICY),
    ],
    ids=["p256", "rsa", "p384", "rsapss-sha512", "exponent spelt out", "sha384 name", "noDA"],
)
def test_an_attestation_key_is_accepted_and_named_by_its_public_area(public: Public) -> None:
    key = accept_attestation_key(public)
    assert key.name[2:] == hashlib.new(key.name_alg.name.lower(), public.raw).digest()


def test_B1_a_key_that_signs_anything_is_refused() -> None:
    public = ecc(attributes=AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED)
    refused("ak.not_restricted", lambda: accept_attestation_key(public))


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (ObjectAttributes.FIXED_TPM, "ak.not_fixed_tpm"),
        (ObjectAttributes.FIXED_PARENT, "ak.not_fixed_parent"),
        (ObjectAttributes.FIXED_TPM | ObjectAttributes.FIXED_PARENT, "ak.not_fixed_tpm"),
    ],
)
def test_B2_a_key_that_can_leave_is_refused(missing: ObjectAttributes, reason: str) -> None:
    refused(reason, lambda: accept_attestation_key(ecc(attributes=AK_ATTRIBUTES & ~missing)))


def test_B3_a_key_made_elsewhere_is_refused() -> None:
    public = rsa(attributes=AK_ATTRIBUTES & ~ObjectAttributes.SENSITIVE_DATA_ORIGIN)
    refused("ak.not_tpm_generated", lambda: accept_attestation_key(public))


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (ecc(attributes=AK_ATTRIBUTES | ObjectAttributes.DECRYPT), "ak.decrypt_set"),
        (rsa(attributes=STORAGE, scheme=None, symmetric=Symmetric(Alg.AES, 128, Alg.CFB)), "ak.not_signing"),
        (ecc(attributes=STORAGE, scheme=None, symmetric=Symmetric(Alg.AES, 256, Alg.CFB)), "ak.not_signing"),
        (keyed_hash(Scheme(Alg.HMAC, Alg.SHA256)), "ak.type_not_allowed"),
        (keyed_hash(None), "ak.type_not_allowed"),
    ],
    ids=["both", "rsa storage", "ecc storage", "hmac", "sealed data"],
)
def test_B4_another_class_of_key_is_refused(public: Public, reason: str) -> None:
    refused(reason, lambda: accept_attestation_key(public))


@pytest.mark.parametrize(
    ("public", "reason"),
    [
        (rsa(scheme=None), "ak.scheme_not_allowed"),
        (ecc(scheme=None), "ak.scheme_not_allowed"),
        (ecc(scheme=Scheme(Alg.ECDAA, Alg.SHA256, 0)), "ak.scheme_not_allowed"),
        (ecc(scheme=Scheme(Alg.ECSCHNORR, Alg.SHA256)), "ak.scheme_not_allowed"),
        (ecc(scheme=Scheme(Alg.SM2, Alg.SHA256)), "ak.scheme_not_allowed"),
        (rsa(scheme=Scheme(Alg.OAEP, Alg.SHA256)), "ak.scheme_not_allowed"),
        (rsa(scheme=Scheme(Alg.RSAES, None)), "ak.scheme_not_allowed"),
        (rsa(scheme=Scheme(Alg.RSASSA, Alg.SHA1)), "ak.hash_not_allowed"),
        (ecc(scheme=Scheme(Alg.ECDSA, Alg.SHA1)), "ak.hash_not_allowed"),
        (ecc(scheme=Scheme(Alg.ECDSA, Alg.SM3_256)), "ak.hash_not_allowed"),
    ],
)
def test_B5_another_scheme_is_refused(public: Public, reason: str) -> None:
    refused(reason, lambda: accept_attestation_key(public))


def test_B5_a_scheme_the_policy_does_not_list_is_refused() -> None:
    public = rsa(scheme=Scheme(Alg.RSAPSS, Alg.SHA256))
    refused("ak.scheme_not_allowed", lambda: accept_attestation_key(public, allowed=frozenset({"rsassa-sha256"})))
    assert accept_attestation_key(public, allowed=frozenset({"rsapss-sha256"}))


@pytest.mark.parametrize("name_alg", [Alg.SHA1, Alg.NULL, Alg.SM3_256])
def test_B7_a_name_that_can_collide_is_refused(name_alg: Alg) -> None:
    refused("ak.name_alg_not_allowed", lambda: accept_attestation_key(ecc(name_alg=name_alg)))


@pytest.mark.parametrize("tail", [b"\0", b"\0\0\0\0", b"\0\x0b"])
def test_B8_bytes_inside_or_after_a_public_area_are_refused(tail: bytes) -> None:
    raw = ecc().raw
    inside = raw + tail
    refused("ak.malformed", lambda: parse_public(len(inside).to_bytes(2, "big") + inside))
    refused("ak.malformed", lambda: parse_public(len(raw).to_bytes(2, "big") + raw + tail))
    refused("ak.malformed", lambda: parse_public(raw))
    refused("ak.malformed", lambda: parse_tpmt_public(inside))


def test_B8_every_truncation_of_a_public_area_is_refused() -> None:
    for public in (ecc(), rsa()):
        for size in range(len(public.raw)):
            cut = public.raw[:size]
            refused("ak.malformed", lambda cut=cut: parse_public(len(cut).to_bytes(2, "big") + cut))  # type: ignore[misc]
        refused("ak.malformed", lambda: parse_public(bytes(5000)))


NUMBERS = ecc_key().public_key().public_numbers()
X, Y = NUMBERS.x.to_bytes(32, "big"), NUMBERS.y.to_bytes(32, "big")


@pytest.mark.parametrize(
    "point",
    [
        EccPoint(X, (NUMBERS.y ^ 1).to_bytes(32, "big")),
        EccPoint(bytes(32), bytes(32)),
        EccPoint(P.to_bytes(32, "big"), Y),
        EccPoint(X, P.to_bytes(32, "big")),
        EccPoint((NUMBERS.x + P).to_bytes(33, "big"), Y),
        EccPoint(b"\0" + X, Y),
        EccPoint(b"", b""),
        EccPoint(Y, X),
    ],
    ids=["off the curve", "zero", "x = p", "y = p", "x + p", "long", "empty", "swapped"],
)
def test_B9_an_invalid_point_is_refused(point: EccPoint) -> None:
    refused("ak.point_invalid", lambda: accept_attestation_key(ecc(unique=point)))


@pytest.mark.parametrize(
    ("curve", "reason"),
    [
        (Curve.P192, "ak.key_too_small"),
        (Curve.P224, "ak.key_too_small"),
        (Curve.P384, "ak.point_invalid"),
        (Curve.P521, "ak.type_not_allowed"),
        (Curve.BN_P256, "ak.type_not_allowed"),
        (Curve.SM2_P256, "ak.type_not_allowed"),
    ],
)
def test_B9_another_curve_is_refused(curve: Curve, reason: str) -> None:
    refused(reason, lambda: accept_attestation_key(ecc(curve=curve)))


MODULUS = rsa_key().public_key().public_numbers().n


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"unique": (MODULUS - 1).to_bytes(256, "big")}, "ak.modulus"),
        ({"unique": (MODULUS >> 1 | 1).to_bytes(256, "big")}, "ak.modulus"),
        ({"unique": (2**127 - 1).to_bytes(256, "big")}, "ak.modulus"),
        ({"unique": b"\0" + MODULUS.to_bytes(256, "big")}, "ak.modulus"),
        ({"unique": b""}, "ak.modulus"),
        ({"bits": 4096}, "ak.modulus"),
        ({"unique": (2**2047 + 3 * 5).to_bytes(256, "big")}, "ak.modulus"),
        ({"bits": 1024, "unique": (2**1024 - 105).to_bytes(128, "big")}, "ak.key_too_small"),
        ({"exponent": 1}, "ak.exponent"),
        ({"exponent": 3}, "ak.exponent"),
        ({"exponent": 65536}, "ak.exponent"),
        ({"exponent": 0xFFFFFFFF}, "ak.exponent"),
    ],
)
def test_A10_A11_an_unsound_rsa_key_is_refused(fields: dict[str, Any], reason: str) -> None:
    refused(reason, lambda: accept_attestation_key(rsa(**fields)))


def test_A11_an_rsa_key_of_an_unusual_size_is_refused() -> None:
    refused("ak.key_too_small", lambda: accept_attestation_key(rsa_public(rsa_key(2304))))


def test_A10_a_square_modulus_is_refused() -> None:
    """Two equal primes: the square root is a factor."""
    root = 2**1023 + 1155
    while not all(root % prime for prime in range(3, 8192, 2)):
        root += 2
    square = root * root if (root * root).bit_length() == 2048 else (root + 2**1022) ** 2
    refused("ak.modulus", lambda: accept_attestation_key(rsa(unique=square.to_bytes(256, "big"))))


@pytest.mark.parametrize("extra", [ObjectAttributes.ST_CLEAR, ObjectAttributes.X509_SIGN])
def test_contradictory_attributes_are_refused(extra: ObjectAttributes) -> None:
    refused("ak.attributes", lambda: accept_attestation_key(ecc(attributes=AK_ATTRIBUTES | extra)))
    duplicable = AK_ATTRIBUTES | ObjectAttributes.ENCRYPTED_DUPLICATION
    refused("ak.attributes", lambda: accept_attestation_key(ecc(attributes=duplicable)))
    symmetric = Symmetric(Alg.AES, 128, Alg.CFB)
    refused("ak.attributes", lambda: accept_attestation_key(ecc(symmetric=symmetric)))


@pytest.mark.parametrize("bit", [0, 3, 12, 15, 20, 31])
def test_reserved_attributes_are_malformed(bit: int) -> None:
    raw = bytearray(ecc().raw)
    raw[4:8] = (int.from_bytes(raw[4:8], "big") | 1 << bit).to_bytes(4, "big")
    refused("ak.malformed", lambda: parse_tpmt_public(bytes(raw)))


# The log key

POLICY = hashlib.sha256(b"policy").digest()
LOG_ATTRIBUTES = AK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED & ~ObjectAttributes.USER_WITH_AUTH


def log_key(**fields: Any) -> Public:
    return ecc(**{"attributes": LOG_ATTRIBUTES, "auth_policy": POLICY, **fields})


def test_a_log_key_is_accepted_with_its_scheme_or_without() -> None:
    for scheme in (Scheme(Alg.ECDSA, Alg.SHA256), None):
        public = log_key(scheme=scheme)
        assert accept_signing_key(public, POLICY).name == public.name


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"attributes": LOG_ATTRIBUTES | ObjectAttributes.USER_WITH_AUTH}, "ak.attributes"),
        ({"attributes": LOG_ATTRIBUTES | ObjectAttributes.RESTRICTED}, "ak.attributes"),
        ({"attributes": LOG_ATTRIBUTES | ObjectAttributes.ST_CLEAR}, "ak.attributes"),
        ({"attributes": LOG_ATTRIBUTES | ObjectAttributes.DECRYPT}, "ak.decrypt_set"),
        ({"attributes": LOG_ATTRIBUTES & ~ObjectAttributes.SIGN}, "ak.not_signing"),
        ({"attributes": LOG_ATTRIBUTES & ~ObjectAttributes.FIXED_TPM}, "ak.not_fixed_tpm"),
        ({"attributes": LOG_ATTRIBUTES & ~ObjectAttributes.FIXED_PARENT}, "ak.not_fixed_parent"),
        ({"attributes": LOG_ATTRIBUTES & ~ObjectAttributes.SENSITIVE_DATA_ORIGIN}, "ak.not_tpm_generated"),
        ({"auth_policy": b""}, "ak.attributes"),
        ({"auth_policy": POLICY[:-1]}, "ak.attributes"),
        ({"auth_policy": bytes(32)}, "ak.attributes"),
        ({"scheme": Scheme(Alg.ECDSA, Alg.SHA1)}, "ak.scheme_not_allowed"),
        ({"scheme": Scheme(Alg.ECDSA, Alg.SHA384)}, "ak.scheme_not_allowed"),
        ({"scheme": Scheme(Alg.ECDAA, Alg.SHA256, 0)}, "ak.scheme_not_allowed"),
        ({"symmetric": Symmetric(Alg.AES, 128, Alg.CFB)}, "ak.attributes"),
        ({"name_alg": Alg.SHA1}, "ak.name_alg_not_allowed"),
        ({"curve": Curve.P384}, "ak.type_not_allowed"),
        ({"unique": EccPoint(Y, X)}, "ak.point_invalid"),
    ],
)
def test_a_log_key_with_any_other_property_is_refused(fields: dict[str, Any], reason: str) -> None:
    refused(reason, lambda: accept_signing_key(log_key(**fields), POLICY))


def test_a_log_key_needs_a_policy_to_be_expected() -> None:
    refused("ak.attributes", lambda: accept_signing_key(log_key(auth_policy=b""), b""))
    refused("ak.type_not_allowed", lambda: accept_signing_key(rsa(attributes=LOG_ATTRIBUTES), POLICY))


# B15. Certifications

CERTIFIED = log_key()
HASH = hashlib.sha256(b"creation data").digest()


def certified(ak: SoftwareAk, **fields: Any) -> tuple[bytes, bytes]:
    honest = CertifyInfo(CERTIFIED.name, b"\x00\x0b" + bytes(32))
    return ak.quote(
        ak.attest(fields.pop("attested", honest), fields.pop("kind", AttestType.CERTIFY), **fields).marshal()
    )


def verify(ak: SoftwareAk, made: tuple[bytes, bytes], **fields: Any) -> object:
    return verify_certify(*made, ak.key, **{"qualifying_data": NONCE, "certified": CERTIFIED, **fields})


def test_B15_an_honest_certification_verifies() -> None:
    for ak in (SoftwareAk.ecc(), SoftwareAk.rsa(), SoftwareAk.ecc(Curve.P384, Alg.SHA384)):
        assert verify(ak, certified(ak))


def test_B15_a_certification_with_any_other_property_is_refused() -> None:
    ak, other = SoftwareAk.ecc(), SoftwareAk.ecc(fresh=True)
    attest, signature = certified(ak)
    other_name = CertifyInfo(SoftwareAk.rsa().public.name, b"")
    quote = QuoteInfo(SELECTION, bytes(32))
    creation = CreationInfo(CERTIFIED.name, HASH)
    wrong = {
        "quote": certified(ak, attested=quote, kind=AttestType.QUOTE),
        "creation": certified(ak, attested=creation, kind=AttestType.CREATION),
        "qualifying data": certified(ak, extra_data=NONCE[:-1]),
        "no qualifying data": certified(ak, extra_data=b""),
        "name": certified(ak, attested=other_name),
        "empty name": certified(ak, attested=CertifyInfo(b"", b"")),
        "key": certified(other),
        "magic": ak.quote(b"\xff\x54\x43\x48" + attest[4:]),
        "trailing": ak.quote(attest + b"\0"),
        "cut": ak.quote(attest[:-1]),
        "signature cut": (attest, signature[:-1]),
        "signature hash": (attest, signature[:3] + b"\x0c" + signature[4:]),
        "signature scheme": (attest, b"\x00\x14" + signature[2:]),
        "huge": (attest + bytes(1000), signature),
    }
    for made in wrong.values():
        refused("ak.certify_invalid", lambda made=made: verify(ak, made))  # type: ignore[misc]
    empty = certified(ak, extra_data=b"")
    refused("ak.certify_invalid", lambda: verify(ak, empty, qualifying_data=b""))
    changed_policy = log_key(auth_policy=bytes(32))
    refused("ak.certify_invalid", lambda: verify(ak, (attest, signature), certified=changed_policy))


def test_B15_a_certification_by_the_right_key_in_another_scheme_is_refused() -> None:
    for ak, alg, hash_alg in (
        (SoftwareAk.ecc(), Alg.ECDSA, Alg.SHA384),
        (SoftwareAk.rsa(), Alg.RSAPSS, Alg.SHA256),
        (SoftwareAk.rsa(), Alg.RSASSA, Alg.SHA1),
    ):
        attest, _ = certified(ak)
        signature = sign(ak.private, attest, alg, hash_alg).marshal()
        refused("ak.certify_invalid", lambda ak=ak, made=(attest, signature): verify(ak, made))  # type: ignore[misc]


def test_B15_a_creation_is_verified_like_a_certification() -> None:
    ak = SoftwareAk.ecc()
    made = certified(ak, attested=CreationInfo(CERTIFIED.name, HASH), kind=AttestType.CREATION)
    expected: dict[str, Any] = {"qualifying_data": NONCE, "created": CERTIFIED, "creation_hash": HASH}
    assert verify_creation(*made, ak.key, **expected).creation_hash == HASH
    hashless = certified(ak, attested=CreationInfo(CERTIFIED.name, b""), kind=AttestType.CREATION)
    refused("ak.certify_invalid", lambda: verify_creation(*hashless, ak.key, **{**expected, "creation_hash": b""}))
    for other in ({"creation_hash": bytes(32)}, {"creation_hash": b""}, {"created": ecc()}, {"qualifying_data": b"x"}):
        refused(
            "ak.certify_invalid",
            lambda other=other: verify_creation(*made, ak.key, **{**expected, **other}),  # type: ignore[misc]
        )
    refused("ak.certify_invalid", lambda: verify_creation(*certified(ak), ak.key, **expected))


# The corpus


@pytest.mark.parametrize("entry", corpus.entries("attacks", "ak_public"))
def test_corpus_ak_public(entry: corpus.Entry) -> None:
    """Each published public area gets its verdict, with its reason or one of the alternatives."""
    check_attack(entry)
    if entry["expect"] == "accept":
        data = corpus.read("attacks", entry["file"])
        assert parse_public(data).marshal() == data
