"""An NV counter: a number in the TPM that only goes up, whoever asks, and a certificate of what it was (Part 1 §37.2.4).

A counter that is deleted and defined again starts above every value a counter of that TPM ever had, so no copy of a disk
brings an older number back.
"""

import hashlib
import hmac
from dataclasses import dataclass
from enum import IntFlag
from struct import Struct

from tpm.algorithms import Alg
from tpm.attest import AttestReasons, AttestType, NvCertifyInfo, parse_attest, sized
from tpm.attestation_key import AttestationKey
from tpm.codec import Reader
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason
from tpm.signature import SignatureReasons, parse_signature, verify_signature

SIZE = 8  # bytes of a counter's value, big-endian
MAX_NV_PUBLIC = 128  # TPMS_NV_PUBLIC with a SHA-512 policy has 78
MAX_CERTIFY = 512  # as TPM2_Certify: a head, a Name, and eight bytes

_INVALID = EvidenceReason.COUNTER_INVALID
_ATTEST = AttestReasons(_INVALID, _INVALID, _INVALID, _INVALID, _INVALID, _INVALID)
_SIGNATURE = SignatureReasons(_INVALID, _INVALID, _INVALID, _INVALID)
_HEAD = Struct(">IHI")
_TYPE_BITS, _COUNTER = 0xF << 4, 1 << 4


class NvAttributes(IntFlag):
    """The attributes of ``TPMA_NV`` that we use (Part 2 §13.4); bits 4 to 7 are the type, 1 for a counter."""

    AUTH_WRITE = 1 << 2
    POLICY_WRITE = 1 << 3
    COUNTER = _COUNTER
    OWNER_READ = 1 << 17
    AUTH_READ = 1 << 18
    NO_DA = 1 << 25
    WRITTEN = 1 << 29


# Read by anybody, incremented by whoever satisfies the policy, and by nobody else.
OURS = (
    NvAttributes.POLICY_WRITE
    | NvAttributes.COUNTER
    | NvAttributes.OWNER_READ
    | NvAttributes.AUTH_READ
    | NvAttributes.NO_DA
)


@dataclass(frozen=True, slots=True)
class NvPublic:
    """``TPMS_NV_PUBLIC`` (Part 2 §13.5). Its Name changes once, when the index is first written."""

    index: int
    attributes: int
    policy: bytes
    data_size: int

    def marshal(self) -> bytes:
        """The bytes of the structure; nameAlg is SHA-256."""
        head = _HEAD.pack(self.index, Alg.SHA256, self.attributes)
        return head + sized(self.policy) + self.data_size.to_bytes(2, "big")

    @property
    def name(self) -> bytes:
        """nameAlg ‖ H(TPMS_NV_PUBLIC) (Part 1 §16)."""
        return int(Alg.SHA256).to_bytes(2, "big") + hashlib.sha256(self.marshal()).digest()

    @property
    def is_counter(self) -> bool:
        """Whether it is a counter as we define them, and was incremented since."""
        return self.attributes == OURS | NvAttributes.WRITTEN and self.data_size == SIZE and bool(self.policy)


# Raised by anybody: see ``tpm.sealing``.
FLOOR = NvAttributes.AUTH_WRITE | (OURS & ~NvAttributes.POLICY_WRITE)


def counter_public(index: int, policy: bytes, *, written: bool) -> NvPublic:
    """The public area of our counter at ``index``, which ``policy`` (SHA-256 authPolicy) alone increments."""
    return NvPublic(index, OURS | (NvAttributes.WRITTEN if written else 0), policy, SIZE)


def floor_public(index: int) -> NvPublic:
    """The public area of a floor at ``index``, once it was raised."""
    return NvPublic(index, FLOOR | NvAttributes.WRITTEN, b"", SIZE)


def parse_nv_public(data: bytes) -> NvPublic:
    """Read a ``TPMS_NV_PUBLIC`` with nothing left over. MalformedError or RejectedError ``counter.invalid``."""
    if len(data) > MAX_NV_PUBLIC:
        raise RejectedError(_INVALID, f"an NV public area of over {MAX_NV_PUBLIC} bytes")
    reader = Reader(data, _INVALID)
    index, name_alg, attributes = _HEAD.unpack(reader.take(_HEAD.size, "NV public area"))
    public = NvPublic(index, attributes, reader.sized(64, "policy"), reader.u16("data size"))
    reader.done("the NV public area")
    if name_alg != Alg.SHA256:
        raise RejectedError(_INVALID, f"nameAlg of the NV index is 0x{name_alg:04x}, not SHA-256")
    return public


def verify_counter(
    attest: bytes, signature: bytes, key: AttestationKey, *, qualifying_data: bytes, counter: NvPublic
) -> int:
    """The value ``key`` certified the counter to have, for ``qualifying_data`` (Part 3 §31.16, TPM2_NV_Certify).

    1. ``counter`` is a counter that was incremented, and by policy alone.
    2. It is a well-formed certification of an NV index by a TPM.
    3. The signature has the key's own scheme and is the key's.
    4. It was made for these ``qualifying_data``, which are not empty.
    5. It is of that index, by its Name, and of all of its eight bytes.

    Raises RejectedError ``counter.invalid``.
    """
    # 1. The counter
    if not counter.is_counter:
        raise RejectedError(_INVALID, f"NV index 0x{counter.index:08x} is no counter of ours")
    # 2. Structure
    parsed = parse_attest(attest, expected=AttestType.NV, reasons=_ATTEST, maximum=MAX_CERTIFY)
    # 3. Signature
    found = parse_signature(signature, reasons=_SIGNATURE)
    if (found.alg, found.hash_alg) != (key.alg, key.hash_alg):
        raise RejectedError(_INVALID, f"the signature is {found.scheme_name}, not the key's scheme")
    verify_signature(found, key.key, parsed.raw, reasons=_SIGNATURE)
    # 4. Qualifying data
    if not qualifying_data or not hmac.compare_digest(parsed.extra_data, qualifying_data):
        raise RejectedError(_INVALID, "extraData is not the qualifying data")
    # 5. Index and contents
    info = parsed.attested
    if not isinstance(info, NvCertifyInfo) or info.index_name != counter.name:
        raise RejectedError(_INVALID, "another NV index was certified, or one with other attributes")
    if info.offset or len(info.contents) != SIZE:
        raise RejectedError(_INVALID, f"{len(info.contents)} bytes from {info.offset} on are no counter's value")
    return int.from_bytes(info.contents, "big")
