"""The JOSE layer: one algorithm, one encoding, and the vectors of others."""

import base64
import hashlib
import json
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from hypothesis import given
from hypothesis import strategies as st

from tests.support import corpus
from tests.support.tokens import HEADER, KEY, KEYS, KID, NOW, b64, token
from ztrooted import jose
from ztrooted.artifact import TYP
from ztrooted.errors import ArtifactError
from ztrooted.jose import IssuerKey, Jws
from ztrooted.reasons import GateReason


def refused(reason: GateReason, call: Any, *args: Any, **options: Any) -> None:
    with pytest.raises(ArtifactError) as caught:
        call(*args, **options)
    assert caught.value.reason is reason


def test_a_token_is_what_pyjwt_makes_and_reads() -> None:
    theirs = jwt.encode({"a": 1}, KEY, algorithm="ES256", headers={"kid": KID, "typ": TYP})
    assert jose.verify(jose.parse(theirs, typ=TYP), KEYS).claims == {"a": 1}
    ours = jose.sign({"a": 1}, KEY, kid=KID, typ=TYP)
    assert jwt.decode(ours, KEY.public_key(), algorithms=["ES256"]) == {"a": 1}
    assert jwt.get_unverified_header(ours) == HEADER


@given(st.text(st.sampled_from("eyJ.-_A=\n é") | st.characters(), max_size=80))
def test_no_text_raises_anything_else(text: str) -> None:
    with pytest.raises(ArtifactError):
        jose.parse(text, typ=TYP)


@given(st.binary(max_size=60), st.binary(max_size=60))
def test_no_signed_bytes_raise_anything_else(header: bytes, payload: bytes) -> None:
    for made in (token(header, payload), token(HEADER, payload)):
        try:
            jose.verify(jose.parse(made, typ=TYP), KEYS)
        except ArtifactError:
            continue


def test_a_signer_may_be_anywhere_but_signs_64_bytes() -> None:
    def short(_: bytes) -> bytes:
        return bytes(63)

    with pytest.raises(ValueError, match="64 bytes"):
        jose.sign({}, short, kid=KID, typ=TYP)

    def elsewhere(message: bytes) -> bytes:
        r, s = decode_dss_signature(KEY.sign(message, ec.ECDSA(jose.hashes.SHA256())))
        return r.to_bytes(32, "big") + s.to_bytes(32, "big")

    made = jose.sign({"a": 1}, elsewhere, kid=KID, typ=TYP)
    assert jose.verify(jose.parse(made, typ=TYP), KEYS).claims == {"a": 1}


def test_a_token_no_verifier_would_read_is_not_made() -> None:
    refused(GateReason.JWS_TOO_LARGE, jose.sign, {"a": "x" * jose.MAX_TOKEN}, KEY, kid=KID, typ=TYP)


def test_an_issuer_key_on_another_curve_signs_nothing() -> None:
    key = ec.generate_private_key(ec.SECP384R1())
    refused(GateReason.JWS_KID, jose.verify, jose.parse(token(), typ=TYP), {KID: key.public_key()})


@pytest.mark.parametrize(("issued", "reason"), [(NOW - 1, "before"), (NOW, None), (NOW + 9, None), (NOW + 10, "after")])
def test_a_key_signs_only_while_it_is_in_use(issued: int, reason: str | None) -> None:
    key = IssuerKey(KEY.public_key(), not_before=NOW, not_after=NOW + 9)
    verified = jose.verify(jose.parse(token(), typ=TYP), {KID: key})
    if reason is None:
        jose.check_key_time(verified, issued)
    else:
        refused(GateReason.JWS_KEY_EXPIRED, jose.check_key_time, verified, issued)


def times(**changes: Any) -> dict[str, Any]:
    claims = {"iat": NOW, "nbf": NOW, "exp": NOW + 60} | changes
    return {name: value for name, value in claims.items() if value is not ...}


@pytest.mark.parametrize("now", [NOW - 5, NOW, NOW + 60, NOW + 64])
def test_times_hold_give_or_take_the_leeway(now: int) -> None:
    jose.check_times(times(), now=now)


@pytest.mark.parametrize(
    ("claims", "now", "reason"),
    [
        (times(), NOW - 6, GateReason.JWS_NOT_YET_VALID),
        (times(), 0, GateReason.JWS_NOT_YET_VALID),
        (times(), NOW + 65, GateReason.JWS_EXPIRED),
        (times(), 1 << 40, GateReason.JWS_EXPIRED),
        (times(iat=NOW + 6), NOW, GateReason.JWS_NOT_YET_VALID),
        (times(nbf=NOW + 6), NOW, GateReason.JWS_NOT_YET_VALID),
        (times(exp=NOW + 601), NOW, GateReason.JWS_LIFETIME),
        (times(iat=NOW - 541), NOW, GateReason.JWS_LIFETIME),
        (times(exp=NOW * 1000), NOW, GateReason.JWS_LIFETIME),
        (times(exp=NOW), NOW, GateReason.JWS_CLAIMS),
        (times(nbf=NOW + 4, exp=NOW + 3), NOW, GateReason.JWS_CLAIMS),
        (times(iat=NOW + 4, exp=NOW + 3), NOW, GateReason.JWS_CLAIMS),
        (times(iat=NOW - 1, exp=NOW), NOW, GateReason.JWS_CLAIMS),
        (times(nbf=NOW - 1, exp=NOW), NOW, GateReason.JWS_CLAIMS),
        *((times(**{name: value}), NOW, GateReason.JWS_CLAIMS)
          for name in ("iat", "nbf", "exp")
          for value in (..., None, True, -1, str(NOW), float(NOW), [NOW], {"n": NOW})),
    ],
)  # fmt: skip
def test_other_times_are_refused(claims: dict[str, Any], now: int, reason: GateReason) -> None:
    refused(reason, jose.check_times, claims, now=now)


