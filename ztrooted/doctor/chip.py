"""A TPM: is it there, may we use it, does it do what we need. A software TPM that is not running is not started."""

import grp
import os
import pwd
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tpm.errors import DeviceError
from ztrooted.doctor.finding import Finding, failed, passed, warned
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from tpm.device_checkup import CheckedDevice


def look_at_tpm(address: str, *, certificates: bool = True, known: bytes | None = None) -> Iterator[Finding]:
    """What is to be said of the TPM at ``address``.

    ``certificates`` asks for EK certificates, which a gateway's own TPM needs none of. ``known`` is the attestation key
    (TPM2B_PUBLIC) that this TPM has to have.
    """
    kind, _, place = address.partition(":")
    path = Path(place)
    if kind == "swtpm":
        yield _not_started(path)
        return
    if not path.exists():
        yield failed("tpm", GateReason.MACHINE_TPM_ABSENT, f"there is nothing at {path}")
        return
    if not os.access(path, os.R_OK | os.W_OK):
        yield failed("tpm permissions", GateReason.MACHINE_TPM_PERMISSION, _who(path))
        return
    yield passed("tpm permissions", _who(path))
    if kind == "device" and path.name.startswith("tpm") and not path.name.startswith("tpmrm"):
        yield warned("tpm device", GateReason.MACHINE_TPM_RAW, f"{path} is the TPM without its resource manager")
    from tpm.device_checkup import CheckedDevice  # noqa: PLC0415 -- loads the TSS, which --help has no use for

    try:
        with CheckedDevice.open(address) as device:
            found = device.properties()
            named = f"{found['manufacturer']} {found['vendor']}".strip()
            yield passed("tpm", f"{named}, firmware {found['firmware']}, TPM {found['specification']}")
            if device.virtual:
                yield warned("tpm kind", GateReason.MACHINE_TPM_VIRTUAL, f"{named} is a software TPM")
            banks = device.banks()
            if "sha256" in banks:
                yield passed("pcr banks", f"active: {', '.join(banks)}")
            else:
                said = f"active: {', '.join(banks)}" if banks else "no bank is active that we know"
                yield failed("pcr banks", GateReason.MACHINE_TPM_BANK, said)
            yield _lockout(device)
            closed = device.closed_hierarchies()
            if closed:
                yield failed("tpm hierarchies", GateReason.MACHINE_TPM_HIERARCHY, "; ".join(closed))
            else:
                yield passed("tpm hierarchies", "owner and endorsement hierarchy are open")
                yield _key(device, known)
            if certificates:
                yield _certificates(device)
    except DeviceError as error:
        yield failed("tpm", GateReason.MACHINE_TPM_FAILING, str(error), error.remedy)


def _not_started(state: Path) -> Finding:
    if not state.is_dir():
        return failed("tpm", GateReason.MACHINE_TPM_ABSENT, f"there is no software TPM's state in {state}")
    return warned("tpm", GateReason.MACHINE_TPM_NOT_RUNNING, f"swtpm:{state} is started by whoever uses it")


def _lockout(device: "CheckedDevice") -> Finding:
    state = device.lockout()
    said = f"{state.failures} of {state.allowed} failures, one forgotten every {state.interval_s} s"
    if state.locked:
        return failed("tpm lockout", GateReason.MACHINE_TPM_LOCKOUT, f"locked: {said}")
    if state.failures:
        return warned("tpm lockout", GateReason.MACHINE_TPM_LOCKOUT, said)
    return passed("tpm lockout", said)


def _key(device: "CheckedDevice", known: bytes | None) -> Finding:
    try:
        public = device.try_key()
    except DeviceError as error:
        return failed("tpm key", GateReason.MACHINE_TPM_FAILING, str(error), error.remedy)
    if known is not None and public != known:
        return failed("tpm key", GateReason.MACHINE_TPM_OTHER, "its attestation key is not this gateway's")
    return passed("tpm key", "an attestation key can be made" if known is None else "it holds this gateway's keys")


def _certificates(device: "CheckedDevice") -> Finding:
    found = device.certificates()
    if not found:
        return warned("ek certificate", GateReason.MACHINE_EK_CERTIFICATE, "none of the NV indices for it is there")
    return passed(
        "ek certificate",
        ", ".join(f"{name} in NV 0x{index:08x}, {len(data)} bytes" for name, (index, data) in found.items()),
    )


def _who(path: Path) -> str:
    """Who may use ``path``, and who we are."""
    found = path.stat()
    return (
        f"{path} is {stat.filemode(found.st_mode)} {_user(found.st_uid)}:{_group(found.st_gid)},"
        f" and this is {_user(os.geteuid())}"
    )


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _group(number: int) -> str:
    try:
        return grp.getgrgid(number).gr_name
    except KeyError:
        return str(number)
