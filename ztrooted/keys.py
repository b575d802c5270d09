"""Public keys as the rest of the project names them: executor ids and session keys."""

import hashlib
import re

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

EXECUTOR_ID = re.compile(r"ex-[0-9a-f]{32}")


def executor_id(ek_public_area: bytes) -> str:
    """The id of the executor whose TPM has this endorsement key (TPMT_PUBLIC bytes).

    128 bits of its SHA-256: it follows from the key, so nobody can choose one, claim another's, or have two.
    """
    return f"ex-{hashlib.sha256(ek_public_area).hexdigest()[:32]}"


def parse_executor_id(text: str) -> str:
    """``text`` if it has the form of an executor id; GateError ``id.invalid`` otherwise."""
    if not EXECUTOR_ID.fullmatch(text):
        raise GateError(GateReason.ID_INVALID, "an executor id is 'ex-' and 32 lower-case hexadecimal digits")
    return text


def spki(key: ec.EllipticCurvePublicKey) -> bytes:
    """SubjectPublicKeyInfo, DER."""
    return key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def load_p256(der: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 key from its SubjectPublicKeyInfo. GateError ``enroll.session_key`` for anything else."""
    try:
        key = serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise GateError(GateReason.ENROLL_SESSION_KEY, "the session key is not a SubjectPublicKeyInfo") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise GateError(GateReason.ENROLL_SESSION_KEY, "the session key is not on P-256")
    if spki(key) != der:
        raise GateError(GateReason.ENROLL_SESSION_KEY, "the session key is not in its one DER form")
    return key
