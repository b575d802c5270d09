"""Keys of signed notes: who signs (name and key id), with what algorithm, and how one signature is checked.

The written form is a verifier key, ``name+hex key id+base64(type ‖ public key)``, as in C2SP signed-note. The types:

====  =======================================  ===========================================================
0x01  Ed25519 over the text                    C2SP signed-note
0x02  ECDSA over the text's SHA-256, DER      transparency-dev/formats; what a TPM can make
0x04  timestamped Ed25519 cosignature          C2SP tlog-cosignature
0x05  RFC 6962 TreeHeadSignature               C2SP static-ct-api
0x06  timestamped ML-DSA-44 cosignature        C2SP tlog-cosignature
====  =======================================  ===========================================================
"""

import base64
import binascii
import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from ztrooted.errors import ProofError
from ztrooted.reasons import GateReason

PublicKey: TypeAlias = Ed25519PublicKey | ec.EllipticCurvePublicKey | rsa.RSAPublicKey | mldsa.MLDSA44PublicKey

MAX_NAME = 255  # bytes; what a cosigned message can hold (C2SP tlog-cosignature)
MAX_VKEY = 4096  # an ML-DSA-44 key of 1,312 bytes is 1,752 in base64
MAX_TIMESTAMP = (1 << 63) - 1  # seconds, as the cosignature format has them: a signed 64-bit number
_CURVES = ("secp256r1", "secp384r1", "secp521r1")
_RSA_BITS = range(2048, 8193)  # below is forgeable, above is somebody wasting our time


class SignatureType(IntEnum):
    """Signature type identifier bytes of C2SP signed-note."""

    ED25519 = 0x01
    ECDSA = 0x02
    ED25519_COSIGNATURE = 0x04
    RFC6962 = 0x05
    ML_DSA_44_COSIGNATURE = 0x06
    OTHER = 0xFF


@dataclass(frozen=True, slots=True)
class TreeHead:
    """What the types 0x05 and 0x06 sign instead of the text: the first three lines of a checkpoint."""

    origin: str
    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class NoteKey:
    """A key that a verifier knows. ``material`` is the public key as its type encodes it."""

    name: str
    key_id: int
    type: SignatureType
    material: bytes
    public_key: PublicKey

    @property
    def vkey(self) -> str:
        """The verifier key in its written form."""
        encoded = base64.b64encode(bytes([self.type]) + self.material).decode()
        return f"{self.name}+{self.key_id:08x}+{encoded}"

    @property
    def identity(self) -> bytes:
        """The same for the same key pair whatever its name and type, so that nobody is counted twice."""
        return self.public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def parse_vkey(text: str) -> NoteKey:
    """Read a verifier key. ProofError ``note.key`` when it is malformed, or its key id is not that of its key."""
    if len(text) > MAX_VKEY:
        raise _bad_key(f"a verifier key of {len(text)} characters is over the maximum of {MAX_VKEY}")
    name, _, rest = text.partition("+")
    written_id, _, encoded = rest.partition("+")
    try:
        raw = base64.b64decode(encoded, validate=True)
        stated = bytes.fromhex(written_id)
    except ValueError:
        raise _bad_key("a verifier key is name+hexadecimal key id+base64") from None
    if len(stated) != 4 or stated.hex() != written_id or base64.b64encode(raw).decode() != encoded or len(raw) < 2:
        raise _bad_key("a verifier key is name+hexadecimal key id+base64")
    if raw[0] not in _SUPPORTED:
        raise _bad_key(f"signature type {raw[0]:#04x} is not supported")
    key = note_key(name, SignatureType(raw[0]), raw[1:])
    if key.key_id != int.from_bytes(stated, "big"):
        raise _bad_key(f"the key id {written_id} is not {key.key_id:08x}, the one of this key")
    return key


def note_key(name: str, kind: SignatureType, material: bytes) -> NoteKey:
    """Make a key from its parts; the key id follows from them. ProofError ``note.key`` where it is not acceptable."""
    if not is_key_name(name):
        raise _bad_key(f"{name[:80]!r} is no key name")
    public_key = _load(kind, material)
    if kind is SignatureType.ECDSA:
        identifier = hashlib.sha256(material).digest()[:4]
    elif kind is SignatureType.RFC6962:  # the log id of RFC 6962 §3.2 stands for the key
        identifier = key_identifier(name, bytes([kind]), hashlib.sha256(material).digest())
    else:
        identifier = key_identifier(name, bytes([kind]), material)
    return NoteKey(name, int.from_bytes(identifier, "big"), kind, material, public_key)


def ecdsa_key(name: str, public_key: ec.EllipticCurvePublicKey) -> NoteKey:
    """The type 0x02 key for ``public_key``."""
    der = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return note_key(name, SignatureType.ECDSA, der)


def key_identifier(name: str, kind: bytes, material: bytes) -> bytes:
    """SHA-256(name ‖ LF ‖ signature type ‖ public key)[:4]; ``kind`` is more than a byte for the type 0xff."""
    return hashlib.sha256(name.encode() + b"\n" + kind + material).digest()[:4]


def is_key_name(name: str) -> bool:
    """Whether a key may have this name: not empty, no Unicode space, no plus, no control character."""
    if not name or "+" in name or any(char.isspace() or char < " " for char in name):
        return False
    try:
        return len(name.encode()) <= MAX_NAME
    except UnicodeEncodeError:
        return False


