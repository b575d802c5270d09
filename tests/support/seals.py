"""A log with everything a checkpoint can carry: its key, witnesses, and a seal by a software attestation key."""

from typing import Any

from tests.support.attestation import SELECTION, VALUES, SoftwareAk
from tests.support.notes import NoteSigner
from ztrooted import merkle
from ztrooted.checkpoint import Checkpoint, SealPolicy, VerifiedCheckpoint, seal_line, seal_nonce, verify_checkpoint
from ztrooted.note import Signature, format_note
from ztrooted.note_keys import SignatureType

ORIGIN = "log.test/lineage"
LOG = NoteSigner.of(ORIGIN, SignatureType.ECDSA)
WITNESSES = [
    NoteSigner.of("witness.test/1", SignatureType.ED25519_COSIGNATURE),
    NoteSigner.of("witness.test/2", SignatureType.ML_DSA_44_COSIGNATURE),
]
AK = SoftwareAk.ecc(fresh=True)
POLICY = SealPolicy(AK.key, SELECTION, VALUES)
RECORDS = [b"record %d" % number for number in range(7)]
CHECKPOINT = Checkpoint(ORIGIN, len(RECORDS), merkle.root(map(merkle.leaf_hash, RECORDS)))


def seal(checkpoint: Checkpoint = CHECKPOINT, ak: SoftwareAk = AK, **fields: Any) -> Signature:
    """A seal of ``checkpoint``; ``fields`` change the quote in it."""
    attest, signature = ak.quote(**({"extra_data": seal_nonce(checkpoint)} | fields))
    return seal_line(checkpoint.origin, ak.public.name, attest, signature, VALUES)


def note(*lines: Signature, checkpoint: Checkpoint = CHECKPOINT, log: NoteSigner | None = LOG) -> bytes:
    """A checkpoint note signed by ``log``, with further lines."""
    first = () if log is None else (log.sign(checkpoint.text),)
    return format_note(checkpoint.text, (*first, *lines))


def verify(data: bytes, **expected: Any) -> VerifiedCheckpoint:
    """Verify against what the auditor of this log trusts, or what ``expected`` says instead."""
    return verify_checkpoint(data, **({"origin": ORIGIN, "log_key": LOG.key} | expected))
