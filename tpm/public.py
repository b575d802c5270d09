"""``TPMT_PUBLIC`` and ``TPM2B_PUBLIC``: public areas of TPM objects, and their Names (TPM 2.0 Part 2 §12.2).

A ``Public`` is parsed, not judged: ``tpm.attestation_key`` and ``tpm.ek_template`` say what a key may be used for.
"""

from dataclasses import dataclass, field
from enum import IntEnum, IntFlag
from typing import NoReturn

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tpm.algorithms import BANKS, DIGEST_SIZE, Alg, digest
from tpm.codec import Reader
from tpm.errors import MalformedError, RejectedError
from tpm.reasons import EvidenceReason

# Far above the largest public area (RSA-4096 with a SHA-512 policy: 602 bytes), far below anything that costs.
MAX_PUBLIC = 4096
# TPM2B_DIGEST with SHA-512, RSA-4096's modulus, and a coordinate of P-521 (Part 2 §10.4.2, §11.2.4.5, §11.2.5.1).
MAX_DIGEST = 64
MAX_MODULUS = 512
MAX_COORDINATE = 66

# An exponent of zero in a public area means this one (Part 2 §12.2.3.5).
DEFAULT_EXPONENT = 65537


class ObjectAttributes(IntFlag):
    """``TPMA_OBJECT`` (Part 2 §8.3)."""

    FIXED_TPM = 1 << 1
    ST_CLEAR = 1 << 2
    FIXED_PARENT = 1 << 4
    SENSITIVE_DATA_ORIGIN = 1 << 5
    USER_WITH_AUTH = 1 << 6
    ADMIN_WITH_POLICY = 1 << 7
    FIRMWARE_LIMITED = 1 << 8
    SVN_LIMITED = 1 << 9
    NO_DA = 1 << 10
    ENCRYPTED_DUPLICATION = 1 << 11
    RESTRICTED = 1 << 16
    DECRYPT = 1 << 17
    SIGN = 1 << 18
    X509_SIGN = 1 << 19


DEFINED_ATTRIBUTES = int(ObjectAttributes(0)) | sum(ObjectAttributes)


class Curve(IntEnum):
    """``TPM_ECC_CURVE`` (Part 2 §6.4)."""

    P192 = 0x0001
    P224 = 0x0002
    P256 = 0x0003
    P384 = 0x0004
    P521 = 0x0005
    BN_P256 = 0x0010
    BN_P638 = 0x0011
    SM2_P256 = 0x0020
    BP_P256_R1 = 0x0030
    BP_P384_R1 = 0x0031
    BP_P512_R1 = 0x0032
    CURVE_25519 = 0x0040
    CURVE_448 = 0x0041


# The curves whose points we can check and use.
CURVES: dict[Curve, ec.EllipticCurve] = {
    Curve.P256: ec.SECP256R1(),
    Curve.P384: ec.SECP384R1(),
    Curve.P521: ec.SECP521R1(),
}

# Below 128 bits of security.
SMALL_CURVES = (Curve.P192, Curve.P224)


@dataclass(frozen=True, slots=True)
class PublicReasons:
    """The codes with which a public area is refused, chosen by whose key it is meant to be."""

    malformed: EvidenceReason
    type: EvidenceReason
    name_alg: EvidenceReason
    key_size: EvidenceReason
    modulus: EvidenceReason
    exponent: EvidenceReason
    point: EvidenceReason


AK = PublicReasons(
    malformed=EvidenceReason.AK_MALFORMED,
    type=EvidenceReason.AK_TYPE_NOT_ALLOWED,
    name_alg=EvidenceReason.AK_NAME_ALG_NOT_ALLOWED,
    key_size=EvidenceReason.AK_KEY_TOO_SMALL,
    modulus=EvidenceReason.AK_MODULUS,
    exponent=EvidenceReason.AK_EXPONENT,
    point=EvidenceReason.AK_POINT_INVALID,
)
EK = PublicReasons(
    malformed=EvidenceReason.EK_MALFORMED,
    type=EvidenceReason.EK_TEMPLATE,
    name_alg=EvidenceReason.EK_TEMPLATE,
    key_size=EvidenceReason.EK_KEY_TOO_SMALL,
    modulus=EvidenceReason.EK_MODULUS,
    exponent=EvidenceReason.EK_MODULUS,
    point=EvidenceReason.EK_MALFORMED,
)


