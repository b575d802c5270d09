"""A Python whose clock is off. What it starts has the machine's."""

import shlex
import sys

PROGRAM = """
import runpy, sys, time
real = time.time
time.time = lambda: real() + {off_s}
sys.argv = [one for one in sys.argv[1:3] if one != "-I"] + sys.argv[3:]
if sys.argv[0] == "-m":
    del sys.argv[0]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
else:
    runpy.run_path(sys.argv[0], run_name="__main__")
"""


def python(off_s: int) -> list[str]:
    """To be followed by a program, or by ``-m`` and a module, and by arguments."""
    return [sys.executable, "-c", PROGRAM.format(off_s=off_s)] if off_s else [sys.executable]


def script(off_s: int) -> str:
    """The same as one program, which is called with ``-I``, too."""
    return f'#!/bin/sh\nexec {sys.executable} -I -c {shlex.quote(PROGRAM.format(off_s=off_s))} "$@"\n'
