"""What a TPM keeps about its EK in NV: certificates, CAs, and vendors' own templates (TCG EK Credential Profile §2.2).

Pure: reading an NV index is a parameter. Nothing read here is believed; ``tpm.endorsement`` verifies it.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

from tpm.errors import DeviceError
from tpm.templates import ENDORSEMENT_TEMPLATES, EndorsementTemplate, with_nonce

# Chains of CAs lie in these indices, one DER certificate after the other across index boundaries (§2.2.1.5).
_CHAIN = range(0x01C00100, 0x01C00200)
# Real chains hold two or three CAs; a DER header is at most five bytes for what fits into NV.
MAX_CHAIN = 16

ReadNv = Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class EndorsementKey:
    """The EK: its public area (TPM2B_PUBLIC), its certificate (DER) where the TPM has one, the CAs stored with it."""

    public: bytes
    certificate: bytes | None
    chain: tuple[bytes, ...]
    template: str


def choose_template(indices: frozenset[int], read: ReadNv) -> EndorsementTemplate:
    """The EK to use, among the templates of which ``indices`` holds a certificate; the P-256 one where none does.

    The choice depends on nothing that an owner changes in daily use, since a machine's identity hangs on it.
    """
    for known in ENDORSEMENT_TEMPLATES:
        if known.certificate_index in indices:
            return _as_made_by_vendor(known, indices, read)
    return ENDORSEMENT_TEMPLATES[0]


def _as_made_by_vendor(known: EndorsementTemplate, indices: frozenset[int], read: ReadNv) -> EndorsementTemplate:
    """Apply the nonce or template a vendor left beside a low-range certificate (§2.2.1.4)."""
    if known.template_index in indices:
        return replace(known, template=read(known.template_index))
    if known.nonce_index in indices:
        return replace(known, template=with_nonce(known.template, read(known.nonce_index)))
    return known


def read_certificate(known: EndorsementTemplate, indices: frozenset[int], read: ReadNv) -> bytes | None:
    """The certificate of ``known``, without the padding of its index; None where the TPM has none."""
    if known.certificate_index not in indices:
        return None
    first, _ = _split_first(read(known.certificate_index))
    return first


def read_chain(indices: frozenset[int], read: ReadNv) -> tuple[bytes, ...]:
    """The certificates of CAs stored in the TPM, in their order."""
    rest = b"".join(read(index) for index in sorted(indices.intersection(_CHAIN)))
    chain: list[bytes] = []
    while rest[:1] == b"\x30":
        if len(chain) == MAX_CHAIN:
            raise DeviceError(f"the TPM stores more than {MAX_CHAIN} certificates", "this is not an EK chain")
        first, rest = _split_first(rest)
        chain.append(first)
    return tuple(chain)


def _split_first(data: bytes) -> tuple[bytes, bytes]:
    """Split off one DER SEQUENCE by its length (X.690 §8.1.3); what does not look like one is returned whole."""
    if len(data) < 2 or data[0] != 0x30:
        return data, b""
    header, size = 2, data[1]
    if size & 0x80:
        header = 2 + (size & 0x7F)
        size = int.from_bytes(data[2:header], "big")
    return data[: header + size], data[header + size :]
