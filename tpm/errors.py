"""The exception tree of the ``tpm`` room.

::

    TpmError
    ├── EvidenceError        bytes from an executor are refused; carries a reason code
    │   ├── MalformedError   they cannot be parsed
    │   └── RejectedError    they parse, and are not acceptable
    └── DeviceError          our own TPM cannot be reached or used; carries a remedy
"""

from tpm.reasons import EvidenceReason


class TpmError(Exception):
    """Base of everything this room raises on purpose."""


class EvidenceError(TpmError):
    """Evidence is refused.

    ``reason`` is the stable code a script reads; ``detail`` says what was found and what was expected, for a person.
    """

    def __init__(self, reason: EvidenceReason, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail


class MalformedError(EvidenceError):
    """The bytes do not follow their format, so nothing in them has been believed."""


class RejectedError(EvidenceError):
    """The bytes follow their format, and what they say is not acceptable."""


class DeviceError(TpmError):
    """A TPM of our own cannot be opened or used. ``remedy`` says what to do about it."""

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy
