"""EAR: attestation results as signed tokens that other RATS tools read (draft-ietf-rats-ear), in both live dialects.

Ours are built and signed here; those of others are read for inspection. Tokens of this type can never be taken for
authorization artifacts: their ``typ`` is another, and so are all their claims.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec

from ztrooted import jose, strict_json
from ztrooted.ar4si import CLAIMS, CONTRAINDICATED, CRYPTO_FAILED, MALFUNCTION, NONE, TIER_NAMES, UNEXPECTED, tier_of
from ztrooted.clock import instant
from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

TYP = "eat+jwt"
MAX_TOKEN = 1 << 20  # tokens of others may carry evidence
MAX_SUBMODS = 256
MAX_DEPTH = 4  # of results within results
MAX_TIME = 1 << 40
_TIERS = {name: value for value, name in TIER_NAMES.items()}
# Values that claims may be written as, besides numbers.
_NAMED_VALUES = {
    "verifier_malfunction": MALFUNCTION,
    "no_claim": 0,
    "unexpected_evidence": UNEXPECTED,
    "crypto_validation_failed": CRYPTO_FAILED,
}
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*={0,2}")
_NONCE = range(8, 89)  # characters: 8 to 64 bytes (RFC 9711 §4.1), in text or base64


class Profile(StrEnum):
    """Which dialect a result is in, by its ``eat_profile``."""

    VERAISON = "tag:github.com,2023:veraison/ear"
    IETF = "tag:ietf.org,2026:rats/ear#04"
    TRUSTEE = "tag:github.com,2024:confidential-containers/Trustee"

    def claim(self, name: str) -> str:
        """The name of one of the standard's claims in this dialect: ``ear_status`` or ``ear.status``."""
        if self is Profile.IETF:
            return f"ear_{name}"
        return f"ear.{name.replace('_', '-')}"


WRITTEN = (Profile.VERAISON, Profile.IETF)


@dataclass(frozen=True, slots=True)
class Appraised:
    """The result of one attester or part of one. ``vector`` has the claims that were made, by their standard names."""

    status: int
    vector: Mapping[str, int]
    policy_ids: tuple[str, ...] = ()
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    def consistent(self) -> bool:
        """Whether the status is no better than the worst claim."""
        return self.status >= max((tier_of(value) for value in self.vector.values()), default=NONE)


@dataclass(frozen=True, slots=True)
class EarResult:
    """A parsed result; whoever signed it, if anybody, has not been asked. Times in seconds since the epoch."""

    profile: Profile
    issued: int
    developer: str
    build: str
    submods: Mapping[str, "Appraised | EarResult | str"]
    nonces: tuple[str, ...] = ()
    status: int | None = None
    expires: int | None = None
    remarks: tuple[str, ...] = ()

    def appraised(self) -> dict[str, Appraised]:
        """The results of all parts by name, those within results as ``outer/inner``."""
        found: dict[str, Appraised] = {}
        for name, part in self.submods.items():
            if isinstance(part, Appraised):
                found[name] = part
            elif isinstance(part, EarResult):
                found |= {f"{name}/{inner}": one for inner, one in part.appraised().items()}
        return found


def build(
    profile: Profile,
    *,
    name: str,
    result: Appraised,
    build_id: str,
    issuer: str,
    now_s: int,
    expires_s: int,
    nonce: str | None = None,
) -> dict[str, Any]:
    """The claims of a result of ours about the one attester ``name``. ValueError for a status better than its claims."""
    if not result.consistent:
        raise ValueError("the status is better than the worst claim")
    claim = profile.claim
    part: dict[str, Any] = {
        claim("status"): TIER_NAMES[result.status],
        claim("trustworthiness_vector"): dict(result.vector),
        **{claim(f"ztrooted_{key}"): value for key, value in result.extensions.items()},
    }
    if profile is Profile.IETF:
        part[claim("appraisal_policy_ids")] = list(result.policy_ids)
    else:
        part[claim("appraisal_policy_id")] = " ".join(result.policy_ids)
    claims: dict[str, Any] = {
        "eat_profile": str(profile),
        "iss": issuer,
        "iat": now_s,
        "exp": expires_s,
        claim("verifier_id"): {"developer": "ztrooted", "build": build_id},
        "submods": {name: part},
    }
    if nonce is not None:
        claims["eat_nonce"] = nonce
    return claims


def sign(claims: Mapping[str, Any], key: ec.EllipticCurvePrivateKey, kid: str) -> str:
    """A result as a JWT (ES256)."""
    return jose.sign(claims, key, kid=kid, typ=TYP)


