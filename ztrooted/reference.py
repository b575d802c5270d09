"""Reference values: what a machine in good order looks like.

A baseline is captured from a running executor and approved by a named operator; until then it is only a proposal. It is
named by the digest of its canonical bytes, so approving one approves exactly these values.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from tpm.ima_entry import ImaEntries
from tpm.ima_rules import AllowList
from ztrooted import canonical
from ztrooted.errors import PolicyError
from ztrooted.reasons import GateReason

FORMAT = "ztrooted-baseline/1"
MAXIMUM = 64 << 20  # 100,000 files with one digest each are about 15 MB


@dataclass(frozen=True, slots=True)
class Baseline:
    """PCR values that must be equal, and for each path the file digests ("sha256:…") that IMA may have measured."""

    bank: str
    pcrs: Mapping[int, bytes]
    ima: Mapping[str, frozenset[str]]
    captured_from: str
    captured_at: int

    def encode(self) -> bytes:
        """Canonical bytes; their SHA-256 is the baseline's name."""
        return canonical.encode(
            {
                "format": FORMAT,
                "bank": self.bank,
                "pcrs": {str(index): value.hex() for index, value in self.pcrs.items()},
                "ima": [[_escape(path), sorted(digests)] for path, digests in sorted(self.ima.items())],
                "captured_from": self.captured_from,
                "captured_at": self.captured_at,
            }
        )


def capture(
    *,
    bank: str,
    pcrs: Mapping[int, bytes],
    pinned: Iterable[int],
    entries: ImaEntries,
    executor: str,
    now_ms: int,
) -> Baseline:
    """A baseline from verified PCR values and verified IMA entries. ``pinned`` are the PCRs to compare from now on."""
    return Baseline(
        bank=bank,
        pcrs={index: pcrs[index] for index in pinned},
        ima={path: frozenset(digests) for path, digests in AllowList.of_entries(entries).items()},
        captured_from=executor,
        captured_at=now_ms,
    )


def parse_baseline(data: bytes) -> Baseline:
    """Read canonical bytes. PolicyError ``baseline.malformed`` for anything else than what ``encode`` writes."""
    value = canonical.decode(data, maximum=MAXIMUM)
    try:
        return _from_value(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PolicyError(GateReason.BASELINE_MALFORMED, f"the baseline can't be used: {error}") from error


def _from_value(value: Any) -> Baseline:
    if set(value) != {"format", "bank", "pcrs", "ima", "captured_from", "captured_at"} or value["format"] != FORMAT:
        raise ValueError(f"it is not of format {FORMAT}")
    pcrs = {int(index): bytes.fromhex(digest) for index, digest in value["pcrs"].items()}
    ima = {_unescape(path): frozenset(str(digest) for digest in digests) for path, digests in value["ima"]}
    if not pcrs and not ima:
        raise ValueError("it pins nothing, and an empty baseline would trust everything")
    return Baseline(value["bank"], pcrs, ima, value["captured_from"], value["captured_at"])


# A file name is bytes, and canonical JSON is Unicode: everything but printable ASCII is percent-encoded.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if code != 0x25)


def _escape(path: str) -> str:
    return quote_from_bytes(os.fsencode(path), safe=_PLAIN)


def _unescape(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text))
