"""An Ed25519 key that signs checkpoints beside the log key, for tools that know no other kind of signed note.

It is in a file, where the log key is in the TPM: whoever reads the file can sign with it. So it is made only where the
configuration asks for it, verifiers of ours demand the log key's line and the seal all the same, and anchors name it as one
that is never enough (ADR 0030).
"""

import os
from dataclasses import dataclass

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.config import GatewayConfig, read_file
from ztrooted.errors import EnvironmentProblem
from ztrooted.note import Signature, signature_of
from ztrooted.note_keys import NoteKey, SignatureType, note_key
from ztrooted.reasons import GateReason

FILE = "log-ed25519.pem"


@dataclass(frozen=True, slots=True)
class PlainKey:
    """The key, and what verifiers know of it."""

    key: NoteKey
    private: Ed25519PrivateKey

    def sign(self, text: bytes) -> Signature:
        """The signature line (type 0x01) for a checkpoint's text."""
        return signature_of(self.key, self.private.sign(text))


def plain_key(config: GatewayConfig) -> PlainKey | None:
    """The key of the data folder, made where there is none yet; None where the configuration has no use for one.

    EnvironmentProblem ``environment.key_file`` for a file that is damaged, or that others can read.
    """
    if not config.ed25519_signatures:
        return None
    if not (config.data / FILE).exists():
        _make(config)
    return _load(config)


def known_key(config: GatewayConfig) -> NoteKey | None:
    """What verifiers know of the key that signed checkpoints of this data folder; None where there is none."""
    return _load(config).key if (config.data / FILE).exists() else None


def _load(config: GatewayConfig) -> PlainKey:
    path = config.data / FILE
    data = read_file(path, "Ed25519 key", secret=True)
    try:
        private = serialization.load_pem_private_key(data, None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(config, f"is damaged: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _unusable(config, "holds a key of another kind")
    return PlainKey(note_key(config.origin, SignatureType.ED25519, private.public_key().public_bytes_raw()), private)


def _make(config: GatewayConfig) -> None:
    """Whole and on the disk, or not there at all."""
    path = config.data / FILE
    fresh = path.with_name(f".{FILE}.new")
    pem = Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    try:
        fresh.unlink(missing_ok=True)
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
            file.write(pem)
            file.flush()
            os.fsync(file.fileno())
        fresh.rename(path)
    except OSError as error:
        raise _unusable(config, f"can't be made: {error.strerror}") from error


def _unusable(config: GatewayConfig, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_KEY_FILE,
        f"the Ed25519 key {config.data / FILE} {detail}",
        "restore it; or remove it, and tell the new key, in 'ztrooted gateway anchors', to whoever knows the old one",
    )