# --- keys ----------------------------------------------------------------------------------------------------------


def test_the_thumbprint_of_a_key_is_that_of_its_jwk() -> None:
    """RFC 7638 §3.3: only the required members, sorted, without spaces."""
    written = jose.jwk(KEY.public_key())
    text = f'{{"crv":"P-256","kty":"EC","x":"{written["x"]}","y":"{written["y"]}"}}'
    expected = b64(hashlib.sha256(text.encode()).digest())
    assert jose.thumbprint(KEY.public_key()) == jose.thumbprint(written) == expected == KID
    assert jose.thumbprint(written | {"kid": "x", "alg": "ES256"}) == expected
    assert jose.parse_jwk(written) == KEY.public_key()


JWK = jose.jwk(KEY.public_key())


@pytest.mark.parametrize(
    "changes",
    [
        {"kty": "RSA"}, {"crv": "P-384"}, {"crv": "secp256k1"}, {"kty": None}, {"x": None}, {"y": 5}, {"x": ""},
        {"x": JWK["x"] + "="}, {"x": "AAAA" + JWK["x"]}, {"x": b64(bytes(31))}, {"x": JWK["y"], "y": JWK["x"]},
        {"x": b64(bytes(32)), "y": b64(bytes(32))}, {"d": JWK["x"]},
    ],
)  # fmt: skip
def test_other_jwks_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ArtifactError) as caught:
        jose.parse_jwk(JWK | changes)
    assert caught.value.reason in (GateReason.JWS_BINDING, GateReason.JWS_MALFORMED)


def test_only_p256_keys_have_a_jwk() -> None:
    with pytest.raises(ValueError, match="secp384r1"):
        jose.jwk(ec.generate_private_key(ec.SECP384R1()).public_key())


# --- other people's vectors ----------------------------------------------------------------------------------------


def test_rfc_7515_example() -> None:
    """The ES256 example of RFC 7515 appendix A.3: its key, signing input and signature verify."""
    key = jose.parse_jwk(
        {
            "kty": "EC",
            "crv": "P-256",
            "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
            "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        }
    )
    signed = (
        b"eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290"
        b"Ijp0cnVlfQ"
    )
    value = "DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q"
    payload = b'{"iss":"joe",\r\n "exp":1300819380,\r\n "http://example.com/is_root":true}'
    parsed = Jws("joe", payload, signed, base64.urlsafe_b64decode(value + "=="))
    assert jose.verify(parsed, {"joe": key}).claims["iss"] == "joe"
    refused(GateReason.JWS_ALG_NOT_ALLOWED, jose.parse, f"{b64(b'{}')}.{b64(payload)}.{value}", typ=TYP)


def _wycheproof(*names: str) -> list[dict[str, Any]]:
    folder = corpus.folder("lineage") / "signatures"
    return [
        group
        for name in names
        if (folder / name).exists()
        for group in json.loads((folder / name).read_text())["testGroups"]
    ]


def test_wycheproof_ecdsa_vectors_as_token_signatures() -> None:
    """DER signatures are rewritten as r ‖ s where they can be; where they cannot, there is nothing to present."""
    counted = {"valid": 0, "invalid": 0}
    for group in _wycheproof("ecdsa_secp256r1_sha256_test.json", "ecdsa_secp256r1_sha256_p1363_test.json"):
        key = jose.parse_jwk(group["publicKeyJwk"]) if "publicKeyJwk" in group else _key(group)
        for test in group["tests"]:
            value = bytes.fromhex(test["sig"])
            if group["type"] == "EcdsaVerify":
                try:
                    r, s = decode_dss_signature(value)
                    value = r.to_bytes(32, "big") + s.to_bytes(32, "big")
                except (ValueError, OverflowError):
                    continue
            parsed = Jws("w", b"{}", bytes.fromhex(test["msg"]), value)
            if test["result"] == "valid":
                jose.verify(parsed, {"w": key})
            else:
                refused(GateReason.JWS_SIGNATURE, jose.verify, parsed, {"w": key})
            counted[test["result"]] += 1
    assert counted["valid"] > 100
    assert counted["invalid"] > 20


def test_wycheproof_json_web_signature_vectors() -> None:
    """The ES256 groups: what our layer accepts must be valid. It accepts less: it wants a kid and our type."""
    groups = [group for group in _wycheproof("json_web_signature_test.json") if _is_es256(group)]
    if not groups:
        pytest.skip("json_web_signature_test.json is not in the corpus")
    for group in groups:
        key = jose.parse_jwk(group["public"])
        for test in group["tests"]:
            first, second, third = [*str(test["jws"]).split("."), "", ""][:3]
            try:
                value = base64.urlsafe_b64decode(third + "=" * (-len(third) % 4))
                payload = base64.urlsafe_b64decode(second + "=" * (-len(second) % 4))
                jose.verify(Jws("w", payload, f"{first}.{second}".encode(), value), {"w": key})
            except (ArtifactError, ValueError):
                continue
            assert test["result"] != "invalid", test["comment"]


def _key(group: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    return ec.EllipticCurvePublicKey.from_encoded_point(
        ec.SECP256R1(), bytes.fromhex(group["publicKey"]["uncompressed"])
    )


def _is_es256(group: dict[str, Any]) -> bool:
    public = group.get("public") or {}
    return public.get("kty") == "EC" and public.get("crv") == "P-256"
