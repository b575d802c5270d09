"""A governed app for the contract suite; its worker is ``celery -A tests.orchestrators.celery_app worker``."""

import os

from celery import Celery, Task

from tests.orchestrators import tools
from ztrooted.integrations.celery import govern

app = Celery("contract", broker=os.environ.get("REDIS"), backend=os.environ.get("REDIS"))
app.conf.broker_connection_retry_on_startup = True
govern(app, {"celery": os.environ.get("ZTROOTED_EXECUTOR", "unset")})


@app.task
def write(path: str, text: str = "done") -> str:
    return tools.write(path, text)


@app.task
def variables(path: str) -> str:
    return tools.variables(path)


@app.task
def beats(base: str) -> None:
    tools.beats(base)


if "CONTRACT_UNGOVERNED_TASK" in os.environ:

    @app.task(base=Task)
    def ungoverned() -> None:
        """A worker that knows this one does not start."""
