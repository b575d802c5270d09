"""``TPMS_ATTEST``: what a TPM says in a signed attestation (TPM 2.0 Part 2 §10.12), read and written.

A parsed ``Attest`` is a claim, not a fact: nothing in it is believed before ``tpm.quote`` or ``tpm.certify`` verified
the signature over its ``raw`` bytes. Only a structure that starts with ``TPM_GENERATED_VALUE`` parses at all, because
a restricted key signs that prefix for nobody but the TPM itself (Part 1, Attestation).
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from struct import Struct

from tpm.algorithms import DIGEST_SIZE, Alg
from tpm.codec import Reader
from tpm.errors import MalformedError, RejectedError
from tpm.pcr import PcrSelection, parse_pcr_selection
from tpm.reasons import EvidenceReason

TPM_GENERATED = 0xFF544347

# sizeof(TPMT_HA) with SHA-512: an algorithm identifier and 64 bytes (Part 2 §10.4.3 and §10.5.3).
MAX_DATA = 66
MAX_NAME = 66
MAX_DIGEST = 64
# MAX_NV_BUFFER_SIZE of PC Client TPMs, the most that TPM2_NV_Certify returns at once.
MAX_NV_BUFFER = 2048
# All of the above together; the largest attestation is an NV_Certify.
MAX_ATTEST = 4096

_HEAD = Struct(">IH")
_CLOCK = Struct(">QIIB")
_CLOCK_AND_FIRMWARE = Struct(">QIIBQ")


class AttestType(IntEnum):
    """``TPMI_ST_ATTEST`` (Part 2 §10.12.10)."""

    NV = 0x8014
    COMMAND_AUDIT = 0x8015
    SESSION_AUDIT = 0x8016
    CERTIFY = 0x8017
    QUOTE = 0x8018
    TIME = 0x8019
    CREATION = 0x801A
    NV_DIGEST = 0x801C


@dataclass(frozen=True, slots=True)
class AttestReasons:
    """The codes with which an attestation is refused, chosen by what it is meant to be."""

    malformed: EvidenceReason = EvidenceReason.ATTEST_MALFORMED
    magic: EvidenceReason = EvidenceReason.ATTEST_MAGIC
    type: EvidenceReason = EvidenceReason.ATTEST_TYPE
    trailing: EvidenceReason = EvidenceReason.ATTEST_TRAILING_BYTES
    too_large: EvidenceReason = EvidenceReason.ATTEST_MALFORMED
    selection: EvidenceReason = EvidenceReason.ATTEST_MALFORMED


@dataclass(frozen=True, slots=True)
class ClockInfo:
    """``TPMS_CLOCK_INFO`` (Part 2 §10.11.1): milliseconds, resets, restarts, and whether no time was lost."""

    clock: int
    reset_count: int
    restart_count: int
    safe: bool

    def marshal(self) -> bytes:
        """The 17 bytes of the structure."""
        return _CLOCK.pack(self.clock, self.reset_count, self.restart_count, self.safe)


@dataclass(frozen=True, slots=True)
class QuoteInfo:
    """``TPMS_QUOTE_INFO`` (Part 2 §10.12.4)."""

    selection: PcrSelection
    pcr_digest: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return self.selection.marshal() + sized(self.pcr_digest)


@dataclass(frozen=True, slots=True)
class CertifyInfo:
    """``TPMS_CERTIFY_INFO`` (Part 2 §10.12.3): the Name of a key that lives in the same TPM."""

    name: bytes
    qualified_name: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return sized(self.name) + sized(self.qualified_name)


@dataclass(frozen=True, slots=True)
class CreationInfo:
    """``TPMS_CREATION_INFO`` (Part 2 §10.12.7)."""

    object_name: bytes
    creation_hash: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return sized(self.object_name) + sized(self.creation_hash)


@dataclass(frozen=True, slots=True)
class NvCertifyInfo:
    """``TPMS_NV_CERTIFY_INFO`` (Part 2 §10.12.8): bytes of an NV index, from ``offset``."""

    index_name: bytes
    offset: int
    contents: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return sized(self.index_name) + self.offset.to_bytes(2, "big") + sized(self.contents)


@dataclass(frozen=True, slots=True)
class NvDigestInfo:
    """``TPMS_NV_DIGEST_CERTIFY_INFO`` (Part 2 §10.12.9): the digest of a whole NV index."""

    index_name: bytes
    nv_digest: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return sized(self.index_name) + sized(self.nv_digest)


@dataclass(frozen=True, slots=True)
class TimeInfo:
    """``TPMS_TIME_ATTEST_INFO`` (Part 2 §10.12.2): milliseconds since power-on, the clock, the firmware version."""

    time: int
    clock: ClockInfo
    firmware_version: int

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return self.time.to_bytes(8, "big") + self.clock.marshal() + self.firmware_version.to_bytes(8, "big")


@dataclass(frozen=True, slots=True)
class SessionAuditInfo:
    """``TPMS_SESSION_AUDIT_INFO`` (Part 2 §10.12.6)."""

    exclusive: bool
    session_digest: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        return bytes([self.exclusive]) + sized(self.session_digest)


@dataclass(frozen=True, slots=True)
class CommandAuditInfo:
    """``TPMS_COMMAND_AUDIT_INFO`` (Part 2 §10.12.5)."""

    audit_counter: int
    digest_alg: Alg
    audit_digest: bytes
    command_digest: bytes

    def marshal(self) -> bytes:
        """The bytes of the structure."""
        head = self.audit_counter.to_bytes(8, "big") + self.digest_alg.to_bytes(2, "big")
        return head + sized(self.audit_digest) + sized(self.command_digest)


Attested = (
    QuoteInfo
    | CertifyInfo
    | CreationInfo
    | NvCertifyInfo
    | NvDigestInfo
    | TimeInfo
    | SessionAuditInfo
    | CommandAuditInfo
)


@dataclass(frozen=True, slots=True)
class Attest:
    """A parsed ``TPMS_ATTEST``. ``raw`` is exactly what a signature covers."""

    type: AttestType
    qualified_signer: bytes
    extra_data: bytes
    clock: ClockInfo
    firmware_version: int
    attested: Attested
    raw: bytes

    def marshal(self) -> bytes:
        """Write the structure from its fields; equal to ``raw`` for whatever ``parse_attest`` returned."""
        head = _HEAD.pack(TPM_GENERATED, self.type) + sized(self.qualified_signer) + sized(self.extra_data)
        return head + self.clock.marshal() + self.firmware_version.to_bytes(8, "big") + self.attested.marshal()


def sized(data: bytes) -> bytes:
    """Write a TPM2B: a UINT16 size and the bytes (Part 2 §10.4)."""
    return len(data).to_bytes(2, "big") + data


def _yes_no(reader: Reader, value: int, what: str) -> bool:
    """``TPMI_YES_NO`` is 0 or 1 (Part 2 §9.2); a lenient reader would take 2 for yes."""
    if value > 1:
        reader.fail(f"{what} is {value}, neither 0 nor 1")
    return value == 1


def _read_quote(reader: Reader, selection: EvidenceReason) -> QuoteInfo:
    return QuoteInfo(parse_pcr_selection(reader, selection), reader.sized(MAX_DIGEST, "PCR digest"))


def _read_certify(reader: Reader) -> CertifyInfo:
    return CertifyInfo(reader.sized(MAX_NAME, "name"), reader.sized(MAX_NAME, "qualified name"))


def _read_creation(reader: Reader) -> CreationInfo:
    return CreationInfo(reader.sized(MAX_NAME, "object name"), reader.sized(MAX_DIGEST, "creation hash"))


def _read_nv(reader: Reader) -> NvCertifyInfo:
    name = reader.sized(MAX_NAME, "index name")
    return NvCertifyInfo(name, reader.u16("offset"), reader.sized(MAX_NV_BUFFER, "NV contents"))


def _read_nv_digest(reader: Reader) -> NvDigestInfo:
    return NvDigestInfo(reader.sized(MAX_NAME, "index name"), reader.sized(MAX_DIGEST, "NV digest"))


def _read_time(reader: Reader) -> TimeInfo:
    time = reader.u64("time")
    clock, resets, restarts, safe, firmware = _CLOCK_AND_FIRMWARE.unpack(reader.take(25, "time info"))
    return TimeInfo(time, ClockInfo(clock, resets, restarts, _yes_no(reader, safe, "safe")), firmware)


def _read_session_audit(reader: Reader) -> SessionAuditInfo:
    exclusive = _yes_no(reader, reader.u8("exclusive session"), "exclusive session")
    return SessionAuditInfo(exclusive, reader.sized(MAX_DIGEST, "session digest"))


def _read_command_audit(reader: Reader) -> CommandAuditInfo:
    counter, identifier = reader.u64("audit counter"), reader.u16("digest algorithm")
    if identifier not in DIGEST_SIZE:
        reader.fail(f"0x{identifier:04x} is not a digest algorithm")
    return CommandAuditInfo(
        counter, Alg(identifier), reader.sized(MAX_DIGEST, "audit digest"), reader.sized(MAX_DIGEST, "command digest")
    )


_READ: dict[AttestType, Callable[[Reader], Attested]] = {
    AttestType.NV: _read_nv,
    AttestType.COMMAND_AUDIT: _read_command_audit,
    AttestType.SESSION_AUDIT: _read_session_audit,
    AttestType.CERTIFY: _read_certify,
    AttestType.TIME: _read_time,
    AttestType.CREATION: _read_creation,
    AttestType.NV_DIGEST: _read_nv_digest,
}
_TYPES: dict[int, AttestType] = {int(kind): kind for kind in AttestType}
_ANY = AttestReasons()


def parse_attest(
    data: bytes,
    *,
    expected: AttestType | None = None,
    reasons: AttestReasons = _ANY,
    maximum: int = MAX_ATTEST,
) -> Attest:
    """Parse a ``TPMS_ATTEST`` of at most ``maximum`` bytes with nothing left over.

    ``expected`` refuses any other type before its body is looked at: no body can imitate another.
    Raises MalformedError, or RejectedError with ``reasons.magic`` or ``reasons.type``.
    """
    if len(data) > maximum:
        raise MalformedError(reasons.too_large, f"attestation of over {maximum} bytes")
    reader = Reader(data, reasons.malformed, trailing=reasons.trailing)
    magic = int.from_bytes(reader.take(4, "magic"), "big")
    if magic != TPM_GENERATED:
        raise RejectedError(reasons.magic, f"magic is 0x{magic:08x}, not 0x{TPM_GENERATED:08x}: no TPM generated this")
    identifier = int.from_bytes(reader.take(2, "type"), "big")
    kind = _TYPES.get(identifier)
    if kind is None or expected not in (None, kind):
        wanted = "an attestation" if expected is None else f"TPM_ST_ATTEST_{expected.name}"
        raise RejectedError(reasons.type, f"type is 0x{identifier:04x}, not that of {wanted}")
    qualified_signer = reader.sized(MAX_NAME, "qualified signer")
    extra_data = reader.sized(MAX_DATA, "extra data")
    clock, resets, restarts, safe, firmware = _CLOCK_AND_FIRMWARE.unpack(reader.take(25, "clock and firmware"))
    clock_info = ClockInfo(clock, resets, restarts, _yes_no(reader, safe, "safe"))
    attested = _read_quote(reader, reasons.selection) if kind is AttestType.QUOTE else _READ[kind](reader)
    reader.done("the attestation")
    return Attest(kind, qualified_signer, extra_data, clock_info, firmware, attested, data)
