"""What other people's libraries think of what we write. Runs in .peers (scripts/peers), without anything of ours.

Reads one JSON object from standard input, name of a question -> its arguments; writes name -> null for a yes, or why not.
"""

import base64
import hashlib
import json
import sys
from typing import Any

import jwt
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from joserfc import jwk as joserfc_jwk
from joserfc import jwt as joserfc_jwt
from securesystemslib.dsse import Envelope
from securesystemslib.signer import SSlibKey
from sigstore._internal.merkle import _chain_border_right, _chain_inner, _decomp_inclusion_proof, _hash_leaf
from sigstore._internal.rekor.checkpoint import SignedCheckpoint
from sigstore._internal.trust import Keyring
from sigstore.dsse import Statement
from sigstore_models.common import v1 as common_v1


def checkpoint(note: str, key: str, origin: str, size: int, root: str) -> None:
    """sigstore-python: the note is signed by the log key, and says this."""
    spki = base64.b64decode(key)
    details = common_v1.PublicKeyDetails.PKIX_ECDSA_P256_SHA_256
    keyring = Keyring([common_v1.PublicKey(raw_bytes=key.encode(), key_details=details)])
    signed = SignedCheckpoint.from_text(note)
    signed.signed_note.verify(keyring, hashlib.sha256(spki).digest())
    found = signed.checkpoint
    assert (found.origin, found.log_size, found.log_hash, found.other_content) == (origin, size, root, [])


def inclusion(record: str, index: int, size: int, proof: list[str], root: str) -> None:
    """sigstore-python: the record is in the tree."""
    hashes = [bytes.fromhex(one) for one in proof]
    inner, border = _decomp_inclusion_proof(index, size)
    assert len(hashes) == inner + border
    found = _chain_border_right(_chain_inner(_hash_leaf(record.encode()), hashes[:inner], index), hashes[inner:])
    assert found.hex() == root


def artifact_pyjwt(token: str, jwk: dict[str, str], audience: str, issuer: str, claims: dict[str, Any]) -> None:
    """PyJWT: signature, audience and issuer; whether it is expired depends on when the test runs."""
    assert jwt.get_unverified_header(token)["typ"] == "ztrooted-authz+jwt"
    options = {"verify_exp": False, "verify_nbf": False, "verify_iat": False}
    key = jwt.PyJWK(jwk, "ES256").key
    found = jwt.decode(token, key, algorithms=["ES256"], audience=audience, issuer=issuer, options=options)
    assert found == claims


def artifact_joserfc(token: str, jwk: dict[str, str], audience: str, issuer: str, claims: dict[str, Any]) -> None:
    """joserfc: likewise."""
    decoded = joserfc_jwt.decode(token, joserfc_jwk.ECKey.import_key(jwk), algorithms=["ES256"])
    wanted = {"aud": {"essential": True, "value": audience}, "iss": {"essential": True, "value": issuer}}
    joserfc_jwt.JWTClaimsRegistry(now=claims["iat"], **wanted).validate(decoded.claims)
    assert decoded.claims == claims


def dsse(envelope: dict[str, Any], pem: str) -> None:
    """securesystemslib: the envelope is signed by this key. sigstore-python: what is in it is an in-toto statement."""
    key = SSlibKey.from_crypto(load_pem_public_key(pem.encode()), envelope["signatures"][0]["keyid"])
    parsed = Envelope.from_dict(json.loads(json.dumps(envelope)))
    assert parsed.payload_type == "application/vnd.in-toto+json"
    assert list(parsed.verify([key], 1)) == [key.keyid]
    Statement(parsed.payload)


QUESTIONS = {one.__name__: one for one in (checkpoint, inclusion, artifact_pyjwt, artifact_joserfc, dsse)}


def opinion(name: str, arguments: dict[str, Any]) -> str | None:
    try:
        QUESTIONS[name.partition(" ")[0]](**arguments)
    except Exception as error:  # noqa: BLE001 -- each library has its own tree of errors
        return f"{type(error).__name__}: {error}"
    return None


if __name__ == "__main__":
    json.dump({name: opinion(name, arguments) for name, arguments in json.load(sys.stdin).items()}, sys.stdout)
