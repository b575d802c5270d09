"""Limits of a job, kept by the kernel's control groups: memory, number of processes, share of the processors.

A limited job gets a group of its own below that of the agent, and enters it before it is anything else; its init and
its guard stay outside, so that a full group can't keep them from their work. Version 2 is used where it has the
controller, else version 1 (cgroups(7)). A limit that can't be set is a job that does not start: rlimits are no
substitute, since they count for each process, or for all jobs of a user together.

Version 2 shares a group's resources among groups or processes, never both. An agent that finds itself in the group that
is to be divided moves into ``ztrooted-agent`` below it; where others are in there too, there are no limits to be had.
As a systemd unit it needs ``Delegate=yes``.
"""

import itertools
import os
import time
from contextlib import suppress
from dataclasses import dataclass, fields
from pathlib import Path

PERIOD_US = 100_000  # the kernel's own default; 1 % of one processor is then the least that version 1 takes
LEAF = "ztrooted-agent"
REMOVAL_S = 1.0  # the processes are dead by then; the kernel may still be putting their memory away

_counter = itertools.count()


class LimitsError(Exception):
    """This machine can't keep a limit; says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes of memory, processes and threads, percent of one processor; None is no limit."""

    memory: int | None = None
    pids: int | None = None
    cpu: int | None = None

    def set(self) -> dict[str, int]:
        """Those that are limits, by the kernel's name of what controls them."""
        return {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}


@dataclass(frozen=True, slots=True)
class Group:
    """The control groups of one job. ``entrances`` are the files into which a process writes 0 to enter them."""

    folders: tuple[Path, ...] = ()

    @property
    def entrances(self) -> list[str]:
        """Paths for ``launch``."""
        return [str(folder / "cgroup.procs") for folder in self.folders]

    def remove(self) -> None:
        """Kill whatever were left, and remove the groups. One that resists is removed by the next job."""
        until = time.monotonic() + REMOVAL_S
        for folder in self.folders:
            with suppress(OSError):
                (folder / "cgroup.kill").write_text("1")  # version 2, Linux 5.14
            while _still_there(folder) and time.monotonic() < until:
                time.sleep(0.005)


def confine(limits: Limits) -> Group:
    """Make the groups for one job; nothing is made for a job without limits.

    Raises:
        LimitsError: one of the limits can't be kept here.
    """
    made: dict[Path, None] = {}
    try:
        for controller, value in limits.set().items():
            parent, unified = _parent(controller)
            _sweep(parent)
            folder = parent / f"ztrooted-{os.getpid()}-{next(_counter)}"
            known = next((one for one in made if one.parent == parent), None)
            if known is None:
                folder.mkdir()
                made[folder] = None
            for file, text in _settings(controller, value, unified=unified):
                _write(known or folder, file, text)
    except (OSError, LimitsError) as error:
        Group(tuple(made)).remove()
        if isinstance(error, OSError):
            raise LimitsError(f"{error.filename or 'control groups'}: {error.strerror}") from error
        raise
    return Group(tuple(made))


def available() -> dict[str, str]:
    """Where each limit would be kept, by the kernel's name of its controller: "v2", "v1" or "". Changes nothing."""
    own = _own_groups()
    found = {}
    for controller in (field.name for field in fields(Limits)):
        folder = own.get("")
        folder = folder.parent if folder is not None and folder.name == LEAF else folder
        if folder is not None and controller in _words(folder / "cgroup.controllers"):
            found[controller] = "v2" if os.access(folder / "cgroup.subtree_control", os.W_OK) else ""
        else:
            found[controller] = "v1" if controller in own and os.access(own[controller], os.W_OK) else ""
    return found


def _settings(controller: str, value: int, *, unified: bool) -> list[tuple[str, str]]:
    """Files and their contents; a "?" marks what kernels without accounting of swap lack."""
    quota = value * PERIOD_US // 100
    if controller == "pids":
        return [("pids.max", str(value))]
    if unified:
        memory = [("memory.max", str(value)), ("memory.swap.max?", "0"), ("memory.oom.group?", "1")]
        return memory if controller == "memory" else [("cpu.max", f"{quota} {PERIOD_US}")]
    if controller == "memory":
        return [("memory.limit_in_bytes", str(value)), ("memory.memsw.limit_in_bytes?", str(value))]
    return [("cpu.cfs_period_us", str(PERIOD_US)), ("cpu.cfs_quota_us", str(quota))]


def _write(folder: Path, file: str, text: str) -> None:
    path = folder / file.removesuffix("?")
    if file.endswith("?") and not path.exists():
        return
    if not path.exists():
        raise LimitsError(f"{folder} has no {file}")
    path.write_text(text)


def _parent(controller: str) -> tuple[Path, bool]:
    """The group below which jobs get theirs, ready to be divided, and whether it is one of version 2."""
    own = _own_groups()
    if "" in own:
        folder = own[""]
        folder = folder.parent if folder.name == LEAF else folder
        if controller in _words(folder / "cgroup.controllers"):
            _divide(folder, controller)
            return folder, True
    if controller in own:
        return own[controller], False
    raise LimitsError(f"there is no control group with '{controller}' that this agent could divide")


def _divide(folder: Path, controller: str) -> None:
    if controller in _words(folder / "cgroup.subtree_control"):
        return
    try:
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")
    except OSError:
        leaf = folder / LEAF
        leaf.mkdir(exist_ok=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        (folder / "cgroup.subtree_control").write_text(f"+{controller}")


def _own_groups() -> dict[str, Path]:
    """The agent's groups by controller, as folders; "" is that of version 2."""
    mounts = _mounts()
    found = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            root, mounted = mounts.get(controller, ("", Path()))
            if root and (path + "/").startswith(root.rstrip("/") + "/"):
                found[controller] = mounted / path[len(root.rstrip("/")) :].lstrip("/")
    return found


def _mounts() -> dict[str, tuple[str, Path]]:
    """Which part of each hierarchy is mounted, and where (/proc/PID/mountinfo, proc(5))."""
    found: dict[str, tuple[str, Path]] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        root, point = before.split()[3:5]
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            found.setdefault("", (root, Path(point)))
        elif kind == "cgroup":
            for option in options.split(","):
                found.setdefault(option, (root, Path(point)))
    return found


def _words(path: Path) -> list[str]:
    try:
        return path.read_text().split()
    except OSError:
        return []


def _still_there(folder: Path) -> bool:
    try:
        folder.rmdir()
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False


def _sweep(parent: Path) -> None:
    """Remove what agents that were killed have left; the kernel keeps groups in which something still runs."""
    for left in parent.glob("ztrooted-*-*"):
        pid = left.name.split("-")[1]
        if pid.isdigit() and not Path("/proc", pid).exists():
            _still_there(left)
