"""Which public areas are attestation keys, and which one may sign a log.

``Public`` is what somebody sent. ``AttestationKey`` is a key whose attributes leave the TPM no way to sign an
attestation it did not make itself: it is the only thing quotes and certifications are verified against. That the key
lives in a particular TPM is proved elsewhere, by ``tpm.credential``.
"""

from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from tpm.algorithms import Alg
from tpm.errors import MalformedError, RejectedError
from tpm.public import DEFAULT_EXPONENT, MAX_PUBLIC, SMALL_CURVES, Curve, ObjectAttributes, Public
from tpm.reasons import EvidenceReason
from tpm.signature import DEFAULT_SIGNATURES, SIGNATURE_NAMES, PublicKey
from tpm.weak_keys import RsaWeakness, find_rsa_weakness

# Below 2048 bits RSA is breakable within the life of a machine; above 4096 it is a burden that others impose on us.
RSA_BITS = (2048, 3072, 4096)
CURVES = (Curve.P256, Curve.P384)
_CURVE_NAMES = ("secp256r1", "secp384r1")
NAME_ALGS = (Alg.SHA256, Alg.SHA384, Alg.SHA512)

# Attribute that must be set -> the code where it is not, in the order of a person's questions (Part 2 §8.3).
_REQUIRED = (
    (ObjectAttributes.RESTRICTED, EvidenceReason.AK_NOT_RESTRICTED, "the key signs whatever it is given"),
    (ObjectAttributes.FIXED_TPM, EvidenceReason.AK_NOT_FIXED_TPM, "the key can leave its TPM"),
    (ObjectAttributes.FIXED_PARENT, EvidenceReason.AK_NOT_FIXED_PARENT, "the key can move to another parent"),
    (ObjectAttributes.SENSITIVE_DATA_ORIGIN, EvidenceReason.AK_NOT_TPM_GENERATED, "the key was made elsewhere"),
)
_WEAKNESSES = {
    RsaWeakness.TOO_SMALL: EvidenceReason.AK_KEY_TOO_SMALL,
    RsaWeakness.EXPONENT: EvidenceReason.AK_EXPONENT,
    RsaWeakness.ROCA: EvidenceReason.AK_ROCA,
}
_FORBIDDEN = ObjectAttributes.ST_CLEAR | ObjectAttributes.ENCRYPTED_DUPLICATION | ObjectAttributes.X509_SIGN


@dataclass(frozen=True, slots=True)
class AttestationKey:
    """An accepted attestation key. Made by ``accept_attestation_key`` only; ``key`` is parsed once and reused."""

    public: Public
    key: PublicKey
    name: bytes
    alg: Alg
    hash_alg: Alg

    @property
    def name_alg(self) -> Alg:
        """The hash algorithm of the Name, and so of the qualified signer in every attestation by this key."""
        return self.public.name_alg


