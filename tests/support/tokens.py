"""Artifacts for tests: valid claims at a fixed instant, and a way to sign any bytes as a token."""

import base64
import json
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from ztrooted import artifact
from ztrooted.artifact import ArtifactClaims

NOW = 1_800_000_000
ISSUER = "https://gateway.test"
AUDIENCE = "ztrooted-executors"
EXECUTOR = "ex-0123456789abcdef"
JOB = "ab" * 32
KEY = ec.derive_private_key(0x1001, ec.SECP256R1())  # fixed, so that test ids are the same in every process
KID = artifact.thumbprint(KEY.public_key())
KEYS = {KID: KEY.public_key()}
SESSION_KEY = ec.derive_private_key(0x1002, ec.SECP256R1())
JKT = artifact.thumbprint(SESSION_KEY.public_key())
HEADER: dict[str, Any] = {"alg": "ES256", "kid": KID, "typ": artifact.TYP}


def claims_dict(**changes: Any) -> dict[str, Any]:
    """Valid claims as JSON values, with ``changes``; a change to ``...`` leaves the claim out."""
    claims: dict[str, Any] = {
        "iss": ISSUER,
        "aud": AUDIENCE,
        "sub": EXECUTOR,
        "jti": "0190c7b1-0000-7000-8000-000000000001",
        "iat": NOW,
        "nbf": NOW,
        "exp": NOW + 60,
        "cnf": {"jkt": JKT},
        "ak": "000b" + "cd" * 32,
        "job": JOB,
        "act": {"workflow": "train", "run": "2027-01-15/1", "step": "fit model"},
        "lim": {"max_runtime_s": 3600},
        "pol": {"appraisal": "01" * 32, "dispatch": "02" * 32, "entities": "03" * 32},
        "ev": "03" * 32,
        "tier": "A4",
        "ren": {"n": 0},
        "lin": {"origin": "gateway.test/lineage", "index": 6, "size": 7, "root": "04" * 32},
    }
    claims.update(changes)
    return {name: value for name, value in claims.items() if value is not ...}


def claims(**changes: Any) -> ArtifactClaims:
    """The same as the type that is issued."""
    return ArtifactClaims.model_validate(claims_dict(**changes))


def token(header: Any = None, payload: Any = None, key: ec.EllipticCurvePrivateKey = KEY) -> str:
    """Sign anything: header and payload as JSON values or as raw bytes."""
    first, second = (
        part if isinstance(part, bytes) else json.dumps(part).encode()
        for part in (HEADER if header is None else header, claims_dict() if payload is None else payload)
    )
    signed = f"{b64(first)}.{b64(second)}"
    r, s = decode_dss_signature(key.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))
    return f"{signed}.{b64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


def verify(presented: str, **changes: Any) -> ArtifactClaims:
    """Verify as the executor it was made for does."""
    expected: dict[str, Any] = {"keys": KEYS, "issuer": ISSUER, "audience": AUDIENCE, "now": NOW}
    return artifact.verify(presented, **(expected | {"executor": EXECUTOR, "job": JOB, "jkt": JKT} | changes))


def b64(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
