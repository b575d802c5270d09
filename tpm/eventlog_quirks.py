"""Deviations of real firmware and boot loaders from the profile, each a named option that is off unless asked for.

A quirk makes one defect acceptable and nothing else. Those that were needed are listed in the result, so that a policy
can see what it tolerated. Each names who writes such logs.
"""

from enum import StrEnum


class Quirk(StrEnum):
    """Options of ``parse_event_log``. The first group concerns the framing, the second what is measured."""

    # Confidential-computing logs (ACPI CCEL) and some exported logs are padded to the size of their area with 0xFF.
    FF_PADDING = "ff_padding"
    # Windows appends a WBCL trust point: EV_NO_ACTION for PCR 0xFFFFFFFF, with a digest, extended nowhere.
    NO_ACTION_WITHOUT_PCR = "no_action_without_pcr"
    # The size of the Spec ID event leaves out the vendor bytes that follow it; tpm2-tools reads on.
    SPEC_ID_VENDOR_SIZE = "spec_id_vendor_size"
    # Confidential-computing logs number registers where others number PCRs, from 1; some count their Spec ID event in.
    SPEC_ID_REGISTER = "spec_id_register"
    # The Spec ID signature ends in zeros instead of "03"; test logs of an agent in wide use look like this.
    SPEC_ID_UNVERSIONED = "spec_id_unversioned"

    # Some makers measure their firmware and its settings under types of their own (0x8401 in PCR 2 of current laptops).
    VENDOR_EVENT_TYPE = "vendor_event_type"
    # Linux before 5.3 does not read the table of final events: its log stops before ExitBootServices, which is in PCR 5.
    EXIT_NOT_LOGGED = "exit_not_logged"
    # Firmware that closes PCR 7 only at Ready to Boot has verified drivers by then: authorities come before.
    AUTHORITY_BEFORE_SEPARATOR = "authority_before_separator"
    # shim measures what it verified an image with, though firmware had measured the same; before 15.3 for each image.
    AUTHORITY_REPEATED = "authority_repeated"
    # shim before 15.3 logs a few bytes of memory behind the variable and measures all of them but the last.
    AUTHORITY_TRAILING_BYTES = "authority_trailing_bytes"
