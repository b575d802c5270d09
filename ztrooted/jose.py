"""The strict layer below our tokens: JWS compact serialisation (RFC 7515) with ES256, read in one way only.

What it leaves out is what went wrong elsewhere: no other algorithm, no key from the header, no ``crit``, ``b64`` or
``zip``, no second way to write the same token, no lenient JSON, no list of audiences. It knows nothing of what the
claims mean.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature

from ztrooted import canonical, limits, strict_json
from ztrooted.clock import instant
from ztrooted.errors import ArtifactError
from ztrooted.reasons import GateReason

ALG = "ES256"
MAX_TOKEN = 16 << 10  # an artifact is under 2 KB; a header of a proxy holds 16
MAX_KID = 128  # a thumbprint has 43
COORDINATE = 32  # bytes of r, s, x and y on P-256
ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551  # of P-256 (SEC 2 §2.4.2)
_HEADER_MEMBERS = frozenset({"alg", "kid", "typ"})
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*")

Signer: TypeAlias = Callable[[bytes], bytes]
"""Signs a message; the signature is r ‖ s of 32 bytes each (RFC 7518 §3.4)."""


@dataclass(frozen=True, slots=True)
class IssuerKey:
    """A key of the issuer and the time, in seconds, at which it may have signed; both ends belong to it."""

    public_key: ec.EllipticCurvePublicKey
    not_before: int | None = None
    not_after: int | None = None


Keys: TypeAlias = Mapping[str, ec.EllipticCurvePublicKey | IssuerKey]


@dataclass(frozen=True, slots=True)
class Jws:
    """A token as parsed: the key it names and what was signed. Nothing in it is verified."""

    kid: str
    payload: bytes
    signed: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class VerifiedJws:
    """A token whose signature verified: the claims as they stand, whatever they mean, and the key that signed."""

    kid: str
    key: IssuerKey
    claims: dict[str, Any]


def parse(token: str, *, typ: str) -> Jws:
    """Read a token of the kind ``typ``.

    1. Size, alphabet and three segments in canonical base64url: ``jws.too_large``, ``jws.malformed``.
    2. The header is one strict JSON object: ``jws.json``.
    3. Its algorithm is ES256: ``jws.alg_not_allowed``.
    4. It has no members but alg, kid and typ: ``jws.header``.
    5. It is the kind of token asked for: ``jws.typ``.
    6. It names a key: ``jws.kid``.
    """
    # 1.
    if len(token) > MAX_TOKEN:
        raise _refuse(GateReason.JWS_TOO_LARGE, f"a token of {len(token)} characters is over {MAX_TOKEN}")
    segments = token.split(".")
    if len(segments) != 3 or not segments[0] or not segments[1]:
        raise _refuse(GateReason.JWS_MALFORMED, "a token is three segments divided by dots")
    payload, signature = _decode(segments[1]), _decode(segments[2])
    # 2.
    header = _header(segments[0])
    # 3.
    if header.get("alg") != ALG:
        raise _refuse(GateReason.JWS_ALG_NOT_ALLOWED, f"the algorithm is {header.get('alg')!r:.40}, not {ALG}")
    # 4.
    if extra := sorted(header.keys() - _HEADER_MEMBERS):
        raise _refuse(GateReason.JWS_HEADER, f"the header has members we don't take: {', '.join(extra)[:80]}")
    # 5.
    if header.get("typ") != typ:
        raise _refuse(GateReason.JWS_TYP, f"the type is {header.get('typ')!r:.40}, not {typ}")
    # 6.
    kid = header.get("kid")
    if not isinstance(kid, str) or not 0 < len(kid) <= MAX_KID:
        raise _refuse(GateReason.JWS_KID, "the header names no key")
    return Jws(kid, payload, f"{segments[0]}.{segments[1]}".encode("ascii"), signature)


def verify(jws: Jws, keys: Keys) -> VerifiedJws:
    """Verify a parsed token with the key it names among ``keys``, and only that one.

    1. The key is known: ``jws.kid``.
    2. The signature is r ‖ s in range and verifies: ``jws.signature``.
    3. The payload is one strict JSON object: ``jws.json``.
    """
    # 1.
    found = keys.get(jws.kid)
    if found is None:
        raise _refuse(GateReason.JWS_KID, f"no issuer key is called {jws.kid!r:.80}")
    key = found if isinstance(found, IssuerKey) else IssuerKey(found)
    # 2.
    _verify_es256(key.public_key, jws.signed, jws.signature)
    # 3.
    return VerifiedJws(jws.kid, key, _object(jws.payload))


def verify_signature(jws: Jws, public_key: ec.EllipticCurvePublicKey) -> None:
    """Verify a token's signature with a key that was told, and nothing else of it: ``jws.signature``."""
    _verify_es256(public_key, jws.signed, jws.signature)


