"""``python -m ztrooted.integrations.ray_node start …``: ``ray start …``, for a node on which only tickets run.

A node that could not refuse does not start: without its agent, without anchors, or under a Ray whose workers could be
started by another way than the one that the guard is in.
"""

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ray
from ray._private import parameter, services
from ray.scripts import scripts

from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.guard.settings import listening_agent
from ztrooted.integrations import ray_guard, ray_worker
from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason

TRIED = "2.60."  # the guard replaces parts of Ray that other versions may not have, or not use
WORKER = str(Path(ray_worker.__file__).parent)
PLUGINS = f'[{{"class": "{ray_guard.__name__}.{ray_guard.NoEnvironment.__name__}"}}]'


def main(arguments: Sequence[str]) -> int:
    """Exit status of ``ray``; 3 where the node was not started."""
    try:
        require_guard(arguments)
    except GateError as error:
        sys.stderr.write(f"ztrooted: {NotStarted.of(error)}\n")
        return 3
    guarded = guard_node()
    ended: int = scripts.cli.main(args=list(arguments), prog_name="ray", standalone_mode=False) or 0
    return ended if guarded else 3


def require_guard(arguments: Sequence[str]) -> None:
    """EnvironmentProblem for a node that could not refuse."""
    listening_agent("node")
    if not ray.__version__.startswith(TRIED):
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID, f"the guard was not tried with Ray {ray.__version__}", f"install Ray {TRIED}*"
        )
    if list(arguments[:1]) != ["start"]:
        raise EnvironmentProblem(GateReason.CONFIG_INVALID, "only 'start' starts a node", "use 'ray' for all else")


def guard_node() -> list[str]:
    """Have workers be ours, and runtime environments refused; names what was started so, once it is."""
    guarded: list[str] = []
    start = services.start_ray_process

    class Parameters(parameter.RayParams):  # type: ignore[misc]  # Ray's own part, without types
        def __init__(self, *given: Any, **named: Any) -> None:
            super().__init__(*given, **named)
            self.setup_worker_path = WORKER

    def checked(command: list[str], kind: str, *given: Any, **named: Any) -> Any:
        if Path(command[0]).name.startswith("raylet"):
            programs = [part.split("=", 1)[1].split() for part in command if "_worker_command=" in part]
            if not programs or any(WORKER not in program[:2] for program in programs if program):
                raise RuntimeError("this Ray starts its workers in another way, and they would not be guarded")
            guarded.append(kind)
        return start(command, kind, *given, **named)

    os.environ["RAY_RUNTIME_ENV_PLUGINS"] = PLUGINS
    parameter.RayParams = Parameters
    services.start_ray_process = checked
    return guarded


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
