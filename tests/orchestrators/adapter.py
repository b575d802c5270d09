"""What the contract suite drives: an adapter hands work out and has it run, in one or two steps."""

import asyncio
import contextlib
import json
import os
import secrets
import socket
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tests.orchestrators import airflow_home
from tests.support.agent_in_process import ROOT, MachineInProcess

ENVIRONMENTS = ROOT / ".orchestrators"
ANSWERED_S = 180  # what a driver waits for takes less
WITHIN_S = 0.5  # an answer that does not come is waited for no longer, in these tests
QUEUE = "celery"
NOBODY = "ex-" + "0" * 32  # an executor that is not enrolled
NOT_ASKED = "orchestrators are tried by 'scripts/test --orchestrators'"


def asked(name: str) -> bool:
    """Whether an orchestrator is to be tried: ``ZTROOTED_ORCHESTRATORS`` has names, or ``all``."""
    return bool({name, "all"} & set(os.environ.get("ZTROOTED_ORCHESTRATORS", "").split()))


class RefusedError(Exception):
    """What an orchestrator shows where work did not run to its end."""


@dataclass(frozen=True)
class Message:
    """What was handed out, on its way."""

    what: str
    base: Path
    run: str
    ticket: str | None


@dataclass(frozen=True)
class Wrong:
    """What is wrong where work is handed out: variables (an empty one is missing), a clock, the name of an executor."""

    variables: Mapping[str, str] = field(default_factory=dict)
    clock_s: int = 0
    executor: str = QUEUE

    @property
    def lacks(self) -> bool:
        """Whether a setting is missing, with which daemons do not start."""
        return "" in self.variables.values()

    @property
    def told(self) -> dict[str, Any]:
        """For a driver: see ``held.wrong``."""
        return {"variables": dict(self.variables), "clock": self.clock_s, "executor": self.executor}

    @property
    def settings(self) -> dict[str, Any]:
        """For a daemon that runs: see ``held.changed``."""
        told: dict[str, Any] = {"clock": self.clock_s}
        if token := self.variables.get("ZTROOTED_TOKEN_FILE"):
            told["token"] = Path(token).read_text()
        if ca := self.variables.get("ZTROOTED_CA"):
            told["ca"] = ca
        return told


class Adapter(ABC):
    """One orchestrator. ``what`` is ``write`` (a file, once) or ``beats`` (for ever)."""

    # What a ticket that somebody else carries is compared with before it is used: the ``call`` that comes with it, the
    # ``run`` of the orchestrator's, too; or nothing, where nobody else carries it.
    compared = "run"

    def __init__(self, machine: MachineInProcess) -> None:
        self.machine = machine
        self.stack = AsyncExitStack()

    async def open(self) -> None:  # noqa: B027 -- some need nothing
        """Start what it needs."""

    async def close(self) -> None:
        await self.stack.aclose()

    @classmethod
    def absent(cls) -> str | None:
        """Why it can't be tried here, or None."""
        return None

    @abstractmethod
    async def hand_out(self, what: str, base: Path, *, url: str | None = None, executor: str = QUEUE) -> Message:
        """Ask, at ``url`` if it is told, for the executor behind a name. Raises where the answer is no."""

    @abstractmethod
    async def run(self, message: Message) -> Any:
        """Have what was handed out run to its end. Raises where it does not."""

    async def whole(self, what: str, base: Path) -> Any:
        """Both, as its users do it."""
        return await self.run(await self.hand_out(what, base))

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        """Hand ``write`` out as its users do where something is wrong; what they are shown, where they look for it."""
        raise NotImplementedError

    def other(self, message: Message, ticket: str | None) -> Message:
        """The same with another ticket."""
        return replace(message, ticket=ticket)


class Apart(Adapter):
    """An orchestrator in an environment of its own, whose sender is a ``driver``."""

    driver = ""
    environment = ""  # the folder of ``.orchestrators`` that it is installed in

    @classmethod
    def command(cls, name: str = "python") -> str:
        """A program of its environment."""
        return str(ENVIRONMENTS / cls.environment / "bin" / name)

    @classmethod
    def absent(cls) -> str | None:
        if not asked(cls.environment):
            return NOT_ASKED
        if not Path(cls.command()).exists():
            return f"'scripts/orchestrators {cls.environment}' has not installed it"
        return None

    async def open(self) -> None:
        self.variables = await self.machine.environment()
        await self.start()
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._sender = await self.spawn("sender", self.command(), "-m", self.driver, talks=True)
        self._answered(0)
        reading = asyncio.create_task(self._read())
        self.stack.callback(reading.cancel)
        await asyncio.wait_for(self._waiting[0], ANSWERED_S)

    async def start(self) -> None:
        """Start the orchestrator itself."""

    async def start_bare(self) -> None:
        """Have the driver's ``bare`` run without the gate, to compare with."""

    async def spawn(self, name: str, *command: str, talks: bool = False, **variables: str) -> Any:
        """A process that ends with this adapter; what it says is in ``NAME.log``."""
        pipe = asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL
        with (self.machine.folder / f"{name}.log").open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *command,
                cwd=ROOT,
                env={**self.variables, **variables},
                stdin=pipe,
                stdout=pipe if talks else log,
                stderr=log,
                start_new_session=True,
                limit=1 << 24,
            )

        async def end() -> None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, 9)
            await process.wait()

        self.stack.push_async_callback(end)
        return process

    async def _read(self) -> None:
        while line := await self._sender.stdout.readline():
            told = json.loads(line)
            waiting = self._answered(told["number"])
            if not waiting.done():
                if "error" in told:
                    waiting.set_exception(RefusedError(told["error"]))
                else:
                    waiting.set_result(told["value"])

    def _answered(self, number: int) -> "asyncio.Future[Any]":
        return self._waiting.setdefault(number, asyncio.get_running_loop().create_future())

    async def ask(self, **asked: Any) -> Any:
        number = secrets.randbits(40) + 1
        answered = self._answered(number)
        self._sender.stdin.write(json.dumps({"number": number, **asked}).encode() + b"\n")
        return await asyncio.wait_for(answered, ANSWERED_S)

    async def hand_out(self, what: str, base: Path, *, url: str | None = None, executor: str = QUEUE) -> Message:
        run = secrets.token_hex(16)
        elsewhere = {"url": url, "home": self.machine.gate.url} if url else {}
        asked = {"what": what, "base": str(base), "run": run, "executor": executor, **elsewhere}
        return Message(what, base, run, await self.ask(do="hand_out", **asked))

    async def run(self, message: Message) -> Any:
        asked = {"what": message.what, "base": str(message.base), "run": message.run, "ticket": message.ticket}
        return await self.ask(do="run", **asked)

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        """Its driver's error, or what that finds."""
        try:
            return str(await self.ask(do="refusal", base=str(base), **wrong.told))
        except RefusedError as error:
            return str(error)

    async def ended_log(self, name: str, process: Any) -> str:
        """What a daemon of that name has said, which has ended by itself, and not well."""
        assert await asyncio.wait_for(process.wait(), 120) != 0
        return (self.machine.folder / f"{name}.log").read_text()

    async def whole(self, what: str, base: Path) -> Any:
        return await self.ask(do="whole", what=what, base=str(base))


def listens(port: int) -> bool:
    with socket.socket() as asking:
        return asking.connect_ex(("127.0.0.1", port)) == 0


async def answers(url: str) -> bool:
    """Whether somebody answers there."""
    with contextlib.suppress(OSError, TimeoutError):
        return await asyncio.to_thread(airflow_home.ask, url) is not None
    return False


def free_port() -> int:
    """One on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