@dataclass(frozen=True, slots=True)
class Symmetric:
    """``TPMT_SYM_DEF_OBJECT`` that is not NULL (Part 2 §11.1.7)."""

    alg: Alg
    bits: int
    mode: Alg

    def marshal(self) -> bytes:
        """Algorithm, key bits, mode."""
        return _u16(self.alg) + _u16(self.bits) + _u16(self.mode)


@dataclass(frozen=True, slots=True)
class Scheme:
    """An asymmetric, keyed-hash or key-derivation scheme that is not NULL (Part 2 §11.1.22, §11.2.3).

    ``hash_alg`` is None for RSAES, which has none. ``extra`` is the count of ECDAA or the KDF of XOR, else None.
    """

    alg: Alg
    hash_alg: Alg | None
    extra: int | None = None

    def marshal(self) -> bytes:
        """Scheme and its details."""
        details = b"" if self.hash_alg is None else _u16(self.hash_alg)
        return _u16(self.alg) + details + (b"" if self.extra is None else _u16(self.extra))


@dataclass(frozen=True, slots=True)
class EccPoint:
    """``TPMS_ECC_POINT``: affine coordinates as written, which may lack leading zeros (Part 2 §11.2.5.2)."""

    x: bytes
    y: bytes

    def marshal(self) -> bytes:
        """Both coordinates with their sizes."""
        return _sized(self.x) + _sized(self.y)


