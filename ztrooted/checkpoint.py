"""Checkpoints: what a log claims to be, signed by its key, cosigned by witnesses, sealed by a TPM.

A checkpoint is a signed note (C2SP tlog-checkpoint) whose text is three lines and never more: origin, size, root. The
*seal* is one more signature line, of the type 0xff that C2SP leaves to others. It carries a TPM2_Quote by the gateway's
attestation key whose extraData is the SHA-256 of the text, so the PCRs of the machine that kept the log are bound to
what the log was:

* key name: the origin; key id: SHA-256(origin ‖ LF ‖ 0xff ‖ "ztrooted.tpm-quote/v1" ‖ Name of the key)[:4]
* after the key id: "ztrooted.tpm-quote/v1" ‖ LF ‖ TPM2B of the ``TPMS_ATTEST`` ‖ TPM2B of the ``TPMT_SIGNATURE`` ‖ the
  quoted PCR values, in the order of the quote's selection, nothing between them

A checkpoint that is an *anchor* has one line more: what the TPM's counter was, in a TPM2_NV_Certify; see ``counter_line``.

Verifiers that don't know these types ignore them, as the format demands.
"""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from tpm.attestation_key import AttestationKey
from tpm.counter import NvPublic, verify_counter
from tpm.errors import EvidenceError
from tpm.pcr import PcrSelection, PcrValues
from tpm.quote import Quote, VerifiedQuote, parse_quote, verify_quote
from ztrooted import merkle
from ztrooted.errors import ProofError
from ztrooted.note import Note, Signature, Signed, parse_note, tree_head, verify_note
from ztrooted.note_keys import NoteKey, SignatureType, is_key_name, key_identifier
from ztrooted.reasons import GateReason

SEAL_TYPE = b"ztrooted.tpm-quote/v1"
COUNTER_TYPE = b"ztrooted.tpm-counter/v1"
MAX_WITNESSES = 64  # keys a verifier is configured with
COSIGNATURES = (SignatureType.ED25519_COSIGNATURE, SignatureType.ML_DSA_44_COSIGNATURE)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A log's name, its number of records, and their root hash (32 bytes)."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> bytes:
        """The three lines that are signed."""
        return format_checkpoint(self)


@dataclass(frozen=True, slots=True)
class SealPolicy:
    """What a seal must be: by this key, over exactly these PCRs and, where ``pcr_values`` are given, with them.

    ``former`` are states that were replaced: each by the size of the lineage when it was, and good up to there.
    """

    ak: AttestationKey
    selection: PcrSelection
    pcr_values: PcrValues | None = None
    former: Mapping[int, PcrValues] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class VerifiedCheckpoint:
    """A checkpoint its log signed. ``cosigners`` are distinct witnesses; ``seal`` is None where none was asked for."""

    checkpoint: Checkpoint
    cosigners: tuple[Signed, ...]
    seal: VerifiedQuote | None

    @property
    def sealed(self) -> bool:
        """Whether a seal was required and verified. A seal that nobody checked is no seal."""
        return self.seal is not None


def format_checkpoint(checkpoint: Checkpoint) -> bytes:
    """The text of a checkpoint."""
    root = base64.b64encode(checkpoint.root).decode()
    return f"{checkpoint.origin}\n{checkpoint.size}\n{root}\n".encode()


def parse_checkpoint(text: bytes) -> Checkpoint:
    """Read the text of a checkpoint, which is not verified by that. ProofError ``checkpoint.malformed``."""
    head = tree_head(text)
    if head is None or not is_key_name(head.origin):
        raise _malformed("a checkpoint is three lines: origin, size and root")
    checkpoint = Checkpoint(head.origin, head.size, head.root)
    if format_checkpoint(checkpoint) != text:
        raise _malformed("a checkpoint has no lines after its root")
    if checkpoint.size == 0 and checkpoint.root != merkle.EMPTY_ROOT:
        raise _malformed("the root of an empty log is not the empty root")
    return checkpoint


def seal_nonce(checkpoint: Checkpoint) -> bytes:
    """What a quote must have as its extraData to seal this checkpoint: SHA-256 of its text."""
    return hashlib.sha256(format_checkpoint(checkpoint)).digest()


