"""A log as a directory of tiles (C2SP tlog-tiles): paths, hash tiles, and bundles of entries.

``checkpoint``; ``tile/<L>/<N>`` with 256 hashes of the complete subtrees of level 8·L; ``tile/entries/<N>`` with 256
entries, each behind its length as a 16-bit big-endian integer. The last tile of a level has ``.p/<W>`` behind its number
while it holds only W. N is written in groups of three digits, all but the last with an ``x``: ``x001/x234/067``.
"""

import re
from collections.abc import Iterator, Sequence

from ztrooted import merkle
from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

HEIGHT = 8
WIDTH = 1 << HEIGHT
MAX_ENTRY = 0xFFFF  # what its length can say
MAX_LEVEL = 5  # of 2^48 records, and nobody has as many

_NUMBER = re.compile(r"((?:x[0-9]{3}/)*)([0-9]{3})(?:\.p/([1-9][0-9]{0,2}))?")


def path(kind: int | str, number: int, width: int = WIDTH) -> str:
    """The path of tile ``number`` of level ``kind``, or of ``entries``."""
    groups = [f"{number % 1000:03}"]
    while number := number // 1000:
        groups.insert(0, f"x{number % 1000:03}")
    return f"tile/{kind}/{'/'.join(groups)}" + (f".p/{width}" if width < WIDTH else "")


def parse_number(text: str) -> tuple[int, int] | None:
    """(number, width) of the last part of a tile's path; None for anything but the one form it has."""
    found = _NUMBER.fullmatch(text)
    if found is None:
        return None
    number = int(found[1].replace("x", "").replace("/", "") + found[2])
    width = WIDTH if found[3] is None else int(found[3])
    canonical = path("", number, width).removeprefix("tile//")
    return (number, width) if canonical == text and (found[3] is None or width < WIDTH) else None


def format_entries(entries: Sequence[bytes]) -> bytes:
    """A bundle of entries. ProofError ``lineage.record_malformed`` for one that is too long for the format."""
    for entry in entries:
        if len(entry) > MAX_ENTRY:
            raise ProofError(
                GateReason.LINEAGE_RECORD_MALFORMED,
                f"a record of {len(entry)} bytes has no place among tlog-tiles' entries",
            )
    return b"".join(len(entry).to_bytes(2, "big") + entry for entry in entries)


def parse_entries(data: bytes, width: int) -> list[bytes]:
    """The ``width`` entries of a bundle, with nothing left over. ProofError ``lineage.record_malformed``."""
    entries, at = [], 0
    while at < len(data):
        end = at + 2 + int.from_bytes(data[at : at + 2], "big")
        if at + 2 > len(data) or end > len(data):
            raise ProofError(GateReason.LINEAGE_RECORD_MALFORMED, "an entry is cut off")
        entries.append(data[at + 2 : end])
        at = end
    if len(entries) != width:
        raise ProofError(GateReason.LINEAGE_RECORD_MALFORMED, f"{len(entries)} entries, where {width} belong")
    return entries


def parse_hashes(data: bytes, width: int) -> list[bytes]:
    """The ``width`` hashes of a tile. ProofError ``lineage.proof_invalid``."""
    size = merkle.HASH_SIZE
    if len(data) != width * size:
        raise ProofError(GateReason.LINEAGE_PROOF_INVALID, f"a tile of {len(data)} bytes does not hold {width} hashes")
    return [data[at : at + size] for at in range(0, len(data), size)]


def tiles_of(size: int, first: int = 0) -> Iterator[tuple[int, int]]:
    """(number, width) of each tile of entries of a log of ``size`` entries that holds one from ``first`` on."""
    for number in range(first // WIDTH, -(-size // WIDTH)):
        yield number, min(WIDTH, size - number * WIDTH)
