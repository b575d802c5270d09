"""Which executor stands behind a name of the orchestrator's: a queue, a worker, a node. Who is not in it runs nothing.

A hook that goes through a list of machines allows everything where the list is empty, so here that is an error.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from ztrooted import strict_json
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.reasons import GateReason


class ExecutorSet(Mapping[str, str]):
    """Executor ids by name; never empty."""

    def __init__(self, executors: Mapping[str, str]) -> None:
        """EnvironmentProblem ``config.invalid`` for a set in which nobody is, or a name or id is empty."""
        if not executors or not all(name and executor for name, executor in executors.items()):
            raise EnvironmentProblem(
                GateReason.CONFIG_INVALID,
                "the set of executors is empty, so nothing may run anywhere",
                "name each queue, worker or node with its executor's id; 'ztrooted executors' lists those",
            )
        self._executors = MappingProxyType(dict(executors))

    def __getitem__(self, name: str) -> str:
        """The executor of a name. GateError ``dispatch.executor_unknown`` for another one, which is never "any"."""
        try:
            return self._executors[name]
        except KeyError:
            raise GateError(
                GateReason.DISPATCH_EXECUTOR_UNKNOWN,
                f"no executor stands behind {name!r:.80}",
                f"it is one of {', '.join(sorted(self._executors))[:200]}, or has to be added",
            ) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._executors)

    def __len__(self) -> int:
        return len(self._executors)


def read_executor_set(path: Path) -> ExecutorSet:
    """The executor of each node, from a JSON object. EnvironmentProblem where the file is missing, or nobody is in it."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING, f"{path} can't be read: {error.strerror}", "name the file of nodes with --nodes"
        ) from error
    return _parse(data, str(path), 'write {"node-1": "ex-…"}')


def parse_executors(text: str | None, where: str) -> ExecutorSet:
    """The executor of each queue, as it is written ``where`` a setting is. EnvironmentProblem ``config.invalid``."""
    return _parse((text or "{}").encode(), where, 'write {"default": "ex-…"}')


def _parse(data: bytes, where: str, remedy: str) -> ExecutorSet:
    def refuse(detail: str) -> EnvironmentProblem:
        return EnvironmentProblem(GateReason.CONFIG_INVALID, f"{where}: {detail}", remedy)

    found = strict_json.parse(data, refuse)
    if not isinstance(found, dict) or not all(isinstance(one, str) for one in found.values()):
        raise refuse("it is no object of texts")
    return ExecutorSet(found)
