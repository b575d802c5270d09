"""The caller's terminal, and the one that its job gets instead.

A terminal belongs to one session, and the caller's belongs to that of its shell. So the job gets a pseudoterminal of its
own (pty(7)) and the caller carries bytes between the two, its own in raw mode: what Ctrl-C and Ctrl-Z mean is then said
by the job's terminal to the job's processes, as ssh and sudo do it.
"""

import errno
import fcntl
import os
import signal
import termios
import tty
from contextlib import suppress
from typing import Self

CHUNK = 1 << 16
KEPT = 1 << 16  # bytes typed ahead of a job that does not read


class Terminal:
    """Between our terminal, which standard input is, and the job's. Use it as a context manager."""

    def __init__(self) -> None:
        self.master, self._job_side = os.openpty()
        os.set_blocking(self.master, False)
        self._modes = termios.tcgetattr(0)
        self._raw = False
        self._output = next((fd for fd in (1, 2) if os.isatty(fd)), 0)
        self.typed = b""
        termios.tcsetattr(self._job_side, termios.TCSANOW, self._modes)
        self.resize()

    @classmethod
    def ours(cls) -> Self | None:
        """If there is one to be had: standard input is the terminal of our own session."""
        try:
            os.tcgetpgrp(0)
        except OSError:
            return None
        return cls()

    def streams(self) -> list[int]:
        """The job's: what of ours leads to the terminal leads to the job's, the rest (pipes, files) is passed on."""
        return [self._job_side if os.isatty(fd) else fd for fd in (0, 1, 2)]

    def passed(self) -> None:
        """The job has its side: let go of it here, to notice when it is closed."""
        os.close(self._job_side)
        self._job_side = -1

    @property
    def in_front(self) -> bool:
        """Whether our terminal's keys are for us: not in the background of a shell."""
        with suppress(OSError):
            return os.tcgetpgrp(0) == os.getpgrp()
        return False

    def enter(self) -> None:
        """Give every key to the job."""
        if self.in_front:
            if not self._raw:
                self._modes = termios.tcgetattr(0)
            tty.setraw(0, termios.TCSADRAIN)
            self._raw = True
            self.resize()

    def leave(self) -> None:
        """Put our terminal back as it was."""
        if self._raw and self.in_front:
            with suppress(termios.error):
                termios.tcsetattr(0, termios.TCSADRAIN, self._modes)
        self._raw = False

    @property
    def listening(self) -> bool:
        """Whether keys are to be read now."""
        return self._raw and len(self.typed) < KEPT

    def resize(self) -> None:
        """Have the job's terminal be as large as ours; the kernel tells the job (SIGWINCH)."""
        with suppress(OSError):
            size = fcntl.ioctl(0, termios.TIOCGWINSZ, b"\0" * 8)
            fcntl.ioctl(self.master, termios.TIOCSWINSZ, size)

    def read_keys(self) -> None:
        """Take what was typed. The end of our terminal is its hanging up, which SIGHUP tells."""
        try:
            keys = os.read(0, CHUNK)
        except OSError:
            keys = b""
        if keys:
            self.typed += keys
        else:
            self._raw = False

    def write_keys(self) -> None:
        """Hand as much of it to the job as its terminal takes."""
        try:
            self.typed = self.typed[os.write(self.master, self.typed) :]
        except BlockingIOError:
            return
        except OSError:
            self.typed = b""

    def show(self) -> bool:
        """Show what the job has written; false once nobody can write any more."""
        try:
            data = os.read(self.master, CHUNK)
        except BlockingIOError:
            return True
        except OSError as error:
            if error.errno != errno.EIO:  # every descriptor of the job's side is closed (pty(7) has no other way)
                raise
            return False
        while data:
            data = data[os.write(self._output, data) :]
        return True

    def stop_all(self) -> None:
        """Stop whoever is in front of our terminal beside us, as its Ctrl-Z does: the rest of a pipeline."""
        before = signal.signal(signal.SIGTSTP, signal.SIG_IGN)
        os.killpg(os.getpgrp(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, before)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()
        for fd in (self.master, self._job_side):
            if fd >= 0:
                os.close(fd)