def check_signature(key: NoteKey, text: bytes, head: TreeHead | None, signature: bytes) -> int | None:
    """Check one signature of a known key over a note's text.

    ``head`` is the text read as a tree head, None where it isn't one. Returns the time of a cosignature (in seconds) or
    an RFC 6962 tree head (in milliseconds), None for the types without one. Raises ProofError ``note.signature``.
    """
    timestamp: int | None = None
    try:
        if isinstance(key.public_key, Ed25519PublicKey):
            if key.type is SignatureType.ED25519_COSIGNATURE:
                timestamp, signature = _timestamp(signature)
                text = cosigned_text(key, text, head, timestamp)
            key.public_key.verify(signature, text)
        elif isinstance(key.public_key, mldsa.MLDSA44PublicKey):
            timestamp, signature = _timestamp(signature)
            key.public_key.verify(signature, cosigned_text(key, text, head, timestamp))
        elif key.type is SignatureType.RFC6962:
            timestamp, signature = _timestamp(signature)
            _check_tree_head_signature(key.public_key, timestamp, head, signature)
        elif isinstance(key.public_key, ec.EllipticCurvePublicKey):
            key.public_key.verify(signature, text, ec.ECDSA(hashes.SHA256()))
        else:
            raise _bad_signature(f"the key {key.name} cannot sign the text of a note")
    except InvalidSignature:
        raise _bad_signature(f"the signature by {key.name} ({key.key_id:08x}) does not verify") from None
    return timestamp


def cosigned_text(key: NoteKey, text: bytes, head: TreeHead | None, time_s: int) -> bytes:
    """What a cosignature by ``key`` at ``time_s`` signs: for type 0x04 the text, for 0x06 the tree head and the name."""
    if key.type is SignatureType.ED25519_COSIGNATURE:
        return b"cosignature/v1\ntime %d\n" % time_s + text
    return _cosigned_message(key.name, time_s, head)


def _load(kind: SignatureType, material: bytes) -> PublicKey:
    try:
        if kind in (SignatureType.ED25519, SignatureType.ED25519_COSIGNATURE):
            return Ed25519PublicKey.from_public_bytes(material)
        if kind is SignatureType.ML_DSA_44_COSIGNATURE:
            return mldsa.MLDSA44PublicKey.from_public_bytes(material)
        loaded = serialization.load_der_public_key(material)
    except (ValueError, UnsupportedAlgorithm, binascii.Error):
        raise _bad_key("the public key of a verifier key is malformed") from None
    if isinstance(loaded, ec.EllipticCurvePublicKey) and loaded.curve.name in _CURVES:
        return loaded
    if kind is SignatureType.RFC6962 and isinstance(loaded, rsa.RSAPublicKey) and loaded.key_size in _RSA_BITS:
        return loaded
    raise _bad_key(f"a key of this kind makes no signatures of type {kind:#04x}")


def _timestamp(signature: bytes) -> tuple[int, bytes]:
    if len(signature) < 8:
        raise _bad_signature("a timestamped signature is shorter than its timestamp")
    timestamp = int.from_bytes(signature[:8], "big")
    if timestamp > MAX_TIMESTAMP:
        raise _bad_signature("the timestamp of a signature is out of range")
    return timestamp, signature[8:]


def _cosigned_message(name: str, timestamp: int, head: TreeHead | None) -> bytes:
    """``cosigned_message`` of C2SP tlog-cosignature, for the whole tree."""
    if head is None or len(head.origin.encode()) > MAX_NAME:
        raise _bad_signature("a cosignature stands below something that is not a checkpoint")
    cosigner, origin = name.encode(), head.origin.encode()
    return (
        b"subtree/v1\n\x00"
        + struct.pack(">B", len(cosigner))
        + cosigner
        + struct.pack(">QB", timestamp, len(origin))
        + origin
        + struct.pack(">QQ", 0, head.size)
        + head.root
    )


def _check_tree_head_signature(public_key: PublicKey, timestamp: int, head: TreeHead | None, signature: bytes) -> None:
    """RFC 6962 §3.5: a ``digitally-signed`` struct over version, type, timestamp, size and root."""
    if head is None:
        raise _bad_signature("a tree head signature stands below something that is not a checkpoint")
    signed = struct.pack(">BBQQ", 0, 1, timestamp, head.size) + head.root
    header, value = signature[:4], signature[4:]
    if len(header) < 4 or int.from_bytes(header[2:], "big") != len(value):
        raise _bad_signature("a tree head signature is malformed")
    algorithms = header[:2]  # RFC 5246 §7.4.1.4.1: hash (4 = SHA-256), then signature (1 = RSA, 3 = ECDSA)
    if isinstance(public_key, ec.EllipticCurvePublicKey) and algorithms == b"\x04\x03":
        public_key.verify(value, signed, ec.ECDSA(hashes.SHA256()))
    elif isinstance(public_key, rsa.RSAPublicKey) and algorithms == b"\x04\x01":
        public_key.verify(value, signed, padding.PKCS1v15(), hashes.SHA256())
    else:
        raise _bad_signature("a tree head signature names an algorithm that is not its key's")


def _bad_key(detail: str) -> ProofError:
    return ProofError(GateReason.NOTE_KEY, detail)


def _bad_signature(detail: str) -> ProofError:
    return ProofError(GateReason.NOTE_SIGNATURE, detail)


_SUPPORTED = frozenset(SignatureType) - {SignatureType.OTHER}
