"""Cases for the parts that judge keys of a TPM; see ``tests.vectors.parts``."""

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support import attestation
from tests.support.attestation import (
    AK_ATTRIBUTES,
    SoftwareAk,
    ecc_key,
    ecc_public,
    rsa_public,
)
from tpm.algorithms import Alg
from tpm.ek_template import POLICY_A_SHA256, POLICY_B_SHA384
from tpm.public import Curve, ObjectAttributes, Public, Scheme, Symmetric
from tpm.sealing import policy_authorize
from ztrooted.keys import spki

Made = Iterator[tuple[str, str, dict[str, Any]]]

AK = SoftwareAk.ecc(fresh=True)


OTHER = SoftwareAk.ecc(fresh=True)


A = ObjectAttributes


_KEYED = "002e0008000b0000000000000010" + "0020" + "ab" * 32  # a key for HMAC without a scheme


def _marshal(public: Public, **fields: Any) -> str:
    return replace(public, **fields).marshal().hex()


def _bytes(data: bytes, at: int, put: bytes) -> str:
    """Other bytes from ``at`` on, where a TPM2B_PUBLIC begins with its size."""
    return (data[:at] + put + data[at + len(put) :]).hex()


def keys() -> Made:
    """Attestation keys, log keys, endorsement keys, and the policy of an approver."""
    good, raw = AK.public, AK.public.marshal()
    rsa = attestation.rsa_key()
    large = rsa_public(rsa)
    modulus = large.unique
    assert isinstance(modulus, bytes)
    curved = {curve: ecc_public(ecc_key(curve)) for curve in (Curve.P384, Curve.P521)}
    point = good.unique
    ak = {
        "on P-256": raw.hex(),
        "on P-384": curved[Curve.P384].marshal().hex(),
        "on P-521": curved[Curve.P521].marshal().hex(),
        "RSA": large.marshal().hex(),
        "RSA with its exponent written out": _marshal(large, exponent=65537),
        "RSAPSS": rsa_public(rsa, Alg.RSAPSS).marshal().hex(),
        "RSA with exponent 3": _marshal(large, exponent=3),
        "RSA with exponent 3 and too small": _marshal(large, exponent=3, bits=1024, unique=modulus[:127] + b"\1"),
        "RSA of 1024 bits": _marshal(large, bits=1024, unique=modulus[:127] + b"\1"),
        "RSA of other bits than it says": _marshal(large, bits=3072),
        "RSA with an even modulus": _marshal(large, unique=modulus[:-1] + b"\0"),
        "RSA with a modulus that begins with nought": _marshal(large, unique=b"\0" + modulus[1:]),
        "RSA with an even modulus and exponent 3": _marshal(large, exponent=3, unique=modulus[:-1] + b"\0"),
        "off its curve": _bytes(raw, len(raw) - 1, bytes([raw[-1] ^ 1])),
        "with a coordinate too long": _marshal(good, unique=replace(point, x=b"\0" + point.x)),  # type: ignore[type-var]
        "without a coordinate": _marshal(good, unique=replace(point, x=b"")),
        "on P-192": _marshal(good, curve=Curve.P192),
        "on a curve of BN": _marshal(good, curve=Curve.BN_P256),
        "on no curve": raw.replace(b"\0\x18\0\x0b\0\3\0\x10", b"\0\x18\0\x0b\0\x77\0\x10").hex(),
        "with a byte more": raw.hex() + "00",
        "with a byte more inside": (len(raw) - 1).to_bytes(2, "big").hex() + raw[2:].hex() + "00",
        "cut short": raw[:-1].hex(),
        "nothing": "",
        "over 4096 bytes": (raw + bytes(4096)).hex(),
        "of 5000 bytes by its size": "1388" + bytes(4000).hex(),
        "of no type": _bytes(raw, 2, b"\0\x99"),
        "a keyed hash": _KEYED,
        "a cipher": "00320025000b000000000000000600800043" + "0020" + "ab" * 32,
        "a keyed hash of no scheme": _KEYED.replace("00000010", "00000018"),
        "with a nameAlg that is none": _bytes(raw, 4, b"\0\x18"),
        "with a nameAlg of SHA-1": _marshal(good, name_alg=Alg.SHA1),
        "with no nameAlg": _marshal(good, name_alg=Alg.NULL),
        "with a nameAlg of SM3": _marshal(good, name_alg=Alg.SM3_256),
        "with a reserved attribute": _bytes(raw, 6, b"\x80"),
        "of a policy too long": raw[:10].hex() + "0041" + "ab" * 65,
        "with no scheme": _marshal(good, scheme=None),
        "with ECDAA": _marshal(good, scheme=Scheme(Alg.ECDAA, Alg.SHA256, 1)),
        "with ECDSA over SHA-1": _marshal(good, scheme=Scheme(Alg.ECDSA, Alg.SHA1)),
        "with ECDSA over SM3": _marshal(good, scheme=Scheme(Alg.ECDSA, Alg.SM3_256)),
        "with the scheme of RSA": _marshal(good, scheme=Scheme(Alg.RSASSA, Alg.SHA256)),
        "with ECDSA over no hash": _marshal(good, scheme=Scheme(Alg.ECDSA, Alg.ECC)),
        "with a symmetric algorithm": _marshal(good, symmetric=Symmetric(Alg.AES, 128, Alg.CFB)),
        "with a symmetric algorithm that is none": _marshal(good, symmetric=Symmetric(Alg.RSA, 128, Alg.CFB)),
        "with a mode that is none": _marshal(good, symmetric=Symmetric(Alg.AES, 128, Alg.RSA)),
        "with a KDF": _marshal(good, kdf=Scheme(Alg.MGF1, Alg.SHA256)),
        "with a KDF that is none": _marshal(good, kdf=Scheme(Alg.AES, Alg.SHA256)),
        "RSA with OAEP": _marshal(large, scheme=Scheme(Alg.OAEP, Alg.SHA256)),
        "RSA with RSAES": _marshal(large, scheme=Scheme(Alg.RSAES, None)),
    }
    for title, public in ak.items():
        yield "attestation_key", title, {"public": public}
    for one in (A.RESTRICTED, A.SIGN, A.FIXED_TPM, A.FIXED_PARENT, A.SENSITIVE_DATA_ORIGIN):
        yield "attestation_key", f"without {one.name}", {"public": _marshal(good, attributes=AK_ATTRIBUTES & ~one)}
    for one in (A.DECRYPT, A.ST_CLEAR, A.ENCRYPTED_DUPLICATION, A.X509_SIGN):
        yield "attestation_key", f"with {one.name}", {"public": _marshal(good, attributes=AK_ATTRIBUTES | one)}
    yield from _log_keys()
    yield from _endorsement_keys()
    approver = ecc_key().public_key()
    policy = policy_authorize(approver, b"gate.test/lineage").hex()
    given = {"approver": spki(approver).hex(), "origin": "gate.test/lineage", "policy": policy}
    yield "sealing_policy", "as it is", given
    yield "sealing_policy", "of another lineage", {**given, "origin": "other.test/lineage"}
    yield (
        "sealing_policy",
        "of another approver",
        {**given, "approver": spki(ec.generate_private_key(ec.SECP256R1()).public_key()).hex()},
    )
    yield "sealing_policy", "of no approver", {**given, "approver": given["approver"][:-2] + "00"}


