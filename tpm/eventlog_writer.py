"""Writes measured boot logs the way UEFI firmware does, for simulated machines. No verifier imports this.

Clauses: TCG PC Client Platform Firmware Profile 1.06 ("PFP") for events, UEFI 2.10 for what is inside them.
"""

import hashlib
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from tpm.eventlog_types import EventType
from tpm.eventlog_uefi import CERT_SHA256, CERT_X509

_HARD_DRIVE = struct.Struct("<BBHIQQ16sBB")
_NODE = struct.Struct("<BBH")
_END_OF_PATH = b"\x7f\xff\x04\x00"
_P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True)
class Measurement:
    """One event to be: ``data`` is logged; what is hashed is ``measured``, or ``data`` where that is None."""

    pcr: int
    type: EventType
    data: bytes
    measured: bytes | None = None

    def digests(self, banks: Sequence[str]) -> dict[str, bytes]:
        """The digest per bank."""
        hashed = self.data if self.measured is None else self.measured
        return {bank: hashlib.new(bank, hashed, usedforsecurity=False).digest() for bank in banks}


def header(banks: Sequence[str]) -> bytes:
    """The Spec ID event that begins a crypto-agile log (PFP §10.4.5.1), in the SHA-1 form."""
    algorithms = [BANK_BY_NAME[bank] for bank in banks]
    body = struct.pack("<16sIBBBBI", b"Spec ID Event03", 0, 0, 2, 0, 2, len(algorithms))
    body += b"".join(struct.pack("<HH", algorithm, DIGEST_SIZE[algorithm]) for algorithm in algorithms) + b"\0"
    return struct.pack("<II20sI", 0, EventType.NO_ACTION, bytes(20), len(body)) + body


def record(pcr: int, kind: EventType, digests: Mapping[str, bytes], data: bytes) -> bytes:
    """TCG_PCR_EVENT2 (PFP §10.2.2)."""
    listed = b"".join(struct.pack("<H", BANK_BY_NAME[bank]) + value for bank, value in digests.items())
    return struct.pack("<III", pcr, kind, len(digests)) + listed + struct.pack("<I", len(data)) + data


def no_action(data: bytes, banks: Sequence[str]) -> bytes:
    """An EV_NO_ACTION record: digests of zeros, extended nowhere (PFP §10.4.5)."""
    zeros = {bank: bytes(DIGEST_SIZE[BANK_BY_NAME[bank]]) for bank in banks}
    return record(0, EventType.NO_ACTION, zeros, data)


def variable(guid: bytes, name: str, value: bytes) -> bytes:
    """UEFI_VARIABLE_DATA (PFP §10.2.6)."""
    return struct.pack("<16sQQ", guid, len(name), len(value)) + name.encode("utf-16-le") + value


def signature_lists(owner: bytes, certificates: Iterable[bytes], sha256: Sequence[bytes] = ()) -> bytes:
    """EFI_SIGNATURE_LISTs (UEFI §32.4.1): one for each certificate, whose sizes differ, and one for all hashes."""

    def listed(kind: bytes, entries: Sequence[bytes]) -> bytes:
        each = 16 + len(entries[0])
        body = b"".join(owner + entry for entry in entries)
        return struct.pack("<16sIII", kind, 28 + len(body), 0, each) + body

    lists = [listed(CERT_X509, [certificate]) for certificate in certificates]
    return b"".join(lists) + (listed(CERT_SHA256, sha256) if sha256 else b"")


def node(kind: int, sub: int, body: bytes) -> bytes:
    """One device path node (UEFI §10.3.1)."""
    return _NODE.pack(kind, sub, 4 + len(body)) + body


def file_path(partition: bytes, name: str) -> bytes:
    """The device path of a file on a GPT partition of an NVMe disk, down from the PCI root (UEFI §10.3)."""
    disk = node(2, 1, struct.pack("<II", 0x0A0341D0, 0)) + node(1, 1, b"\0\1") + node(3, 23, struct.pack("<IQ", 1, 0))
    return disk + partition_path(partition) + node(4, 4, name.encode("utf-16-le") + b"\0\0") + _END_OF_PATH


def partition_path(partition: bytes) -> bytes:
    """The node of the first GPT partition, named by its GUID (UEFI §10.3.5.1)."""
    return _HARD_DRIVE.pack(4, 1, _HARD_DRIVE.size, 1, 2048, 1 << 20, partition, 2, 2)


def image_load(path: bytes, size: int) -> bytes:
    """UEFI_IMAGE_LOAD_EVENT (PFP §10.2.3); the address is a plausible one, and like all of this not measured."""
    return struct.pack("<QQQQ", 0x7E000000, size, 0, len(path)) + path


def boot_option(description: str, path: bytes) -> bytes:
    """EFI_LOAD_OPTION (UEFI §3.1.3), active."""
    return struct.pack("<IH", 1, len(path)) + description.encode("utf-16-le") + b"\0\0" + path


def firmware_blob(description: str, base: int, size: int) -> bytes:
    """UEFI_PLATFORM_FIRMWARE_BLOB2 (PFP §10.2.4)."""
    return bytes((len(description),)) + description.encode() + struct.pack("<QQ", base, size)


def handoff_tables(description: str, guid: bytes, address: int) -> bytes:
    """UEFI_HANDOFF_TABLE_POINTERS2 with one table (PFP §10.2.5)."""
    return bytes((len(description),)) + description.encode() + struct.pack("<Q16sQ", 1, guid, address)


def partition_table(disk: bytes, partitions: Sequence[tuple[bytes, bytes, str]]) -> bytes:
    """UEFI_GPT_DATA (PFP §10.2.7) of partitions (type, GUID, name), a mebibyte to each from the second on."""
    entries = b"".join(
        struct.pack("<16s16sQQQ72s", kind, guid, 2048 * number, 2048 * number + 2047, 0, name.encode("utf-16-le"))
        for number, (kind, guid, name) in enumerate(partitions, 1)
    )
    head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, 2047, 34, 2014, disk, 2, 128, 128, 0)
    return head + struct.pack("<Q", len(partitions)) + entries


def tagged(number: int, text: str) -> bytes:
    """TCG_PCClientTaggedEvent (PFP §10.2.8) with a text as its data."""
    data = text.encode() + b"\0"
    return struct.pack("<II", number, len(data)) + data


def certificate(name: str) -> bytes:
    """A self-signed certificate (DER) for ``name``: the same bytes each time, as a database in a machine's flash is.

    The key is a digest of the name, which is fine for a decoration: nothing trusts it.
    """
    secret = int.from_bytes(hashlib.sha512(name.encode()).digest(), "big") % (_P256_ORDER - 1) + 1
    key = ec.derive_private_key(secret, ec.SECP256R1())
    subject = x509.Name(
        [
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Simulated Firmware"),
            x509.NameAttribute(NameOID.COMMON_NAME, name),
        ]
    )
    builder = x509.CertificateBuilder(subject, subject, key.public_key(), int.from_bytes(name.encode()[:8], "big") + 1)
    builder = builder.not_valid_before(datetime(2020, 1, 1, tzinfo=UTC)).not_valid_after(
        datetime(2040, 1, 1, tzinfo=UTC)
    )
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    signed = builder.sign(key, hashes.SHA256(), ecdsa_deterministic=True)
    return signed.public_bytes(serialization.Encoding.DER)
