"""A home of Airflow's, as its tests need it: settings, DAGs, a plugin, and the variables by which its programs find them."""

import contextlib
import json
import secrets
import shutil
import urllib.request
from pathlib import Path
from typing import Any

DAGS = 6  # that airflow_dags/contract.py makes
SETTINGS = """
import os
from ztrooted.integrations import airflow_policy

def task_policy(task):
    if task.dag_id != "bare":
        airflow_policy.task_policy(task)

def task_instance_mutation_hook(task_instance, dag_run):
    with open(os.environ["CONTRACT_HELD"] + "/mutations", "a") as file:
        file.write(f"{task_instance.state}\\n")
"""
# A listener that refuses what runs ungoverned, as somebody might write it who does not know that it can't.
PLUGIN = """
import os, sys
from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin

@hookimpl
def on_task_instance_running(previous_state, task_instance):
    if task_instance.dag_id == "bare":
        open(os.environ["CONTRACT_HELD"] + "/listened", "w").close()
        raise PermissionError("no")

class Refusing(AirflowPlugin):
    name = "refusing"
    listeners = [sys.modules[__name__]]
"""


def make(home: Path, port: int, executors: dict[str, str]) -> dict[str, str]:
    """Make it; what its programs are told."""
    for name in ("config", "plugins", "held"):
        (home / name).mkdir(parents=True)
    (home / "config" / "airflow_local_settings.py").write_text(SETTINGS)
    (home / "plugins" / "refusing.py").write_text(PLUGIN)
    shutil.copytree(Path(__file__).parent / "airflow_dags", home / "dags")
    url = f"http://127.0.0.1:{port}"
    return {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__API__BASE_URL": url,
        "AIRFLOW__API__HOST": "127.0.0.1",
        "AIRFLOW__API__PORT": str(port),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_urlsafe(48),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",
        "AIRFLOW__CORE__EXECUTOR": "tests.orchestrators.airflow_executor.ContractExecutor,LocalExecutor",
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__PARALLELISM": "4",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{home}/airflow.db",
        "AIRFLOW__SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": "0.1",
        "AIRFLOW__ZTROOTED__EXECUTORS": json.dumps(executors),
        "CONTRACT_HELD": str(home / "held"),
    }


def is_up(url: str) -> bool:
    """Whether its scheduler runs, its DAGs were read, and tasks are answered, the first of which takes long."""
    with contextlib.suppress(OSError, ValueError, KeyError):
        healthy = ask(f"{url}/api/v2/monitor/health")["scheduler"]["status"] == "healthy"
        ask(f"{url}/execution/health", within_s=60)
        token = ask(f"{url}/auth/token")["access_token"]
        return healthy and ask(f"{url}/api/v2/dags", token)["total_entries"] >= DAGS
    return False


def ask(url: str, token: str = "", *, within_s: float = 5) -> Any:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(url, headers=headers)  # noqa: S310
    with urllib.request.urlopen(request, timeout=within_s) as answer:  # noqa: S310
        return json.loads(answer.read())
