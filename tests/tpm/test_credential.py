"""MakeCredential: what a software TPM opens, for each kind of endorsement key, and what it refuses."""

import hashlib
import hmac as stdlib_hmac
from typing import Any

import pytest
from cryptography.hazmat.decrepit.ciphers.modes import CFB
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.attestation import HASHES, SoftwareAk, changed, ecc_key, ecc_public, rsa_key, rsa_public
from tpm.algorithms import Alg
from tpm.attestation_key import accept_attestation_key
from tpm.credential import kdfa, kdfe, make_credential, parse_id_object
from tpm.errors import RejectedError
from tpm.public import EK, Curve, ObjectAttributes, Public, Symmetric, parse_public

AES128, AES256 = Symmetric(Alg.AES, 128, Alg.CFB), Symmetric(Alg.AES, 256, Alg.CFB)
EK_ATTRIBUTES = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.USER_WITH_AUTH
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.DECRYPT
)
NAME = SoftwareAk.ecc().public.name
SECRET = bytes(range(32))


def endorsement(kind: Any, name_alg: Alg, symmetric: Symmetric = AES128, **fields: Any) -> Public:
    """The public area of an EK: a curve, or the bits of an RSA key."""
    public = ecc_public(ecc_key(kind)) if isinstance(kind, Curve) else rsa_public(rsa_key(kind))
    settled = {"name_alg": name_alg, "symmetric": symmetric, "attributes": EK_ATTRIBUTES, "scheme": None, **fields}
    return changed(public, **settled)


# Low range: RSA-2048 and P-256 with AES-128; high range: with SHA-384 and AES-256 (EK Credential Profile annex B).
KINDS = [
    (2048, Alg.SHA256, AES128),
    (3072, Alg.SHA384, AES256),
    (Curve.P256, Alg.SHA256, AES128),
    (Curve.P384, Alg.SHA384, AES256),
    (Curve.P521, Alg.SHA512, AES256),
]


def opened(ek: Public, id_object: bytes, encrypted_secret: bytes, name: bytes) -> bytes:
    """TPM2_ActivateCredential with the private half in hand (Part 1 §24)."""
    algorithm, inner = HASHES[ek.name_alg], encrypted_secret[2:]
    assert int.from_bytes(encrypted_secret[:2], "big") == len(inner)
    if ek.type is Alg.RSA:
        oaep = padding.OAEP(padding.MGF1(algorithm), algorithm, b"IDENTITY\0")
        seed = rsa_key(ek.bits or 0).decrypt(inner, oaep)
    else:
        assert ek.curve is not None
        private = ecc_key(ek.curve)
        size = (private.key_size + 7) // 8
        x, y = inner[2 : 2 + size], inner[4 + size :]
        peer = ec.EllipticCurvePublicNumbers(int.from_bytes(x, "big"), int.from_bytes(y, "big"), private.curve)
        own = private.public_key().public_numbers().x.to_bytes(size, "big")
        shared = private.exchange(ec.ECDH(), peer.public_key())
        seed = kdfe(ek.name_alg, shared, b"IDENTITY\0", x, own, algorithm.digest_size * 8)
    blob = parse_id_object(id_object)
    hmac_key = kdfa(ek.name_alg, seed, b"INTEGRITY\0", b"", b"", algorithm.digest_size * 8)
    assert blob.integrity == stdlib_hmac.digest(hmac_key, blob.encrypted + name, algorithm.name)
    assert ek.symmetric is not None
    key = kdfa(ek.name_alg, seed, b"STORAGE\0", name, b"", ek.symmetric.bits)
    decryptor = Cipher(AES(key), CFB(bytes(16))).decryptor()
    plain = decryptor.update(blob.encrypted) + decryptor.finalize()
    assert int.from_bytes(plain[:2], "big") == len(plain) - 2
    return plain[2:]


