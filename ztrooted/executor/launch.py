"""The last steps before a job is the job: files checked against their digests, executable pinned, ``execve``.

Runs in the process that becomes the job, so the files are looked at in the very namespace it will see, a moment before.

What is pinned and what is not:

* A listed program is executed through the descriptor that was hashed: a rename cannot put another one in its place.
* A listed script is run from a sealed copy of exactly the bytes that were hashed, handed to its interpreter as
  ``/proc/self/fd/N``. ``$0`` is that name, so such a script finds its neighbours by absolute path or not at all.
* Any other listed file (data, a script named as an argument) is compared and then left where it is; who may write to it
  afterwards is for file permissions to say, not for this module.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import stat
from contextlib import suppress

from ztrooted.executor.wire import Plan

MAX_SCRIPT = 16 << 20  # a listed script is copied to memory
MAX_INTERPRETER_LINE = 256  # BINPRM_BUF_SIZE: the kernel looks no further either
CHUNK = 1 << 20
MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3; the copy is read by the interpreter, never executed

CWD = "cwd"
EXECUTABLE = "executable"
FILE_UNREADABLE = "file.unreadable"
FILE_MISMATCH = "file.mismatch"


class LaunchError(Exception):
    """The job cannot be started as described. ``kind`` is one of the four above."""

    def __init__(self, kind: str, path: str, detail: str) -> None:
        super().__init__(f"{kind}: {path}: {detail}")
        self.kind = kind
        self.path = path
        self.detail = detail

    def to_json(self) -> str:
        """For the report; shortened, since a line has a maximum."""
        return json.dumps({"kind": self.kind, "path": self.path[-150:], "detail": self.detail[:200]})


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
            return LaunchError(CWD, plan.cwd, _why(error))
        program = find_program(plan.argv[0], plan.cwd, plan.env)
        image = verify_files(plan.files, program)  # 5
        execute(program, image, plan)  # 6
    except LaunchError as error:
        return error
    except OSError as error:
        return LaunchError(EXECUTABLE, plan.argv[0], _why(error))
    raise AssertionError("execve came back without an error")


def _why(error: OSError) -> str:
    return os.strerror(error.errno or 0)


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


class Image:
    """A verified program that stays open: its descriptor, its interpreter line if it is a script, the interpreter's
    descriptor if that is listed too."""  # fmt: skip

    __slots__ = ("fd", "interpreter", "interpreter_fd")

    def __init__(self, fd: int, interpreter: list[str], interpreter_fd: int | None) -> None:
        self.fd = fd
        self.interpreter = interpreter
        self.interpreter_fd = interpreter_fd


def verify_files(files: dict[str, str], program: str) -> Image | None:
    """Compare each file with its SHA-256 (hex); the image of ``program`` if it is one of them.

    1. open every file  2. find the program among them, by identity: links and second names are the same file
    3. hash what was opened, not what the name says by then

    Raises:
        LaunchError: a file is absent, not a regular file, changing, or not the one that was authorized.
    """
    opened = {path: _open_regular(path) for path in files}  # 1
    by_identity = {(found.st_dev, found.st_ino): fd for fd, found in opened.values()}
    program_fd = by_identity.get(_identity(program))  # 2
    if program_fd is None and program in files:
        raise LaunchError(FILE_MISMATCH, program, "it was replaced while it was looked at")
    image: Image | None = None
    for path, (fd, before) in opened.items():  # 3
        try:
            line = interpreter_line(os.pread(fd, MAX_INTERPRETER_LINE, 0)) if fd == program_fd else []
            actual, content = _digest(fd, keep=bool(line))
            unchanged = _state(before) == _state(os.fstat(fd))
        except OSError as error:
            raise LaunchError(FILE_UNREADABLE, path, _why(error)) from error
        if actual != files[path]:
            raise LaunchError(FILE_MISMATCH, path, f"its SHA-256 is {actual}, authorized is {files[path]}")
        if not unchanged:
            raise LaunchError(FILE_MISMATCH, path, "it changed while it was read")
        if fd == program_fd:
            image = _image(path, fd, line, content, by_identity)
    return image


def _open_regular(path: str) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # not blocking: it may be a FIFO
        found = os.fstat(fd)
    except OSError as error:
        raise LaunchError(FILE_UNREADABLE, path, _why(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise LaunchError(FILE_UNREADABLE, path, "not a regular file")
    return fd, found


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 -- pathlib costs the guard's start
    except OSError as error:
        raise LaunchError(EXECUTABLE, path, _why(error)) from error
    return found.st_dev, found.st_ino


def _image(path: str, fd: int, line: list[str], content: bytes, by_identity: dict[tuple[int, int], int]) -> Image:
    """The verified program, ready to run. A script must be executable too; its interpreter is pinned if listed."""
    if not line:
        return Image(fd, [], None)
    if not os.access(path, os.X_OK):
        raise LaunchError(EXECUTABLE, path, os.strerror(errno.EACCES))
    interpreter_fd = by_identity.get(_identity(line[0]))
    if interpreter_fd is not None and os.pread(interpreter_fd, 2, 0) == b"#!":
        raise LaunchError(EXECUTABLE, line[0], "it is itself a script; list the program that interprets it in the end")
    return Image(_sealed_copy(content), line, interpreter_fd)


def _digest(fd: int, *, keep: bool) -> tuple[str, bytes]:
    """SHA-256 of the file in hex, and its content if ``keep`` (at most ``MAX_SCRIPT``)."""
    import hashlib  # noqa: PLC0415 -- loads OpenSSL, which only a job with listed files should wait for

    state = hashlib.sha256()
    kept: list[bytes] = []
    size = 0
    while chunk := os.read(fd, CHUNK):
        state.update(chunk)
        size += len(chunk)
        if keep:
            kept.append(chunk)
            if size > MAX_SCRIPT:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG))
    return state.hexdigest(), b"".join(kept)


def _sealed_copy(content: bytes) -> int:
    """A memory file nobody can change any more, inheritable so that the interpreter can open it."""
    try:
        fd = os.memfd_create("job", os.MFD_ALLOW_SEALING | MFD_NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        fd = os.memfd_create("job", os.MFD_ALLOW_SEALING)
    written = 0
    while written < len(content):
        written += os.write(fd, content[written:])
    seals = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    os.set_inheritable(fd, True)
    return fd


def interpreter_line(head: bytes) -> list[str]:
    """The interpreter and its at most one argument out of a script's first line (execve(2)); empty for no script."""
    if not head.startswith(b"#!"):
        return []
    line, newline, _ = head[2:].partition(b"\n")
    words = os.fsdecode(line.strip(b" \t")).split(None, 1)
    if not words or not words[0].startswith("/") or (not newline and len(head) == MAX_INTERPRETER_LINE):
        raise OSError(errno.ENOEXEC, os.strerror(errno.ENOEXEC))
    return words


def execute(program: str, image: Image | None, plan: Plan) -> None:
    """``execve`` the verified image, or the path where the program is not listed; comes back only with OSError."""
    if image is None:
        os.execve(program, plan.argv, plan.env)  # noqa: S606 -- running it is the point
    elif not image.interpreter:
        os.execve(image.fd, plan.argv, plan.env)  # noqa: S606
    else:
        argv = [*image.interpreter, f"/proc/self/fd/{image.fd}", *plan.argv[1:]]
        interpreter = image.interpreter[0] if image.interpreter_fd is None else image.interpreter_fd
        os.execve(interpreter, argv, plan.env)  # noqa: S606
