"""Reference values: what a machine in good order looks like.

A baseline is captured from a running executor and approved by a named operator; until then it is only a proposal. It is
named by the digest of its canonical bytes, so approving one approves exactly these values.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote_from_bytes, unquote_to_bytes

from pydantic_core import from_json

from tpm.algorithms import BANKS, DIGEST_SIZE
from tpm.eventlog import VerifiedEventLog
from tpm.ima_entry import ImaEntries
from tpm.ima_rules import AllowList
from ztrooted import canonical
from ztrooted.boot_reference import BootReference, boot_reference
from ztrooted.collector import collector_paused
from ztrooted.errors import PolicyError
from ztrooted.evidence import sha256
from ztrooted.reasons import GateReason

FORMAT = "ztrooted-baseline/1"
MAXIMUM = 64 << 20  # 100,000 files with one digest each are about 15 MB
IMA_PCR = 10
PCRS = 24  # PC Client Platform TPM Profile §4.6: 0 to 23
_BANK_SIZE = {name: DIGEST_SIZE[alg] for alg, name in BANKS.items()}


@dataclass(frozen=True, slots=True)
class Baseline:
    """PCR values, the facts of a good boot, and for each path the file digests ("sha256:…") that IMA may have measured.

    ``boot`` is None where the machine's firmware log was not judged. ``captured_from`` names the executor, or what else
    the values were taken from; ``captured_at`` is milliseconds since the epoch.
    """

    bank: str
    pcrs: Mapping[int, bytes]
    ima: Mapping[str, frozenset[str]]
    captured_from: str
    captured_at: int
    boot: BootReference | None = None

    def encode(self) -> bytes:
        """Canonical bytes; their SHA-256 is the baseline's name."""
        head = canonical.encode(
            {
                "format": FORMAT,
                "bank": self.bank,
                "pcrs": {str(index): value.hex() for index, value in self.pcrs.items()},
                "boot": None if self.boot is None else self.boot.encode(),
                "ima": [],
                "captured_from": self.captured_from,
                "captured_at": self.captured_at,
            }
        )
        return head.replace(_NO_FILES, b'"ima":[' + _encode_files(self.ima) + b"]", 1)


def capture(
    *,
    bank: str,
    pcrs: Mapping[int, bytes],
    entries: ImaEntries,
    event_log: VerifiedEventLog | None,
    executor: str,
    now_ms: int,
) -> Baseline:
    """A baseline from verified PCR values, IMA entries and event log. PCR 10 is left out: IMA goes on extending it."""
    return Baseline(
        bank=bank,
        pcrs={index: value for index, value in pcrs.items() if index != IMA_PCR},
        ima={path: frozenset(digests) for path, digests in AllowList.of_entries(entries).items()},
        captured_from=executor,
        captured_at=now_ms,
        boot=None if event_log is None else boot_reference(event_log),
    )


@dataclass(frozen=True, slots=True)
class Reference:
    """A baseline in force: approved for a class of executors, until ``expires_ms`` (None: until it is replaced)."""

    digest: str
    baseline: Baseline
    allow: AllowList
    expires_ms: int | None = None

    def expired(self, now_ms: int) -> bool:
        """Whether its approval has ended."""
        return self.expires_ms is not None and self.expires_ms < now_ms

    @classmethod
    def load(cls, data: bytes, expires_ms: int | None = None) -> "Reference":
        """From a baseline's bytes, once: this is what is held ready for every appraisal."""
        with collector_paused():
            return cls(sha256(data), *_parse(data), expires_ms)


def parse_baseline(data: bytes) -> Baseline:
    """Read canonical bytes: PolicyError ``baseline.malformed`` for anything else than what ``encode`` writes.

    ProofError ``canonical.malformed`` where the bytes are not canonical JSON, or over the maximum.
    """
    return _parse(data)[0]


def _parse(data: bytes) -> tuple[Baseline, AllowList]:
    """A baseline with its allow-list, which has to be made to see whether it can be."""
    if len(data) > MAXIMUM:
        raise canonical.refuse(f"over {MAXIMUM} bytes of JSON")
    # A quick reader will do: what it might read leniently is not written again as it stands.
    try:
        value = from_json(data)
    except ValueError:
        value = canonical.decode(data, maximum=MAXIMUM)
    try:
        baseline, allow = _from_value(value)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise PolicyError(GateReason.BASELINE_MALFORMED, f"the baseline can't be used: {error}") from error
    # "01" and "1" are the same PCR to int(), and so on: only one spelling of a baseline may exist.
    if baseline.encode() != data:
        canonical.decode(data, maximum=MAXIMUM)
        raise PolicyError(GateReason.BASELINE_MALFORMED, "the baseline is spelled in another way than the one we write")
    return baseline, allow


def _from_value(value: Any) -> tuple[Baseline, AllowList]:
    if (
        set(value) != {"format", "bank", "pcrs", "boot", "ima", "captured_from", "captured_at"}
        or value["format"] != FORMAT
    ):
        raise ValueError(f"it is not of format {FORMAT}")
    bank, captured_from, captured_at = value["bank"], value["captured_from"], value["captured_at"]
    if bank not in _BANK_SIZE or not isinstance(captured_from, str) or type(captured_at) is not int or captured_at < 0:
        raise ValueError("its bank is unknown, or it does not say where and when it was captured")
    pcrs = {int(index): bytes.fromhex(digest) for index, digest in value["pcrs"].items()}
    if any(not 0 <= index < PCRS or len(digest) != _BANK_SIZE[bank] for index, digest in pcrs.items()):
        raise ValueError("it names a PCR that doesn't exist, or a value of another length than the bank's")
    ima = {_unescape(path): frozenset(digests) for path, digests in value["ima"]}
    boot = None if value["boot"] is None else BootReference.decode(value["boot"])
    if boot is not None and any(len(event.digest) != _BANK_SIZE[bank] for event in boot.events):
        raise ValueError("it has an event with a digest of another length than the bank's")
    if not pcrs and not ima and boot is None:
        raise ValueError("it pins nothing, and an empty baseline would trust everything")
    allow = AllowList(ima)  # refuses what is no path or no digest, before somebody approves it
    return Baseline(bank, pcrs, ima, captured_from, captured_at, boot), allow


# A file name is bytes, and canonical JSON is Unicode: everything but printable ASCII is percent-encoded, and what JSON
# would escape, so that a path stands in the text as it is.
_PLAIN = "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in '%"\\')
_IS_PLAIN = re.compile(f"[{re.escape(_PLAIN)}]*").fullmatch
_NO_FILES = b'"ima":[]'


def _encode_files(ima: Mapping[str, frozenset[str]]) -> bytes:
    """The entries as canonical JSON. They are most of a baseline, and text of a form that needs no encoder."""
    entries = [f'["{_escape(path)}",["{_listed(ima[path])}"]]' for path in sorted(ima)]
    text = ",".join(entries).replace('[""]', "[]")
    quotes = 2 * len(ima) + 2 * sum(map(len, ima.values()))
    if "\\" in text or not text.isascii() or not text.isprintable() or text.count('"') != quotes:
        raise ValueError("a digest holds what no digest does")
    return text.encode()


def _listed(digests: frozenset[str]) -> str:
    return '","'.join(sorted(digests)) if len(digests) > 1 else "".join(digests)


def _escape(path: str) -> str:
    return path if _IS_PLAIN(path) else quote_from_bytes(os.fsencode(path), safe=_PLAIN)


def _unescape(text: str) -> str:
    return os.fsdecode(unquote_to_bytes(text)) if "%" in text else text
