"""Keys that sign notes in tests, in every signature type a verifier knows."""

import base64
import hashlib
import struct
from dataclasses import dataclass

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, mldsa, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ztrooted.note import Signature, signature_of, tree_head
from ztrooted.note_keys import NoteKey, SignatureType, note_key

PrivateKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | mldsa.MLDSA44PrivateKey
TIME = 1_800_000_000


@dataclass(frozen=True)
class NoteSigner:
    """A key pair with the name and type under which it signs."""

    private: PrivateKey
    key: NoteKey

    @classmethod
    def of(cls, name: str, kind: SignatureType, private: PrivateKey | None = None) -> "NoteSigner":
        made = private or _generate(kind)
        public = made.public_key()
        if isinstance(public, (ec.EllipticCurvePublicKey, rsa.RSAPublicKey)):
            material = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
        else:
            material = public.public_bytes_raw()
        return cls(made, note_key(name, kind, material))

    def sign(self, text: bytes, time: int = TIME) -> Signature:
        return signature_of(self.key, self._value(text, time))

    def _value(self, text: bytes, time: int) -> bytes:
        private, stamp = self.private, time.to_bytes(8, "big")
        if isinstance(private, Ed25519PrivateKey):
            if self.key.type is SignatureType.ED25519:
                return private.sign(text)
            return stamp + private.sign(b"cosignature/v1\ntime %d\n" % time + text)
        if isinstance(private, mldsa.MLDSA44PrivateKey):
            return stamp + private.sign(self._cosigned(text, time))
        if self.key.type is SignatureType.ECDSA:
            assert isinstance(private, ec.EllipticCurvePrivateKey)
            return private.sign(text, ec.ECDSA(hashes.SHA256()))
        head = tree_head(text)
        assert head is not None
        signed = struct.pack(">BBQQ32s", 0, 1, time, head.size, head.root)
        if isinstance(private, ec.EllipticCurvePrivateKey):
            value, algorithms = private.sign(signed, ec.ECDSA(hashes.SHA256())), b"\x04\x03"
        else:
            value, algorithms = private.sign(signed, padding.PKCS1v15(), hashes.SHA256()), b"\x04\x01"
        return stamp + algorithms + struct.pack(">H", len(value)) + value

    def _cosigned(self, text: bytes, time: int) -> bytes:
        head = tree_head(text)
        assert head is not None
        name, origin = self.key.name.encode(), head.origin.encode()
        front = b"subtree/v1\n\0" + bytes([len(name)]) + name + time.to_bytes(8, "big")
        return front + bytes([len(origin)]) + origin + struct.pack(">QQ32s", 0, head.size, head.root)


def checkpoint_text(origin: str = "log.test/lineage", size: int = 7, data: bytes = b"root") -> bytes:
    """The text of some checkpoint."""
    root = base64.b64encode(hashlib.sha256(data).digest()).decode()
    return f"{origin}\n{size}\n{root}\n".encode()


def _generate(kind: SignatureType) -> PrivateKey:
    if kind in (SignatureType.ED25519, SignatureType.ED25519_COSIGNATURE):
        return Ed25519PrivateKey.generate()
    if kind is SignatureType.ML_DSA_44_COSIGNATURE:
        return mldsa.MLDSA44PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1())
