"""Signatures on measured files."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from struct import pack
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tests.support.ima_machine import Machine, file_digest
from tpm import ima_signature
from tpm.errors import EvidenceError
from tpm.ima import parse_ima_list
from tpm.ima_appraisal import ImaAppraisal, appraise_ima
from tpm.ima_entry import ImaEntry
from tpm.ima_rules import ImaRules
from tpm.ima_signature import ImaKeyring, key_id, parse_ima_signature, verify_ima_signature
from tpm.ima_writer import ima_entry
from tpm.reasons import EvidenceReason

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey
ALGS = {"sha256": (4, hashes.SHA256()), "sha384": (5, hashes.SHA384()), "sha512": (6, hashes.SHA512())}


@pytest.fixture(scope="module")
def rsa_key() -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, 2048)


@pytest.fixture(scope="module")
def ec_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def pem(key: Any) -> bytes:
    return bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def signed(
    key: PrivateKey,
    digest: bytes,
    alg: str = "sha256",
    *,
    kind: int = 3,
    version: int = 2,
    identifier: bytes | None = None,
) -> bytes:
    number, algorithm = ALGS[alg]
    data = digest if version == 2 else hashlib.new(alg, bytes([kind, number]) + digest).digest()
    if isinstance(key, rsa.RSAPrivateKey):
        value = key.sign(data, padding.PKCS1v15(), Prehashed(algorithm))
    else:
        value = key.sign(data, ec.ECDSA(Prehashed(algorithm)))
    return pack(">BBB4sH", kind, version, number, identifier or key_id(key.public_key()), len(value)) + value


def entry(signature: bytes, digest: bytes, alg: str = "sha256", *, verity: bool = False) -> ImaEntry:
    written = ima_entry("/bin/a", digest, alg, "ima-sigv2", blob=signature)
    text = written.ascii.replace(b"ima:sha", b"verity:sha") if verity else written.ascii
    return parse_ima_list(text).entries[0]


def refused(reason: EvidenceReason, call: Callable[[], object]) -> str:
    with pytest.raises(EvidenceError) as caught:
        call()
    assert caught.value.reason is reason
    return caught.value.detail


@pytest.mark.parametrize("alg", sorted(ALGS))
@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("kind", ["rsa", "ec"])
def test_signatures_of_files_verify(request: pytest.FixtureRequest, kind: str, version: int, alg: str) -> None:
    key: PrivateKey = request.getfixturevalue(f"{kind}_key")
    digest = file_digest("/bin/a", alg)
    keyring = ImaKeyring.from_pem([pem(key)])
    signature = signed(key, digest, alg, version=version)
    verify_ima_signature(entry(signature, digest, alg), keyring)
    other = file_digest("/bin/b", alg)
    refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda: verify_ima_signature(entry(signature, other, alg), keyring))
    bent = signature[:-1] + bytes([signature[-1] ^ 1])
    refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda: verify_ima_signature(entry(bent, digest, alg), keyring))


def test_signatures_of_verity_digests_verify_only_as_such(ec_key: ec.EllipticCurvePrivateKey) -> None:
    digest, keyring = file_digest("/bin/a"), ImaKeyring.from_pem([pem(ec_key)])
    verity = signed(ec_key, digest, kind=6, version=3)
    plain = signed(ec_key, digest, kind=3, version=3)
    verify_ima_signature(entry(verity, digest, verity=True), keyring)
    for signature, is_verity in ((verity, False), (plain, True)):
        broken = entry(signature, digest, verity=is_verity)
        refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda broken=broken: verify_ima_signature(broken, keyring))  # type: ignore[misc]
    # The type is signed, too: relabelling the attribute does not help.
    relabelled = entry(b"\x06" + plain[1:], digest, verity=True)
    refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda: verify_ima_signature(relabelled, keyring))


def test_a_key_outside_the_keyring_is_named(ec_key: ec.EllipticCurvePrivateKey, rsa_key: rsa.RSAPrivateKey) -> None:
    digest = file_digest("/bin/a")
    subject = entry(signed(ec_key, digest), digest)
    detail = refused(
        EvidenceReason.IMA_KEY_NOT_ALLOWED, lambda: verify_ima_signature(subject, ImaKeyring.from_pem([pem(rsa_key)]))
    )
    assert key_id(ec_key.public_key()).hex() in detail
    refused(EvidenceReason.IMA_KEY_NOT_ALLOWED, lambda: verify_ima_signature(subject, ImaKeyring()))


def test_a_key_id_only_selects_a_key(ec_key: ec.EllipticCurvePrivateKey, rsa_key: rsa.RSAPrivateKey) -> None:
    """Ids are four bytes. A key that borrows another's id is still not that key; two with one id are both tried."""
    digest, identifier = file_digest("/bin/a"), key_id(ec_key.public_key())
    stranger = ec.generate_private_key(ec.SECP384R1())
    forged = entry(signed(stranger, digest, identifier=identifier), digest)
    refused(
        EvidenceReason.IMA_SIGNATURE_INVALID,
        lambda: verify_ima_signature(forged, ImaKeyring([(identifier, ec_key.public_key())])),
    )
    both = ImaKeyring([(identifier, rsa_key.public_key()), (identifier, ec_key.public_key())])
    verify_ima_signature(entry(signed(ec_key, digest), digest), both)


