"""HTCondor for the contract suite: its starter is this process, and what is on its way is held by the deputy."""

import asyncio
import secrets
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.orchestrators.adapter import NOBODY, NOT_ASKED, QUEUE, Adapter, Message, RefusedError, Wrong, asked
from tests.orchestrators.condor_starter import STARTER, ExecutionPoint, Started, absent, script
from tests.orchestrators.held import changed
from tests.support.agent_in_process import MachineInProcess
from ztrooted.client.orchestrator import Orchestrator
from ztrooted.integrations.htcondor_deputy import Deputy
from ztrooted.work import Work


@dataclass
class Attempt:
    """What the deputy is to do about one job: whom it asks, and what it delivers once it may."""

    url: str | None
    executor: str
    asks: bool = True
    wrong: dict[str, Any] | None = None
    told: "asyncio.Future[str | None]" = field(default_factory=asyncio.Future)
    delivery: "asyncio.Future[str | None]" = field(default_factory=asyncio.Future)


@dataclass(slots=True)
class HeldDeputy(Deputy):
    """The deputy, which is held between permission and delivery; the test says what it delivers."""

    machine: MachineInProcess = field(kw_only=True)
    attempts: dict[str, Attempt] = field(default_factory=dict)

    async def ask(self, work: Work) -> str | None:
        attempt = self.attempts[work.job.run]
        if attempt.asks:
            told = {"gateway": attempt.url} if attempt.url else attempt.wrong
            with changed(
                SimpleNamespace(settings=await self.machine.settings(), within_s=self.within_s), told
            ) as other:
                asked = other.settings
                async with Orchestrator(
                    asked.gateway,
                    ca=asked.ca,
                    token=asked.token,
                    anchors=asked.anchors,
                    state=self.machine.folder / "state",
                ) as orchestrator:
                    dispatch = await orchestrator.authorize(work, attempt.executor, within_s=other.within_s)
            attempt.told.set_result(dispatch.ticket.encode())
        return await attempt.delivery


class HTCondorAdapter(Adapter):
    """The wrapper, its task and the deputy; no daemon of HTCondor's."""

    @classmethod
    def absent(cls) -> str | None:
        return absent() if asked("htcondor") else NOT_ASKED

    async def open(self) -> None:
        self.point = ExecutionPoint(self.machine.folder / "condor", await self.machine.environment())
        self.point.install()
        orchestrator = await self.stack.enter_async_context(await self.machine.orchestrator())
        self.deputy = HeldDeputy(orchestrator, self.machine.agent, STARTER, machine=self.machine)
        serving = asyncio.create_task(self.deputy.serve(self.point.deputy))
        self.stack.callback(serving.cancel)
        self._started: dict[str, Started] = {}
        while not self.point.deputy.exists():  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def hand_out(self, what: str, base: Path, *, url: str | None = None, executor: str = QUEUE) -> Message:
        return await self._asked(what, base, Attempt(url, self.machine.id if executor == QUEUE else NOBODY))

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        """In the deputy's log where that does not start, else where the job's output goes."""
        if wrong.lacks:
            command = [sys.executable, "-I", "-m", "ztrooted.integrations.htcondor_deputy"]
            variables = {**await self.machine.environment(), **wrong.variables}
            pipe = asyncio.subprocess.PIPE
            deputy = await asyncio.create_subprocess_exec(*command, env=variables, stderr=pipe)
            _, said = await deputy.communicate()
            assert deputy.returncode != 0, said
            return said.decode()
        named = self.machine.id if wrong.executor == QUEUE else NOBODY
        try:
            message = await self._asked("write", base, Attempt(None, named, wrong=wrong.settings))
        except RefusedError as error:
            return str(error)
        raise AssertionError(f"{message} was permitted")

    async def _asked(self, what: str, base: Path, attempt: Attempt) -> Message:
        run = f"ap.example/{secrets.token_hex(4)}"
        await self._begin(run, what, base, attempt)
        over = asyncio.create_task(self._started[run].over())
        await asyncio.wait({over, attempt.told}, return_when=asyncio.FIRST_COMPLETED)
        if not attempt.told.done():
            raise RefusedError((await over)[1])
        over.cancel()
        return Message(what, base, run, attempt.told.result())

    async def run(self, message: Message) -> Any:
        waiting = self.deputy.attempts.get(message.run)
        if waiting is None or waiting.delivery.done():  # around the gate, or once more with what there was
            waiting = await self._begin(message.run, message.what, message.base, Attempt(None, "", asks=False))
        waiting.delivery.set_result(message.ticket)
        started = self._started[message.run]
        status, said = await started.over()
        if status or started.failure:
            raise RefusedError(f"{status} {said}")
        return message.base.read_text()

    async def bare(self, base: Path) -> None:
        """The same script without the gate, as a starter without a wrapper executes it."""
        program = script(
            self.point.folder / f"dir_{secrets.token_hex(4)}", _scripts()["write"].replace("BASE", str(base))
        )
        await (await asyncio.create_subprocess_exec(program, cwd=program.parent)).wait()

    async def close(self) -> None:
        for started in self._started.values():
            with suppress(ProcessLookupError):
                started.process.kill()
            await started.process.wait()
        await super().close()

    async def _begin(self, run: str, what: str, base: Path, attempt: Attempt) -> Attempt:
        self.deputy.attempts[run] = attempt
        scratch = self.point.folder / f"dir_{run.rpartition('/')[2]}"
        program = script(scratch, _scripts()[what].replace("BASE", str(base)))
        self._started[run] = await self.point.start(program, job=run.replace("/", "#"), scratch=scratch)
        return attempt


def _scripts() -> dict[str, str]:
    from tests.orchestrators.adapters import SCRIPTS  # noqa: PLC0415 -- which has this adapter

    return SCRIPTS
