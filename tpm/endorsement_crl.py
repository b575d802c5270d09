"""Revocation lists from files: whose they are, whether they are fresh, and whom they name (RFC 5280 §5 and §6.3).

Lists are the operator's input, never fetched from a distribution point in evidence. Delta lists, indirect lists and
lists for some reasons only are refused rather than half understood.
"""

from dataclasses import dataclass, field
from datetime import datetime
from itertools import pairwise

from cryptography import x509

from tpm.endorsement_certificate import (
    AUTHORITY_KEY_IDENTIFIER,
    CRL_DISTRIBUTION_POINTS,
    Certificate,
    Extension,
    KeyUsage,
    format_oid,
    read_extensions,
    read_time,
)
from tpm.endorsement_der import (
    INTEGER,
    SEQUENCE,
    SignedObject,
    malformed,
    read_children,
    read_only_element,
    read_signed_object,
)
from tpm.endorsement_names import Name, read_name
from tpm.endorsement_quirks import EkQuirk, QuirkLedger
from tpm.endorsement_signature import ALGORITHMS, is_signed_by
from tpm.errors import MalformedError, RejectedError
from tpm.reasons import EvidenceReason

MAX_CRL_BYTES = 16 * 1024 * 1024  # about 400,000 entries; the largest list of a TPM vendor has some thousands
MAX_CRLS = 64  # one for each authority that issues EK certificates, with room
_EXTENSIONS = 0xA0
_UTC_TIME, _GENERALIZED_TIME = 0x17, 0x18

_ISSUING_DISTRIBUTION_POINT = bytes.fromhex("551d1c")
# IssuingDistributionPoint (§5.2.5), implicit tags.
_POINT, _ONLY_USERS, _ONLY_AUTHORITIES = 0xA0, 0x81, 0x82


@dataclass(frozen=True, slots=True)
class RevocationList:
    """A parsed revocation list. ``next_update`` is None where the list promises no successor."""

    signed: bytes
    algorithm: bytes
    signature: bytes
    issuer: Name
    this_update: datetime
    next_update: datetime | None
    only_users: bool
    only_authorities: bool
    point: bytes | None
    """The distribution point it speaks for, as GeneralNames content, where it is limited to one."""
    entries: x509.CertificateRevocationList = field(repr=False, compare=False)

    def covers(self, certificate: Certificate) -> bool:
        """Whether ``certificate``, issued by this list's issuer, is in the list's scope (§6.3.3 b)."""
        if (self.only_users and certificate.is_ca) or (self.only_authorities and not certificate.is_ca):
            return False
        if self.point is None:
            return True
        points = certificate.extensions.get(CRL_DISTRIBUTION_POINTS)
        return points is not None and self.point in points.value

    def is_fresh(self, at: datetime) -> bool:
        """Whether the list is in force at ``at``."""
        return self.next_update is not None and self.this_update <= at <= self.next_update


def parse_crl(der: bytes, *, quirks: frozenset[EkQuirk] = frozenset()) -> RevocationList:
    """Parse one DER revocation list; ``ek.too_large`` over the maximum, ``ek.crl_invalid`` for anything unusable."""
    if len(der) > MAX_CRL_BYTES:
        raise RejectedError(
            EvidenceReason.EK_TOO_LARGE, f"a revocation list of {len(der)} bytes is over {MAX_CRL_BYTES}"
        )
    try:
        return _read_body(read_signed_object(der, "the revocation list"), QuirkLedger(quirks))
    except MalformedError as error:
        raise MalformedError(EvidenceReason.EK_CRL_INVALID, error.detail) from error


