"""Measured boot logs made by hand: an honest UEFI boot, and the means to spoil exactly one thing in it.

The PCR values are computed here by the rule of the TPM (TPM 2.0 Part 1 §17.2), not by the code under test.
"""

import hashlib
import struct
from dataclasses import dataclass, field, replace

ALGORITHMS = {"sha1": 4, "sha256": 0x0B, "sha384": 0x0C, "sha512": 0x0D}
GLOBAL = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
DATABASE = bytes.fromhex("cbb219d73a3d9645a3bcdad00e67656f")
X509 = bytes.fromhex("a159c0a5e494a74a87b5ab155c2bf072")
SHA256 = bytes.fromhex("2616c4c14c509240aca941f936934328")
OWNER = bytes(range(16))
CERTIFICATE = b"\x30\x82\x00\x10" + bytes(16)
NO_ACTION, SEPARATOR, EFI_ACTION, IPL = 3, 4, 0x80000007, 0x0D
VAR_DRIVER, VAR_BOOT, VAR_AUTHORITY = 0x80000001, 0x80000002, 0x800000E0
APPLICATION, GPT, CRTM_VERSION = 0x80000003, 0x80000006, 8
CALLING = b"Calling EFI Application from Boot Option"
EXIT = b"Exit Boot Services Invocation"
EXIT_OK = b"Exit Boot Services Returned with Success"
EXIT_FAILED = b"Exit Boot Services Returned with Failure"


@dataclass(frozen=True)
class Record:
    """One event: what it shows (``data``) and what was measured (``measured``, None for nothing)."""

    pcr: int
    kind: int
    data: bytes
    measured: bytes | None = None

    def digest(self, bank: str) -> bytes:
        new = hashlib.new(bank)
        if self.measured is None:
            return bytes(new.digest_size)
        new.update(self.measured)
        return new.digest()


def event(pcr: int, kind: int, data: bytes, measured: bytes | None = None) -> Record:
    """An event whose digest covers its data, unless told otherwise."""
    if kind == NO_ACTION:
        return Record(pcr, kind, data, measured)
    return Record(pcr, kind, data, data if measured is None else measured)


def variable(guid: bytes, name: str, value: bytes) -> bytes:
    """``UEFI_VARIABLE_DATA``."""
    return guid + struct.pack("<QQ", len(name), len(value)) + name.encode("utf-16-le") + value


def signature_list(
    kind: bytes, entries: list[bytes], *, header: bytes = b"", size: int | None = None, each: int | None = None
) -> bytes:
    """``EFI_SIGNATURE_LIST``, with sizes that may lie."""
    body = header + b"".join(OWNER + entry for entry in entries)
    true_each = 16 + len(entries[0]) if entries else 17
    head = kind + struct.pack("<III", 28 + len(body) if size is None else size, len(header), each or true_each)
    return head + body


def configuration(name: str, value: bytes) -> Record:
    """A Secure Boot variable in PCR 7."""
    guid = DATABASE if name in ("db", "dbx") else GLOBAL
    return event(7, VAR_DRIVER, variable(guid, name, value))


def spec_id(banks: tuple[str, ...], *, vendor: bytes = b"") -> bytes:
    """``TCG_EfiSpecIdEvent``."""
    pairs = b"".join(struct.pack("<HH", ALGORITHMS[bank], hashlib.new(bank).digest_size) for bank in banks)
    head = b"Spec ID Event03\x00" + struct.pack("<IBBBBI", 0, 0, 2, 0, 2, len(banks))
    return head + pairs + bytes((len(vendor),)) + vendor


