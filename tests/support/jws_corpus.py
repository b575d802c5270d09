"""The corpus' model artifact, judged by our JOSE layer and by what its context says beyond that.

Its claims are not ours (a scope list, a reset epoch), so the meaning of those is modelled here and only here; form,
header, signature, JSON, times, issuer and audience are judged by ``ztrooted.jose``, as for our own artifact.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.corpus import ROOT, Entry, read
from ztrooted import jose
from ztrooted.errors import ArtifactError
from ztrooted.jose import IssuerKey, Keys
from ztrooted.reasons import GateReason

TYP = "zt-exec-auth+jwt"

# What only the gateway's records can say; not reasons of the offline verifier.
USED, REVOKED = GateReason.ARTIFACT_USED, GateReason.OPERATOR_REVOKED


def judge(token: str, context: dict[str, Any], keys: Keys) -> tuple[str, str]:
    """("accept", "ok") or ("reject", reason code) for a token, in the words of the corpus."""
    try:
        _verify(token, context, keys)
    except ArtifactError as error:
        return "reject", str(error.reason)
    return "accept", "ok"


def judge_entry(part: str, entry: Entry) -> tuple[str, str]:
    """The same for an entry of an index of ``part``."""
    token = read(part, entry["file"]).decode("utf-8", "surrogateescape")
    return judge(token, entry["context"], load_keys(part, entry["context"]))


def load_keys(part: str, context: dict[str, Any]) -> Keys:
    """The issuer keys of a context; recovered from the accepted tokens where the set itself is not in the sample."""
    path = ROOT / part / context["jwks"]
    if path.exists():
        return {
            key["kid"]: IssuerKey(jose.parse_jwk(key), key.get("nbf"), key.get("exp"))
            for key in json.loads(path.read_text())["keys"]
            if key.get("kty") == "EC" and key.get("crv") == "P-256"
        }
    index = json.loads((ROOT / part / "INDEX.json").read_text())
    listed: list[Entry] = index["entries"] if isinstance(index, dict) else index
    accepted = [entry for entry in listed if entry["kind"] == "jws" and entry["expect"] == "accept"]
    return recover_keys(read(part, entry["file"]).decode() for entry in accepted)


def recover_keys(tokens: Iterable[str]) -> dict[str, ec.EllipticCurvePublicKey]:
    """For each kid the one key that can have made all the signatures (SEC 1 §4.1.6)."""
    candidates: dict[str, set[tuple[int, int]]] = {}
    for token in set(tokens):
        parsed = jose.parse(token, typ=TYP)
        found = set(_candidates(parsed.signed, parsed.signature))
        candidates[parsed.kid] = candidates.get(parsed.kid, found) & found
    return {
        kid: ec.EllipticCurvePublicNumbers(*next(iter(points)), ec.SECP256R1()).public_key()
        for kid, points in candidates.items()
        if len(points) == 1
    }


def _verify(token: str, context: dict[str, Any], keys: Keys) -> None:
    verified = jose.verify(jose.parse(token, typ=TYP), keys)
    claims = verified.claims
    jose.check_equal(claims, "iss", context["iss"], GateReason.JWS_ISSUER)
    jose.check_equal(claims, "aud", context["aud"], GateReason.JWS_AUDIENCE)
    jose.check_times(claims, now=context["now"], leeway=context["leeway"], max_lifetime=context["max_lifetime"])
    jose.check_key_time(verified, claims["iat"])
    jose.check_equal(claims, "sub", context["executor"], GateReason.JWS_EXECUTOR)
    jose.check_equal(claims, "job", context["job"], GateReason.JWS_JOB)
    cnf = claims.get("cnf")
    _require(isinstance(cnf, dict), GateReason.JWS_BINDING, "no key is named")
    jose.check_equal(claims["cnf"], "jkt", context["presenter_jkt"], GateReason.JWS_BINDING)
    scope = claims.get("scope")
    exact = isinstance(scope, list) and all(isinstance(item, str) and "*" not in item for item in scope)
    _require(exact and context["need_scope"] in claims["scope"], GateReason.JWS_SCOPE, "the scope does not cover this")
    epoch = claims.get("reset_epoch")
    _require(type(epoch) is int and epoch == context["reset_epoch"], GateReason.JWS_STALE_EPOCH, "another reset epoch")
    jti = claims.get("jti")
    _require(isinstance(jti, str) and 0 < len(claims["jti"]) <= 128, GateReason.JWS_CLAIMS, "no usable jti")
    _require(jti not in context["revoked_jti"], REVOKED, "revoked")
    _require(jti not in context["consumed_jti"], USED, "used before")


def _require(condition: bool, reason: GateReason, detail: str) -> None:
    if not condition:
        raise ArtifactError(reason, detail)


# --- P-256, for key recovery only -----------------------------------------------------------------------------------
_P = 2**256 - 2**224 + 2**192 + 2**96 - 1
_B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
_G = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
_Point = tuple[int, int] | None


def _add(a: _Point, b: _Point) -> _Point:
    if a is None or b is None:
        return b if a is None else a
    if a[0] == b[0]:
        if (a[1] + b[1]) % _P == 0:
            return None
        slope = (3 * a[0] * a[0] - 3) * pow(2 * a[1], -1, _P)
    else:
        slope = (b[1] - a[1]) * pow(b[0] - a[0], -1, _P)
    x = (slope * slope - a[0] - b[0]) % _P
    return x, (slope * (a[0] - x) - a[1]) % _P


def _times(factor: int, point: _Point) -> _Point:
    total: _Point = None
    while factor:
        if factor & 1:
            total = _add(total, point)
        point, factor = _add(point, point), factor >> 1
    return total


def _candidates(signed: bytes, signature: bytes) -> Iterator[tuple[int, int]]:
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    e = int.from_bytes(hashlib.sha256(signed).digest(), "big")
    inverse = pow(r, -1, jose.ORDER)
    y = pow(r**3 - 3 * r + _B, (_P + 1) // 4, _P)
    for candidate in (y, _P - y):
        point = _add(_times(s * inverse % jose.ORDER, (r, candidate)), _times(-e * inverse % jose.ORDER, _G))
        if point is not None:
            yield point
