"""PCR selections, PCR values and what TPM2_PCR_Extend does to them (Part 1 §17, Part 2 §10.6, PC Client PTP §4.6)."""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from struct import Struct

from tpm.algorithms import BANK_BY_NAME, BANKS, DIGEST_SIZE, Alg, digest
from tpm.codec import Reader
from tpm.errors import RejectedError
from tpm.reasons import EvidenceReason

# Bank name -> PCR index -> value.
PcrValues = Mapping[str, Mapping[int, bytes]]

# A PC Client TPM has 24 PCRs, so every bitmap has three bytes (PC Client PTP §4.6, PCR_SELECT_MIN).
PCR_COUNT = 24
BITMAP_SIZE = 3

# HASH_COUNT of the reference implementation: no TPM lists more banks than it knows hash algorithms.
MAX_BANKS = 16

# Dynamic-launch PCRs start at all ones (PC Client PTP §4.6.1).
DYNAMIC_LAUNCH_PCRS = range(17, 23)

# The constructors themselves: hashlib.new costs more than hashing a few PCRs.
_HASHERS = {
    Alg.SHA1: hashlib.sha1,
    Alg.SHA256: hashlib.sha256,
    Alg.SHA384: hashlib.sha384,
    Alg.SHA512: hashlib.sha512,
}

_COUNT = Struct(">I")
_ENTRY = Struct(">HB3s")


@dataclass(frozen=True, slots=True)
class PcrSelection:
    """A ``TPML_PCR_SELECTION``: (bank name, ascending PCR indices) in the order listed, each bank at most once.

    The order counts for the PCR digest and is kept; ``of`` lists banks by ascending algorithm identifier.
    """

    banks: tuple[tuple[str, tuple[int, ...]], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.banks]
        if len(set(names)) != len(names):
            raise ValueError(f"a bank is selected twice: {', '.join(names)}")
        for name, indices in self.banks:
            if name not in BANK_BY_NAME:
                raise ValueError(f"{name!r} is not a bank; the banks are {', '.join(BANK_BY_NAME)}")
            if any(isinstance(index, bool) or not 0 <= index < PCR_COUNT for index in indices):
                raise ValueError(f"PCR indices run from 0 to {PCR_COUNT - 1}, {name} selects {list(indices)}")
            if any(low >= high for low, high in pairwise(indices)):
                raise ValueError(f"PCR indices ascend and are listed once, {name} selects {list(indices)}")

    @classmethod
    def of(cls, banks: Mapping[str, Iterable[int]]) -> "PcrSelection":
        """Build the canonical selection of ``{"sha256": [0, 1, 10]}``; ValueError for what no TPM has."""
        listed = [(name, tuple(sorted(indices))) for name, indices in banks.items()]
        for name, _ in listed:
            if name not in BANK_BY_NAME:
                raise ValueError(f"{name!r} is not a bank; the banks are {', '.join(BANK_BY_NAME)}")
        return cls(tuple(sorted(listed, key=lambda bank: BANK_BY_NAME[bank[0]])))

    def as_dict(self) -> dict[str, list[int]]:
        """The selection as JSON-able names and numbers."""
        return {name: list(indices) for name, indices in self.banks}

    @property
    def is_empty(self) -> bool:
        """True where not a single PCR is selected."""
        return not any(indices for _, indices in self.banks)

    def same_pcrs(self, other: "PcrSelection") -> bool:
        """True where both select the same PCRs of the same banks; the order of the banks is not compared."""
        return self.banks == other.banks or sorted(self.banks) == sorted(other.banks)

    def marshal(self) -> bytes:
        """``TPML_PCR_SELECTION`` with three-byte bitmaps (Part 2 §10.9.7)."""
        entries = [
            _ENTRY.pack(BANK_BY_NAME[name], BITMAP_SIZE, sum(1 << index for index in indices).to_bytes(3, "little"))
            for name, indices in self.banks
        ]
        return _COUNT.pack(len(entries)) + b"".join(entries)


@lru_cache(maxsize=256)
def _decode(entries: bytes) -> PcrSelection:
    """Decode the entries of a selection; ValueError says what is wrong. Cached: a fleet is asked for few selections."""
    banks = []
    for identifier, size, bitmap in _ENTRY.iter_unpack(entries):
        if size != BITMAP_SIZE:
            raise ValueError(f"a PCR bitmap has {size} bytes, not {BITMAP_SIZE}")
        name = BANKS.get(identifier)
        if name is None:
            raise ValueError(f"0x{identifier:04x} is not a PCR bank")
        bits = int.from_bytes(bitmap, "little")
        banks.append((name, tuple(index for index in range(PCR_COUNT) if bits >> index & 1)))
    return PcrSelection(tuple(banks))


def parse_pcr_selection(reader: Reader, refused: EvidenceReason = EvidenceReason.PCR_MALFORMED) -> PcrSelection:
    """Read a ``TPML_PCR_SELECTION`` (Part 2 §10.9.7) from ``reader``.

    RejectedError with ``refused`` where it is not in the one form we ask for: three-byte bitmaps of banks we compute,
    each once.
    """
    (count,) = _COUNT.unpack(reader.take(4, "count of PCR banks"))
    if count > MAX_BANKS:
        reader.fail(f"{count} PCR banks are over the maximum of {MAX_BANKS}")
    entries = reader.take(count * _ENTRY.size, "PCR selection")
    try:
        return _decode(entries)
    except ValueError as error:
        raise RejectedError(refused, f"PCR selection: {error}") from None


def pcr_digest(selection: PcrSelection, values: PcrValues, alg: Alg) -> bytes:
    """Hash with ``alg`` the selected values, banks in listed order, PCRs ascending (Part 1 §17).

    RejectedError where a selected value is missing, or is not as long as its bank's digest: lengths that are not
    checked let bytes move from one PCR to the next.
    """
    parts = []
    for name, indices in selection.banks:
        size = DIGEST_SIZE[BANK_BY_NAME[name]]
        bank = values.get(name, {})
        for index in indices:
            value = bank.get(index)
            if value is None:
                raise RejectedError(EvidenceReason.QUOTE_PCR_VALUES_MISSING, f"no value for {name}:{index}")
            if len(value) != size:
                raise RejectedError(
                    EvidenceReason.QUOTE_PCR_VALUE_LENGTH, f"{name}:{index} has {len(value)} bytes, not {size}"
                )
            parts.append(value)
    return _HASHERS[alg](b"".join(parts)).digest()


def extend(alg: Alg, value: bytes, measurement: bytes) -> bytes:
    """The value of a PCR after TPM2_PCR_Extend: H(value || measurement) (Part 1 §17)."""
    return digest(alg, value + measurement)


def reset_value(alg: Alg, index: int, locality: int = 0) -> bytes:
    """The value of PCR ``index`` after TPM2_Startup(CLEAR).

    All zero; all ones for the dynamic-launch PCRs 17 to 22; PCR 0 carries the locality of the Startup command in its
    last byte (PC Client PTP §4.6.1).
    """
    size = DIGEST_SIZE[alg]
    if index in DYNAMIC_LAUNCH_PCRS:
        return b"\xff" * size
    return bytes(size - 1) + bytes([locality if index == 0 else 0])
