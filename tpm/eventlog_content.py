"""What the data of an event says: typed decoding by event type (PFP 1.06 §10.2 to §10.4).

Decoding tells what an event *claims*. Whether its digest covers that claim is another question, answered by
``tpm.eventlog_verify``: for an image load, for instance, the digest is the image's and the device path was never
measured.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

from tpm.errors import MalformedError
from tpm.eventlog_format import Event, SpecId, parse_spec_id
from tpm.eventlog_loader import LoaderEntry, Tag, parse_tags, plain_text, split_label
from tpm.eventlog_quirks import Quirk
from tpm.eventlog_types import EventType
from tpm.eventlog_uefi import (
    EFI_GLOBAL_VARIABLE,
    EFI_IMAGE_SECURITY_DATABASE,
    SHIM_LOCK,
    BootOption,
    PartitionTable,
    SignatureDatabase,
    Variable,
    device_path_text,
    parse_boot_option,
    parse_partition_table,
    parse_signature_database,
    parse_variable,
)
from tpm.reasons import EvidenceReason

# A table of configuration tables has some 20 entries.
MAX_HANDOFF_TABLES = 256

DATABASES: dict[str, bytes] = {
    "PK": EFI_GLOBAL_VARIABLE,
    "KEK": EFI_GLOBAL_VARIABLE,
    "db": EFI_IMAGE_SECURITY_DATABASE,
    "dbx": EFI_IMAGE_SECURITY_DATABASE,
    "dbt": EFI_IMAGE_SECURITY_DATABASE,
    "dbr": EFI_IMAGE_SECURITY_DATABASE,
}


@dataclass(frozen=True, slots=True)
class Raw:
    """Bytes whose meaning the profile leaves to the vendor, or that do not follow it where nothing depends on them."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Text:
    """Actions, names of firmware parts, versions; ASCII or UTF-16 as the event has it, without closing NULs."""

    text: str


# The two values with which firmware closes a PCR (PFP §10.4.1).
CLOSED = (b"\x00\x00\x00\x00", b"\xff\xff\xff\xff")


@dataclass(frozen=True, slots=True)
class Separator:
    """0 or 0xFFFFFFFF ends the firmware's part of a PCR, 1 says that the firmware failed; later stages use others."""

    value: bytes


@dataclass(frozen=True, slots=True)
class StartupLocality:
    """Where TPM2_Startup came from: the start value of PCR 0."""

    locality: int


@dataclass(frozen=True, slots=True)
class Informational:
    """An EV_NO_ACTION event by its signature; such events are extended nowhere."""

    signature: str
    data: bytes


@dataclass(frozen=True, slots=True)
class VariableEvent:
    """A variable with its value understood: True or False (SecureBoot), a signature database, a boot order, an option.

    ``value`` is the bytes themselves for any other variable, and for a SecureBoot that is not one byte of 0 or 1.
    """

    variable: Variable
    value: bool | SignatureDatabase | tuple[int, ...] | BootOption | bytes


@dataclass(frozen=True, slots=True)
class Authority:
    """What an image was verified with: the variable it came from, and the entry of it that matched.

    ``owner`` is None where the entry was logged without one, as boot loaders do. ``certificate`` is None where the
    entry is no certificate: a hash, or a setting such as SbatLevel.
    """

    variable: Variable
    owner: bytes | None
    certificate: bytes | None

    @property
    def entry(self) -> bytes:
        """The entry without its owner."""
        return self.variable.data if self.owner is None else self.variable.data[16:]


@dataclass(frozen=True, slots=True)
class ImageLoad:
    """``UEFI_IMAGE_LOAD_EVENT``. The digest is the image's Authenticode hash: none of these fields is measured."""

    address: int
    length: int
    link_time_address: int
    device_path: bytes

    @property
    def path(self) -> str:
        """The device path for a person; raises ``MalformedError`` for one that is broken."""
        return device_path_text(self.device_path)


@dataclass(frozen=True, slots=True)
class FirmwareBlob:
    """Where a piece of firmware lay; the digest is the blob's."""

    description: str | None
    base: int
    length: int


