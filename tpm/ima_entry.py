"""What an IMA measurement list holds: entries, and sequences of them.

Lists have hundreds of thousands of entries, so they are kept as rows of byte strings, and an ``ImaEntry`` is made only
for one that somebody looks at.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import overload

from tpm.ima_template import split_fields

IMA_PCR = 10

# (template hash as shown, template name, digest as text, path, template data)
Row = tuple[bytes, bytes, bytes, bytes, bytes]

# The constructors themselves: looking one up by name for each entry costs more than hashing the entry.
HASHERS: dict[str, Callable[[bytes], "hashlib._Hash"]] = {
    "sha1": partial(hashlib.sha1, usedforsecurity=False),
    "sha256": hashlib.sha256,
    "sha384": hashlib.sha384,
    "sha512": hashlib.sha512,
}
# The template hash column is SHA-1, except in the lists per bank of newer kernels (``…_measurements_sha256``).
HASH_BY_SIZE = {20: "sha1", 32: "sha256", 48: "sha384", 64: "sha512"}


@dataclass(frozen=True, slots=True)
class ImaEntry:
    """One entry. ``path`` is decoded as file names are: surrogates stand for bytes that are not UTF-8.

    ``digest_type`` is "ima" or "verity", ``digest_alg`` the kernel's name. ``signature`` holds an extended attribute
    and ``buffer`` what an ``ima-buf`` entry measured, empty where there is none. ``data`` is what the template hash
    covers.
    """

    pcr: int
    template_hash: bytes
    template: str
    digest_type: str
    digest_alg: str
    digest: bytes
    path: str
    signature: bytes
    buffer: bytes
    modsig_digest: str
    modsig: bytes
    data: bytes

    @property
    def violation(self) -> bool:
        """The kernel could not vouch for the file: it was open for writing while it was measured, or the reverse."""
        return not any(self.template_hash)

    @property
    def template_hash_matches(self) -> bool:
        """Whether the hash shown is that of the fields shown; false for a violation, which shows none."""
        return HASHERS[HASH_BY_SIZE[len(self.template_hash)]](self.data).digest() == self.template_hash


def entry_of(row: Row) -> ImaEntry:
    """The typed form of one row."""
    template_hash, template, text, path, data = row
    label, _, digits = text.decode().rpartition(":")
    kind, _, alg = label.rpartition(":")
    blobs = [] if template == b"ima" else split_fields(template, data)[2:]
    modsig_label, _, modsig_digest = blobs[1].partition(b":\0") if template == b"ima-modsig" else (b"", b"", b"")
    return ImaEntry(
        pcr=IMA_PCR,
        template_hash=template_hash,
        template=template.decode(),
        digest_type=kind or "ima",
        digest_alg=alg,
        digest=bytes.fromhex(digits),
        path=shown_path(path),
        signature=blobs[0] if template in {b"ima-sig", b"ima-sigv2", b"ima-modsig"} else b"",
        buffer=blobs[0] if template == b"ima-buf" else b"",
        modsig_digest=f"{modsig_label.decode()}:{modsig_digest.hex()}" if modsig_label else "",
        modsig=blobs[2] if template == b"ima-modsig" else b"",
        data=data,
    )


def shown_path(path: bytes) -> str:
    """A path as text that encodes back to the same bytes with ``surrogateescape``."""
    return path.decode("utf-8", "surrogateescape")


class ImaEntries(Sequence[ImaEntry]):
    """Entries of a list, or a slice of them. ``rows`` is for code that walks all of them."""

    __slots__ = ("hash_alg", "rows")

    def __init__(self, rows: list[Row], hash_alg: str) -> None:
        self.rows = rows
        self.hash_alg = hash_alg

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> ImaEntry: ...
    @overload
    def __getitem__(self, index: slice) -> "ImaEntries": ...
    def __getitem__(self, index: int | slice) -> "ImaEntry | ImaEntries":
        if isinstance(index, slice):
            return ImaEntries(self.rows[index], self.hash_alg)
        return entry_of(self.rows[index])

    def __iter__(self) -> Iterator[ImaEntry]:
        return map(entry_of, self.rows)


@dataclass(frozen=True, slots=True)
class ImaList:
    """A parsed list: ``format`` is "ascii" or "binary", ``hash_alg`` the algorithm of its template hash column."""

    format: str
    hash_alg: str
    entries: ImaEntries
