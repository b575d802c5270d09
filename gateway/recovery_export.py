"""The keys of a gateway in one file under a passphrase, for the day its TPM is gone: format and cryptography.

Scrypt (RFC 7914) makes a key of the passphrase, AES-256-GCM keeps what is under it. Everything that stands in the clear is
associated data, so nothing of it can be altered.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from gateway.config import read_file
from gateway.vault import EXECUTOR_CA, NAMES, SERVER
from ztrooted import canonical
from ztrooted.errors import GateError, UsageProblem
from ztrooted.reasons import GateReason
from ztrooted.strict_json import parse as parse_json

FORMAT = "ztrooted-recovery/1"
MAX_EXPORT = 1 << 18  # bytes; three keys and three certificates are 5 KB
MIN_PASSPHRASE = 16  # bytes; it has to withstand trials for years, at a third of a second each
COST, BLOCK, LANES = 1 << 17, 8, 1  # scrypt's n, r and p: 128 MiB; fixed, so that no file says how much work it takes
SALT, NONCE = 16, 12  # bytes
CERTIFICATES = ("executor-ca/cert.pem", "tls/ca.pem", "tls/cert.pem")
_REQUIRED = frozenset({EXECUTOR_CA, SERVER, *CERTIFICATES})


@dataclass(frozen=True, slots=True, repr=False)
class Recovered:
    """What an export has in it: whose keys, and them with their certificates, PEM, by name."""

    origin: str
    files: Mapping[str, bytes]


def read_passphrase(path: Path) -> bytes:
    """The first line of a file that only its owner can read. UsageProblem ``recovery.passphrase`` for a short one."""
    passphrase = read_file(path, "passphrase", secret=True).split(b"\n", 1)[0].removesuffix(b"\r")
    if len(passphrase) < MIN_PASSPHRASE:
        raise UsageProblem(
            GateReason.RECOVERY_PASSPHRASE,
            f"the passphrase in {path} has {len(passphrase)} bytes; {MIN_PASSPHRASE} are the least",
            f"make one: 'openssl rand -base64 24', in a file that only you can read (chmod 600 {path})",
        )
    return passphrase


def pack(recovered: Recovered, passphrase: bytes) -> bytes:
    """The file. It can be opened by the passphrase alone, on any machine."""
    salt, nonce = os.urandom(SALT), os.urandom(NONCE)
    head = {"format": FORMAT, "origin": recovered.origin, "salt": salt.hex(), "nonce": nonce.hex()}
    secret = canonical.encode({name: data.decode() for name, data in recovered.files.items()})
    sealed = AESGCM(_derive(passphrase, salt)).encrypt(nonce, secret, canonical.encode(head))
    return canonical.encode({**head, "data": sealed.hex()})


def unpack(data: bytes, passphrase: bytes) -> Recovered:
    """What was packed. GateError ``recovery.refused`` for another passphrase, and for a file that is none or was altered."""
    if len(data) > MAX_EXPORT:
        raise _refused(f"it is over {MAX_EXPORT} bytes")
    value = parse_json(data, _refused)
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise _refused(f"it is not of format {FORMAT}")
    try:
        head = {name: value[name] for name in ("format", "origin", "salt", "nonce")}
        salt, nonce, sealed = (bytes.fromhex(value[name]) for name in ("salt", "nonce", "data"))
        if len(salt) != SALT or len(nonce) != NONCE or set(value) != {*head, "data"}:
            raise ValueError("its members are not those of an export")
        secret = AESGCM(_derive(passphrase, salt)).decrypt(nonce, sealed, canonical.encode(head))
    except InvalidTag as error:
        raise _refused("the passphrase is another one, or the file was altered") from error
    except (KeyError, TypeError, ValueError, GateError) as error:
        raise _refused(f"it is damaged: {error}") from error
    files = {name: text.encode() for name, text in parse_json(secret, _refused).items()}
    if not set(files) >= _REQUIRED or not set(files) <= {*NAMES, *CERTIFICATES}:
        raise _refused("it has other keys in it than a gateway's")
    return Recovered(str(value["origin"]), files)


def digest(data: bytes) -> str:
    """SHA-256 of an export, by which the lineage names it."""
    return hashlib.sha256(data).hexdigest()


def _derive(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt, 32, COST, BLOCK, LANES).derive(passphrase)


def _refused(detail: str) -> UsageProblem:
    return UsageProblem(
        GateReason.RECOVERY_REFUSED,
        f"the recovery export can't be used: {detail}",
        "take the file that 'ztrooted gateway recovery-export' has written for this trust domain, and its passphrase",
    )
