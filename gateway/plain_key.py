"""An Ed25519 key that signs checkpoints beside the log key, for tools that know no other kind of signed note.

It is in this process's memory, where the log key is in the TPM; on the disk it is sealed. It is made only where the
configuration asks for it, verifiers of ours demand the log key's line and the seal all the same, and anchors name it as one
that is never enough (ADR 0030). Its public half lies beside it in the clear, for ``ztrooted gateway anchors``.
"""

from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.config import GatewayConfig, read_file
from gateway.vault import ED25519, Vault
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.kept_files import replace
from ztrooted.note import Signature, signature_of
from ztrooted.note_keys import NoteKey, SignatureType, note_key, parse_vkey
from ztrooted.reasons import GateReason

PUBLIC_FILE = "log-ed25519.pub"


@dataclass(frozen=True, slots=True, repr=False)
class PlainKey:
    """The key, and what verifiers know of it."""

    key: NoteKey
    private: Ed25519PrivateKey

    def sign(self, text: bytes) -> Signature:
        """The signature line (type 0x01) for a checkpoint's text."""
        return signature_of(self.key, self.private.sign(text))


def plain_key(config: GatewayConfig, vault: Vault | None) -> PlainKey | None:
    """The key of the vault, made where there is none yet; None where the configuration has no use for one.

    EnvironmentProblem ``environment.key_file`` for one that can't be used, or that is not the one the public half tells of.
    """
    if not config.ed25519_signatures or vault is None:
        return None
    if not vault.has(ED25519):
        vault.write(ED25519, _made())
    try:
        private = serialization.load_pem_private_key(vault.read(ED25519), None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise _unusable(config, f"is damaged: {error}") from error
    if not isinstance(private, Ed25519PrivateKey):
        raise _unusable(config, "is a key of another kind")
    key = note_key(config.origin, SignatureType.ED25519, private.public_key().public_bytes_raw())
    if not _public(config).exists():
        replace(_public(config), f"{key.vkey}\n".encode())
    if public_key(config) != key:
        raise _unusable(config, f"is not the one in {PUBLIC_FILE}")
    return PlainKey(key, private)


def public_key(config: GatewayConfig) -> NoteKey | None:
    """What verifiers are told; None where the configuration has no use for it, EnvironmentProblem where it is not there."""
    if not config.ed25519_signatures:
        return None
    if not _public(config).exists():
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            f"{_public(config)} is not there: the gateway has not been started with 'ed25519_signatures' yet",
            "start it once",
        )
    return known_key(config)


def known_key(config: GatewayConfig) -> NoteKey | None:
    """The public half of a key that this gateway has or had, whether the configuration has use for it or not."""
    if not _public(config).exists():
        return None
    try:
        return parse_vkey(read_file(_public(config), "Ed25519 public key").decode().strip())
    except (UnicodeDecodeError, GateError) as error:
        raise _unusable(config, f"has a damaged public half: {error}") from error


def _public(config: GatewayConfig) -> Path:
    return config.data / PUBLIC_FILE


def _made() -> bytes:
    return Ed25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _unusable(config: GatewayConfig, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.ENVIRONMENT_KEY_FILE,
        f"the Ed25519 key of {config.data} {detail}",
        f"restore {ED25519}.sealed and {PUBLIC_FILE}; or remove both, and tell the new key, in 'ztrooted gateway anchors',"
        " to whoever knows the old one",
    )
