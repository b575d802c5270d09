"""Issuing keys: believed only as the log key introduced them."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

from ztrooted import canonical, jose
from ztrooted.errors import ProofError
from ztrooted.issuer import certify_qualifying_data, signed_digest, statement, verify_introduction
from ztrooted.reasons import GateReason

ORIGIN = "gate.example/log"
LOG = ec.generate_private_key(ec.SECP256R1())
ISSUER = ec.generate_private_key(ec.SECP256R1()).public_key()
OTHER = ec.generate_private_key(ec.SECP256R1()).public_key()
SOME = statement(ORIGIN, ISSUER, not_before=1_000, expires=4_600)


def signed(data: bytes, key: ec.EllipticCurvePrivateKey = LOG) -> bytes:
    return key.sign(signed_digest(data), ec.ECDSA(Prehashed(hashes.SHA256())))


def refused(data: bytes, signature: bytes, origin: str = ORIGIN) -> None:
    with pytest.raises(ProofError) as refusal:
        verify_introduction(data, signature, LOG.public_key(), origin)
    assert refusal.value.reason is GateReason.LINEAGE_KEY


def test_what_was_introduced_is_believed() -> None:
    key = verify_introduction(SOME, signed(SOME), LOG.public_key(), ORIGIN)
    assert (key.origin, key.kid, key.not_before, key.expires) == (ORIGIN, jose.thumbprint(ISSUER), 1_000, 4_600)
    assert key.key == ISSUER


GOOD_SIGNATURE = signed(SOME)
SIGNATURES = {
    "of another key": signed(SOME, ec.generate_private_key(ec.SECP256R1())),
    "over another statement": signed(statement(ORIGIN, OTHER, not_before=1_000, expires=4_600)),
    "over the statement without its domain": LOG.sign(SOME, ec.ECDSA(hashes.SHA256())),
    "in another domain": LOG.sign(certify_qualifying_data(ORIGIN), ec.ECDSA(Prehashed(hashes.SHA256()))),
    "empty": b"",
    "no DER": b"\0" * 64,
    "cut short": GOOD_SIGNATURE[:-1],
    "with trailing bytes": GOOD_SIGNATURE + b"\0",
}


@pytest.mark.parametrize("signature", SIGNATURES.values(), ids=SIGNATURES.keys())
def test_any_other_signature_is_refused(signature: bytes) -> None:
    refused(SOME, signature)


def test_the_introduction_for_another_log_is_refused() -> None:
    refused(SOME, signed(SOME), "other.example/log")


@pytest.mark.parametrize("times", [(999, 4_600), (1_000, 4_601), (0, 2**53 - 1)])
def test_times_that_were_not_signed_are_refused(times: tuple[int, int]) -> None:
    refused(statement(ORIGIN, ISSUER, not_before=times[0], expires=times[1]), GOOD_SIGNATURE)


def test_no_changed_byte_is_believed() -> None:
    for place in range(len(SOME)):
        changed = bytearray(SOME)
        changed[place] ^= 1
        refused(bytes(changed), GOOD_SIGNATURE)


# Even the log key can't introduce these: a statement has one form, and its parts agree.
CONTENTS: dict[str, dict[str, Any]] = {
    "a kid of another key": {"kid": jose.thumbprint(OTHER)},
    "a kid in another case": {"kid": jose.thumbprint(ISSUER).swapcase()},
    "a key that is not the kid's": {"jwk": jose.jwk(OTHER)},
    "a private key": {"jwk": {**jose.jwk(ISSUER), "d": "AA"}},
    "a jwk with more members": {"jwk": {**jose.jwk(ISSUER), "kid": "x"}},
    "a jwk of another curve": {"jwk": {**jose.jwk(ISSUER), "crv": "P-384"}},
    "a jwk without coordinates": {"jwk": {"kty": "EC", "crv": "P-256"}},
    "a jwk that is a list": {"jwk": []},
    "a jwk that is text": {"jwk": "key"},
    "a jwk that is null": {"jwk": None},
    "another format": {"format": "ztrooted-issuer/2"},
    "an extra member": {"extra": 1},
    "no time at all": {"not_before": 1_000, "expires": 1_000},
    "times the wrong way round": {"not_before": 4_600, "expires": 1_000},
    "a time before the epoch": {"not_before": -1},
    "times as text": {"expires": "4600"},
    "times are true": {"not_before": False, "expires": True},
    "an end that is null": {"expires": None},
    "an origin that is a list": {"origin": [ORIGIN]},
}


@pytest.mark.parametrize("members", CONTENTS.values(), ids=CONTENTS.keys())
def test_a_signed_statement_that_is_malformed_is_refused(members: dict[str, Any]) -> None:
    data = canonical.encode({**json.loads(SOME), **members})
    assert data != SOME
    refused(data, signed(data))


@pytest.mark.parametrize("name", sorted(json.loads(SOME)))
def test_a_signed_statement_without_one_of_its_members_is_refused(name: str) -> None:
    value = json.loads(SOME)
    del value[name]
    data = canonical.encode(value)
    refused(data, signed(data))


@pytest.mark.parametrize("data", [b"[]", b"null", b"5", b'"text"', canonical.encode(sorted(json.loads(SOME)))])
def test_a_signed_document_of_another_kind_is_refused(data: bytes) -> None:
    refused(data, signed(data))


@pytest.mark.parametrize("change", [lambda data: data + b" ", lambda data: b"", lambda data: data.replace(b":", b": ")])
def test_a_signed_statement_in_another_encoding_is_refused(change: Callable[[bytes], bytes]) -> None:
    data = change(SOME)
    with pytest.raises(ProofError) as refusal:
        verify_introduction(data, signed(data), LOG.public_key(), ORIGIN)
    assert refusal.value.reason is GateReason.CANONICAL_MALFORMED


def test_what_the_log_key_is_certified_for_depends_on_the_origin() -> None:
    assert certify_qualifying_data(ORIGIN) != certify_qualifying_data("other.example/log")
    assert len(certify_qualifying_data(ORIGIN)) == 32
