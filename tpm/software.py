"""Software TPMs: provisioning them and running ``swtpm`` processes that cannot outlive us.

A state directory holds one TPM (``swtpm``'s own files) and, in ``run/``, the sockets of the process that serves it. A
copy of the state is a clone: it has the same seeds, hence the same endorsement key. Everything here is for tests, demos
and machines without a chip; what such a TPM signs proves nothing about hardware, and is shown as ``virtual``.
"""

import argparse
import fcntl
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType

from tpm.errors import DeviceError

# sockaddr_un.sun_path holds 108 bytes with its NUL; the control socket adds ".ctrl".
MAX_SOCKET_PATH = 102
# swtpm answers in microseconds and provisioning takes a second: what takes longer than this hangs.
ANSWER_TIMEOUT_S = 20.0
SETUP_TIMEOUT_S = 120.0
# The largest response of a TPM 2.0 is 4096 bytes (TPM2_MAX_RESPONSE_SIZE of the PC Client profile).
MAX_RESPONSE = 4096

DEFAULT_BANKS = ("sha1", "sha256", "sha384")
_STATE_FILES = ("tpm2-00.permall", "tpm2-00.volatilestate", "tpm2-00.savestate")

_NOT_WRITABLE = "choose a directory you may write"
_NO_SWTPM = "install swtpm and swtpm-tools (Debian, Ubuntu, Fedora: `swtpm swtpm-tools`)"
# TPM 2.0 Part 3 §9.3 TPM2_Startup and §9.4 TPM2_Shutdown, with TPM_SU_CLEAR (0) or TPM_SU_STATE (1).
_STARTUP = bytes.fromhex("8001 0000000c 00000144")
_SHUTDOWN = bytes.fromhex("8001 0000000c 00000145")
_CLEAR, _STATE = b"\x00\x00", b"\x00\x01"
# TPM2_FlushContext (Part 3 §28.4) and TPM2_GetCapability of handles (§30.2).
_FLUSH = bytes.fromhex("8001 0000000e 00000165")
_HANDLES = bytes.fromhex("8001 00000016 0000017a 00000001")
# Loaded HMAC and policy sessions share one range of handles; transient objects have the other (Part 2 §7.2).
_FLUSHABLE_RANGES = (0x02000000, 0x80000000)
# Commands of swtpm's control channel (swtpm_ioctls(3)).
_CTRL_GET_CAPABILITY, _CTRL_INIT, _CTRL_SHUTDOWN = 1, 2, 3