@pytest.mark.parametrize(("kind", "name_alg", "symmetric"), KINDS)
@settings(max_examples=10, deadline=None)  # making an RSA key takes seconds
@given(data=st.data())
def test_the_holder_of_the_endorsement_key_reads_the_secret(
    kind: Any, name_alg: Alg, symmetric: Symmetric, data: st.DataObject
) -> None:
    ek = endorsement(kind, name_alg, symmetric)
    secret = data.draw(st.binary(min_size=16, max_size=HASHES[name_alg].digest_size))
    made = make_credential(ek, NAME, secret)
    assert opened(ek, made.id_object, made.encrypted_secret, NAME) == secret


def test_entropy_is_the_callers_and_ecc_credentials_repeat_with_it() -> None:
    ek = endorsement(Curve.P256, Alg.SHA256)
    asked: list[int] = []

    def entropy(size: int) -> bytes:
        asked.append(size)
        return b"\x5a" * size

    assert make_credential(ek, NAME, SECRET, entropy=entropy) == make_credential(ek, NAME, SECRET, entropy=entropy)
    assert make_credential(ek, NAME, SECRET) != make_credential(ek, NAME, SECRET)
    assert asked == [40, 40]


@pytest.mark.parametrize(
    "fields",
    [
        {"attributes": EK_ATTRIBUTES & ~ObjectAttributes.RESTRICTED},
        {"attributes": EK_ATTRIBUTES & ~ObjectAttributes.DECRYPT},
        {"attributes": EK_ATTRIBUTES | ObjectAttributes.SIGN},
        {"symmetric": None},
        {"symmetric": Symmetric(Alg.SM4, 128, Alg.CFB)},
        {"symmetric": Symmetric(Alg.AES, 128, Alg.CTR)},
        {"symmetric": Symmetric(Alg.AES, 64, Alg.CFB)},
        {"name_alg": Alg.SHA1},
        {"name_alg": Alg.NULL},
    ],
)
def test_a_key_that_cannot_be_an_endorsement_key_is_refused(fields: dict[str, Any]) -> None:
    for kind in (Curve.P256, 2048):
        with pytest.raises(RejectedError) as caught:
            make_credential(endorsement(kind, **{"name_alg": Alg.SHA256, **fields}), NAME, SECRET)
        assert caught.value.reason == "credential.key_not_allowed"


@pytest.mark.parametrize("secret", [b"", bytes(15), bytes(33)])
def test_a_secret_too_short_to_be_one_or_too_long_for_the_key_is_an_error(secret: bytes) -> None:
    with pytest.raises(ValueError, match="secret"):
        make_credential(endorsement(Curve.P256, Alg.SHA256), NAME, secret)


@pytest.mark.parametrize("name", [b"", b"\x00\x0b", NAME[:-1], NAME + b"\0", b"\x00\x10", b"\xff\xff" + bytes(32)])
def test_b6_a_name_that_is_no_digest_is_an_error(name: bytes) -> None:
    with pytest.raises(ValueError, match=r"Name|Alg"):
        make_credential(endorsement(Curve.P256, Alg.SHA256), name, SECRET)


# The software TPM


@pytest.mark.swtpm
def test_a_tpm_activates_a_credential_for_its_own_attestation_key(certified_device: Any) -> None:
    ek = parse_public(certified_device.endorsement_key().public, reasons=EK)
    ak = accept_attestation_key(parse_public(certified_device.attestation_key()))
    made = make_credential(ek, ak.name, SECRET)
    assert certified_device.activate_credential(made.id_object, made.encrypted_secret) == SECRET


