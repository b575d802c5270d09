"""Public areas offered as attestation keys: what they are, and whether they may sign quotes."""

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from tpm.algorithms import Alg
from tpm.attestation_key import AttestationKey, VouchedKey, accept_attestation_key, accept_vouched_key
from tpm.errors import MalformedError
from tpm.public import MAX_PUBLIC, Public, parse_public, parse_tpmt_public
from tpm.reasons import EvidenceReason
from tpm.signature import DEFAULT_SIGNATURES
from ztrooted.inspect.plain import Report, plain

_OBJECT_TYPES = (Alg.RSA, Alg.ECC, Alg.KEYEDHASH, Alg.SYMCIPHER)


def inspect_ak_public(data: bytes, *, tpmt: bool = False, allowed: frozenset[str] = DEFAULT_SIGNATURES) -> Report:
    """Judge a ``TPM2B_PUBLIC``, or with ``tpmt`` a ``TPMT_PUBLIC``, as an attestation key.

    ``allowed`` are names of signature schemes. Raises EvidenceError with an ``ak.*`` code.
    """
    public = parse_tpmt_public(data) if tpmt else parse_public(data)
    return describe_key(accept_attestation_key(public, allowed=allowed))


def load_key(data: bytes, *, allowed: frozenset[str] = DEFAULT_SIGNATURES) -> AttestationKey | VouchedKey:
    """An attestation key of a ``TPM2B_PUBLIC``, a ``TPMT_PUBLIC`` or a public key in PEM or DER, told by their first bytes.

    A bare key has no attributes to judge: that it is an attestation key is then the word of whoever hands it in.
    Raises EvidenceError with an ``ak.*`` code.
    """
    if data.lstrip()[:10] == b"-----BEGIN":
        return accept_vouched_key(_spki_of_pem(data))
    # Nothing of a TPM is as long as a size that begins like DER.
    if data[:1] == b"\x30":
        return accept_vouched_key(data)
    first = int.from_bytes(data[:2], "big")
    if first in _OBJECT_TYPES and first != len(data) - 2:
        return accept_attestation_key(parse_tpmt_public(data), allowed=allowed)
    return accept_attestation_key(parse_public(data), allowed=allowed)


def _spki_of_pem(data: bytes) -> bytes:
    if len(data) > MAX_PUBLIC:
        raise MalformedError(EvidenceReason.AK_MALFORMED, f"over {MAX_PUBLIC} bytes")
    try:
        key = load_pem_public_key(data)
    except ValueError as error:
        raise MalformedError(EvidenceReason.AK_MALFORMED, f"not a PEM public key: {error}") from None
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def describe_key(key: AttestationKey | VouchedKey) -> Report:
    """An accepted key: scheme, size, Name and attributes; a vouched one has neither Name nor attributes."""
    size = key.key.curve.name if isinstance(key.key, ec.EllipticCurvePublicKey) else f"RSA-{key.key.key_size}"
    pem = key.key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    if isinstance(key, VouchedKey):
        return {"verified": False, "accepted_by": "vouched", "key": size, "name": None, "public": None, "pem": pem}
    return {
        "verified": True,
        "accepted_by": "attributes",
        "key": size,
        "scheme": f"{key.alg.name.lower()}-{key.hash_alg.name.lower()}",
        "name": key.name.hex(),
        "public": describe_public(key.public),
        "pem": pem,
    }


def describe_public(public: Public) -> Report:
    """The fields of a public area."""
    return {
        "type": public.type.name.lower(),
        "name_alg": public.name_alg.name.lower(),
        "attributes": plain(public.attributes),
        "auth_policy": public.auth_policy.hex(),
        "symmetric": plain(public.symmetric),
        "scheme": plain(public.scheme),
        "bits": public.bits,
        "exponent": public.exponent,
        "curve": plain(public.curve),
        "kdf": plain(public.kdf),
        "unique": plain(public.unique),
    }
