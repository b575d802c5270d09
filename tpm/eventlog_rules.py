"""What a measured boot log must look like to be believed: limits, requirements, and the event types each PCR may hold.

The type of an event is not in its digest, so a type that has no business in a PCR is refused there, known or not.
Defaults deny: Secure Boot on, firmware finished, no debugger, no SHA-1 log.
"""

from dataclasses import dataclass

from tpm.eventlog_format import PCR_COUNT
from tpm.eventlog_types import EventType as T

# The largest log seen on a physical machine had 75 KB and 400 events.
DEFAULT_MAX_BYTES = 256 * 1024
DEFAULT_MAX_EVENTS = 4096

_EVERYWHERE = {T.SEPARATOR, T.ACTION, T.EFI_ACTION}
_FIRMWARE = {
    T.POST_CODE,
    T.POST_CODE2,
    T.EFI_PLATFORM_FIRMWARE_BLOB,
    T.EFI_PLATFORM_FIRMWARE_BLOB2,
    T.EFI_BOOT_SERVICES_DRIVER,
    T.EFI_RUNTIME_SERVICES_DRIVER,
    T.EFI_HANDOFF_TABLES,
    T.EFI_HANDOFF_TABLES2,
    T.EVENT_TAG,
    T.PLATFORM_CONFIG_FLAGS,
}
_SPDM = {T.EFI_SPDM_FIRMWARE_BLOB, T.EFI_SPDM_FIRMWARE_CONFIG}
_LOADER = {
    T.SEPARATOR,
    T.ACTION,
    T.EFI_ACTION,
    T.EVENT_TAG,
    T.COMPACT_HASH,
    T.IPL,
    T.IPL_PARTITION_DATA,
    T.EFI_VARIABLE_AUTHORITY,
    T.EFI_BOOT_SERVICES_APPLICATION,
    T.EFI_VARIABLE_BOOT,
    T.EFI_VARIABLE_BOOT2,
}


def _allowed() -> tuple[frozenset[int], ...]:
    """PFP 1.06 §3.3.4 PCR by PCR, widened by what the firmware of several vendors writes there."""
    types: dict[int, set[T]] = {
        0: _FIRMWARE
        | {T.S_CRTM_CONTENTS, T.S_CRTM_VERSION, T.EFI_HCRTM_EVENT, T.NONHOST_CODE, T.NONHOST_INFO, T.CPU_MICROCODE},
        1: _FIRMWARE
        | {T.CPU_MICROCODE, T.TABLE_OF_DEVICES, T.NONHOST_CONFIG, T.NONHOST_INFO, T.COMPACT_HASH}
        | {T.EFI_VARIABLE_DRIVER_CONFIG, T.EFI_VARIABLE_BOOT, T.EFI_VARIABLE_BOOT2},
        2: _FIRMWARE | _SPDM | {T.NONHOST_CODE, T.EFI_VARIABLE_DRIVER_CONFIG},
        3: _FIRMWARE | _SPDM | {T.NONHOST_CONFIG, T.NONHOST_INFO, T.EFI_VARIABLE_DRIVER_CONFIG},
        4: {T.EFI_BOOT_SERVICES_APPLICATION, T.EFI_BOOT_SERVICES_DRIVER, T.IPL, T.IPL_PARTITION_DATA, T.COMPACT_HASH}
        | {T.OMIT_BOOT_DEVICE_EVENTS, T.EVENT_TAG},
        5: {T.EFI_GPT_EVENT, T.EFI_GPT_EVENT2, T.IPL, T.IPL_PARTITION_DATA, T.EVENT_TAG, T.COMPACT_HASH}
        | {T.EFI_VARIABLE_BOOT, T.EFI_VARIABLE_BOOT2, T.EFI_VARIABLE_DRIVER_CONFIG},
        6: {T.COMPACT_HASH, T.EVENT_TAG, T.PLATFORM_CONFIG_FLAGS, T.TABLE_OF_DEVICES, T.IPL},
        7: {T.EFI_VARIABLE_DRIVER_CONFIG, T.EFI_VARIABLE_AUTHORITY}
        | {T.EFI_SPDM_DEVICE_POLICY, T.EFI_SPDM_DEVICE_AUTHORITY},
    }
    firmware = [frozenset(int(kind) for kind in types[pcr] | _EVERYWHERE) for pcr in range(8)]
    later = frozenset(int(kind) for kind in _LOADER)
    return (*firmware, *[later] * (PCR_COUNT - 8))


DEFAULT_TYPES: tuple[frozenset[int], ...] = _allowed()


@dataclass(frozen=True, slots=True)
class EventLogRules:
    """What ``verify_event_log`` insists on.

    ``secure_boot``: it must be on. ``exit_boot_services``: firmware must have handed over, once. ``separators``: each
    quoted PCR of the firmware must have been closed. ``separator_ones``: 0xFFFFFFFF closes one as well as zero does,
    which the profile allows (§10.4.1) and SeaBIOS writes. ``boot_attempts``: how many boot options may have been tried; a
    second one means that the first ran and gave up. A requirement about a PCR that was not quoted fails.
    ``allowed_types`` are the types that may extend a PCR, by its index; EV_NO_ACTION is judged apart.
    """

    secure_boot: bool = True
    exit_boot_services: bool = True
    separators: bool = True
    separator_ones: bool = False
    boot_attempts: int = 1
    legacy_format: bool = False
    debugger: bool = False
    dma_unprotected: bool = False
    max_bytes: int = DEFAULT_MAX_BYTES
    max_events: int = DEFAULT_MAX_EVENTS
    allowed_types: tuple[frozenset[int], ...] = DEFAULT_TYPES
