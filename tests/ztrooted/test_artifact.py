"""The artifact: issued and verified, its claims in their form, and the chain of its renewals."""

from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.tokens import (
    AUDIENCE,
    EXECUTOR,
    ISSUER,
    JKT,
    JOB,
    KEY,
    KEYS,
    KID,
    NOW,
    claims,
    claims_dict,
    token,
    verify,
)
from ztrooted import artifact
from ztrooted.artifact import ArtifactClaims
from ztrooted.errors import ArtifactError
from ztrooted.reasons import GateReason


def refused(reason: GateReason, call: Any, *args: Any, **options: Any) -> ArtifactError:
    with pytest.raises(ArtifactError) as caught:
        call(*args, **options)
    assert caught.value.reason is reason
    return caught.value


def test_an_issued_artifact_verifies_as_it_was_claimed() -> None:
    for made in (claims(), claims(par="parent-1", ren={"n": 3, "prev": "ee" * 32})):
        assert verify(artifact.issue(made, KEY, KID)) == made


def test_pyjwt_verifies_our_artifact() -> None:
    made = artifact.issue(claims(par="parent-1"), KEY, KID)
    options = {"require": ["iss", "aud", "sub", "jti", "iat", "nbf", "exp"], "verify_exp": False, "verify_nbf": False}
    read = jwt.decode(
        made,
        KEY.public_key(),
        algorithms=["ES256"],
        issuer=ISSUER,
        audience=AUDIENCE,
        options=options | {"verify_iat": False},  # type: ignore[arg-type]
    )
    assert read == claims_dict(par="parent-1")
    assert jwt.get_unverified_header(made) == {"alg": "ES256", "kid": KID, "typ": "ztrooted-authz+jwt"}


def test_what_is_expected_beyond_issuer_and_audience_is_optional() -> None:
    made = artifact.issue(claims(), KEY, KID)
    assert artifact.verify(made, keys=KEYS, issuer=ISSUER, audience=AUDIENCE, now=NOW) == claims()


def test_claims_that_no_verifier_accepts_are_not_signed() -> None:
    refused(GateReason.JWS_LIFETIME, artifact.issue, claims(exp=NOW + 601), KEY, KID)


OTHER = "ff" * 32
WRONG: list[tuple[str, list[Any], GateReason]] = [
    ("iss", [..., None, 1, "", ISSUER + "/", [ISSUER]], GateReason.JWS_ISSUER),
    ("aud", [..., None, "", AUDIENCE.upper(), [AUDIENCE], AUDIENCE[:-1], {}], GateReason.JWS_AUDIENCE),
    ("sub", [..., None, 7, "", EXECUTOR.upper(), EXECUTOR + "\n", "ex/../x", "é"], GateReason.JWS_EXECUTOR),
    ("jti", [..., None, 7, "", "x" * 129, "a b", "a\n", "../x"], GateReason.JWS_CLAIMS),
    (
        "cnf",
        [..., None, {}, JKT, {"jkt": JKT + "="}, {"jkt": JKT[:-1]}, {"jkt": JKT, "jwk": {}}, {"jkt": None}],
        GateReason.JWS_BINDING,
    ),
    (
        "ak",
        [..., None, "", "000b" + "cd" * 31, "0004" + "cd" * 20, "000b" + "CD" * 32, "000b" + "cd" * 32 + "\n"],
        GateReason.JWS_CLAIMS,
    ),
    ("job", [..., None, JOB.upper(), JOB[:-1], JOB + "\n", "sha256:" + JOB, [JOB]], GateReason.JWS_JOB),
    (
        "act",
        [
            ...,
            None,
            {},
            {"workflow": "w", "run": "r"},
            {"workflow": "w", "run": "r", "step": "a\nb"},
            {"workflow": "w", "run": "r", "step": ""},
            {"workflow": "w", "run": "r", "step": "s", "x": 1},
        ],
        GateReason.JWS_SCOPE,
    ),
    (
        "lim",
        [
            ...,
            None,
            {},
            {"max_runtime_s": 0},
            {"max_runtime_s": True},
            {"max_runtime_s": 1.0},
            {"max_runtime_s": "1"},
            {"max_runtime_s": 1 << 40},
            {"max_runtime_s": 1, "cpu": 1},
        ],
        GateReason.JWS_SCOPE,
    ),
    (
        "pol",
        [
            ...,
            None,
            {},
            {"appraisal": OTHER},
            {"appraisal": OTHER, "dispatch": OTHER},
            {"appraisal": OTHER, "dispatch": "x", "entities": OTHER},
        ],
        GateReason.JWS_CLAIMS,
    ),
    ("ev", [..., None, "", "x" * 64, [OTHER]], GateReason.JWS_CLAIMS),
    ("tier", [..., None, 2, "", "Hardware", "a b"], GateReason.JWS_CLAIMS),
    ("par", [1, "", "a b", ["x"]], GateReason.JWS_CLAIMS),
    (
        "ren",
        [
            None,
            {"n": 1},
            {"n": 0, "prev": OTHER},
            {"n": -1},
            {"n": True},
            {"n": 1, "prev": "x"},
            {"n": 1 << 30, "prev": OTHER},
            [],
        ],
        GateReason.JWS_RENEWAL,
    ),
    (
        "lin",
        [
            ...,
            None,
            {},
            {"origin": "o", "index": 7, "size": 7, "root": OTHER},
            {"origin": "o", "index": -1, "size": 7, "root": OTHER},
            {"origin": "o p", "index": 1, "size": 7, "root": OTHER},
        ],
        GateReason.JWS_CLAIMS,
    ),
    ("admin", [True], GateReason.JWS_CLAIMS),
    ("scope", [["*"]], GateReason.JWS_CLAIMS),
]


