"""Whoever submits calls to a Dask cluster: see ``driver``."""

import os
from functools import partial
from typing import Any

from distributed import Client

from tests.orchestrators import tools
from tests.orchestrators.driver import NODE, Calls, serve
from ztrooted.integrations import dask

TIMEOUT_S = 60


def around(asked: dict[str, Any]) -> Any:
    """As somebody would who knows nothing of the gate."""
    return client.submit(tools.write, asked["base"], workers=[NODE], pure=False).result(timeout=TIMEOUT_S)


def bare(asked: dict[str, Any]) -> Any:
    """The same on a worker without the guard."""
    return client.submit(tools.write, asked["base"], workers=["bare"], pure=False).result(timeout=TIMEOUT_S)


if __name__ == "__main__":
    with Client(os.environ["DASK"]) as client:
        calls = Calls(
            "dask",
            partial(dask.submit, client),
            partial(dask.send, client),
            lambda future: future.result(timeout=TIMEOUT_S),
        )
        serve({**calls.commands, "around": around, "bare": bare})
