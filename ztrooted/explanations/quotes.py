"""Quotes and what comes with them: ``evidence``, ``pcr``, ``quote``."""

from collections.abc import Mapping
from types import MappingProxyType

from tpm.reasons import EvidenceReason
from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import Reason

QUOTES: Mapping[Reason, Explanation] = MappingProxyType(
    {
        EvidenceReason.EVIDENCE_MISSING: Explanation(
            403,
            "Evidence that the policy needs was not sent.",
            "Send quote, PCR values, event log and measurement list as the challenge asks.",
        ),
        EvidenceReason.EVIDENCE_RACED: Explanation(
            409,
            "PCR values changed between the quote and the reading of the values.",
            "Answer a new challenge; if this repeats, find what keeps extending the PCRs.",
        ),
        EvidenceReason.PCR_MALFORMED: Explanation(
            400,
            "A PCR selection or value cannot be read, or is not in its only valid form.",
            "Send PCR selections and values as the TPM returned them, in full length.",
        ),
        EvidenceReason.QUOTE_BANK_NOT_ALLOWED: Explanation(
            403,
            "The quote covers a PCR bank that was not asked for or is not accepted.",
            "Quote exactly the banks of the challenge.",
        ),
        EvidenceReason.QUOTE_CLOCK_ROLLBACK: Explanation(
            403,
            "The TPM's clock or a counter went back: the quote is old, or the TPM's state was copied.",
            "Answer a new challenge; if it repeats, look for a cloned virtual TPM.",
        ),
        EvidenceReason.QUOTE_CLOCK_UNSAFE: Explanation(
            403,
            "The TPM can't vouch for its clock since a power loss.",
            "Wait until the TPM reports its clock safe again, then attest again.",
        ),
        EvidenceReason.QUOTE_FIRMWARE_CHANGED: Explanation(
            403,
            "The TPM's firmware version is not the one it was enrolled with.",
            "If the update was intended, enroll the machine again; otherwise examine it.",
        ),
        EvidenceReason.QUOTE_HASH_ALG_NOT_ALLOWED: Explanation(
            403,
            "The quote is signed with another hash than the attestation key's.",
            "Sign with the scheme the attestation key was created with.",
        ),
        EvidenceReason.QUOTE_MAGIC: Explanation(
            403,
            "The signed bytes don't begin as a TPM's own statements do, so they are no quote, whoever signed them.",
            "Treat the machine as compromised: no honest TPM or agent produces this.",
        ),
        EvidenceReason.QUOTE_MALFORMED: Explanation(
            400,
            "The quote cannot be read: it is cut off or not in the form a TPM writes.",
            "Send the TPMS_ATTEST exactly as the TPM returned it.",
        ),
        EvidenceReason.QUOTE_NONCE_MISMATCH: Explanation(
            403,
            "The quote was not made for this challenge: nonce, purpose, job or session differ.",
            "Quote with the qualifying data of the newest challenge.",
        ),
        EvidenceReason.QUOTE_PCR_DIGEST_MISMATCH: Explanation(
            403,
            "The PCR values sent are not the ones that were quoted.",
            "Read PCRs and quote again; if it stays, treat the machine as compromised.",
        ),
        EvidenceReason.QUOTE_PCR_VALUE_LENGTH: Explanation(
            400,
            "A PCR value has not the length of its bank's digest.",
            "Send each PCR value in full length, as the TPM returned it.",
        ),
        EvidenceReason.QUOTE_PCR_VALUES_EXTRA: Explanation(
            403,
            "PCR values were sent that the quote does not cover, so nothing proves them.",
            "Send exactly the values of the PCRs that were quoted.",
        ),
        EvidenceReason.QUOTE_PCR_VALUES_MISSING: Explanation(
            403,
            "The value of a quoted PCR was not sent.",
            "Send exactly the values of the PCRs that were quoted.",
        ),
        EvidenceReason.QUOTE_QUALIFIED_SIGNER: Explanation(
            403,
            "The quote names another signer or another parent than the enrolled attestation key's.",
            "Load the attestation key under the parent it was enrolled with, or enroll again.",
        ),
        EvidenceReason.QUOTE_RESET_DETECTED: Explanation(
            403,
            "The TPM was reset since the last round, so the machine rebooted or lost power.",
            "Start the agent again, so that it enrolls with the evidence of the new boot.",
        ),
        EvidenceReason.QUOTE_RESTART_DETECTED: Explanation(
            403,
            "The TPM was restarted since the last round, so the machine was suspended.",
            "Start the agent again, and keep executors from suspending.",
        ),
        EvidenceReason.QUOTE_SELECTION_MISMATCH: Explanation(
            403,
            "The quote does not cover exactly the PCRs that the challenge asked for.",
            "Quote the challenge's PCR selection, in its own form.",
        ),
        EvidenceReason.QUOTE_SIG_ALG_NOT_ALLOWED: Explanation(
            403,
            "The quote is signed with another scheme than the attestation key's, or with one not accepted.",
            "Sign with the scheme the attestation key was created with.",
        ),
        EvidenceReason.QUOTE_SIG_INVALID: Explanation(
            403,
            "The quote's signature is not that of the enrolled attestation key.",
            "Quote with the enrolled key of this very machine, or enroll again.",
        ),
        EvidenceReason.QUOTE_SIG_MALFORMED: Explanation(
            400,
            "The quote's signature cannot be read: it is cut off, too long or not in its format.",
            "Send the TPMT_SIGNATURE exactly as the TPM returned it.",
        ),
        EvidenceReason.QUOTE_TOO_LARGE: Explanation(
            413,
            "The quote is larger than any that a TPM makes.",
            "Send the TPMS_ATTEST alone, exactly as the TPM returned it.",
        ),
        EvidenceReason.QUOTE_TRAILING_BYTES: Explanation(
            400,
            "Bytes follow the quote.",
            "Send the TPMS_ATTEST alone, exactly as the TPM returned it.",
        ),
        EvidenceReason.QUOTE_TYPE: Explanation(
            403,
            "The TPM signed something that is not a quote.",
            "Answer the challenge with TPM2_Quote.",
        ),
    }
)
