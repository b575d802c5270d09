"""The last steps before a job is the job: its surroundings, its files compared with their digests, ``execve``."""

from __future__ import annotations

import errno
import os
import signal
import stat
from contextlib import suppress

from ztrooted.executor.files import CWD, EXECUTABLE, FILE_MISMATCH, Image, LaunchError, verify_files, why
from ztrooted.executor.wire import Plan


def become_job(plan: Plan) -> LaunchError:
    """Turn this process into the job; comes back only if that fails, and says why.

    1. signal handling as a new program expects it  2. own session  3. standard streams  4. working directory
    5. files  6. execve with exactly the plan's environment
    """
    try:
        _default_signals()  # 1
        os.setsid()  # 2
        for number, fd in enumerate(plan.stdio):  # 3; the agent made sure that none of them is below 3
            os.dup2(fd, number)
        try:
            os.chdir(plan.cwd)  # 4
        except OSError as error:
            return LaunchError(CWD, plan.cwd, why(error))
        program = find_program(plan.argv[0], plan.cwd, plan.env)
        image = verify_files(plan.files, program)  # 5
        execute(program, image, plan)  # 6
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
