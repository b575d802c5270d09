"""TOML of people who configure us, read within bounds: a broken file is refused, and never takes the process along.

``tomllib`` exhausts the stack on deep nesting, memory on a key of many parts (quadratic in their number), and lets the
ValueError of a number with thousands of digits through.
"""

import re
import tomllib
from collections.abc import Callable
from typing import Any

from ztrooted.errors import GateError

# The largest file of ours carries the root certificates of all TPM makers, a few hundred kilobytes.
MAX_TOML = 1 << 20
# Those are 10,000 lines of 64 characters; the longest line is a public area in hexadecimal. Both bound what one table, one
# number or one text may cost: the reader takes a hundred bytes for each digit of a number.
MAX_LINES = 20_000
MAX_LINE = 16 << 10
# Our deepest table has three parts.
MAX_KEY_PARTS = 16

_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
# In text or comments it is refused as well: no sentence has sixteen words with nothing but dots between them.
_LONG_KEY = re.compile(rf"(?<![A-Za-z0-9_-]){_PART}(?:[ \t]*+\.[ \t]*+{_PART}){{{MAX_KEY_PARTS}}}")

Refuse = Callable[[str], GateError]


def parse(data: bytes, refuse: Refuse, *, maximum: int = MAX_TOML) -> dict[str, Any]:
    """Read ``data`` as one TOML document in UTF-8.

    Raises what ``refuse(detail)`` makes for more than ``maximum`` bytes, for what is not TOML, and for nesting, keys or
    numbers that no file of ours needs.
    """
    if len(data) > maximum:
        raise refuse(f"too large: over {maximum} bytes")
    lines = data.split(b"\n", MAX_LINES)
    if len(lines) > MAX_LINES or max(map(len, lines)) > MAX_LINE:
        raise refuse(f"too large: it has over {MAX_LINES} lines, or one over {MAX_LINE} bytes")
    try:
        text = data.decode("utf-8")
        if _LONG_KEY.search(text):
            raise refuse(f"not as we write TOML: a key has more than {MAX_KEY_PARTS} parts")
        return tomllib.loads(text)
    except ValueError as error:  # TOMLDecodeError, UnicodeDecodeError, and that of int()
        raise refuse(f"not TOML: {str(error)[:200]}") from None
    except RecursionError:
        raise refuse("not TOML: it is nested too deep") from None
