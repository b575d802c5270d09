"""What a good boot looks like, taken from the events of a verified firmware log.

Final PCR values say only *that* something differs. Events say what, so one reference serves a class of machines, and a
refusal can name the first event that went another way.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tpm.errors import EvidenceError
from tpm.eventlog import (
    EventType,
    ImageLoad,
    LoaderEntry,
    Text,
    VariableEvent,
    VerifiedEventLog,
    decode,
    type_name,
)
from tpm.eventlog_format import MAX_EVENTS, PCR_COUNT, Event
from tpm.eventlog_loader import Tag
from ztrooted.evidence import sha256

KEY_VARIABLES = ("PK", "KEK", "db", "dbx")
SHOWN = 120  # characters of a description


@dataclass(frozen=True, slots=True)
class BootEvent:
    """One measured event. ``shown`` is the log's own description: for people, and never a fact."""

    pcr: int
    type: int
    digest: bytes
    shown: str

    def encode(self) -> list[Any]:
        """As canonical JSON values."""
        return [self.pcr, self.type, self.digest.hex(), self.shown]

    @property
    def plausible(self) -> bool:
        """Whether it can be an event at all."""
        numbers = type(self.pcr) is int and type(self.type) is int and 0 <= self.pcr < PCR_COUNT and self.type >= 0
        return numbers and bool(self.digest) and isinstance(self.shown, str) and len(self.shown) <= SHOWN

    @property
    def type_name(self) -> str:
        """``EV_…``, or the value in hexadecimal."""
        return type_name(self.type)


@dataclass(frozen=True, slots=True)
class BootReference:
    """The measured facts of one boot, in the bank they were verified in; digests are lower-case hexadecimal.

    ``events`` are those of the quoted PCRs in the order of the log. ``keys`` maps PK, KEK, db and dbx to the SHA-256 of
    each of their entries (dbx: the entries themselves, which are digests). ``authorities`` are digests of what vouched
    for an image (PCR 7), ``images`` Authenticode digests of what firmware started (PCR 4), ``files`` digests of what the
    boot loader or the kernel's stub read (PCR 9), ``texts`` what they were told: commands, modules and command lines,
    and ``bank:digest`` of what cannot be read. None of the four leaves anything out that was measured in its PCR.
    """

    events: tuple[BootEvent, ...]
    secure_boot: bool | None
    keys: Mapping[str, frozenset[str]]
    authorities: frozenset[str]
    images: frozenset[str]
    files: frozenset[str]
    texts: frozenset[str]

    def encode(self) -> dict[str, Any]:
        """As canonical JSON values; equal references give equal bytes."""
        return {
            "events": [event.encode() for event in self.events],
            "secure_boot": self.secure_boot,
            "keys": {name: sorted(entries) for name, entries in self.keys.items()},
            "authorities": sorted(self.authorities),
            "images": sorted(self.images),
            "files": sorted(self.files),
            "texts": sorted(self.texts),
        }

    @classmethod
    def decode(cls, value: Any) -> "BootReference":
        """The inverse of ``encode``; KeyError, TypeError or ValueError when ``value`` is something else."""
        if set(value) != {"events", "secure_boot", "keys", "authorities", "images", "files", "texts"}:
            raise ValueError("a boot reference has exactly its seven members")
        events = tuple(
            BootEvent(pcr, kind, bytes.fromhex(digest), shown) for pcr, kind, digest, shown in value["events"]
        )
        if len(events) > MAX_EVENTS or not all(event.plausible for event in events):
            raise ValueError("an event has a PCR from 0 to 23, a type, a digest and a short description")
        if not set(value["keys"]) <= set(KEY_VARIABLES):
            raise ValueError("'keys' knows PK, KEK, db and dbx")
        sets = [*value["keys"].values(), *(value[name] for name in ("authorities", "images", "files", "texts"))]
        if not all(isinstance(one, list) and all(isinstance(text, str) for text in one) for one in sets):
            raise ValueError("keys, authorities, images, files and texts are lists of text")
        if value["secure_boot"] not in {True, False, None} or type(value["secure_boot"]) is int:
            raise ValueError("'secure_boot' is true, false or null")
        return cls(
            events=events,
            secure_boot=value["secure_boot"],
            keys={name: frozenset(entries) for name, entries in value["keys"].items()},
            authorities=frozenset(value["authorities"]),
            images=frozenset(value["images"]),
            files=frozenset(value["files"]),
            texts=frozenset(value["texts"]),
        )


def boot_reference(log: VerifiedEventLog) -> BootReference:
    """The facts of a verified log. Only what was measured is taken: labels and paths are remarks."""
    measured = [event for event in log.log.events if event.type != EventType.NO_ACTION and event.pcr in log.pcrs]
    secure_boot = log.secure_boot_state
    keys = {
        name: frozenset(
            data.hex() if name == "dbx" else sha256(data)
            for found in secure_boot.databases[name].lists
            for _, data in found.entries
        )
        for name in KEY_VARIABLES
        if name in secure_boot.databases
    }
    texts = {*log.claims.grub_commands, *log.claims.modules, *log.claims.kernel_command_lines}
    # What was told and cannot be read stands for itself: a log that shows something else in its place hides nothing.
    texts |= {f"{log.bank}:{digest.hex()}" for digest in log.claims.unread}
    return BootReference(
        events=tuple(BootEvent(event.pcr, event.type, event.digests[log.bank], shown(event)) for event in measured),
        secure_boot=log.secure_boot,
        keys=keys,
        authorities=frozenset(
            event.digests[log.bank].hex()
            for event in measured
            if event.pcr == 7 and event.type == EventType.EFI_VARIABLE_AUTHORITY
        ),
        images=frozenset(digest.hex() for digest in log.claims.applications),
        files=frozenset(digest.hex() for digest in log.claims.loader_files),
        texts=frozenset(texts),
    )


def _path(content: ImageLoad) -> str:
    """The end of the device path: the file, where there is one."""
    try:
        return content.path.rpartition("/")[2]
    except EvidenceError:
        return "an image with a broken path"


def shown(event: Event) -> str:
    """What an event says of itself, printable and short. A remark of the machine's, not a fact."""
    try:
        content = decode(event)
    except EvidenceError:
        return ""
    if isinstance(content, VariableEvent):
        text = content.variable.name
    elif isinstance(content, LoaderEntry | Text):
        text = content.text
    elif isinstance(content, Tag):
        text = content.name
    elif isinstance(content, ImageLoad):
        text = _path(content)
    else:
        text = type(content).__name__
    return "".join(character if character.isprintable() else "\ufffd" for character in text)[:SHOWN]
