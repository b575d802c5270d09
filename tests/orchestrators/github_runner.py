"""What stands for GitHub's runner: a process of its worker's name, which executes the hooks as that does.

With bash, in the environment of a job; it runs a step where the first hook succeeds, and fails where one fails.
"""

import asyncio
import hashlib
import json
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.agent_in_process import BEATS, ROOT, Beats

PYTHON = Path(sys.executable).resolve()
WORKER = """
import os, subprocess, sys
hooks, *step = sys.argv[1:]
def hook(name):
    bash = ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail"]
    return subprocess.run([*bash, f"{hooks}/{name}.sh"]).returncode
if hook("started"): sys.exit(1)
status = subprocess.run(step).returncode
sys.exit(hook("completed") or status)
"""
RUNNER = {
    "GITHUB_WORKFLOW_REF": "octo/site/.github/workflows/ci.yml@refs/heads/main",
    "GITHUB_RUN_ID": "1658821493",
    "GITHUB_RUN_ATTEMPT": "3",
    "GITHUB_JOB": "build",
    "GITHUB_SHA": "ffac537e6cbbf934b08745a378932722df287a53",
    "GITHUB_ACTOR": "octocat",
    "GITHUB_EVENT_NAME": "push",
    "RUNNER_NAME": "here",
    "RUNNER_TRACKING_ID": "github_0e2f8d1c",
}


@dataclass
class Runner:
    """A folder of hooks, and what runs them."""

    machine: Any
    folder: Path
    hooks: Path = ROOT / "deploy" / "github"

    async def start(self, *step: str, name: str = "Runner.Worker", **changed: str) -> Any:
        """Begin a job. ``changed`` are settings where they are ours, else the job's environment."""
        settings = {key: value for key, value in (await self.machine.environment()).items() if key[:4] == "ZTRO"}
        settings |= {"ZTROOTED_PYTHON": sys.executable, "ZTROOTED_WITHIN_S": "10"}
        settings |= {key: value for key, value in changed.items() if key.startswith("ZTROOTED_")}
        shutil.copytree(self.hooks, self.folder, dirs_exist_ok=True)
        (self.folder / "runner.env").write_text("".join(f"{key}={value!r}\n" for key, value in settings.items()))
        worker = self.folder / name
        worker.unlink(missing_ok=True)
        worker.symlink_to(PYTHON)
        told = {**RUNNER, **{key: value for key, value in changed.items() if not key.startswith("ZTROOTED_")}}
        return await asyncio.create_subprocess_exec(
            str(worker),
            *("-I", "-S", "-c", WORKER, str(self.folder), *step),
            env={"PATH": os.environ["PATH"], "ZTROOTED_GATEWAY": "https://127.0.0.1:1", "PYTHONPATH": "/tmp", **told},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            cwd=self.folder,
            start_new_session=True,
        )

    async def whole(self, *step: str, **changed: str) -> tuple[int, str]:
        """Its exit status, and its log."""
        worker = await self.start(*step, **changed)
        said, _ = await worker.communicate()
        return worker.returncode, said.decode()

    async def beating(self, name: str, **changed: str) -> tuple[Any, Beats]:
        beats = Beats(self.folder / name)
        worker = await self.start(*steps("beats", beats.base), **changed)
        await beats.beating()
        return worker, beats

    def ended(self, name: str) -> str:
        """How the last job of the runner of that name ended, as its follower wrote it down; nothing while it goes on."""
        record = hashlib.sha256(name.encode()).hexdigest()[:32]
        try:
            told = json.loads((self.machine.folder / "state" / "github" / f"{record}.json").read_bytes())
        except FileNotFoundError:
            return ""
        return str(told.get("ended", ""))


def steps(what: str, base: Path) -> tuple[str, ...]:
    """The one step of a job."""
    if what == "write":
        return "/bin/sh", "-c", 'printf done > "$0"', str(base)
    return sys.executable, "-I", "-S", "-c", BEATS, str(base)
