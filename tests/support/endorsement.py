"""A certificate authority for TPMs that never existed: good EK chains, and the same with one thing wrong.

Keys are made once per process. Authorities sign with ECDSA, which is fast; what the faults need and no builder would
write is spliced into the signed body with ``resign``.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from tpm.algorithms import Alg
from tpm.ek_template import TEMPLATES, EkTemplate
from tpm.endorsement_der import BIT_STRING, SEQUENCE, encode, read_signed_object

NOW = datetime(2026, 6, 1, tzinfo=UTC)
START, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)
EK_USAGE = x509.ObjectIdentifier("2.23.133.8.1")
UNKNOWN = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.99999.1"), b"\x05\x00")
INTEL = "id:494E5443"

Extensions = Sequence[tuple[x509.ExtensionType, bool]]
PublicKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


@cache
def ec_key(number: int = 0) -> ec.EllipticCurvePrivateKey:
    """The same key for the same number."""
    return ec.derive_private_key(0x5EED0000 + number, ec.SECP256R1())


@cache
def rsa_key(bits: int = 2048) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(65537, bits)


def name(common_name: str, organization: str = "Vendor A") -> x509.Name:
    return x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization),
            x509.NameAttribute(NameOID.COMMON_NAME, common_name),
        ]
    )


def key_usage(*bits: str) -> x509.KeyUsage:
    every = [
        "digital_signature",
        "content_commitment",
        "key_encipherment",
        "data_encipherment",
        "key_agreement",
        "key_cert_sign",
        "crl_sign",
        "encipher_only",
        "decipher_only",
    ]
    return x509.KeyUsage(**{bit: bit in bits for bit in every})


def tpm_name(*values: tuple[int, str]) -> x509.DirectoryName:
    """TPM attributes, one RDN each: 1 manufacturer, 2 model, 3 version."""
    return x509.DirectoryName(
        x509.Name([x509.NameAttribute(x509.ObjectIdentifier(f"2.23.133.2.{n}"), text) for n, text in values])
    )


def san(manufacturer: str = INTEL) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName([tpm_name((1, manufacturer), (2, "MODEL-1"), (3, "id:00010002"))])


@dataclass(frozen=True)
class Authority:
    """A certificate and the key it is for; also an EK certificate that misbehaves as one."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(Encoding.DER)

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    def identifier(self) -> x509.AuthorityKeyIdentifier:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())


def _sign(
    subject: x509.Name,
    issuer: x509.Name,
    key: PublicKey,
    signer: object,
    extensions: Extensions,
    period: Sequence[datetime],
) -> x509.Certificate:
    builder = x509.CertificateBuilder(subject_name=subject, issuer_name=issuer, public_key=key)
    builder = builder.serial_number(x509.random_serial_number())
    builder = builder.not_valid_before(period[0]).not_valid_after(period[1])
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(signer, hashes.SHA256())  # type: ignore[arg-type]


def replaced(extensions: Extensions, faults: Extensions, without: Sequence[type] = ()) -> Extensions:
    """``extensions`` with those of the types in ``faults`` replaced and those in ``without`` left out."""
    dropped = tuple(type(fault) for fault, _ in faults if not isinstance(fault, x509.UnrecognizedExtension))
    return [*(entry for entry in extensions if not isinstance(entry[0], (*dropped, *without))), *faults]


def authority(
    common_name: str,
    issuer: Authority | None = None,
    *,
    number: int,
    path_length: int | None = None,
    faults: Extensions | None = None,
    without: Sequence[type] = (),
    period: Sequence[datetime] = (datetime(2020, 1, 1, tzinfo=UTC), datetime(2045, 1, 1, tzinfo=UTC)),
    organization: str = "Vendor A",
    issuer_name: x509.Name | None = None,
) -> Authority:
    """An authority; without issuer a self-signed root."""
    key = ec_key(number)
    subject = name(common_name, organization)
    signer = issuer.key if issuer else key
    extensions: Extensions = [
        (x509.BasicConstraints(ca=True, path_length=path_length), True),
        (key_usage("key_cert_sign", "crl_sign"), True),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False),
    ]
    above = issuer_name or (issuer.certificate.subject if issuer else subject)
    signed = _sign(subject, above, key.public_key(), signer, replaced(extensions, faults or [], without), period)
    return Authority(signed, key)


def ek_certificate(
    issuer: Authority,
    key: PublicKey | None = None,
    *,
    subject: x509.Name | None = None,
    faults: Extensions | None = None,
    without: Sequence[type] = (),
    period: Sequence[datetime] = (START, END),
) -> bytes:
    """A good EK certificate in DER, but for ``faults`` and ``without``."""
    key = key or ec_key(100).public_key()
    usage = key_usage("key_encipherment") if isinstance(key, rsa.RSAPublicKey) else key_usage("key_agreement")
    extensions: Extensions = [
        (san(), True),
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (usage, True),
        (x509.ExtendedKeyUsage([EK_USAGE]), False),
        (issuer.identifier(), False),
    ]
    signed = _sign(
        subject or x509.Name([]),
        issuer.certificate.subject,
        key,
        issuer.key,
        replaced(extensions, faults or [], without),
        period,
    )
    return signed.public_bytes(Encoding.DER)


