"""UEFI structures inside boot events: variables, signature lists, device paths, boot options, partition tables.

Clauses are of the UEFI specification 2.10, except ``UEFI_VARIABLE_DATA`` (PFP 1.06 §10.2.6). GUIDs stay the 16 bytes of
the structure; ``guid_text`` prints one. Every function raises ``MalformedError`` and nothing else.
"""

import hashlib
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NoReturn

from cryptography import x509
from cryptography.utils import CryptographyDeprecationWarning
from cryptography.x509.oid import NameOID

from tpm.errors import MalformedError
from tpm.reasons import EvidenceReason

# The longest variable names in use have some 40 characters.
MAX_NAME_CHARACTERS = 512
# Eight nodes describe a disk behind a bridge; network and NVMe-oF paths are the longest, under 20.
MAX_PATH_NODES = 64
# dbx holds some 400 hashes today and has to fit NVRAM of about 64 KB.
MAX_SIGNATURES = 16384
MAX_SIGNATURE_LISTS = 1024
# Tables have 128 entries; larger ones are possible, a thousand were never seen.
MAX_PARTITIONS = 1024

EFI_GLOBAL_VARIABLE = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
EFI_IMAGE_SECURITY_DATABASE = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
DEVICE_SIGNATURE_DATABASE = bytes.fromhex("f4b4c2b95fbf2d468adfc5c70ac35dad")
SHIM_LOCK = bytes.fromhex("50ab5d6046e00043abb63dd810dd8b23")

CERT_X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")
CERT_SHA256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
# Bytes of one signature after its owner (§32.4.1) for every type but X.509, whose certificates have any size.
SIGNATURE_SIZES: dict[bytes, int] = {
    CERT_SHA256: 32,
    bytes.fromhex("12a56c8210cfc94ab187be01496631bd"): 20,  # SHA-1
    bytes.fromhex("33526e0b5ca6c9449407d9ab83bfc8bd"): 28,  # SHA-224
    bytes.fromhex("07533effd09fc94885f18ad56c701e01"): 48,  # SHA-384
    bytes.fromhex("ae0f3e09c4a6504f9f1bd41e2b89c19a"): 64,  # SHA-512
    bytes.fromhex("e866573c9c26344eaa14ed776e85b3b6"): 256,  # RSA-2048 modulus
    bytes.fromhex("9061b3e29b873d4aad8df2e7bba32784"): 256,  # RSA-2048 signature over SHA-256
    bytes.fromhex("92a4d23bc0967940b420fcf98ef103ed"): 48,  # SHA-256 of an X.509 certificate, and a time
    bytes.fromhex("6e877670c280e64eaad228b349a6865b"): 64,  # the same with SHA-384
    bytes.fromhex("63bf6d440225da4cbcfa2465d2b0fe9d"): 80,  # the same with SHA-512
}

_VARIABLE = struct.Struct("<16sQQ")
_LIST = struct.Struct("<16sIII")
_NODE = struct.Struct("<BBH")
_PARTITION = struct.Struct("<16s16sQQQ72s")
_OPTION = struct.Struct("<IH")


def _fail(detail: str, reason: EvidenceReason = EvidenceReason.LOG_MALFORMED) -> NoReturn:
    raise MalformedError(reason, detail)


def guid_text(guid: bytes) -> str:
    """The registry form of a GUID: the first three fields are little-endian."""
    first, second, third = struct.unpack_from("<IHH", guid)
    return f"{first:08x}-{second:04x}-{third:04x}-{guid[8:10].hex()}-{guid[10:].hex()}"


def utf16(data: bytes, what: str, reason: EvidenceReason = EvidenceReason.LOG_MALFORMED) -> str:
    """UTF-16LE text without surrogates left alone."""
    try:
        return data.decode("utf-16-le")
    except UnicodeDecodeError:
        _fail(f"{what} is not UTF-16", reason)


@dataclass(frozen=True, slots=True)
class SignatureList:
    """One ``EFI_SIGNATURE_LIST`` (§32.4.1): its type and its entries as (owner, data)."""

    type: bytes
    entries: tuple[tuple[bytes, bytes], ...]


@dataclass(frozen=True, slots=True)
class SignatureDatabase:
    """The value of PK, KEK, db, dbx and their like."""

    lists: tuple[SignatureList, ...]

    @property
    def certificates(self) -> tuple[bytes, ...]:
        """DER certificates, in order."""
        return tuple(data for found in self.lists if found.type == CERT_X509 for _, data in found.entries)

    @property
    def hashes(self) -> tuple[bytes, ...]:
        """SHA-256 image hashes, in order."""
        return tuple(data for found in self.lists if found.type == CERT_SHA256 for _, data in found.entries)

    @property
    def subjects(self) -> tuple[str, ...]:
        """The common names of the certificates, for a person; names prove nothing."""
        return tuple(certificate_name(der) for der in self.certificates)


