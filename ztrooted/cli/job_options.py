"""Options of ``authorize`` and ``exec`` that say how a job runs. Both take the same, because both describe the job."""

import os
import re
from collections.abc import Mapping
from typing import Annotated, Any

import typer

PassEnv = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME", help="A variable that the job gets with the value that it has here."),
]
RunAs = Annotated[
    str | None,
    typer.Option(
        "--user", metavar="UID[:GID]", help="User and group number that the job runs as; UID without a group."
    ),
]
Memory = Annotated[
    str | None, typer.Option(metavar="BYTES", help="Most memory of the whole job; 512M and the like are understood.")
]
Pids = Annotated[int | None, typer.Option(min=1, help="Most processes and threads of the job at a time.")]
Cpu = Annotated[int | None, typer.Option(min=1, help="Most processor time, in percent of one processor.")]

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,16})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_USER = re.compile(r"[0-9]{1,10}(?::[0-9]{1,10})?")


def passed(env: list[str] | None, names: list[str] | None, environment: Mapping[str, str] = os.environ) -> list[str]:
    """``NAME=VALUE`` of every variable, given or passed on. A given one wins, and one that is not there is an error."""
    taken = []
    for name in names or []:
        if "=" in name or name not in environment:
            raise typer.BadParameter(f"there is no variable {name!r} here to pass on", param_hint="--pass-env")
        taken.append(f"{name}={environment[name]}")
    return [*taken, *(env or [])]


def options(user: str | None, memory: str | None, pids: int | None, cpu: int | None) -> dict[str, Any]:
    """What of ``ztrooted.models.Job`` was asked for."""
    asked = {"user": _user(user), "memory": _size(memory), "pids": pids, "cpu": cpu}
    return {name: value for name, value in asked.items() if value is not None}


def _user(text: str | None) -> str | None:
    if text is None:
        return None
    if _USER.fullmatch(text) is None:
        raise typer.BadParameter("give numbers, as in 1000 or 1000:100", param_hint="--user")
    user, _, group = text.partition(":")
    return f"{int(user)}:{int(group or user)}"


def _size(text: str | None) -> int | None:
    if text is None:
        return None
    if (found := _SIZE.fullmatch(text)) is None:
        raise typer.BadParameter("give a number of bytes, as in 536870912 or 512M", param_hint="--memory")
    return int(found[1]) * _UNITS[found[2].upper()]
