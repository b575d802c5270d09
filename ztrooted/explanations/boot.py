"""What was booted and loaded: ``ima`` (the kernel's measurement list) and ``log`` (the firmware's event log)."""

from collections.abc import Mapping
from types import MappingProxyType

from tpm.reasons import EvidenceReason
from ztrooted.explanations.explanation import Explanation
from ztrooted.reasons import GateReason, Reason

BOOT: Mapping[Reason, Explanation] = MappingProxyType(
    {
        GateReason.BOOT_AUTHORITY: Explanation(
            403,
            "An image was vouched for by a key or hash that the policy does not allow.",
            "Find out which boot loader or driver it belongs to; approve a baseline that has it, or remove it and reboot.",
        ),
        GateReason.BOOT_COMMAND_LINE: Explanation(
            403,
            "The machine was booted with a command line, or with boot loader commands, that the policy does not allow.",
            "Restore the boot loader's configuration and reboot, or allow the text in the policy or a new baseline.",
        ),
        GateReason.BOOT_EVENT: Explanation(
            403,
            "The firmware measured an event that is not as in the baseline, and the policy does not let it vary.",
            "Compare both boots with 'ztrooted baseline diff'; approve a new baseline, or declare the event as varying.",
        ),
        GateReason.BOOT_FILE: Explanation(
            403,
            "The boot loader read a kernel, an initial RAM disk or another file that the policy does not allow.",
            "If the update was meant, approve a baseline of the updated machine; otherwise restore the file and reboot.",
        ),
        GateReason.BOOT_IMAGE: Explanation(
            403,
            "The firmware started an image that the policy does not allow.",
            "If the update was meant, approve a baseline of the updated machine; otherwise restore the image and reboot.",
        ),
        GateReason.BOOT_KEYS: Explanation(
            403,
            "The Secure Boot keys (PK, KEK, db or dbx) are not those that the policy asks for.",
            "Compare them with 'ztrooted baseline diff'; restore them in the firmware's setup, or approve a new baseline.",
        ),
        GateReason.BOOT_NO_REFERENCE: Explanation(
            403,
            "The policy compares events with the baseline, and the baseline has none.",
            "Capture a baseline from a machine whose class has an event log, and approve it.",
        ),
        EvidenceReason.IMA_BOOT_AGGREGATE: Explanation(
            403,
            "The list's boot aggregate is missing, repeated, or not that of the PCRs quoted.",
            "Reboot the machine and attest again; if it stays, compare the boot with the approved baseline.",
        ),
        EvidenceReason.IMA_DIGEST_ALG: Explanation(
            403,
            "A file was measured with a digest algorithm that is weak, unknown or not accepted.",
            "Set ima_hash=sha256 on the kernel command line, and reboot.",
        ),
        EvidenceReason.IMA_DIGEST_NOT_ALLOWED: Explanation(
            403,
            "A file that is listed was measured with content that is not approved.",
            "Find out who changed the file; approve the new digest or restore the old file, and reboot.",
        ),
        EvidenceReason.IMA_EMPTY: Explanation(
            403,
            "The kernel measures nothing into PCR 10, so what was loaded is unknown.",
            "Enable IMA with a measuring policy on the kernel command line, and reboot.",
        ),
        EvidenceReason.IMA_EXCLUDE_TOO_BROAD: Explanation(
            400,
            "A pattern of excluded paths would exempt too much, or is too costly to match.",
            "Write a narrower pattern: an absolute path with few wildcards.",
        ),
        EvidenceReason.IMA_FORK: Explanation(
            403,
            "The measurement list does not continue the one verified before.",
            "Treat the machine as compromised, or as rebooted unnoticed: examine it, then reboot and enroll again.",
        ),
        EvidenceReason.IMA_KEY_NOT_ALLOWED: Explanation(
            403,
            "A file's signature was made by a key that is not in the approved keyring.",
            "Sign the file with an approved key, or add the key to the keyring if you trust it.",
        ),
        EvidenceReason.IMA_MALFORMED: Explanation(
            400,
            "The measurement list is not in the form the kernel writes.",
            "Send the bytes of the kernel's list unchanged, in whole lines.",
        ),
        EvidenceReason.IMA_NO_PROGRESS: Explanation(
            403,
            "Entries that had been pending are still not covered by the quote one round later.",
            "Examine the machine: entries were added to the list and never measured into the TPM.",
        ),
        EvidenceReason.IMA_NOT_ALLOWED: Explanation(
            403,
            "A file or buffer was measured that is not in the approved list.",
            "Remove what doesn't belong, or add it to the baseline and approve that; then reboot.",
        ),
        EvidenceReason.IMA_OFFSET: Explanation(
            403,
            "The part of the list that was sent does not begin where the last round ended.",
            "Send the list from the entry asked for, or from its beginning.",
        ),
        EvidenceReason.IMA_REPLAY_MISMATCH: Explanation(
            403,
            "The measurement list does not lead to the quoted PCR 10, so entries are missing or changed.",
            "Read the list again right after the quote; if it stays, treat the machine as compromised.",
        ),
        EvidenceReason.IMA_SHRUNK: Explanation(
            403,
            "The measurement list is shorter than the one verified before, and a list only grows within one boot.",
            "Send the whole list; if that is the whole list, treat the machine as compromised.",
        ),
        EvidenceReason.IMA_SIGNATURE_INVALID: Explanation(
            403,
            "A file's signature is missing, malformed or not that of its content.",
            "Sign the file again with an approved key, or restore the signed version.",
        ),
        EvidenceReason.IMA_TEMPLATE_HASH_MISMATCH: Explanation(
            403,
            "What an entry shows is not what was measured, so the list was edited.",
            "Treat the machine as compromised until this is explained.",
        ),
        EvidenceReason.IMA_TEMPLATE_UNKNOWN: Explanation(
            403,
            "An entry uses a template that is unknown or not accepted.",
            "Set ima_template=ima-ng or ima-sig on the kernel command line, and reboot.",
        ),
        EvidenceReason.IMA_TOO_LARGE: Explanation(
            413,
            "The measurement list exceeds what is read in one round.",
            "Send only the new entries; if these are too many, narrow the kernel's IMA policy.",
        ),
        EvidenceReason.IMA_UNVERIFIED_TAIL: Explanation(
            403,
            "Entries at the end of the list are not covered by the quote.",
            "Quote after reading the list, and send both together.",
        ),
        EvidenceReason.IMA_VIOLATION: Explanation(
            403,
            "A file was open for writing while it was measured, so its content is unknown.",
            "Find the program that writes to the file while it is in use, stop it, and reboot.",
        ),
        EvidenceReason.IMA_WRONG_PCR: Explanation(
            403,
            "An entry was measured into another PCR than the one that IMA uses.",
            "Remove the pcr= option from the kernel's IMA policy, and reboot.",
        ),
        EvidenceReason.LOG_AUTHORITY_DUPLICATE: Explanation(
            403,
            "The event log measures the same Secure Boot authority twice.",
            "Update the firmware; if it is current, examine what was booted.",
        ),
        EvidenceReason.LOG_AUTHORITY_EARLY: Explanation(
            403,
            "The event log measures a Secure Boot authority before the firmware closed PCR 7.",
            "Update the firmware; if it is current, examine what was booted.",
        ),
        EvidenceReason.LOG_AUTHORITY_MISSING: Explanation(
            403,
            "Secure Boot is on, and the event log names no authority that approved what was started.",
            "Update the firmware; if it is current, examine what was booted.",
        ),
        EvidenceReason.LOG_BANK_MISSING: Explanation(
            403,
            "The event log has no digests for the PCR bank that was quoted.",
            "Enable that bank in the firmware setup, or quote a bank that the log has.",
        ),
        EvidenceReason.LOG_DIGEST_DATA_MISMATCH: Explanation(
            403,
            "An event's data is not what its digest was made of, so the log was edited.",
            "Read the event log from the kernel again; if it stays, treat the machine as compromised.",
        ),
        EvidenceReason.LOG_DUP_ACTION: Explanation(
            403,
            "The event log shows more boot attempts than the policy allows.",
            "Put the boot entry that works first in the boot order, and reboot.",
        ),
        EvidenceReason.LOG_DUP_VARIABLE: Explanation(
            403,
            "The event log measures a Secure Boot variable twice, so its value is ambiguous.",
            "Update the firmware; if it is current, treat the log as forged.",
        ),
        EvidenceReason.LOG_EBS_MISSING: Explanation(
            403,
            "The event log does not show properly that boot services ended before the kernel ran.",
            "Boot through UEFI with a loader that calls ExitBootServices, and attest again.",
        ),
        EvidenceReason.LOG_EMPTY: Explanation(
            403,
            "The event log is empty or measures nothing.",
            "Check that the firmware records a TCG2 log and that the agent may read it.",
        ),
        EvidenceReason.LOG_EVENT_AFTER_EBS: Explanation(
            403,
            "A firmware PCR was extended after boot services ended, when the firmware no longer runs.",
            "Find the software that extends PCRs 0 to 7, remove it, and reboot.",
        ),
        EvidenceReason.LOG_FORMAT_LEGACY: Explanation(
            403,
            "The event log is of the old SHA-1 form and proves nothing about other banks.",
            "Switch the firmware to TPM 2.0 with the crypto-agile log format, and reboot.",
        ),
        EvidenceReason.LOG_MALFORMED: Explanation(
            400,
            "The event log cannot be read: it is cut off, padded or not in its format.",
            "Send the bytes of the kernel's binary_bios_measurements unchanged.",
        ),
        EvidenceReason.LOG_NO_ACTION_ABUSE: Explanation(
            403,
            "An event marked as not measured has a digest, or starts a second log within the log.",
            "Read the event log from the kernel again; if it stays, treat the machine as compromised.",
        ),
        EvidenceReason.LOG_PCR_INDEX: Explanation(
            400,
            "An event names a PCR that does not exist.",
            "Send the bytes of the kernel's binary_bios_measurements unchanged.",
        ),
        EvidenceReason.LOG_PCR_WITHOUT_EVENTS: Explanation(
            403,
            "A quoted PCR was extended, and the event log has no event for it.",
            "Send the complete log; if it is complete, find what extends this PCR.",
        ),
        EvidenceReason.LOG_REPLAY_MISMATCH: Explanation(
            403,
            "The events do not lead to the quoted PCR values: the log is edited, incomplete or of another boot.",
            "Send the log of the current boot; if it stays, treat the machine as compromised.",
        ),
        EvidenceReason.LOG_SECURE_BOOT_MISSING: Explanation(
            403,
            "The event log does not show the variables that Secure Boot is made of.",
            "Boot through UEFI with Secure Boot, and update the firmware if they are still missing.",
        ),
        EvidenceReason.LOG_SECURE_BOOT_OFF: Explanation(
            403,
            "The machine booted with Secure Boot switched off.",
            "Switch Secure Boot on in the firmware setup, and reboot.",
        ),
        EvidenceReason.LOG_SECURE_BOOT_VALUE: Explanation(
            403,
            "The variable SecureBoot has a value or a namespace that the specification does not know.",
            "Update the firmware; if it is current, treat the log as forged.",
        ),
        EvidenceReason.LOG_SEPARATOR_DISGUISED: Explanation(
            403,
            "A separator was measured under another type, so firmware and later events could be confused.",
            "Examine what was booted: firmware does not do this.",
        ),
        EvidenceReason.LOG_SEPARATOR_DUPLICATE: Explanation(
            403,
            "A PCR has two separators, so it is unclear where the firmware ended.",
            "Update the firmware; if it is current, treat the log as forged.",
        ),
        EvidenceReason.LOG_SEPARATOR_INVALID: Explanation(
            403,
            "A separator's value is not zero: the firmware reported an error, or the event is forged.",
            "Look for firmware errors, repair them, and reboot.",
        ),
        EvidenceReason.LOG_SEPARATOR_MISSING: Explanation(
            403,
            "The firmware did not close a PCR with a separator before it started the loader.",
            "Update the firmware, and reboot.",
        ),
        EvidenceReason.LOG_SIGLIST: Explanation(
            403,
            "A Secure Boot database in the event log is not a well-formed signature list.",
            "Restore the firmware's keys to a known state, and reboot.",
        ),
        EvidenceReason.LOG_STARTUP_LOCALITY: Explanation(
            403,
            "The log is ambiguous or wrong about how the TPM was started, on which PCR 0 depends.",
            "Update the firmware; if it is current, treat the log as forged.",
        ),
        EvidenceReason.LOG_TOO_LARGE: Explanation(
            413,
            "The event log has more bytes or events than are read.",
            "Find what measures so much during boot, such as an entry that is tried again and again.",
        ),
        EvidenceReason.LOG_UEFI_DEBUGGER: Explanation(
            403,
            "The firmware ran with a debugger enabled or DMA protection disabled.",
            "Switch the debugger off or DMA protection on in the firmware setup, and reboot.",
        ),
        EvidenceReason.LOG_UNKNOWN_EVENT_TYPE: Explanation(
            403,
            "An event of a type that has no business in its PCR was measured.",
            "Find out what measured it, remove that, and reboot.",
        ),
        EvidenceReason.LOG_VAR_AFTER_SEPARATOR: Explanation(
            403,
            "A Secure Boot variable was measured after the firmware had closed PCR 7.",
            "Update the firmware; if it is current, treat the log as forged.",
        ),
        EvidenceReason.LOG_VARIABLE: Explanation(
            403,
            "A variable in the event log is malformed, out of order or of a wrong namespace.",
            "Update the firmware; if it is current, treat the log as forged.",
        ),
    }
)
