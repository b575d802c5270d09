"""A machine that boots, without the machine: writes what firmware and kernel write, and extends a TPM to match.

Test and demo tooling, never imported by what verifies. The TPM's quotes are real; only the measuring is ours, which is
why it shows as ``virtual``. A directory holds the files under the kernel's names: ``binary_bios_measurements``,
``ascii_runtime_measurements`` and ``binary_runtime_measurements``.

    python -m tpm.boot_simulator --tpm socket:/path --dir D boot [--power-cycle]
    python -m tpm.boot_simulator --tpm socket:/path --dir D measure FILE…
"""

import argparse
import fcntl
import hashlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tpm.algorithms import BANK_BY_NAME, DIGEST_SIZE
from tpm.errors import DeviceError
from tpm.eventlog import parse_event_log
from tpm.eventlog_loader import INITRD_TAG, LOAD_OPTIONS_TAG
from tpm.eventlog_types import EventType
from tpm.eventlog_uefi import EFI_GLOBAL_VARIABLE, EFI_IMAGE_SECURITY_DATABASE, SHIM_LOCK
from tpm.eventlog_writer import (
    Measurement,
    boot_option,
    certificate,
    file_path,
    firmware_blob,
    handoff_tables,
    header,
    image_load,
    no_action,
    partition_table,
    record,
    signature_lists,
    tagged,
    variable,
)
from tpm.ima_writer import IMA_PCR, ima_entry
from tpm.software import power_cycle

Extend = Callable[[int, Mapping[str, bytes]], None]

EVENT_LOG = "binary_bios_measurements"
IMA_ASCII = "ascii_runtime_measurements"
IMA_BINARY = "binary_runtime_measurements"

# GUIDs of the simulated machine; the SMBIOS table and the partition types are the real ones.
_OWNER = hashlib.sha256(b"owner").digest()[:16]
_DISK, _ESP, _ROOT = (hashlib.sha256(name).digest()[:16] for name in (b"disk", b"esp", b"root"))
_SMBIOS3 = bytes.fromhex("44 15 fd f2 94 97 2c 4a 99 2e e5 bb cf 20 e3 94")
_ESP_TYPE = bytes.fromhex("28 73 2a c1 1f f8 d2 11 ba 4b 00 a0 c9 3e c9 3b")
_LINUX_TYPE = bytes.fromhex("af 3d c6 0f 83 84 72 47 8e 79 3d 69 d8 47 7d e4")
# Tags of the Linux EFI stub.
# IMA's boot_aggregate covers PCRs 0 to 9, and 0 to 7 where it is SHA-1 (Linux, security/integrity/ima/ima_crypto.c).
_AGGREGATED, _AGGREGATED_SHA1 = range(10), range(8)


@dataclass(frozen=True, slots=True)
class Machine:
    """What boots. Two equal machines give equal PCRs; ``dataclasses.replace`` one field for another state."""

    firmware: bytes = b"simulated firmware volume"
    firmware_version: str = "1.0 simulated"
    secure_boot: bool = True
    shim: bytes = b"simulated shim"
    loader: bytes = b"simulated grub"
    kernel: bytes = b"simulated kernel"
    initrd: bytes = b"simulated initrd"
    command_line: str = "root=/dev/nvme0n1p2 ro ima_policy=tcb"
    forbidden: tuple[bytes, ...] = (hashlib.sha256(b"revoked 1").digest(), hashlib.sha256(b"revoked 2").digest())


def firmware_events(machine: Machine) -> list[Measurement]:
    """What firmware measures of itself and its configuration, up to the separators (PFP §3.3.4)."""
    version = machine.firmware_version.encode("utf-16-le") + b"\0\0"
    blob = firmware_blob("POST CODE", 0xFF800000, len(machine.firmware))
    shim = file_path(_ESP, "\\EFI\\simulated\\shimx64.efi")
    events = [
        Measurement(0, EventType.S_CRTM_VERSION, version),
        Measurement(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB2, blob, machine.firmware),
        Measurement(0, EventType.EFI_PLATFORM_FIRMWARE_BLOB2, firmware_blob("DXE", 0xFF900000, 4096), b"DXE volume"),
        *secure_boot_events(machine),
        Measurement(2, EventType.EFI_BOOT_SERVICES_DRIVER, image_load(b"\x7f\xff\x04\x00", 8192), b"option ROM"),
        Measurement(1, EventType.EFI_HANDOFF_TABLES2, handoff_tables("SMBIOS", _SMBIOS3, 0x7F000000), b"SMBIOS tables"),
        Measurement(1, EventType.EFI_VARIABLE_BOOT, variable(EFI_GLOBAL_VARIABLE, "BootOrder", b"\0\0")),
        Measurement(
            1, EventType.EFI_VARIABLE_BOOT, variable(EFI_GLOBAL_VARIABLE, "Boot0000", boot_option("simulated", shim))
        ),
        Measurement(4, EventType.EFI_ACTION, b"Calling EFI Application from Boot Option"),
    ]
    return events + [Measurement(pcr, EventType.SEPARATOR, bytes(4)) for pcr in range(8)]


