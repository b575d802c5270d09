"""Evidence as it travels, and what a quote is made for.

Evidence is raw bytes from an executor. It is stored and named by SHA-256; nothing here says whether it is any good.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from ztrooted import canonical

DOMAIN = b"ztrooted/quote/v1"


class Purpose(StrEnum):
    """Why a quote was asked for. A quote made for one purpose is useless for any other."""

    ENROLL = "enroll"
    DISPATCH = "dispatch"
    START = "start"
    RUNTIME = "runtime"


def length_prefixed(*parts: bytes) -> bytes:
    """Each part behind its length as a 32-bit big-endian integer, so that no two lists of parts give the same bytes."""
    return b"".join(len(part).to_bytes(4, "big") + part for part in parts)


def qualifying_data(purpose: Purpose, nonce: bytes, *bindings: bytes) -> bytes:
    """The 32 bytes a quote must carry as ``extraData``: SHA-256 over domain, purpose, nonce and what is bound.

    The bindings are, by purpose: ``enroll`` the session key's SubjectPublicKeyInfo; ``dispatch`` the job digest;
    ``start`` the authorization id and the job digest; ``runtime`` the digest of the set of live authorization ids.
    """
    return hashlib.sha256(length_prefixed(DOMAIN, purpose.value.encode(), nonce, *bindings)).digest()


@lru_cache(maxsize=64)
def live_set_digest(authorizations: frozenset[str]) -> bytes:
    """What a runtime quote is bound to: the authorizations that it keeps alive, as SHA-256 of their sorted list."""
    return bytes.fromhex(canonical.digest(sorted(authorizations)))


@dataclass(frozen=True, slots=True)
class Evidence:
    """One answer to one challenge.

    ``pcrs`` are the values the executor claims (bank → index → value); they count only once the quote's digest covers
    them. ``event_log`` is the whole firmware log. ``ima`` holds the entries of the ASCII measurement list from entry
    number ``ima_offset`` on.
    """

    attest: bytes
    signature: bytes
    pcrs: Mapping[str, Mapping[int, bytes]]
    event_log: bytes
    ima_offset: int
    ima: bytes

    def blobs(self) -> Iterator[bytes]:
        """The parts that are stored under their own digests."""
        yield from (self.attest, self.signature, self.event_log, self.ima)

    def manifest(self, name: Callable[[bytes], str] | None = None) -> dict[str, Any]:
        """Names every byte of the evidence; canonical JSON of this is what records and artifacts refer to.

        ``name`` is for whoever has hashed the parts before.
        """
        name = name or sha256
        return {
            "attest": name(self.attest),
            "signature": name(self.signature),
            "pcrs": {
                bank: {str(index): value.hex() for index, value in values.items()} for bank, values in self.pcrs.items()
            },
            "event_log": name(self.event_log),
            "ima": {"offset": self.ima_offset, "entries": name(self.ima)},
        }

    def digest(self, name: Callable[[bytes], str] | None = None) -> str:
        """SHA-256 of the canonical manifest, hexadecimal."""
        return canonical.digest(self.manifest(name))


def sha256(data: bytes) -> str:
    """SHA-256 in hexadecimal: the name of a blob."""
    return hashlib.sha256(data).hexdigest()