def _program(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise DeviceError(f"{name} is not installed", _NO_SWTPM)
    return found


def provision(
    state: Path, *, ca: Path, certificates: bool = True, banks: Sequence[str] = DEFAULT_BANKS, model: str = "swtpm"
) -> None:
    """Make a new TPM in the empty or missing directory ``state``, with the PCR ``banks`` active.

    With ``certificates`` it gets an RSA and an ECC EK with certificates of the local CA in ``ca``, which is made on
    first use; ``ca_certificates`` gives that CA's certificates. Raises DeviceError.
    """
    _program("swtpm")
    state, ca = state.absolute(), ca.absolute()
    if any((state / name).exists() for name in _STATE_FILES):
        raise DeviceError(f"{state} already holds a TPM", "choose another directory, or delete it to make a new TPM")
    _make_private(state)
    _make_private(ca)
    config = _write_ca_config(ca, model)
    command = [_program("swtpm_setup"), "--tpm2", "--tpmstate", str(state), "--config", str(config)]
    command += ["--pcr-banks", ",".join(banks)]
    if certificates:
        command += ["--createek", "--create-ek-cert"]
    try:
        done = subprocess.run(  # noqa: S603 — a fixed program found in PATH, arguments of our own
            command, capture_output=True, text=True, timeout=SETUP_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as late:
        raise DeviceError(f"swtpm_setup did not end within {SETUP_TIMEOUT_S:.0f} s", "try again") from late
    if done.returncode != 0:
        said = (done.stderr + done.stdout).strip().splitlines()[-3:]
        raise DeviceError(f"swtpm_setup failed: {' / '.join(said)}", f"check that {state} is writable and {_NO_SWTPM}")


def _write_ca_config(ca: Path, model: str) -> Path:
    """Write swtpm_setup's configuration into ``ca``, so that neither /etc nor a home directory has a say."""
    (ca / "localca.conf").write_text(
        f"statedir = {ca}\nsigningkey = {ca}/signkey.pem\n"
        f"issuercert = {ca}/issuercert.pem\ncertserial = {ca}/certserial\n"
    )
    (ca / "localca.options").write_text(
        f"--platform-manufacturer ztrooted\n--platform-version 1\n--platform-model {model}\n"
    )
    config = ca / "setup.conf"
    config.write_text(
        f"create_certs_tool = {_program('swtpm_localca')}\n"
        f"create_certs_tool_config = {ca}/localca.conf\n"
        f"create_certs_tool_options = {ca}/localca.options\n"
    )
    return config


def _make_private(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as refused:
        raise DeviceError(f"{directory} cannot be made: {refused.strerror}", _NOT_WRITABLE) from refused
    if not os.access(directory, os.W_OK | os.X_OK):
        raise DeviceError(f"{directory} is not writable", _NOT_WRITABLE)


def ca_certificates(ca: Path) -> bytes:
    """The root and issuing certificates (PEM) of the local CA in ``ca``: what a gateway is told to trust."""
    try:
        return b"".join((ca / name).read_bytes() for name in ("swtpm-localca-rootca-cert.pem", "issuercert.pem"))
    except OSError as absent:
        raise DeviceError(f"{ca} holds no CA: {absent.strerror}", "provision a TPM with certificates first") from absent


def clone(source: Path, target: Path) -> None:
    """Copy the state of a TPM that is not running: the clone has the same seeds, keys and certificates."""
    _make_private(target)
    for name in _STATE_FILES:
        if (source / name).exists():
            shutil.copyfile(source / name, target / name)


def transact(path: Path, command: bytes) -> bytes:
    """Send one TPM ``command`` to the data socket ``path``, return the response; DeviceError where nobody answers."""
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(ANSWER_TIMEOUT_S)
            stream.connect(str(path))
            stream.sendall(command)
            response = stream.recv(MAX_RESPONSE)
    except OSError as gone:
        raise DeviceError(f"the TPM at {path} does not answer: {gone}", "start it again") from gone
    if len(response) < 10:
        raise DeviceError(f"the TPM at {path} went away in the middle of a command", "start it again")
    return response


def flush_all(path: Path) -> int:
    """Flush every session and transient object of the TPM at ``path``; returns how many there were.

    A raw software TPM has no resource manager: what a killed process had loaded stays and fills the three slots.
    """
    flushed = 0
    for first in _FLUSHABLE_RANGES:
        found = transact(path, _HANDLES + first.to_bytes(4, "big") + (64).to_bytes(4, "big"))
        # responseHeader[10] moreData[1] capability[4] count[4] handles
        for at in range(19, len(found) - 3, 4):
            transact(path, _FLUSH + found[at : at + 4])
            flushed += 1
    return flushed


def _succeed(path: Path, command: bytes) -> None:
    response = transact(path, command)
    if response[6:10] != b"\x00\x00\x00\x00":
        raise DeviceError(f"the TPM refused {command.hex()} with {response[6:10].hex()}", "power-cycle it")


def _command_control(path: Path, code: int, body: bytes = b"") -> None:
    """Send one command to the control channel that belongs to the data socket ``path``."""
    try:
        with socket.socket(socket.AF_UNIX) as stream:
            stream.settimeout(ANSWER_TIMEOUT_S)
            stream.connect(f"{path}.ctrl")
            stream.sendall(code.to_bytes(4, "big") + body)
            answer = stream.recv(MAX_RESPONSE)
    except OSError as gone:
        raise DeviceError(f"swtpm does not answer: {gone}", "start it again") from gone
    if answer[:4] != b"\x00\x00\x00\x00":
        raise DeviceError(f"swtpm refused control command {code}: {answer.hex() or 'no answer'}", "start it again")


def power_cycle(path: Path, *, orderly: bool = True) -> None:
    """Reset the TPM at ``path`` as switching a machine off and on does: resetCount + 1, PCRs at their reset values.

    Not ``orderly`` is a power loss: no TPM2_Shutdown came before it, and the clock is not ``safe`` afterwards.
    """
    if orderly:
        _succeed(path, _SHUTDOWN + _CLEAR)
    _command_control(path, _CTRL_INIT, bytes(4))
    _succeed(path, _STARTUP + _CLEAR)


@lru_cache(maxsize=1)
def _starter(_pid: int) -> ThreadPoolExecutor:
    """The one thread of this process that starts TPMs.

    PR_SET_PDEATHSIG fires when the *thread* that forked ends: a TPM started by a short-lived one would die with it.
    """
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix="swtpm-starter")


def _start_bound(command: list[str], inherited: tuple[int, int], log: int) -> "subprocess.Popen[bytes]":
    """Start ``command`` so that the kernel kills it when this process ends, however it ends.

    setpriv asks for the signal and the shell then checks that we had not died before it was asked for.
    """
    bound = [
        _program("setpriv"),
        "--pdeathsig",
        "KILL",
        "/bin/sh",
        "-c",
        '[ "$PPID" = "$0" ] && exec "$@"',
        str(os.getpid()),
    ]
    return subprocess.Popen(  # noqa: S603 — fixed programs, arguments of our own
        bound + command, pass_fds=inherited, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/"
    )


class SoftwareTpm:
    """One running ``swtpm`` on ``state``, powered on and started, until ``close``. It dies with this process."""

    def __init__(self, state: Path) -> None:
        self.state = state.absolute()
        self.path = self.state / "run" / "tpm"
        self._control = self.state / "run" / "tpm.ctrl"
        self._log = self.state / "run" / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        if len(os.fsencode(self.path)) > MAX_SOCKET_PATH:
            raise DeviceError(f"{self.path} is too long for a Unix socket", "choose a shorter path")
        _make_private(self.state)
        _make_private(self.path.parent)
        self.start()

    @property
    def address(self) -> str:
        """What ``tpm.device.Device.open`` takes."""
        return f"socket:{self.path}"

    @property
    def running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process and the TPM (TPM_SU_CLEAR). The constructor does; call it after ``kill`` or ``close``."""
        if self.running:
            return
        self._acquire()
        with ExitStack() as failed:
            failed.callback(self.kill)
            self._spawn()
            failed.pop_all()

    def _acquire(self) -> None:
        """Take the lock that says who serves this state; the process inherits it, so it is held while either lives."""
        lock = os.open(self.state / "run" / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as held:
            os.close(lock)
            raise DeviceError(
                f"{self.state} is in use by another process", "stop the program that runs this TPM, or open its socket"
            ) from held
        self._lock = lock

    def _spawn(self) -> None:
        # We bind the control socket ourselves: connecting to it then needs no waiting, and its first answer says that
        # the data socket is there too, since swtpm opens that before it serves either.
        self._control.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)
        assert self._lock is not None  # noqa: S101 — _acquire came before
        with socket.socket(socket.AF_UNIX) as control, self._log.open("wb") as log:
            control.bind(str(self._control))
            control.listen()
            command = [_program("swtpm"), "socket", "--tpm2", "--tpmstate", f"dir={self.state}"]
            command += ["--server", f"type=unixio,path={self.path}", "--ctrl", f"type=unixio,fd={control.fileno()}"]
            command += ["--flags", "not-need-init,startup-clear"]
            inherited = (control.fileno(), self._lock)
            self._process = _starter(os.getpid()).submit(_start_bound, command, inherited, log.fileno()).result()
        try:
            _command_control(self.path, _CTRL_GET_CAPABILITY)
        except DeviceError as unborn:
            raise self._why_it_ended() from unborn

    def _why_it_ended(self) -> DeviceError:
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(1.0)
        said = " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:]) or "it said nothing"
        if "lock" in said.lower():
            return DeviceError(f"{self.state} is in use by another swtpm: {said}", "stop that process")
        return DeviceError(f"swtpm did not start: {said}", f"check {self.state} and {self._log}")

    def power_cycle(self, *, orderly: bool = True) -> None:
        """Switch the TPM off and on, see ``power_cycle``."""
        power_cycle(self.path, orderly=orderly)

    def suspend_resume(self) -> None:
        """What a suspend to memory does: restartCount + 1, PCRs preserved."""
        _succeed(self.path, _SHUTDOWN + _STATE)
        _command_control(self.path, _CTRL_INIT, bytes(4))
        _succeed(self.path, _STARTUP + _STATE)

    def kill(self) -> None:
        """End the process at once, as a crash does."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def close(self) -> None:
        """Shut the TPM down in an orderly way, end the process and wait for its end. May be called twice."""
        if self.running:
            with suppress(DeviceError, subprocess.TimeoutExpired):
                _succeed(self.path, _SHUTDOWN + _CLEAR)
                _command_control(self.path, _CTRL_SHUTDOWN)
                self._process.wait(ANSWER_TIMEOUT_S)  # type: ignore[union-attr]
        self.kill()

    def __enter__(self) -> "SoftwareTpm":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _make_command(arguments: argparse.Namespace) -> None:
    provision(arguments.state, ca=arguments.ca)
    sys.stdout.write(f"made a software TPM in {arguments.state}; its maker's CA is in {arguments.ca}\n")


def _roots_command(arguments: argparse.Namespace) -> None:
    sys.stdout.write(ca_certificates(arguments.ca).decode())


def _run_command(arguments: argparse.Namespace) -> None:
    ended, ends = socket.socketpair()
    ends.setblocking(False)
    with ended, ends, SoftwareTpm(arguments.state) as tpm:
        # Not sigwait: until it waits, a thread that does not block the signal would get it, and end us.
        signal.set_wakeup_fd(ends.fileno())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: None)
        sys.stdout.write(f"{tpm.address}\n")
        sys.stdout.flush()
        ended.recv(1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tpm.software", description="Software TPMs, to try things out.")
    commands = parser.add_subparsers(required=True)
    make = commands.add_parser("make", help="make a TPM with EK certificates of a local CA")
    make.add_argument("state", type=Path, metavar="DIR", help="a new folder for the TPM")
    make.add_argument("--ca", type=Path, required=True, metavar="DIR", help="the CA's folder; made where there is none")
    make.set_defaults(run=_make_command)
    roots = commands.add_parser("roots", help="print the certificates of a local CA, for --ek-roots")
    roots.add_argument("ca", type=Path, metavar="DIR")
    roots.set_defaults(run=_roots_command)
    run = commands.add_parser("run", help="switch a TPM on, print its address, and off on SIGTERM or Ctrl-C")
    run.add_argument("state", type=Path, metavar="DIR")
    run.set_defaults(run=_run_command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """The command line; 0 done, 2 usage, 3 no TPM."""
    arguments = _parser().parse_args(argv)
    try:
        arguments.run(arguments)
    except DeviceError as failed:
        sys.stderr.write(f"{failed}\n{failed.remedy}\n")
        return 3
    return 0


if __name__ == "__main__":
    sys.exit(main())
