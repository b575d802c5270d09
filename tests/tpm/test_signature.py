"""Signature verification against published vectors: no wrong verdict."""

import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tests.support import corpus
from tests.support.attestation import HASHES, ecc_key, rsa_key, sign
from tpm.algorithms import Alg
from tpm.errors import EvidenceError
from tpm.public import Curve
from tpm.signature import MAX_ECC_PARAMETER, MAX_RSA_SIGNATURE, Signature, parse_signature, verify_signature

HASH_ALGS = {"SHA-256": Alg.SHA256, "SHA-384": Alg.SHA384, "SHA-512": Alg.SHA512}


def verdict(signature: Signature, key: Any, message: bytes, pss_salt: int | None = None) -> bool:
    """Through the wire form, as a TPM's signature comes."""
    try:
        verify_signature(parse_signature(signature.marshal()), key, message, pss_salt=pss_salt)
    except EvidenceError:
        return False
    return True


def ecdsa_values(der: bytes) -> tuple[int, int] | None:
    """(r, s) of strict DER, or None where a TPMT_SIGNATURE, which carries integers, cannot say the same."""
    try:
        values = decode_dss_signature(der)
    except ValueError:
        return None
    strict = encode_dss_signature(*values) == der if min(values) >= 0 else False
    return values if strict and max(values).bit_length() <= 8 * MAX_ECC_PARAMETER else None


def groups(kind: str) -> list[tuple[str, Any]]:
    folder = corpus.folder("lineage") / "signatures"
    loaded = ((path.name, json.loads(path.read_text())) for path in sorted(folder.glob("*.json")))
    return [(name, group) for name, file in loaded for group in file["testGroups"] if group.get("type") == kind]


def test_F7_wycheproof_ecdsa() -> None:
    tried = 0
    for name, group in groups("EcdsaVerify"):
        key = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
        for case in group["tests"]:
            values = ecdsa_values(bytes.fromhex(case["sig"]))
            if values is None:
                assert case["result"] != "valid", (name, case["tcId"])
                continue
            encoded = tuple(value.to_bytes((value.bit_length() + 7) // 8, "big") for value in values)
            signature = Signature(Alg.ECDSA, HASH_ALGS[group["sha"]], encoded)
            found = verdict(signature, key, bytes.fromhex(case["msg"]))
            assert found is (case["result"] == "valid"), (name, case["tcId"], case["comment"])
            tried += 1
    assert tried > 100


@pytest.mark.parametrize(("kind", "alg"), [("RsassaPkcs1Verify", Alg.RSASSA), ("RsassaPssVerify", Alg.RSAPSS)])
def test_F7_wycheproof_rsa(kind: str, alg: Alg) -> None:
    tried = 0
    for name, group in groups(kind):
        if group.get("mgfSha", group["sha"]) != group["sha"]:
            continue  # a TPM's MGF1 uses the hash of the scheme
        key = load_der_public_key(bytes.fromhex(group["publicKeyDer"]))
        for case in group["tests"]:
            value = bytes.fromhex(case["sig"])
            if len(value) > MAX_RSA_SIGNATURE:
                assert case["result"] != "valid", (name, case["tcId"])
                continue
            signature = Signature(alg, HASH_ALGS[group["sha"]], (value,))
            found = verdict(signature, key, bytes.fromhex(case["msg"]), group.get("sLen"))
            # "acceptable" is a DigestInfo without its NULL, which RFC 8017 §9.2 lets verifiers refuse
            assert found is (case["result"] == "valid"), (name, case["tcId"], case["comment"])
            tried += 1
    assert tried > 100


@pytest.mark.parametrize("hash_alg", HASH_ALGS.values())
@pytest.mark.parametrize(
    "scheme", [(Alg.RSASSA, 2048), (Alg.RSAPSS, 3072), (Alg.ECDSA, Curve.P256), (Alg.ECDSA, Curve.P384)]
)
def test_each_scheme_verifies_its_message_and_no_other(scheme: tuple[Alg, Any], hash_alg: Alg) -> None:
    alg, parameter = scheme
    private: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
    private = ecc_key(parameter) if alg is Alg.ECDSA else rsa_key(parameter)
    signature = sign(private, b"message", alg, hash_alg)
    assert verdict(signature, private.public_key(), b"message")
    assert not verdict(signature, private.public_key(), b"messages")


@pytest.mark.parametrize(
    ("salt", "accepted"), [(32, True), (256 - 32 - 2, True), (0, False), (20, False), (31, False), (33, False)]
)
def test_pss_salts_are_as_long_as_tpms_make_them(salt: int, accepted: bool) -> None:
    """As long as the digest, or as long as fits; others only where a caller asks for them."""
    algorithm = HASHES[Alg.SHA256]
    value = rsa_key().sign(b"message", padding.PSS(padding.MGF1(algorithm), salt), algorithm)
    signature = Signature(Alg.RSAPSS, Alg.SHA256, (value,))
    assert verdict(signature, rsa_key().public_key(), b"message") is accepted
    assert verdict(signature, rsa_key().public_key(), b"message", pss_salt=salt)
