"""A worker of activities, in a process of its own: ``python -m tests.orchestrators.temporal_worker [bare]``."""

import asyncio
import os
import sys
from concurrent.futures import ThreadPoolExecutor

from temporalio import activity
from temporalio.client import Client
from temporalio.worker import Worker

from tests.orchestrators import tools
from ztrooted.integrations.temporal import governed_worker

ACTIVITIES = [activity.defn(one) for one in (tools.write, tools.beats, tools.fails, tools.variables)]


async def main() -> None:
    client = await Client.connect(os.environ["TEMPORAL"])
    if sys.argv[1:] == ["bare"]:
        executor = ThreadPoolExecutor(4)
        worker = Worker(client, task_queue="bare", activities=ACTIVITIES, activity_executor=executor)
    else:
        worker = governed_worker(client, "celery", ACTIVITIES)
    async with worker:
        print("ready.", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
