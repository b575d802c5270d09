"""What an EK certificate must say by itself, whoever signed it (TCG EK Credential Profile 2.5, §3.1 and §3.2)."""

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tpm.endorsement_certificate import (
    AUTHORITY_KEY_IDENTIFIER,
    BASIC_CONSTRAINTS,
    CERTIFICATE_POLICIES,
    EK_CERTIFICATE_USAGE,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    SUBJECT_ALT_NAME,
    SUBJECT_DIRECTORY_ATTRIBUTES,
    SUBJECT_KEY_IDENTIFIER,
    Certificate,
    KeyUsage,
    certified_rsa_numbers,
    format_oid,
    load_certified_key,
)
from tpm.endorsement_google import INSTANCE_IDENTITY
from tpm.endorsement_quirks import EkQuirk
from tpm.endorsement_san import check_tpm_specification
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason
from tpm.weak_keys import RsaWeakness, find_rsa_weakness

# Critical extensions that are processed on an EK certificate. The three after the first four are refused as critical
# by the profile, under their own reason; an identifier of a policy constrains nothing here (no explicit policy is
# asked for).
_HANDLED = frozenset(
    (
        BASIC_CONSTRAINTS,
        KEY_USAGE,
        SUBJECT_ALT_NAME,
        CERTIFICATE_POLICIES,
        EXTENDED_KEY_USAGE,
        AUTHORITY_KEY_IDENTIFIER,
        SUBJECT_KEY_IDENTIFIER,
    )
)
_NEVER_CRITICAL = (EXTENDED_KEY_USAGE, AUTHORITY_KEY_IDENTIFIER, SUBJECT_KEY_IDENTIFIER)

_WEAKNESS_REASONS = {
    RsaWeakness.TOO_SMALL: EvidenceReason.EK_KEY_TOO_SMALL,
    RsaWeakness.TOO_LARGE: EvidenceReason.EK_TOO_LARGE,
    RsaWeakness.EXPONENT: EvidenceReason.EK_EXPONENT,
    RsaWeakness.EVEN: EvidenceReason.EK_MODULUS,
    RsaWeakness.SMALL_FACTOR: EvidenceReason.EK_MODULUS,
    RsaWeakness.CLOSE_PRIMES: EvidenceReason.EK_MODULUS,
    RsaWeakness.ROCA: EvidenceReason.EK_ROCA,
}
_CURVES = ("secp256r1", "secp384r1", "secp521r1")

EkKey = rsa.RSAPublicKey | ec.EllipticCurvePublicKey


def check_rsa_numbers(modulus: int, exponent: int) -> None:
    """Refuse an RSA endorsement key that can be factored or forged, each weakness with its own ``ek`` reason."""
    weakness = find_rsa_weakness(modulus, exponent)
    if weakness is not None:
        detail = f"RSA key of {modulus.bit_length()} bits, exponent {exponent.bit_length()} bits: {weakness}"
        raise RejectedError(_WEAKNESS_REASONS[weakness], detail)


def check_ek_key(certificate: Certificate) -> EkKey:
    """The certified key, if an EK may be that: RSA of 2,048 to 4,096 bits without a known weakness, or a NIST curve.

    An RSA key's numbers are judged before a key object is built of them, so that a huge one costs nothing.
    """
    numbers = certified_rsa_numbers(certificate)
    if numbers is not None:
        check_rsa_numbers(*numbers)
    key = load_certified_key(certificate.spki)
    if isinstance(key, rsa.RSAPublicKey):
        return key
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RejectedError(EvidenceReason.EK_TEMPLATE, f"no EK template has a {type(key).__name__}")
    if key.curve.name not in _CURVES:
        reason = EvidenceReason.EK_KEY_TOO_SMALL if key.key_size < 256 else EvidenceReason.EK_TEMPLATE
        raise RejectedError(reason, f"no EK template has a key on {key.curve.name}")
    return key