def verify(token: str, keys: jose.Keys, *, now_s: int) -> EarResult:
    """Verify one of our own results. ArtifactError ``jws.*``, ProofError ``ear.*``.

    1. Form, header and type: as for every token of ours.
    2. Signature by the key that it names, which was in use.
    3. The claims are a result of a dialect that we write, consistent, and not expired.
    """
    verified = jose.verify(jose.parse(token, typ=TYP), keys)
    result = parse_claims(verified.claims)
    jose.check_key_time(verified, result.issued)
    if result.profile not in WRITTEN or not all(one.consistent for one in result.appraised().values()):
        raise _refuse("the result is of another profile, or a status is better than its claims")
    require_current(result, now_s)
    return result


def require_current(result: EarResult, now_s: int) -> None:
    """ProofError ``ear.expired`` for a result past its end."""
    if result.expires is not None and now_s > result.expires:
        ended, now = instant(result.expires * 1000), instant(now_s * 1000)
        raise ProofError(GateReason.EAR_EXPIRED, f"the result ended at {ended}, and it is {now}")


def verify_foreign(token: str, key: ec.EllipticCurvePublicKey) -> EarResult:
    """Verify somebody else's result with a key that was told to us. ArtifactError ``jws.*``, ProofError ``ear.*``.

    Their header need not name the key; keys *in* the header are never used. ES256 only.
    """
    header, payload, signed, signature = split_foreign(token)
    if header.get("alg") != jose.ALG:
        raise ProofError(
            GateReason.JWS_ALG_NOT_ALLOWED,
            f"the algorithm is {header.get('alg')!r:.40}, and {jose.ALG} is what we verify",
        )
    if header.keys() & {"crit", "b64", "zip"}:
        raise ProofError(GateReason.JWS_HEADER, "the header asks for something that we do not understand")
    parsed = jose.Jws("told", payload, signed, signature)
    jose.verify_signature(parsed, key)
    return parse_claims(strict_json.parse(payload, _refuse, maximum=MAX_TOKEN))


def split_foreign(token: str) -> tuple[dict[str, Any], bytes, bytes, bytes]:
    """Header, payload, what was signed, and signature of a compact JWS, unverified. ProofError ``ear.malformed``."""
    if len(token) > MAX_TOKEN or not token.isascii():
        raise _refuse("this is no token, or too large for one")
    segments = token.strip(" \t\r\n").split(".")
    if len(segments) != 3:
        raise _refuse("a token is three segments divided by dots")
    raw, payload, signature = (_segment(one) for one in segments)
    header = strict_json.parse(raw, _refuse)
    if not isinstance(header, dict):
        raise _refuse("the header is no object")
    return header, payload, f"{segments[0]}.{segments[1]}".encode(), signature


def _segment(text: str) -> bytes:
    if not re.fullmatch(r"[A-Za-z0-9_-]*", text) or len(text) % 4 == 1:
        raise _refuse("a segment is not base64url")
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def parse_json(data: bytes) -> EarResult:
    """A result as its decoded claims. ProofError ``ear.malformed``."""
    return parse_claims(strict_json.parse(data, _refuse, maximum=MAX_TOKEN))


def parse_claims(claims: Any, depth: int = 0) -> EarResult:
    """A result from its claims; unknown claims are left alone, as both drafts demand. ProofError ``ear.malformed``.

    1. It is an object of a profile that is known.
    2. It says when it was made and by which verifier.
    3. Nonces, evidence and times have their form, where they are there.
    4. It has at least one part, each with a status; claims of vectors are known, their values signed bytes.
    """
    # 1.
    if not isinstance(claims, dict) or depth > MAX_DEPTH:
        raise _refuse("a result is an object")
    try:
        profile = Profile(str(claims.get("eat_profile")))
    except ValueError:
        raise _refuse(f"the profile is {claims.get('eat_profile')!r:.80}, which is none that we know") from None
    remarks: list[str] = []
    # 2.
    issued = _time(claims, "iat", remarks)
    if issued is None:
        raise _refuse("it does not say when it was made (iat)")
    verifier = claims.get(profile.claim("verifier_id"))
    if not isinstance(verifier, dict) or not all(isinstance(verifier.get(one), str) for one in ("developer", "build")):
        raise _refuse(f"{profile.claim('verifier_id')} does not name developer and build of the verifier")
    # 3.
    _check_evidence(claims.get(profile.claim("raw_evidence")))
    status = claims.get(profile.claim("status"))
    # 4.
    submods = claims.get("submods")
    if submods is None and status is not None:
        submods = {}
    if not isinstance(submods, dict) or len(submods) > MAX_SUBMODS or (not submods and status is None):
        raise _refuse("it has no parts (submods), or too many")
    return EarResult(
        profile=profile,
        issued=issued,
        developer=verifier["developer"],
        build=verifier["build"],
        submods={name: _part(one, profile, depth) for name, one in submods.items()},
        nonces=_nonces(claims.get("eat_nonce")),
        status=None if status is None else _status(status),
        expires=_time(claims, "exp", remarks),
        remarks=tuple(remarks),
    )