@dataclass(frozen=True, slots=True)
class Public:
    """A parsed public area; ``raw`` is its ``TPMT_PUBLIC``, the bytes its Name is computed over.

    ``bits`` and ``exponent`` are of RSA keys, ``curve`` and ``kdf`` of ECC keys, else None. ``unique`` is the modulus,
    the point, or for symmetric objects a digest. ``reasons`` says whose family of codes its refusals use.
    """

    type: Alg
    name_alg: Alg
    attributes: ObjectAttributes
    auth_policy: bytes
    symmetric: Symmetric | None
    scheme: Scheme | None
    bits: int | None
    exponent: int | None
    curve: Curve | None
    kdf: Scheme | None
    unique: bytes | EccPoint
    raw: bytes = field(repr=False)
    reasons: PublicReasons = field(default=AK, repr=False, compare=False)

    @property
    def name(self) -> bytes:
        """The Name: nameAlg || H_nameAlg(TPMT_PUBLIC) (Part 1 §16). RejectedError where nameAlg names nothing."""
        if self.name_alg not in BANKS:
            raise RejectedError(self.reasons.name_alg, f"a Name by {self.name_alg.name} binds to nothing we can check")
        return _u16(self.name_alg) + digest(self.name_alg, self.raw)

    def marshal(self) -> bytes:
        """``TPM2B_PUBLIC``, written from the fields."""
        return _sized(self.marshal_tpmt())

    def marshal_tpmt(self) -> bytes:
        """``TPMT_PUBLIC``, written from the fields; equal to ``raw`` for whatever was parsed."""
        head = _u16(self.type) + _u16(self.name_alg) + int(self.attributes).to_bytes(4, "big")
        head += _sized(self.auth_policy)
        symmetric = _optional(self.symmetric)
        unique = self.unique.marshal() if isinstance(self.unique, EccPoint) else _sized(self.unique)
        if self.bits is not None and self.exponent is not None:
            sizes = _u16(self.bits) + self.exponent.to_bytes(4, "big")
            return head + symmetric + _optional(self.scheme) + sizes + unique
        if self.curve is not None:
            return head + symmetric + _optional(self.scheme) + _u16(self.curve) + _optional(self.kdf) + unique
        return head + (symmetric if self.type is Alg.SYMCIPHER else _optional(self.scheme)) + unique

    def key(self) -> rsa.RSAPublicKey | ec.EllipticCurvePublicKey:
        """The key for ``cryptography``, its numbers checked against the parameters; RejectedError where they differ.

        Weak moduli are not looked for here, see ``tpm.weak_keys``.
        """
        if self.type is Alg.RSA:
            return self._rsa_key()
        if self.type is Alg.ECC:
            return self._ecc_key()
        raise RejectedError(self.reasons.type, f"a {self.type.name} object has no public key")

    def _rsa_key(self) -> rsa.RSAPublicKey:
        """A modulus of exactly keyBits, odd; the exponent 65537 (Part 2 §12.2.3.5)."""
        if not isinstance(self.unique, bytes) or self.bits is None or len(self.unique) * 8 != self.bits:
            raise RejectedError(self.reasons.modulus, f"modulus of {len(self._modulus())} bytes, keyBits {self.bits}")
        modulus = int.from_bytes(self.unique, "big")
        if modulus.bit_length() != self.bits or modulus % 2 == 0:
            raise RejectedError(self.reasons.modulus, f"modulus is not an odd number of {self.bits} bits")
        if self.exponent not in (0, DEFAULT_EXPONENT):
            raise RejectedError(self.reasons.exponent, f"exponent is {self.exponent}, not {DEFAULT_EXPONENT}")
        try:
            return rsa.RSAPublicNumbers(DEFAULT_EXPONENT, modulus).public_key()
        except ValueError as error:
            raise RejectedError(self.reasons.modulus, f"modulus is not usable: {error}") from None

    def _modulus(self) -> bytes:
        return self.unique if isinstance(self.unique, bytes) else b""

    def _ecc_key(self) -> ec.EllipticCurvePublicKey:
        """A point on the curve, not at infinity, coordinates below p and no longer than p (SP 800-56A §5.6.2.3.3)."""
        if self.curve is None or not isinstance(self.unique, EccPoint) or self.curve not in CURVES:
            named = "none" if self.curve is None else self.curve.name
            reason = self.reasons.key_size if self.curve in SMALL_CURVES else self.reasons.type
            raise RejectedError(reason, f"curve {named} is not allowed")
        curve = CURVES[self.curve]
        size = (curve.key_size + 7) // 8
        if not 0 < len(self.unique.x) <= size or not 0 < len(self.unique.y) <= size:
            sizes = f"{len(self.unique.x)} and {len(self.unique.y)}"
            raise RejectedError(self.reasons.point, f"coordinates of {sizes} bytes, {curve.name} has {size}")
        x, y = int.from_bytes(self.unique.x, "big"), int.from_bytes(self.unique.y, "big")
        try:
            return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()
        except ValueError:
            raise RejectedError(self.reasons.point, f"the point is not on {curve.name}") from None


def parse_public(data: bytes, *, reasons: PublicReasons = AK) -> Public:
    """Parse a ``TPM2B_PUBLIC`` with nothing left over, neither inside nor after it."""
    if len(data) > MAX_PUBLIC:
        raise MalformedError(reasons.malformed, f"over {MAX_PUBLIC} bytes")
    reader = Reader(data, reasons.malformed)
    inner = reader.sized(MAX_PUBLIC, "public area")
    reader.done("TPM2B_PUBLIC")
    return parse_tpmt_public(inner, reasons=reasons)


