"""Attestation results of any verifier: what they claim, in words, and whether a signature stands behind it."""

import base64
import binascii
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from tpm.attest import parse_attest
from tpm.errors import EvidenceError
from ztrooted import ear, jose
from ztrooted.ar4si import TIER_NAMES, meaning, tier_of
from ztrooted.ear import Appraised, EarResult
from ztrooted.errors import ProofError
from ztrooted.inspect.plain import Report
from ztrooted.reasons import GateReason

MAX_EAR = ear.MAX_TOKEN


def inspect_ear(data: bytes, key: bytes | None = None) -> Report:
    """Read a token or decoded claims; with ``key`` (PEM or JWK) verify the token's signature.

    ProofError ``ear.malformed`` for what is no result, ArtifactError ``jws.*`` where a signature does not verify.
    """
    text = data.strip()
    if text[:1] == b"{":
        if key is not None:
            raise ProofError(GateReason.EAR_MALFORMED, "decoded claims have no signature that a key could verify")
        return describe(ear.parse_json(text), signature="none: these are decoded claims")
    token = text.decode("ascii", "replace")
    if key is not None:
        return describe(ear.verify_foreign(token, load_key(key)), signature="verified")
    payload = ear.split_foreign(token)[1]
    return describe(ear.parse_json(payload), signature="not verified")


def load_key(data: bytes) -> ec.EllipticCurvePublicKey:
    """A P-256 key as PEM or JWK. ArtifactError ``jws.*`` or ProofError for anything else."""
    try:
        if data.lstrip()[:1] == b"{":
            value = json.loads(data)
            return jose.parse_jwk({name: value[name] for name in ("kty", "crv", "x", "y") if name in value})
        key = load_pem_public_key(data)
    except ValueError as error:
        raise ProofError(GateReason.JWS_KID, f"this is no public key as PEM or JWK: {error}") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise ProofError(GateReason.JWS_KID, "the key is not on P-256, and ES256 is what we verify")
    return key


def describe(result: EarResult, signature: str) -> Report:
    """A result in words, with what does not fit together."""
    parts = result.appraised()
    return {
        "verified": signature == "verified",
        "signature": signature,
        "profile": str(result.profile),
        "verifier": {"developer": result.developer, "build": result.build},
        "issued": result.issued,
        "expires": result.expires,
        "nonces": list(result.nonces),
        "parts": {name: _part(one) for name, one in parts.items()},
        "detached": sorted(name for name, one in result.submods.items() if isinstance(one, str)),
        "findings": [*result.remarks, *_findings(result, parts)],
    }


def _part(one: Appraised) -> Report:
    return {
        "status": TIER_NAMES[one.status],
        "vector": {
            name: {"value": value, "tier": TIER_NAMES[tier_of(value)], "meaning": meaning(name, value)}
            for name, value in one.vector.items()
        },
        "policies": list(one.policy_ids),
        "extensions": sorted(one.extensions),
    }


def _findings(result: EarResult, parts: dict[str, Appraised]) -> list[str]:
    found = [f"{name}: the status is better than the worst claim" for name, one in parts.items() if not one.consistent]
    said = {decoded for nonce in result.nonces for decoded in _decodings(nonce)}
    for name, one in parts.items():
        for where, attested in _attestations(one.extensions, ""):
            if said and attested not in said:
                found.append(
                    f"{name}: the TPM evidence in {where} was made for {attested.hex()}, and not for this result's nonce:"
                    " it may be old"
                )
    return found


def _decodings(nonce: str) -> set[bytes]:
    """A nonce is text; which bytes it stands for, every verifier has its own idea."""
    found = {nonce.encode()}
    padded = nonce.rstrip("=") + "=" * (-len(nonce.rstrip("=")) % 4)
    for decode in (base64.standard_b64decode, base64.urlsafe_b64decode, bytes.fromhex):
        try:
            found.add(decode(nonce if decode is bytes.fromhex else padded))
        except (ValueError, binascii.Error):
            continue
    return found


def _attestations(value: Any, where: str) -> list[tuple[str, bytes]]:
    """Every TPMS_ATTEST among annotated evidence, with its ``extraData``."""
    if isinstance(value, dict):
        return [found for name, one in value.items() for found in _attestations(one, f"{where}/{name}".lstrip("/"))]
    if not isinstance(value, str) or len(value) > 4096:
        return []
    try:
        padded = value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4)
        return [
            (
                where,
                parse_attest(base64.b64decode(padded, altchars=b"-_" if {"-", "_"} & set(value) else None)).extra_data,
            )
        ]
    except (EvidenceError, ValueError, binascii.Error):
        return []