def certificate_name(der: bytes) -> str:
    """The subject's common name, or the whole subject where it has none; the SHA-256 of what cannot be read."""
    try:
        with warnings.catch_warnings():
            # Certificates with a serial number of zero lie in the db of machines that are sold.
            warnings.simplefilter("ignore", CryptographyDeprecationWarning)
            subject = x509.load_der_x509_certificate(der).subject
        names = subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        return str(names[-1].value) if names else subject.rfc4514_string()
    except ValueError:
        return f"sha256:{hashlib.sha256(der).hexdigest()}"


def parse_signature_database(data: bytes) -> SignatureDatabase:
    """Parse consecutive signature lists that fill ``data`` exactly; no bytes are an empty database.

    Raises ``log.siglist``. A header is refused: no type defines one (§32.4.1), and a reader that disagrees about its
    size reads hashes out of the middle of a certificate. Each type has its size, so that nothing is read as another.
    """
    lists: list[SignatureList] = []
    at, end, total = 0, len(data), 0
    while at < end:
        if end - at < 28:
            _fail(f"{end - at} bytes are no signature list", EvidenceReason.LOG_SIGLIST)
        kind, size, header, each = _LIST.unpack_from(data, at)
        if not 28 <= size <= end - at:
            _fail(f"signature list of {size} bytes, {end - at} are left", EvidenceReason.LOG_SIGLIST)
        if header:
            _fail(f"signature list with a header of {header} bytes", EvidenceReason.LOG_SIGLIST)
        expected = SIGNATURE_SIZES.get(kind)
        if (each != 16 + expected if expected else each <= 16) or (size - 28) % each:
            _fail(f"signatures of {each} bytes in a list of {size}", EvidenceReason.LOG_SIGLIST)
        count = (size - 28) // each
        total += count
        if total > MAX_SIGNATURES or len(lists) >= MAX_SIGNATURE_LISTS:
            _fail(f"more than {MAX_SIGNATURES} signatures or {MAX_SIGNATURE_LISTS} lists", EvidenceReason.LOG_SIGLIST)
        entries = tuple(struct.iter_unpack(f"16s{each - 16}s", data[at + 28 : at + size]))
        lists.append(SignatureList(kind, entries))
        at += size
    return SignatureDatabase(tuple(lists))


@dataclass(frozen=True, slots=True)
class Variable:
    """``UEFI_VARIABLE_DATA``: name, namespace and value. ``trailing`` is what the event holds behind it."""

    guid: bytes
    name: str
    data: bytes
    trailing: bytes = b""


def parse_variable(data: bytes) -> Variable:
    """Parse the data of a variable event; raises ``log.variable``.

    The two lengths are in characters and in bytes. Bytes behind the variable are kept apart, not refused: some boot
    loaders log one too many (see ``tpm.eventlog_quirks``).
    """
    if len(data) < 32:
        _fail(f"variable event of {len(data)} bytes", EvidenceReason.LOG_VARIABLE)
    guid, characters, size = _VARIABLE.unpack_from(data)
    if not 0 < characters <= MAX_NAME_CHARACTERS:
        _fail(f"variable name of {characters} characters", EvidenceReason.LOG_VARIABLE)
    value = 32 + 2 * characters
    if value + size > len(data):
        _fail(f"variable of {value + size} bytes in an event of {len(data)}", EvidenceReason.LOG_VARIABLE)
    name = utf16(data[32:value], "variable name", EvidenceReason.LOG_VARIABLE)
    if "\x00" in name:
        _fail("variable name with a NUL", EvidenceReason.LOG_VARIABLE)
    return Variable(guid, name, data[value : value + size], data[value + size :])


@dataclass(frozen=True, slots=True)
class BootOption:
    """``EFI_LOAD_OPTION`` (§3.1.3). ``device_path`` is kept as bytes, see ``device_path_text``."""

    attributes: int
    description: str
    device_path: bytes
    optional_data: bytes


def parse_boot_option(data: bytes) -> BootOption:
    """Parse the value of Boot####; raises ``log.variable``."""
    if len(data) < 8:
        _fail(f"boot option of {len(data)} bytes", EvidenceReason.LOG_VARIABLE)
    attributes, size = _OPTION.unpack_from(data)
    stop = 6
    while data[stop : stop + 2] != b"\x00\x00":
        stop += 2
        if stop + 2 > len(data):
            _fail("boot option without the end of its description", EvidenceReason.LOG_VARIABLE)
    path = stop + 2
    if path + size > len(data):
        _fail(f"device path of {size} bytes in a boot option of {len(data)}", EvidenceReason.LOG_VARIABLE)
    description = utf16(data[6:stop], "boot option description", EvidenceReason.LOG_VARIABLE)
    return BootOption(attributes, description, data[path : path + size], data[path + size :])


