"""Rules for what a machine may have measured, and their appraisal over verified entries.

Rules are parsed once and shared by all machines of a class: an allow-list of 100,000 paths costs tens of megabytes and
one look-up per entry.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from tpm.ima_entry import ImaEntries, shown_path
from tpm.ima_paths import PathPatterns, is_plain
from tpm.ima_signature import ImaKeyring
from tpm.ima_template import DIGEST_SIZES, DIGEST_TYPES, FROM_TEXT

BOOT_AGGREGATE = b"boot_aggregate"
# A broken or truncated hash lets two files share a place in the list.
STRONG_DIGESTS = frozenset({"sha256", "sha384", "sha512"})
# All templates the kernel uses by itself, but the old one, whose names may be cut.
TEMPLATES = frozenset({"ima-ng", "ima-ngv2", "ima-sig", "ima-sigv2", "ima-buf", "ima-modsig"})
# A whole distribution has a few hundred thousand files.
MAX_ALLOWED_PATHS = 1_000_000
# A P-256 signature takes about 0.05 ms, so this many take the better part of a second.
MAX_SIGNATURES = 8192

# The algorithm of a digest that comes without its name.
_ALG_BY_HEX = {32: "md5", 40: "sha1", 56: "sha224", 64: "sha256", 96: "sha384", 128: "sha512"}


class BootAggregate(StrEnum):
    """How a kernel computes the digest of its first entry.

    ``bank``: over PCRs 0–9 of the bank its label names (from 5.9). ``bank_0_7``: without 8 and 9 (5.8). ``sha1``: over
    PCRs 0–7 of the SHA-1 bank (before, and wherever only that bank is active).
    """

    BANK = "bank"
    BANK_0_7 = "bank_0_7"
    SHA1 = "sha1"


# What nearly every digest of an allow-list looks like.
_USUAL = re.compile("sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}").fullmatch


def digest_text(digest: str | bytes) -> bytes:
    """A digest as entries show it: ``sha256:<hex>``, ``verity:sha256:<hex>``.

    A bare one, in hexadecimal or bytes, is taken for that of the common algorithm of its length. ValueError otherwise.
    """
    if isinstance(digest, bytes):
        digest = digest.hex()
    elif _USUAL(digest):
        return digest.encode()
    label, _, digits = digest.lower().rpartition(":")
    label = label or _ALG_BY_HEX.get(len(digits), "")
    kind, _, name = label.rpartition(":")
    size = DIGEST_SIZES.get(name.encode())
    if size is None or (kind and f"{kind}:".encode() not in DIGEST_TYPES) or len(bytes.fromhex(digits)) != size:
        raise ValueError(f"{digest[:200]!r} is not a file digest")
    # "ima:" says what a digest without a type says.
    return f"{label.removeprefix('ima:')}:{digits}".encode()


class AllowList:
    """Digests by path. Keys that are no paths are names of buffers, and ``boot_aggregate`` that of the first entry.

    ``files`` and ``names`` map bytes to the digest texts allowed there.
    """

    __slots__ = ("boot_aggregate", "files", "names")

    def __init__(self, allow: Mapping[str, Iterable[str | bytes]]) -> None:
        if len(allow) > MAX_ALLOWED_PATHS:
            raise ValueError(f"an allow-list of {len(allow)} paths is over the maximum of {MAX_ALLOWED_PATHS}")
        self.files: dict[bytes, tuple[bytes, ...] | frozenset[bytes]] = {}
        self.names: dict[bytes, frozenset[bytes]] = {}
        files, usual = self.files, _USUAL
        for path, digests in allow.items():
            if isinstance(digests, (str, bytes)):
                raise ValueError(f"{path!r} needs a list of digests")
            key = path.encode("utf-8", "surrogateescape")
            texts = tuple([one.encode() if type(one) is str and usual(one) else digest_text(one) for one in digests])
            if len(texts) > 1:
                texts = tuple(dict.fromkeys(texts))
            if key[:1] != b"/":
                self.names[key] = frozenset(texts)
            elif (b"/." not in key and b"//" not in key and key[-1:] != b"/") or is_plain(key):
                # Nearly every path has one digest, and a tuple of one is a quarter of the size of a set.
                files[key] = texts if len(texts) < 5 else frozenset(texts)
            else:
                raise ValueError(f"{path!r} has an empty component, '.' or '..', and would never be allowed")
        self.boot_aggregate = self.names.pop(BOOT_AGGREGATE, frozenset())

    def __len__(self) -> int:
        return len(self.files) + len(self.names)

    @classmethod
    def of_entries(cls, entries: ImaEntries) -> dict[str, list[str]]:
        """The mapping that allows exactly these entries, to start a baseline from. Violations allow nothing."""
        captured: dict[bytes, dict[bytes, None]] = {}
        for shown, template, text, path, _ in entries.rows:
            plain = is_plain(path) if path[:1] == b"/" else template == b"ima-buf" or path == BOOT_AGGREGATE
            if any(shown) and plain:
                captured.setdefault(path, {})[text] = None
        return {shown_path(path): [text.decode() for text in texts] for path, texts in sorted(captured.items())}


@dataclass(frozen=True, slots=True)
class ImaRules:
    """What may have been measured.

    A file is accepted when its path is listed with its digest; else, when its path is not listed at all, by a signature
    of ``keyring``, or because ``excludes`` leaves it out. Buffers are listed by name. ``allow_violations`` accepts all
    violations, ``violations`` those of the paths it covers. ``padded_sha1`` is for the replay (kernels before 5.8).
    """

    allow: AllowList
    excludes: PathPatterns = field(default_factory=PathPatterns)
    templates: frozenset[str] = TEMPLATES
    digest_algs: frozenset[str] = STRONG_DIGESTS
    allow_violations: bool = False
    violations: PathPatterns = field(default_factory=PathPatterns)
    keyring: ImaKeyring = field(default_factory=ImaKeyring)
    boot_aggregate: frozenset[BootAggregate] = frozenset({BootAggregate.BANK})
    padded_sha1: bool = False
    max_signatures: int = MAX_SIGNATURES

    def __post_init__(self) -> None:
        unknown = {name for name in self.templates if name.encode() not in FROM_TEXT}
        unknown |= {name for name in self.digest_algs if name.encode() not in DIGEST_SIZES}
        if unknown:
            raise ValueError(f"no template or digest algorithm has the name {min(unknown)!r}")

    @classmethod
    def of(
        cls,
        allow: Mapping[str, Iterable[str | bytes]],
        *,
        excludes: Iterable[str] = (),
        violations: Iterable[str] = (),
        **others: object,
    ) -> "ImaRules":
        """Rules from plain values; ``others`` are fields as they are.

        RejectedError ``ima.exclude_too_broad`` for a pattern that covers too much, ValueError for anything malformed.
        """
        return cls(
            AllowList(allow),
            PathPatterns.of(excludes),
            violations=PathPatterns.of(violations),
            **others,  # type: ignore[arg-type]
        )
