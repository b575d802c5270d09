"""X.509 certificates as EK chains use them (RFC 5280 §4), parsed strictly from their own bytes into a frozen type.

``cryptography`` is the second opinion: a certificate that needed no quirk must also be one that its strict parser
loads. Two readers that agree leave no room for bytes that mean one thing here and another elsewhere. Nothing here
decides anything: a ``Certificate`` has been read, not believed.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntFlag
from functools import lru_cache
from types import MappingProxyType

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import load_der_public_key

from tpm.endorsement_der import (
    BIT_STRING,
    BOOLEAN,
    EXTENSIONS,
    INTEGER,
    MAX_CERTIFICATE_BYTES,
    OCTET_STRING,
    OID,
    SEQUENCE,
    VERSION,
    Element,
    SignedObject,
    expect_element,
    malformed,
    read_children,
    read_integer,
    read_only_element,
    read_rsa_numbers,
    read_signed_object,
)
from tpm.endorsement_names import (
    GeneralName,
    Name,
    NameConstraints,
    read_general_names,
    read_label,
    read_name,
    read_name_constraints,
)
from tpm.endorsement_quirks import EkQuirk, QuirkLedger, unwrap_nv
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason

MAX_EXTENSIONS = 32  # EK certificates have about ten
MAX_SERIAL_BYTES = 20  # RFC 5280 §4.1.2.2
MAX_POLICIES = 32  # certificate policies in one extension; real ones name one or two
_ISSUER_UNIQUE_ID, _SUBJECT_UNIQUE_ID = 0x81, 0x82

# Extensions, by the bytes of their OIDs below 2.5.29 (id-ce).
SUBJECT_DIRECTORY_ATTRIBUTES = bytes.fromhex("551d09")
SUBJECT_KEY_IDENTIFIER = bytes.fromhex("551d0e")
KEY_USAGE = bytes.fromhex("551d0f")
SUBJECT_ALT_NAME = bytes.fromhex("551d11")
BASIC_CONSTRAINTS = bytes.fromhex("551d13")
NAME_CONSTRAINTS = bytes.fromhex("551d1e")
CRL_DISTRIBUTION_POINTS = bytes.fromhex("551d1f")
CERTIFICATE_POLICIES = bytes.fromhex("551d20")
AUTHORITY_KEY_IDENTIFIER = bytes.fromhex("551d23")
EXTENDED_KEY_USAGE = bytes.fromhex("551d25")
AUTHORITY_INFO_ACCESS = bytes.fromhex("2b06010505070101")

ANY_EXTENDED_KEY_USAGE = bytes.fromhex("551d2500")
EK_CERTIFICATE_USAGE = bytes.fromhex("6781050801")  # 2.23.133.8.1, tcg-kp-EKCertificate

# id-ecPublicKey's arc 1.2.840.10045.4 of ECDSA signatures, whose parameters must be absent (RFC 5758 §3.2).
_ECDSA_WITH_NULL = (bytes.fromhex("06082a8648ce3d0403"), bytes.fromhex("06072a8648ce3d0401"))


class KeyUsage(IntFlag):
    """KeyUsage, bit n of the BIT STRING as 1 << n (RFC 5280 §4.2.1.3)."""

    DIGITAL_SIGNATURE = 1 << 0
    CONTENT_COMMITMENT = 1 << 1
    KEY_ENCIPHERMENT = 1 << 2
    DATA_ENCIPHERMENT = 1 << 3
    KEY_AGREEMENT = 1 << 4
    KEY_CERT_SIGN = 1 << 5
    CRL_SIGN = 1 << 6
    ENCIPHER_ONLY = 1 << 7
    DECIPHER_ONLY = 1 << 8


@dataclass(frozen=True, slots=True)
class Extension:
    """One extension as it was written."""

    critical: bool
    value: bytes


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate that has been parsed. Absent extensions are None; times are in UTC."""

    der: bytes
    signed: bytes
    algorithm: bytes
    signature: bytes
    serial: int
    issuer: Name
    subject: Name
    label: str
    """The last string of the subject, usually its common name, as written: for messages, compared with nothing."""
    not_before: datetime
    not_after: datetime
    spki: bytes
    extensions: Mapping[bytes, Extension]
    is_ca: bool
    path_length: int | None
    key_usage: KeyUsage | None
    extended_key_usage: tuple[bytes, ...] | None
    alternative_names: tuple[GeneralName, ...]
    name_constraints: NameConstraints | None
    authority_key_id: bytes | None
    subject_key_id: bytes | None
    quirks: frozenset[EkQuirk]

    def is_critical(self, extension: bytes) -> bool:
        """Whether ``extension`` is present and marked critical."""
        found = self.extensions.get(extension)
        return found is not None and found.critical

    def __str__(self) -> str:
        return f"certificate {self.serial:x}" + (f" ({self.label})" if self.label else "")


