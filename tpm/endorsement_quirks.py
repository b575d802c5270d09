"""Ways in which real EK certificates deviate from DER or from the profile, each under a name an operator may allow.

Nothing here is on by default. A quirk never changes the bytes that the issuer signed: it only lets the reader go on
where the signed bytes say something unambiguous in a form the standard forbids. Every quirk that was needed shows in
the result.
"""

from enum import StrEnum

from tpm.endorsement_der import SEQUENCE, malformed, read_element
from tpm.errors import MalformedError

# TCG PC Client Implementation Specification 1.21 §7.3.2: TCG_PCCLIENT_STORED_CERT, tag 0x1001, type 0 (full
# certificate).
_STORED_CERTIFICATE = bytes.fromhex("100100")
_STORED_HEADER_BYTES = 5
# What erased NV memory reads as.
_FILL_BYTES = (b"\x00", b"\xff")


class EkQuirk(StrEnum):
    """One named deviation of certificates that real chips carry."""

    NV_PADDING = "nv_padding"
    """The certificate is followed by 0x00 or 0xFF up to the size of its NV index (ST33 parts: 1,600 bytes of index)."""
    NV_HEADER = "nv_header"
    """The certificate is wrapped in TCG_PCCLIENT_STORED_CERT, a leftover of TPM 1.2 that some TPM 2.0 parts kept."""
    EXPLICIT_DEFAULT = "explicit_default"
    """``critical`` or ``cA`` is FALSE and written out, which X.690 §11.5 forbids (Intel platform trust technology)."""
    UNSORTED_NAME = "unsorted_name"
    """The attributes of a multi-valued RDN are not in the order of X.690 §11.6 (Nuvoton, its authorities included)."""
    PADDED_SERIAL = "padded_serial"
    """The serial number has superfluous leading zeros, against X.690 §8.3.2 (Nuvoton)."""
    NONCRITICAL_EXTENSION = "noncritical_extension"
    """basicConstraints or keyUsage is there and not critical, against the profile (AMD firmware TPMs)."""
    GOOGLE_VTPM = "google_vtpm"
    """No EKU and no TPM attributes; extension 1.3.6.1.4.1.11129.2.1.21 names the instance (Compute Engine)."""


# Those that concern the encoding alone, and that a window on evidence may allow without weakening any rule of the
# profile.
ENCODING_QUIRKS = frozenset(EkQuirk) - {EkQuirk.GOOGLE_VTPM, EkQuirk.NONCRITICAL_EXTENSION}


class QuirkLedger:
    """What is allowed, and what was needed."""

    __slots__ = ("_allowed", "used")

    def __init__(self, allowed: frozenset[EkQuirk]) -> None:
        self._allowed = allowed
        self.used: set[EkQuirk] = set()

    def need(self, quirk: EkQuirk, detail: str) -> None:
        """Go on under ``quirk`` where it is allowed; otherwise refuse with ``ek.malformed``."""
        if quirk not in self._allowed:
            raise self.refusal(quirk, detail)
        self.used.add(quirk)

    @staticmethod
    def refusal(quirk: EkQuirk, detail: str) -> MalformedError:
        """The error that names the quirk an operator would have to allow."""
        return malformed(f"{detail} (quirk {quirk} is not allowed)")


def unwrap_nv(data: bytes, ledger: QuirkLedger) -> bytes:
    """Strip what an NV index adds around a certificate: a header before it, fill bytes after it."""
    if data.startswith(_STORED_CERTIFICATE):
        ledger.need(EkQuirk.NV_HEADER, "the certificate has the NV header of TPM 1.2")
        size = int.from_bytes(data[3:_STORED_HEADER_BYTES], "big")
        if _STORED_HEADER_BYTES + size > len(data):
            raise malformed(f"the NV header promises {size} bytes, {len(data) - _STORED_HEADER_BYTES} follow")
        data, rest = data[_STORED_HEADER_BYTES : _STORED_HEADER_BYTES + size], data[_STORED_HEADER_BYTES + size :]
        _require_fill(rest)
    outer = read_element(data, 0, len(data))
    rest = data[outer.end :]
    if outer.tag == SEQUENCE and rest:
        _require_fill(rest)
        ledger.need(EkQuirk.NV_PADDING, f"{len(rest)} fill bytes follow the certificate")
    return data[: outer.end]


def _require_fill(rest: bytes) -> None:
    if (rest and rest.strip(rest[:1])) or rest[:1] not in (*_FILL_BYTES, b""):
        raise malformed(f"{len(rest)} bytes follow the end of the certificate")
