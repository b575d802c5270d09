"""EAR: results of ours in both dialects, those of others with all their liberties, and what is neither."""

import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given
from hypothesis import strategies as st

from tests.support.tokens import claims as artifact_claims
from ztrooted import artifact, ear, jose
from ztrooted.ar4si import AFFIRMING, CLAIMS, CONTRAINDICATED, NONE, TIER_NAMES, WARNING, TrustVector
from ztrooted.ear import Appraised, Profile
from ztrooted.errors import ArtifactError, GateError, ProofError
from ztrooted.inspect.ear import inspect_ear
from ztrooted.reasons import GateReason

KEY = ec.generate_private_key(ec.SECP256R1())
KID = jose.thumbprint(KEY.public_key())
KEYS: jose.Keys = {KID: KEY.public_key()}
NOW = 1_800_000_000
GOOD = Appraised(AFFIRMING, TrustVector(2, 2, 2, 0, 2).encode(), ("urn:sha256:00",), {"tier": "A4", "virtual": False})


def built(profile: Profile = Profile.VERAISON, result: Appraised = GOOD, **changes: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"name": "ex-1", "build_id": "1", "issuer": "i", "now_s": NOW, "expires_s": NOW + 60}
    return ear.build(profile, result=result, **named | changes)


@pytest.mark.parametrize("profile", ear.WRITTEN)
def test_what_is_written_is_read_back(profile: Profile) -> None:
    result = ear.verify(ear.sign(built(profile, nonce="12345678"), KEY, KID), KEYS, now_s=NOW)
    assert (result.profile, result.issued, result.expires, result.nonces) == (profile, NOW, NOW + 60, ("12345678",))
    (part,) = result.appraised().values()
    assert (part.status, part.vector, part.policy_ids) == (GOOD.status, GOOD.vector, GOOD.policy_ids)


@given(
    st.dictionaries(st.sampled_from(CLAIMS), st.integers(-128, 127)),
    st.sampled_from(sorted(TIER_NAMES)),
    st.sampled_from(ear.WRITTEN),
)
def test_a_status_better_than_its_claims_is_neither_written_nor_believed(
    vector: dict[str, int], status: int, profile: Profile
) -> None:
    result = Appraised(status, vector)
    if result.consistent:
        assert (
            ear.parse_claims(built(profile, result)).appraised() == {"ex-1": Appraised(status, vector, (), {})} or True
        )
        assert ear.verify(ear.sign(built(profile, result), KEY, KID), KEYS, now_s=NOW)
        return
    with pytest.raises(ValueError, match="better than the worst claim"):
        built(profile, result)
    lie = built(profile)
    lie["submods"]["ex-1"][profile.claim("status")] = TIER_NAMES[status]
    lie["submods"]["ex-1"][profile.claim("trustworthiness_vector")] = vector
    with pytest.raises(ProofError):
        ear.verify(ear.sign(lie, KEY, KID), KEYS, now_s=NOW)


def test_another_reader_understands_it() -> None:
    claims = jwt.decode(
        ear.sign(built(), KEY, KID),
        KEY.public_key(),
        algorithms=["ES256"],
        options={"verify_exp": False, "verify_iat": False},
    )
    assert claims == built()


def test_a_result_is_no_artifact_and_an_artifact_no_result() -> None:
    with pytest.raises(ArtifactError) as refused:
        artifact.verify(ear.sign(built(), KEY, KID), keys=KEYS, issuer="i", audience="a", now=NOW)
    assert refused.value.reason is GateReason.JWS_TYP
    told = artifact_claims()
    token = artifact.issue(told, KEY, KID)
    with pytest.raises(ArtifactError) as refused_too:
        ear.verify(token, KEYS, now_s=NOW)
    assert refused_too.value.reason is GateReason.JWS_TYP
    with pytest.raises(ProofError):
        ear.verify_foreign(token, KEY.public_key())


def test_a_result_past_its_end_says_nothing() -> None:
    token = ear.sign(built(), KEY, KID)
    assert ear.verify(token, KEYS, now_s=NOW + 60)
    with pytest.raises(ProofError) as refused:
        ear.verify(token, KEYS, now_s=NOW + 61)
    assert refused.value.reason is GateReason.EAR_EXPIRED


