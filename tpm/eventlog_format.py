"""Measured boot logs: bytes -> ``EventLog``, and what its events add up to in the PCRs (PFP 1.06 §10).

A log is either *crypto-agile*, ``TCG_PCR_EVENT2`` records behind a Spec ID event that declares the banks (§10.2.2,
§10.4.5.1), or in the older *sha1* form, ``TCG_PCR_EVENT`` records only (§10.2.1). All integers are little-endian.
Parsing believes nothing: types, data and order are judged by ``tpm.eventlog_verify``.
"""

import hashlib
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NoReturn

from tpm.algorithms import BANKS, DIGEST_SIZE
from tpm.errors import MalformedError, RejectedError
from tpm.eventlog_quirks import Quirk
from tpm.eventlog_types import EventType, type_name
from tpm.reasons import EvidenceReason

Format = Literal["crypto-agile", "sha1"]

# The largest logs seen are 75 KB (Windows with many drivers); Linux exports at most what ACPI reserves, 64 to 256 KiB.
MAX_LOG_BYTES = 1 << 20
# The busiest boot loaders log a few hundred events; this is what fits before replay could cost more than some 10 ms.
MAX_EVENTS = 8192
# A TPM has fewer banks than this (TPM 2.0 Part 2 §10.6.2 HASH_COUNT); the Spec ID event declares one entry for each.
MAX_ALGORITHMS = 8
# TPMT_HA of the largest hash in the algorithm registry.
MAX_DIGEST_SIZE = 64
# PCRs of a PC client TPM (PC Client Platform TPM Profile §4.6).
PCR_COUNT = 24
# The index of an event that belongs to no PCR.
NO_PCR = 0xFFFFFFFF

_HEADER = struct.Struct("<II20sI")  # TCG_PCR_EVENT: pcrIndex, eventType, SHA-1 digest, eventDataSize
_PREFIX = struct.Struct("<III")  # TCG_PCR_EVENT2 up to the number of digests
_SPEC_ID = struct.Struct("<16sIBBBBI")
_PAIR = struct.Struct("<HH")
_U16 = struct.Struct("<H")
_U32 = struct.Struct("<I")
_SIGNATURE = b"Spec ID Event03\x00"
_UNVERSIONED = b"Spec ID Event\x00\x00\x00"
# What a TCG 1.2 log for UEFI (00, 02) begins with; its records stay in the SHA-1 form.
_LEGACY_SIGNATURES = (b"Spec ID Event00\x00", b"Spec ID Event02\x00")
_ZERO_SHA1 = bytes(20)


@dataclass(frozen=True, slots=True)
class SpecId:
    """``TCG_EfiSpecIdEvent``: the version of the log and its banks as (algorithm id, digest size), in order."""

    version: tuple[int, int, int]
    platform_class: int
    uintn_size: int
    algorithms: tuple[tuple[int, int], ...]
    vendor_info: bytes


@dataclass(frozen=True, slots=True)
class Event:
    """One record. ``digests`` maps bank names to digests; ``type`` may be a value the profile does not know.

    ``decoded`` is filled by ``tpm.eventlog_content.decode`` on first use.
    """

    number: int
    pcr: int
    type: int
    digests: Mapping[str, bytes]
    data: bytes
    decoded: object | None = field(default=None, compare=False, repr=False)

    @property
    def type_name(self) -> str:
        """``EV_…``, or the value in hexadecimal."""
        return type_name(self.type)


@dataclass(frozen=True, slots=True)
class EventLog:
    """A parsed log, of which nothing has been believed.

    ``banks`` are the names of the declared banks; a digest of a bank this project cannot compute is kept under
    ``alg-<hex id>``. ``quirks`` were allowed, ``quirks_used`` were needed. ``size`` is the log in bytes.
    """

    format: Format
    banks: tuple[str, ...]
    events: tuple[Event, ...]
    size: int
    spec_id: SpecId | None = None
    quirks: frozenset[Quirk] = frozenset()
    quirks_used: frozenset[Quirk] = frozenset()

    def replay(self, bank: str) -> dict[int, bytes]:
        """The final value of each PCR that has measured events, computed for ``bank`` ("sha256", …).

        Raises ``RejectedError``: ``log.bank_missing`` where the log, or one event, has no digest of that bank,
        ``log.startup_locality`` where the start value of PCR 0 is not told unambiguously.
        """
        if bank not in BANKS.values():
            raise RejectedError(EvidenceReason.LOG_BANK_MISSING, f"{bank!r} is no bank that can be computed")
        if bank not in self.banks:
            raise RejectedError(EvidenceReason.LOG_BANK_MISSING, f"the log has {', '.join(self.banks)}, not {bank}")
        new = getattr(hashlib, bank)
        zero = bytes(new(usedforsecurity=False).digest_size)
        values: dict[int, bytes] = {}
        locality = startup_locality(self)
        first = {0: zero[:-1] + bytes((locality,))}
        for event in self.events:
            if event.type == 3:
                continue
            pcr = event.pcr
            measured = event.digests.get(bank)
            if measured is None:
                raise RejectedError(EvidenceReason.LOG_BANK_MISSING, f"event {event.number} has no {bank} digest")
            before = values.get(pcr) or first.get(pcr, zero)
            values[pcr] = new(before + measured, usedforsecurity=False).digest()
        return values