def read_time(data: bytes, element: Element) -> datetime:
    """UTCTime or GeneralizedTime with seconds and Z (RFC 5280 §4.1.2.5)."""
    text = data[element.content : element.end]
    digits = {0x17: 12, 0x18: 14}.get(element.tag)
    if digits is None or len(text) != digits + 1 or not text[:-1].isdigit() or text[-1:] != b"Z":
        raise malformed(f"the time at offset {element.start} is not a UTC time to the second")
    if digits == 12:
        text = (b"19" if text[:2] >= b"50" else b"20") + text
    fields = int(text[:4]), *(int(text[i : i + 2]) for i in range(4, 14, 2))
    try:
        return datetime(fields[0], fields[1], fields[2], fields[3], fields[4], fields[5], tzinfo=UTC)
    except ValueError as error:
        raise malformed(f"the time at offset {element.start} does not exist") from error


def _read_serial(data: bytes, element: Element, ledger: QuirkLedger) -> int:
    content = data[element.content : element.end]
    stripped = content.lstrip(b"\0")
    if content[:2] and content[0] == 0 and len(content) - len(stripped) > (stripped[:1] >= b"\x80"):
        if not stripped:
            raise malformed("the serial number is zero")
        ledger.need(EkQuirk.PADDED_SERIAL, "the serial number has superfluous leading zeros")
        content = b"\0" + stripped if stripped[0] >= 0x80 else stripped
    elif len(content) > 1:
        read_integer(data, element, "the serial number")
    value = int.from_bytes(content, "big", signed=True)
    if element.tag != INTEGER or value <= 0 or len(content.lstrip(b"\0")) > MAX_SERIAL_BYTES:
        raise malformed(f"the serial number is not a positive integer of at most {MAX_SERIAL_BYTES} bytes")
    return value


def _read_flag(data: bytes, element: Element, what: str, ledger: QuirkLedger) -> bool:
    """A BOOLEAN whose default is FALSE (X.690 §11.1, §11.5)."""
    content = data[element.content : element.end]
    if content not in (b"\x00", b"\xff"):
        raise malformed(f"{what} is not a DER BOOLEAN")
    if content == b"\x00":
        ledger.need(EkQuirk.EXPLICIT_DEFAULT, f"{what} is FALSE and written out")
    return content == b"\xff"


def read_extensions(data: bytes, wrapper: Element, ledger: QuirkLedger) -> dict[bytes, Extension]:
    """The extensions inside an explicit tag, by identifier; a repeated one is ``ek.malformed`` (RFC 5280 §4.2)."""
    listed = expect_element(data, wrapper.content, wrapper.end, SEQUENCE, "the extensions")
    members = read_children(data, listed)
    if listed.end != wrapper.end or not 1 <= len(members) <= MAX_EXTENSIONS:
        raise malformed(f"there are {len(members)} extensions, not 1 to {MAX_EXTENSIONS}, or bytes after them")
    extensions: dict[bytes, Extension] = {}
    for member in members:
        parts = read_children(data, member)
        if member.tag != SEQUENCE or [part.tag for part in parts] not in (
            [OID, OCTET_STRING],
            [OID, BOOLEAN, OCTET_STRING],
        ):
            raise malformed(f"the extension at offset {member.start} is not an identifier, a flag and a value")
        identifier = data[parts[0].content : parts[0].end]
        if identifier in extensions:
            raise malformed(f"extension {format_oid(identifier)} occurs twice")
        critical = len(parts) == 3 and _read_flag(data, parts[1], f"critical of {format_oid(identifier)}", ledger)
        extensions[identifier] = Extension(critical, data[parts[-1].content : parts[-1].end])
    return extensions


