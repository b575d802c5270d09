import hashlib
import struct

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.support.endorsement import ec_key, ek_public, rsa_key
from tpm.algorithms import Alg
from tpm.ek_template import (
    POLICY_A_SHA256,
    POLICY_B_SHA256,
    POLICY_B_SHA384,
    POLICY_B_SHA512,
    TEMPLATES,
    EkTemplate,
    check_ek_template,
    parse_ek_public,
)
from tpm.errors import EvidenceError

_CC_POLICY_SECRET, _CC_POLICY_OR, _CC_POLICY_AUTHORIZE_NV = 0x151, 0x171, 0x192
_RH_ENDORSEMENT = 0x4000000B
# The policy index of each hash (profile §B.6.3): written, and readable and writable as the profile says.
_INDICES = {"sha256": (0x01C07F01, Alg.SHA256), "sha384": (0x01C07F02, Alg.SHA384), "sha512": (0x01C07F03, Alg.SHA512)}


def _policy_a(name: str) -> bytes:
    """TPM2_PolicySecret, Part 3 §23.4: extend with the entity's name, then with the empty policyRef."""
    size = hashlib.new(name).digest_size
    first = hashlib.new(name, bytes(size) + struct.pack(">II", _CC_POLICY_SECRET, _RH_ENDORSEMENT)).digest()
    return hashlib.new(name, first).digest()


def _policy_c(name: str) -> bytes:
    """TPM2_PolicyAuthorizeNV over the name of the policy index (Part 3 §23.22)."""
    index, alg = _INDICES[name]
    size, policy = hashlib.new(name).digest_size, _policy_a(name)
    area = struct.pack(">IHIH", index, alg, 0x220F1008, size) + policy + struct.pack(">H", size + 2)
    nv_name = struct.pack(">H", alg) + hashlib.new(name, area).digest()
    return hashlib.new(name, bytes(size) + struct.pack(">I", _CC_POLICY_AUTHORIZE_NV) + nv_name).digest()


def _policy_b(name: str) -> bytes:
    """TPM2_PolicyOR of the two (Part 3 §23.6)."""
    size = hashlib.new(name).digest_size
    branches = _policy_a(name) + _policy_c(name)
    return hashlib.new(name, bytes(size) + struct.pack(">I", _CC_POLICY_OR) + branches).digest()


def test_policies_are_those_the_commands_compute() -> None:
    assert _policy_a("sha256") == POLICY_A_SHA256
    assert _policy_b("sha256") == POLICY_B_SHA256
    assert _policy_b("sha384") == POLICY_B_SHA384
    assert _policy_b("sha512") == POLICY_B_SHA512


def _key_for(template: EkTemplate) -> object:
    if template.type is Alg.RSA:
        return rsa_key(template.size).public_key()
    curves = {3: ec.SECP256R1(), 4: ec.SECP384R1(), 5: ec.SECP521R1()}
    return ec.derive_private_key(99, curves[template.size]).public_key()


@pytest.mark.parametrize("template", [entry for entry in TEMPLATES if entry.size != 4096], ids=lambda entry: entry.name)
def test_each_template_is_recognised_and_each_field_matters(template: EkTemplate) -> None:
    key = _key_for(template)
    assert check_ek_template(parse_ek_public(ek_public(key, template))) == template  # type: ignore[arg-type]
    for changes in (
        {"attributes": template.attributes ^ 1 << 10},
        {"policy": template.auth_policy[:-1] + b"\0"},
        {"policy": b""},
        {"symmetric": struct.pack(">HHH", Alg.AES, 384 - template.symmetric_bits, Alg.CFB)},
        {"name_alg": Alg.SHA1},
    ):
        with pytest.raises(EvidenceError, match=r"ek\.template"):
            check_ek_template(parse_ek_public(ek_public(key, template, **changes)))  # type: ignore[arg-type]


def test_low_range_policy_does_not_go_with_high_range_attributes() -> None:
    low, high = TEMPLATES[1], TEMPLATES[3]
    with pytest.raises(EvidenceError, match=r"ek\.template"):
        check_ek_template(parse_ek_public(ek_public(template=low, policy=high.auth_policy)))


def test_refusal_names_what_differs() -> None:
    with pytest.raises(EvidenceError, match=r"L-2 does not have attributes 0x000200b2, which differ in 0x00010000"):
        check_ek_template(parse_ek_public(ek_public(attributes=0x200B2)))


def test_explicit_exponent_is_another_template() -> None:
    public = parse_ek_public(ek_public(rsa_key().public_key(), exponent=65537))
    with pytest.raises(EvidenceError, match="exponent field 65537"):
        check_ek_template(public)


@pytest.mark.parametrize("cut", [0, 1, 2, 10, 60, -1])
def test_cut_public_area_is_malformed(cut: int) -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_ek_public(ek_public()[:cut])


def test_trailing_byte_is_malformed() -> None:
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_ek_public(ek_public() + b"\0")


def test_point_off_the_curve_is_refused() -> None:
    good = ek_public(ec_key(5).public_key())
    with pytest.raises(EvidenceError, match=r"ek\.malformed"):
        parse_ek_public(good[:-1] + bytes([good[-1] ^ 1])).key()
