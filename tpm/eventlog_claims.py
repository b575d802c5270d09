"""What a verified boot log says about the machine, drawn from measured data only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tpm.errors import MalformedError
from tpm.eventlog_content import CLOSED, Separator, Text, VariableEvent, decode
from tpm.eventlog_digests import Coverage
from tpm.eventlog_format import Event
from tpm.eventlog_loader import LoaderEntry, Tag
from tpm.eventlog_types import EventType
from tpm.eventlog_uefi import BootOption, PartitionTable

# Where the measured text of a boot loader lies: GRUB's, and without a label that of older systemd-boot, in 8;
# systemd-stub's in 12.
LOADER_PCR = 8
STUB_PCR = 12
FILE_PCR = 9
# Where firmware measures what it starts.
IMAGE_PCR = 4

_MARKS = frozenset({EventType.SEPARATOR, EventType.ACTION, EventType.EFI_ACTION})
_DRIVERS = frozenset({EventType.EFI_BOOT_SERVICES_DRIVER, EventType.EFI_RUNTIME_SERVICES_DRIVER})
_COMMAND_LINES = frozenset({"kernel_cmdline", "grub_kernel_cmdline"})


class FindingCode(StrEnum):
    """Observations that do not lead to refusal."""

    AFTER_EXIT_BOOT_SERVICES = "after_exit_boot_services"
    AUTHORITY_NOT_IN_DB = "authority_not_in_db"
    DATA_NOT_DECODED = "data_not_decoded"
    DATA_NOT_MEASURED = "data_not_measured"
    PCR_NOT_QUOTED = "pcr_not_quoted"


@dataclass(frozen=True, slots=True)
class Finding:
    """One observation, about one event where it is about one."""

    code: FindingCode
    event: int | None
    detail: str


@dataclass(frozen=True, slots=True)
class Claims:
    """Measured facts, each tuple in the order of the log.

    Three of them leave nothing out, because neither an event's type nor data that its digest does not cover was
    measured, and whoever rewrites a log would hide behind them: ``applications`` are all digests of PCR 4 in the
    verified bank but those of separators and actions, which on honest machines are the Authenticode digests of what
    firmware started; ``loader_files`` are all digests of PCR 9, of files that a boot loader read and of what Linux' stub
    measured there; and each event of PCR 8 and PCR 12 is a text, a tag, or one of the digests of ``unread``.

    ``grub_commands``, ``modules`` and ``kernel_command_lines`` are texts that were measured; *which* of the three a text
    is was not, because the label is not in the digest. Who pins one of them must pin all three and ``unread``, or the
    PCR itself. The same holds for the names of ``boot_options`` and ``boot_order`` on firmware that measures values
    only; a name with two values has none here. ``drivers`` (PCR 0 and 2) are those that the log calls so.
    """

    crtm_version: str | None
    applications: tuple[bytes, ...]
    drivers: tuple[bytes, ...]
    boot_order: tuple[int, ...] | None
    boot_options: Mapping[str, BootOption]
    partition_tables: tuple[PartitionTable, ...]
    grub_commands: tuple[str, ...]
    modules: tuple[str, ...]
    kernel_command_lines: tuple[str, ...]
    loader_files: tuple[bytes, ...]
    tags: tuple[Tag, ...]
    unread: tuple[bytes, ...]


def collect_claims(
    events: Iterable[Event], bank: str, coverage: Mapping[int, Coverage], ended: int | None, findings: list[Finding]
) -> Claims:
    """Claims from the measured events of quoted PCRs.

    ``coverage`` tells how much of each event's data counts; ``ended`` is the event with which boot services ended. An
    event told after it counts like any other: it is of another PCR, and nothing proves the order of different PCRs.
    """
    builder = _Builder(bank)
    unmeasured = 0
    for event in events:
        if ended is not None and event.number > ended:
            findings.append(
                Finding(FindingCode.AFTER_EXIT_BOOT_SERVICES, event.number, f"PCR {event.pcr} event told after the end")
            )
        builder.digest(event)
        covered = coverage[event.number]
        read = False
        if covered is Coverage.NOTHING:
            unmeasured += 1
        else:
            try:
                read = builder.data(event, covered)
            except MalformedError as error:
                findings.append(Finding(FindingCode.DATA_NOT_DECODED, event.number, error.detail))
        if not read and event.pcr in (LOADER_PCR, STUB_PCR):
            builder.unread.append(event.digests[bank])
    if unmeasured:
        findings.append(
            Finding(FindingCode.DATA_NOT_MEASURED, None, f"{unmeasured} events have data that no digest covers")
        )
    return builder.claims()


class _Builder:
    """Lists that become ``Claims``."""

    def __init__(self, bank: str) -> None:
        self.bank = bank
        self.crtm_version: str | None = None
        self.applications: list[bytes] = []
        self.drivers: list[bytes] = []
        self.variables: dict[str, tuple[int, ...] | BootOption] = {}
        self.repeated: set[str] = set()
        self.tables: list[PartitionTable] = []
        self.commands: list[str] = []
        self.modules: list[str] = []
        self.command_lines: list[str] = []
        self.files: list[bytes] = []
        self.tags: list[Tag] = []
        self.unread: list[bytes] = []

    def digest(self, event: Event) -> None:
        """Claims that are the digest itself."""
        if event.pcr == IMAGE_PCR and event.type not in _MARKS:
            self.applications.append(event.digests[self.bank])
        elif event.type in _DRIVERS and event.pcr in (0, 2):
            self.drivers.append(event.digests[self.bank])
        elif event.pcr == FILE_PCR:
            self.files.append(event.digests[self.bank])

    def data(self, event: Event, covered: Coverage) -> bool:
        """Claims that are data covered by the digest, in whole or but for a name; whether it became one."""
        content = decode(event)
        if isinstance(content, VariableEvent) and event.pcr in (1, 5):
            self._variable(content)
        elif isinstance(content, PartitionTable) and event.pcr == 5:
            self.tables.append(content)
        elif isinstance(content, LoaderEntry):
            return self._loader(event.pcr, content)
        elif isinstance(content, Tag) and event.pcr > 7:
            return self._tag(event.pcr, content, covered)
        elif isinstance(content, Text) and event.type == EventType.S_CRTM_VERSION and event.pcr == 0:
            self.crtm_version = content.text
        else:
            return isinstance(content, Separator) and content.value in CLOSED
        return True

    def _tag(self, pcr: int, content: Tag, covered: Coverage) -> bool:
        """Stubs measure load options by themselves, Windows whole tags, number included."""
        if content.name == "load_options" and pcr in (FILE_PCR, STUB_PCR):
            self.command_lines.append(content.data.decode("utf-16-le", "backslashreplace").rstrip("\x00"))
        elif covered is Coverage.WHOLE:
            self.tags.append(content)
        else:
            return False
        return True

    def _variable(self, content: VariableEvent) -> None:
        name = content.variable.name
        if name in self.repeated or name in self.variables:
            self.variables.pop(name, None)  # two values are none
            self.repeated.add(name)
        elif isinstance(content.value, tuple | BootOption):
            self.variables[name] = content.value

    def _loader(self, pcr: int, content: LoaderEntry) -> bool:
        if content.label is None:
            if pcr not in (LOADER_PCR, STUB_PCR):
                return False
            self.command_lines.append(content.text)
        elif pcr != LOADER_PCR:
            return False
        elif content.label in _COMMAND_LINES:
            self.command_lines.append(content.text)
        elif content.label == "module_cmdline":
            self.modules.append(content.text)
        else:
            self.commands.append(content.text)
        return True

    def claims(self) -> Claims:
        """What was collected."""
        order = self.variables.get("BootOrder")
        options = {name: value for name, value in self.variables.items() if isinstance(value, BootOption)}
        return Claims(
            self.crtm_version,
            tuple(self.applications),
            tuple(self.drivers),
            order if isinstance(order, tuple) else None,
            MappingProxyType(options),
            tuple(self.tables),
            tuple(self.commands),
            tuple(self.modules),
            tuple(self.command_lines),
            tuple(self.files),
            tuple(self.tags),
            tuple(self.unread),
        )