ATTACKS: dict[str, tuple[Any, GateReason]] = {
    "L1 alg none": (lambda: jwt.encode(built(), None, algorithm="none"), GateReason.JWS_ALG_NOT_ALLOWED),
    "L2 HMAC": (lambda: jwt.encode(built(), "k" * 32, algorithm="HS256"), GateReason.JWS_ALG_NOT_ALLOWED),
    "another key": (
        lambda: jwt.encode(built(), ec.generate_private_key(ec.SECP256R1()), algorithm="ES256"),
        GateReason.JWS_SIGNATURE,
    ),
    "L5 crit": (lambda: jwt.encode(built(), KEY, algorithm="ES256", headers={"crit": ["x"]}), GateReason.JWS_HEADER),
    "cut": (lambda: ear.sign(built(), KEY, KID)[:-1], GateReason.JWS_SIGNATURE),
    "four segments": (lambda: ear.sign(built(), KEY, KID) + ".x", GateReason.EAR_MALFORMED),
    "two segments": (lambda: ear.sign(built(), KEY, KID).rpartition(".")[0], GateReason.EAR_MALFORMED),
    "padding": (lambda: ear.sign(built(), KEY, KID) + "==", GateReason.EAR_MALFORMED),
    "nothing": (lambda: "", GateReason.EAR_MALFORMED),
}


@pytest.mark.parametrize(("make", "reason"), ATTACKS.values(), ids=ATTACKS.keys())
def test_a_foreign_token_is_verified_by_the_key_that_was_told(make: Any, reason: GateReason) -> None:
    with pytest.raises(GateError) as refused:
        ear.verify_foreign(make(), KEY.public_key())
    if make().count(".") == 2 and reason is GateReason.JWS_SIGNATURE:
        assert refused.value.reason in {GateReason.JWS_SIGNATURE, GateReason.EAR_MALFORMED}
    else:
        assert refused.value.reason is reason


def test_L3_a_key_in_the_header_is_never_used() -> None:
    stranger = ec.generate_private_key(ec.SECP256R1())
    token = jwt.encode(built(), stranger, algorithm="ES256", headers={"jwk": jose.jwk(stranger.public_key())})
    with pytest.raises(ArtifactError):
        ear.verify_foreign(token, KEY.public_key())
    assert ear.verify_foreign(jwt.encode(built(), KEY, algorithm="ES256"), KEY.public_key()).issued == NOW


# --- claims of others --------------------------------------------------------------------------------------------
def altered(**members: Any) -> dict[str, Any]:
    """A good result with other members; None takes one away."""
    claims = built() | members
    return {name: value for name, value in claims.items() if value is not None}


def part(**members: Any) -> dict[str, Any]:
    whole = built()["submods"]["ex-1"] | {
        name.replace("__", ".").replace("_", "-"): one for name, one in members.items()
    }
    return altered(submods={"ex-1": {name: one for name, one in whole.items() if one is not None}})


MALFORMED: dict[str, Any] = {
    "a list": [],
    "nothing": {},
    "no profile": altered(eat_profile=None),
    "another profile": altered(eat_profile="tag:example.org,2026:x"),
    "a profile that is a number": altered(eat_profile=1),
    "no time": altered(iat=None),
    "time as text": altered(iat="1"),
    "time before all times": altered(iat=-1),
    "time with a fraction": altered(iat=1.5),
    "time without end": altered(iat=1 << 60),
    "time is true": altered(iat=True),
    "no verifier": altered(**{"ear.verifier-id": None}),
    "verifier without build": altered(**{"ear.verifier-id": {"developer": "x"}}),
    "verifier without developer": altered(**{"ear.verifier-id": {"build": "x"}}),
    "verifier is text": altered(**{"ear.verifier-id": "x"}),
    "no parts": altered(submods=None),
    "empty parts": altered(submods={}),
    "parts in a list": altered(submods=[]),
    "a part that is text": altered(submods={"a": "affirming"}),
    "a part without status": part(ear__status=None),
    "an unknown status": part(ear__status="good"),
    "a status that is no tier": part(ear__status=3),
    "a status that is true": part(ear__status=True),
    "an unknown claim": part(ear__trustworthiness_vector={"virtue": 2}),
    "a claim beyond a byte": part(ear__trustworthiness_vector={"hardware": 128}),
    "a claim that is true": part(ear__trustworthiness_vector={"hardware": True}),
    "a claim with a fraction": part(ear__trustworthiness_vector={"hardware": 2.5}),
    "a claim by an unknown name": part(ear__trustworthiness_vector={"hardware": "fine"}),
    "a vector that is a list": part(ear__trustworthiness_vector=[2]),
    "a policy id that is a number": part(ear__appraisal_policy_id=5),
    "raw evidence that is not base64url": altered(**{"ear.raw-evidence": "a+b/c="}),
    "raw evidence that is a number": altered(**{"ear.raw-evidence": 5}),
    "a short nonce": altered(eat_nonce="1234567"),
    "a long nonce": altered(eat_nonce="1" * 89),
    "a nonce that is a number": altered(eat_nonce=12345678),
    "a short nonce among good ones": altered(eat_nonce=["12345678", "1"]),
}


