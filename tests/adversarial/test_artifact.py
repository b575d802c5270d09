"""Family L: what attackers do to artifacts, done to ours, each refused with its own code.

L13, L15, L16, L18 and L19 are about the gateway's records and routes and are tested with it. The corpus' own tokens
come last.
"""

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa

from tests.support import corpus
from tests.support.judged import check_attack
from tests.support.pace import at_most
from tests.support.tokens import (
    AUDIENCE,
    EXECUTOR,
    HEADER,
    ISSUER,
    JKT,
    JOB,
    KEY,
    KEYS,
    KID,
    NOW,
    b64,
    claims,
    claims_dict,
    token,
    verify,
)
from ztrooted import artifact, jose
from ztrooted.errors import ArtifactError
from ztrooted.jose import IssuerKey
from ztrooted.reasons import GateReason

GOOD = artifact.issue(claims(), KEY, KID)


def refused(reason: GateReason, presented: str, **expected: Any) -> None:
    with pytest.raises(ArtifactError) as caught:
        verify(presented, **expected)
    assert caught.value.reason is reason


def header(**changes: Any) -> dict[str, Any]:
    return {name: value for name, value in (HEADER | changes).items() if value is not ...}


def unsigned(fields: dict[str, Any], signature: bytes = b"") -> str:
    return f"{b64(json.dumps(fields).encode())}.{GOOD.split('.')[1]}.{b64(signature)}"


def test_the_artifact_all_others_are_made_from_is_good() -> None:
    assert verify(GOOD) == verify(token()) == claims()


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "nOnE", "", None, ...])
def test_L1_no_algorithm_is_refused(alg: Any) -> None:
    refused(GateReason.JWS_ALG_NOT_ALLOWED, unsigned(header(alg=alg)))
    refused(GateReason.JWS_ALG_NOT_ALLOWED, token(header(alg=alg)))


def test_L1_a_stripped_signature_is_refused() -> None:
    refused(GateReason.JWS_SIGNATURE, GOOD.rpartition(".")[0] + ".")
    refused(GateReason.JWS_MALFORMED, GOOD.rpartition(".")[0])


@pytest.mark.parametrize("encoding", ["pem", "der", "point"])
def test_L2_an_hmac_keyed_by_our_public_key_is_refused(encoding: str) -> None:
    public = KEY.public_key()
    spki = serialization.PublicFormat.SubjectPublicKeyInfo
    secret = {
        "pem": public.public_bytes(serialization.Encoding.PEM, spki),
        "der": public.public_bytes(serialization.Encoding.DER, spki),
        "point": public.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
    }[encoding]
    signed = unsigned(header(alg="HS256")).rpartition(".")[0]
    mac = hmac.digest(secret, signed.encode(), hashlib.sha256)
    refused(GateReason.JWS_ALG_NOT_ALLOWED, f"{signed}.{b64(mac)}")


@pytest.mark.parametrize(
    "alg", ["ES384", "ES512", "ES256K", "RS256", "PS256", "EdDSA", "es256", "ES256 ", ["ES256"], 256, {}]
)
def test_L2_every_other_algorithm_is_refused(alg: Any) -> None:
    refused(GateReason.JWS_ALG_NOT_ALLOWED, token(header(alg=alg)))


def test_L2_rs256_by_an_attackers_key_is_refused() -> None:
    attacker = rsa.generate_private_key(65537, 2048)
    signed = unsigned(header(alg="RS256")).rpartition(".")[0]
    value = attacker.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    refused(GateReason.JWS_ALG_NOT_ALLOWED, f"{signed}.{b64(value)}")


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "x5t", "x5t#S256", "epk", "cty", "nonce", "url"])
def test_L3_a_header_that_brings_a_key_is_refused(member: str) -> None:
    attacker = ec.generate_private_key(ec.SECP256R1())
    value = jose.jwk(attacker.public_key()) if member == "jwk" else "https://attacker.test/keys"
    refused(GateReason.JWS_HEADER, token(header(**{member: value}), key=attacker))
    refused(GateReason.JWS_HEADER, token(header(**{member: None})))


