"""The corpus' model of an artifact, judged by our JOSE layer and by what its context says beyond that.

Its claims are not ours (a scope list, a reset epoch), so the meaning of those is modelled here and only here; form,
header, signature, JSON, times, issuer and audience are judged by ``ztrooted.jose``, as for our own artifact.
"""

import json
from pathlib import Path
from typing import Any

from ztrooted import jose
from ztrooted.conformance.index import Fields, VectorSet, read_file, read_index
from ztrooted.conformance.key_recovery import recover_keys
from ztrooted.conformance.results import MissingFileError
from ztrooted.errors import ArtifactError
from ztrooted.jose import IssuerKey, Keys
from ztrooted.reasons import GateReason

TYP = "zt-exec-auth+jwt"

# What only the gateway's records can say; not reasons of the offline verifier.
USED, REVOKED = GateReason.ARTIFACT_USED, GateReason.OPERATOR_REVOKED


def judge_token(token: str, context: Fields, keys: Keys) -> None:
    """Return where the model's verifier would accept ``token``; raise ArtifactError otherwise."""
    told = {name: context.need(name) for name in ("iss", "aud", "now", "leeway", "max_lifetime", "executor", "job")}
    binding, scope_needed = context.need("presenter_jkt"), context.need("need_scope")
    reset_epoch = context.need("reset_epoch")
    revoked, consumed = context.take("revoked_jti", ()), context.take("consumed_jti", ())
    context.take("jwks")
    context.done()
    verified = jose.verify(jose.parse(token, typ=TYP), keys)
    claims = verified.claims
    jose.check_equal(claims, "iss", told["iss"], GateReason.JWS_ISSUER)
    jose.check_equal(claims, "aud", told["aud"], GateReason.JWS_AUDIENCE)
    jose.check_times(claims, now=told["now"], leeway=told["leeway"], max_lifetime=told["max_lifetime"])
    jose.check_key_time(verified, claims["iat"])
    jose.check_equal(claims, "sub", told["executor"], GateReason.JWS_EXECUTOR)
    jose.check_equal(claims, "job", told["job"], GateReason.JWS_JOB)
    _check_binding(claims, binding)
    _check_scope(claims.get("scope"), scope_needed)
    epoch = claims.get("reset_epoch")
    _require(type(epoch) is int and epoch == reset_epoch, GateReason.JWS_STALE_EPOCH, "another reset epoch")
    jti = claims.get("jti")
    _require(isinstance(jti, str) and 0 < len(claims["jti"]) <= 128, GateReason.JWS_CLAIMS, "no usable jti")
    _require(jti not in revoked, REVOKED, "revoked")
    _require(jti not in consumed, USED, "used before")


def _check_binding(claims: dict[str, Any], expected: str) -> None:
    cnf = claims.get("cnf")
    _require(isinstance(cnf, dict), GateReason.JWS_BINDING, "no key is named")
    jose.check_equal(claims["cnf"], "jkt", expected, GateReason.JWS_BINDING)


def _check_scope(scope: Any, needed: str) -> None:
    exact = isinstance(scope, list) and all(isinstance(item, str) and "*" not in item for item in scope)
    _require(exact and needed in scope, GateReason.JWS_SCOPE, "the scope does not cover this")


def _require(condition: bool, reason: GateReason, detail: str) -> None:
    if not condition:
        raise ArtifactError(reason, detail)


def load_keys(index: Path, name: str) -> tuple[Keys, str]:
    """The issuer keys of a key set beside ``index``, and a remark.

    Where a sample of a corpus lacks the set, the keys are recovered from the tokens that its index calls good.
    """
    try:
        data = read_file(index.parent, name)
    except MissingFileError:
        return _recovered(index), f"{name} is missing: issuer keys recovered from the accepted tokens"
    listed = json.loads(data)["keys"]
    return {
        key["kid"]: IssuerKey(jose.parse_jwk(key), key.get("nbf"), key.get("exp"))
        for key in listed
        if key.get("kty") == "EC" and key.get("crv") == "P-256"
    }, ""


def _recovered(index: Path) -> Keys:
    accepted = [
        entry.read(entry.value["file"]).decode()
        for entry in read_index(index)
        if not isinstance(entry, VectorSet) and entry.kind == "jws" and entry.value.get("expect") == "accept"
    ]
    keys = recover_keys(accepted, TYP)
    if not keys:
        raise MissingFileError("the issuer keys are missing, and no accepted token tells them")
    return keys