def startup_locality(log: EventLog) -> int:
    """The start value of PCR 0: 0, 3, or 4 after an H-CRTM (PFP §10.4.5.3, TPM 2.0 Part 1 §34.3).

    A StartupLocality event counts only in PCR 0, once, before anything was extended there; an H-CRTM event says 4 by
    itself and contradicts 0 and 3. Raises ``RejectedError`` with ``log.startup_locality``.
    """
    told: int | None = None
    extended = False
    for event in log.events:
        if event.type == EventType.NO_ACTION and event.data.startswith(b"StartupLocality\x00"):
            if (
                event.pcr != 0
                or told is not None
                or extended
                or len(event.data) != 17
                or event.data[16] not in (0, 3, 4)
            ):
                raise RejectedError(
                    EvidenceReason.LOG_STARTUP_LOCALITY,
                    f"event {event.number} is no single StartupLocality of 0, 3 or 4 before PCR 0 is extended",
                )
            told = event.data[16]
        elif event.type == EventType.EFI_HCRTM_EVENT:
            if event.pcr != 0 or extended or told in (0, 3):
                raise RejectedError(
                    EvidenceReason.LOG_STARTUP_LOCALITY,
                    f"event {event.number} is an H-CRTM event that does not open PCR 0 at locality 4",
                )
            told = 4
            extended = True
        elif event.pcr == 0 and event.type != EventType.NO_ACTION:
            extended = True
    return told or 0


def _fail(detail: str, reason: EvidenceReason = EvidenceReason.LOG_MALFORMED) -> NoReturn:
    raise MalformedError(reason, detail)


def _bank_name(algorithm: int) -> str:
    name = BANKS.get(algorithm)  # type: ignore[call-overload]
    return name if name is not None else f"alg-{algorithm:04x}"


def parse_spec_id(data: bytes, *, quirks: frozenset[Quirk] = frozenset()) -> SpecId:
    """Parse the data of a Spec ID event (PFP §10.4.5.1); the vendor bytes end it exactly.

    Raises ``MalformedError`` with ``log.malformed``: signature, version other than 2.0, no algorithm, an algorithm
    twice, a digest size that is not the algorithm's.
    """
    if len(data) < _SPEC_ID.size:
        _fail(f"Spec ID event of {len(data)} bytes")
    signature, platform, minor, major, errata, uintn, count = _SPEC_ID.unpack_from(data)
    if signature != _SIGNATURE and not (signature == _UNVERSIONED and Quirk.SPEC_ID_UNVERSIONED in quirks):
        _fail(f"Spec ID signature {signature!r}")
    if (major, minor) != (2, 0):
        _fail(f"Spec ID version {major}.{minor}, expected 2.0")
    if not 0 < count <= MAX_ALGORITHMS:
        _fail(f"{count} algorithms in the Spec ID event, expected 1 to {MAX_ALGORITHMS}")
    end = _SPEC_ID.size + 4 * count
    if end >= len(data):
        _fail("Spec ID event ends inside its algorithms")
    algorithms = tuple(_PAIR.iter_unpack(data[_SPEC_ID.size : end]))
    if len({algorithm for algorithm, _ in algorithms}) != count:
        _fail("an algorithm is declared twice")
    for algorithm, size in algorithms:
        known = DIGEST_SIZE.get(algorithm)
        if size != known if known else not 0 < size <= MAX_DIGEST_SIZE:
            _fail(f"digest size {size} for algorithm 0x{algorithm:04x}")
    if len(data) != end + 1 + data[end]:
        _fail(f"{data[end]} vendor bytes declared, {len(data) - end - 1} present")
    return SpecId((major, minor, errata), platform, uintn, algorithms, data[end + 1 :])