def check_ek_profile(
    certificate: Certificate, key: EkKey, quirks: frozenset[EkQuirk], *, require_eku: bool
) -> frozenset[EkQuirk]:
    """Check the extensions of an EK certificate and return the quirks of the profile, among ``quirks``, it needed.

    1. no critical extension is left unprocessed, and none is critical that must not be;
    2. it is not an authority, and says so (basicConstraints, critical);
    3. keyUsage is critical and lets the key be used as an EK, and not for certificates;
    4. extKeyUsage names EK certificates;
    5. it names its issuer's key;
    6. subjectAltName is critical where the subject is empty; that it is there, and its content, is for
       ``endorsement_san``.
    """
    # 1
    for identifier, extension in certificate.extensions.items():
        if extension.critical and identifier not in _HANDLED:
            detail = f"critical extension {format_oid(identifier)} of {certificate} is not understood"
            raise RejectedError(EvidenceReason.EK_UNHANDLED_CRITICAL, detail)
    critical = [format_oid(identifier) for identifier in _NEVER_CRITICAL if certificate.is_critical(identifier)]
    if critical:
        raise RejectedError(EvidenceReason.EK_PROFILE, f"extension {critical[0]} of {certificate} must not be critical")
    # 2
    if certificate.is_ca:
        raise RejectedError(EvidenceReason.EK_IS_CA, f"{certificate} is an authority, not an EK certificate")
    if BASIC_CONSTRAINTS not in certificate.extensions:
        raise RejectedError(EvidenceReason.EK_PROFILE, f"{certificate} has no basicConstraints")
    # 3
    _check_key_usage(certificate, key)
    used = _check_criticality(certificate, quirks)
    # 4
    is_google = _is_google_vtpm(certificate, quirks)
    if is_google:
        used |= {EkQuirk.GOOGLE_VTPM}
    else:
        _check_extended_key_usage(certificate, require_eku=require_eku)
    # 5
    if certificate.authority_key_id is None:
        raise RejectedError(EvidenceReason.EK_PROFILE, f"{certificate} does not identify its issuer's key")
    # 6
    if not certificate.subject and not certificate.is_critical(SUBJECT_ALT_NAME):
        raise RejectedError(
            EvidenceReason.EK_SAN, f"{certificate} has no subject, and its subjectAltName is not critical"
        )
    attributes = certificate.extensions.get(SUBJECT_DIRECTORY_ATTRIBUTES)
    if attributes is not None:
        check_tpm_specification(attributes.value)
    return used


def _check_criticality(certificate: Certificate, quirks: frozenset[EkQuirk]) -> frozenset[EkQuirk]:
    if not certificate.is_critical(BASIC_CONSTRAINTS):
        reason, what = EvidenceReason.EK_PROFILE, "basicConstraints"
    elif not certificate.is_critical(KEY_USAGE):
        reason, what = EvidenceReason.EK_KEY_USAGE, "keyUsage"
    else:
        return frozenset()
    if EkQuirk.NONCRITICAL_EXTENSION not in quirks:
        detail = f"{what} of {certificate} is not critical (quirk {EkQuirk.NONCRITICAL_EXTENSION} is not allowed)"
        raise RejectedError(reason, detail)
    return frozenset({EkQuirk.NONCRITICAL_EXTENSION})


def _check_key_usage(certificate: Certificate, key: EkKey) -> None:
    usage = certificate.key_usage
    needed = KeyUsage.KEY_ENCIPHERMENT if isinstance(key, rsa.RSAPublicKey) else KeyUsage.KEY_AGREEMENT
    if usage is None:
        raise RejectedError(EvidenceReason.EK_KEY_USAGE, f"{certificate} has no keyUsage")
    if needed not in usage:
        raise RejectedError(EvidenceReason.EK_KEY_USAGE, f"keyUsage of {certificate} lacks {needed.name}")
    if usage & (KeyUsage.KEY_CERT_SIGN | KeyUsage.CRL_SIGN):
        raise RejectedError(EvidenceReason.EK_KEY_USAGE, f"keyUsage of {certificate} lets it sign certificates")


def _check_extended_key_usage(certificate: Certificate, *, require_eku: bool) -> None:
    usages = certificate.extended_key_usage
    if usages is None:
        if require_eku:
            raise RejectedError(EvidenceReason.EK_EKU, f"{certificate} has no extKeyUsage")
        return
    if EK_CERTIFICATE_USAGE not in usages:
        named = ", ".join(map(format_oid, usages))
        raise RejectedError(EvidenceReason.EK_EKU, f"{certificate} is for {named}, not for an EK (2.23.133.8.1)")


def _is_google_vtpm(certificate: Certificate, quirks: frozenset[EkQuirk]) -> bool:
    return (
        EkQuirk.GOOGLE_VTPM in quirks
        and INSTANCE_IDENTITY in certificate.extensions
        and certificate.extended_key_usage is None
        and not certificate.alternative_names
    )
