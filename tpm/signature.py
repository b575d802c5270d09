"""``TPMT_SIGNATURE`` and its verification, in one place (TPM 2.0 Part 2 §11.3).

RSASSA, RSAPSS and ECDSA over SHA-256, SHA-384 or SHA-512. Every other scheme a TPM can write (HMAC, ECDAA, SM2,
Schnorr, NULL) and SHA-1 are refused by name before any key is touched.
"""

from dataclasses import dataclass
from struct import Struct

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

from tpm.algorithms import Alg
from tpm.codec import Reader
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason

PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey

# RSA-4096 is the largest key we take (Part 2 §11.2.4.5); P-521 coordinates have 66 bytes (§11.2.5.1).
MAX_RSA_SIGNATURE = 512
MAX_ECC_PARAMETER = 66

# Scheme and hash to the name used in policies, on the command line and in messages.
SIGNATURE_NAMES: dict[tuple[Alg, Alg], str] = {
    (alg, hash_alg): f"{alg.name.lower()}-{hash_alg.name.lower()}"
    for alg in (Alg.RSASSA, Alg.RSAPSS, Alg.ECDSA)
    for hash_alg in (Alg.SHA256, Alg.SHA384, Alg.SHA512)
}
DEFAULT_SIGNATURES: frozenset[str] = frozenset(SIGNATURE_NAMES.values())

_HASHES: dict[Alg, hashes.HashAlgorithm] = {
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
_ECDSA = {alg: ec.ECDSA(algorithm) for alg, algorithm in _HASHES.items()}
_PKCS1 = padding.PKCS1v15()
_SCHEMES: dict[int, Alg] = {int(alg): alg for alg, _ in SIGNATURE_NAMES}
_HASH_ALGS: dict[int, Alg] = {int(alg): alg for alg in _HASHES}
_IDENTIFIERS = Struct(">HH")


@dataclass(frozen=True, slots=True)
class SignatureReasons:
    """The codes with which a signature is refused, chosen by what it signs."""

    malformed: EvidenceReason = EvidenceReason.QUOTE_SIG_MALFORMED
    scheme: EvidenceReason = EvidenceReason.QUOTE_SIG_ALG_NOT_ALLOWED
    hash: EvidenceReason = EvidenceReason.QUOTE_HASH_ALG_NOT_ALLOWED
    invalid: EvidenceReason = EvidenceReason.QUOTE_SIG_INVALID


QUOTE_SIGNATURE = SignatureReasons()


@dataclass(frozen=True, slots=True)
class Signature:
    """A parsed signature: ``values`` is (signature,) for RSA and (r, s) for ECDSA, each as big-endian bytes.

    Never an identifier: an ECDSA signature has a valid twin, and a second signing gives another one.
    """

    alg: Alg
    hash_alg: Alg
    values: tuple[bytes, ...]

    @property
    def scheme_name(self) -> str:
        """For instance ``ecdsa-sha256``."""
        return SIGNATURE_NAMES[self.alg, self.hash_alg]

    def marshal(self) -> bytes:
        """``TPMT_SIGNATURE``."""
        fields = (len(value).to_bytes(2, "big") + value for value in self.values)
        return _IDENTIFIERS.pack(self.alg, self.hash_alg) + b"".join(fields)


def parse_signature(data: bytes, *, reasons: SignatureReasons = QUOTE_SIGNATURE) -> Signature:
    """Parse a ``TPMT_SIGNATURE`` with nothing left over; schemes and hashes we do not verify are RejectedError."""
    reader = Reader(data, reasons.malformed)
    scheme = int.from_bytes(reader.take(2, "signature scheme"), "big")
    alg = _SCHEMES.get(scheme)
    if alg is None:
        raise RejectedError(reasons.scheme, f"signature scheme 0x{scheme:04x} is not one we verify")
    hash_identifier = int.from_bytes(reader.take(2, "hash algorithm"), "big")
    hash_alg = _HASH_ALGS.get(hash_identifier)
    if hash_alg is None:
        raise RejectedError(reasons.hash, f"hash algorithm 0x{hash_identifier:04x} is not one we accept in signatures")
    if alg is Alg.ECDSA:
        values: tuple[bytes, ...] = (reader.sized(MAX_ECC_PARAMETER, "r"), reader.sized(MAX_ECC_PARAMETER, "s"))
    else:
        values = (reader.sized(MAX_RSA_SIGNATURE, "signature"),)
    reader.done("the signature")
    return Signature(alg, hash_alg, values)


def verify_signature(
    signature: Signature,
    key: PublicKey,
    message: bytes,
    *,
    reasons: SignatureReasons = QUOTE_SIGNATURE,
    pss_salt: int | None = None,
) -> None:
    """Return where ``signature`` over ``message`` was made by ``key``; RejectedError otherwise.

    ``pss_salt`` demands one RSAPSS salt length in bytes. By default it is what TPMs write: as long as the digest, or as
    long as fits the key (Part 1 annex B.7).
    """
    if signature.alg is Alg.ECDSA:
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise RejectedError(reasons.scheme, "an ECDSA signature cannot be made by an RSA key")
        _verify_ecdsa(signature, key, message, reasons)
    elif not isinstance(key, rsa.RSAPublicKey):
        raise RejectedError(reasons.scheme, f"an {signature.alg.name} signature cannot be made by an ECC key")
    else:
        _verify_rsa(signature, key, message, reasons, pss_salt)


def _verify_ecdsa(
    signature: Signature, key: ec.EllipticCurvePublicKey, message: bytes, reasons: SignatureReasons
) -> None:
    """r and s may come short of leading zeros, as some TPMs write them, and never longer than the curve's order."""
    size = (key.key_size + 7) // 8
    first, second = signature.values
    if not 0 < len(first) <= size or not 0 < len(second) <= size:
        raise RejectedError(reasons.invalid, f"r and s have {len(first)} and {len(second)} bytes, the curve has {size}")
    encoded = encode_dss_signature(int.from_bytes(first, "big"), int.from_bytes(second, "big"))
    try:
        key.verify(encoded, message, _ECDSA[signature.hash_alg])
    except InvalidSignature:
        raise RejectedError(reasons.invalid, "the ECDSA signature is not by this key over these bytes") from None


def _verify_rsa(
    signature: Signature, key: rsa.RSAPublicKey, message: bytes, reasons: SignatureReasons, pss_salt: int | None
) -> None:
    """The signature is exactly as long as the modulus: no leading zeros, none missing (RFC 8017 §8.1.2, §8.2.2)."""
    size = (key.key_size + 7) // 8
    (value,) = signature.values
    if len(value) != size:
        raise RejectedError(reasons.invalid, f"the signature has {len(value)} bytes, the modulus {size}")
    algorithm = _HASHES[signature.hash_alg]
    for scheme in _paddings(signature.alg, algorithm, size, pss_salt):
        try:
            key.verify(value, message, scheme, algorithm)
        except InvalidSignature:
            continue
        return
    raise RejectedError(reasons.invalid, f"the {signature.alg.name} signature is not by this key over these bytes")


def _paddings(
    alg: Alg, algorithm: hashes.HashAlgorithm, size: int, pss_salt: int | None
) -> tuple[padding.AsymmetricPadding, ...]:
    if alg is Alg.RSASSA:
        return (_PKCS1,)
    salts = (algorithm.digest_size, size - algorithm.digest_size - 2) if pss_salt is None else (pss_salt,)
    return tuple(padding.PSS(padding.MGF1(algorithm), salt) for salt in salts)
