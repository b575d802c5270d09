"""The same task without the gate, to compare with: in its own queue, on a worker of its own."""

import os

from celery import Celery

from tests.orchestrators import tools

app = Celery("bare", broker=os.environ.get("REDIS"), backend=os.environ.get("REDIS"))
app.conf.broker_connection_retry_on_startup = True
app.conf.task_default_queue = "bare"


@app.task
def write(path: str, text: str = "done") -> str:
    return tools.write(path, text)
