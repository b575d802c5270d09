"""The files of a job, compared with their digests; the program among them held so that it stays what was compared.

Runs in the process that becomes the job, so the files are looked at in the very namespace it will see, a moment before.

What is pinned and what is not:

* A listed program is executed through the descriptor that was hashed: a rename cannot put another one in its place.
  Nor can anybody write to it: from before it is hashed until the kernel itself denies writing, which it does from the
  beginning of ``execve`` (ETXTBSY), this process has a read lease on it (fcntl(2), F_SETLEASE). Whoever opens it for
  writing meanwhile waits, and the job does not start. Who has it open already is refused the lease.
* A lease takes the file's owner or CAP_LEASE, and a filesystem that has leases. Where there is none, size and times of
  the file are compared right before ``execve`` instead, which leaves the moment between the two.
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

MAX_SCRIPT = 16 << 20  # a listed script is copied to memory
MAX_INTERPRETER_LINE = 256  # BINPRM_BUF_SIZE: the kernel looks no further either
CHUNK = 1 << 20
MFD_NOEXEC_SEAL = 0x0008  # Linux 6.3; the copy is read by the interpreter, never executed

CWD = "cwd"
EXECUTABLE = "executable"
FILE_UNREADABLE = "file.unreadable"
FILE_MISMATCH = "file.mismatch"
TERMINAL = "terminal"
USER = "user"
LIMITS = "limits"


class LaunchError(Exception):
    """The job cannot be started as described. ``kind`` is one of those above."""

    def __init__(self, kind: str, path: str, detail: str) -> None:
        super().__init__(f"{kind}: {path}: {detail}")
        self.kind = kind
        self.path = path
        self.detail = detail

    def to_json(self) -> str:
        """For the report; shortened, since a line has a maximum."""
        return json.dumps({"kind": self.kind, "path": self.path[-150:], "detail": self.detail[:200]})


def why(error: OSError) -> str:
    """The kernel's reason, in words."""
    return os.strerror(error.errno or 0)


class Image:
    """A verified program that stays open: its descriptor, its interpreter line if it is a script, the interpreter's
    descriptor if that is listed too, and the hold on whichever of the two the kernel will execute."""  # fmt: skip

    __slots__ = ("fd", "hold", "interpreter", "interpreter_fd")

    def __init__(self, fd: int, interpreter: list[str], interpreter_fd: int | None, hold: Hold | None) -> None:
        self.fd = fd
        self.interpreter = interpreter
        self.interpreter_fd = interpreter_fd
        self.hold = hold


class Hold:
    """Keeps others from writing to a file until it is executed; where that is refused, notices that they did."""

    __slots__ = ("_fd", "_path", "_state", "leased")

    def __init__(self, path: str, fd: int) -> None:
        """LaunchError: somebody has it open for writing."""
        self._path = path
        self._fd = fd
        try:
            fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)  # ignored by default, unlike SIGIO, and across execve
            fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            self.leased = True
        except OSError as error:
            if error.errno == errno.EAGAIN:
                raise LaunchError(FILE_MISMATCH, path, "somebody has it open for writing") from error
            self.leased = False  # neither owner nor CAP_LEASE, or a filesystem without leases
        self._state = _state(os.fstat(fd))

    def check(self) -> None:
        """LaunchError: somebody writes to it, or did. The kernel breaks a lease by itself after a time (45 s)."""
        if self.leased:
            intact = fcntl.fcntl(self._fd, fcntl.F_GETLEASE) == fcntl.F_RDLCK
        else:
            intact = _state(os.fstat(self._fd)) == self._state
        if not intact:
            raise LaunchError(FILE_MISMATCH, self._path, "it changed, or is about to")


def verify_files(files: dict[str, str], program: str) -> Image | None:
    """Compare each file with its SHA-256 (hex); the image of ``program`` if it is one of them.

    1. open every file  2. find the program among them, by identity: links and second names are the same file
    3. hold what the kernel will execute  4. hash what was opened, not what the name says by then

    Raises:
        LaunchError: a file is absent, not a regular file, changing, or not the one that was authorized.
    """
    opened = {path: _open_regular(path) for path in files}  # 1
    paths = {(found.st_dev, found.st_ino): path for path, (_, found) in opened.items()}
    name = paths.get(_identity(program))  # 2
    if name is None and program in files:
        raise LaunchError(FILE_MISMATCH, program, "it was replaced while it was looked at")
    image = None if name is None else _image(name, {path: fd for path, (fd, _) in opened.items()}, paths)  # 3
    for path, (fd, before) in opened.items():  # 4
        script = image is not None and path == name and bool(image.interpreter)
        try:
            actual, content = _digest(fd, keep=script)
            unchanged = _state(before) == _state(os.fstat(fd))
        except OSError as error:
            raise LaunchError(FILE_UNREADABLE, path, why(error)) from error
        if actual != files[path]:
            raise LaunchError(FILE_MISMATCH, path, f"its SHA-256 is {actual}, authorized is {files[path]}")
        if not unchanged:
            raise LaunchError(FILE_MISMATCH, path, "it changed while it was read")
        if script and image is not None:
            if interpreter_line(content[:MAX_INTERPRETER_LINE]) != image.interpreter:
                raise LaunchError(FILE_MISMATCH, path, "it changed while it was read")
            image.fd = _sealed_copy(content)
    return image


def _image(path: str, fds: dict[str, int], paths: dict[tuple[int, int], str]) -> Image:
    """The program to run, not yet compared: with a hold on it, or on its listed interpreter if it is a script."""
    fd = fds[path]
    try:
        line = interpreter_line(os.pread(fd, MAX_INTERPRETER_LINE, 0))
    except OSError as error:
        raise LaunchError(FILE_UNREADABLE, path, why(error)) from error
    if not line:
        return Image(fd, [], None, Hold(path, fd))
    interpreter = paths.get(_identity(line[0]))
    if interpreter is None:
        return Image(fd, line, None, None)
    if os.pread(fds[interpreter], 2, 0) == b"#!":
        raise LaunchError(EXECUTABLE, line[0], "it is itself a script; list the program that interprets it in the end")
    return Image(fd, line, fds[interpreter], Hold(interpreter, fds[interpreter]))


def _open_regular(path: str) -> tuple[int, os.stat_result]:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # not blocking: it may be a FIFO
        found = os.fstat(fd)
    except OSError as error:
        raise LaunchError(FILE_UNREADABLE, path, why(error)) from error
    if not stat.S_ISREG(found.st_mode):
        raise LaunchError(FILE_UNREADABLE, path, "not a regular file")
    return fd, found


def _state(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _identity(path: str) -> tuple[int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 -- pathlib costs the guard's start
    except OSError as error:
        raise LaunchError(EXECUTABLE, path, why(error)) from error
    return found.st_dev, found.st_ino


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
