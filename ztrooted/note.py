"""Signed notes (C2SP signed-note): a text, an empty line, and lines of signatures over the text.

``parse_note`` reads the form and believes nothing; ``verify_note`` says which of the keys it was given signed. What
other keys signed is ignored, as the format demands: that is how logs rotate keys and witnesses join.
"""

import base64
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ztrooted.errors import ProofError
from ztrooted.note_keys import NoteKey, TreeHead, check_signature, is_key_name
from ztrooted.reasons import GateReason

MAX_NOTE = 512 << 10  # bytes; 100 post-quantum signatures and a text that nobody has to page through
MAX_SIGNATURES = 100  # the same as Go's sumdb/note; the specification asks for at least 16
MAX_SIZE_DIGITS = 19  # of a tree size, which stays below 2^63

_DASH = "— "
_CONTROL = re.compile(rb"[\x00-\x09\x0b-\x1f]")


@dataclass(frozen=True, slots=True)
class Signature:
    """One signature line: who claims to have signed, and the bytes after the key id. Nothing about it is verified."""

    name: str
    key_id: int
    value: bytes

    def line(self) -> str:
        """The line as it stands in a note, with its newline."""
        encoded = base64.b64encode(self.key_id.to_bytes(4, "big") + self.value).decode()
        return f"{_DASH}{self.name} {encoded}\n"


@dataclass(frozen=True, slots=True)
class Note:
    """A note as parsed. ``text`` ends with its newline and must not be believed before ``verify_note``."""

    text: bytes
    signatures: tuple[Signature, ...]


@dataclass(frozen=True, slots=True)
class Signed:
    """A known key whose signature verified. ``timestamp`` is what a cosignature or tree head signature commits to."""

    key: NoteKey
    timestamp: int | None


@dataclass(frozen=True, slots=True)
class VerifiedNote:
    """A note that at least one known key signed. ``signed_by`` names each key pair once, in the order of the lines."""

    note: Note
    signed_by: tuple[Signed, ...]

    @property
    def text(self) -> bytes:
        """The text, now worth reading."""
        return self.note.text


def parse_note(data: bytes) -> Note:
    """Read a signed note. ProofError ``note.malformed`` for anything that departs from the format."""
    if len(data) > MAX_NOTE:
        raise _malformed(f"a note of {len(data)} bytes is over the maximum of {MAX_NOTE}")
    if _CONTROL.search(data):
        raise _malformed("a note holds a control character")
    # The text may contain empty lines, so the signatures begin after the last one.
    split = data.rfind(b"\n\n")
    if split < 0 or not data.endswith(b"\n") or split + 2 == len(data):
        raise _malformed("a note is a text, an empty line and lines of signatures")
    text, block = data[: split + 1], data[split + 2 : -1]
    try:
        text.decode("utf-8")
        lines = block.decode("utf-8").split("\n")
    except UnicodeDecodeError:
        raise _malformed("a note is not UTF-8") from None
    if len(lines) > MAX_SIGNATURES:
        raise _malformed(f"{len(lines)} signatures are over the maximum of {MAX_SIGNATURES}")
    return Note(text, tuple(_parse_signature(line) for line in lines))


def format_note(text: bytes, signatures: Iterable[Signature]) -> bytes:
    """The bytes of a note. ProofError ``note.malformed`` when they couldn't be parsed again as the same note."""
    listed = tuple(signatures)
    data = text + b"\n" + "".join(signature.line() for signature in listed).encode("utf-8")
    if parse_note(data) != Note(text, listed):
        raise _malformed("the text or a key name cannot stand in a note")
    return data


def signature_of(key: NoteKey, value: bytes) -> Signature:
    """The signature line for ``value``, made by ``key`` in the form of its type."""
    return Signature(key.name, key.key_id, value)


def verify_note(note: Note, keys: Sequence[NoteKey]) -> VerifiedNote:
    """Find out which of ``keys`` signed the note.

    1. No two keys given share name and key id, or a signature could not be told apart: ``note.key``.
    2. Every signature of a known key verifies; one that does not refuses the note: ``note.signature``.
    3. At least one known key signed: ``note.signature``.

    The same key pair counts once, however often, under whatever name and type it signed. Raises ProofError.
    """
    # 1.
    known = {(key.name, key.key_id): key for key in keys}
    if len(known) != len(keys):
        raise ProofError(GateReason.NOTE_KEY, "two verifier keys share their name and key id")
    # 2.
    head = tree_head(note.text)
    signed: dict[bytes, Signed] = {}
    for signature in note.signatures:
        key = known.get((signature.name, signature.key_id))
        if key is not None:
            timestamp = check_signature(key, note.text, head, signature.value)
            signed.setdefault(key.identity, Signed(key, timestamp))
    # 3.
    if not signed:
        raise ProofError(GateReason.NOTE_SIGNATURE, "no known key signed this note")
    return VerifiedNote(note, tuple(signed.values()))


def tree_head(text: bytes) -> TreeHead | None:
    """The text as the first three lines of a checkpoint (C2SP tlog-checkpoint); None where it is no such text.

    Lines after the third are not looked at: a reader that cares refuses them itself.
    """
    lines = text.split(b"\n", 3)
    if len(lines) != 4 or not lines[0]:
        return None
    origin, digits, encoded = lines[:3]
    if not digits.isdigit() or len(digits) > MAX_SIZE_DIGITS or (digits.startswith(b"0") and digits != b"0"):
        return None
    root = decode_base64(encoded)
    if root is None or len(root) != 32:
        return None
    try:
        return TreeHead(origin.decode("utf-8"), int(digits), root)
    except UnicodeDecodeError:
        return None


def decode_base64(encoded: bytes | str) -> bytes | None:
    """Standard base64 with padding in its only canonical form (RFC 4648 §3.5); None for anything else."""
    try:
        raw = base64.b64decode(encoded, validate=True)
    except ValueError:
        return None
    expected = encoded if isinstance(encoded, bytes) else encoded.encode("ascii")
    return raw if base64.b64encode(raw) == expected else None


def _parse_signature(line: str) -> Signature:
    if not line.startswith(_DASH):
        raise _malformed("a signature line does not begin with a dash and a space")
    name, _, encoded = line[len(_DASH) :].partition(" ")
    raw = decode_base64(encoded)
    if not is_key_name(name) or raw is None or len(raw) < 5:
        raise _malformed("a signature line is a dash, a key name and base64 of key id and signature")
    return Signature(name, int.from_bytes(raw[:4], "big"), raw[4:])


def _malformed(detail: str) -> ProofError:
    return ProofError(GateReason.NOTE_MALFORMED, detail)