def sign(claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey | Signer, *, kid: str, typ: str) -> str:
    """Make a token of canonical JSON. ArtifactError ``jws.too_large`` where no verifier would read it."""
    header = _encode(canonical.encode({"alg": ALG, "kid": kid, "typ": typ}))
    signed = f"{header}.{_encode(canonical.encode(dict(claims)))}"
    signer = _software_signer(key) if isinstance(key, ec.EllipticCurvePrivateKey) else key
    signature = signer(signed.encode("ascii"))
    if len(signature) != 2 * COORDINATE:
        raise ValueError(f"an ES256 signature has {2 * COORDINATE} bytes, the signer made {len(signature)}")
    token = f"{signed}.{_encode(signature)}"
    if len(token) > MAX_TOKEN:
        raise _refuse(GateReason.JWS_TOO_LARGE, f"a token of {len(token)} characters is over {MAX_TOKEN}")
    return token


def _at(seconds: int) -> str:
    return instant(seconds * 1000)


def check_key_time(verified: VerifiedJws, issued: int) -> None:
    """Refuse a token issued, by its own account, when its key was not in use: ``jws.key_expired``."""
    key = verified.key
    if key.not_before is not None and issued < key.not_before:
        raise _refuse(
            GateReason.JWS_KEY_EXPIRED, f"issued at {_at(issued)}; its key is in use from {_at(key.not_before)}"
        )
    if key.not_after is not None and issued > key.not_after:
        raise _refuse(
            GateReason.JWS_KEY_EXPIRED, f"issued at {_at(issued)}; its key was retired at {_at(key.not_after)}"
        )


def check_times(
    claims: Mapping[str, Any],
    *,
    now: int,
    leeway: int = limits.CLOCK_LEEWAY_S,
    max_lifetime: int = limits.ARTIFACT_LIFE_S,
) -> None:
    """Judge ``iat``, ``nbf`` and ``exp`` (RFC 7519 §4.1), all required and in whole seconds, at the instant ``now``.

    1. They are integers, not negative: ``jws.claims``.
    2. It was issued and is valid by now, give or take ``leeway``: ``jws.not_yet_valid``.
    3. It does not live longer than ``max_lifetime``: ``jws.lifetime``.
    4. It has not expired: ``jws.expired``.
    5. It does not end before it begins: ``jws.claims``.
    """
    # 1.
    iat, nbf, exp = (_seconds(claims, name) for name in ("iat", "nbf", "exp"))
    # 2.
    if max(iat, nbf) > now + leeway:
        raise _refuse(GateReason.JWS_NOT_YET_VALID, f"valid from {_at(max(iat, nbf))}, and it is {_at(now)}")
    # 3.
    if exp - min(iat, nbf) > max_lifetime:
        raise _refuse(GateReason.JWS_LIFETIME, f"a life of {exp - min(iat, nbf)} s is over {max_lifetime} s")
    # 4.
    if now >= exp + leeway:
        raise _refuse(GateReason.JWS_EXPIRED, f"expired at {_at(exp)}, and it is {_at(now)}")
    # 5.
    if exp <= nbf or exp <= iat:
        raise _refuse(GateReason.JWS_CLAIMS, "the token expires before it begins")


def check_equal(claims: Mapping[str, Any], name: str, expected: str, reason: GateReason) -> None:
    """Refuse with ``reason`` unless the claim is the string ``expected``: not a list with it, not another case."""
    found = claims.get(name)
    if found != expected:
        raise _refuse(reason, f"{name} is {found!r:.80}, expected {expected!r:.80}")


def jwk(public_key: ec.EllipticCurvePublicKey) -> dict[str, str]:
    """``public_key``, on P-256, as a JWK (RFC 7518 §6.2.1)."""
    if public_key.curve.name != "secp256r1":
        raise ValueError(f"a key on {public_key.curve.name} signs no ES256")
    numbers = public_key.public_numbers()
    x, y = (_encode(value.to_bytes(COORDINATE, "big")) for value in (numbers.x, numbers.y))
    return {"crv": "P-256", "kty": "EC", "x": x, "y": y}


