"""Event rules: what the facts of a boot must be, where a whole PCR says too much.

Each rule compares what was measured with the class's baseline, or with a list in the policy itself. They are judged over
``BootReference``, which holds only what a digest covers; labels and paths never decide.
"""

import hashlib
import struct
from collections.abc import Iterable
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from tpm.eventlog import EventType, Quirk
from tpm.eventlog_loader import LOAD_OPTIONS_TAG
from ztrooted.boot_reference import BootEvent, BootReference
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

PcrIndex = Annotated[int, Field(ge=0, le=23)]
DigestHex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64}|[0-9a-f]{96}|[0-9a-f]{128})$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=4096)]
Listed = Literal["baseline"] | Annotated[list[DigestHex], Field(min_length=1, max_length=16384)]
Patterns = Literal["baseline"] | Annotated[list[Pattern], Field(min_length=1, max_length=256)]

# Which PCR proves what. Boot loaders measure texts into 8 (GRUB), 9 (the kernel's stub) and 12 (systemd's stub).
KEYS_PCR, IMAGES_PCR, FILES_PCR = 7, 4, 9
TEXT_PCRS = (8, 9, 12)
_BANK_BY_DIGITS = {64: "sha256", 96: "sha384", 128: "sha512"}
MAX_STARS = 8  # of one pattern: whoever needs more writes several


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, ignored_types=(cached_property,))


class KeyRules(_Strict):
    """Secure Boot's variables. PK, KEK and db hold exactly these entries; dbx at least these."""

    pk: Listed | None = Field(None, alias="PK")
    kek: Listed | None = Field(None, alias="KEK")
    db: Listed | None = None
    dbx: Listed | None = None

    def rules(self) -> dict[str, Listed]:
        """Those that are set, by the name of the variable."""
        found = {"PK": self.pk, "KEK": self.kek, "db": self.db, "dbx": self.dbx}
        return {name: rule for name, rule in found.items() if rule is not None}


class Varying(_Strict):
    """Events that differ from machine to machine: every event of this type in this PCR.

    The type of an event is not in its digest, so any event of the PCR may claim to be one of these. That is why only the
    PCRs of configuration may vary, and never those of code and keys.
    """

    pcr: Literal[1, 3, 5, 6]
    type: str

    @field_validator("type")
    @classmethod
    def _known(cls, value: str) -> str:
        name = value.removeprefix("EV_")
        if not value.startswith("EV_") or name not in EventType.__members__:
            raise ValueError(
                f"there is no event type {value!r}; write it as in the specification, like EV_EFI_GPT_EVENT"
            )
        if name in {"SEPARATOR", "NO_ACTION", "EFI_ACTION", "ACTION"}:
            raise ValueError(f"{value} never differs between machines in good order")
        return value

    def covers(self, event: BootEvent) -> bool:
        """Whether an event is one of these."""
        return event.pcr == self.pcr and event.type == EventType[self.type.removeprefix("EV_")]


