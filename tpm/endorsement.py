"""Endorsement keys: is this the EK of a TPM that somebody we trust made? (TCG EK Credential Profile 2.5, RFC 5280 §6)

Two mechanisms give a ``VerifiedEk``, and a class of executors uses one of them, never both: a certificate that leads
to a configured root (``verify_ek_certificate``), or an EK whose digest the operator listed (``verify_ek_listed``).

A certificate is judged at one instant, from what was handed in. No URL in it is ever opened.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from cryptography.hazmat.primitives.asymmetric import rsa

from tpm.ek_template import EkTemplate, check_ek_template
from tpm.endorsement_certificate import Certificate, parse_certificate
from tpm.endorsement_crl import MAX_CRLS, RevocationList, check_revocation, parse_crl
from tpm.endorsement_der import MAX_CERTIFICATE_BYTES, split_pem
from tpm.endorsement_google import INSTANCE_IDENTITY, MANUFACTURER, GoogleInstance, parse_instance_identity
from tpm.endorsement_path import MAX_INTERMEDIATES, EkRoots, build_path, check_validity
from tpm.endorsement_profile import EkKey, check_ek_key, check_ek_profile, check_rsa_numbers
from tpm.endorsement_quirks import ENCODING_QUIRKS, EkQuirk
from tpm.endorsement_san import (
    TpmAttributes,
    VendorKind,
    check_vendor,
    normalise_vendor_id,
    read_tpm_attributes,
)
from tpm.errors import RejectedError
from tpm.public import Public
from tpm.reasons import EvidenceReason

__all__ = [
    "ENCODING_QUIRKS",
    "EkCertificate",
    "EkMechanism",
    "EkPolicy",
    "EkQuirk",
    "EkRoots",
    "VerifiedEk",
    "parse_ek_certificate",
    "split_pem",
    "verify_ek_certificate",
    "verify_ek_listed",
]


class EkMechanism(StrEnum):
    """How an EK came to be believed."""

    CERTIFICATE = "certificate"
    LISTED = "listed"


@dataclass(frozen=True, slots=True)
class EkPolicy:
    """What an operator asks of EK certificates. The defaults are the strictest but for revocation lists.

    ``vendors`` None allows every registered maker of hardware; a software TPM must be listed. ``allow_expired_leaf``
    forgives the EK certificate alone, never an authority, and shows in the notes.
    """

    vendors: frozenset[str] | None = None
    require_eku: bool = True
    allow_expired_leaf: bool = False
    require_crl: bool = False
    crls: tuple[RevocationList, ...] = ()
    quirks: frozenset[EkQuirk] = frozenset()
    max_certificate_bytes: int = MAX_CERTIFICATE_BYTES
    max_intermediates: int = MAX_INTERMEDIATES

    def __post_init__(self) -> None:
        if self.vendors is not None:
            object.__setattr__(self, "vendors", frozenset(map(normalise_vendor_id, self.vendors)))


DEFAULT_POLICY = EkPolicy()


@dataclass(frozen=True, slots=True)
class EkCertificate:
    """An EK certificate that has been parsed and says of itself what it must; nobody has vouched for it yet."""

    certificate: Certificate
    key: EkKey
    attributes: TpmAttributes
    google_instance: GoogleInstance | None
    quirks: frozenset[EkQuirk]


@dataclass(frozen=True, slots=True)
class VerifiedEk:
    """An endorsement key that may be believed, and why.

    ``virtual`` is True for everything not proved to be hardware, a listed EK included. ``chain`` runs from the EK
    certificate to the root and is empty for a listed EK. ``template`` is None where no public area was given to
    compare.
    """

    mechanism: EkMechanism
    public_key: EkKey
    manufacturer: str
    vendor: str
    model: str
    version: str
    virtual: bool
    template: EkTemplate | None
    chain: tuple[Certificate, ...] = ()
    google_instance: GoogleInstance | None = None
    quirks_used: frozenset[EkQuirk] = frozenset()
    notes: tuple[str, ...] = ()


def parse_ek_certificate(
    der: bytes,
    *,
    quirks: frozenset[EkQuirk] = frozenset(),
    require_eku: bool = True,
    maximum: int = MAX_CERTIFICATE_BYTES,
) -> EkCertificate:
    """Parse an EK certificate and hold it against the profile.

    ``ek.malformed`` and ``ek.too_large`` for the bytes; ``ek.key_*``, ``ek.modulus``, ``ek.exponent`` and ``ek.roca``
    for the key; ``ek.eku``, ``ek.is_ca``, ``ek.key_usage``, ``ek.profile``, ``ek.san`` and ``ek.unhandled_critical``
    for what it says.
    """
    certificate = parse_certificate(der, quirks=quirks, maximum=maximum)
    key = check_ek_key(certificate)
    used = certificate.quirks | check_ek_profile(certificate, key, quirks, require_eku=require_eku)
    instance = None
    if INSTANCE_IDENTITY in certificate.extensions:
        instance = parse_instance_identity(certificate.extensions[INSTANCE_IDENTITY].value)
    if EkQuirk.GOOGLE_VTPM in used:
        attributes = TpmAttributes(MANUFACTURER, "Compute Engine vTPM", "unstated")
    else:
        attributes = read_tpm_attributes(certificate.alternative_names)
    return EkCertificate(certificate, key, attributes, instance, used)


def verify_ek_certificate(
    leaf: bytes,
    intermediates: Sequence[bytes],
    roots: EkRoots,
    *,
    at: datetime,
    ek_public: Public | None,
    policy: EkPolicy = DEFAULT_POLICY,
    crls: Sequence[bytes] = (),
) -> VerifiedEk:
    """Verify that ``leaf`` certifies the EK of a TPM under one of ``roots`` at the time ``at``.

    ``leaf``, ``intermediates`` (in any order, unrelated ones allowed) and ``crls`` are DER; ``at`` is aware. Every
    refusal is an ``EvidenceError`` with a reason of the ``ek`` family.

    1. the sizes and numbers of what was sent are within bounds;
    2. the certificate is well-formed, has a sound key, and says of itself what an EK certificate must;
    3. a path of sound authorities, each valid at ``at``, leads to a root;
    4. the certificate itself is valid at ``at``, unless the policy forgives an expired one;
    5. no certificate of the path is revoked, as far as the policy asks;
    6. its vendor is allowed;
    7. the EK's public area follows a template of the profile and holds the certified key.

    Without ``ek_public`` step 7 is not run, and a note says so: that is for looking at certificates, not for enrolling.
    """
    if at.tzinfo is None:
        raise ValueError("a certificate is judged at an aware time")
    # 1
    _check_counts(intermediates, crls, policy)
    # 2
    ek = parse_ek_certificate(
        leaf, quirks=policy.quirks, require_eku=policy.require_eku, maximum=policy.max_certificate_bytes
    )
    # 3
    path = _path_to_root(ek.certificate, intermediates, roots, at, policy)
    # 4
    notes = _check_leaf_validity(ek.certificate, at, policy)
    # 5
    notes += _check_revocation(path, crls, at, policy)
    # 6
    vendor = check_vendor(ek.attributes.manufacturer, policy.vendors)
    # 7
    template = None
    if ek_public is None:
        notes.append("no public area was given: its template and its equality with the certified key were not checked")
    else:
        template = check_ek_template(ek_public)
        _check_same_key(ek_public, ek.key)
    return VerifiedEk(
        mechanism=EkMechanism.CERTIFICATE,
        public_key=ek.key,
        manufacturer=vendor.id,
        vendor=vendor.name,
        model=ek.attributes.model,
        version=ek.attributes.version,
        virtual=vendor.kind is VendorKind.VIRTUAL,
        template=template,
        chain=path,
        google_instance=ek.google_instance,
        quirks_used=ek.quirks.union(*(certificate.quirks for certificate in path)),
        notes=tuple(notes),
    )


def _check_counts(intermediates: Sequence[bytes], crls: Sequence[bytes], policy: EkPolicy) -> None:
    if len(intermediates) > policy.max_intermediates or len(crls) > MAX_CRLS:
        detail = f"{len(intermediates)} intermediates or {len(crls)} revocation lists are too many"
        raise RejectedError(EvidenceReason.EK_TOO_LARGE, detail)


def _path_to_root(
    certificate: Certificate, intermediates: Sequence[bytes], roots: EkRoots, at: datetime, policy: EkPolicy
) -> tuple[Certificate, ...]:
    authorities = [
        parse_certificate(der, quirks=policy.quirks, maximum=policy.max_certificate_bytes) for der in intermediates
    ]
    return build_path(certificate, authorities, roots, at=at)


def _check_revocation(
    path: tuple[Certificate, ...], crls: Sequence[bytes], at: datetime, policy: EkPolicy
) -> list[str]:
    """Notes for people; RejectedError where a certificate is revoked, or a list that the policy asks for is missing."""
    lists = [*policy.crls, *(parse_crl(der, quirks=policy.quirks) for der in crls)]
    if not lists and not policy.require_crl:
        return ["revocation was not checked: the policy asks for no list, and none was given"]
    return check_revocation(path, lists, at=at, required=policy.require_crl)


def _check_leaf_validity(certificate: Certificate, at: datetime, policy: EkPolicy) -> list[str]:
    try:
        check_validity(certificate, at)
    except RejectedError as error:
        if not policy.allow_expired_leaf or error.reason is not EvidenceReason.EK_EXPIRED:
            raise
        return [f"{error.detail}; the policy allows that"]
    return []


def _check_same_key(ek_public: Public, certified: EkKey) -> None:
    if ek_public.key().public_numbers() != certified.public_numbers():
        raise RejectedError(
            EvidenceReason.EK_PUB_MISMATCH, "the certificate is of another key than the EK's public area"
        )


def ek_digest(ek_public: Public) -> bytes:
    """SHA-256 of the ``TPMT_PUBLIC``: what an operator lists to allow an EK without a certificate."""
    return hashlib.sha256(ek_public.raw).digest()


def verify_ek_listed(ek_public: Public, allowed: frozenset[bytes]) -> VerifiedEk:
    """Verify an EK that the operator listed by the SHA-256 of its ``TPMT_PUBLIC``.

    1. it is in the list (``ek.not_listed``; an empty list allows nothing);
    2. it follows a template of the profile (``ek.template``);
    3. its key is sound (``ek.modulus``, ``ek.roca``, …): a list says who it is, not that nobody else can be.
    """
    # 1
    digest = ek_digest(ek_public)
    if digest not in allowed:
        raise RejectedError(EvidenceReason.EK_NOT_LISTED, f"the EK with the digest {digest.hex()} is not listed")
    # 2
    template = check_ek_template(ek_public)
    # 3
    key = ek_public.key()
    if isinstance(key, rsa.RSAPublicKey):
        numbers = key.public_numbers()
        check_rsa_numbers(numbers.n, numbers.e)
    return VerifiedEk(
        mechanism=EkMechanism.LISTED,
        public_key=key,
        manufacturer="",
        vendor="",
        model="",
        version="",
        virtual=True,
        template=template,
        notes=("listed by the operator: nobody certified who made this TPM",),
    )