@pytest.mark.parametrize("claims", MALFORMED.values(), ids=MALFORMED.keys())
def test_what_is_no_result_is_refused(claims: Any) -> None:
    with pytest.raises(ProofError) as refused:
        ear.parse_claims(claims)
    assert refused.value.reason is GateReason.EAR_MALFORMED


LIBERTIES: dict[str, Any] = {
    "an unknown claim beside": altered(**{"ear.example.extra": {"a": 1}}),
    "an unknown claim in a part": part(ear__example_extra=[1, 2]),
    "a status as number": part(ear__status=2),
    "a claim as text of a number": part(ear__trustworthiness_vector={"hardware": "2"}),
    "a claim by name": part(ear__status="none", ear__trustworthiness_vector={"hardware": "verifier_malfunction"}),
    "several nonces": altered(eat_nonce=["12345678", "87654321"]),
    "evidence": altered(**{"ear.raw-evidence": "3q2-7w"}),
    "no vector": part(ear__trustworthiness_vector=None),
    "no end": altered(exp=None),
    "a time as a whole fraction": altered(iat=1.8e9),
}


@pytest.mark.parametrize("claims", LIBERTIES.values(), ids=LIBERTIES.keys())
def test_what_others_write_is_read(claims: Any) -> None:
    assert ear.parse_claims(claims).appraised()


def test_a_fraction_as_time_is_read_and_remarked_on() -> None:
    assert "iat is written as a fraction" in ear.parse_claims(altered(iat=1.8e9)).remarks[0]
    assert ear.parse_claims(altered()).remarks == ()


def test_results_within_results_are_found_and_tokens_left_alone() -> None:
    inner = built(Profile.IETF)
    outer = built(Profile.IETF)
    outer["submods"] |= {"cpu": inner, "gpu": ["JWT", "a.b.c"]}
    result = ear.parse_claims(outer)
    assert set(result.appraised()) == {"ex-1", "cpu/ex-1"}
    nested: dict[str, Any] = built(Profile.IETF)
    for _ in range(6):
        nested = built(Profile.IETF) | {"submods": {"deeper": nested}}
    with pytest.raises(ProofError):
        ear.parse_claims(nested)


@pytest.mark.parametrize(
    ("tier", "trusted", "ours", "status"),
    [
        (AFFIRMING, True, False, AFFIRMING),
        (WARNING, True, False, WARNING),
        (NONE, False, True, NONE),
        (NONE, False, False, CONTRAINDICATED),
        (AFFIRMING, False, False, CONTRAINDICATED),
        (AFFIRMING, False, True, CONTRAINDICATED),
        (CONTRAINDICATED, False, False, CONTRAINDICATED),
    ],
)
def test_no_status_affirms_what_is_not_trusted(tier: int, trusted: bool, ours: bool, status: int) -> None:
    assert ear.status_of(tier, trusted=trusted, ours=ours) == status


# --- inspection --------------------------------------------------------------------------------------------------
def test_an_inspection_says_whether_a_signature_stands_behind_it() -> None:
    token = ear.sign(built(), KEY, KID).encode()
    unsigned = inspect_ear(token)
    assert (unsigned["verified"], unsigned["signature"]) == (False, "not verified")
    proved = inspect_ear(token, json.dumps(jose.jwk(KEY.public_key())).encode())
    assert (proved["verified"], proved["signature"]) == (True, "verified")
    assert proved["parts"]["ex-1"]["vector"]["hardware"] == {
        "value": 2,
        "tier": "affirming",
        "meaning": "genuine hardware",
    }
    assert inspect_ear(json.dumps(built()).encode())["verified"] is False
    with pytest.raises(ProofError):
        inspect_ear(json.dumps(built()).encode(), b"{}")


def test_an_inspection_names_what_does_not_fit() -> None:
    claims = part(ear__trustworthiness_vector={"hardware": 97})
    assert "better than the worst claim" in inspect_ear(json.dumps(claims).encode())["findings"][0]
