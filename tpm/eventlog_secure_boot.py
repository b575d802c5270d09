"""Secure Boot as PCR 7 tells it (PFP 1.06 §3.3.4.8): configuration, separator, then what vouched for each image."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from tpm.algorithms import BANK_BY_NAME, digest
from tpm.errors import RejectedError
from tpm.eventlog_content import DATABASES, Authority, authority_of, variable_of
from tpm.eventlog_format import Event
from tpm.eventlog_quirks import Quirk
from tpm.eventlog_rules import EventLogRules
from tpm.eventlog_types import EventType
from tpm.eventlog_uefi import DEVICE_SIGNATURE_DATABASE, EFI_GLOBAL_VARIABLE, SignatureDatabase, parse_variable
from tpm.reasons import EvidenceReason

_DEVICES = frozenset({EventType.EFI_SPDM_DEVICE_POLICY, EventType.EFI_SPDM_DEVICE_AUTHORITY})
# What firmware measures, in this order; all of them exist in the log even where they are empty.
ORDER = ("SecureBoot", "PK", "KEK", "db", "dbx")


@dataclass(frozen=True, slots=True)
class SecureBoot:
    """What PCR 7 proves. ``enabled`` is None where the log does not mention Secure Boot.

    ``databases`` has PK, KEK, db, dbx and so on by name. Authorities are in order, those before the separator
    (drivers that firmware verified early) apart from those after it.
    """

    enabled: bool | None
    databases: Mapping[str, SignatureDatabase]
    authorities_before: tuple[Authority, ...]
    authorities_after: tuple[Authority, ...]

    def unlisted(self) -> tuple[Authority, ...]:
        """Authorities that name db and are no entry of the db that was measured."""
        known = self.databases.get("db")
        entries = {data for found in known.lists for _, data in found.entries} if known else set()
        named = (*self.authorities_before, *self.authorities_after)
        return tuple(
            authority
            for authority in named
            if authority.variable.name == "db"
            and authority.variable.guid == DATABASES["db"]
            and authority.entry not in entries
        )


def verify_secure_boot(
    events: Iterable[Event], bank: str, rules: EventLogRules, quirks: frozenset[Quirk], used: set[Quirk]
) -> SecureBoot:
    """Read the measured events of PCR 7 in order and refuse every way of telling two stories.

    1. Configuration variables come before the separator, each once, whole, under its own namespace, in the order of
       ``ORDER``.
    2. SecureBoot is one byte, 0 or 1; no byte at all means that the machine has no such variable, and is off.
    3. Authorities come after the separator, each once.
    4. With Secure Boot on, all of ``ORDER`` was measured and at least one authority.
    5. Secure Boot is on, where the rules ask for it.
    6. What PCR 7 says of devices is of the database for devices, whole: the type of an event is not measured, and an
       authority for an image must not pass for one.

    Raises ``RejectedError`` (``log.secure_boot_*``, ``log.dup_variable``, ``log.var_after_separator``,
    ``log.authority_*``, ``log.variable``) and ``MalformedError`` (``log.variable``, ``log.siglist``). A quirk that
    was needed is added to ``used``.
    """
    reader = _Reader(quirks, used)
    for event in events:
        if event.type == EventType.SEPARATOR:
            reader.separated = True
        elif event.type == EventType.EFI_VARIABLE_DRIVER_CONFIG:
            reader.variable(event)
        elif event.type == EventType.EFI_VARIABLE_AUTHORITY:
            reader.authority(event)
        elif event.type in _DEVICES:
            _check_device(event, bank)
    found = reader.result()

    # 4. Secure Boot that is on leaves traces.
    if found.enabled:
        missing = [name for name in ORDER if name not in reader.names]
        if missing:
            _reject(EvidenceReason.LOG_SECURE_BOOT_MISSING, f"Secure Boot is on, and {', '.join(missing)} not measured")
        if not found.authorities_after and not (found.authorities_before and reader.early):
            _reject(EvidenceReason.LOG_AUTHORITY_MISSING, "Secure Boot is on, and no authority was measured")

    # 5. What the rules ask for.
    if rules.secure_boot and not found.enabled:
        if found.enabled is None:
            _reject(EvidenceReason.LOG_SECURE_BOOT_MISSING, "PCR 7 does not say whether Secure Boot is on")
        if reader.empty:
            _reject(EvidenceReason.LOG_SECURE_BOOT_VALUE, "SecureBoot is empty")
        _reject(EvidenceReason.LOG_SECURE_BOOT_OFF, "Secure Boot is off")
    return found


def _reject(reason: EvidenceReason, detail: str) -> None:
    raise RejectedError(reason, detail)


def _check_device(event: Event, bank: str) -> None:
    """Step 6."""
    variable = parse_variable(event.data)
    named = variable.guid == DEVICE_SIGNATURE_DATABASE and variable.name == "devdb" and not variable.trailing
    if not named or digest(BANK_BY_NAME[bank], event.data) != event.digests[bank]:
        _reject(EvidenceReason.LOG_VARIABLE, f"event {event.number} does not measure the database for devices")


class _Reader:
    """The story so far."""

    def __init__(self, quirks: frozenset[Quirk], used: set[Quirk]) -> None:
        self.quirks = quirks
        self.used = used
        self.separated = False
        self.early = Quirk.AUTHORITY_BEFORE_SEPARATOR in quirks
        self.empty = False
        self.enabled: bool | None = None
        self.names: list[str] = []
        self.seen: set[tuple[bytes, str]] = set()
        self.databases: dict[str, SignatureDatabase] = {}
        self.known: set[tuple[bytes, str, bytes]] = set()
        self.before: list[Authority] = []
        self.after: list[Authority] = []

    def variable(self, event: Event) -> None:
        """Steps 1 and 2."""
        content = variable_of(event)
        variable = content.variable
        name = variable.name
        if variable.trailing:
            _reject(EvidenceReason.LOG_VARIABLE, f"event {event.number} has bytes behind variable {name}")
        if (variable.guid, name) in self.seen:
            _reject(EvidenceReason.LOG_DUP_VARIABLE, f"event {event.number} measures variable {name} again")
        self.seen.add((variable.guid, name))
        if self.separated:
            _reject(EvidenceReason.LOG_VAR_AFTER_SEPARATOR, f"event {event.number} measures {name} after the separator")
        if name == "SecureBoot":
            self._secure_boot(variable.guid, variable.data)
        elif name in DATABASES:
            if DATABASES[name] != variable.guid:
                _reject(EvidenceReason.LOG_VARIABLE, f"event {event.number} measures a {name} of another namespace")
            if isinstance(content.value, SignatureDatabase):
                self.databases[name] = content.value
        if name in ORDER:
            if any(ORDER.index(earlier) > ORDER.index(name) for earlier in self.names):
                _reject(EvidenceReason.LOG_VARIABLE, f"event {event.number} measures {name} out of order")
            self.names.append(name)

    def _secure_boot(self, guid: bytes, data: bytes) -> None:
        if guid != EFI_GLOBAL_VARIABLE:
            _reject(EvidenceReason.LOG_SECURE_BOOT_VALUE, "a variable of another namespace is called SecureBoot")
        if data not in (b"", b"\x00", b"\x01"):
            _reject(EvidenceReason.LOG_SECURE_BOOT_VALUE, f"SecureBoot is 0x{data[:16].hex()}, expected 00 or 01")
        self.enabled = data == b"\x01"
        self.empty = not data

    def authority(self, event: Event) -> None:
        """Step 3."""
        content = authority_of(event)
        variable = content.variable
        if variable.trailing:
            if Quirk.AUTHORITY_TRAILING_BYTES not in self.quirks:
                _reject(EvidenceReason.LOG_VARIABLE, f"event {event.number} has bytes behind variable {variable.name}")
            self.used.add(Quirk.AUTHORITY_TRAILING_BYTES)
        key = (variable.guid, variable.name, variable.data)
        if key in self.known:
            if Quirk.AUTHORITY_REPEATED not in self.quirks:
                _reject(EvidenceReason.LOG_AUTHORITY_DUPLICATE, f"event {event.number} repeats an authority")
            self.used.add(Quirk.AUTHORITY_REPEATED)
        self.known.add(key)
        if self.separated:
            self.after.append(content)
            return
        if not self.early:
            _reject(EvidenceReason.LOG_AUTHORITY_EARLY, f"event {event.number} is an authority before the separator")
        self.used.add(Quirk.AUTHORITY_BEFORE_SEPARATOR)
        self.before.append(content)

    def result(self) -> SecureBoot:
        """What was read."""
        return SecureBoot(self.enabled, MappingProxyType(self.databases), tuple(self.before), tuple(self.after))