@dataclass(frozen=True, slots=True)
class VouchedKey:
    """A signing key without a public area: somebody else (a certificate, an operator) says it is an attestation key.

    Its scheme and Name are unknown, so quotes by it are verified without those comparisons. Enrollment never uses it.
    """

    key: PublicKey
    alg: None = None
    hash_alg: None = None
    name_alg: None = None


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An accepted log key: an unrestricted P-256 key that signs only under its policy."""

    public: Public
    key: ec.EllipticCurvePublicKey
    name: bytes


def accept_attestation_key(public: Public, *, allowed: frozenset[str] = DEFAULT_SIGNATURES) -> AttestationKey:
    """Accept ``public`` as an attestation key, or raise RejectedError with the first rule it breaks.

    1. It is an RSA or ECC key, named by SHA-256, SHA-384 or SHA-512.
    2. It signs, and does nothing else.
    3. It is restricted, fixed to its TPM and parent, and was made there (Part 1, Object Attributes).
    4. No attribute contradicts that: not cleared on restart, not duplicable, no X.509 signing.
    5. Its signature scheme is fixed and one of ``allowed`` (names such as ``ecdsa-sha256``); it has no symmetric part.
    6. Size, curve, modulus, exponent and point are sound.
    """
    # 1. Type and Name
    if public.type not in (Alg.RSA, Alg.ECC):
        raise RejectedError(EvidenceReason.AK_TYPE_NOT_ALLOWED, f"a {public.type.name} object signs no quotes")
    _check_name_alg(public)
    # 2. Signs and does nothing else
    if ObjectAttributes.SIGN not in public.attributes:
        raise RejectedError(EvidenceReason.AK_NOT_SIGNING, "sign is not set")
    if ObjectAttributes.DECRYPT in public.attributes:
        raise RejectedError(EvidenceReason.AK_DECRYPT_SET, "decrypt is set besides sign")
    # 3. Restricted, fixed, made here
    for attribute, reason, meaning in _REQUIRED:
        if attribute not in public.attributes:
            raise RejectedError(reason, f"{str(attribute.name).lower()} is not set: {meaning}")
    # 4. Contradictions
    _check_forbidden(public)
    # 5. Scheme
    alg, hash_alg = _check_scheme(public, allowed)
    # 6. The key itself
    return AttestationKey(public, _sound_key(public), public.name, alg, hash_alg)


def accept_signing_key(public: Public, auth_policy: bytes) -> SigningKey:
    """Accept ``public`` as a gateway's log key, or raise RejectedError with the first rule it breaks.

    1. It is a P-256 ECC key, named by SHA-256, SHA-384 or SHA-512.
    2. It signs, does nothing else, and is not restricted: it signs digests of log checkpoints.
    3. It is fixed to its TPM and parent, and was made there.
    4. It has exactly ``auth_policy`` and no other way in: with userWithAuth set, an empty password signs after drift.
    5. Its scheme is ECDSA with SHA-256, or left to the caller of TPM2_Sign.
    6. The point is sound.
    """
    # 1. Type and Name
    if public.type is not Alg.ECC or public.curve is not Curve.P256:
        raise RejectedError(EvidenceReason.AK_TYPE_NOT_ALLOWED, "a log key is a P-256 key")
    _check_name_alg(public)
    # 2. Signs, unrestricted
    if ObjectAttributes.SIGN not in public.attributes:
        raise RejectedError(EvidenceReason.AK_NOT_SIGNING, "sign is not set")
    if ObjectAttributes.DECRYPT in public.attributes:
        raise RejectedError(EvidenceReason.AK_DECRYPT_SET, "decrypt is set besides sign")
    if ObjectAttributes.RESTRICTED in public.attributes:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, "a restricted key cannot sign checkpoints")
    # 3. Fixed, made here
    for attribute, reason, meaning in _REQUIRED[1:]:
        if attribute not in public.attributes:
            raise RejectedError(reason, f"{str(attribute.name).lower()} is not set: {meaning}")
    _check_forbidden(public)
    # 4. Only by policy
    if ObjectAttributes.USER_WITH_AUTH in public.attributes:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, "user_with_auth is set: a password signs after drift")
    if not auth_policy or public.auth_policy != auth_policy:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, "authPolicy is not the expected one")
    # 5. Scheme
    if public.symmetric is not None:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, "a signing key has no symmetric algorithm")
    if public.scheme is not None and (public.scheme.alg, public.scheme.hash_alg) != (Alg.ECDSA, Alg.SHA256):
        raise RejectedError(EvidenceReason.AK_SCHEME_NOT_ALLOWED, "the scheme of a log key is ecdsa-sha256 or NULL")
    # 6. The point
    key = public.key()
    if not isinstance(key, ec.EllipticCurvePublicKey):
        raise RejectedError(EvidenceReason.AK_TYPE_NOT_ALLOWED, "a log key is a P-256 key")
    return SigningKey(public, key, public.name)


def _check_name_alg(public: Public) -> None:
    if public.name_alg not in NAME_ALGS:
        raise RejectedError(EvidenceReason.AK_NAME_ALG_NOT_ALLOWED, f"nameAlg is {public.name_alg.name}")


def _check_forbidden(public: Public) -> None:
    for attribute in _FORBIDDEN & public.attributes:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, f"{str(attribute.name).lower()} is set")


def _check_scheme(public: Public, allowed: frozenset[str]) -> tuple[Alg, Alg]:
    """A restricted signing key has a fixed scheme (Part 2 §12.2.3.5); its hash is judged before the whole."""
    scheme = public.scheme
    if scheme is None or scheme.alg not in (Alg.RSASSA, Alg.RSAPSS, Alg.ECDSA) or scheme.hash_alg is None:
        named = "NULL" if scheme is None else scheme.alg.name
        raise RejectedError(EvidenceReason.AK_SCHEME_NOT_ALLOWED, f"scheme is {named}")
    name = SIGNATURE_NAMES.get((scheme.alg, scheme.hash_alg))
    if name is None:
        raise RejectedError(EvidenceReason.AK_HASH_NOT_ALLOWED, f"scheme is {scheme.alg.name} {scheme.hash_alg.name}")
    if name not in allowed:
        raise RejectedError(EvidenceReason.AK_SCHEME_NOT_ALLOWED, f"scheme {name} is not allowed")
    if public.symmetric is not None:
        raise RejectedError(EvidenceReason.AK_ATTRIBUTES, "a signing key has no symmetric algorithm")
    return scheme.alg, scheme.hash_alg


def accept_vouched_key(data: bytes) -> VouchedKey:
    """Accept a SubjectPublicKeyInfo (PEM or DER) whose attributes somebody else answers for; ``ak.*`` codes.

    Only its numbers are judged, by the rules for attestation keys.
    """
    if len(data) > MAX_PUBLIC:
        raise MalformedError(EvidenceReason.AK_MALFORMED, f"over {MAX_PUBLIC} bytes")
    # Imported here: it would add a third to the import time of ``tpm.quote``, and few callers come this way.
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415
        load_der_public_key,
        load_pem_public_key,
    )

    load = load_pem_public_key if data.lstrip().startswith(b"-----BEGIN") else load_der_public_key
    try:
        key = load(data)
    except (ValueError, UnsupportedAlgorithm):
        raise MalformedError(EvidenceReason.AK_MALFORMED, "not a public key in PEM or DER") from None
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key)
        return VouchedKey(key)
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVE_NAMES:
        return VouchedKey(key)
    raise RejectedError(EvidenceReason.AK_TYPE_NOT_ALLOWED, "the key is neither RSA nor on P-256 or P-384")


def _sound_key(public: Public) -> PublicKey:
    if public.type is Alg.ECC and public.curve not in CURVES and public.curve not in SMALL_CURVES:
        named = "none" if public.curve is None else public.curve.name
        raise RejectedError(EvidenceReason.AK_TYPE_NOT_ALLOWED, f"curve {named} is not allowed")
    key = public.key()
    if isinstance(key, rsa.RSAPublicKey):
        _check_rsa(key)
    return key


def _check_rsa(key: rsa.RSAPublicKey) -> None:
    if key.key_size not in RSA_BITS:
        raise RejectedError(EvidenceReason.AK_KEY_TOO_SMALL, f"RSA keys have {RSA_BITS} bits, this one {key.key_size}")
    numbers = key.public_numbers()
    weakness = find_rsa_weakness(numbers.n, numbers.e)
    if weakness is not None:
        raise RejectedError(_WEAKNESSES.get(weakness, EvidenceReason.AK_MODULUS), f"the key is weak: {weakness}")
    if numbers.e != DEFAULT_EXPONENT:
        raise RejectedError(EvidenceReason.AK_EXPONENT, f"exponent is {numbers.e}, not {DEFAULT_EXPONENT}")
