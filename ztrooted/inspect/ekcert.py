"""EK certificates: what they say of themselves, and whether a maker we trust said so."""

import hashlib
from collections.abc import Sequence
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric import ec

from tpm.ek_template import parse_ek_public
from tpm.endorsement import EkPolicy, EkRoots, VerifiedEk, parse_ek_certificate, verify_ek_certificate
from tpm.endorsement_certificate import Certificate
from tpm.endorsement_profile import EkKey
from ztrooted.inspect.plain import Report, plain


def inspect_ek_certificate(
    leaf: bytes,
    chain: Sequence[bytes],
    roots: EkRoots | None,
    *,
    at: datetime,
    ek_public: bytes | None,
    policy: EkPolicy,
    crls: Sequence[bytes] = (),
) -> Report:
    """Verify an EK certificate at the time ``at``; without ``roots`` only read it and hold it against the profile.

    ``leaf``, ``chain`` and ``crls`` are DER, ``ek_public`` a ``TPM2B_PUBLIC``, ``at`` is aware. Raises EvidenceError
    with an ``ek.*`` code.
    """
    public = None if ek_public is None else parse_ek_public(ek_public)
    if roots is None:
        ek = parse_ek_certificate(
            leaf, quirks=policy.quirks, require_eku=policy.require_eku, maximum=policy.max_certificate_bytes
        )
        return {
            "verified": False,
            "at": at.isoformat(),
            "tpm": plain(ek.attributes),
            "key": _key(ek.key),
            "google_instance": plain(ek.google_instance),
            "chain": [describe_certificate(ek.certificate)],
            "quirks_used": plain(ek.quirks),
            "notes": ["no roots were given: nobody vouches for what this certificate says"],
        }
    verified = verify_ek_certificate(leaf, chain, roots, at=at, ek_public=public, policy=policy, crls=crls)
    return {
        "verified": True,
        "at": at.isoformat(),
        **_describe(verified),
        "chain": [describe_certificate(certificate) for certificate in verified.chain],
        "quirks_used": plain(verified.quirks_used),
        "notes": list(verified.notes),
    }


def _describe(ek: VerifiedEk) -> Report:
    return {
        "tpm": {
            "manufacturer": ek.manufacturer,
            "vendor": ek.vendor,
            "model": ek.model,
            "version": ek.version,
            "virtual": ek.virtual,
        },
        "key": _key(ek.public_key),
        "template": None if ek.template is None else ek.template.name,
        "google_instance": plain(ek.google_instance),
    }


def _key(key: EkKey) -> str:
    return key.curve.name if isinstance(key, ec.EllipticCurvePublicKey) else f"RSA-{key.key_size}"


def describe_certificate(certificate: Certificate) -> Report:
    """What tells certificates apart, for a person and a script."""
    return {
        "serial": f"{certificate.serial:x}",
        "label": certificate.label,
        "not_before": certificate.not_before.isoformat(),
        "not_after": certificate.not_after.isoformat(),
        "is_ca": certificate.is_ca,
        "key_usage": plain(certificate.key_usage),
        "sha256": hashlib.sha256(certificate.der).hexdigest(),
    }
