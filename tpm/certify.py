"""TPM2_Certify: a key proved to live in the same TPM as an attestation key (TPM 2.0 Part 3 §18.2)."""

import hmac
from dataclasses import dataclass

from tpm.attest import Attest, AttestReasons, AttestType, CertifyInfo, CreationInfo, parse_attest
from tpm.attestation_key import AttestationKey
from tpm.errors import RejectedError
from tpm.public import Public
from tpm.reasons import EvidenceReason
from tpm.signature import SignatureReasons, parse_signature, verify_signature

# A certification holds two Names besides the head: 270 bytes at most.
MAX_CERTIFY = 512

_INVALID = EvidenceReason.AK_CERTIFY_INVALID
_ATTEST = AttestReasons(_INVALID, _INVALID, _INVALID, _INVALID, _INVALID, _INVALID)
_SIGNATURE = SignatureReasons(_INVALID, _INVALID, _INVALID, _INVALID)


@dataclass(frozen=True, slots=True)
class VerifiedCertify:
    """``certified`` was loaded in the TPM that holds the attestation key when that key signed ``attest``."""

    attest: Attest
    certified: Public


@dataclass(frozen=True, slots=True)
class VerifiedCreation:
    """``created`` was made by the TPM that holds the attestation key, with creation data of this hash."""

    attest: Attest
    created: Public
    creation_hash: bytes


def verify_certify(
    attest: bytes, signature: bytes, key: AttestationKey, *, qualifying_data: bytes, certified: Public
) -> VerifiedCertify:
    """Verify that ``key`` certified ``certified`` for ``qualifying_data``; every refusal is ``ak.certify_invalid``.

    1. It is a well-formed certification by a TPM.
    2. The signature has the key's own scheme and is the key's.
    3. It was made for these ``qualifying_data``, which are not empty.
    4. The certified Name is that of ``certified``, attributes and policy included.
    """
    # 1. Structure
    parsed = parse_attest(attest, expected=AttestType.CERTIFY, reasons=_ATTEST, maximum=MAX_CERTIFY)
    # 2. and 3. Signature, qualifying data
    _check_signed(parsed, signature, key, qualifying_data)
    # 4. Name
    if not isinstance(parsed.attested, CertifyInfo) or parsed.attested.name != certified.name:
        raise RejectedError(_INVALID, "the certified Name is not that of the key presented")
    return VerifiedCertify(parsed, certified)


def verify_creation(
    attest: bytes,
    signature: bytes,
    key: AttestationKey,
    *,
    qualifying_data: bytes,
    created: Public,
    creation_hash: bytes,
) -> VerifiedCreation:
    """Verify a TPM2_CertifyCreation (Part 3 §18.3) as ``verify_certify`` does.

    ``creation_hash`` is the hash of the ``TPMS_CREATION_DATA`` by the nameAlg of ``created``.
    """
    parsed = parse_attest(attest, expected=AttestType.CREATION, reasons=_ATTEST, maximum=MAX_CERTIFY)
    _check_signed(parsed, signature, key, qualifying_data)
    if not isinstance(parsed.attested, CreationInfo) or parsed.attested.object_name != created.name:
        raise RejectedError(_INVALID, "the created Name is not that of the key presented")
    if not creation_hash or parsed.attested.creation_hash != creation_hash:
        raise RejectedError(_INVALID, "the creation hash is not that of the creation data presented")
    return VerifiedCreation(parsed, created, creation_hash)


def _check_signed(attest: Attest, signature: bytes, key: AttestationKey, qualifying_data: bytes) -> None:
    parsed = parse_signature(signature, reasons=_SIGNATURE)
    if (parsed.alg, parsed.hash_alg) != (key.alg, key.hash_alg):
        raise RejectedError(_INVALID, f"the signature is {parsed.scheme_name}, not the key's scheme")
    verify_signature(parsed, key.key, attest.raw, reasons=_SIGNATURE)
    if not qualifying_data:
        raise RejectedError(_INVALID, "a certification for no qualifying data is anybody's")
    if not hmac.compare_digest(attest.extra_data, qualifying_data):
        raise RejectedError(_INVALID, "extraData is not the qualifying data")
