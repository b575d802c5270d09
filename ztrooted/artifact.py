"""The authorization artifact: a signed, short-lived permission to run one job on one executor.

A JWT (ES256, type ``ztrooted-authz+jwt``) that its executor verifies offline with pinned issuer keys. It is a lease:
a renewal repeats it with a later end, keeps its ``jti`` (which names the authorization), counts ``ren.n`` up and names
its predecessor's digest in ``ren.prev``. So (jti, n) names one artifact, and an auditor can follow the chain.
"""

import hashlib
from typing import Annotated, Any, Self

from cryptography.hazmat.primitives.asymmetric import ec
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ztrooted import jose, limits, strict_json
from ztrooted.errors import ArtifactError
from ztrooted.jose import IssuerKey, Keys, Signer, jwk, thumbprint
from ztrooted.reasons import GateReason
from ztrooted.validation import in_words

__all__ = [
    "TYP",
    "Act",
    "ArtifactClaims",
    "Confirmation",
    "IssuerKey",
    "Keys",
    "Limits",
    "Lineage",
    "Policies",
    "Renewal",
    "Signer",
    "issue",
    "jwk",
    "thumbprint",
    "token_digest",
    "verify",
    "verify_renewal",
]

TYP = "ztrooted-authz+jwt"
MAX_RENEWALS = 1 << 20  # one a second for twelve days
MAX_TREE = strict_json.MAX_INTEGER

# Names are compared byte by byte, so they are ASCII without spaces: no second spelling looks the same.
Name = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[!-~]+$")]
Label = Annotated[str, Field(min_length=1, max_length=256, pattern=r"^[^\x00-\x1f\x7f]+$")]
Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]*$")]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
# nameAlg and digest (TPM 2.0 Part 1 §16): SHA-256, SHA-384 or SHA-512.
AkName = Annotated[str, Field(pattern=r"^(000b[0-9a-f]{64}|000c[0-9a-f]{96}|000d[0-9a-f]{128})$")]
Thumbprint = Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")]
Seconds = Annotated[int, Field(ge=0, le=strict_json.MAX_INTEGER)]
Tier = Annotated[str, Field(pattern=r"^A[0-4]$")]


class _Claims(BaseModel):
    # "$" in patterns would match before a final newline in Python's engine; the Rust engine has no such rule.
    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", regex_engine="rust-regex")


class Confirmation(_Claims):
    """RFC 7800: the key the holder has to prove, by its RFC 7638 thumbprint. It is the executor's session key."""

    jkt: Thumbprint


class Act(_Claims):
    """What the job is in the orchestrator's words."""

    workflow: Label
    run: Label
    step: Label


class Limits(_Claims):
    """What the job may use. ``max_runtime_s`` counts from activation."""

    max_runtime_s: Annotated[int, Field(ge=1, le=limits.MAX_RUNTIME_S)]


class Policies(_Claims):
    """Digests of the policies under which the artifact was issued, and of the entities they speak about."""

    appraisal: Digest
    dispatch: Digest
    entities: Digest


class Renewal(_Claims):
    """Place in the chain of renewals: 0 and no predecessor for the first artifact."""

    n: Annotated[int, Field(ge=0, le=MAX_RENEWALS)]
    prev: Digest | None = None

    @model_validator(mode="after")
    def _first_or_not(self) -> Self:
        if (self.n == 0) != (self.prev is None):
            raise ValueError("exactly the first artifact has no predecessor")
        return self


class Lineage(_Claims):
    """The log as the gateway saw it when issuing: index of the dispatch's last record, and a head that covers it."""

    origin: Name
    index: Annotated[int, Field(ge=0, le=MAX_TREE)]
    size: Annotated[int, Field(ge=1, le=MAX_TREE)]
    root: Digest

    @model_validator(mode="after")
    def _covered(self) -> Self:
        if self.index >= self.size:
            raise ValueError("the head does not cover the record")
        return self


class ArtifactClaims(_Claims):
    """The claims. Digests are lower-case hexadecimal SHA-256, times whole seconds since the epoch."""

    iss: Name
    aud: Name
    sub: Identifier
    jti: Identifier
    iat: Seconds
    nbf: Seconds
    exp: Seconds
    cnf: Confirmation
    ak: AkName
    job: Digest
    act: Act
    lim: Limits
    pol: Policies
    ev: Digest
    tier: Tier
    par: Identifier | None = None
    ren: Renewal
    lin: Lineage


# A claim that is missing or not of its type is refused with the code of the question it answers.
_REASON_OF = {
    "iss": GateReason.JWS_ISSUER,
    "aud": GateReason.JWS_AUDIENCE,
    "sub": GateReason.JWS_EXECUTOR,
    "cnf": GateReason.JWS_BINDING,
    "job": GateReason.JWS_JOB,
    "act": GateReason.JWS_SCOPE,
    "lim": GateReason.JWS_SCOPE,
    "ren": GateReason.JWS_RENEWAL,
}

# What a renewal may not change: who, where, what, with which key. The policies that permit it may be newer ones, and with
# them the tier may be another.
_KEPT = ("iss", "aud", "sub", "jti", "cnf", "ak", "job", "act", "lim", "par")


def issue(claims: ArtifactClaims, key: ec.EllipticCurvePrivateKey | Signer, kid: str) -> str:
    """Sign an artifact; ``kid`` is the thumbprint of the issuing key.

    ArtifactError for times no verifier would accept. ``par`` and ``ren.prev`` are left out where there is none.
    """
    written = claims.model_dump(exclude_none=True)
    jose.check_times(written, now=claims.nbf)
    return jose.sign(written, key, kid=kid, typ=TYP)


