"""Airflow, where a task runs: the policy that lets it run under the gate only, and what runs there.

``airflow_local_settings.py``, on every machine of an Airflow:

    from ztrooted.integrations.airflow_policy import task_policy

An executor that is not ours, ``airflow tasks test`` and whatever else starts tasks reads the file of the DAG, and so comes
by this policy: it puts a check in front of all that a task does. Listeners can't, since what they raise is logged and the
task runs; ``task_instance_mutation_hook`` can't, since it is called when a row is made. Airflow starts without this file,
too, and has no policy then, so ``ztrooted.integrations.airflow.GovernedExecutor`` does not start where it is not in force.

This is loaded by the process of each task, and loads nothing that asks or verifies.
"""

import inspect
import os
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from ztrooted.outcome import NotStarted
from ztrooted.reasons import GateReason

RUNNING = "ZTROOTED_AIRFLOW_TASK"  # in the process of a governed task: the id of its task instance

_checked: "weakref.WeakSet[Callable[[Any], Any]]" = weakref.WeakSet()  # hooks that have the check in front of them


def task_policy(task: Any) -> None:
    """Airflow's hook, called for each task of a file that is read, wherever it is read."""
    if getattr(task, "start_from_trigger", False):
        from airflow.exceptions import AirflowClusterPolicyViolation  # noqa: PLC0415

        raise AirflowClusterPolicyViolation(
            f"{GateReason.CONFIG_INVALID}: task {task.task_id} starts in the triggerer, where nothing governs it. "
            "Leave start_from_trigger at False."
        )
    if hasattr(task, "partial_kwargs"):  # a mapped one, whose instances are made of these when they run
        task.partial_kwargs["pre_execute"] = checked(task.partial_kwargs.get("pre_execute"))
    else:
        task._pre_execute_hook = checked(task._pre_execute_hook)  # noqa: SLF001 -- before all that has other names


def checked(hook: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """What a task calls first: the check, and then its own hook."""
    if hook is None or hook is require_governed:
        return require_governed
    if inspect.isfunction(hook) and hook in _checked:
        return hook
    own = hook

    def first(context: Any) -> Any:
        require_governed(context)
        return own(context)

    def first_of(context: Any) -> Iterator[Any]:
        require_governed(context)
        yield from own(context)

    made: Callable[[Any], Any] = first_of if inspect.isgeneratorfunction(own) else first
    _checked.add(made)
    return made


def require_governed(context: Any) -> None:
    """Raise NotStarted in a process that was not started for this very task instance by our executor."""
    if os.environ.get(RUNNING) != str(context["ti"].id):
        raise NotStarted(
            GateReason.CONFIG_INVALID,
            f"nothing permits task {context['ti'].task_id}: it was not started by the governed executor.",
            "Set [core] executor to ztrooted.integrations.airflow.GovernedExecutor alone, and have the scheduler run tasks.",
        )


def require_policy() -> None:
    """Raise NotStarted ``config.missing`` where Airflow, as it is set up in this process, does not ask our policy."""
    from airflow import settings  # noqa: PLC0415
    from airflow.sdk import BaseOperator  # noqa: PLC0415

    probe = BaseOperator(task_id="ztrooted_probe", pre_execute=_unchecked)
    settings.task_policy(probe)
    if probe._pre_execute_hook not in _checked:  # noqa: SLF001
        raise NotStarted(
            GateReason.CONFIG_MISSING,
            "airflow_local_settings.py is missing, or has no task_policy of ours: tasks could be started around the gate.",
            "Have it say 'from ztrooted.integrations.airflow_policy import task_policy', on the path of every component.",
        )


def _unchecked(_context: Any) -> None:
    """The hook of a task that nobody runs."""


def run_workload(encoded: str) -> None:
    """The job that a task is: Airflow's own supervisor of it, and all below that, in the process of a governed call."""
    from airflow.executors.workloads import ExecuteTask  # noqa: PLC0415
    from airflow.sdk.execution_time.execute_workload import execute_workload  # noqa: PLC0415

    workload = ExecuteTask.model_validate_json(encoded)
    os.environ[RUNNING] = str(workload.ti.id)
    execute_workload(workload)