def seal_line(origin: str, ak_name: bytes, attest: bytes, signature: bytes, pcr_values: PcrValues) -> Signature:
    """The signature line that carries a seal.

    ``attest`` is the ``TPMS_ATTEST`` of the quote, ``signature`` its ``TPMT_SIGNATURE``, ``pcr_values`` what was read
    with it, ``ak_name`` the Name of its key. EvidenceError where that is no quote; KeyError where a selected PCR has no
    value.
    """
    values = b"".join(
        pcr_values[bank][index]
        for bank, indices in parse_quote(attest, signature).info.selection.banks
        for index in indices
    )
    payload = SEAL_TYPE + b"\n" + _sized(attest) + _sized(signature) + values
    return Signature(origin, _seal_key_id(origin, ak_name), payload)


def counter_line(origin: str, ak_name: bytes, attest: bytes, signature: bytes) -> Signature:
    """The signature line that says what the TPM's counter was: a TPM2_NV_Certify whose extraData is ``seal_nonce``.

    As a seal's, with the type "ztrooted.tpm-counter/v1" and nothing after the two structures.
    """
    payload = COUNTER_TYPE + b"\n" + _sized(attest) + _sized(signature)
    return Signature(origin, _seal_key_id(origin, ak_name, COUNTER_TYPE), payload)


def verify_counter_line(data: bytes, *, ak: AttestationKey, counter: NvPublic) -> int | None:
    """What ``counter`` was when this checkpoint was made, or None where the note does not say. It is verified before.

    ProofError ``checkpoint.seal`` for a line that says it wrongly.
    """
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    key_id = _seal_key_id(checkpoint.origin, ak.name, COUNTER_TYPE)
    lines = [line for line in note.signatures if (line.name, line.key_id) == (checkpoint.origin, key_id)]
    if not lines:
        return None
    if len(lines) > 1:
        raise _bad_seal(f"{len(lines)} lines say what the counter was")
    label, newline, rest = lines[0].value.partition(b"\n")
    if label != COUNTER_TYPE or not newline:
        raise _bad_seal("the line does not begin with its type")
    attest, rest = _take_sized(rest)
    signature, rest = _take_sized(rest)
    if rest:
        raise _bad_seal(f"{len(rest)} bytes follow what the TPM says of its counter")
    try:
        return verify_counter(attest, signature, ak, qualifying_data=seal_nonce(checkpoint), counter=counter)
    except EvidenceError as error:
        raise _bad_seal(str(error)) from error


def verify_checkpoint(
    data: bytes,
    *,
    origin: str,
    log_key: NoteKey,
    additional: NoteKey | None = None,
    witnesses: Sequence[NoteKey] = (),
    quorum: int = 0,
    seal: SealPolicy | None = None,
) -> VerifiedCheckpoint:
    """Verify a checkpoint note against what the verifier was told to trust. Raises ProofError.

    ``additional`` is another key of the log. It is known, so what it signed has to verify, and it is never enough: it
    stands neither for the log's key nor for a witness.

    1. It is a note, its text a checkpoint: ``note.malformed``, ``checkpoint.malformed``.
    2. It is about the log ``origin``: ``checkpoint.origin``.
    3. There is a signature by the log's key: ``checkpoint.key``.
    4. Each signature by a known key verifies: ``note.signature``, ``note.key``.
    5. ``quorum`` different witnesses cosigned, the log's own keys not among them: ``checkpoint.quorum``.
    6. Where ``seal`` says what it must be, there is one seal and it is that: ``checkpoint.seal``.
    """
    # 1.
    note = parse_note(data)
    checkpoint = parse_checkpoint(note.text)
    # 2.
    if checkpoint.origin != origin:
        raise ProofError(
            GateReason.CHECKPOINT_ORIGIN, f"a checkpoint of {checkpoint.origin!r:.80}, not of {origin!r:.80}"
        )
    # 3.
    if not any((line.name, line.key_id) == (log_key.name, log_key.key_id) for line in note.signatures):
        raise ProofError(GateReason.CHECKPOINT_KEY, f"no signature by {log_key.name} ({log_key.key_id:08x})")
    # 4.
    own = (log_key,) if additional is None else (log_key, additional)
    verified = verify_note(note, (*own, *_cosigners(witnesses)))
    # 5.
    cosigners = tuple(one for one in verified.signed_by if one.key.identity not in {key.identity for key in own})
    if len(cosigners) < quorum:
        raise ProofError(
            GateReason.CHECKPOINT_QUORUM, f"{len(cosigners)} known witnesses cosigned, {quorum} are needed"
        )
    # 6.
    sealed = None if seal is None else _verify_seal(note, checkpoint, seal)
    return VerifiedCheckpoint(checkpoint, cosigners, sealed)


