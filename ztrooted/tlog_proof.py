"""One record's proof as a text that needs nothing else (C2SP tlog-proof): its index, the hashes beside its way to the
root, and the checkpoint note with that root.
"""

import base64
from dataclasses import dataclass

from ztrooted import merkle
from ztrooted.checkpoint import VerifiedCheckpoint
from ztrooted.errors import ProofError
from ztrooted.note import MAX_NOTE, MAX_SIZE_DIGITS, decode_base64
from ztrooted.reasons import GateReason

HEADER = b"c2sp.org/tlog-proof@v1"
MAX_EXTRA = 4096  # bytes; we write none, others a VRF proof
MAX_TLOG_PROOF = MAX_NOTE + 16384  # the checkpoint, 128 hashes of 45 characters, the extra line and the first ones


@dataclass(frozen=True, slots=True)
class TlogProof:
    """A proof as parsed. ``checkpoint`` is the note's bytes. ``extra`` is authenticated by nothing."""

    index: int
    hashes: tuple[bytes, ...]
    checkpoint: bytes
    extra: bytes | None = None


def format_tlog_proof(proof: TlogProof) -> bytes:
    """The text of a proof."""
    lines = [HEADER]
    if proof.extra is not None:
        lines.append(b"extra " + base64.b64encode(proof.extra))
    lines.append(b"index %d" % proof.index)
    lines.extend(base64.b64encode(item) for item in proof.hashes)
    return b"\n".join(lines) + b"\n\n" + proof.checkpoint


def parse_tlog_proof(data: bytes) -> TlogProof:
    """Read the text of a proof; nothing is verified by that. ProofError ``lineage.proof_invalid``."""
    if len(data) > MAX_TLOG_PROOF:
        raise _invalid(f"a proof of {len(data)} bytes is over the maximum of {MAX_TLOG_PROOF}")
    head, separator, checkpoint = data.partition(b"\n\n")
    lines = head.split(b"\n")
    if not separator or lines[0] != HEADER:
        raise _invalid("a proof begins with its version and contains an empty line before its checkpoint")
    rest = lines[1:]
    extra: bytes | None = None
    if rest and rest[0].startswith(b"extra "):
        extra = decode_base64(rest[0][6:])
        if extra is None or len(extra) > MAX_EXTRA:
            raise _invalid("the extra data of a proof is not base64 of an allowed length")
        rest = rest[1:]
    if not rest or not rest[0].startswith(b"index "):
        raise _invalid("a proof has no index")
    index = _parse_index(rest[0][6:])
    if len(rest) - 1 > merkle.MAX_PROOF:
        raise _invalid(f"{len(rest) - 1} hashes are over the maximum of {merkle.MAX_PROOF}")
    hashes = tuple(_parse_hash(line) for line in rest[1:])
    return TlogProof(index, hashes, checkpoint, extra)


def verify_tlog_proof(proof: TlogProof, record: bytes, verified: VerifiedCheckpoint) -> None:
    """Check that ``record`` is at the proof's index in the log of ``verified``.

    ``verified`` must come from the proof's own checkpoint or from another one of the same size. Raises ProofError
    ``lineage.proof_invalid``.
    """
    checkpoint = verified.checkpoint
    merkle.verify_inclusion(merkle.leaf_hash(record), proof.index, checkpoint.size, proof.hashes, checkpoint.root)


def _parse_index(digits: bytes) -> int:
    if not digits.isdigit() or len(digits) > MAX_SIZE_DIGITS or (digits.startswith(b"0") and digits != b"0"):
        raise _invalid("the index of a proof is not a number without leading zeroes")
    return int(digits)


def _parse_hash(line: bytes) -> bytes:
    value = decode_base64(line)
    if value is None or len(value) != merkle.HASH_SIZE:
        raise _invalid(f"a line of a proof is not base64 of {merkle.HASH_SIZE} bytes")
    return value


def _invalid(detail: str) -> ProofError:
    return ProofError(GateReason.LINEAGE_PROOF_INVALID, detail)
