"""The kernel and what it offers: logs of what was measured, the clock, and what jobs are held by."""

import ctypes
import os
import time
from collections.abc import Iterator
from pathlib import Path

import ztrooted
from tpm.errors import EvidenceError
from tpm.eventlog_format import parse_event_log
from tpm.eventlog_types import EventType
from tpm.ima import parse_ima_line
from ztrooted import limits
from ztrooted.clock import instant
from ztrooted.doctor.finding import Finding, failed, passed, warned
from ztrooted.executor import cgroups, kernel
from ztrooted.reasons import GateReason

COMMAND_LINE = Path("/proc/cmdline")
_MEASURES = ("ima_policy=", "ima_tcb")  # kernel-parameters.txt
_FIRST_LINE = 64 << 10  # bytes; the first entry of a list is of boot_aggregate, and short
_TIMEX = 512  # bytes, more than struct timex of adjtimex(2) has anywhere
_TIME_ERROR = 5  # what adjtimex(2) answers while nothing keeps the clock


def look_at_event_log(path: Path) -> Finding:
    """Whether the firmware's event log can be read, and can be a log at all."""
    check, reason = "event log", GateReason.MACHINE_EVENT_LOG
    try:
        with path.open("rb") as file:
            data = file.read(limits.EVENT_LOG + 1)
    except OSError as error:
        return failed(check, reason, f"{path} can't be read: {error.strerror}")
    if len(data) > limits.EVENT_LOG:
        return failed(check, reason, f"{path} is over {limits.EVENT_LOG} bytes", "see docs/limits.md")
    try:
        events = sum(event.type != EventType.NO_ACTION for event in parse_event_log(data).events)
    except EvidenceError as error:
        return failed(check, reason, f"{path}: {error.detail}")
    if not events:
        return failed(check, reason, f"{path} has no event that measures anything")
    return passed(check, f"{path} measures {events} events, {len(data)} bytes")


def look_at_ima(path: Path, command_line: Path = COMMAND_LINE) -> Iterator[Finding]:
    """Whether the measurement list can be read, and whether the kernel was told to measure."""
    check, reason = "ima list", GateReason.MACHINE_IMA_LIST
    try:
        with path.open("rb") as file:
            first = file.read(_FIRST_LINE).split(b"\n", 1)[0]
        if not first:
            yield failed(check, reason, f"{path} is empty")
        else:
            entry = parse_ima_line(first)
            yield passed(check, f"{path} begins with an entry of template {entry.template}")
    except OSError as error:
        yield failed(check, reason, f"{path} can't be read: {error.strerror}")
    except EvidenceError as error:
        yield failed(check, reason, f"{path}: {error.detail}")
    try:
        words = command_line.read_text(errors="replace").split()
    except OSError as error:
        yield warned("kernel command line", GateReason.MACHINE_IMA_POLICY, f"{command_line}: {error.strerror}")
        return
    told = [word for word in words if word.startswith("ima_")]
    if any(word.startswith(_MEASURES) for word in told):
        yield passed("kernel command line", " ".join(told))
    else:
        said = f"{command_line} names no IMA policy" + (f", only {' '.join(told)}" if told else "")
        yield warned("kernel command line", GateReason.MACHINE_IMA_POLICY, said)


def look_at_clock(now_s: float | None = None, *, kept: bool | None = None) -> Finding:
    """Whether the clock is behind this very program, and whether a time service keeps it right."""
    now_s = time.time() if now_s is None else now_s
    built_s = Path(ztrooted.__file__).stat().st_mtime
    said = f"it is {instant(round(now_s * 1000))}"
    if now_s < built_s:
        behind = f"{said}, before this program was installed ({instant(round(built_s * 1000))})"
        return failed("clock", GateReason.MACHINE_CLOCK, behind, "set the clock right")
    if not (_kept() if kept is None else kept):
        return warned("clock", GateReason.MACHINE_CLOCK, f"{said}, and the kernel knows of nothing that keeps it right")
    return passed("clock", f"{said}, kept by a time service")


def _kept() -> bool:
    """What the kernel says of its clock; asked with no mode set, adjtimex(2) only answers."""
    answer = ctypes.create_string_buffer(_TIMEX)
    return int(ctypes.CDLL(None, use_errno=True).adjtimex(answer)) not in {-1, _TIME_ERROR}


def look_at_namespaces() -> Finding:
    """Whether a PID namespace can be made: in a child, with which it is gone again."""
    check = "pid namespace"
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            said = kernel.new_pid_namespace()
        except OSError as error:
            said = f"!{error.strerror}"
        os.write(writing, said.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as answer:
        said = answer.read()
    os.waitpid(child, 0)
    if not said or said.startswith("!"):
        return failed(check, GateReason.MACHINE_PID_NAMESPACE, said.removeprefix("!") or "the attempt ended early")
    return passed(check, f"jobs would be held by {said}")


def look_at_cgroups() -> Finding:
    """Which limits of jobs can be kept."""
    found = cgroups.available()
    said = ", ".join(f"{name}: {where or 'none'}" for name, where in found.items())
    if not all(found.values()):
        return warned("control groups", GateReason.MACHINE_CGROUPS, said)
    return passed("control groups", said)


def look_at_socket(path: Path) -> Finding:
    """Whether the agent could make its socket."""
    folder = path.parent
    if not folder.is_dir():
        above = next(one for one in folder.parents if one.exists())
        if not os.access(above, os.W_OK | os.X_OK):
            return failed("socket", GateReason.MACHINE_SOCKET, f"there is no {folder}, and {above} can't be written")
        return passed("socket", f"{folder} can be made")
    if not os.access(folder, os.W_OK | os.X_OK):
        return failed("socket", GateReason.MACHINE_SOCKET, f"{folder} can't be written")
    return passed("socket", f"{folder} can be written")
