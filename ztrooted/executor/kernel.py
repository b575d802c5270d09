"""The calls into Linux that Python 3.11 does not offer: ``prctl``, ``unshare``, ``mount``.

Namespaces are made here and not by the ``unshare`` program: one process and one program start less between guard and
job, the kernel's own error number when it refuses, and the first process of the namespace is ours (see ``pid_one``).

Imported by the guard, so nothing here imports ``typing``, ``dataclasses`` or ``pathlib``: together they would double
the time a job takes to start.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import signal
import termios
from collections.abc import Callable
from contextlib import suppress

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_SET_CHILD_SUBREAPER = 36
PR_SET_NO_NEW_PRIVS = 38

CLONE_NEWNS = 0x0002_0000
CLONE_NEWUSER = 0x1000_0000
CLONE_NEWPID = 0x2000_0000

MS_NOSUID, MS_NODEV, MS_NOEXEC = 2, 4, 8
MS_REC = 0x4000
MS_PRIVATE = 0x4_0000

PID_NAMESPACE = "pid-namespace"
PID_NAMESPACE_BY_USER = "pid-namespace+user-namespace"
PROCESS_GROUP = "process-group"
HOST_PROC = "+host-proc"  # appended where the job still sees the machine's own /proc

MAX_SWEEPS = 1000  # rounds against a tree that forks while it is killed; without a namespace there is no certain end

_libc = ctypes.CDLL(None, use_errno=True)


def _checked(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _prctl(option: int, value: int) -> None:
    _checked(_libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0), f"prctl({option})")


def die_with_parent() -> None:
    """Have the kernel SIGKILL this process when the thread that started it ends (prctl(2), PR_SET_PDEATHSIG).

    The caller checks afterwards that its parent still is the expected one: a parent that died before is not noticed.
    """
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def close_memory() -> None:
    """Keep processes of the same user from tracing this one or writing to its memory (PR_SET_DUMPABLE = 0)."""
    _prctl(PR_SET_DUMPABLE, 0)


def forgo_privileges() -> None:
    """Have no ``execve`` of this process and its descendants grant privileges: setuid programs run as who starts them."""
    _prctl(PR_SET_NO_NEW_PRIVS, 1)


def adopt_orphans() -> None:
    """Become the parent of descendants whose parent dies (PR_SET_CHILD_SUBREAPER)."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def name_process(name: str) -> None:
    """Show ``name`` (at most 15 bytes) in process lists."""
    _checked(_libc.prctl(PR_SET_NAME, name.encode("ascii"), 0, 0, 0), "prctl(PR_SET_NAME)")


def _unshare(flags: int) -> None:
    _checked(_libc.unshare(flags), "unshare")


def new_pid_namespace() -> str:
    """Have the next child start a PID namespace; returns ``PID_NAMESPACE`` or ``PID_NAMESPACE_BY_USER``.

    With the right to do so directly, else inside a new user namespace (user_namespaces(7)). There the caller keeps its
    own user and group number instead of posing as root: a job that behaves differently as root must not do so.

    Raises:
        OSError: the kernel grants neither; this process is unchanged.
    """
    try:
        _unshare(CLONE_NEWPID)
    except PermissionError:
        _try_in_child(_enter_user_namespace)
        _enter_user_namespace()
        return PID_NAMESPACE_BY_USER
    return PID_NAMESPACE


def _enter_user_namespace() -> None:
    user, group = os.geteuid(), os.getegid()
    _unshare(CLONE_NEWUSER | CLONE_NEWPID)
    _write("/proc/self/setgroups", "deny")
    _write("/proc/self/uid_map", f"{user} {user} 1")
    _write("/proc/self/gid_map", f"{group} {group} 1")


def _write(path: str, text: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def _try_in_child(step: Callable[[], None]) -> None:
    """Run ``step`` in a child first: entering a user namespace cannot be undone when its second half is refused."""
    child = os.fork()
    if child == 0:
        try:
            step()
        except OSError as error:
            os._exit(error.errno or 1)
        os._exit(0)
    number = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if number != 0:
        raise PermissionError(number, f"no user namespace: {os.strerror(abs(number))}")


def mount_own_proc() -> bool:
    """Give this process and its children a /proc that shows their PID namespace only; false where that is refused.

    Called by the first process of a PID namespace. Mounts made by the job stay invisible outside.
    """
    try:
        _unshare(CLONE_NEWNS)
        _checked(_libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None), "mount /")
        flags = ctypes.c_ulong(MS_NOSUID | MS_NODEV | MS_NOEXEC)
        _checked(_libc.mount(b"proc", b"/proc", b"proc", flags, None), "mount /proc")
    except OSError:
        return False
    return True


def control_terminal(fd: int) -> None:
    """Make a terminal that no session has the controlling terminal of this one, whose leader this process is."""
    fcntl.ioctl(fd, termios.TIOCSCTTY, 0)


def sweep_descendants() -> None:
    """SIGKILL and reap every descendant of this process, which must have called ``adopt_orphans``.

    Only for enforcement without a namespace. Orphans come to this process, so setsid and double forks do not hide
    one; a tree that forks faster than it is killed can outlast ``MAX_SWEEPS``.
    """
    for _ in range(MAX_SWEEPS):
        for pid in _descendants(os.getpid()):
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG) != (0, 0):
                pass
        except ChildProcessError:
            return


def _descendants(root: int) -> list[int]:
    """Every living process below ``root``, by the parent numbers in /proc/PID/stat."""
    children: dict[int, list[int]] = {}
    with os.scandir("/proc") as entries:
        pids = [int(entry.name) for entry in entries if entry.name.isdigit()]
    for pid in pids:
        with suppress(OSError):
            children.setdefault(parent_of(pid), []).append(pid)
    found: list[int] = []
    waiting = [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def parent_of(pid: int) -> int:
    """The parent's number (field 4 of /proc/PID/stat, proc(5)); the name in field 2 may hold spaces and parentheses."""
    fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    try:
        stat = os.read(fd, 1024)
    finally:
        os.close(fd)
    return int(stat[stat.rindex(b")") + 2 :].split()[1])
