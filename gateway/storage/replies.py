"""Answers that are kept, so that a request which is sent again under its Idempotency-Key is not done again.

Nobody who reads this table learns an answer, or can write another one into it: each is sealed (AES-256-GCM) under a key
made of the Idempotency-Key itself, which is not stored. The additional data say whose it is and to which request.
"""

import hashlib
import json
import os
import sqlite3
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from gateway.storage.database import Transaction
from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

_NONCE = 12  # of AES-GCM (NIST SP 800-38D §5.2.1.1)
FORGOTTEN_AT_ONCE = 100  # so that nobody who comes after a quiet day waits for all of them
_LABEL = b"ztrooted kept answer v1"


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer: its status and JSON text; or a refusal: its code, its detail as ``body``, and which denial it is."""

    status: int
    body: str
    code: str | None = None
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class Key:
    """An Idempotency-Key of one caller: by what name it is stored, and the secret that only the caller has."""

    name: str
    caller: str
    secret: str
    request: str

    @classmethod
    def of(cls, role: str, caller: str, secret: str, request: bytes) -> "Key":
        """``request`` is method, path and body."""
        who = hashlib.sha256(f"{role}\n{caller}".encode()).hexdigest()
        name = hashlib.sha256(f"{who}\n{secret}".encode()).hexdigest()
        return cls(name, who, secret, hashlib.sha256(request).hexdigest())

    def _cipher(self) -> AESGCM:
        made = HKDF(hashes.SHA256(), 32, salt=None, info=_LABEL + self.name.encode())
        return AESGCM(made.derive(self.secret.encode()))

    def seal(self, reply: Reply) -> bytes:
        """The stored form."""
        nonce = os.urandom(_NONCE)
        data = json.dumps([reply.status, reply.body, reply.code, reply.authorization]).encode()
        return nonce + self._cipher().encrypt(nonce, data, (self.name + self.request).encode())

    def open(self, sealed: bytes) -> Reply:
        """The answer. GateError ``database.corrupt`` for bytes that were never one of ours."""
        try:
            data = self._cipher().decrypt(sealed[:_NONCE], sealed[_NONCE:], (self.name + self.request).encode())
        except (InvalidTag, ValueError) as error:  # ValueError: too short to be anything
            raise GateError(GateReason.DATABASE_CORRUPT, "the answer that was kept for this key was altered") from error
        return Reply(*json.loads(data))


def find(connection: sqlite3.Connection, key: Key, now_ms: int) -> Reply | None:
    """What was answered to this request. GateError ``request.key_reused`` where it was another request."""
    row = connection.execute("SELECT request, at, sealed FROM replies WHERE name = ?", (key.name,)).fetchone()
    if row is None or row[1] <= now_ms - limits.REPLY_LIFE_S * 1000:
        return None
    if row[0] != key.request:
        raise GateError(GateReason.REQUEST_KEY_REUSED, "another request came under this Idempotency-Key before")
    return key.open(bytes(row[2]))


def count(connection: sqlite3.Connection, caller: str) -> int:
    """How many answers are kept for a caller. It takes the longer the more there are: milliseconds for the most."""
    (kept,) = connection.execute("SELECT COUNT(*) FROM replies WHERE caller = ?", (caller,)).fetchone()
    return int(kept)


def keep(tx: Transaction, key: Key, reply: Reply, now_ms: int) -> None:
    """Keep an answer, in the transaction that does what it tells of; some that are too old go."""
    oldest = now_ms - limits.REPLY_LIFE_S * 1000
    tx.execute(
        "DELETE FROM replies WHERE name IN (SELECT name FROM replies WHERE at <= ? ORDER BY at LIMIT ?)",
        (oldest, FORGOTTEN_AT_ONCE),
    )
    tx.execute(
        "INSERT OR REPLACE INTO replies(name, caller, request, at, sealed) VALUES (?, ?, ?, ?, ?)",
        (key.name, key.caller, key.request, now_ms, key.seal(reply)),
    )