def verify(
    token: str,
    *,
    keys: Keys,
    issuer: str,
    audience: str,
    now: int,
    executor: str | None = None,
    job: str | None = None,
    jkt: str | None = None,
) -> ArtifactClaims:
    """Verify an artifact at the instant ``now``; raises ArtifactError with the first check that fails.

    1. Form and header: ``jws.too_large|malformed|json|alg_not_allowed|header|typ|kid`` (``ztrooted.jose.parse``).
    2. Signature by the key it names, then the payload's JSON: ``jws.kid|signature|json``.
    3. Issuer and audience are exactly those expected: ``jws.issuer|audience``.
    4. Times, and whether its key was in use: ``jws.claims|lifetime|not_yet_valid|expired|key_expired``.
    5. Every claim has its form, and there are no others: the code of the claim, or ``jws.claims``.
    6. Executor, job and holder's key, each where expected: ``jws.executor|job|binding``.

    Whether it was used or revoked is not in it: who activates an artifact asks the gateway.
    """
    # 1.
    parsed = jose.parse(token, typ=TYP)
    return verify_parsed(
        parsed, keys=keys, issuer=issuer, audience=audience, now=now, executor=executor, job=job, jkt=jkt
    )


def verify_parsed(
    parsed: jose.Jws,
    *,
    keys: Keys,
    issuer: str,
    audience: str,
    now: int,
    executor: str | None = None,
    job: str | None = None,
    jkt: str | None = None,
) -> ArtifactClaims:
    """``verify`` from step 2 on, for whoever has parsed the artifact already."""
    raw = verify_claims(parsed, keys=keys, issuer=issuer, audience=audience, now=now)
    # 5.
    claims = parse_claims(raw)
    # 6.
    if executor is not None:
        jose.check_equal(raw, "sub", executor, GateReason.JWS_EXECUTOR)
    if job is not None:
        jose.check_equal(raw, "job", job, GateReason.JWS_JOB)
    if jkt is not None:
        jose.check_equal(raw["cnf"], "jkt", jkt, GateReason.JWS_BINDING)
    return claims


def verify_claims(parsed: jose.Jws, *, keys: Keys, issuer: str, audience: str, now: int) -> dict[str, Any]:
    """Steps 2 to 4 of ``verify``. The claims as they stand: ``parse_claims`` has to say that each has its form."""
    # 2.
    verified = jose.verify(parsed, keys)
    raw = verified.claims
    # 3.
    jose.check_equal(raw, "iss", issuer, GateReason.JWS_ISSUER)
    jose.check_equal(raw, "aud", audience, GateReason.JWS_AUDIENCE)
    # 4.
    jose.check_times(raw, now=now)
    jose.check_key_time(verified, raw["iat"])
    return raw


def token_digest(token: str) -> str:
    """SHA-256 of an artifact as it stands, in hexadecimal: what its renewal names."""
    return hashlib.sha256(token.encode("ascii")).hexdigest()


def verify_renewal(previous: ArtifactClaims, renewed: ArtifactClaims, *, previous_token: str) -> None:
    """Check that ``renewed`` follows ``previous``, of which ``previous_token`` is the artifact itself.

    Both must have been verified. Raises ArtifactError:

    1. Next in the chain, and naming this predecessor: ``jws.renewal``.
    2. Nothing changed but time, evidence, lineage, and the policies and tier: ``jws.scope``.
    3. Time and lineage only go forward, and no gap opens between the two leases: ``jws.renewal``.
    """
    # 1.
    if renewed.ren.n != previous.ren.n + 1:
        raise _refuse(GateReason.JWS_RENEWAL, f"renewal {renewed.ren.n} does not follow {previous.ren.n}")
    if renewed.ren.prev != token_digest(previous_token):
        raise _refuse(GateReason.JWS_RENEWAL, "the renewal names another predecessor")
    # 2.
    for name in _KEPT:
        if getattr(renewed, name) != getattr(previous, name):
            raise _refuse(GateReason.JWS_SCOPE, f"the renewal changes {name}")
    # 3.
    if renewed.iat < previous.iat or renewed.exp < previous.exp:
        raise _refuse(GateReason.JWS_RENEWAL, "the renewal goes back in time")
    if renewed.nbf > previous.exp + limits.CLOCK_LEEWAY_S:
        raise _refuse(GateReason.JWS_RENEWAL, "the lease had ended when it was renewed")
    if renewed.lin.origin != previous.lin.origin or renewed.lin.size < previous.lin.size:
        raise _refuse(GateReason.JWS_RENEWAL, "the renewal stands on another or an older lineage")
    if renewed.lin.size == previous.lin.size and renewed.lin.root != previous.lin.root:
        raise _refuse(GateReason.JWS_RENEWAL, "two roots are stated for one size of the lineage")


def parse_claims(raw: dict[str, Any]) -> ArtifactClaims:
    """Claims in their forms, and nothing else (step 5 of ``verify``). What they encode to is ``raw`` again."""
    # What an artifact does not say is left out, and there is no other way to write that.
    for name, value in raw.items():
        if value is None or (isinstance(value, dict) and None in value.values()):
            raise _refuse(_REASON_OF.get(name, GateReason.JWS_CLAIMS), f"{name}: there is nothing in it")
    try:
        return ArtifactClaims.model_validate(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = [str(part) for part in first["loc"]]
        reason = _REASON_OF.get(where[0] if where else "", GateReason.JWS_CLAIMS)
        raise _refuse(reason, f"{'.'.join(where)[:80]}: {in_words(first)}") from None


def _refuse(reason: GateReason, detail: str) -> ArtifactError:
    return ArtifactError(reason, detail)
