"""Attestation keys and attestations made by software keys: well-formed bytes in which a test changes one thing."""

import hashlib
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

from tpm.algorithms import Alg
from tpm.attest import Attest, Attested, AttestType, ClockInfo, QuoteInfo
from tpm.attestation_key import AttestationKey, accept_attestation_key
from tpm.pcr import PcrSelection, pcr_digest
from tpm.public import Curve, EccPoint, ObjectAttributes, Public, Scheme, parse_tpmt_public
from tpm.quote import Quote, VerifiedQuote, parse_quote, verify_quote
from tpm.signature import Signature

NONCE = bytes(range(32))
SELECTION = PcrSelection.of({"sha256": [0, 1, 10]})
VALUES = {"sha256": {index: hashlib.sha256(bytes([index])).digest() for index in (0, 1, 10)}}
CLOCK = ClockInfo(clock=5_000, reset_count=7, restart_count=2, safe=True)
FIRMWARE = 0x2024010100000001

AK_ATTRIBUTES = (
    ObjectAttributes.FIXED_TPM
    | ObjectAttributes.FIXED_PARENT
    | ObjectAttributes.SENSITIVE_DATA_ORIGIN
    | ObjectAttributes.USER_WITH_AUTH
    | ObjectAttributes.RESTRICTED
    | ObjectAttributes.SIGN
)

HASHES: dict[Alg, hashes.HashAlgorithm] = {
    Alg.SHA1: hashes.SHA1(),  # noqa: S303, tests make what must be refused
    Alg.SHA256: hashes.SHA256(),
    Alg.SHA384: hashes.SHA384(),
    Alg.SHA512: hashes.SHA512(),
}
CURVES = {Curve.P256: ec.SECP256R1(), Curve.P384: ec.SECP384R1(), Curve.P521: ec.SECP521R1()}

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


@cache
def _rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


@cache
def _ecc_key(curve: Curve) -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(CURVES[curve])


def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    """One private key per size and test process: making them is slow."""
    return _rsa_key(bits)


def ecc_key(curve: Curve = Curve.P256) -> ec.EllipticCurvePrivateKey:
    """One private key per curve and test process."""
    return _ecc_key(curve)


def changed(public: Public, **fields: Any) -> Public:
    """``public`` with other fields, as it would parse from the wire."""
    return parse_tpmt_public(replace(public, **fields).marshal_tpmt(), reasons=public.reasons)


def ecc_public(private: ec.EllipticCurvePrivateKey, hash_alg: Alg = Alg.SHA256, **fields: Any) -> Public:
    """The public area of an ECDSA attestation key."""
    numbers, size = private.public_key().public_numbers(), (private.key_size + 7) // 8
    curve = next(curve for curve, known in CURVES.items() if known.name == private.curve.name)
    point = EccPoint(numbers.x.to_bytes(size, "big"), numbers.y.to_bytes(size, "big"))
    scheme = Scheme(Alg.ECDSA, hash_alg)
    public = Public(Alg.ECC, Alg.SHA256, AK_ATTRIBUTES, b"", None, scheme, None, None, curve, None, point, b"")
    return changed(public, **fields)


def rsa_public(private: rsa.RSAPrivateKey, alg: Alg = Alg.RSASSA, hash_alg: Alg = Alg.SHA256, **fields: Any) -> Public:
    """The public area of an RSASSA or RSAPSS attestation key."""
    modulus = private.public_key().public_numbers().n.to_bytes(private.key_size // 8, "big")
    scheme, bits = Scheme(alg, hash_alg), private.key_size
    public = Public(Alg.RSA, Alg.SHA256, AK_ATTRIBUTES, b"", None, scheme, bits, 0, None, None, modulus, b"")
    return changed(public, **fields)


def sign(private: PrivateKey, message: bytes, alg: Alg, hash_alg: Alg) -> Signature:
    """What a TPM returns for ``message``: fixed-width r and s, or an RSA signature as long as the modulus."""
    algorithm = HASHES[hash_alg]
    if isinstance(private, ec.EllipticCurvePrivateKey):
        size = (private.key_size + 7) // 8
        r, s = decode_dss_signature(private.sign(message, ec.ECDSA(algorithm)))
        return Signature(alg, hash_alg, (r.to_bytes(size, "big"), s.to_bytes(size, "big")))
    if alg is Alg.RSASSA:
        return Signature(alg, hash_alg, (private.sign(message, padding.PKCS1v15(), algorithm),))
    salted = padding.PSS(padding.MGF1(algorithm), algorithm.digest_size)
    return Signature(alg, hash_alg, (private.sign(message, salted, algorithm),))


@dataclass(frozen=True)
class SoftwareAk:
    """An attestation key whose private half the test holds, as no attacker of a real TPM does."""

    private: PrivateKey
    public: Public

    @classmethod
    def ecc(cls, curve: Curve = Curve.P256, hash_alg: Alg = Alg.SHA256, *, fresh: bool = False) -> "SoftwareAk":
        private = ec.generate_private_key(CURVES[curve]) if fresh else ecc_key(curve)
        return cls(private, ecc_public(private, hash_alg))

    @classmethod
    def rsa(cls, bits: int = 2048, alg: Alg = Alg.RSASSA, hash_alg: Alg = Alg.SHA256) -> "SoftwareAk":
        return cls(rsa_key(bits), rsa_public(rsa_key(bits), alg, hash_alg))

    @property
    def key(self) -> AttestationKey:
        return accept_attestation_key(self.public)

    @property
    def qualified_name(self) -> bytes:
        """As if the key were a primary of the endorsement hierarchy (Part 1, Names)."""
        return b"\x00\x0b" + hashlib.sha256(b"\x40\x00\x00\x0b" + self.public.name).digest()

    def attest(self, attested: Attested, kind: AttestType = AttestType.QUOTE, **fields: Any) -> Attest:
        made = Attest(kind, self.qualified_name, NONCE, CLOCK, FIRMWARE, attested, b"")
        return replace(made, **fields)

    def sign(self, message: bytes) -> bytes:
        scheme = self.public.scheme
        assert scheme is not None
        assert scheme.hash_alg is not None
        return sign(self.private, message, scheme.alg, scheme.hash_alg).marshal()

    def quote(self, attest: bytes | None = None, **fields: Any) -> tuple[bytes, bytes]:
        """(attest, signature) of a quote of VALUES for NONCE, with other ``fields``, or of other bytes altogether."""
        scheme = self.public.scheme
        assert scheme is not None
        assert scheme.hash_alg is not None
        if attest is None:
            honest = QuoteInfo(SELECTION, pcr_digest(SELECTION, VALUES, scheme.hash_alg))
            attest = self.attest(fields.pop("attested", honest), **fields).marshal()
        return attest, self.sign(attest)


def check(ak: SoftwareAk, made: tuple[bytes, bytes] | None = None, **expected: Any) -> VerifiedQuote:
    """Parse and verify a quote against NONCE, SELECTION and VALUES, or against what ``expected`` says instead."""
    quote: Quote = parse_quote(*(made or ak.quote()))
    context: dict[str, Any] = {"nonce": NONCE, "selection": SELECTION, "pcr_values": VALUES, **expected}
    return verify_quote(quote, context.pop("key", None) or ak.key, **context)