def parse_tpmt_public(data: bytes, *, reasons: PublicReasons = AK) -> Public:
    """Parse a ``TPMT_PUBLIC`` with nothing left over."""
    if len(data) > MAX_PUBLIC:
        raise MalformedError(reasons.malformed, f"over {MAX_PUBLIC} bytes")
    reader = _PublicReader(data, reasons.malformed)
    kind = reader.alg("object type")
    name_alg = reader.hash_alg("nameAlg", null=True)
    bits = reader.u32("attributes")
    if bits & ~DEFINED_ATTRIBUTES:
        reader.fail(f"reserved attributes 0x{bits & ~DEFINED_ATTRIBUTES:08x} are set")
    policy = reader.sized(MAX_DIGEST, "authPolicy")
    symmetric = scheme = kdf = size = exponent = curve = None
    unique: bytes | EccPoint
    if kind is Alg.RSA:
        symmetric, scheme = reader.symmetric(), reader.scheme(_RSA_SCHEMES)
        size, exponent = reader.u16("keyBits"), reader.u32("exponent")
        unique = reader.sized(MAX_MODULUS, "modulus")
    elif kind is Alg.ECC:
        symmetric, scheme = reader.symmetric(), reader.scheme(_ECC_SCHEMES)
        curve, kdf = reader.curve(), reader.scheme(_KDF_SCHEMES)
        unique = EccPoint(reader.sized(MAX_COORDINATE, "x"), reader.sized(MAX_COORDINATE, "y"))
    elif kind is Alg.KEYEDHASH:
        scheme = reader.scheme(_KEYEDHASH_SCHEMES)
        unique = reader.sized(MAX_DIGEST, "unique")
    elif kind is Alg.SYMCIPHER:
        symmetric = reader.symmetric()
        unique = reader.sized(MAX_DIGEST, "unique")
    else:
        reader.fail(f"{kind.name} is not an object type")
    reader.done("TPMT_PUBLIC")
    attributes = ObjectAttributes(bits)
    return Public(
        kind, name_alg, attributes, policy, symmetric, scheme, size, exponent, curve, kdf, unique, data, reasons
    )


# Which schemes a selector admits, and what follows each: "" nothing, "h" a hash, "hc" a hash and a UINT16.
_RSA_SCHEMES = {Alg.RSASSA: "h", Alg.RSAPSS: "h", Alg.OAEP: "h", Alg.RSAES: ""}
_ECC_SCHEMES = {Alg.ECDSA: "h", Alg.ECDH: "h", Alg.SM2: "h", Alg.ECSCHNORR: "h", Alg.ECDAA: "hc"}
_KEYEDHASH_SCHEMES = {Alg.HMAC: "h", Alg.XOR: "hc"}
_KDF_SCHEMES = {Alg.MGF1: "h", Alg.KDF1_SP800_56A: "h", Alg.KDF1_SP800_108: "h"}


class _PublicReader(Reader):
    """A reader that knows the selectors of public areas."""

    __slots__ = ()

    def alg(self, what: str) -> Alg:
        identifier = self.u16(what)
        try:
            return Alg(identifier)
        except ValueError:
            self._unknown(identifier, what)

    def hash_alg(self, what: str, *, null: bool = False) -> Alg:
        alg = self.alg(what)
        if alg not in DIGEST_SIZE and not (null and alg is Alg.NULL):
            self._unknown(alg, what)
        return alg

    def curve(self) -> Curve:
        identifier = self.u16("curve")
        try:
            return Curve(identifier)
        except ValueError:
            self._unknown(identifier, "curve")

    def symmetric(self) -> Symmetric | None:
        alg = self.alg("symmetric algorithm")
        if alg is Alg.NULL:
            return None
        if alg not in (Alg.AES, Alg.SM4, Alg.CAMELLIA):
            self._unknown(alg, "symmetric algorithm")
        return Symmetric(alg, self.u16("symmetric key bits"), self.alg("symmetric mode"))

    def scheme(self, admitted: dict[Alg, str]) -> Scheme | None:
        alg = self.alg("scheme")
        if alg is Alg.NULL:
            return None
        details = admitted.get(alg)
        if details is None:
            self._unknown(alg, "scheme")
        hash_alg = self.hash_alg("hash of the scheme") if details else None
        return Scheme(alg, hash_alg, self.u16("detail of the scheme") if details == "hc" else None)

    def _unknown(self, identifier: int, what: str) -> NoReturn:
        self.fail(f"0x{identifier:04x} is no {what} we know")


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "big")


def _sized(data: bytes) -> bytes:
    return _u16(len(data)) + data


def _optional(part: Symmetric | Scheme | None) -> bytes:
    return _u16(Alg.NULL) if part is None else part.marshal()