def honest_boot() -> list[Record]:
    """A boot with Secure Boot on, from the firmware's version to the end of boot services."""
    db = signature_list(X509, [CERTIFICATE])
    image = struct.pack("<QQQQ", 0x1000, 0x2000, 0, 4) + b"\x7f\xff\x04\x00"
    gpt = b"EFI PART" + bytes(48) + OWNER + bytes(20) + struct.pack("<Q", 0)
    return [
        event(0, CRTM_VERSION, "v1\x00".encode("utf-16-le")),
        configuration("SecureBoot", b"\x01"),
        configuration("PK", signature_list(X509, [CERTIFICATE])),
        configuration("KEK", signature_list(X509, [CERTIFICATE])),
        configuration("db", db),
        configuration("dbx", signature_list(SHA256, [bytes(32), bytes(31) + b"\x01"])),
        event(7, SEPARATOR, bytes(4)),
        event(1, VAR_BOOT, variable(GLOBAL, "BootOrder", b"\x02\x00\x01\x00"), b"\x02\x00\x01\x00"),
        event(4, EFI_ACTION, CALLING),
        *(event(pcr, SEPARATOR, bytes(4)) for pcr in range(7)),
        event(7, VAR_AUTHORITY, variable(DATABASE, "db", OWNER + CERTIFICATE)),
        event(5, GPT, gpt),
        event(4, APPLICATION, image, b"the image of the boot loader"),
        event(8, IPL, b"grub_cmd: linux /vmlinuz ro\x00", b"linux /vmlinuz ro"),
        event(9, IPL, b"/vmlinuz\x00", b"the image of the kernel"),
        event(8, IPL, b"kernel_cmdline: /vmlinuz ro\x00", b"/vmlinuz ro"),
        event(5, EFI_ACTION, EXIT),
        event(5, EFI_ACTION, EXIT_OK),
    ]


@dataclass
class Log:
    """Records with the bytes and PCR values they make."""

    records: list[Record] = field(default_factory=honest_boot)
    banks: tuple[str, ...] = ("sha1", "sha256")
    locality: int = 0

    def data(self, *, legacy: bool = False, tail: bytes = b"") -> bytes:
        if legacy:
            body = b"".join(_record(r.pcr, r.kind, r.digest("sha1"), r.data) for r in self.records)
            return body + tail
        body = b"".join(self.encode(record) for record in self.records)
        return _record(0, NO_ACTION, bytes(20), spec_id(self.banks)) + body + tail

    def encode(self, record: Record) -> bytes:
        digests = b"".join(struct.pack("<H", ALGORITHMS[bank]) + record.digest(bank) for bank in self.banks)
        head = struct.pack("<III", record.pcr, record.kind, len(self.banks))
        return head + digests + struct.pack("<I", len(record.data)) + record.data

    def pcrs(self, bank: str = "sha256", only: range = range(24)) -> dict[int, bytes]:
        size = hashlib.new(bank).digest_size
        values = {pcr: (b"\xff" if 17 <= pcr <= 22 else b"\x00") * size for pcr in range(24)}
        values[0] = bytes(size - 1) + bytes((self.locality,))
        for record in self.records:
            if record.kind != NO_ACTION and record.pcr < 24:
                values[record.pcr] = hashlib.new(bank, values[record.pcr] + record.digest(bank)).digest()
        return {pcr: values[pcr] for pcr in only}

    def find(self, pcr: int, kind: int, containing: bytes = b"") -> int:
        """The index of the first record of this kind."""
        return next(i for i, r in enumerate(self.records) if r.pcr == pcr and r.kind == kind and containing in r.data)

    def change(self, index: int, **fields: object) -> "Log":
        """Replace fields of one record; the PCR values follow."""
        self.records[index] = replace(self.records[index], **fields)  # type: ignore[arg-type]
        return self

    def insert(self, index: int, *records: Record) -> "Log":
        self.records[index:index] = records
        return self

    def remove(self, pcr: int, kind: int, containing: bytes = b"") -> "Log":
        del self.records[self.find(pcr, kind, containing)]
        return self


def _record(pcr: int, kind: int, digest: bytes, data: bytes) -> bytes:
    return struct.pack("<II", pcr, kind) + digest + struct.pack("<I", len(data)) + data