def parse_event_log(data: bytes, *, quirks: frozenset[Quirk] = frozenset()) -> EventLog:
    """Parse a whole log in either form; the Spec ID event is event 0.

    Raises ``RejectedError`` ``log.empty`` for no bytes and ``log.too_large`` above ``MAX_LOG_BYTES`` or ``MAX_EVENTS``;
    ``MalformedError`` ``log.pcr_index`` for a PCR that does not exist, ``log.malformed`` for everything else.
    """
    if not data:
        raise RejectedError(EvidenceReason.LOG_EMPTY, "no bytes")
    if len(data) > MAX_LOG_BYTES:
        raise RejectedError(EvidenceReason.LOG_TOO_LARGE, f"over {MAX_LOG_BYTES} bytes")
    return _Parser(data, quirks).log()


def parse_event(data: bytes, *, form: Format = "crypto-agile") -> Event:
    """Parse exactly one record that stands alone, such as one handed out by a tool; digest sizes are the registry's.

    Raises ``MalformedError`` as ``parse_event_log`` does.
    """
    parser = _Parser(data, frozenset())
    if form == "sha1":
        parser.legacy(0)
    else:
        parser.declare(tuple((int(alg), size) for alg, size in DIGEST_SIZE.items()))
        parser.agile(0)
    if len(parser.events) != 1:
        _fail(f"{len(parser.events)} events, expected one")
    return parser.events[0]


def append_events(base: EventLog, extra: EventLog) -> EventLog:
    """``base`` followed by the measured events of ``extra``, a log that a later stage started anew.

    The result has the banks that both have. Raises ``RejectedError`` ``log.bank_missing`` where there is none.
    """
    banks = tuple(bank for bank in base.banks if bank in extra.banks)
    if not banks:
        raise RejectedError(EvidenceReason.LOG_BANK_MISSING, "the logs have no bank in common")
    start = len(base.events)
    added = (event for event in extra.events if event.type != EventType.NO_ACTION)
    events = (Event(start + i, e.pcr, e.type, e.digests, e.data) for i, e in enumerate(added))
    return EventLog(
        base.format,
        banks,
        (*base.events, *events),
        base.size + extra.size,
        base.spec_id,
        base.quirks | extra.quirks,
        base.quirks_used | extra.quirks_used,
    )