def _read_basic_constraints(value: bytes, ledger: QuirkLedger) -> tuple[bool, int | None]:
    parts = read_children(value, read_only_element(value, SEQUENCE, "basicConstraints"))
    is_ca, path_length = False, None
    if parts and parts[0].tag == BOOLEAN:
        is_ca = _read_flag(value, parts.pop(0), "cA", ledger)
    if parts and parts[0].tag == INTEGER:
        path_length = read_integer(value, parts.pop(0), "pathLenConstraint")
    if parts or (path_length is not None and (path_length < 0 or not is_ca)):
        raise malformed("basicConstraints is not a flag and, for an authority, a path length")
    return is_ca, path_length


def _read_key_usage(value: bytes) -> KeyUsage:
    bits = read_only_element(value, BIT_STRING, "keyUsage")
    content = value[bits.content : bits.end]
    if not 2 <= len(content) <= 3 or content[0] > 7 or content[-1] & ((1 << content[0]) - 1):
        raise malformed("keyUsage is not a BIT STRING of one to nine bits")
    flags = sum(
        1 << 8 * index + bit for index, byte in enumerate(content[1:]) for bit in range(8) if byte & 0x80 >> bit
    )
    if not 0 < flags < 1 << 9:
        raise malformed("keyUsage sets no bit, or one that does not exist")
    return KeyUsage(flags)


def _read_identifiers(value: bytes, what: str) -> tuple[bytes, ...]:
    members = read_children(value, read_only_element(value, SEQUENCE, what))
    if not 1 <= len(members) <= MAX_POLICIES or any(member.tag != OID for member in members):
        raise malformed(f"{what} is not a list of 1 to {MAX_POLICIES} identifiers")
    identifiers = tuple(value[member.content : member.end] for member in members)
    if len(set(identifiers)) != len(identifiers):
        raise malformed(f"{what} names an identifier twice")
    return identifiers


def _read_authority_key_id(value: bytes) -> bytes | None:
    parts = read_children(value, read_only_element(value, SEQUENCE, "authorityKeyIdentifier"))
    return next((value[part.content : part.end] for part in parts if part.tag == 0x80), None)


def _read_subject_key_id(value: bytes) -> bytes:
    element = read_only_element(value, OCTET_STRING, "subjectKeyIdentifier")
    return value[element.content : element.end]


def _check_policies(value: bytes) -> None:
    """CertificatePolicies is one or more policies; which ones is nothing to us (RFC 5280 §4.2.1.4)."""
    members = read_children(value, read_only_element(value, SEQUENCE, "certificatePolicies"))
    if not 1 <= len(members) <= MAX_POLICIES or any(member.tag != SEQUENCE for member in members):
        raise malformed(f"certificatePolicies is not a list of 1 to {MAX_POLICIES} policies")


