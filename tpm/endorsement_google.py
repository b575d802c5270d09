"""The instance identity that Compute Engine puts into the certificates of its virtual TPMs.

Extension 1.3.6.1.4.1.11129.2.1.21 is ``SEQUENCE { zone UTF8String, projectNumber INTEGER, projectId UTF8String,
instanceId INTEGER, instanceName UTF8String, security [0] … OPTIONAL }``.
"""

from dataclasses import dataclass

from tpm.endorsement_der import SEQUENCE, Element, malformed, read_children, read_integer, read_only_element
from tpm.endorsement_names import read_string

INSTANCE_IDENTITY = bytes.fromhex("2b06010401d679020115")
MANUFACTURER = "id:474F4F47"
MAX_NUMBER = 1 << 64  # project numbers and instance ids are uint64 in the platform's interface
MAX_TEXT = 256  # project ids, zones and instance names have 63 characters at most, a domain before some project ids


@dataclass(frozen=True, slots=True)
class GoogleInstance:
    """Which virtual machine a certificate was made for."""

    zone: str
    project_number: int
    project_id: str
    instance_id: int
    instance_name: str


def parse_instance_identity(value: bytes) -> GoogleInstance:
    """Parse the extension's value; ``ek.malformed`` where it is not that structure."""
    fields = read_children(value, read_only_element(value, SEQUENCE, "the instance identity"))
    if len(fields) < 5 or any(field.tag != 0xA0 for field in fields[5:]):
        raise malformed("the instance identity does not have its five fields")
    project, instance = read_integer(value, fields[1], "the project number"), read_integer(value, fields[3], "the id")
    if not (0 <= project < MAX_NUMBER and 0 <= instance < MAX_NUMBER):
        raise malformed("a number of the instance identity does not fit 64 bits")
    return GoogleInstance(
        zone=_text(value, fields[0]),
        project_number=project,
        project_id=_text(value, fields[2]),
        instance_id=instance,
        instance_name=_text(value, fields[4]),
    )


def _text(value: bytes, field: Element) -> str:
    text = read_string(value, field)
    if text is None or len(text) > MAX_TEXT:
        raise malformed("a field of the instance identity is not a short text")
    return text
