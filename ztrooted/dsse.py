"""DSSE 1.0: an envelope around a signed statement, as in-toto and Sigstore tools read it.

What is signed is ``DSSEv1``, the payload's type and the payload, each behind its length in decimal, with one space
between any two of the five. Signatures are Ed25519, or ECDSA on P-256 with SHA-256 in DER.
"""

import base64
import hashlib
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

SigningKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

MAX_KEY = 64 << 10  # a key in PEM is under 1 KB


def load_signing_key(pem: bytes, name: str) -> SigningKey:
    """A private key in PEM without a passphrase, Ed25519 or P-256. EnvironmentProblem ``environment.key_file`` else."""
    try:
        key = serialization.load_pem_private_key(pem, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(name, "is not a private key in PEM without a passphrase") from error
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key
    if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise _unusable(name, "is neither an Ed25519 key nor one on P-256")


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """The bytes that are signed (DSSE 1.0, protocol.md, PAE)."""
    kind = payload_type.encode()
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def key_id(key: SigningKey) -> str:
    """How a signature names its key: SHA-256 of the SubjectPublicKeyInfo, hexadecimal. A hint; verifiers pin keys."""
    encoding, form = serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_key().public_bytes(encoding, form)).hexdigest()


def sign_envelope(payload_type: str, payload: bytes, key: SigningKey) -> dict[str, Any]:
    """The envelope with one signature, as JSON values."""
    signed = pre_authentication_encoding(payload_type, payload)
    if isinstance(key, ed25519.Ed25519PrivateKey):
        signature = key.sign(signed)
    else:
        signature = key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": payload_type,
        "signatures": [{"keyid": key_id(key), "sig": base64.b64encode(signature).decode()}],
    }


def _unusable(name: str, why: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_KEY_FILE, f"{name} {why}", "make one with: openssl genpkey -algorithm ed25519 -out KEY"
    )