def _read_body(parts: SignedObject, ledger: QuirkLedger) -> RevocationList:
    der = parts.der
    fields = read_children(der, parts.tbs)
    if len(fields) < 4 or fields[0].tag != INTEGER or der[fields[0].content : fields[0].end] != b"\x01":
        raise malformed("the revocation list is not of version 2")
    if der[fields[1].start : fields[1].end] != parts.algorithm or parts.algorithm not in ALGORITHMS:
        raise malformed("the revocation list's signature algorithms differ, or are not accepted")
    rest = fields[4:]
    next_update = read_time(der, rest.pop(0)) if rest and rest[0].tag in (_UTC_TIME, _GENERALIZED_TIME) else None
    if rest and rest[0].tag == SEQUENCE:
        rest.pop(0)
    extensions = read_extensions(der, rest.pop(0), ledger) if rest and rest[0].tag == _EXTENSIONS else {}
    if rest:
        raise malformed("the revocation list has a field nobody knows")
    only_users, only_authorities, point = _read_scope(extensions)
    try:
        entries = x509.load_der_x509_crl(der)
        len(entries)  # every entry is read once, so that a malformed one is found now and not in a look-up
    except ValueError as error:
        raise malformed(f"the revocation list is not DER: {error}") from error
    return RevocationList(
        signed=parts.signed,
        algorithm=parts.algorithm,
        signature=parts.signature,
        issuer=read_name(der, fields[2], ledger),
        this_update=read_time(der, fields[3]),
        next_update=next_update,
        only_users=only_users,
        only_authorities=only_authorities,
        point=point,
        entries=entries,
    )


def _read_scope(extensions: dict[bytes, Extension]) -> tuple[bool, bool, bytes | None]:
    for identifier, extension in extensions.items():
        if extension.critical and identifier not in (_ISSUING_DISTRIBUTION_POINT, AUTHORITY_KEY_IDENTIFIER):
            raise malformed(f"critical extension {format_oid(identifier)} of the revocation list is not understood")
    found = extensions.get(_ISSUING_DISTRIBUTION_POINT)
    if found is None:
        return False, False, None
    value = found.value
    outer = read_children(value, read_only_element(value, SEQUENCE, "issuingDistributionPoint"))
    tags = [part.tag for part in outer]
    if not set(tags) <= {_POINT, _ONLY_USERS, _ONLY_AUTHORITIES} or len(set(tags)) != len(tags):
        raise malformed("the revocation list is indirect, or for some reasons or attribute certificates only")
    point = next((value[part.content : part.end] for part in outer if part.tag == _POINT), None)
    return _ONLY_USERS in tags, _ONLY_AUTHORITIES in tags, point


def check_revocation(
    path: tuple[Certificate, ...], lists: list[RevocationList], *, at: datetime, required: bool
) -> list[str]:
    """Look every certificate below the root up in its issuer's lists; the notes say what could not be looked up.

    1. A list that bears the issuer's name but not its signature is ``ek.crl_invalid``, unless a sound one is there too.
    2. A certificate named by any sound list, old or new, is ``ek.revoked``.
    3. Where lists are required, none for an issuer is ``ek.crl_missing``, and none in force ``ek.crl_stale``.
    """
    notes: list[str] = []
    for certificate, issuer in pairwise(path):
        named = [entry for entry in lists if entry.issuer == certificate.issuer]
        # 1
        sound = [entry for entry in named if _is_sound(entry, issuer)]
        if named and not sound:
            raise RejectedError(EvidenceReason.EK_CRL_INVALID, f"no list in the name of {issuer} is signed by it")
        covering = [entry for entry in sound if entry.covers(certificate)]
        # 2
        for entry in covering:
            if entry.entries.get_revoked_certificate_by_serial_number(certificate.serial) is not None:
                raise RejectedError(EvidenceReason.EK_REVOKED, f"{certificate} was revoked by {issuer}")
        # 3
        if any(entry.is_fresh(at) for entry in covering):
            continue
        reason = EvidenceReason.EK_CRL_STALE if covering else EvidenceReason.EK_CRL_MISSING
        problem = "no list in force" if covering else "no revocation list"
        if required:
            raise RejectedError(reason, f"{problem} of {issuer} for {certificate}")
        notes.append(f"{problem} of {issuer}: revocation of {certificate} was not checked")
    return notes


def _is_sound(entry: RevocationList, issuer: Certificate) -> bool:
    if issuer.key_usage is not None and KeyUsage.CRL_SIGN not in issuer.key_usage:
        return False
    return is_signed_by(entry.signed, entry.algorithm, entry.signature, issuer.spki)
