"""Signatures on measured files: the ``security.ima`` extended attribute that templates with a signature carry.

Layout (``struct signature_v2_hdr``): type, version, hash algorithm, UINT32 key id, UINT16 size, all big-endian, and the
signature. Version 2 signs the file's digest. Version 3 signs the hash of (type, algorithm, digest), so that an
fs-verity digest is never taken for that of a file. RSA keys sign PKCS#1 v1.5, EC keys ECDSA in DER.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_der_public_key,
    load_pem_public_key,
)

from tpm.codec import Reader
from tpm.errors import RejectedError
from tpm.ima_entry import ImaEntry
from tpm.reasons import EvidenceReason

SigningKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

# enum evm_ima_xattr_type
_DIGSIG = 0x03
_VERITY_DIGSIG = 0x06
# include/uapi/linux/hash_info.h; MD5 and SHA-1 are left out on purpose
_HASHES: dict[int, tuple[str, hashes.HashAlgorithm]] = {
    4: ("sha256", hashes.SHA256()),
    5: ("sha384", hashes.SHA384()),
    6: ("sha512", hashes.SHA512()),
}
# RSA-8192; the attribute holds one signature.
MAX_SIGNATURE = 1024
MIN_RSA_BITS = 2048
# What DER of a key or certificate begins with: a SEQUENCE.
_DER = b"\x30"
# More keys than distributions, vendors and operators of one machine have between them.
MAX_KEYS = 256


@dataclass(frozen=True, slots=True)
class ImaSignature:
    """A parsed signature attribute; nothing about it is verified."""

    verity: bool
    version: int
    hash_alg: int
    key_id: bytes
    signature: bytes


def _invalid(detail: str) -> RejectedError:
    return RejectedError(EvidenceReason.IMA_SIGNATURE_INVALID, detail)


def parse_ima_signature(data: bytes) -> ImaSignature:
    """Parse the attribute. ``ima.signature_invalid`` for any other kind or length of it."""
    reader = Reader(data, EvidenceReason.IMA_SIGNATURE_INVALID)
    kind, version = reader.u8("type"), reader.u8("version")
    if (kind, version) not in {(_DIGSIG, 2), (_DIGSIG, 3), (_VERITY_DIGSIG, 3)}:
        raise _invalid(f"type {kind} version {version} is not a file signature this project verifies")
    hash_alg, key_id = reader.u8("hash algorithm"), reader.take(4, "key id")
    signature = reader.sized(MAX_SIGNATURE, "signature")
    reader.done("the signature")
    return ImaSignature(kind == _VERITY_DIGSIG, version, hash_alg, key_id, signature)


def key_id(key: SigningKey) -> bytes:
    """The four bytes by which a signature names a bare key: the end of the SHA-1 of its public key bits."""
    if isinstance(key, rsa.RSAPublicKey):
        bits = key.public_bytes(Encoding.DER, PublicFormat.PKCS1)
    else:
        bits = key.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return hashlib.sha1(bits, usedforsecurity=False).digest()[-4:]


def _usable(key: object) -> SigningKey:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size >= MIN_RSA_BITS:
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.key_size >= 256:
        return key
    raise ValueError(f"an IMA key is RSA from {MIN_RSA_BITS} bits or on a curve from 256 bits")


def _certificate_key(certificate: x509.Certificate) -> tuple[bytes, SigningKey]:
    key = _usable(certificate.public_key())
    try:
        skid = certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value.digest
    except x509.ExtensionNotFound:
        return key_id(key), key
    return skid[-4:], key


def _keys_of_pem(part: bytes) -> list[tuple[bytes, SigningKey]]:
    """The keys of a PEM file, each with every id by which a signature may name it."""
    if b"-----BEGIN CERTIFICATE-----" not in part:
        return _named(load_pem_public_key(part))
    return [named for found in x509.load_pem_x509_certificates(part) for named in _named_by(found)]


def _keys_of_der(part: bytes) -> list[tuple[bytes, SigningKey]]:
    """The same for a file that is a certificate or a public key in DER."""
    try:
        certificate = x509.load_der_x509_certificate(part)
    except ValueError:
        return _named(load_der_public_key(part))
    return _named_by(certificate)


def _named(key: object) -> list[tuple[bytes, SigningKey]]:
    usable = _usable(key)
    return [(key_id(usable), usable)]


def _named_by(certificate: x509.Certificate) -> list[tuple[bytes, SigningKey]]:
    """A certificate's key is known by its subject key identifier, as in the kernel, and by its bits."""
    identifier, key = _certificate_key(certificate)
    return [(name, key) for name in sorted({identifier, key_id(key)})]


