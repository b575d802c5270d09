"""Path patterns of IMA rules: what may be left out of appraisal, and what never may.

A pattern is an absolute path. ``*`` stands for any characters of one component, at most once in each; ``/**`` at the
end for everything below (``/.*``, as allow-lists of regular expressions write it, means the same there). There is
nothing else, so matching cannot run away, and a pattern can be read for what it covers.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from tpm.errors import RejectedError
from tpm.ima_template import MAX_PATH
from tpm.reasons import EvidenceReason

# An exclusion is a hole; more than this many are a sieve. Also what bounds the cost of an entry that is not listed.
MAX_PATTERNS = 256

# Where executables live, or where whoever is not root may put one. No pattern may reach into these or lie above them.
_NEVER = (
    "/bin/",
    "/boot/",
    "/dev/",
    "/home/",
    "/lib/",
    "/lib32/",
    "/lib64/",
    "/opt/",
    "/root/",
    "/run/user/",
    "/sbin/",
    "/tmp/",  # noqa: S108 -- named to be refused
    "/usr/bin/",
    "/usr/games/",
    "/usr/lib/",
    "/usr/lib32/",
    "/usr/lib64/",
    "/usr/libexec/",
    "/usr/local/",
    "/usr/sbin/",
    "/var/lib/containers/",
    "/var/lib/docker/",
    "/var/tmp/",  # noqa: S108 -- named to be refused
)
_MIN_COMPONENTS = 2
_PLAIN = re.compile(r"[^\x00-\x1f\x7f\\^$|?+()\[\]{}]+")


def is_plain(path: bytes) -> bool:
    """Whether a path is absolute and has no component that means another place: ``.``, ``..`` or an empty one."""
    if path[:1] != b"/":
        return False
    if b"/." not in path and b"//" not in path and path[-1:] != b"/":  # what nearly every path is
        return True
    return not {b"", b".", b".."} & set(path[1:].split(b"/"))


def _refuse(pattern: str, why: str) -> RejectedError:
    return RejectedError(EvidenceReason.IMA_EXCLUDE_TOO_BROAD, f"pattern {pattern[:200]!r} {why}")


def _check_spelling(pattern: str, stem: str) -> None:
    if not stem:
        raise _refuse(pattern, "covers everything")
    if not pattern.startswith("/") or len(pattern) > MAX_PATH:
        raise _refuse(pattern, "is not an absolute path, so it would match in places nobody meant")
    if not _PLAIN.fullmatch(stem):
        raise _refuse(pattern, "holds characters of regular expressions; write a path, with * and /** at most")
    if not is_plain(stem.encode("utf-8", "surrogateescape")):
        raise _refuse(pattern, "has an empty component, '.' or '..'")
    if any(component.count("*") > 1 for component in stem.split("/")):
        raise _refuse(pattern, "has more than one * in a component")


def _check_reach(pattern: str, stem: str, *, tree: bool) -> None:
    literal, star, _ = stem.partition("*")
    fixed = literal.rpartition("/")[0] if star else stem
    if (star or tree) and fixed.count("/") < _MIN_COMPONENTS:
        raise _refuse(pattern, f"fixes fewer than {_MIN_COMPONENTS} components before its first wildcard")
    for place in _NEVER:
        if f"{fixed}/".startswith(place) or ((star or tree) and place.startswith(f"{fixed}/")):
            raise _refuse(pattern, f"reaches {place}, where executables live or anyone may put one")


def _compile(pattern: str) -> str:
    tree = pattern.endswith(("/**", "/.*"))
    stem = pattern[:-3] if tree else pattern
    _check_spelling(pattern, stem)
    _check_reach(pattern, stem, tree=tree)
    return re.escape(stem).replace(r"\*", "[^/]*") + ("/.+" if tree else "")


@dataclass(frozen=True, slots=True)
class PathPatterns:
    """A checked set of patterns."""

    patterns: tuple[str, ...] = ()
    _regex: re.Pattern[bytes] | None = None

    @classmethod
    def of(cls, patterns: Iterable[str]) -> "PathPatterns":
        """Check and compile. RejectedError ``ima.exclude_too_broad`` for a pattern that covers more than it may."""
        listed = tuple(patterns)
        if len(listed) > MAX_PATTERNS:
            raise _refuse(listed[MAX_PATTERNS], f"is over the maximum of {MAX_PATTERNS}")
        if not listed:
            return cls()
        joined = "|".join(_compile(pattern) for pattern in listed)
        return cls(listed, re.compile(joined.encode("utf-8", "surrogateescape"), re.DOTALL))

    def matches(self, path: bytes) -> bool:
        """Whether a pattern covers ``path``. A path that is not plain is covered by none."""
        return self._regex is not None and is_plain(path) and self._regex.fullmatch(path) is not None