@pytest.mark.parametrize(
    "kid",
    [
        ..., None, "", 0, [KID], {"kid": KID}, "../../dev/null", "' OR 1=1 --", KID + "\0", KID.swapcase(), KID + " ",
        KID[:-1], "x" * 129, "x" * 8000, "http://attacker.test/", "é",
    ],
)  # fmt: skip
def test_L4_a_kid_that_names_no_key_of_ours_is_refused(kid: Any) -> None:
    refused(GateReason.JWS_KID, token(header(kid=kid)))


def test_L4_the_kid_of_another_issuer_key_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    keys = KEYS | {artifact.thumbprint(other.public_key()): other.public_key()}
    refused(GateReason.JWS_SIGNATURE, token(header(kid=artifact.thumbprint(other.public_key()))), keys=keys)
    refused(GateReason.JWS_SIGNATURE, token(key=other), keys=keys)


def test_L4_a_retired_or_future_key_is_refused() -> None:
    for key in (IssuerKey(KEY.public_key(), not_after=NOW - 1), IssuerKey(KEY.public_key(), not_before=NOW + 1)):
        refused(GateReason.JWS_KEY_EXPIRED, GOOD, keys={KID: key})
    assert verify(GOOD, keys={KID: IssuerKey(KEY.public_key(), NOW - 60, NOW)})


def test_L4_no_key_at_all_is_refused() -> None:
    refused(GateReason.JWS_KID, GOOD, keys={})


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("crit", []),
        ("crit", ["exp"]),
        ("crit", ["b64"]),
        ("b64", False),
        ("b64", True),
        ("zip", "DEF"),
        ("enc", "A128GCM"),
    ],
)
def test_L5_extensions_are_refused(member: str, value: Any) -> None:
    refused(GateReason.JWS_HEADER, token(header(**{member: value})))


@pytest.mark.parametrize("typ", [..., None, "", "JWT", "jwt", "zt-checkpoint+jwt", artifact.TYP.upper(), [artifact.TYP],
                                 "application/" + artifact.TYP, artifact.TYP + " "])  # fmt: skip
def test_L6_another_kind_of_token_is_refused(typ: Any) -> None:
    refused(GateReason.JWS_TYP, token(header(typ=typ)))


def text(fields: dict[str, Any]) -> bytes:
    return json.dumps(fields).encode()


AMBIGUOUS = [
    b"", b"null", b"[]", b'"text"', b"1", b"\xff", b"{", b"[" * 5000, b'{"a":' * 2000,
    text(claims_dict())[:-1] + b',"exp":1}',
    text(claims_dict())[:-1] + b',"lim":{"max_runtime_s":1,"max_runtime_s":2}}',
    text(claims_dict(exp=float("nan"))), text(claims_dict(exp=float("inf"))), text(claims_dict(exp=float("-inf"))),
    text(claims_dict()).replace(str(NOW + 60).encode(), b"1e400"),
    text(claims_dict()) + b"{}", text(claims_dict()) + b"x",
    text(claims_dict()).replace(str(NOW + 60).encode(), b"9" * 5000), b"\xef\xbb\xbf" + text(claims_dict()),
    text(claims_dict(exp=1 << 53)), json.dumps(claims_dict()).encode("utf-16"), text(claims_dict(tier="\ud800")),
    b"//\n" + text(claims_dict()), text(claims_dict()).replace(b'"', b"'"),
]  # fmt: skip


@pytest.mark.parametrize("payload", AMBIGUOUS)
def test_L7_ambiguous_claims_are_refused(payload: bytes) -> None:
    reason = GateReason.JWS_JSON if payload else GateReason.JWS_MALFORMED
    refused(reason, token(payload=payload))


@pytest.mark.parametrize(
    "raw",
    [
        b"[]", b"null", b'{"alg":"none",' + text(HEADER)[1:], text(HEADER)[:-1] + b',"alg":"none"}',
        text(HEADER) + b"{}",
        text(HEADER)[:-1] + b',"x":NaN}', json.dumps(HEADER).encode("utf-16"), b"[" * 5000, b"\xff",
    ],
)  # fmt: skip
def test_L7_ambiguous_headers_are_refused(raw: bytes) -> None:
    refused(GateReason.JWS_JSON, token(raw))


