"""``@governed``: each call of a function is a dispatch. For tools of AI agents, and anything else that is called by name.

    gate = Gate.from_environment()

    @gate.governed(workflow="assistant")
    def delete_files(pattern: str) -> int: ...

The call's function and the digest of its arguments are the job. A call that may not run raises, and has done nothing.
"""

import asyncio
import atexit
import functools
import inspect
import os
import secrets
import threading
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar, cast

from ztrooted.guard.call import GOVERNED, ORIGINAL

if TYPE_CHECKING:
    from ztrooted.client.blocking import Loop
    from ztrooted.client.orchestrator import Dispatch, Orchestrator
    from ztrooted.guard.agent import LocalAgent
    from ztrooted.guard.function import Call
    from ztrooted.guard.settings import OrchestratorSettings

# The process of each governed call loads this module too, and needs nothing of what asks a gateway: that is loaded where it
# is used, which saves a call most of a second.
P = ParamSpec("P")
R = TypeVar("R")


class Gate:
    """One orchestrator and one machine to run on, in one program. Connects at the first call."""

    def __init__(self, settings: "OrchestratorSettings | None", agent: "LocalAgent | None") -> None:
        """Without settings and agent it governs what it is given, and calls nothing."""
        self._settings = settings
        self._agent = agent
        self._opening = threading.Lock()
        self._loop: Loop | None = None
        self._orchestrator: Orchestrator | None = None

    @classmethod
    def from_environment(cls) -> Self:
        """By variables, see ``ztrooted.guard.settings``. EnvironmentProblem where one is missing.

        The process of a governed call loads the same module, and has none of them: it holds no token.
        """
        if GOVERNED in os.environ:
            return cls(None, None)
        from ztrooted.guard.settings import OrchestratorSettings, agent_from_environment  # noqa: PLC0415

        return cls(OrchestratorSettings.from_environment(), agent_from_environment())

    def governed(
        self, *, workflow: str, run: str | None = None, env: Mapping[str, str] | None = None, **options: Any
    ) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Have each call of a function authorized, run in a process of its own, followed, and ended with its lease.

        ``run`` names the session that calls belong to; a random one unless told. ``options`` are fields of ``Job`` and
        ``max_runtime_s``. A function that is asynchronous stays so. UsageProblem for one that can't be found by its name.
        """
        session = run or secrets.token_hex(8)

        def decorate(function: Callable[P, R]) -> Callable[P, R]:
            if self._settings is None:
                return _inside(function)
            from ztrooted.guard.function import describe_call, reference_of  # noqa: PLC0415

            reference_of(function)

            def described(positional: Any, named: Any) -> "Call":
                fields = {name: value for name, value in options.items() if name != "max_runtime_s"}
                return describe_call(function, positional, named, workflow=workflow, run=session, env=env, **fields)

            async def called(*positional: Any, **named: Any) -> Any:
                call = described(positional, named)
                loop = await asyncio.to_thread(self._open)
                return await asyncio.wrap_future(loop.submit(self._call(call, options.get("max_runtime_s"))))

            def waited(*positional: Any, **named: Any) -> Any:
                call = described(positional, named)
                return self._open().wait(self._call(call, options.get("max_runtime_s")))

            wrapper = functools.wraps(function)(called if inspect.iscoroutinefunction(function) else waited)
            setattr(wrapper, ORIGINAL, function)
            return cast("Callable[P, R]", wrapper)

        return decorate

    def close(self) -> None:
        """Hang up. What still runs is ended."""
        loop, orchestrator, self._loop, self._orchestrator = self._loop, self._orchestrator, None, None
        if loop is not None and orchestrator is not None:
            loop.wait(orchestrator.__aexit__(None, None, None))
            loop.close()

    def _open(self) -> "Loop":
        from ztrooted.client.blocking import Loop  # noqa: PLC0415

        with self._opening:
            if self._loop is None:
                with ExitStack() as opened:
                    loop = Loop()
                    opened.callback(loop.close)
                    self._orchestrator = loop.wait(self._connect())
                    opened.pop_all()
                self._loop = loop
                atexit.register(self.close)
            return self._loop

    async def _connect(self) -> "Orchestrator":
        from ztrooted.client.orchestrator import Orchestrator  # noqa: PLC0415

        asked = self._settings
        if asked is None:
            raise RuntimeError("there is nobody to ask")
        orchestrator = Orchestrator(asked.gateway, ca=asked.ca, token=asked.token, anchors=asked.anchors)
        return await orchestrator.__aenter__()

    async def _call(self, call: "Call", max_runtime_s: int | None) -> Any:
        from ztrooted.outcome import telling  # noqa: PLC0415

        orchestrator, agent = self._orchestrator, self._agent
        if orchestrator is None or agent is None:
            raise RuntimeError("the gate was closed")
        with telling():
            dispatch = await orchestrator.authorize(call.work, agent.executor, max_runtime_s=max_runtime_s)
            return await follow_call(orchestrator, dispatch, agent, call)


async def follow_call(orchestrator: "Orchestrator", dispatch: "Dispatch", agent: "LocalAgent", call: "Call") -> Any:
    """Run a call that was authorized and follow it; what its function returns."""
    from ztrooted.guard.function import perform  # noqa: PLC0415

    process, result = await perform(agent, dispatch.ticket, call)
    try:
        await orchestrator.follow(dispatch, process)
        return await result
    finally:
        process.kill("execution.abandoned")
        result.cancel()
        await asyncio.gather(result, return_exceptions=True)


def _inside(function: Callable[P, R]) -> Callable[P, R]:
    """A governed function in the process of a governed call: found by its name, and not to be called by another one."""

    @functools.wraps(function)
    def refused(*_positional: P.args, **_named: P.kwargs) -> R:
        from ztrooted.errors import EnvironmentProblem  # noqa: PLC0415
        from ztrooted.reasons import GateReason  # noqa: PLC0415

        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING,
            "a governed call can't make another one: its process holds no token",
            "call the plain function, or both from outside",
        )

    setattr(refused, ORIGINAL, function)
    return refused
