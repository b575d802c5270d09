"""What a verified boot log says about the machine, drawn from measured data only."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from tpm.errors import MalformedError
from tpm.eventlog_content import Text, VariableEvent, decode
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

_APPLICATION = frozenset({EventType.EFI_BOOT_SERVICES_APPLICATION})
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

    ``applications`` (PCR 4) and ``drivers`` (PCR 0 and 2) are Authenticode digests in the verified bank,
    ``loader_files`` the digests of the files a boot loader read (PCR 9). ``grub_commands``, ``modules`` and
    ``kernel_command_lines`` are texts that were measured; *which* of the three a text is was not, because the label is
    not in the digest. Who pins one of them must pin all three, or PCR 8 itself. The same holds for the names of
    ``boot_options`` and ``boot_order`` on firmware that measures values only; a name with two values has none here.
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


def collect_claims(
    events: Iterable[Event], bank: str, coverage: Mapping[int, Coverage], ended: int | None, findings: list[Finding]
) -> Claims:
    """Claims from the measured events of quoted PCRs.

    ``coverage`` tells how much of each event's data counts; ``ended`` is the event behind which boot services had ended
    and nothing counts. What is skipped is told in ``findings``.
    """
    builder = _Builder(bank)
    unmeasured = 0
    for event in events:
        if ended is not None and event.number > ended:
            findings.append(
                Finding(FindingCode.AFTER_EXIT_BOOT_SERVICES, event.number, f"PCR {event.pcr} event of the OS ignored")
            )
            continue
        builder.image(event)
        covered = coverage[event.number]
        if covered is Coverage.NOTHING:
            unmeasured += 1
            continue
        try:
            builder.data(event, covered)
        except MalformedError as error:
            findings.append(Finding(FindingCode.DATA_NOT_DECODED, event.number, error.detail))
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

    def image(self, event: Event) -> None:
        """Claims that are the digest itself."""
        if event.type in _APPLICATION and event.pcr == 4:
            self.applications.append(event.digests[self.bank])
        elif event.type in _DRIVERS and event.pcr in (0, 2):
            self.drivers.append(event.digests[self.bank])
        elif event.type == EventType.IPL and event.pcr == FILE_PCR:
            self.files.append(event.digests[self.bank])

    def data(self, event: Event, covered: Coverage) -> None:
        """Claims that are data covered by the digest, in whole or but for a name."""
        content = decode(event)
        if isinstance(content, VariableEvent) and event.pcr in (1, 5):
            self._variable(content)
        elif isinstance(content, PartitionTable) and event.pcr == 5:
            self.tables.append(content)
        elif isinstance(content, LoaderEntry):
            self._loader(event.pcr, content)
        elif isinstance(content, Tag) and covered is Coverage.WHOLE and event.pcr > 7:
            self.tags.append(content)
        elif isinstance(content, Text) and event.type == EventType.S_CRTM_VERSION and event.pcr == 0:
            self.crtm_version = content.text

    def _variable(self, content: VariableEvent) -> None:
        name = content.variable.name
        if name in self.repeated or name in self.variables:
            self.variables.pop(name, None)  # two values are none
            self.repeated.add(name)
        elif isinstance(content.value, tuple | BootOption):
            self.variables[name] = content.value

    def _loader(self, pcr: int, content: LoaderEntry) -> None:
        if content.label is None:
            if pcr in (LOADER_PCR, STUB_PCR):
                self.command_lines.append(content.text)
        elif pcr != LOADER_PCR:
            return
        elif content.label in _COMMAND_LINES:
            self.command_lines.append(content.text)
        elif content.label == "module_cmdline":
            self.modules.append(content.text)
        else:
            self.commands.append(content.text)

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
        )