def accept_witnesses(witnesses: Sequence[NoteKey], quorum: int = 0) -> tuple[NoteKey, ...]:
    """The witnesses that somebody names, where each is one and there are enough. ProofError ``note.key`` otherwise.

    One name or one key pair twice is one witness, who must not be counted twice.
    """
    _cosigners(witnesses)
    for values in ([one.name for one in witnesses], [one.identity for one in witnesses]):
        if len(set(values)) < len(witnesses):
            raise ProofError(GateReason.NOTE_KEY, "two witnesses have the same name or the same key")
    if not 0 <= quorum <= len(witnesses):
        raise ProofError(GateReason.NOTE_KEY, f"a quorum of {quorum} can't be had of {len(witnesses)} witnesses")
    return tuple(witnesses)


def _cosigners(witnesses: Sequence[NoteKey]) -> Sequence[NoteKey]:
    if len(witnesses) > MAX_WITNESSES:
        raise ProofError(GateReason.NOTE_KEY, f"{len(witnesses)} witnesses are over the maximum of {MAX_WITNESSES}")
    for witness in witnesses:
        if witness.type not in COSIGNATURES:
            raise ProofError(GateReason.NOTE_KEY, f"the key of {witness.name} makes no cosignatures")
    return witnesses


def _verify_seal(note: Note, checkpoint: Checkpoint, policy: SealPolicy) -> VerifiedQuote:
    key_id = _seal_key_id(checkpoint.origin, policy.ak.name)
    lines = [line for line in note.signatures if (line.name, line.key_id) == (checkpoint.origin, key_id)]
    if len(lines) != 1:
        raise _bad_seal(f"there are {len(lines)} seals by this key, not one")
    try:
        quote, values = _parse_seal(lines[0].value)
        verified = verify_quote(
            quote, policy.ak, nonce=seal_nonce(checkpoint), selection=policy.selection, pcr_values=values
        )
    except EvidenceError as error:
        raise _bad_seal(str(error)) from error
    if policy.pcr_values is not None:
        earlier = (values for until, values in policy.former.items() if checkpoint.size <= until)
        if verified.pcr_values not in earlier:
            _check_values(verified, policy.pcr_values)
    return verified


def _check_values(verified: VerifiedQuote, expected: PcrValues) -> None:
    for bank, values in verified.pcr_values.items():
        for index, value in values.items():
            if expected.get(bank, {}).get(index) != value:
                raise _bad_seal(f"{bank}:{index} is {value.hex()}, which is not an expected value")


def _parse_seal(payload: bytes) -> tuple[Quote, PcrValues]:
    label, newline, rest = payload.partition(b"\n")
    if label != SEAL_TYPE or not newline:
        raise _bad_seal("the seal does not begin with its type")
    attest, rest = _take_sized(rest)
    signature, rest = _take_sized(rest)
    quote = parse_quote(attest, signature)
    values: dict[str, dict[int, bytes]] = {}
    for bank, indices in quote.info.selection.banks:
        size = DIGEST_SIZE[BANK_BY_NAME[bank]]
        for index in indices:
            values.setdefault(bank, {})[index] = rest[:size]
            rest = rest[size:]
    if rest:
        raise _bad_seal(f"{len(rest)} bytes follow the PCR values of the seal")
    return quote, values


def _take_sized(data: bytes) -> tuple[bytes, bytes]:
    """A TPM2B and what follows it; ``parse_quote`` bounds what is in it."""
    end = 2 + int.from_bytes(data[:2], "big")
    if len(data) < end:
        raise _bad_seal("a structure in the seal is cut off")
    return data[2:end], data[end:]


def _sized(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _seal_key_id(origin: str, ak_name: bytes, kind: bytes = SEAL_TYPE) -> int:
    return int.from_bytes(key_identifier(origin, b"\xff" + kind, ak_name), "big")


def _malformed(detail: str) -> ProofError:
    return ProofError(GateReason.CHECKPOINT_MALFORMED, detail)


def _bad_seal(detail: str) -> ProofError:
    return ProofError(GateReason.CHECKPOINT_SEAL, detail)
