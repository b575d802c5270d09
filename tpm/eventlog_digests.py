"""Does the digest of an event cover its data?

PFP 1.06 §10.4 says so type by type. Where it says yes, data that does not hash to the digest is refused: somebody
rewrote the log. Where it says no (an image, a blob, a file), the data is a description nobody measured, whatever it
looks like.
"""

import hashlib
import hmac
from enum import IntEnum

from tpm.errors import RejectedError
from tpm.eventlog_format import Event
from tpm.eventlog_loader import split_label
from tpm.eventlog_quirks import Quirk
from tpm.eventlog_types import EventType
from tpm.eventlog_uefi import parse_variable
from tpm.reasons import EvidenceReason

# The digest is of the data, all of it.
_WHOLE = frozenset(
    {
        EventType.SEPARATOR,
        EventType.S_CRTM_VERSION,
        EventType.EFI_VARIABLE_DRIVER_CONFIG,
        EventType.EFI_VARIABLE_BOOT2,
        EventType.EFI_GPT_EVENT,
    }
)
# The digest is of the text; a closing NUL may or may not belong to it.
_ACTIONS = frozenset({EventType.ACTION, EventType.EFI_ACTION})
# The alignment of the structure shim copied.
MAX_TRAILING = 8
# The digest is of an image. Data that happens to hash to it would be an image, not a description.
_IMAGES = frozenset(
    {
        EventType.EFI_BOOT_SERVICES_APPLICATION,
        EventType.EFI_BOOT_SERVICES_DRIVER,
        EventType.EFI_RUNTIME_SERVICES_DRIVER,
        EventType.EFI_PLATFORM_FIRMWARE_BLOB,
        EventType.EFI_PLATFORM_FIRMWARE_BLOB2,
    }
)


class Coverage(IntEnum):
    """How much of an event's data its digest covers."""

    NOTHING = 0
    # The value or the text, but not the name, label or number in front of it.
    VALUE = 1
    WHOLE = 2


def verify_data(event: Event, bank: str, quirks: frozenset[Quirk] = frozenset()) -> Coverage:
    """How much of a measured event's data its digest covers.

    Raises ``RejectedError`` ``log.digest_data_mismatch`` where the type promises that it does and the digest disagrees,
    ``MalformedError`` ``log.variable`` for a variable that cannot be parsed.
    """
    if event.type in _IMAGES:
        return Coverage.NOTHING
    measured = event.digests[bank]
    new = getattr(hashlib, bank)

    def covers(data: bytes) -> bool:
        return hmac.compare_digest(new(data, usedforsecurity=False).digest(), measured)

    data = event.data
    if covers(data):
        return Coverage.WHOLE
    coverage = Coverage.WHOLE
    required = True
    if event.type in _ACTIONS:
        covered = data.endswith(b"\x00") and covers(data[:-1])
    elif event.type == EventType.EFI_VARIABLE_BOOT:
        coverage = Coverage.VALUE  # what EDK2 measured until EV_EFI_VARIABLE_BOOT2 came
        covered = covers(parse_variable(data).data)
    elif event.type == EventType.EFI_VARIABLE_AUTHORITY:
        trailing = len(parse_variable(data).trailing)
        covered = Quirk.AUTHORITY_TRAILING_BYTES in quirks and 0 < trailing <= MAX_TRAILING and covers(data[:-1])
    elif event.type == EventType.IPL and (labelled := split_label(data)):
        coverage = Coverage.VALUE
        covered = covers(labelled[1]) or covers(labelled[1] + b"\x00")
    elif event.type == EventType.EVENT_TAG and len(data) > 8 and covers(data[8:]):
        return Coverage.VALUE
    else:
        required = event.type in _WHOLE
        # A closing NUL may or may not belong to it; older systemd-boot logs half of one and measures all of it.
        covered = (
            event.type == EventType.IPL and data.endswith(b"\x00") and (covers(data[:-1]) or covers(data + b"\x00"))
        )
    if required and not covered:
        raise RejectedError(
            EvidenceReason.LOG_DIGEST_DATA_MISMATCH,
            f"event {event.number} ({event.type_name}, PCR {event.pcr}) shows data that is not what was measured",
        )
    return coverage if covered else Coverage.NOTHING