@dataclass(frozen=True, slots=True)
class HandoffTables:
    """Tables handed to the OS as (vendor GUID, address); the digest is of the tables' content."""

    description: str | None
    tables: tuple[tuple[bytes, int], ...]


Content = (
    Raw
    | Text
    | Separator
    | SpecId
    | StartupLocality
    | Informational
    | VariableEvent
    | Authority
    | ImageLoad
    | PartitionTable
    | FirmwareBlob
    | HandoffTables
    | LoaderEntry
    | Tag
)


def decode(event: Event) -> Content:
    """The typed content of an event; computed once and kept with the event.

    Raises ``MalformedError``: ``log.variable`` and ``log.siglist`` for variables, ``log.malformed`` for other
    structures that do not follow their type. Free-form types never fail.
    """
    if event.decoded is None:
        decoder = _DECODERS.get(event.type)
        object.__setattr__(event, "decoded", decoder(event) if decoder else Raw(event.data))
    return event.decoded  # type: ignore[return-value]


def _text(event: Event) -> Content:
    return Text(plain_text(event.data))


def _separator(event: Event) -> Content:
    if len(event.data) != 4:
        raise MalformedError(EvidenceReason.LOG_SEPARATOR_INVALID, f"separator of {len(event.data)} bytes")
    return Separator(event.data)


def _no_action(event: Event) -> Content:
    data = event.data
    if data.startswith(b"Spec ID Event03\x00") or (event.number == 0 and data.startswith(b"Spec ID Event\x00")):
        return parse_spec_id(data, quirks=frozenset({Quirk.SPEC_ID_UNVERSIONED}))
    if data.startswith(b"StartupLocality\x00") and len(data) == 17:
        return StartupLocality(data[16])
    return Informational(data[:16].split(b"\x00")[0].decode("ascii", "replace"), data[16:])


def variable_of(event: Event) -> VariableEvent:
    """A variable event with its value; raises ``log.variable`` and ``log.siglist``."""
    variable = parse_variable(event.data)
    name, data = variable.name, variable.data
    if variable.guid == EFI_GLOBAL_VARIABLE:
        if name in ("SecureBoot", "DeployedMode", "AuditMode", "SetupMode") and data in (b"\x00", b"\x01"):
            return VariableEvent(variable, data == b"\x01")
        if name == "BootOrder":
            if len(data) % 2:
                raise MalformedError(EvidenceReason.LOG_VARIABLE, f"boot order of {len(data)} bytes")
            return VariableEvent(variable, struct.unpack(f"<{len(data) // 2}H", data))
        if len(name) == 8 and name.startswith("Boot") and _is_hex(name[4:]) and data:
            return VariableEvent(variable, parse_boot_option(data))
    if DATABASES.get(name) == variable.guid:
        return VariableEvent(variable, parse_signature_database(data))
    return VariableEvent(variable, data)


def _is_hex(text: str) -> bool:
    return all(character in "0123456789ABCDEFabcdef" for character in text)


def _looks_like_certificate(data: bytes) -> bool:
    """Whether ``data`` is exactly one DER SEQUENCE with a two-byte length, as every certificate is."""
    return data[:2] == b"\x30\x82" and len(data) == 4 + int.from_bytes(data[2:4], "big")


def authority_of(event: Event) -> Authority:
    """PFP §10.4.4: EFI_SIGNATURE_DATA, owner first; shim logs what it matched without one. Raises ``log.variable``."""
    variable = parse_variable(event.data)
    data = variable.data
    if _looks_like_certificate(data):
        return Authority(variable, None, data)
    if variable.guid == SHIM_LOCK or len(data) <= 16:
        return Authority(variable, None, None)
    return Authority(variable, data[:16], data[16:] if _looks_like_certificate(data[16:]) else None)


def _image(event: Event) -> Content:
    data = event.data
    if len(data) < 32:
        raise MalformedError(EvidenceReason.LOG_MALFORMED, f"image load event of {len(data)} bytes")
    address, length, link_time, size = struct.unpack_from("<QQQQ", data)
    if 32 + size > len(data):
        raise MalformedError(EvidenceReason.LOG_MALFORMED, f"device path of {size} bytes in an event of {len(data)}")
    return ImageLoad(address, length, link_time, data[32 : 32 + size])