class EventLogPolicy(_Strict):
    """What the firmware's event log must show."""

    secure_boot: bool = True
    boot_attempts: int = Field(1, ge=1, le=8)
    quirks: list[Literal[tuple(quirk.value for quirk in Quirk)]] = []  # type: ignore[valid-type]
    keys: KeyRules | None = None
    authorities: Listed | None = None
    images: Listed | None = None
    files: Listed | None = None
    command_line: Patterns | None = None
    events: list[PcrIndex] = []
    varying: list[Varying] = []

    @field_validator("command_line")
    @classmethod
    def _few_stars(cls, value: Patterns | None) -> Patterns | None:
        for pattern in value if isinstance(value, list) else ():
            if pattern.count("*") > MAX_STARS:
                raise ValueError(f"a pattern has at most {MAX_STARS} of *")
            if not pattern.strip("* "):
                raise ValueError("a pattern of * alone would allow every command line; leave the rule out instead")
        return value

    def needs(self) -> dict[int, str]:
        """The PCRs that the rules rest on, each with the rule that asks for it first."""
        found: dict[int, str] = {}
        if self.secure_boot:
            found.setdefault(KEYS_PCR, "secure_boot")
        for name, rule, pcr in (
            ("keys", self.keys, KEYS_PCR),
            ("authorities", self.authorities, KEYS_PCR),
            ("images", self.images, IMAGES_PCR),
            ("files", self.files, FILES_PCR),
        ):
            if rule is not None:
                found.setdefault(pcr, name)
        if self.command_line is not None:  # of all of them: what is not quoted would hide a command line
            for pcr in TEXT_PCRS:
                found.setdefault(pcr, "command_line")
        for pcr in self.events:
            found.setdefault(pcr, "events")
        return found

    def rules(self) -> tuple[str, ...]:
        """The names of the event rules that are set."""
        names = ("keys", "authorities", "images", "files", "command_line")
        return tuple(name for name in names if getattr(self, name) is not None) + (("events",) if self.events else ())

    def wants_baseline(self) -> bool:
        """Whether a rule compares with the baseline."""
        rules: list[object] = [self.authorities, self.images, self.files, self.command_line]
        rules += self.keys.rules().values() if self.keys is not None else []
        return bool(self.events) or "baseline" in rules


def judge_boot(policy: EventLogPolicy, seen: BootReference, good: BootReference | None) -> None:
    """Compare the facts of a boot with the rules; ``good`` is the baseline's, or None where it has none.

    In the order of the policy: ``boot.keys``, ``boot.authority``, ``boot.image``, ``boot.file``, ``boot.command_line``,
    ``boot.event``. GateError with the first that fails; ``boot.no_reference`` where a rule needs a baseline with boot facts.
    """
    _judge_keys(policy, seen, good)
    for rule, what, reason in (
        (policy.authorities, "authority", GateReason.BOOT_AUTHORITY),
        (policy.images, "image", GateReason.BOOT_IMAGE),
        (policy.files, "file", GateReason.BOOT_FILE),
    ):
        if rule is None:
            continue
        found: frozenset[str] = getattr(seen, _plural(what))
        wanted = _allowed(rule, None if good is None else getattr(good, _plural(what)))
        if not found:
            raise GateError(reason, f"no {what} was measured, and the policy asks for known ones")
        strangers = found - wanted
        if strangers and what == "file" and policy.command_line is not None:
            strangers -= _load_options(seen)
        if strangers:
            raise GateError(
                reason, f"{_described(seen, min(strangers))} is none of the {len(wanted)} allowed {_plural(what)}"
            )
    if policy.command_line is not None:
        _judge_texts(policy.command_line, seen, good)
    for pcr in policy.events:
        if good is None:
            raise _no_reference()
        if difference := first_difference(seen.events, good.events, pcr, policy.varying):
            raise GateError(GateReason.BOOT_EVENT, difference)


def _load_options(seen: BootReference) -> frozenset[str]:
    """Digests that a stub's measurement of a text has: UTF-16, with or without a closing NUL and the tag around it.

    Linux' stub measures among the files what GRUB told it, which is the text that GRUB measured behind ``BOOT_IMAGE=``.
    Where a rule judges every text, these events are judged there. Only printable ASCII: what has those bytes is no
    program, no script and no archive, whatever the log calls it.
    """
    bank = next((_BANK_BY_DIGITS.get(len(digest)) for digest in seen.files), None)
    if bank is None:
        return frozenset()
    found = set()
    for text in seen.texts:
        if text.isascii() and text.isprintable():
            for told in (text, text + "\0", "BOOT_IMAGE=" + text, "BOOT_IMAGE=" + text + "\0"):
                data = told.encode("utf-16-le")
                tagged = struct.pack("<II", LOAD_OPTIONS_TAG, len(data)) + data
                found |= {hashlib.new(bank, data).hexdigest(), hashlib.new(bank, tagged).hexdigest()}
    return frozenset(found)


def _plural(what: str) -> str:
    return {"authority": "authorities", "image": "images", "file": "files"}[what]


