"""The keys of the data folder, encrypted: under one key which the TPM gives out in the gateway's approved state only.

``sealed-key.json`` is that key as the TPM sealed it, under the policy of the log key: another TPM, another state and, after
a reseal, the state before get nothing. ``NAME.sealed`` is one key each, by AES-256-GCM with its name and the lineage's as
associated data, so that none passes for another. In the clear they are in this process's memory alone (ADR 0032).
"""

import json
import os
import resource
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from gateway.config import read_file
from gateway.identity import Identity
from gateway.own_tpm import environment_problem
from tpm.device_secret import DamagedSecretError, SealedSecret, SecretDevice
from tpm.errors import DeviceError
from ztrooted import canonical
from ztrooted.errors import EnvironmentProblem
from ztrooted.kept_files import replace_secret
from ztrooted.reasons import GateReason

SEALED_KEY_FILE = "sealed-key.json"
FORMAT = "ztrooted-sealed-key/1"
# What is kept in here, by the place of its file without the ending.
EXECUTOR_CA, SERVER, ED25519 = "executor-ca/key", "tls/key", "log-ed25519"
NAMES = (EXECUTOR_CA, SERVER, ED25519)
KEY, NONCE = 32, 12  # bytes
_HEAD = b"ztrooted-sealed/1\n"


class Vault:
    """The open vault of one data folder. Whoever has it has every key in it."""

    def __init__(self, folder: Path, origin: str, key: bytes) -> None:
        self._folder = folder
        self._origin = origin
        self._cipher = AESGCM(key)
        _dump_no_memory()

    @classmethod
    def create(cls, folder: Path, origin: str, device: SecretDevice, identity: Identity) -> "Vault":
        """A vault with nothing in it, under a new key. What was sealed under an older one can't be read any more."""
        key = os.urandom(KEY)
        try:
            sealed = device.seal_secret(key, identity.sealing(origin), identity.pcrs)
        except DeviceError as error:
            raise environment_problem(error) from error
        parts = {"parent": sealed.parent.hex(), "public": sealed.public.hex(), "private": sealed.private.hex()}
        replace_secret(folder / SEALED_KEY_FILE, canonical.encode({"format": FORMAT, **parts}))
        return cls(folder, origin, key)

    @classmethod
    def open(cls, folder: Path, origin: str, device: SecretDevice, identity: Identity) -> "Vault":
        """Have the TPM give out the key, once. EnvironmentProblem ``environment.tpm`` where it does not, as in another
        state; ``secrets.damaged`` where what it once sealed was altered.
        """
        sealed = _parse(read_file(folder / SEALED_KEY_FILE, "sealed key", secret=True), folder)
        try:
            key = device.unseal_secret(sealed, identity.sealing(origin), identity.pcrs)
        except DamagedSecretError as error:
            raise _damaged(folder / SEALED_KEY_FILE, str(error)) from error
        except DeviceError as error:
            raise environment_problem(error) from error
        if len(key) != KEY:
            raise _damaged(folder / SEALED_KEY_FILE, f"it is a key of {len(key)} bytes")
        return cls(folder, origin, key)

    def read(self, name: str) -> bytes:
        """One key, as it was written. EnvironmentProblem where its file is missing, altered or open to others."""
        path = sealed_file(self._folder, name)
        data = read_file(path, "sealed key", secret=True)
        nonce, sealed = data[len(_HEAD) : len(_HEAD) + NONCE], data[len(_HEAD) + NONCE :]
        if not data.startswith(_HEAD) or len(nonce) != NONCE:
            raise _damaged(path, "it is no sealed key")
        try:
            return self._cipher.decrypt(nonce, sealed, self._associated(name))
        except InvalidTag as error:
            raise _damaged(path, "it was altered, or sealed for another place or gateway") from error

    def write(self, name: str, secret: bytes) -> None:
        """Keep a key, in place of what had its name: whole and on the disk, or not at all."""
        nonce = os.urandom(NONCE)
        sealed = self._cipher.encrypt(nonce, secret, self._associated(name))
        replace_secret(sealed_file(self._folder, name), _HEAD + nonce + sealed)

    def has(self, name: str) -> bool:
        """Whether there is a key of that name."""
        return sealed_file(self._folder, name).exists()

    def _associated(self, name: str) -> bytes:
        return canonical.encode({"format": FORMAT, "name": name, "origin": self._origin})


def _dump_no_memory() -> None:
    """A process that has opened a vault leaves no core file with its keys in it.

    One byte, since a limit of none does not keep Linux from handing a dump to a program (core(5); fs/coredump.c).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0 if hard == 0 else 1, hard))


def sealed_file(folder: Path, name: str) -> Path:
    """Where the key ``name`` lies, sealed."""
    return folder / f"{name}.sealed"


def plain_file(folder: Path, name: str) -> Path:
    """Where it lay before keys were sealed; and where an operator puts the key of a TLS certificate of his own."""
    return folder / f"{name}.pem"


def exists(folder: Path) -> bool:
    """Whether keys of this folder are sealed at all."""
    return (folder / SEALED_KEY_FILE).exists()


def refuse_plain(folder: Path) -> None:
    """EnvironmentProblem ``secrets.plain`` where a key that belongs in here lies in the clear."""
    for name in (EXECUTOR_CA, ED25519):
        if plain_file(folder, name).exists():
            raise EnvironmentProblem(
                GateReason.SECRETS_PLAIN,
                f"the key {plain_file(folder, name)} is not sealed to the TPM: whoever copies the folder has it",
                f"seal it: 'ztrooted gateway seal-keys {folder}'",
            )


def check_files(folder: Path) -> None:
    """What can be said without the TPM: that the sealed files are there, their owner's only, and of our format."""
    refuse_plain(folder)
    _parse(read_file(folder / SEALED_KEY_FILE, "sealed key", secret=True), folder)
    for name in NAMES:
        path = sealed_file(folder, name)
        replaced = name == ED25519 or (name == SERVER and plain_file(folder, name).exists())
        if path.exists() or not replaced:
            data = read_file(path, "sealed key", secret=True)
            if not data.startswith(_HEAD):
                raise _damaged(path, "it is no sealed key")


def _parse(data: bytes, folder: Path) -> SealedSecret:
    try:
        value = json.loads(data)
        if value["format"] != FORMAT:
            raise ValueError(f"it is not of format {FORMAT}")
        return SealedSecret(*(bytes.fromhex(value[part]) for part in ("parent", "public", "private")))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(folder / SEALED_KEY_FILE, str(error)) from error


def _damaged(path: Path, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.SECRETS_DAMAGED,
        f"{path} can't be used: {detail}",
        "restore the file from a backup of this gateway, or all keys: 'ztrooted gateway recovery-import'",
    )
