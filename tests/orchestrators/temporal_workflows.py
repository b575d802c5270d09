"""Workflows of tests: one that knows nothing of the gate, and one that is told how often to try."""

from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy


@workflow.defn
class Contract:
    """One activity, by its name."""

    @workflow.run
    async def run(self, asked: dict[str, Any]) -> Any:
        call = workflow.execute_local_activity if asked.get("local") else workflow.execute_activity
        more = {} if asked.get("local") else {"task_queue": asked["queue"]}
        tries = RetryPolicy(maximum_attempts=asked.get("tries", 1), initial_interval=timedelta(milliseconds=10))
        lasts = timedelta(seconds=asked.get("lasts", 60))
        return await call(asked["what"], args=[asked["base"]], start_to_close_timeout=lasts, retry_policy=tries, **more)