def parse_jwk(value: Mapping[str, Any]) -> ec.EllipticCurvePublicKey:
    """The P-256 key of a JWK. ArtifactError ``jws.binding`` for any other, a point off the curve, or a private key."""
    x, y = value.get("x"), value.get("y")
    if value.get("kty") != "EC" or value.get("crv") != "P-256" or "d" in value:
        raise _refuse(GateReason.JWS_BINDING, "the JWK is not the public key of a key pair on P-256")
    if not isinstance(x, str) or not isinstance(y, str):
        raise _refuse(GateReason.JWS_BINDING, "the JWK has no coordinates")
    raw = [_decode(coordinate) for coordinate in (x, y)]
    if any(len(coordinate) != COORDINATE for coordinate in raw):
        raise _refuse(GateReason.JWS_BINDING, f"a coordinate of the JWK has not {COORDINATE} bytes")
    try:
        return ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), b"\x04" + raw[0] + raw[1])
    except ValueError:
        raise _refuse(GateReason.JWS_BINDING, "the JWK's point is not on its curve") from None


def thumbprint(key: Mapping[str, Any] | ec.EllipticCurvePublicKey) -> str:
    """RFC 7638 thumbprint, SHA-256 in base64url, of a P-256 key or its JWK; members beyond the required don't count."""
    public_key = key if isinstance(key, ec.EllipticCurvePublicKey) else parse_jwk(key)
    return _encode(hashlib.sha256(canonical.encode(jwk(public_key))).digest())


def _verify_es256(public_key: ec.EllipticCurvePublicKey, signed: bytes, signature: bytes) -> None:
    if public_key.curve.name != "secp256r1":
        raise _refuse(GateReason.JWS_KID, f"the issuer key is on {public_key.curve.name}, ES256 is P-256")
    r, s = int.from_bytes(signature[:COORDINATE], "big"), int.from_bytes(signature[COORDINATE:], "big")
    if len(signature) != 2 * COORDINATE or not (0 < r < ORDER and 0 < s < ORDER):
        raise _refuse(GateReason.JWS_SIGNATURE, "the signature is not r ‖ s of an ES256 signature")
    try:
        public_key.verify(encode_dss_signature(r, s), signed, ec.ECDSA(hashes.SHA256()))
    except InvalidSignature:
        raise _refuse(GateReason.JWS_SIGNATURE, "the signature does not verify") from None


def _software_signer(key: ec.EllipticCurvePrivateKey) -> Signer:
    def sign_message(message: bytes) -> bytes:
        r, s = decode_dss_signature(key.sign(message, ec.ECDSA(hashes.SHA256())))
        return r.to_bytes(COORDINATE, "big") + s.to_bytes(COORDINATE, "big")

    return sign_message


def _seconds(claims: Mapping[str, Any], name: str) -> int:
    value = claims.get(name)
    if type(value) is not int or value < 0:  # bool is an int
        raise _refuse(GateReason.JWS_CLAIMS, f"{name} is {value!r:.40}, not a whole number of seconds")
    return value


@lru_cache(maxsize=16)
def _header(segment: str) -> Mapping[str, Any]:
    """A header as it is read, remembered: all tokens of one key have the same."""
    return MappingProxyType(_object(_decode(segment)))


def _object(data: bytes) -> dict[str, Any]:
    value = canonical.quickly(data, MAX_TOKEN)
    if value is None:  # what is not canonical may still be strict JSON
        value = strict_json.parse(data, lambda detail: _refuse(GateReason.JWS_JSON, detail), maximum=MAX_TOKEN)
    if not isinstance(value, dict):
        raise _refuse(GateReason.JWS_JSON, "the JSON is not an object")
    return value


def _decode(segment: str) -> bytes:
    """Base64url without padding, in the only encoding its bytes have (RFC 4648 §3.5, RFC 7515 §2)."""
    if _BASE64URL.fullmatch(segment):
        try:
            raw = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        except binascii.Error:
            raw = b""
        if _encode(raw) == segment:
            return raw
    raise _refuse(GateReason.JWS_MALFORMED, "a segment is not canonical base64url")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode("ascii")


def _refuse(reason: GateReason, detail: str) -> ArtifactError:
    return ArtifactError(reason, detail)