def _part(value: Any, profile: Profile, depth: int) -> "Appraised | EarResult | str":
    if isinstance(value, list) and len(value) == 2 and value[0] == "JWT" and isinstance(value[1], str):
        return value[1]  # a detached token; whose key verifies it, nobody told us
    if isinstance(value, dict) and "eat_profile" in value:
        return parse_claims(value, depth + 1)
    if not isinstance(value, dict):
        raise _refuse("a part is an object")
    claim = profile.claim
    if claim("status") not in value:
        raise _refuse(f"a part has no {claim('status')}")
    vector = value.get(claim("trustworthiness_vector"), {})
    if not isinstance(vector, dict):
        raise _refuse("a trustworthiness vector is an object")
    if unknown := sorted(vector.keys() - set(CLAIMS)):
        raise _refuse(f"there is no trustworthiness claim {unknown[0]!r:.60}")
    known = {
        claim(name) for name in ("status", "trustworthiness_vector", "appraisal_policy_id", "appraisal_policy_ids")
    }
    return Appraised(
        status=_status(value[claim("status")]),
        vector={name: _value(one) for name, one in vector.items()},
        policy_ids=_policy_ids(value, claim("appraisal_policy_id"), claim("appraisal_policy_ids")),
        extensions={name: one for name, one in value.items() if name not in known},
    )


def _policy_ids(value: Mapping[str, Any], one: str, several: str) -> tuple[str, ...]:
    found = value.get(several, [] if value.get(one) is None else [value[one]])
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise _refuse("an appraisal policy's id is text")
    return tuple(found)


def _status(value: Any) -> int:
    if isinstance(value, str) and value in _TIERS:
        return _TIERS[value]
    if type(value) is int and value in TIER_NAMES:
        return value
    raise _refuse(f"{value!r:.40} is no status; those are {', '.join(_TIERS)}")


def _value(value: Any) -> int:
    if isinstance(value, str):
        if value in _NAMED_VALUES:
            return _NAMED_VALUES[value]
        if re.fullmatch(r"-?[0-9]{1,3}", value):
            value = int(value)
    if type(value) is not int or not -128 <= value <= 127:
        raise _refuse(f"{value!r:.40} is no value of a trustworthiness claim; those are -128 to 127")
    return value


def _time(claims: Mapping[str, Any], name: str, remarks: list[str]) -> int | None:
    """Whole seconds. A float that is a whole number is what some encoders write; it is read, and remarked on."""
    value = claims.get(name)
    if isinstance(value, float) and value.is_integer() and abs(value) < MAX_TIME:
        remarks.append(f"{name} is written as a fraction, which the drafts forbid")
        value = int(value)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < MAX_TIME:
        raise _refuse(f"{name} is no time in whole seconds")
    return value


def _nonces(value: Any) -> tuple[str, ...]:
    found = value if isinstance(value, list) else [] if value is None else [value]
    if not all(isinstance(one, str) and len(one) in _NONCE for one in found) or len(found) > MAX_SUBMODS:
        raise _refuse("eat_nonce is text of 8 to 88 characters, or a list of such")
    return tuple(found)


def _check_evidence(value: Any) -> None:
    if isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value):
        value = value[1]  # with its media type in front
    if value is None:
        return
    if not isinstance(value, str) or not _BASE64URL.fullmatch(value):
        raise _refuse("raw evidence is not base64url")
    try:
        base64.urlsafe_b64decode(value.rstrip("=") + "=" * (-len(value.rstrip("=")) % 4))
    except binascii.Error as error:
        raise _refuse(f"raw evidence is not base64url: {error}") from None


def status_of(tier: int, *, trusted: bool, ours: bool) -> int:
    """The status that goes with a vector's ``tier``: never better than it, and no affirmation without trust.

    ``ours`` says that it was our fault that nothing could be said.
    """
    if trusted:
        return tier
    return NONE if ours and tier == NONE else CONTRAINDICATED


def _refuse(detail: str) -> ProofError:
    return ProofError(GateReason.EAR_MALFORMED, detail)
