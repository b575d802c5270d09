"""GitHub's hooks, as the contract suite drives them."""

import asyncio
import contextlib
import json
import os
import secrets
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.orchestrators import clock
from tests.orchestrators.adapter import NOBODY, NOT_ASKED, QUEUE, Adapter, Message, RefusedError, Wrong, asked
from tests.orchestrators.github_runner import Runner, steps
from tests.support.agent_in_process import ROOT


class GitHubAdapter(Adapter):
    """Hooks of GitHub's runner, which is none here: see ``github_runner``. A ticket is on its way inside of the first one.

    A runner that is not told of the hooks asks nobody, so ``around`` is a first hook that hands on no ticket.
    """

    compared = ""

    @classmethod
    def absent(cls) -> str | None:
        return None if asked("github") else NOT_ASKED

    async def open(self) -> None:
        self.folder = Path(self.stack.enter_context(tempfile.TemporaryDirectory(prefix="hooks-")))
        self.held = self.folder / "held"
        self.held.mkdir()
        self.python = self.folder / "python"
        program = f"import runpy, sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv[1:3] = []; "
        program += "runpy.run_module('tests.orchestrators.github_hook', run_name='__main__')"
        self.python.write_text(
            f'#!/bin/sh\n[ "$4" = started ] || exec {sys.executable} "$@"\nshift\n'
            f'CONTRACT_HELD={self.held} exec {sys.executable} -I -c {shlex.quote(program)} "$@"\n'
        )
        self.python.chmod(0o755)
        self._workers: dict[str, Any] = {}
        self.stack.push_async_callback(self._end)

    async def _end(self) -> None:
        for worker in self._workers.values():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
            await worker.communicate()

    def _runner(self, name: str) -> Runner:
        return Runner(self.machine, self.folder / name)

    async def _start(self, name: str, what: str, base: Path, **more: str) -> Any:
        """A job of the runner of that name, which is held."""
        told = {"RUNNER_NAME": name, "RUNNER_TRACKING_ID": f"github_{name}", "ZTROOTED_PYTHON": str(self.python)}
        told["GITHUB_RUN_ID"] = str(int(name, 16))
        self._workers[name] = await self._runner(name).start(*steps(what, base), **told, **more)
        return self._workers[name]

    async def hand_out(self, what: str, base: Path, *, url: str | None = None, executor: str = QUEUE) -> Message:
        name = secrets.token_hex(16)
        (self.held / f"{name}.held").write_text("{}")
        more = {"ZTROOTED_GATEWAY": url, "ZTROOTED_WITHIN_S": "1"} if url else {}
        more |= {"ZTROOTED_EXECUTOR": NOBODY} if executor != QUEUE else {}
        worker = await self._start(name, what, base, **more)
        told = self.held / f"{name}.told"
        while not told.exists():
            if worker.returncode is not None:
                said, _ = await worker.communicate()
                raise RefusedError(said.decode())
            await asyncio.sleep(0.02)
        return Message(what, base, name, json.loads(told.read_text())["ticket"])

    async def run(self, message: Message) -> Any:
        name = message.run
        if name not in self._workers or (self.held / f"{name}.go").exists():
            name = secrets.token_hex(16)  # by another runner, which asks nobody
            (self.held / f"{name}.held").write_text('{"around": true}')
            await self._start(name, message.what, message.base)
        (self.held / "new").write_text(json.dumps({"ticket": message.ticket}))
        (self.held / "new").rename(self.held / f"{name}.go")
        said, _ = await self._workers[name].communicate()
        if self._workers[name].returncode == 0:
            return message.base.read_text()
        if self._workers[name].returncode == -signal.SIGKILL:  # then GitHub says that it has lost the runner
            async with asyncio.timeout(20):
                while not self._runner(name).ended(name):  # noqa: ASYNC110
                    await asyncio.sleep(0.02)
        raise RefusedError(f"{said.decode()} {self._runner(name).ended(name)}")

    async def whole(self, what: str, base: Path) -> Any:
        status, said = await self._runner("whole").whole(*steps(what, base))
        if status:
            raise RefusedError(said)
        return await asyncio.to_thread(base.read_text)

    async def bare(self, base: Path) -> None:
        """The same with hooks that do nothing, to compare with."""
        hooks = self.folder / "none"
        hooks.mkdir(exist_ok=True)
        for name in ("started", "completed"):
            (hooks / f"{name}.sh").touch()
        status, said = await Runner(self.machine, self.folder / "bare", hooks).whole(*steps("write", base))
        assert status == 0, said

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        more = dict(wrong.variables)
        more |= {"ZTROOTED_EXECUTOR": NOBODY} if wrong.executor != QUEUE else {}
        if wrong.clock_s:
            python = self.folder / "off"
            python.write_text(clock.script(wrong.clock_s))
            python.chmod(0o755)
            more["ZTROOTED_PYTHON"] = str(python)
        status, said = await self._runner("wrong").whole(*steps("write", base), **more)
        assert status == 1, said
        return said
