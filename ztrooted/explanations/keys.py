"""The TPM's keys and what vouches for them: ``ak``, ``attest``, ``credential``, ``ek``."""

from collections.abc import Mapping
from types import MappingProxyType

from tpm.reasons import EvidenceReason
from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import Reason

KEYS: Mapping[Reason, Explanation] = MappingProxyType(
    {
        EvidenceReason.AK_ATTRIBUTES: Explanation(
            403,
            "The key has an attribute, policy or algorithm that its role as attestation or log key forbids.",
            "Create the key again from the template that the agent or gateway uses, and enroll again.",
        ),
        EvidenceReason.AK_CERTIFY_INVALID: Explanation(
            403,
            "The TPM's certification of a key is not valid: signature, type, nonce or certified key is wrong.",
            "Have the attestation key certify the key again with the qualifying data that was asked for.",
        ),
        EvidenceReason.COUNTER_INVALID: Explanation(
            403,
            "The TPM's certification of its counter is not valid: signature, nonce, index or contents is wrong.",
            "Take the checkpoint from its own log again; if it stays like this, the log is not to be believed.",
        ),
        EvidenceReason.AK_DECRYPT_SET: Explanation(
            403,
            "The attestation key may also decrypt, and such a key has no other use than signing.",
            "Create an attestation key without the attribute decrypt, and enroll again.",
        ),
        EvidenceReason.AK_EXPONENT: Explanation(
            403,
            "The RSA exponent of the attestation key is not 65537.",
            "Create an attestation key with the default exponent, and enroll again.",
        ),
        EvidenceReason.AK_HASH_NOT_ALLOWED: Explanation(
            403,
            "The attestation key signs with a hash algorithm that is not accepted, such as SHA-1.",
            "Create an attestation key whose scheme uses SHA-256 or stronger, and enroll again.",
        ),
        EvidenceReason.AK_KEY_TOO_SMALL: Explanation(
            403,
            "The attestation key is an RSA key of a size that is not accepted.",
            "Create an attestation key of RSA 2048 bits or on the curve P-256, and enroll again.",
        ),
        EvidenceReason.AK_MALFORMED: Explanation(
            400,
            "The attestation key's public area cannot be read: it is cut off, too long or not in its format.",
            "Send the TPM2B_PUBLIC exactly as the TPM returned it.",
        ),
        EvidenceReason.AK_MODULUS: Explanation(
            403,
            "The RSA modulus of the attestation key is weak: it can be factored with little effort.",
            "Create a new attestation key, and update the TPM's firmware if that one is weak too.",
        ),
        EvidenceReason.AK_NAME_ALG_NOT_ALLOWED: Explanation(
            403,
            "The attestation key's Name is computed with an algorithm that is weak or absent.",
            "Create an attestation key with the name algorithm SHA-256, SHA-384 or SHA-512, and enroll again.",
        ),
        EvidenceReason.AK_NAME_MISMATCH: Explanation(
            403,
            "The Name sent is not that of the attestation key's public area.",
            "Send name and public area of the same key, as the TPM returned them.",
        ),
        EvidenceReason.AK_NOT_FIXED_PARENT: Explanation(
            403,
            "The attestation key can be moved under another parent, so it is not bound to this TPM.",
            "Create an attestation key with the attribute fixedParent, and enroll again.",
        ),
        EvidenceReason.AK_NOT_FIXED_TPM: Explanation(
            403,
            "The attestation key can leave its TPM, so its signatures don't prove where they were made.",
            "Create an attestation key with the attribute fixedTPM, and enroll again.",
        ),
        EvidenceReason.AK_NOT_RESTRICTED: Explanation(
            403,
            "The attestation key signs any data it is given, so its quotes could be forged.",
            "Create an attestation key with the attribute restricted, and enroll again.",
        ),
        EvidenceReason.AK_NOT_SIGNING: Explanation(
            403,
            "The key presented as attestation key is not a signing key.",
            "Create an attestation key with the attribute sign, and enroll again.",
        ),
        EvidenceReason.AK_NOT_TPM_GENERATED: Explanation(
            403,
            "The attestation key was imported, so others may have a copy of it.",
            "Let the TPM generate the attestation key (sensitiveDataOrigin), and enroll again.",
        ),
        EvidenceReason.AK_POINT_INVALID: Explanation(
            403,
            "The attestation key's coordinates are not a point on its curve.",
            "Send the public area as the TPM returned it; if this is what it returned, replace the TPM.",
        ),
        EvidenceReason.AK_ROCA: Explanation(
            403,
            "The attestation key has the structure of keys that the ROCA attack factors.",
            "Update the TPM's firmware, create a new attestation key, and enroll again.",
        ),
        EvidenceReason.AK_SCHEME_NOT_ALLOWED: Explanation(
            403,
            "The attestation key's signature scheme is not accepted, or it has none.",
            "Create an attestation key with the scheme RSASSA, RSAPSS or ECDSA, and enroll again.",
        ),
        EvidenceReason.AK_TYPE_NOT_ALLOWED: Explanation(
            403,
            "The attestation key is of a type or on a curve that is not accepted.",
            "Create an RSA key or one on P-256 or P-384, and enroll again.",
        ),
        EvidenceReason.ATTEST_MALFORMED: Explanation(
            400,
            "The attestation structure cannot be read, or is not in the form a TPM writes.",
            "Send the TPMS_ATTEST exactly as the TPM returned it.",
        ),
        EvidenceReason.ATTEST_MAGIC: Explanation(
            403,
            "The signed structure lacks the mark with which a TPM begins its own statements.",
            "Nobody but a TPM makes a valid one: treat the sender as hostile until it is explained.",
        ),
        EvidenceReason.ATTEST_TRAILING_BYTES: Explanation(
            400,
            "Bytes follow the attestation structure.",
            "Send the TPMS_ATTEST alone, exactly as the TPM returned it.",
        ),
        EvidenceReason.ATTEST_TYPE: Explanation(
            403,
            "The attestation is genuine, and of another type than was asked for.",
            "Use the TPM command that the protocol step names.",
        ),
        EvidenceReason.CREDENTIAL_INVALID: Explanation(
            403,
            "The encrypted credential failed its integrity check, or is not for this key.",
            "Start the enrollment over with the endorsement and attestation key of one TPM.",
        ),
        EvidenceReason.CREDENTIAL_KEY_NOT_ALLOWED: Explanation(
            403,
            "No credential can be encrypted to this endorsement key or for this Name.",
            "Enroll with an endorsement key of a TCG template and the attestation key's full Name.",
        ),
        EvidenceReason.CREDENTIAL_MALFORMED: Explanation(
            400,
            "The encrypted credential cannot be read: it is cut off, too long or not in its format.",
            "Pass the credential on exactly as the gateway sent it, or start the enrollment over.",
        ),
        EvidenceReason.EK_CHAIN: Explanation(
            403,
            "No acceptable chain of certificates leads from the endorsement key to a configured root.",
            "Send the missing intermediates, or add the TPM vendor's root if you trust it.",
        ),
        EvidenceReason.EK_CRL_INVALID: Explanation(
            403,
            "A revocation list cannot be read, or is not signed by the issuer it names.",
            "Fetch the list from the TPM vendor again, and verify its signature before you supply it.",
        ),
        EvidenceReason.EK_CRL_MISSING: Explanation(
            403,
            "Revocation must be checked, and no list of this issuer is at hand.",
            "Supply the issuer's current revocation list.",
        ),
        EvidenceReason.EK_CRL_STALE: Explanation(
            403,
            "Revocation must be checked, and the issuer's list is past its next update.",
            "Supply the issuer's current revocation list.",
        ),
        EvidenceReason.EK_EKU: Explanation(
            403,
            "The certificate was not issued for an endorsement key (extended key usage 2.23.133.8.1).",
            "Send the endorsement key's own certificate, not another one of the machine.",
        ),
        EvidenceReason.EK_EXPIRED: Explanation(
            403,
            "The endorsement key's certificate, or an authority above it, has expired.",
            "Get a current certificate from the TPM vendor, or use another TPM.",
        ),
        EvidenceReason.EK_EXPONENT: Explanation(
            403,
            "The RSA exponent of the endorsement key is not accepted.",
            "Use the endorsement key that the vendor certified; if this is the one, replace the TPM.",
        ),
        EvidenceReason.EK_IS_CA: Explanation(
            403,
            "The certificate presented for the endorsement key is that of an authority.",
            "Send the endorsement key's own certificate first, and the authorities in the chain.",
        ),
        EvidenceReason.EK_KEY_TOO_SMALL: Explanation(
            403,
            "The endorsement key, or a certificate's key, is too small to be trusted.",
            "Use an endorsement key of RSA 2048 bits or on P-256, with certificates as strong.",
        ),
        EvidenceReason.EK_KEY_USAGE: Explanation(
            403,
            "The certificate's key usage is missing, not that of an endorsement key, or lets it sign certificates.",
            "Send the endorsement key's own certificate; if this is it, ask the TPM vendor for a correct one.",
        ),
        EvidenceReason.EK_MALFORMED: Explanation(
            400,
            "The endorsement key or one of its certificates cannot be read, or is not in strict DER.",
            "Send the bytes exactly as they are stored in the TPM, without padding.",
        ),
        EvidenceReason.EK_MODULUS: Explanation(
            403,
            "The RSA numbers of the endorsement key are weak: they can be factored or misused with little effort.",
            "Update the TPM's firmware and have a new endorsement key certified, or replace the TPM.",
        ),
        EvidenceReason.EK_NO_ROOTS: Explanation(
            503,
            "No endorsement root is configured, so no TPM can be recognised as genuine.",
            "Put the certificates of the TPM vendors you trust into the folder of roots, then start again.",
        ),
        EvidenceReason.EK_NOT_LISTED: Explanation(
            403,
            "The operator lists the endorsement keys that may enroll, and this one is not among them.",
            "Compare the digest with that of the machine's key, and have it listed if they agree.",
        ),
        EvidenceReason.EK_NOT_YET_VALID: Explanation(
            403,
            "The endorsement key's certificate, or an authority above it, is not valid yet.",
            "Check the gateway's clock; if it is right, wait for the date or ask the TPM vendor.",
        ),
        EvidenceReason.EK_PROFILE: Explanation(
            403,
            "The certificate departs from the TCG profile for endorsement keys.",
            "Ask the TPM vendor for a certificate that follows the profile.",
        ),
        EvidenceReason.EK_PUB_MISMATCH: Explanation(
            403,
            "The certificate is of another key than the endorsement key presented.",
            "Send the endorsement key and the certificate of the same TPM and the same algorithm.",
        ),
        EvidenceReason.EK_REVOKED: Explanation(
            403,
            "The endorsement key's certificate, or an authority above it, has been revoked by its issuer.",
            "Replace the TPM or the machine; a revoked certificate cannot be used again.",
        ),
        EvidenceReason.EK_ROCA: Explanation(
            403,
            "The endorsement key has the structure of keys that the ROCA attack factors.",
            "Update the TPM's firmware and have a new endorsement key certified, or replace the TPM.",
        ),
        EvidenceReason.EK_ROOTS_UNREADABLE: Explanation(
            503,
            "A file in the folder of endorsement roots cannot be read or used, so none of them is.",
            "Repair or remove the file that is named, then start again.",
        ),
        EvidenceReason.EK_SAN: Explanation(
            403,
            "The certificate does not say, once and readably, which TPM it is for.",
            "Ask the TPM vendor for a certificate with manufacturer, model and version in subjectAltName.",
        ),
        EvidenceReason.EK_TEMPLATE: Explanation(
            403,
            "The endorsement key was not created from a template that the TCG defines for such keys.",
            "Enroll with the endorsement key of a TCG default template.",
        ),
        EvidenceReason.EK_TOO_LARGE: Explanation(
            413,
            "The endorsement certificates exceed a maximum of size, number or length of path.",
            "Send only the endorsement key's certificate and the few authorities between it and the root.",
        ),
        EvidenceReason.EK_UNHANDLED_CRITICAL: Explanation(
            403,
            "A certificate has a critical extension that is not understood, and must not be ignored.",
            "Ask the TPM vendor for a certificate that follows the TCG profile.",
        ),
        EvidenceReason.EK_VENDOR: Explanation(
            403,
            "The TPM's manufacturer is unknown or not among those allowed.",
            "Add the manufacturer's id to ek_vendors in the gateway's configuration if you trust it.",
        ),
    }
)