@pytest.mark.parametrize(
    ("name", "value", "reason"), [(name, value, reason) for name, values, reason in WRONG for value in values]
)
def test_each_claim_has_one_form(name: str, value: Any, reason: GateReason) -> None:
    """Even signed by the issuer; the code is that of the question the claim answers."""
    refused(reason, verify, token(payload=claims_dict(**{name: value})))


def test_a_refusal_does_not_repeat_long_values() -> None:
    error = refused(GateReason.JWS_AUDIENCE, verify, token(payload=claims_dict(aud="x" * 5000)))
    assert len(error.detail) < 300


# --- renewals ------------------------------------------------------------------------------------------------------


def renewal(previous_token: str, **changes: Any) -> ArtifactClaims:
    fields = {
        "iat": NOW + 30,
        "nbf": NOW + 30,
        "exp": NOW + 90,
        "ev": "05" * 32,
        "ren": {"n": 1, "prev": artifact.token_digest(previous_token)},
        "lin": {"origin": "gateway.test/lineage", "index": 9, "size": 10, "root": "06" * 32},
    }
    return claims(**(fields | changes))


FIRST = artifact.issue(claims(), KEY, KID)


def check(renewed: ArtifactClaims) -> None:
    artifact.verify_renewal(claims(), renewed, previous_token=FIRST)


def test_a_renewal_follows_its_predecessor() -> None:
    second = renewal(FIRST)
    check(second)
    issued = artifact.issue(second, KEY, KID)
    third = renewal(
        issued, iat=NOW + 60, nbf=NOW + 60, exp=NOW + 120, ren={"n": 2, "prev": artifact.token_digest(issued)}
    )
    artifact.verify_renewal(second, third, previous_token=issued)


@pytest.mark.parametrize("changes", [{"iat": NOW, "nbf": NOW, "exp": NOW + 60}, {"iat": NOW + 65, "nbf": NOW + 65}])
def test_a_renewal_may_come_at_once_or_at_the_last_moment(changes: dict[str, Any]) -> None:
    check(renewal(FIRST, **changes))


def test_a_renewal_may_come_under_newer_policies() -> None:
    check(renewal(FIRST, pol={"appraisal": OTHER, "dispatch": OTHER, "entities": OTHER}, tier="A1"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"ren": {"n": 0}}, GateReason.JWS_RENEWAL),
        ({"ren": {"n": 2, "prev": artifact.token_digest(FIRST)}}, GateReason.JWS_RENEWAL),
        ({"ren": {"n": 1, "prev": OTHER}}, GateReason.JWS_RENEWAL),
        ({"iss": "https://other.test"}, GateReason.JWS_SCOPE),
        ({"aud": "other"}, GateReason.JWS_SCOPE),
        ({"sub": "other"}, GateReason.JWS_SCOPE),
        ({"jti": "other"}, GateReason.JWS_SCOPE),
        ({"cnf": {"jkt": "x" * 43}}, GateReason.JWS_SCOPE),
        ({"ak": "000b" + "ce" * 32}, GateReason.JWS_SCOPE),
        ({"job": OTHER}, GateReason.JWS_SCOPE),
        ({"act": {"workflow": "train", "run": "2027-01-15/1", "step": "other"}}, GateReason.JWS_SCOPE),
        ({"lim": {"max_runtime_s": 3601}}, GateReason.JWS_SCOPE),
        ({"par": "parent"}, GateReason.JWS_SCOPE),
        ({"iat": NOW - 1}, GateReason.JWS_RENEWAL),
        ({"exp": NOW + 59}, GateReason.JWS_RENEWAL),
        ({"iat": NOW + 66, "nbf": NOW + 66}, GateReason.JWS_RENEWAL),
        ({"lin": {"origin": "other", "index": 9, "size": 10, "root": OTHER}}, GateReason.JWS_RENEWAL),
        ({"lin": {"origin": "gateway.test/lineage", "index": 5, "size": 6, "root": OTHER}}, GateReason.JWS_RENEWAL),
        ({"lin": {"origin": "gateway.test/lineage", "index": 6, "size": 7, "root": OTHER}}, GateReason.JWS_RENEWAL),
    ],
)
def test_a_renewal_changes_nothing_but_time_evidence_and_lineage(changes: dict[str, Any], reason: GateReason) -> None:
    refused(reason, check, renewal(FIRST, **changes))


def test_a_renewal_of_another_signature_of_the_same_claims_is_none() -> None:
    again = artifact.issue(claims(), KEY, KID)
    assert again != FIRST
    refused(GateReason.JWS_RENEWAL, artifact.verify_renewal, claims(), renewal(FIRST), previous_token=again)


def test_the_kid_is_the_thumbprint_of_the_issuing_key() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    refused(GateReason.JWS_SIGNATURE, verify, artifact.issue(claims(), other, KID))
    refused(GateReason.JWS_KID, verify, artifact.issue(claims(), other, artifact.thumbprint(other.public_key())))
