"""The runner's first hook, for the contract suite: what was permitted is held, and delivered with any ticket; see ``held``.

``NAME.held`` is told before it starts, by the runner's name: a runner has one job at a time.
"""

import os
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

from tests.orchestrators.held import put, wait_for
from ztrooted.integrations import github
from ztrooted.integrations.github_follower import Followed

begin = github._start


class Nobody:
    """In the place of who is asked: gives a ticket that is none."""

    def __init__(self, *_: Any, **_named: Any) -> None:
        pass

    async def __aenter__(self) -> "Nobody":
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def authorize(self, *_: Any, **_named: Any) -> Any:
        return SimpleNamespace(ticket=SimpleNamespace(encode=lambda: None), authorization="")


def held(followed: Followed) -> Any:
    name = os.environ["RUNNER_NAME"]
    put(f"{name}.told", {"ticket": followed.ticket})
    return begin(replace(followed, ticket=wait_for(f"{name}.go")["ticket"]))


if __name__ == "__main__":
    if wait_for(f"{os.environ['RUNNER_NAME']}.held").get("around"):
        github.Orchestrator = Nobody  # type: ignore[assignment, misc]
    github._start = held
    github.main()