def certificate(key: PrivateKey, skid: bytes | None) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "IMA signing key")])
    now = datetime(2024, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + timedelta(days=1))
    if skid is not None:
        builder = builder.add_extension(x509.SubjectKeyIdentifier(skid), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


def test_a_certificate_names_its_key_by_its_identifier(ec_key: ec.EllipticCurvePrivateKey) -> None:
    digest = file_digest("/bin/a")
    keyring = ImaKeyring.from_pem([certificate(ec_key, b"sixteen bytes 01")])
    verify_ima_signature(entry(signed(ec_key, digest, identifier=b"s 01"), digest), keyring)
    verify_ima_signature(entry(signed(ec_key, digest), digest), keyring)
    verify_ima_signature(entry(signed(ec_key, digest), digest), ImaKeyring.from_pem([certificate(ec_key, None)]))


def test_key_files_may_be_der(ec_key: ec.EllipticCurvePrivateKey, rsa_key: rsa.RSAPrivateKey) -> None:
    """The certificates of the kernel's keyring lie on disk as DER."""
    digest = file_digest("/bin/a")
    found = x509.load_pem_x509_certificate(certificate(ec_key, b"sixteen bytes 01"))
    bare = rsa_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    keyring = ImaKeyring.from_files([found.public_bytes(Encoding.DER), bare, pem(rsa_key)])
    for subject in (signed(ec_key, digest, identifier=b"s 01"), signed(ec_key, digest), signed(rsa_key, digest)):
        verify_ima_signature(entry(subject, digest), keyring)
    for wrong in (bare[:-1], b"0", b"", found.public_bytes(Encoding.DER) + b"\0"):
        with pytest.raises(ValueError):  # noqa: PT011 -- whoever refuses it
            ImaKeyring.from_files([wrong])
    with pytest.raises(ValueError):  # noqa: PT011 -- whoever refuses it
        ImaKeyring.from_pem([bare])


@pytest.mark.parametrize("what", ["rsa1024", "p192", "ed25519", "garbage"])
def test_keys_that_cannot_be_trusted_are_refused(what: str) -> None:
    keys: dict[str, Callable[[], bytes]] = {
        "rsa1024": lambda: pem(rsa.generate_private_key(65537, 1024)),  # noqa: S505 -- to be refused
        "p192": lambda: pem(ec.generate_private_key(ec.SECP192R1())),
        "ed25519": lambda: pem(ed25519.Ed25519PrivateKey.generate()),
        "garbage": lambda: b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n",
    }
    with pytest.raises(ValueError):  # noqa: PT011 -- whoever refuses it
        ImaKeyring.from_pem([keys[what]()])


def test_a_keyring_has_a_largest_size(monkeypatch: pytest.MonkeyPatch, ec_key: ec.EllipticCurvePrivateKey) -> None:
    monkeypatch.setattr(ima_signature, "MAX_KEYS", 1)
    assert ImaKeyring([(b"1234", ec_key.public_key())])
    with pytest.raises(ValueError, match="at most"):
        ImaKeyring([(b"1234", ec_key.public_key())] * 2)


@pytest.mark.parametrize(
    "change",
    [
        lambda data: b"",
        lambda data: data[:8],
        lambda data: data[:-1],
        lambda data: data + b"\0",
        lambda data: b"\x01" + data[1:],
        lambda data: b"\x05" + data[1:],
        lambda data: b"\x06" + data[1:],
        lambda data: data[:1] + b"\x01" + data[2:],
        lambda data: data[:7] + pack(">H", 1025) + bytes(1025),
    ],
)
def test_malformed_signatures_are_refused(change: Callable[[bytes], bytes], ec_key: ec.EllipticCurvePrivateKey) -> None:
    data = signed(ec_key, file_digest("/bin/a"))
    assert parse_ima_signature(data).key_id == key_id(ec_key.public_key())
    refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda: parse_ima_signature(change(data)))