class ImaKeyring:
    """Keys whose signatures on files are accepted, by key id. Ids are short; several keys may share one."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Iterable[tuple[bytes, SigningKey]] = ()) -> None:
        self._keys: dict[bytes, list[SigningKey]] = {}
        for number, (identifier, key) in enumerate(keys, 1):
            if number > MAX_KEYS:
                raise ValueError(f"a keyring holds at most {MAX_KEYS} keys")
            self._keys.setdefault(identifier, []).append(key)

    def __bool__(self) -> bool:
        return bool(self._keys)

    @classmethod
    def from_pem(cls, parts: Sequence[bytes]) -> "ImaKeyring":
        """A keyring of PEM texts, each one public key or certificates. ValueError for any that cannot be used."""
        return cls._read(parts, _keys_of_pem)

    @classmethod
    def from_files(cls, parts: Sequence[bytes]) -> "ImaKeyring":
        """The same of files, which may also be one certificate or public key in DER, as the kernel's keyring takes."""
        return cls._read(parts, lambda part: _keys_of_der(part) if part[:1] == _DER else _keys_of_pem(part))

    @classmethod
    def _read(cls, parts: Sequence[bytes], read: Callable[[bytes], list[tuple[bytes, SigningKey]]]) -> "ImaKeyring":
        keys: list[tuple[bytes, SigningKey]] = []
        for part in parts:
            try:
                keys += read(part)
            except (UnsupportedAlgorithm, x509.InvalidVersion) as error:
                raise ValueError(f"a key cannot be read: {error}") from error
        return cls(keys)

    def holds(self, certificate: bytes) -> bool:
        """Whether the key of this certificate (DER) is one of these: what the kernel measures when a key is loaded."""
        try:
            key = x509.load_der_x509_certificate(certificate).public_key()
        except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion):
            return False
        return any(key == known for keys in self._keys.values() for known in keys)

    def find(self, identifier: bytes) -> Sequence[SigningKey]:
        """The keys with this id, perhaps none."""
        return self._keys.get(identifier, ())


def verify_ima_signature(entry: ImaEntry, keyring: ImaKeyring) -> None:
    """Verify the signature of an entry over the digest it shows.

    1. The attribute is a signature, by a hash that is not broken.
    2. It is made for the digest the entry shows: same algorithm, same kind of digest.
    3. A key of the keyring has its key id.
    4. The signature verifies under that key.

    Raises ``ima.signature_invalid`` (1, 2, 4) and ``ima.key_not_allowed`` (3).
    """
    # 1. Attribute
    parsed = parse_ima_signature(entry.signature)
    if parsed.hash_alg not in _HASHES:
        raise _invalid(f"hash algorithm {parsed.hash_alg} is not accepted in a signature")
    name, algorithm = _HASHES[parsed.hash_alg]
    # 2. Digest
    if name != entry.digest_alg or parsed.verity != (entry.digest_type == "verity"):
        kind = "an fs-verity" if parsed.verity else "a file"
        raise _invalid(f"signed is {kind} digest by {name}, shown is one of {entry.digest_type} by {entry.digest_alg}")
    signed = entry.digest
    if parsed.version == 3:
        header = bytes([_VERITY_DIGSIG if parsed.verity else _DIGSIG, parsed.hash_alg])
        signed = hashlib.new(name, header + entry.digest).digest()
    # 3. Key
    candidates = keyring.find(parsed.key_id)
    if not candidates:
        raise RejectedError(EvidenceReason.IMA_KEY_NOT_ALLOWED, f"key {parsed.key_id.hex()} is not in the keyring")
    # 4. Signature
    if not any(_verifies(key, parsed.signature, signed, algorithm) for key in candidates):
        raise _invalid(f"the signature does not verify under key {parsed.key_id.hex()}")


def _verifies(key: SigningKey, signature: bytes, digest: bytes, algorithm: hashes.HashAlgorithm) -> bool:
    hashed = Prehashed(algorithm)
    try:
        if isinstance(key, rsa.RSAPublicKey):
            key.verify(signature, digest, padding.PKCS1v15(), hashed)
        else:
            key.verify(signature, digest, ec.ECDSA(hashed))
    except InvalidSignature:
        return False
    return True