def _read_body(parts: SignedObject, ledger: QuirkLedger) -> Certificate:
    der = parts.der
    fields = read_children(der, parts.tbs)
    version = fields[0] if fields and fields[0].tag == VERSION else None
    if version is None or der[version.content : version.end] != b"\x02\x01\x02":
        raise malformed("the certificate is not of version 3")
    # serial, signature, issuer, validity, subject, key; two unique identifiers that nobody uses; extensions
    tail = [field.tag for field in fields[7:] if field.tag not in (_ISSUER_UNIQUE_ID, _SUBJECT_UNIQUE_ID)]
    if len(fields) < 8 or tail != [EXTENSIONS]:
        raise malformed("the certificate does not have the fields of version 3, or no extensions")
    serial, algorithm, issuer, validity, subject, key = fields[1:7]
    if der[algorithm.start : algorithm.end] != parts.algorithm:
        raise malformed("the signature algorithm inside the certificate differs from the one outside")
    if parts.algorithm[-2:] == b"\x05\x00" and any(oid in parts.algorithm for oid in _ECDSA_WITH_NULL):
        raise malformed("an ECDSA signature algorithm has parameters")
    times = read_children(der, validity)
    if validity.tag != SEQUENCE or len(times) != 2 or key.tag != SEQUENCE:
        raise malformed("the validity is not two times, or the key is not a SEQUENCE")
    extensions = read_extensions(der, fields[-1], ledger)
    values = {identifier: extension.value for identifier, extension in extensions.items()}
    is_ca, path_length = (
        _read_basic_constraints(values[BASIC_CONSTRAINTS], ledger) if BASIC_CONSTRAINTS in values else (False, None)
    )
    if CERTIFICATE_POLICIES in values:
        _check_policies(values[CERTIFICATE_POLICIES])
    issuer_name = read_name(der, issuer, ledger)
    if not issuer_name:
        raise malformed("the issuer is empty")
    return Certificate(
        der=der,
        signed=parts.signed,
        algorithm=parts.algorithm,
        signature=parts.signature,
        serial=_read_serial(der, serial, ledger),
        issuer=issuer_name,
        subject=read_name(der, subject, ledger),
        label=read_label(der, subject),
        not_before=read_time(der, times[0]),
        not_after=read_time(der, times[1]),
        spki=der[key.start : key.end],
        extensions=MappingProxyType(extensions),
        is_ca=is_ca,
        path_length=path_length,
        key_usage=_read_key_usage(values[KEY_USAGE]) if KEY_USAGE in values else None,
        extended_key_usage=_read_identifiers(values[EXTENDED_KEY_USAGE], "extKeyUsage")
        if EXTENDED_KEY_USAGE in values
        else None,
        alternative_names=read_general_names(values[SUBJECT_ALT_NAME], ledger) if SUBJECT_ALT_NAME in values else (),
        name_constraints=read_name_constraints(values[NAME_CONSTRAINTS], ledger)
        if NAME_CONSTRAINTS in values
        else None,
        authority_key_id=_read_authority_key_id(values[AUTHORITY_KEY_IDENTIFIER])
        if AUTHORITY_KEY_IDENTIFIER in values
        else None,
        subject_key_id=_read_subject_key_id(values[SUBJECT_KEY_IDENTIFIER])
        if SUBJECT_KEY_IDENTIFIER in values
        else None,
        quirks=frozenset(ledger.used),
    )


def parse_certificate(
    der: bytes, *, quirks: frozenset[EkQuirk] = frozenset(), maximum: int = MAX_CERTIFICATE_BYTES
) -> Certificate:
    """Parse one DER certificate of at most ``maximum`` bytes.

    ``ek.too_large`` over the maximum, ``ek.malformed`` for anything that is not a version 3 certificate in DER, apart
    from what ``quirks`` allow; those that were needed are in ``quirks`` of the result.
    """
    if len(der) > maximum:
        raise RejectedError(EvidenceReason.EK_TOO_LARGE, f"a certificate of {len(der)} bytes is over {maximum}")
    ledger = QuirkLedger(quirks)
    der = unwrap_nv(der, ledger)
    certificate = _read_body(read_signed_object(der, "the certificate"), ledger)
    if not ledger.used - {EkQuirk.NV_PADDING, EkQuirk.NV_HEADER}:
        try:
            x509.load_der_x509_certificate(der)
        except (ValueError, x509.InvalidVersion) as error:
            raise malformed(f"a second parser refuses the certificate: {error}") from error
    return certificate


# A gateway meets the same few vendor authorities all the time; building a key object costs as much as using it.
@lru_cache(maxsize=256)
def load_certified_key(spki: bytes) -> PublicKeyTypes:
    """The key of a SubjectPublicKeyInfo as ``cryptography`` builds it, with its point or modulus checked there.

    ``ek.malformed`` for a key that cannot be built. RSA numbers are to be judged by ``tpm.weak_keys`` before this.
    """
    try:
        return load_der_public_key(spki)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise malformed(f"the public key cannot be used: {error}") from error


def certified_rsa_numbers(certificate: Certificate) -> tuple[int, int] | None:
    """Modulus and exponent of a certificate's key, or None where it is not an RSA key."""
    return read_rsa_numbers(certificate.spki)


def format_oid(content: bytes) -> str:
    """An OID in dots, from its content bytes (X.690 §8.19); hexadecimal where they are not one."""
    arcs, value = [], 0
    for byte in content:
        value = value << 7 | byte & 0x7F
        if not byte & 0x80:
            arcs.append(value)
            value = 0
    if not arcs or content[-1] & 0x80:
        return content.hex()
    first = min(arcs[0] // 40, 2)
    return ".".join(map(str, (first, arcs[0] - 40 * first, *arcs[1:])))