@dataclass(frozen=True, slots=True)
class Partition:
    """One entry of a GUID partition table (§5.3.3)."""

    type: bytes
    guid: bytes
    first_block: int
    last_block: int
    attributes: int
    name: str


@dataclass(frozen=True, slots=True)
class PartitionTable:
    """``UEFI_GPT_DATA`` (PFP §10.2.7)."""

    disk: bytes
    partitions: tuple[Partition, ...]


def parse_partition_table(data: bytes) -> PartitionTable:
    """Parse the data of a GPT event, header and the entries in use, to the last byte; raises ``log.malformed``."""
    if len(data) < 100 or data[:8] != b"EFI PART":
        _fail(f"partition table event of {len(data)} bytes without its signature")
    count = int.from_bytes(data[92:100], "little")
    if count > MAX_PARTITIONS or len(data) != 100 + 128 * count:
        _fail(f"{count} partitions in a partition table event of {len(data)} bytes")
    partitions = tuple(
        Partition(kind, guid, first, last, flags, name.decode("utf-16-le", "replace").split("\x00")[0])
        for kind, guid, first, last, flags, name in _PARTITION.iter_unpack(data[100:])
    )
    return PartitionTable(data[56:72], partitions)


def device_path_nodes(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The nodes (type, subtype, body) of a device path up to its end node (§10.3); raises ``log.malformed``."""
    at = 0
    for _ in range(MAX_PATH_NODES):
        if len(data) - at < 4:
            if at == len(data):
                return
            _fail("device path is cut off")
        kind, sub, size = _NODE.unpack_from(data, at)
        if size < 4 or at + size > len(data):
            _fail(f"device path node of {size} bytes, {len(data) - at} are left")
        if kind == 0x7F and sub == 0xFF:
            return
        yield kind, sub, data[at + 4 : at + size]
        at += size
    _fail(f"device path of more than {MAX_PATH_NODES} nodes")


def _disk(body: bytes) -> str:
    number, start, size, signature, _, kind = struct.unpack_from("<IQQ16sBB", body)
    named = f"GPT,{guid_text(signature)}" if kind == 2 else f"MBR,0x{int.from_bytes(signature[:4], 'little'):08x}"
    return f"HD({number},{named},0x{start:x},0x{size:x})"


def _acpi(body: bytes) -> str:
    hid, uid = struct.unpack_from("<II", body)
    return f"PciRoot(0x{uid:x})" if hid in (0x0A0341D0, 0x0A0841D0) else f"Acpi(0x{hid:08x},0x{uid:x})"


# (type, subtype) -> smallest body and how it is printed (§10.6.1.6). Everything else is printed as bytes.
_PRINTERS: dict[tuple[int, int], tuple[int, Callable[[bytes], str]]] = {
    (1, 1): (2, lambda body: f"Pci(0x{body[1]:x},0x{body[0]:x})"),
    (2, 1): (8, _acpi),
    (3, 2): (4, lambda body: "Scsi(0x{:x},0x{:x})".format(*struct.unpack_from("<HH", body))),
    (3, 5): (2, lambda body: f"USB(0x{body[0]:x},0x{body[1]:x})"),
    (3, 11): (32, lambda body: f"MAC({body[:6].hex()})"),
    (3, 18): (6, lambda body: "Sata(0x{:x},0x{:x},0x{:x})".format(*struct.unpack_from("<HHH", body))),
    (3, 23): (12, lambda body: f"NVMe(0x{int.from_bytes(body[:4], 'little'):x},{body[4:12].hex('-')})"),
    (4, 1): (38, _disk),
    (4, 4): (0, lambda body: body.decode("utf-16-le", "replace").rstrip("\x00")),
    (4, 6): (16, lambda body: f"FvFile({guid_text(body)})"),
    (4, 7): (16, lambda body: f"Fv({guid_text(body)})"),
}


def device_path_text(data: bytes) -> str:
    """A device path for a person. What it names was not necessarily measured; raises ``log.malformed``."""
    parts = []
    for kind, sub, body in device_path_nodes(data):
        least, show = _PRINTERS.get((kind, sub), (0, None))
        known = show is not None and len(body) >= least
        parts.append(show(body) if show and known else f"Path({kind},{sub},{body.hex()})")
    return "/".join(parts)
