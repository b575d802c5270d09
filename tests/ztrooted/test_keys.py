"""Executor ids follow from keys, and a key has one form."""

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from ztrooted.errors import GateError
from ztrooted.keys import executor_id, load_p256, parse_executor_id, spki
from ztrooted.reasons import GateReason

KEY = ec.generate_private_key(ec.SECP256R1()).public_key()
GOOD_ID = "ex-" + "0a" * 16


@given(st.binary(max_size=64))
def test_an_executor_id_follows_from_the_key_and_has_the_form_of_one(area: bytes) -> None:
    assert executor_id(area) == executor_id(bytes(area))
    assert parse_executor_id(executor_id(area)) == executor_id(area)
    assert executor_id(area) != executor_id(area + b"\0")


@pytest.mark.parametrize(
    "text",
    [
        "",
        GOOD_ID.upper(),
        GOOD_ID.replace("a", "A"),
        GOOD_ID + "\n",
        "\n" + GOOD_ID,
        GOOD_ID + " ",
        GOOD_ID + ".",
        GOOD_ID + "\0",
        GOOD_ID[:-1],
        GOOD_ID + "0",
        GOOD_ID.replace("-", "%2d"),
        GOOD_ID.replace("-", "‐"),
        GOOD_ID.replace("0", "０"),
        GOOD_ID.replace("a", "а"),  # Cyrillic
        GOOD_ID.replace("0a", "0g", 1),
        "../" + GOOD_ID,
        GOOD_ID[3:],
        f"{GOOD_ID}\n{GOOD_ID}",
        GOOD_ID[:10] + "'--",
    ],
)
def test_C4_another_spelling_is_no_second_identity(text: str) -> None:
    with pytest.raises(GateError) as refusal:
        parse_executor_id(text)
    assert refusal.value.reason is GateReason.ID_INVALID


def test_a_session_key_is_read_from_its_one_form() -> None:
    assert load_p256(spki(KEY)) == KEY


def compressed() -> bytes:
    """The same key with a compressed point: a second encoding of it."""
    point = KEY.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.CompressedPoint)
    algorithm = spki(KEY)[2:23]
    bits = b"\x03" + bytes([len(point) + 1]) + b"\0" + point
    body = algorithm + bits
    return b"\x30" + bytes([len(body)]) + body


OTHER_KEYS = {
    "nothing": b"",
    "no DER": b"not a key",
    "trailing bytes": spki(KEY) + b"\0",
    "cut short": spki(KEY)[:-1],
    "a point off the curve": spki(KEY)[:-1] + bytes([spki(KEY)[-1] ^ 1]),
    "a compressed point": compressed(),
    "PEM": KEY.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo),
    "the bare point": KEY.public_bytes(serialization.Encoding.X962, serialization.PublicFormat.UncompressedPoint),
    "P-384": spki(ec.generate_private_key(ec.SECP384R1()).public_key()),
    "secp256k1": spki(ec.generate_private_key(ec.SECP256K1()).public_key()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate()
    .public_key()
    .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    "RSA": rsa.generate_private_key(65537, 2048)
    .public_key()
    .public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo),
    "a private key": ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ),
    "a length that is not minimal": b"\x30\x81" + spki(KEY)[1:],
}


@pytest.mark.parametrize("der", OTHER_KEYS.values(), ids=OTHER_KEYS.keys())
def test_any_other_key_or_form_is_refused(der: bytes) -> None:
    with pytest.raises(GateError) as refusal:
        load_p256(der)
    assert refusal.value.reason is GateReason.ENROLL_SESSION_KEY
