"""The last steps before a job is the job: its surroundings, its files compared with their digests, ``execve``."""

from __future__ import annotations

import errno
import os
import signal
import stat
from contextlib import suppress

from ztrooted.executor import kernel
from ztrooted.executor.files import (
    CWD,
    EXECUTABLE,
    FILE_MISMATCH,
    LIMITS,
    TERMINAL,
    USER,
    Image,
    LaunchError,
    verify_files,
    why,
)
from ztrooted.executor.wire import Plan


def become_job(plan: Plan, *, weak: bool) -> LaunchError:
    """Turn this process into the job; comes back only if that fails, and says why.

    1. its limits  2. signal handling as a new program expects it  3. own process group, in front of
    the terminal if it is given one  4. standard streams  5. files, read
    with the agent's rights  6. its user, for good  7. working directory, if that user may enter it  8. execve with
    exactly the plan's environment
    """
    parent = os.getppid()
    try:
        _enter(plan.groups)  # 1
        os.setpgid(0, 0)  # 3, before 2: who is not in front of the terminal yet is stopped where it hears of SIGTTOU
        if plan.terminal:
            os.tcsetpgrp(terminal_of(plan), os.getpgrp())
        _default_signals()  # 2
        for number, fd in enumerate(plan.stdio):  # 4; the agent made sure that none of them is below 3
            os.dup2(fd, number)
        program = find_program(plan.argv[0], plan.cwd, plan.env)
        image = verify_files(plan.files, program)  # 5
        if plan.user is not None:
            _become_user(*plan.user)  # 6
        kernel.forgo_privileges()
        if weak:
            _stay_tied_to(parent)
        try:
            os.chdir(plan.cwd)  # 7
        except OSError as error:
            return LaunchError(CWD, plan.cwd, why(error))
        execute(program, image, plan)  # 8
    except LaunchError as error:
        return error
    except OSError as error:
        return LaunchError(EXECUTABLE, plan.argv[0], why(error))
    raise AssertionError("execve came back without an error")


def _default_signals() -> None:
    """Nothing ignored, nothing blocked: Python ignores SIGPIPE, and ignored signals stay so across ``execve``."""
    for number in signal.valid_signals():
        with suppress(OSError, ValueError):  # SIGKILL and SIGSTOP have no handler, real-time ones may be taken by libc
            signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def terminal_of(plan: Plan) -> int:
    """The stream that is to be the controlling terminal."""
    for fd in plan.stdio:
        if os.isatty(fd):
            return fd
    raise LaunchError(TERMINAL, "standard streams", "none of them is a terminal")


def _enter(groups: list[str]) -> None:
    for path in groups:
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            raise LaunchError(LIMITS, path, why(error)) from error


def _become_user(user: int, group: int) -> None:
    """Real, effective and saved numbers, so that there is no way back; supplementary groups are dropped."""
    try:
        if set(os.getgroups()) - {group}:
            os.setgroups([])
        os.setresgid(group, group, group)
        os.setresuid(user, user, user)
    except OSError as error:
        raise LaunchError(USER, f"{user}:{group}", why(error)) from error


def _stay_tied_to(parent: int) -> None:
    """The tie to pid one is lost where a process changes its user (prctl(2), PR_SET_PDEATHSIG); only weak jobs need it."""
    kernel.die_with_parent()
    if os.getppid() != parent:
        os._exit(127)


def find_program(name: str, cwd: str, env: dict[str, str]) -> str:
    """The path of the program: ``name`` itself if it has a slash, else the first executable of that name in env's PATH.

    No default PATH is made up: the job runs with the environment that was authorized.
    """
    if "/" in name:
        return name if name.startswith("/") else f"{cwd}/{name}"
    if not env.get("PATH"):
        raise LaunchError(EXECUTABLE, name, "its environment has no PATH to look it up in")
    for folder in env["PATH"].split(":"):
        if folder.startswith("/"):  # an empty or relative entry means "wherever the job happens to stand"
            candidate = f"{folder}/{name}"
            if os.access(candidate, os.X_OK) and not stat.S_ISDIR(os.stat(candidate).st_mode):  # noqa: PTH116
                return candidate
    raise LaunchError(EXECUTABLE, name, "not found in PATH")


def execute(program: str, image: Image | None, plan: Plan) -> None:
    """``execve`` the verified image, or the path where the program is not listed; comes back only with an error."""
    if image is not None and image.hold is not None:
        image.hold.check()
    try:
        if image is None:
            os.execve(program, plan.argv, plan.env)  # noqa: S606 -- running it is the point
        elif not image.interpreter:
            os.execve(image.fd, plan.argv, plan.env)  # noqa: S606
        elif not os.access(program, os.X_OK):  # the kernel does not ask about the copy
            raise LaunchError(EXECUTABLE, program, os.strerror(errno.EACCES))
        else:
            argv = [*image.interpreter, f"/proc/self/fd/{image.fd}", *plan.argv[1:]]
            interpreter = image.interpreter[0] if image.interpreter_fd is None else image.interpreter_fd
            os.execve(interpreter, argv, plan.env)  # noqa: S606
    except OSError as error:
        if error.errno == errno.ETXTBSY and image is not None:
            raise LaunchError(FILE_MISMATCH, program, "somebody has begun to write to it") from error
        raise