@pytest.mark.parametrize("number", [0, 1, 2, 5, 7, 255])
def test_the_hash_is_strong_and_that_of_the_digest(number: int, ec_key: ec.EllipticCurvePrivateKey) -> None:
    digest = file_digest("/bin/a")
    data = signed(ec_key, digest)
    subject = entry(data[:2] + bytes([number]) + data[3:], digest)
    keyring = ImaKeyring.from_pem([pem(ec_key)])
    refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda: verify_ima_signature(subject, keyring))


def test_an_unlisted_file_is_accepted_by_its_signature(ec_key: ec.EllipticCurvePrivateKey) -> None:
    machine, keyring = Machine("ima-sig"), ImaKeyring.from_pem([pem(ec_key)])

    def judge(**options: Any) -> ImaAppraisal:
        return appraise_ima(machine.verified(), ImaRules.of(machine.allow, **options))

    digest = file_digest("/bin/a")
    machine.append(ima_entry("/bin/a", digest, template="ima-sig", blob=signed(ec_key, digest)))
    assert judge(keyring=keyring).signed == 1
    refused(EvidenceReason.IMA_NOT_ALLOWED, judge)
    refused(EvidenceReason.IMA_TOO_LARGE, lambda: judge(keyring=keyring, max_signatures=0))
    # A listed path is pinned: a signature on another version of the file does not help.
    machine.allow["/bin/a"] = ["01" * 32]
    refused(EvidenceReason.IMA_DIGEST_NOT_ALLOWED, lambda: judge(keyring=keyring))
    del machine.allow["/bin/a"]
    machine.append(ima_entry("/bin/b", file_digest("/bin/b"), template="ima-sig", blob=signed(ec_key, digest)))
    refused(EvidenceReason.IMA_SIGNATURE_INVALID, lambda: judge(keyring=keyring))
    machine.entries.pop()
    machine.pcr10 = Machine("ima-sig").pcr10
    machine.entries = machine.entries[:1]
    machine.append(ima_entry("/bin/c", digest, template="ima-sig"))
    refused(EvidenceReason.IMA_NOT_ALLOWED, lambda: judge(keyring=keyring))


def test_a_loaded_key_is_never_learned_from_the_list(
    ec_key: ec.EllipticCurvePrivateKey, rsa_key: rsa.RSAPrivateKey
) -> None:
    """Whoever may load a key into .ima could otherwise have any file accepted."""
    digest = file_digest("/bin/a")

    def judge(*loaded: PrivateKey, listed: bool = False) -> ImaAppraisal:
        """These keys are loaded, then a file that the second one signed is measured; the policy names the first."""
        machine = Machine("ima-sig")
        for key in loaded:
            der = x509.load_pem_x509_certificate(certificate(key, None)).public_bytes(Encoding.DER)
            shown = hashlib.sha256(der).digest()
            machine.append(ima_entry(".ima", shown, template="ima-buf", blob=der))
            if listed:
                machine.allow.setdefault(".ima", []).append(f"sha256:{shown.hex()}")
        machine.append(ima_entry("/bin/a", digest, template="ima-sig", blob=signed(loaded[-1], digest)))
        keyring = ImaKeyring.from_pem([pem(ec_key)])
        return appraise_ima(machine.verified(), ImaRules.of(machine.allow, keyring=keyring))

    assert judge(ec_key).signed == 1
    detail = refused(EvidenceReason.IMA_KEY_NOT_ALLOWED, lambda: judge(ec_key, rsa_key))
    assert "a key was loaded into .ima" in detail
    # Listed, its loading is accepted. What it signed is not, before the policy names the key.
    detail = refused(EvidenceReason.IMA_KEY_NOT_ALLOWED, lambda: judge(ec_key, rsa_key, listed=True))
    assert "a key was loaded" not in detail