def second_encodings() -> list[str]:
    first, second, third = GOOD.split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet[alphabet.index(third[-1]) ^ 1]
    padded = [f"{first}=.{second}.{third}", f"{first}.{second}=.{third}", f"{GOOD}==", f"{GOOD}="]
    spaced = [f" {GOOD}", f"{GOOD} ", f"{GOOD}\n", f"{first}.\n{second}.{third}", GOOD.replace(".", ". "), f"{GOOD}\0"]
    parts = [
        f"{GOOD}.",
        f".{GOOD}",
        f"{GOOD}.x",
        f"{first}..{third}",
        f"..{third}",
        f".{second}.{third}",
        "..",
        ".",
        "",
        first,
        f"{first}.{second}",
    ]
    other = [f"{first}.{second}.{third[:-1]}{last}", f"{GOOD}é", f"Bearer {GOOD}"]
    standard = base64.b64encode(b"\xfb\xff" * 32).decode()
    document = json.dumps({"protected": first, "payload": second, "signature": third})
    return [*padded, *spaced, *parts, *other, f"{first}.{second}.{standard}", document]


@pytest.mark.parametrize("presented", second_encodings())
def test_L8_a_second_encoding_of_the_same_artifact_is_refused(presented: str) -> None:
    refused(GateReason.JWS_MALFORMED, presented)


def test_L8_every_character_counts() -> None:
    """No single character of an artifact can be another one."""
    for place in range(0, len(GOOD), 3):
        with pytest.raises(ArtifactError):
            verify(GOOD[:place] + ("A" if GOOD[place] != "A" else "B") + GOOD[place + 1 :])


@pytest.mark.parametrize(
    ("times", "now", "reason"),
    [
        ({}, NOW + 65, GateReason.JWS_EXPIRED),
        ({}, NOW + 86400, GateReason.JWS_EXPIRED),
        ({}, NOW - 6, GateReason.JWS_NOT_YET_VALID),
        ({}, 0, GateReason.JWS_NOT_YET_VALID),
        ({"exp": ...}, NOW, GateReason.JWS_CLAIMS),
        ({"iat": ...}, NOW, GateReason.JWS_CLAIMS),
        ({"nbf": ...}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": str(NOW + 60)}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": True}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": NOW + 60.5}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": [NOW + 60]}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": -1}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": None}, NOW, GateReason.JWS_CLAIMS),
        ({"exp": 0}, NOW, GateReason.JWS_EXPIRED),
        ({"exp": (NOW + 60) * 1000}, NOW, GateReason.JWS_LIFETIME),
        ({"exp": NOW + 601}, NOW, GateReason.JWS_LIFETIME),
        ({"iat": NOW + 3600}, NOW, GateReason.JWS_NOT_YET_VALID),
    ],
)
def test_L9_an_artifact_outside_its_time_is_refused(times: dict[str, Any], now: int, reason: GateReason) -> None:
    refused(reason, token(payload=claims_dict(**times)), now=now)


def test_L9_the_leeway_is_five_seconds_and_no_more() -> None:
    assert verify(GOOD, now=NOW + 64)
    assert verify(GOOD, now=NOW - 5)
    assert verify(token(payload=claims_dict(exp=NOW + 600)))


@pytest.mark.parametrize(
    "audience",
    [
        ..., None, "", [AUDIENCE], [AUDIENCE, "other"], [], {}, True, 0, AUDIENCE.upper(), AUDIENCE[:-1],
        AUDIENCE + "x",
        AUDIENCE + "\n", " " + AUDIENCE, AUDIENCE.replace("e", "\u0435"), "*",
    ],
)  # fmt: skip
def test_L10_any_other_audience_is_refused(audience: Any) -> None:
    refused(GateReason.JWS_AUDIENCE, token(payload=claims_dict(aud=audience)))


@pytest.mark.parametrize(
    "issuer", [..., None, "", [ISSUER], ISSUER[:-1], ISSUER + "/", ISSUER.upper(), "https://other.test"]
)
def test_L10_any_other_issuer_is_refused(issuer: Any) -> None:
    refused(GateReason.JWS_ISSUER, token(payload=claims_dict(iss=issuer)))