def _log_keys() -> Made:
    policy = hashlib.sha256(b"policy").digest()
    attributes = AK_ATTRIBUTES & ~A.RESTRICTED & ~A.USER_WITH_AUTH
    good = replace(AK.public, attributes=attributes, auth_policy=policy)
    p384 = replace(ecc_public(ecc_key(Curve.P384)), attributes=attributes, auth_policy=policy)
    for title, public, wanted in (
        ("as it is", good, policy),
        ("with no scheme", replace(good, scheme=None), policy),
        ("on P-384", p384, policy),
        ("RSA", replace(rsa_public(attestation.rsa_key()), attributes=attributes, auth_policy=policy), policy),
        ("restricted", replace(good, attributes=attributes | A.RESTRICTED), policy),
        ("with a password", replace(good, attributes=attributes | A.USER_WITH_AUTH), policy),
        ("that can leave", replace(good, attributes=attributes & ~A.FIXED_TPM), policy),
        ("of another policy", good, bytes(32)),
        ("of no policy", replace(good, auth_policy=b""), b""),
        ("with a symmetric algorithm", replace(good, symmetric=Symmetric(Alg.AES, 128, Alg.CFB)), policy),
        ("over SHA-384", replace(good, scheme=Scheme(Alg.ECDSA, Alg.SHA384)), policy),
        ("with ECDH", replace(good, scheme=Scheme(Alg.ECDH, Alg.SHA256)), policy),
    ):
        yield "log_key", title, {"public": public.marshal().hex(), "policy": wanted.hex()}


def _endorsement_keys() -> Made:
    low = A.FIXED_TPM | A.FIXED_PARENT | A.SENSITIVE_DATA_ORIGIN | A.ADMIN_WITH_POLICY | A.RESTRICTED | A.DECRYPT
    good = replace(
        AK.public, attributes=low, auth_policy=POLICY_A_SHA256, symmetric=Symmetric(Alg.AES, 128, Alg.CFB), scheme=None
    )
    large = replace(
        rsa_public(attestation.rsa_key()),
        attributes=low,
        auth_policy=POLICY_A_SHA256,
        symmetric=good.symmetric,
        scheme=None,
    )
    high = replace(
        ecc_public(ecc_key(Curve.P384)),
        attributes=low | A.USER_WITH_AUTH,
        auth_policy=POLICY_B_SHA384,
        name_alg=Alg.SHA384,
    )
    high = replace(high, symmetric=Symmetric(Alg.AES, 256, Alg.CFB), scheme=None)
    modulus, raw = large.unique, good.marshal()
    assert isinstance(modulus, bytes)
    for title, public in {
        "L-2": raw.hex(),
        "L-1": large.marshal().hex(),
        "H-3": high.marshal().hex(),
        "of another policy": _marshal(good, auth_policy=bytes(32)),
        "with AES-256": _marshal(good, symmetric=Symmetric(Alg.AES, 256, Alg.CFB)),
        "without AES": _marshal(good, symmetric=None),
        "in another mode": _marshal(good, symmetric=Symmetric(Alg.AES, 128, Alg.CTR)),
        "with a scheme": _marshal(good, scheme=Scheme(Alg.ECDSA, Alg.SHA256)),
        "with a KDF": _marshal(good, kdf=Scheme(Alg.MGF1, Alg.SHA256)),
        "that signs": _marshal(good, attributes=low | A.SIGN),
        "with exponent 65537": _marshal(large, exponent=65537),
        "with an even modulus": _marshal(large, unique=modulus[:-1] + b"\0"),
        "off its curve": _bytes(raw, len(raw) - 1, bytes([raw[-1] ^ 1])),
        "with a coordinate too long": _marshal(good, unique=replace(good.unique, x=bytes(33))),
        "of no type": _bytes(raw, 2, b"\0\x99"),  # type: ignore[type-var]
        "a keyed hash": _KEYED,
        "with a byte more": raw.hex() + "00",
        "on P-192": _marshal(good, curve=Curve.P192),
        "of SHA-384": _marshal(good, name_alg=Alg.SHA384),
    }.items():
        yield "endorsement_key", title, {"public": public}
