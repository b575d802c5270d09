"""Collects evidence: a quote from the TPM, the firmware's event log, and the kernel's measurement list.

The list is read *after* the quote. The kernel appends to it before it extends PCR 10, so a list read later holds everything
the quote covers; what it holds beyond that, the verifier leaves for the next round.
"""

from collections.abc import Mapping
from pathlib import Path

from tpm.device import Device
from ztrooted import limits
from ztrooted.errors import EnvironmentProblem
from ztrooted.evidence import Evidence
from ztrooted.reasons import GateReason

EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
IMA_LIST = Path("/sys/kernel/security/ima/ascii_runtime_measurements")


class Collector:
    """Reads one machine's evidence. Blocking; the agent calls it on a thread."""

    def __init__(self, device: Device, event_log: Path = EVENT_LOG, ima: Path = IMA_LIST) -> None:
        self.device = device
        self._event_log_path = event_log
        self._ima_path = ima
        self.event_log = self._read(event_log, "event log", limits.EVENT_LOG)
        # Where in the list the entries begin that were asked for last; the list only grows.
        self._mark = (0, 0)
        self._sent = 0  # bytes of the list, up to the last entry that was sent
        self._count_path = ima.with_name("runtime_measurements_count")
        self._count = b""

    def collect(self, qualifying_data: bytes, selection: Mapping[str, list[int]], ima_offset: int) -> Evidence:
        """A quote over ``selection`` that carries ``qualifying_data``, and the list from entry ``ima_offset`` on."""
        quoted = self.device.quote(qualifying_data, selection)
        return Evidence(
            attest=quoted.attest,
            signature=quoted.signature,
            pcrs=quoted.pcrs,
            event_log=self.event_log,
            ima_offset=ima_offset,
            ima=self._ima_from(ima_offset),
        )

    def _ima_from(self, offset: int) -> bytes:
        self._count = self._counted()
        known, start = self._mark if self._mark[0] <= offset else (0, 0)
        data = self._read(self._ima_path, "IMA list", limits.IMA_LIST, start)
        position = 0
        for _ in range(offset - known):
            end = data.find(b"\n", position)
            if end < 0:
                break  # shorter than the gateway believes: it will say so
            position = end + 1
        self._mark = (offset, start + position)
        # A line that the kernel is still writing is not an entry yet.
        end = data.rfind(b"\n") + 1
        self._sent = start + end
        return data[position:end]

    def grown(self) -> bool:
        """Whether the list holds more than was sent last; cheap enough to ask several times a second."""
        counted = self._counted()
        if counted:
            return counted != self._count
        try:
            return self._ima_path.stat().st_size > self._sent
        except OSError:
            return False

    def _counted(self) -> bytes:
        """How many entries the kernel says there are; nothing where the list is a plain file."""
        try:
            return self._count_path.read_bytes()
        except OSError:
            return b""

    @staticmethod
    def _read(path: Path, what: str, maximum: int, start: int = 0) -> bytes:
        try:
            with path.open("rb") as file:
                file.seek(start)
                data = file.read(maximum + 1)
        except OSError as error:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_TPM,
                f"the {what} {path} can't be read: {error.strerror}",
                _remedy(error),
            ) from error
        if len(data) > maximum:
            raise EnvironmentProblem(
                GateReason.REQUEST_TOO_LARGE, f"the {what} {path} is over {maximum} bytes", "see docs/limits.md"
            )
        return data


def _remedy(error: OSError) -> str:
    if isinstance(error, IsADirectoryError):
        return "name the file, not the folder it is in"
    if isinstance(error, PermissionError):
        return "the agent needs root, or read access to the kernel's securityfs"
    return "check the path; where it is the kernel's own, measured boot and IMA have to be enabled"