def _gpt(event: Event) -> Content:
    return parse_partition_table(event.data)


def _described(data: bytes) -> tuple[str, bytes]:
    """The length-prefixed description in front of the "2" structures (PFP §10.2.3), and the rest."""
    if not data or 1 + data[0] > len(data):
        raise MalformedError(EvidenceReason.LOG_MALFORMED, "description longer than its event")
    return plain_text(data[1 : 1 + data[0]]), data[1 + data[0] :]


def _blob(event: Event) -> Content:
    if len(event.data) != 16:
        return Text(plain_text(event.data))  # EV_POST_CODE also carries a name
    return FirmwareBlob(None, *struct.unpack("<QQ", event.data))


def _blob2(event: Event) -> Content:
    description, rest = _described(event.data)
    if len(rest) != 16:
        raise MalformedError(EvidenceReason.LOG_MALFORMED, f"firmware blob event with {len(rest)} bytes of location")
    return FirmwareBlob(description, *struct.unpack("<QQ", rest))


def _tables(data: bytes, description: str | None) -> Content:
    count = int.from_bytes(data[:8], "little")
    if len(data) < 8 or count > MAX_HANDOFF_TABLES or len(data) != 8 + 24 * count:
        raise MalformedError(EvidenceReason.LOG_MALFORMED, f"{count} tables in {len(data)} bytes")
    return HandoffTables(description, tuple(struct.iter_unpack("<16sQ", data[8:])))


def _handoff(event: Event) -> Content:
    return _tables(event.data, None)


def _handoff2(event: Event) -> Content:
    description, rest = _described(event.data)
    return _tables(rest, description)


def _ipl(event: Event) -> Content:
    labelled = split_label(event.data)
    if labelled is None:
        # Old GRUB logs one byte of memory behind the NUL of a name.
        data = event.data[:-1] if event.data.find(0) == len(event.data) - 2 else event.data
        return LoaderEntry(None, plain_text(data))
    return LoaderEntry(labelled[0], plain_text(labelled[1]))


def _tag(event: Event) -> Content:
    tags = parse_tags(event.data)
    return tags[0] if tags and len(tags) == 1 else Raw(event.data)


_DECODERS: dict[int, Callable[[Event], Content]] = {
    EventType.POST_CODE: _blob,
    EventType.POST_CODE2: _text,
    EventType.NO_ACTION: _no_action,
    EventType.SEPARATOR: _separator,
    EventType.ACTION: _text,
    EventType.EVENT_TAG: _tag,
    EventType.S_CRTM_CONTENTS: _text,
    EventType.S_CRTM_VERSION: _text,
    EventType.CPU_MICROCODE: _text,
    EventType.PLATFORM_CONFIG_FLAGS: _text,
    EventType.IPL: _ipl,
    EventType.NONHOST_INFO: _text,
    EventType.OMIT_BOOT_DEVICE_EVENTS: _text,
    EventType.EFI_VARIABLE_DRIVER_CONFIG: variable_of,
    EventType.EFI_VARIABLE_BOOT: variable_of,
    EventType.EFI_VARIABLE_BOOT2: variable_of,
    EventType.EFI_BOOT_SERVICES_APPLICATION: _image,
    EventType.EFI_BOOT_SERVICES_DRIVER: _image,
    EventType.EFI_RUNTIME_SERVICES_DRIVER: _image,
    EventType.EFI_GPT_EVENT: _gpt,
    EventType.EFI_ACTION: _text,
    EventType.EFI_PLATFORM_FIRMWARE_BLOB: _blob,
    EventType.EFI_PLATFORM_FIRMWARE_BLOB2: _blob2,
    EventType.EFI_HANDOFF_TABLES: _handoff,
    EventType.EFI_HANDOFF_TABLES2: _handoff2,
    EventType.EFI_HCRTM_EVENT: _text,
    EventType.EFI_VARIABLE_AUTHORITY: authority_of,
}
