"""A witness: it remembers the newest checkpoint of each log, and cosigns only what that one grew into.

The rules of C2SP tlog-witness for ``POST /add-checkpoint``, in their order, each with its status:

1. The body is an old size, up to 63 hashes, an empty line and a checkpoint: 400.
2. The log is one that this witness knows: 404.
3. One of the log's keys signed, and no signature by such a key is wrong: 403.
4. The old size is not above the checkpoint's: 400.
5. The old size is the one that is remembered: 409, with the remembered size.
6. A checkpoint of the remembered size has the remembered root: 409 likewise.
7. The proof shows that the log only appended; from nothing, and to the same, it is empty: 422.
8. It is remembered, for good, before its cosignature is given away.

Rules 5 to 8 are one transaction. No file of ours needs a TPM for this, and any log will do.
"""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from http import HTTPStatus

from ztrooted import merkle
from ztrooted.clock import Clock
from ztrooted.cosigner import Cosigner
from ztrooted.errors import GateError, ProofError
from ztrooted.note import Note, decode_base64, parse_note, tree_head, verify_note
from ztrooted.note_keys import MAX_NAME, NoteKey, TreeHead
from ztrooted.reasons import GateReason
from ztrooted.witness_store import Remembered, WitnessStore

MAX_PROOF_LINES = 63  # C2SP tlog-witness, add-checkpoint
MAX_BODY = 64 << 10  # bytes; a proof of 63 lines has 3 KiB, a post-quantum signature as much
SIZE_TYPE = "text/x.tlog.size"
_OLD = re.compile(rb"old (0|[1-9][0-9]{0,18})")


@dataclass(frozen=True, slots=True)
class Request:
    """What a log asks: to cosign the checkpoint ``note`` after the one of ``old`` records."""

    old: int
    proof: tuple[bytes, ...]
    note: Note
    head: TreeHead


class Refused(Exception):  # noqa: N818 -- an answer, not a defect
    """The answer to a request that is not cosigned; ``size`` is what is remembered, where the answer says it."""

    def __init__(self, status: HTTPStatus, cause: GateError, size: int | None = None) -> None:
        super().__init__(str(cause))
        self.status = status
        self.cause = cause
        self.size = size


def format_request(old: int, proof: Sequence[bytes], note: bytes) -> bytes:
    """The body that asks for a cosignature of the checkpoint ``note``."""
    return b"old %d\n" % old + b"".join(b64encode(one) + b"\n" for one in proof) + b"\n" + note


def parse_request(body: bytes) -> Request:
    """Read a body. ProofError ``witness.request``, ``note.malformed`` or ``checkpoint.malformed``."""
    front, empty, rest = body.partition(b"\n\n")
    lines = front.split(b"\n")
    size = _OLD.fullmatch(lines[0])
    if not empty or size is None or int(size[1]) >= merkle.MAX_SIZE:
        raise _malformed("a request is 'old', a size, lines of hashes, an empty line and a checkpoint")
    if len(lines) - 1 > MAX_PROOF_LINES:
        raise _malformed(f"a proof of {len(lines) - 1} lines is over the maximum of {MAX_PROOF_LINES}")
    proof = tuple(_hash(line) for line in lines[1:])
    note = parse_note(rest)
    head = tree_head(note.text)
    # Lines behind the root are the log's own business, but none is empty (C2SP tlog-checkpoint).
    if head is None or b"\n\n" in note.text or len(head.origin.encode()) > MAX_NAME or head.size >= merkle.MAX_SIZE:
        raise ProofError(GateReason.CHECKPOINT_MALFORMED, "what follows the empty line is not a checkpoint")
    return Request(int(size[1]), proof, note, head)


class Witness:
    """Answers requests; any number of threads and processes may share one store."""

    def __init__(
        self, logs: Mapping[str, Sequence[NoteKey]], cosigners: Sequence[Cosigner], store: WitnessStore, clock: Clock
    ) -> None:
        self._logs = logs
        self._cosigners = cosigners
        self._store = store
        self._clock = clock

    def add_checkpoint(self, body: bytes) -> bytes:
        """The cosignature lines, once the checkpoint is remembered. Refused otherwise; sqlite3.Error: nothing happened."""
        # 1.
        try:
            asked = parse_request(body)
        except ProofError as error:
            raise Refused(HTTPStatus.BAD_REQUEST, error) from error
        # 2.
        keys = self._logs.get(asked.head.origin)
        if keys is None:
            raise Refused(
                HTTPStatus.NOT_FOUND, ProofError(GateReason.CHECKPOINT_ORIGIN, "this witness does not know the log")
            )
        # 3.
        try:
            verify_note(asked.note, keys)
        except ProofError as error:
            raise Refused(HTTPStatus.FORBIDDEN, error) from error
        # 4.
        if asked.old > asked.head.size:
            detail = f"the old size {asked.old} is above the checkpoint's, {asked.head.size}"
            raise Refused(HTTPStatus.BAD_REQUEST, _malformed(detail))
        with self._store.changing(asked.head.origin) as entry:
            check_growth(asked, entry.remembered)  # 5. to 7.
            # 8. No earlier than before, whatever this machine's clock says: the newest cosignature is over the largest tree.
            time_s = max(self._clock.now_ms() // 1000, entry.remembered.time_s)
            lines = "".join(one.cosign(asked.note.text, asked.head, time_s).line() for one in self._cosigners)
            entry.remember(Remembered(asked.head.size, asked.head.root, time_s), asked.note.text)
        return lines.encode()


def check_growth(asked: Request, known: Remembered) -> None:
    """Rules 5 to 7: whether what is asked grew out of what is ``known``. Refused otherwise."""
    head = asked.head
    # 5.
    if asked.old != known.size:
        conflict = ProofError(GateReason.WITNESS_REQUEST, f"the size remembered is {known.size}, not {asked.old}")
        raise Refused(HTTPStatus.CONFLICT, conflict, known.size)
    # 6.
    if head.size == known.size and head.root != known.root:
        split = ProofError(GateReason.CHECKPOINT_SPLIT_VIEW, f"another root of {known.size} records is remembered")
        raise Refused(HTTPStatus.CONFLICT, split, known.size)
    # 7.
    try:
        if known.size == 0:
            if asked.proof:
                raise ProofError(GateReason.LINEAGE_PROOF_INVALID, "there is nothing to prove from an empty log")
        else:
            merkle.verify_consistency(known.size, head.size, known.root, head.root, asked.proof)
    except ProofError as error:
        raise Refused(HTTPStatus.UNPROCESSABLE_ENTITY, error) from error


def _hash(line: bytes) -> bytes:
    found = decode_base64(line)
    if found is None or len(found) != merkle.HASH_SIZE:
        raise _malformed("a line of the proof is not a hash in base64")
    return found


def _malformed(detail: str) -> ProofError:
    return ProofError(GateReason.WITNESS_REQUEST, detail)
