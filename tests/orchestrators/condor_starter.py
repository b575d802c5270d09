"""Starts the wrapper as condor_starter does (os_proc.cpp of HTCondor's source, and the manual's "Environment Variables").

Debian 12 has none of HTCondor's daemons, so this process stands for the starter: it makes a job's scratch folder with both
ads, executes USER_JOB_WRAPPER with the job's path as its first argument, in the environment that a submit file asked for
with the starter's own variables over it, and looks for the wrapper's error file before it believes an exit status.
"""

import asyncio
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import NOT_ASKED, asked
from tests.support.agent_in_process import ROOT, MachineInProcess
from ztrooted.work import PATH

DEPLOYED = ROOT / "deploy" / "htcondor"
STARTER = Path("/proc/self/exe").resolve()


@dataclass
class Started:
    """One attempt."""

    process: Any
    scratch: Path

    def read(self, name: str) -> str:
        path = self.scratch / name
        return path.read_text() if path.exists() else ""

    @property
    def failure(self) -> str:
        """What HTCondor writes to the job's event log, instead of believing the exit status."""
        return self.read(".job_wrapper_failure")

    async def over(self) -> tuple[int, str]:
        """Exit status, and what was said to the job's standard error or by the wrapper."""
        await self.process.wait()
        return self.process.returncode, self.failure + self.read("_condor_stderr")


class ExecutionPoint:
    """deploy/htcondor as it is installed, with ``folder`` instead of /etc/ztrooted/htcondor, and jobs that start there."""

    def __init__(self, folder: Path, variables: Mapping[str, str]) -> None:
        self.folder = folder
        self.wrapper, self.deputy = folder / "htcondor-job", folder / "deputy.sock"
        self._told = {name: value for name, value in variables.items() if name.startswith("ZTROOTED_")}

    def install(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        for name in ("trust", "deputy", "task"):
            (self.folder / name).write_text(
                (DEPLOYED / name).read_text().replace("/etc/ztrooted/htcondor", str(self.folder))
            )
            (self.folder / name).chmod(0o755)
        flags = ["-static", "-O2", "-Wall", "-Wextra", "-Werror", f'-DTASK="{self.folder / "task"}"']
        subprocess.run(["gcc", *flags, "-o", self.wrapper, DEPLOYED / "ztrooted.c"], check=True)
        shutil.copy(self._told["ZTROOTED_ANCHORS"], self.folder / "anchors.toml")
        self.configure()

    def configure(self, **changed: str) -> None:
        """Write both files of settings; one that is changed to nothing is left out."""
        ours = {
            "ZTROOTED_ANCHORS": str(self.folder / "anchors.toml"),
            "ZTROOTED_DEPUTY": str(self.deputy),
            "ZTROOTED_PYTHON": sys.executable,
            "ZTROOTED_STARTER": str(STARTER),
        }
        told = {name: value for name, value in {**self._told, **ours, **changed}.items() if value}
        node = {"EXECUTOR", "ANCHORS", "SOCKET", "DEPUTY", "PYTHON"}
        for name, chosen in (("node.env", True), ("gateway.env", False)):
            lines = [
                f"export {key}='{value}'\n"
                for key, value in told.items()
                if (key.removeprefix("ZTROOTED_") in node) is chosen
            ]
            (self.folder / name).write_text("".join(lines))

    async def start(
        self,
        program: Path | str,
        *arguments: str,
        job: str = "ap.example#12.0#1764000000",
        attempt: str = "1",
        ad: str | None = None,
        env: Mapping[str, str] | None = None,
        scratch: Path | None = None,
        around: tuple[str, ...] = (),
    ) -> Started:
        """Execute the wrapper for a job. ``around`` is executed in its place, and executes it."""
        scratch = scratch or self.folder / f"dir_{secrets.token_hex(4)}"
        scratch.mkdir(exist_ok=True)
        scratch.chmod(0o777)
        lines = [
            f'GlobalJobId = "{job}"',
            f"NumShadowStarts = {attempt}",
            'Owner = "alice"',
            "JobUniverse = 5",
            "ClusterId = 12",
        ]
        (scratch / ".job.ad").write_text("\n".join(lines) + "\n" if ad is None else ad)
        (scratch / ".machine.ad").write_text('Name = "slot1@node"\n')
        (scratch / ".job_wrapper_failure").unlink(missing_ok=True)
        starters = {
            "_CONDOR_SCRATCH_DIR": str(scratch),
            "_CONDOR_SLOT": "slot1",
            "_CONDOR_JOB_IWD": str(scratch),
            "_CONDOR_JOB_AD": str(scratch / ".job.ad"),
            "_CONDOR_MACHINE_AD": str(scratch / ".machine.ad"),
            "_CONDOR_WRAPPER_ERROR_FILE": str(scratch / ".job_wrapper_failure"),
            "OMP_NUM_THREADS": "1",
        }
        with (scratch / "_condor_stdout").open("wb") as said, (scratch / "_condor_stderr").open("wb") as complained:
            process = await asyncio.create_subprocess_exec(
                *(around or ("condor_exec.exe",)),
                *((str(self.wrapper),) if around else ()),
                str(program),
                *arguments,
                executable=None if around else str(self.wrapper),
                env={**(env or {}), **starters},
                cwd=scratch,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=said,
                stderr=complained,
            )
        return Started(process, scratch)


def script(folder: Path, text: str) -> Path:
    """A job's program, as the starter transfers it."""
    folder.mkdir(exist_ok=True)
    path = folder / "condor_exec.exe"
    path.write_text(text)
    path.chmod(0o755)
    return path


def absent() -> str | None:
    """Why the wrapper can't be tried here, or None."""
    if shutil.which("gcc") is None or not any(Path("/usr/lib").rglob("libc.a")):
        return "'scripts/orchestrators htcondor' has not installed a C compiler and libc.a"
    return None if os.access("/proc/self/exe", os.R_OK) else "there is no /proc"


async def start_deputy(point: ExecutionPoint, path: Path) -> Any:
    """The deputy, as a process, once it listens at ``path``."""
    process = await asyncio.create_subprocess_exec(str(point.folder / "deputy"), env={"PATH": PATH})
    async with asyncio.timeout(30):
        while not path.exists():  # noqa: ASYNC240 -- one look
            assert process.returncode is None
            await asyncio.sleep(0.02)
    return process


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def point(shared_machine: MachineInProcess) -> AsyncIterator[ExecutionPoint]:
    """deploy/htcondor, installed, with its deputy as a process of its own."""
    if reason := absent() if asked("htcondor") else NOT_ASKED:
        pytest.skip(reason)
    made = ExecutionPoint(shared_machine.folder / "condor", await shared_machine.environment())
    made.install()
    deputy = await start_deputy(made, made.deputy)
    yield made
    deputy.kill()
    await deputy.wait()