class _Parser:
    """Cursor over one log. Sizes are checked before anything is cut out, so nothing is ever shorter than it says."""

    def __init__(self, data: bytes, quirks: frozenset[Quirk]) -> None:
        self.data = data
        self.quirks = quirks
        self.used: set[Quirk] = set()
        self.events: list[Event] = []
        self.sizes: dict[int, int] = {}
        self.names: dict[int, str] = {}

    def log(self) -> EventLog:
        data = self.data
        if len(data) < _HEADER.size:
            _fail(f"log of {len(data)} bytes")
        pcr, kind, digest, size = _HEADER.unpack_from(data)
        body = data[32 : 32 + size]
        named = body.startswith(b"Spec ID Event") and body[:16] not in _LEGACY_SIGNATURES
        if kind != EventType.NO_ACTION or not named:
            self.legacy(0)
            return self._result("sha1", ("sha1",), None)
        if digest != _ZERO_SHA1 or (pcr and (pcr >= PCR_COUNT or Quirk.SPEC_ID_REGISTER not in self.quirks)):
            _fail("the Spec ID event is not in PCR 0 with an all-zero digest")
        if pcr:
            self.used.add(Quirk.SPEC_ID_REGISTER)
        if len(body) != size:
            _fail(f"Spec ID event of {size} bytes, {len(body)} are left")
        body = self._vendor_bytes(body)
        spec = parse_spec_id(body, quirks=self.quirks)
        if body.startswith(_UNVERSIONED):
            self.used.add(Quirk.SPEC_ID_UNVERSIONED)
        self.declare(spec.algorithms)
        self.events.append(Event(0, pcr, kind, {"sha1": digest}, body))
        self.agile(32 + len(body))
        return self._result("crypto-agile", tuple(self.names.values()), spec)

    def _vendor_bytes(self, body: bytes) -> bytes:
        """The body of the Spec ID event, with the vendor bytes its size left out where that quirk is on."""
        if Quirk.SPEC_ID_VENDOR_SIZE not in self.quirks or len(body) < _SPEC_ID.size:
            return body
        end = _SPEC_ID.size + 4 * min(_SPEC_ID.unpack_from(body)[6], MAX_ALGORITHMS)
        if len(body) != end + 1 or not body[end]:
            return body
        self.used.add(Quirk.SPEC_ID_VENDOR_SIZE)
        return self.data[32 : 32 + len(body) + body[end]]

    def declare(self, algorithms: tuple[tuple[int, int], ...]) -> None:
        self.sizes = dict(algorithms)
        self.names = {algorithm: _bank_name(algorithm) for algorithm in self.sizes}

    def _result(self, form: Format, banks: tuple[str, ...], spec: SpecId | None) -> EventLog:
        used = frozenset(self.used)
        return EventLog(form, banks, tuple(self.events), len(self.data), spec, self.quirks, used)

    def legacy(self, at: int) -> None:
        """``TCG_PCR_EVENT`` records from offset ``at`` to the end."""
        data, end = self.data, len(self.data)
        while at < end:
            if self._padding(at):
                return
            if end - at < 32:
                _fail(f"{end - at} bytes at offset {at} are no event")
            pcr, kind, digest, size = _HEADER.unpack_from(data, at)
            if not any(data[at : at + 32]):
                _fail(f"zero padding at offset {at}")
            at = self._add(pcr, kind, {"sha1": digest}, at + 32, size)

    def agile(self, at: int) -> None:
        """``TCG_PCR_EVENT2`` records from offset ``at`` to the end."""
        data, end = self.data, len(self.data)
        sizes, names = self.sizes, self.names
        # Nearly all logs carry all declared digests in the declared order: one read for each event.
        usual = struct.Struct("<III" + "".join(f"H{size}s" for size in sizes.values()) + "I")
        ids, columns, span = tuple(sizes), tuple(names.values()), usual.size
        while at < end:
            if end - at >= span:
                row = usual.unpack_from(data, at)
                if row[3:-1:2] == ids and row[2] == len(ids):
                    at = self._add(row[0], row[1], dict(zip(columns, row[4::2], strict=True)), at + span, row[-1])
                    continue
            if self._padding(at):
                return
            at = self._irregular(at)

    def _irregular(self, at: int) -> int:
        """One record that lacks a declared digest or orders them differently; returns the offset behind it."""
        data, end = self.data, len(self.data)
        if end - at < _PREFIX.size:
            _fail(f"{end - at} bytes at offset {at} are no event")
        pcr, kind, count = _PREFIX.unpack_from(data, at)
        if not 0 < count <= len(self.sizes):
            _fail(f"{count} digests at offset {at}, the log declares {len(self.sizes)}")
        digests: dict[str, bytes] = {}
        at += _PREFIX.size
        for _ in range(count):
            algorithm = _U16.unpack_from(data, at)[0] if end - at >= 2 else None
            size = self.sizes.get(algorithm) if algorithm is not None else None
            if algorithm is None or size is None or end - at - 2 < size:
                _fail(f"digest at offset {at} is cut off or of no declared algorithm")
            name = self.names[algorithm]
            if name in digests:
                _fail(f"two {name} digests in one event at offset {at}")
            digests[name] = data[at + 2 : at + 2 + size]
            at += 2 + size
        if end - at < 4:
            _fail(f"event size at offset {at} is cut off")
        return self._add(pcr, kind, digests, at + 4, _U32.unpack_from(data, at)[0])

    def _add(self, pcr: int, kind: int, digests: dict[str, bytes], at: int, size: int) -> int:
        stop = at + size
        if stop > len(self.data):
            _fail(f"event of {size} bytes at offset {at}, {len(self.data) - at} are left")
        if pcr >= PCR_COUNT:
            if pcr != NO_PCR or kind != EventType.NO_ACTION or Quirk.NO_ACTION_WITHOUT_PCR not in self.quirks:
                _fail(f"PCR {pcr} in the event before offset {at}", EvidenceReason.LOG_PCR_INDEX)
            self.used.add(Quirk.NO_ACTION_WITHOUT_PCR)
        number = len(self.events)
        if number >= MAX_EVENTS:
            raise RejectedError(EvidenceReason.LOG_TOO_LARGE, f"more than {MAX_EVENTS} events")
        self.events.append(Event(number, pcr, kind, digests, self.data[at:stop]))
        return stop

    def _padding(self, at: int) -> bool:
        """Whether nothing but 0xFF follows and that is allowed."""
        # Most events without a PCR are told from padding by their type, so that few make us look at all that follows.
        if Quirk.FF_PADDING not in self.quirks or self.data[at : at + 8].strip(b"\xff"):
            return False
        if self.data.count(0xFF, at) != len(self.data) - at:
            return False
        self.used.add(Quirk.FF_PADDING)
        return True