def secure_boot_events(machine: Machine) -> list[Measurement]:
    """Secure Boot's configuration in PCR 7, in the order the profile prescribes (PFP §3.3.4.8)."""
    values = (
        (EFI_GLOBAL_VARIABLE, "SecureBoot", bytes((machine.secure_boot,))),
        (EFI_GLOBAL_VARIABLE, "PK", signature_lists(_OWNER, [certificate("Platform Key")])),
        (EFI_GLOBAL_VARIABLE, "KEK", signature_lists(_OWNER, [certificate("Key Exchange Key")])),
        (
            EFI_IMAGE_SECURITY_DATABASE,
            "db",
            signature_lists(_OWNER, [certificate("UEFI CA"), certificate("Vendor CA")]),
        ),
        (EFI_IMAGE_SECURITY_DATABASE, "dbx", signature_lists(_OWNER, [], machine.forbidden)),
    )
    return [
        Measurement(7, EventType.EFI_VARIABLE_DRIVER_CONFIG, variable(guid, name, value))
        for guid, name, value in values
    ]


def _authority(guid: bytes, name: str, entry: bytes) -> Measurement:
    return Measurement(7, EventType.EFI_VARIABLE_AUTHORITY, variable(guid, name, entry))


def _application(content: bytes, name: str) -> Measurement:
    path = file_path(_ESP, name)
    return Measurement(4, EventType.EFI_BOOT_SERVICES_APPLICATION, image_load(path, len(content)), content)


def loader_events(machine: Machine) -> list[Measurement]:
    """What is measured while shim, GRUB and the kernel's EFI stub run, up to the end of boot services."""
    partitions = [(_ESP_TYPE, _ESP, "EFI System"), (_LINUX_TYPE, _ROOT, "root")]
    linux = f"/vmlinuz {machine.command_line}"
    events = [
        Measurement(5, EventType.EFI_GPT_EVENT, partition_table(_DISK, partitions)),
        _application(machine.shim, "\\EFI\\simulated\\shimx64.efi"),
        *(Measurement(14, EventType.IPL, name + b"\0", name) for name in (b"MokList", b"MokListX", b"MokListTrusted")),
        _application(machine.loader, "\\EFI\\simulated\\grubx64.efi"),
        *(_grub("grub_cmd", command) for command in ("search --set=root --label root", f"linux {linux}")),
        Measurement(9, EventType.IPL, b"(hd0,gpt2)/vmlinuz\0", machine.kernel),
        _grub("kernel_cmdline", linux),
        _grub("grub_cmd", "initrd /initrd.img"),
        Measurement(9, EventType.IPL, b"(hd0,gpt2)/initrd.img\0", machine.initrd),
        _application(machine.kernel, "\\vmlinuz"),
        Measurement(
            9,
            EventType.EVENT_TAG,
            tagged(LOAD_OPTIONS_TAG, "LOADED_IMAGE::LoadOptions"),
            linux.encode("utf-16-le") + b"\0\0",
        ),
        Measurement(9, EventType.EVENT_TAG, tagged(INITRD_TAG, "Linux initrd"), machine.initrd),
        Measurement(5, EventType.EFI_ACTION, b"Exit Boot Services Invocation"),
        Measurement(5, EventType.EFI_ACTION, b"Exit Boot Services Returned with Success"),
    ]
    if machine.secure_boot:
        events.insert(0, _authority(EFI_IMAGE_SECURITY_DATABASE, "db", _OWNER + certificate("UEFI CA")))
        events.insert(3, _authority(SHIM_LOCK, "SbatLevel", b"sbat,1,2024010900\nshim,4\ngrub,3\n"))
        events.insert(4, _authority(SHIM_LOCK, "Shim", certificate("Distribution CA")))
    return events


def _grub(label: str, text: str) -> Measurement:
    return Measurement(8, EventType.IPL, f"{label}: {text}".encode() + b"\0", text.encode())