def _no_reference() -> GateError:
    detail = "the baseline holds no facts of a boot to compare with; capture one from a machine with an event log"
    return GateError(GateReason.BOOT_NO_REFERENCE, detail)


def _allowed(rule: Listed, baseline: frozenset[str] | None) -> frozenset[str]:
    if isinstance(rule, list):
        return frozenset(rule)
    if baseline is None:
        raise _no_reference()
    return baseline


def _judge_keys(policy: EventLogPolicy, seen: BootReference, good: BootReference | None) -> None:
    for name, rule in policy.keys.rules().items() if policy.keys is not None else ():
        wanted = _allowed(rule, None if good is None else good.keys.get(name, frozenset()))
        if name not in seen.keys:
            raise GateError(GateReason.BOOT_KEYS, f"{name} was not measured")
        found = seen.keys[name]
        if missing := wanted - found:
            raise GateError(GateReason.BOOT_KEYS, f"{name} lacks {len(missing)} entries, the first {min(missing)}")
        if name != "dbx" and (strangers := found - wanted):
            detail = f"{name} has {len(strangers)} entries that are not allowed, the first {min(strangers)}"
            raise GateError(GateReason.BOOT_KEYS, detail)


def _judge_texts(rule: Patterns, seen: BootReference, good: BootReference | None) -> None:
    """Every text: which of them is the command line, no digest says."""
    if not seen.texts:
        raise GateError(
            GateReason.BOOT_COMMAND_LINE, "no command line was measured, and the policy asks for known ones"
        )
    if isinstance(rule, list):
        strangers = {text for text in seen.texts if not any(_matches(one, text) for one in rule)}
    elif good is None:
        raise _no_reference()
    else:
        strangers = set(seen.texts - good.texts)
    if strangers:
        raise GateError(GateReason.BOOT_COMMAND_LINE, f"{min(strangers)[:200]!r} is not allowed")


def _matches(pattern: str, text: str) -> bool:
    """``*`` stands for any characters, everything else for itself. Takes one pass over ``text`` for each part."""
    first, *rest = pattern.split("*")
    if not rest:
        return text == pattern
    if not text.startswith(first):
        return False
    position, last = len(first), rest.pop()
    for part in rest:
        found = text.find(part, position)
        if found < 0:
            return False
        position = found + len(part)
    return len(text) - position >= len(last) and text.endswith(last)


def first_difference(
    seen: Iterable[BootEvent], good: Iterable[BootEvent], pcr: int, varying: Iterable[Varying] = ()
) -> str:
    """The first event of ``pcr`` that is not as it should be, for a person; empty where there is none."""
    rules = tuple(varying)

    def compared(events: Iterable[BootEvent]) -> list[tuple[int, BootEvent]]:
        numbered = enumerate((event for event in events if event.pcr == pcr), 1)
        return [(number, event) for number, event in numbered if not any(rule.covers(event) for rule in rules)]

    ours, theirs = compared(seen), compared(good)
    for (number, one), (_, other) in zip(ours, theirs, strict=False):
        if (one.type, one.digest) != (other.type, other.digest):
            return f"event {number} of PCR {pcr} is {_shown(one)}, and the baseline has {_shown(other)}"
    if len(ours) > len(theirs):
        number, extra = ours[len(theirs)]
        return f"event {number} of PCR {pcr} is {_shown(extra)}, and the baseline has no further one"
    if len(theirs) > len(ours):
        missing = _shown(theirs[len(ours)][1])
        return f"PCR {pcr} ends after {len(ours)} compared events, and the baseline goes on with {missing}"
    return ""


def _described(seen: BootReference, digest: str) -> str:
    """An event by its digest: where it stands and what it says of itself."""
    for event in seen.events:
        if event.digest.hex() == digest:
            number = sum(one.pcr == event.pcr for one in seen.events[: seen.events.index(event) + 1])
            return f"event {number} of PCR {event.pcr}, {_shown(event)},"
    return digest


def _shown(event: BootEvent) -> str:
    said = f" {event.shown!r}" if event.shown else ""
    return f"{event.type_name}{said} {event.digest.hex()}"
