"""DAGs for the contract suite: what their one task does is told with the run."""

import os
from datetime import timedelta

from airflow.sdk import DAG, get_current_context, task

from tests.orchestrators import tools

MAPPED = os.environ.get("CONTRACT_HELD", "/nonexistent") + "/mapped"
QUEUES = {"celery": "celery", "elsewhere": "elsewhere", "bare": "celery", "around": "celery"}


def do() -> str | None:
    conf = get_current_context()["dag_run"].conf
    result: str | None = getattr(tools, conf["what"])(conf["base"])
    return result


for name, queue in QUEUES.items():
    local = {"executor": "LocalExecutor"} if name in {"bare", "around"} else {}
    with DAG(name, schedule=None, is_paused_upon_creation=False) as dag:
        task(task_id="work", queue=queue, **local)(do)()
    globals()[name] = dag

with DAG("retries", schedule=None, is_paused_upon_creation=False) as retries:
    task(task_id="work", queue="celery", retries=1, retry_delay=timedelta(0))(do)()

with DAG("mapped", schedule=None, is_paused_upon_creation=False) as mapped:

    @task(task_id="work", queue="celery", executor="LocalExecutor", pre_execute=lambda context: tools.write(MAPPED))
    def write(path: str) -> None:
        tools.write(path)

    write.expand(path=[MAPPED])
