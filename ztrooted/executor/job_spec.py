"""What to run and how it ended, as the agent says it; and why a job could not be started."""

import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ztrooted import limits
from ztrooted.executor import kernel, wire
from ztrooted.executor.cgroups import Limits
from ztrooted.executor.files import CWD, EXECUTABLE, FILE_MISMATCH, FILE_UNREADABLE, LIMITS, TERMINAL, USER

NAMESPACE_REMEDY = (
    "Run the agent as root, or allow user namespaces for its user (sysctl user.max_user_namespaces, and where they "
    "exist kernel.unprivileged_userns_clone and kernel.apparmor_restrict_unprivileged_userns). Weaker enforcement by "
    "process group has to be allowed in the agent's own configuration."
)
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


class SupervisorError(Exception):
    """A job cannot be started, or not be supervised. ``code`` is one of the gate's reason codes."""

    def __init__(self, code: str, message: str, remedy: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What to run.

    ``argv[0]`` is looked up in ``env["PATH"]`` if it has no slash. ``env`` is the whole environment, ``cwd`` absolute.
    ``files`` maps absolute paths to SHA-256 (lower-case hex): compared right before the start; a program listed there
    is executed from the very file that was compared (what this does not cover is written in ``files``).
    ``user`` is the user and group number to run as, without supplementary groups; None is the agent's own.
    """

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str
    files: Mapping[str, str] = field(default_factory=dict)
    user: tuple[int, int] | None = None
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended; nothing of it is running any more.

    ``exited``: by itself, with ``exit_status`` or by ``signal``; ``reason`` is ``exited``. ``killed``: from here, for
    ``reason``: ``lease.expired``, ``max_runtime``, the text given to ``interrupt``, or what befell the supervision
    (``guard.died``, ``init.killed``, ``control.malformed``); ``exit_status`` only if it obeyed within its grace.
    """

    outcome: Literal["exited", "killed"]
    exit_status: int | None
    signal: int | None
    reason: str
    ended_monotonic_ns: int
    enforcement: str


@dataclass(frozen=True, slots=True)
class Enforcement:
    """What this machine grants: ``pid-namespace…`` or ``none``, the kernel's reason in ``detail``, a remedy."""

    kind: str
    detail: str
    remedy: str

    @property
    def available(self) -> bool:
        """Whether ``start`` will work without ``allow_weak``."""
        return self.kind.startswith(kernel.PID_NAMESPACE)


def nanoseconds(seconds: float) -> int:
    """Seconds as whole nanoseconds."""
    return int(seconds * 1_000_000_000)


def malformed(message: str, remedy: str) -> SupervisorError:
    """What is asked for cannot be meant."""
    return SupervisorError("job.malformed", message, remedy)


def check_spec(spec: JobSpec) -> None:
    """Refuse what the kernel would misread or what no authorized job contains.

    Raises:
        SupervisorError: ``job.malformed``.
    """
    if not spec.argv or not spec.argv[0] or len(spec.argv) > limits.ARGV_ITEMS:
        raise malformed(
            f"a command of {len(spec.argv)} words", f"Give 1 to {limits.ARGV_ITEMS} words, the first a program."
        )
    if not spec.cwd.startswith("/"):
        raise malformed(f"working directory {spec.cwd!r} is not absolute", "Name it from the root.")
    if any(not name or "=" in name for name in spec.env):
        raise malformed("an environment variable's name is empty or has an equals sign", "Correct its name.")
    if len(spec.files) > limits.FILES_ITEMS:
        raise malformed(f"{len(spec.files)} files", f"List at most {limits.FILES_ITEMS}.")
    for path, digest in spec.files.items():
        if not path.startswith("/") or not _SHA256_HEX.fullmatch(digest):
            raise malformed(f"file {path!r} with digest {digest[:70]!r}", "Give absolute paths and lower-case SHA-256.")
    for text in (*spec.argv, *spec.env, *spec.env.values(), spec.cwd, *spec.files):
        try:
            encoded = os.fsencode(text)
        except UnicodeEncodeError as error:
            raise malformed("a string that no program can be given", "Remove unpaired surrogates.") from error
        if b"\0" in encoded:
            raise malformed("a string with a NUL character", "Remove it.")


def check_times(lease_s: float, max_runtime_s: float, grace_s: float) -> None:
    """Refuse durations that are not positive (the grace: negative), not finite, or longer than any we hand out.

    Raises:
        SupervisorError: ``job.malformed``.
    """
    for name, value, least, most in (
        ("lease", lease_s, 1e-9, wire.MAX_AHEAD_S),
        ("longest runtime", max_runtime_s, 1e-9, wire.MAX_RUNTIME_S),
        ("grace", grace_s, 0.0, wire.MAX_GRACE_S),
    ):
        if not math.isfinite(value) or not least <= value <= most:
            raise malformed(
                f"a {name} of {value} s", f"Give more than zero and at most {most} s (a grace may be zero)."
            )


LIMITS_REMEDY = (
    "Start the agent in a control group that it may divide (a systemd unit with Delegate=yes, or as root), or ask for a "
    "job without limits."
)
_START_REMEDIES = {
    TERMINAL: ("execution.start_failed", "Pass a terminal that is in use by no session, or none."),
    USER: ("execution.start_failed", "Run the agent as root, or name no other user in the job."),
    LIMITS: ("supervision.unavailable", LIMITS_REMEDY),
    CWD: ("execution.start_failed", "Create the directory on this executor, or name another in the job."),
    EXECUTABLE: (
        "execution.start_failed",
        "See that the program is installed here and executable; name it by its full path.",
    ),
    FILE_UNREADABLE: ("job.file_mismatch", "Install the authorized file on this executor, readable for the agent."),
    FILE_MISMATCH: ("job.file_mismatch", "Install the authorized version, or have this one authorized."),
}


def start_failure(message: Mapping[str, object]) -> SupervisorError:
    """What the guard said instead of "started", for a person."""
    why = message.get("why")
    if message.get("event") == "failed" and isinstance(why, dict):
        code, remedy = _START_REMEDIES[str(why["kind"])]
        return SupervisorError(code, f"the job cannot be started: {why['path']}: {why['detail']}", remedy)
    if message.get("event") == "refused":
        text = f"no PID namespace ({message.get('detail')}), so not every process of a job could be ended for certain"
        return SupervisorError("supervision.unavailable", text, NAMESPACE_REMEDY)
    reason = str(message.get("reason", message.get("event")))
    code = {wire.LEASE_EXPIRED: reason, wire.MAX_RUNTIME: "execution.max_runtime"}.get(reason, "execution.start_failed")
    return SupervisorError(code, f"the job was ended before it had started: {reason}", "Ask for a new authorization.")
