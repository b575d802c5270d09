"""Keys that cosign checkpoints of other logs (C2SP tlog-cosignature): made, kept in files, and used.

A cosigner has an Ed25519 key (type 0x04) and, where its folder holds one, an ML-DSA-44 key (type 0x06). Each lies in a
PKCS #8 file of its own that nobody but its owner can read.
"""

import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import mldsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ztrooted.errors import EnvironmentProblem
from ztrooted.note import Signature, signature_of
from ztrooted.note_keys import NoteKey, SignatureType, TreeHead, cosigned_text, note_key
from ztrooted.reasons import GateReason

PrivateKey: TypeAlias = Ed25519PrivateKey | mldsa.MLDSA44PrivateKey

FILES = {
    SignatureType.ED25519_COSIGNATURE: "ed25519.pem",
    SignatureType.ML_DSA_44_COSIGNATURE: "ml-dsa-44.pem",
}
_MAKE: dict[SignatureType, Callable[[], PrivateKey]] = {
    SignatureType.ED25519_COSIGNATURE: Ed25519PrivateKey.generate,
    SignatureType.ML_DSA_44_COSIGNATURE: mldsa.MLDSA44PrivateKey.generate,
}


@dataclass(frozen=True, slots=True)
class Cosigner:
    """One key pair under the name with which it signs."""

    key: NoteKey
    private: PrivateKey

    def cosign(self, text: bytes, head: TreeHead, time_s: int) -> Signature:
        """The cosignature line for a checkpoint's ``text``, which reads as ``head``, at ``time_s`` (POSIX seconds)."""
        value = self.private.sign(cosigned_text(self.key, text, head, time_s))
        return signature_of(self.key, time_s.to_bytes(8, "big") + value)


def new_private_key(kind: SignatureType) -> bytes:
    """A fresh key of one of the types in ``FILES``, as PKCS #8 in PEM."""
    return _MAKE[kind]().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def load_cosigners(folder: Path, name: str) -> tuple[Cosigner, ...]:
    """The keys of a folder; the Ed25519 one has to be there. EnvironmentProblem ``environment.key_file`` otherwise."""
    found = []
    for kind, file in FILES.items():
        path = folder / file
        if path.exists() or kind is SignatureType.ED25519_COSIGNATURE:
            found.append(_load(path, kind, name))
    return tuple(found)


def _load(path: Path, kind: SignatureType, name: str) -> Cosigner:
    try:
        if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_KEY_FILE,
                f"the key {path} can be read by others than its owner",
                f"if nobody has read it: chmod 600 {path}; otherwise make a new witness",
            )
        private = serialization.load_pem_private_key(path.read_bytes(), None)
    except OSError as error:
        raise _unusable(path, f"can't be read: {error.strerror}") from error
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(path, "is damaged") from error
    wanted = Ed25519PrivateKey if kind is SignatureType.ED25519_COSIGNATURE else mldsa.MLDSA44PrivateKey
    if not isinstance(private, wanted):
        raise _unusable(path, "holds a key of another kind")
    return Cosigner(note_key(name, kind, private.public_key().public_bytes_raw()), private)


def _unusable(path: Path, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_KEY_FILE, f"the key {path} {detail}", "restore it from a backup, or make a new witness"
    )