def resign(der: bytes, issuer: Authority, edit: Callable[[bytes], bytes]) -> bytes:
    """``der`` with the content of its body edited, its length corrected, and signed again."""
    parts = read_signed_object(der, "certificate")
    body = encode(SEQUENCE, edit(der[parts.tbs.content : parts.tbs.end]))
    signature = issuer.key.sign(body, ec.ECDSA(hashes.SHA256()))
    return encode(SEQUENCE, body + parts.algorithm + encode(BIT_STRING, b"\0" + signature))


def swap(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    """An edit that replaces the only occurrence of ``old``."""

    def edit(body: bytes) -> bytes:
        assert body.count(old) == 1, (body.count(old), old.hex())
        return body.replace(old, new)

    return edit


def spki(key: PublicKey) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def rsa_spki(modulus: int, exponent: int) -> bytes:
    """A SubjectPublicKeyInfo of numbers that no library would put into one."""

    def integer(value: int) -> bytes:
        return encode(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True))

    algorithm = encode(SEQUENCE, bytes.fromhex("06092a864886f70d0101010500"))
    key = encode(SEQUENCE, integer(modulus) + integer(exponent))
    return encode(SEQUENCE, algorithm + encode(BIT_STRING, b"\0" + key))


def with_rsa_numbers(issuer: Authority, modulus: int, exponent: int = 65537) -> bytes:
    """An otherwise good EK certificate of any RSA numbers."""
    good = rsa_key().public_key()
    return resign(ek_certificate(issuer, good), issuer, swap(spki(good), rsa_spki(modulus, exponent)))


def ek_public(key: PublicKey | None = None, template: EkTemplate | None = None, **changes: Any) -> bytes:
    """The TPM2B_PUBLIC of an EK with the fields of ``template``.

    ``changes`` are other values: type, name_alg, attributes, policy, symmetric, scheme, exponent.
    """
    key = key or ec_key(100).public_key()
    template = template or next(
        entry for entry in TEMPLATES if entry.type is (Alg.RSA if isinstance(key, rsa.RSAPublicKey) else Alg.ECC)
    )

    def sized(data: bytes) -> bytes:
        return struct.pack(">H", len(data)) + data

    head = struct.pack(
        ">HHI",
        changes.get("type", template.type),
        changes.get("name_alg", template.name_alg),
        changes.get("attributes", template.attributes),
    )
    symmetric = changes.get("symmetric", struct.pack(">HHH", Alg.AES, template.symmetric_bits, Alg.CFB))
    scheme = changes.get("scheme", struct.pack(">H", Alg.NULL))
    policy = changes.get("policy", template.auth_policy)
    if isinstance(key, rsa.RSAPublicKey):
        size = key.key_size // 8
        tail = struct.pack(">HI", key.key_size, changes.get("exponent", 0))
        tail += sized(key.public_numbers().n.to_bytes(size, "big"))
    else:
        size, point = (key.key_size + 7) // 8, key.public_numbers()
        tail = struct.pack(">HH", template.size, Alg.NULL)
        tail += sized(point.x.to_bytes(size, "big")) + sized(point.y.to_bytes(size, "big"))
    return sized(head + sized(policy) + symmetric + scheme + tail)


def crl(
    issuer: Authority,
    revoked: Sequence[int] = (),
    *,
    period: Sequence[datetime] = (datetime(2026, 5, 20, tzinfo=UTC), datetime(2026, 6, 20, tzinfo=UTC)),
    signer: Authority | None = None,
    extensions: Extensions | None = None,
) -> bytes:
    """A revocation list in DER, in the name of ``issuer``."""
    builder = x509.CertificateRevocationListBuilder(issuer_name=issuer.certificate.subject)
    builder = builder.last_update(period[0]).next_update(period[1])
    for serial in revoked:
        entry = x509.RevokedCertificateBuilder(serial, period[0].replace(tzinfo=None)).build()
        builder = builder.add_revoked_certificate(entry)
    for extension, critical in extensions or []:
        builder = builder.add_extension(extension, critical)
    return builder.sign((signer or issuer).key, hashes.SHA256()).public_bytes(Encoding.DER)


@dataclass(frozen=True)
class Vendor:
    """A root and an intermediate of one maker of TPMs."""

    root: Authority
    issuer: Authority


@cache
def vendor() -> Vendor:
    root = authority("Root", number=1)
    return Vendor(root, authority("Issuer", root, number=2, path_length=0))