@pytest.mark.swtpm
@pytest.mark.parametrize(
    ("template", "hash_name", "symmetric"),
    [
        ("rsa2048", "SHA256", 128),
        ("ecc256", "SHA256", 128),
        ("ecc384", "SHA384", 256),
        ("ecc521", "SHA512", 256),
        ("rsa3072", "SHA384", 256),
    ],
)
def test_a_tpm_activates_credentials_of_each_range(
    software_tpm: Any, template: str, hash_name: str, symmetric: int
) -> None:
    """The same secret comes back for the Name asked for, and nothing for another Name."""
    tss = pytest.importorskip("tpm2_pytss")
    path = software_tpm.address.removeprefix("socket:")
    with tss.ESAPI(f"swtpm:path={path}") as esapi:
        attributes = tss.TPMA_OBJECT(int(EK_ATTRIBUTES))
        hash_alg = getattr(tss.TPM2_ALG, hash_name)
        area = tss.TPM2B_PUBLIC.parse(f"{template}:aes{symmetric}cfb", nameAlg=hash_alg, objectAttributes=attributes)
        endorsement_handle, ek_public, *_ = esapi.create_primary(
            tss.TPM2B_SENSITIVE_CREATE(), area, tss.ESYS_TR.ENDORSEMENT
        )
        ak_attributes = tss.TPMA_OBJECT(int(SoftwareAk.ecc().public.attributes))
        ak_area = tss.TPM2B_PUBLIC.parse("ecc256:ecdsa-sha256:null", objectAttributes=ak_attributes)
        ak_handle, ak_public, *_ = esapi.create_primary(tss.TPM2B_SENSITIVE_CREATE(), ak_area, tss.ESYS_TR.ENDORSEMENT)
        ek = parse_public(bytes(ek_public.marshal()), reasons=EK)
        ak = accept_attestation_key(parse_public(bytes(ak_public.marshal())))
        assert ak.name == bytes(ak_public.get_name())

        def activate(name: bytes) -> bytes:
            made = make_credential(ek, name, SECRET)
            blob, _ = tss.TPM2B_ID_OBJECT.unmarshal(made.id_object)
            encrypted, _ = tss.TPM2B_ENCRYPTED_SECRET.unmarshal(made.encrypted_secret)
            return bytes(
                esapi.activate_credential(
                    ak_handle, endorsement_handle, blob, encrypted, tss.ESYS_TR.PASSWORD, tss.ESYS_TR.PASSWORD
                )
            )

        assert activate(ak.name) == SECRET
        other = ak.name[:2] + hashlib.sha256(ak.name).digest()
        with pytest.raises(tss.TSS2_Exception):
            activate(other)


def test_the_derivations_are_those_of_the_tss() -> None:
    """tpm2-pytss has its own KDFa and KDFe, to compare with."""
    crypto = pytest.importorskip("tpm2_pytss.internal.crypto")
    tss = pytest.importorskip("tpm2_pytss")
    key, u, v = b"k" * 32, b"u" * 34, b"v" * 5
    for alg, theirs in ((Alg.SHA256, tss.TPM2_ALG.SHA256), (Alg.SHA384, tss.TPM2_ALG.SHA384)):
        for bits in (128, 256, 512):
            assert kdfa(alg, key, b"STORAGE\0", u, v, bits) == crypto._kdfa(theirs, key, b"STORAGE", u, v, bits)
            ours = kdfe(alg, key, b"IDENTITY\0", u, v, bits)
            assert ours == crypto.kdfe(theirs, key, b"IDENTITY\0", u, v, bits)


def test_rsa_seeds_are_encrypted_by_oaep_with_the_identity_label() -> None:
    ek = endorsement(2048, Alg.SHA256)
    made = make_credential(ek, NAME, SECRET, entropy=lambda size: b"\1" * size)
    private: rsa.RSAPrivateKey = rsa_key()
    oaep = padding.OAEP(padding.MGF1(HASHES[Alg.SHA256]), HASHES[Alg.SHA256], b"IDENTITY\0")
    assert private.decrypt(made.encrypted_secret[2:], oaep) == b"\1" * 32
    with pytest.raises(ValueError, match="failed"):
        private.decrypt(made.encrypted_secret[2:], padding.OAEP(oaep.mgf, HASHES[Alg.SHA256], b"IDENTITY"))
