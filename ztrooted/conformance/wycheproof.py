"""Signature vectors in Wycheproof's schema, through every path of ours that takes a signature of that form.

DER signatures go through signed notes, r ‖ s through tokens, both also as the integers of a ``TPMT_SIGNATURE``; RSA
through ``TPMT_SIGNATURE``; Ed25519 through signed notes.
"""

import base64
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tpm.algorithms import Alg
from tpm.errors import MalformedError, RejectedError
from tpm.reasons import EvidenceReason
from tpm.signature import MAX_ECC_PARAMETER, MAX_RSA_SIGNATURE, PublicKey, Signature, verify_signature
from ztrooted import jose
from ztrooted.conformance.results import Case, Expectation, NotApplicableError
from ztrooted.errors import ArtifactError
from ztrooted.jose import Jws
from ztrooted.note_keys import SignatureType, check_signature, note_key
from ztrooted.reasons import GateReason

Judge = Callable[[Mapping[str, Any], Mapping[str, Any]], None]

_HASHES = {"SHA-256": Alg.SHA256, "SHA-384": Alg.SHA384, "SHA-512": Alg.SHA512}
_RSA_BITS = (2048, 3072, 4096)
_KID = "key"


def cases_of(document: Mapping[str, Any]) -> Iterator[Case]:
    """The cases of all groups. "acceptable" leaves the verdict to the verifier."""
    for group in document["testGroups"]:
        kind = str(group.get("type"))
        judge = _JUDGES.get(kind, _outside)
        for test in group["tests"]:
            result = test["result"]
            expected = Expectation("reject" if result == "invalid" else "accept", lenient=result == "acceptable")
            yield str(test["tcId"]), f"signature_{kind}", expected, _bound(judge, group, test)


def _bound(judge: Judge, group: Mapping[str, Any], test: Mapping[str, Any]) -> Callable[[], None]:
    return lambda: judge(group, test)


def _outside(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:  # noqa: ARG001 -- as every judge
    raise NotApplicableError(f"nothing here verifies {group.get('type')}")


def _key(group: Mapping[str, Any]) -> PublicKey:
    encoded = group.get("publicKeyDer") or group.get("keyDer")
    key = load_der_public_key(bytes.fromhex(str(encoded)))
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in ("secp256r1", "secp384r1", "secp521r1"):
        raise NotApplicableError(f"keys on {key.curve.name} are not taken")
    return key  # type: ignore[return-value]


def _hash_alg(group: Mapping[str, Any]) -> Alg:
    found = _HASHES.get(str(group.get("sha")))
    if found is None:
        raise NotApplicableError(f"signatures by {group.get('sha')} are not taken")
    return found


def _is_p256(group: Mapping[str, Any], key: PublicKey) -> bool:
    named = isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name == "secp256r1"
    return named and group.get("sha") == "SHA-256"


def _ecdsa_der(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    key, hash_alg = _key(group), _hash_alg(group)
    message, value = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
    numbers = _integers(value)
    verify_signature(Signature(Alg.ECDSA, hash_alg, numbers), key, message)
    if _is_p256(group, key):
        signer = note_key("vectors", SignatureType.ECDSA, bytes.fromhex(group["publicKeyDer"]))
        check_signature(signer, message, None, value)


def _integers(der: bytes) -> tuple[bytes, bytes]:
    """r and s of strict DER as a TPM writes them; what is not strict DER, no path of ours takes for a signature."""
    try:
        r, s = decode_dss_signature(der)
    except ValueError:
        raise MalformedError(EvidenceReason.QUOTE_SIG_MALFORMED, "the signature is not DER") from None
    if min(r, s) < 0 or max(r, s).bit_length() > 8 * MAX_ECC_PARAMETER or encode_dss_signature(r, s) != der:
        raise MalformedError(EvidenceReason.QUOTE_SIG_MALFORMED, "no TPM can write these integers")
    return r.to_bytes((r.bit_length() + 7) // 8, "big"), s.to_bytes((s.bit_length() + 7) // 8, "big")


def _ecdsa_p1363(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    key, hash_alg = _key(group), _hash_alg(group)
    message, value = bytes.fromhex(test["msg"]), bytes.fromhex(test["sig"])
    size = (key.key_size + 7) // 8
    if len(value) != 2 * size:
        raise RejectedError(EvidenceReason.QUOTE_SIG_INVALID, f"{len(value)} bytes are not r and s of {size} each")
    verify_signature(Signature(Alg.ECDSA, hash_alg, (value[:size], value[size:])), key, message)
    if _is_p256(group, key) and isinstance(key, ec.EllipticCurvePublicKey):
        _check_token(key, message, value)


def _check_token(key: ec.EllipticCurvePublicKey, message: bytes, value: bytes) -> None:
    """Only the signature: the payload is a claim set of nobody."""
    jose.verify(Jws(_KID, b"{}", message, value), {_KID: key})


def _rsa(alg: Alg) -> Judge:
    def judge(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:
        if group.get("mgfSha", group.get("sha")) != group.get("sha"):
            raise NotApplicableError("a TPM's mask generation uses the hash of the scheme")
        key, hash_alg, value = _key(group), _hash_alg(group), bytes.fromhex(test["sig"])
        if key.key_size not in _RSA_BITS:
            raise NotApplicableError(f"RSA keys of {key.key_size} bits are not taken")
        if len(value) > MAX_RSA_SIGNATURE:
            raise MalformedError(EvidenceReason.QUOTE_SIG_MALFORMED, f"{len(value)} bytes are over the maximum")
        signature = Signature(alg, hash_alg, (value,))
        verify_signature(signature, key, bytes.fromhex(test["msg"]), pss_salt=group.get("sLen"))

    return judge


def _ed25519(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    public = group.get("publicKey") or {}
    if public.get("curve") not in (None, "edwards25519"):
        raise NotApplicableError(f"signatures on {public.get('curve')} are not taken")
    key = note_key("vectors", SignatureType.ED25519, bytes.fromhex(public["pk"]))
    check_signature(key, bytes.fromhex(test["msg"]), None, bytes.fromhex(test["sig"]))


def _token(group: Mapping[str, Any], test: Mapping[str, Any]) -> None:
    """A token as others write them: ours need a kid and a type, so these are judged by header rules and signature."""
    public = group.get("public") or group.get("key") or {}
    if public.get("kty") != "EC" or public.get("crv") != "P-256":
        raise NotApplicableError("only ES256 tokens are taken")
    token = str(test["jws"])
    try:
        jose.parse(token, typ=jose.ALG)
    except ArtifactError as error:
        if error.reason is GateReason.JWS_HEADER and test["result"] != "invalid":
            raise NotApplicableError(f"a header that is not taken: {error.detail}") from None
        if error.reason not in (GateReason.JWS_TYP, GateReason.JWS_KID):
            raise
    first, second, third = token.split(".")
    value, payload = (base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)) for part in (third, second))
    try:
        jose.verify(Jws(_KID, payload, f"{first}.{second}".encode(), value), {_KID: jose.parse_jwk(public)})
    except ArtifactError as error:
        if error.reason is GateReason.JWS_JSON:
            raise NotApplicableError("the payload is not a set of claims") from None
        raise


_JUDGES: dict[str, Judge] = {
    "EcdsaVerify": _ecdsa_der,
    "EcdsaP1363Verify": _ecdsa_p1363,
    "EddsaVerify": _ed25519,
    "JsonWebSignature": _token,
    "RsassaPkcs1Verify": _rsa(Alg.RSASSA),
    "RsassaPssVerify": _rsa(Alg.RSAPSS),
}
