"""Issuing keys: introduced by the TPM-backed log key, valid for one epoch, pinned by whoever verifies artifacts.

Hardware signs a handful of times a second and dispatches are faster, so artifacts are signed by a key in memory. What makes
that key believable is a statement, signed by the log key, which lives in the gateway's TPM::

    {"format": "ztrooted-issuer/1", "origin": "…", "kid": "<RFC 7638>", "jwk": {…}, "not_before": s, "expires": s}
"""

import hashlib
from dataclasses import dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ztrooted import canonical, jose
from ztrooted.errors import ArtifactError, ProofError
from ztrooted.evidence import length_prefixed
from ztrooted.reasons import GateReason

FORMAT = "ztrooted-issuer/1"
DOMAIN = b"ztrooted/issuer/v1"
CERTIFY_DOMAIN = b"ztrooted/log-key/v1"
_MEMBERS = {"format", "origin", "kid", "jwk", "not_before", "expires"}


@dataclass(frozen=True, slots=True)
class IssuingKey:
    """A verified issuing key. Times in seconds since the epoch."""

    origin: str
    kid: str
    key: ec.EllipticCurvePublicKey
    not_before: int
    expires: int


def statement(origin: str, key: ec.EllipticCurvePublicKey, *, not_before: int, expires: int) -> bytes:
    """The canonical bytes that introduce ``key``."""
    return canonical.encode(
        {
            "format": FORMAT,
            "origin": origin,
            "kid": jose.thumbprint(key),
            "jwk": jose.jwk(key),
            "not_before": not_before,
            "expires": expires,
        }
    )


def certify_qualifying_data(origin: str) -> bytes:
    """What the gateway's attestation key certifies the log key for: SHA-256 over domain and origin."""
    return hashlib.sha256(length_prefixed(CERTIFY_DOMAIN, origin.encode())).digest()


def signed_digest(data: bytes) -> bytes:
    """What the log key signs for a statement: SHA-256 over domain and statement, so that nothing else can pass for one."""
    return hashlib.sha256(length_prefixed(DOMAIN, data)).digest()


def verify_introduction(data: bytes, signature: bytes, log_key: ec.EllipticCurvePublicKey, origin: str) -> IssuingKey:
    """The issuing key that ``log_key`` introduced for the log ``origin``. ProofError ``lineage.key`` otherwise."""
    try:
        log_key.verify(signature, signed_digest(data), ec.ECDSA(Prehashed(hashes.SHA256())))
    except InvalidSignature:
        raise ProofError(GateReason.LINEAGE_KEY, "the issuing key was not introduced by the log key") from None
    value = canonical.decode(data)
    try:
        return _read(value, origin)
    except (KeyError, TypeError, ValueError, AttributeError, ArtifactError) as error:
        raise ProofError(GateReason.LINEAGE_KEY, f"the introduction of an issuing key is malformed: {error}") from error


def _read(value: Any, origin: str) -> IssuingKey:
    if set(value) != _MEMBERS or value["format"] != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    if value["origin"] != origin:
        raise ValueError(f"it is for {value['origin']!r}, not for {origin!r}")
    key = jose.parse_jwk(value["jwk"])
    if value["jwk"] != jose.jwk(key):
        raise ValueError("its jwk has members that are not required")
    if value["kid"] != jose.thumbprint(key):
        raise ValueError("its kid is not the key's thumbprint")
    not_before, expires = value["not_before"], value["expires"]
    if type(not_before) is not int or type(expires) is not int or not 0 <= not_before < expires:
        raise ValueError("its times are not a span")
    return IssuingKey(origin, value["kid"], key, not_before, expires)