@pytest.mark.parametrize("executor", ["ex-other", EXECUTOR.upper(), EXECUTOR[:-1], EXECUTOR + "0"])
def test_L11_the_artifact_of_another_executor_is_refused(executor: str) -> None:
    refused(GateReason.JWS_EXECUTOR, token(payload=claims_dict(sub=executor)))
    refused(GateReason.JWS_EXECUTOR, GOOD, executor=executor)


@pytest.mark.parametrize("job", ["ff" * 32, "ab" * 31 + "ac"])
def test_L11_the_artifact_of_another_job_is_refused(job: str) -> None:
    refused(GateReason.JWS_JOB, token(payload=claims_dict(job=job)))
    refused(GateReason.JWS_JOB, GOOD, job=job)


@pytest.mark.parametrize("job", ["*", "", JOB + JOB, "sha256:" + JOB, [JOB], [JOB, "ff" * 32], JOB + ",*"])
def test_L12_a_wider_job_is_refused(job: Any) -> None:
    refused(GateReason.JWS_JOB, token(payload=claims_dict(job=job)))


@pytest.mark.parametrize("act", [{}, "*", {"workflow": "*"}, {"workflow": "w", "run": "r", "step": ["a", "b"]}])
def test_L12_a_wider_step_is_refused(act: Any) -> None:
    refused(GateReason.JWS_SCOPE, token(payload=claims_dict(act=act)))


def test_L12_a_renewal_that_widens_is_refused() -> None:
    wider = claims(lim={"max_runtime_s": 3601}, ren={"n": 1, "prev": artifact.token_digest(GOOD)})
    with pytest.raises(ArtifactError) as caught:
        artifact.verify_renewal(claims(), wider, previous_token=GOOD)
    assert caught.value.reason is GateReason.JWS_SCOPE


@pytest.mark.parametrize(
    "cnf", [..., None, {}, {"jkt": "x" * 43}, {"jkt": JKT.swapcase()}, {"jkt": [JKT]}, {"x5t#S256": JKT}]
)
def test_L14_an_artifact_bound_to_no_or_another_key_is_refused(cnf: Any) -> None:
    refused(GateReason.JWS_BINDING, token(payload=claims_dict(cnf=cnf)))


def test_L14_the_holder_of_another_key_is_refused() -> None:
    other = ec.generate_private_key(ec.SECP256R1())
    refused(GateReason.JWS_BINDING, GOOD, jkt=artifact.thumbprint(other.public_key()))


@pytest.mark.parametrize(
    "presented", ["." * 1_000_000, "A" * 1_000_000, "e30." * 250_000, GOOD + "A" * 16384, "é" * 500_000]
)
def test_L17_oversized_tokens_cost_nothing(presented: str) -> None:
    with at_most(0.01):
        refused(GateReason.JWS_TOO_LARGE, presented)


@pytest.mark.parametrize("value", [bytes(64), b"\xff" * 64, bytes(32) + b"\x01" * 32, b"\x01" * 32 + bytes(32),
                                   b"\x01" * 63,
                                   b"\x01" * 65, b"\x01" * 132, b""])  # fmt: skip
def test_L8_signatures_out_of_range_are_refused(value: bytes) -> None:
    refused(GateReason.JWS_SIGNATURE, f"{GOOD.rpartition('.')[0]}.{b64(value)}")


def test_L8_a_padded_signature_is_refused() -> None:
    """r ‖ 0 ‖ s has the same numbers in it, in 65 bytes: a second encoding."""
    signed, _, written = GOOD.rpartition(".")
    value = base64.urlsafe_b64decode(written + "==")
    refused(GateReason.JWS_SIGNATURE, f"{signed}.{b64(value[:32] + bytes(1) + value[32:])}")


def test_L8_der_and_tampered_signatures_are_refused() -> None:
    signed = GOOD.rpartition(".")[0]
    refused(GateReason.JWS_SIGNATURE, f"{signed}.{b64(KEY.sign(signed.encode(), ec.ECDSA(hashes.SHA256())))}")
    first, _, third = GOOD.split(".")
    tampered = b64(text(claims_dict(sub="ex-other")))
    refused(GateReason.JWS_SIGNATURE, f"{first}.{tampered}.{third}")


@pytest.mark.parametrize("entry", corpus.entries("attacks", "jws"))
def test_corpus_tokens_are_judged_as_expected(entry: corpus.Entry) -> None:
    check_attack(entry)