class BootSimulator:
    """Boots a machine whose TPM, with the active ``banks``, is reached through ``extend``; logs go to ``directory``."""

    def __init__(self, extend: Extend, banks: Sequence[str], directory: Path) -> None:
        self.extend = extend
        self.banks = tuple(banks)
        self.directory = directory
        self._listed: set[bytes] = set()
        self._list_size = 0

    def boot(self, machine: Machine | None = None) -> None:
        """Measure a whole boot up to the end of boot services, on a TPM that was just reset."""
        machine = machine or Machine()
        self.directory.mkdir(parents=True, exist_ok=True)
        log = [header(self.banks), no_action(b"StartupLocality\0\0", self.banks)]
        for event in firmware_events(machine) + loader_events(machine):
            digests = event.digests(self.banks)
            self.extend(event.pcr, digests)
            log.append(record(event.pcr, event.type, digests, event.data))
        for name in (IMA_ASCII, IMA_BINARY):
            (self.directory / name).unlink(missing_ok=True)
        unfinished = self.directory / f"{EVENT_LOG}.new"
        unfinished.write_bytes(b"".join(log))
        unfinished.replace(self.directory / EVENT_LOG)

    def start_ima(self) -> None:
        """The kernel's first entry: boot_aggregate, over the PCRs as the event log leaves them."""
        bank = "sha256" if "sha256" in self.banks else self.banks[0]
        values = parse_event_log((self.directory / EVENT_LOG).read_bytes()).replay(bank)
        reset = bytes(DIGEST_SIZE[BANK_BY_NAME[bank]])
        covered = _AGGREGATED_SHA1 if bank == "sha1" else _AGGREGATED
        aggregate = hashlib.new(bank, b"".join(values.get(pcr, reset) for pcr in covered), usedforsecurity=False)
        self._append("boot_aggregate", aggregate.digest(), bank)

    def measure(
        self, path_name: str, content: bytes, *, signature: bytes | None = None, violation: bool = False
    ) -> bool:
        """Measure a file as IMA does when it is run; with a ``signature`` as an ``ima-sig`` entry.

        False where the kernel would not have measured it again in this boot: same path, same content.
        """
        digest = bytes(32) if violation else hashlib.sha256(content).digest()
        return self._append(path_name, digest, "sha256", signature=signature, violation=violation)

    def _append(
        self, path: str, digest: bytes, alg: str, *, signature: bytes | None = None, violation: bool = False
    ) -> bool:
        template = "ima-ng" if signature is None else "ima-sig"
        entry = ima_entry(path, digest, alg, template, blob=signature or b"", violation=violation)
        with self._locked():
            if not violation and entry.ascii in self._known_entries():
                return False
            for name, data in ((IMA_BINARY, entry.binary), (IMA_ASCII, entry.ascii)):
                _append_at_once(self.directory / name, data)
            self._listed.add(entry.ascii)
            self._list_size += len(entry.ascii)
            # The kernel lists first and extends then: what is read beside a quote holds all that the quote covers.
            self.extend(IMA_PCR, {bank: entry.extends[bank] for bank in self.banks})
        return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One measurement at a time on this machine: the list's order is the order of the extends."""
        with (self.directory / ".ima.lock").open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _known_entries(self) -> set[bytes]:
        """Lines of the list, read again when another process has written to it."""
        path = self.directory / IMA_ASCII
        size = path.stat().st_size if path.exists() else 0
        if size != self._list_size:
            self._listed = set(path.read_bytes().splitlines(keepends=True)) if size else set()
            self._list_size = size
        return self._listed


def _append_at_once(path: Path, data: bytes) -> None:
    """One write call, so that a reader sees an entry whole or not at all."""
    opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        os.write(opened, data)
    finally:
        os.close(opened)


def _boot_command(simulator: BootSimulator, arguments: argparse.Namespace) -> None:
    machine = Machine(secure_boot=not arguments.no_secure_boot)
    if arguments.kernel is not None:
        machine = replace(machine, kernel=arguments.kernel.read_bytes())
    if arguments.command_line is not None:
        machine = replace(machine, command_line=arguments.command_line)
    simulator.boot(machine)
    simulator.start_ima()
    sys.stdout.write(f"booted; the logs are in {simulator.directory}\n")


def _measure_command(simulator: BootSimulator, arguments: argparse.Namespace) -> None:
    for path in arguments.files:
        resolved = path.resolve(strict=True)
        new = simulator.measure(str(resolved), resolved.read_bytes())
        sys.stdout.write(f"{'measured' if new else 'already measured'} {resolved}\n")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tpm.boot_simulator", description="Simulate a measured boot.")
    parser.add_argument("--tpm", required=True, help="address of a software TPM: socket:/path")
    parser.add_argument("--dir", required=True, type=Path, help="where the logs go")
    commands = parser.add_subparsers(required=True)
    boot = commands.add_parser("boot", help="boot the machine and start IMA")
    boot.add_argument("--power-cycle", action="store_true", help="switch the software TPM off and on first")
    boot.add_argument("--no-secure-boot", action="store_true", help="boot with Secure Boot off")
    boot.add_argument("--kernel", type=Path, help="a file to boot as the kernel")
    boot.add_argument("--command-line", help="the kernel's command line")
    boot.set_defaults(run=_boot_command)
    measure = commands.add_parser("measure", help="measure files as IMA does when they are run")
    measure.add_argument("files", type=Path, nargs="+", metavar="FILE")
    measure.set_defaults(run=_measure_command, power_cycle=False)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 2 usage, 3 no TPM or no file."""
    arguments = _parser().parse_args(argv)
    from tpm.device import Device  # noqa: PLC0415 — whoever only writes logs needs no TSS

    try:
        if arguments.power_cycle:
            power_cycle(Path(arguments.tpm.removeprefix("socket:")))
        with Device.open(arguments.tpm) as device:
            if not device.virtual:
                raise DeviceError("a real TPM measures a real boot", "give the socket of a software TPM")
            arguments.run(BootSimulator(device.extend, device.banks(), arguments.dir), arguments)
    except DeviceError as failed:
        sys.stderr.write(f"{failed}\n{failed.remedy}\n")
        return 3
    except OSError as failed:
        sys.stderr.write(f"{failed}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
