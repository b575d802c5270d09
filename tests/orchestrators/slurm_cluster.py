"""A cluster of one node on this machine: munged, slurmctld and slurmd as root, in a folder of their own, as in deploy/slurm.

What a job's ticket is and when its node begins is in the hands of the test, by files in ``control``: ``NAME.env`` is read
by the controller's gate for the job of that name; the node's Prolog leaves ``ID.waiting`` and waits for ``ID.go``, unless
there is ``free``.
"""

import asyncio
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.agent_in_process import ROOT

DEPLOYED = ROOT / "deploy" / "slurm"
PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "gcc", "unshare")
OVER = frozenset({"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY"})
# slurmd must not be able to start login shells: see deploy/slurm/slurmd.service.d.
NO_LOGINS = ["unshare", "--mount", "sh", "-c", 'mount --bind /bin/false /bin/su && exec "$0" "$@"']


@dataclass(frozen=True)
class Shown:
    """What Slurm shows of a job."""

    job: str
    state: str
    comment: str
    fields: Mapping[str, str]

    @property
    def authorized(self) -> bool:
        return self.comment.startswith("ztrooted: authorized ")

    @property
    def over(self) -> bool:
        return self.state in OVER


class Cluster:
    """``spawn(name, *command, **variables)`` starts what ends with the test, and has a log."""

    def __init__(self, spawn: Callable[..., Any], node: str, variables: Mapping[str, str], port: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="slurm-", dir="/tmp"))
        self.folder.chmod(0o755)
        for name in ("state", "spool", "tickets", "control", "gate"):
            (self.folder / name).mkdir(mode=0o755)
        self.node = node
        self._spawn = spawn
        self._variables = variables
        self._port = port

    @property
    def control(self) -> Path:
        return self.folder / "control"

    def ticket(self, job: str) -> Path:
        return self.folder / "tickets" / f"{job}.ticket"

    async def open(self, *, gated: bool = True) -> None:
        self.install()
        self.configure(gated=gated)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        named = [f"--{name}-file={self.folder / 'munge'}.{name}" for name in ("key", "pid", "log", "seed")]
        await self._spawn("munged", "munged", "--force", "--foreground", f"--socket={self.folder}/munge.socket", *named)
        await self._until("munge", (self.folder / "munge.socket").exists)
        await self._spawn("slurmctld", "slurmctld", "-D", SLURM_CONF=self.conf)
        await self.start_node()

    async def start_node(self, *around: str) -> Any:
        process = await self._spawn(
            "slurmd", *(around or NO_LOGINS), "slurmd", "-D", "-N", self.node, SLURM_CONF=self.conf
        )
        await self._until(
            "the node", lambda: self.run("sinfo", "-h", "-o", "%T").startswith(("idle", "mixed", "drain"))
        )
        return process

    async def _until(self, what: str, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(done):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        assert done(), what

    @property
    def conf(self) -> str:
        return str(self.folder / "slurm.conf")

    def install(self) -> None:
        """As deploy/slurm is installed, with this folder instead of /etc/ztrooted/slurm."""
        gate = self.folder / "gate"
        for name in ("authorize", "check", "task"):
            (gate / name).write_text((DEPLOYED / name).read_text().replace("/etc/ztrooted/slurm", str(gate)))
            (gate / name).chmod(0o755)
        subprocess.run(
            [
                "gcc",
                "-shared",
                "-fPIC",
                "-O2",
                "-Wall",
                "-Wextra",
                "-Werror",
                "-o",
                gate / "ztrooted.so",
                DEPLOYED / "ztrooted.c",
            ],
            check=True,
        )
        told = {name: value for name, value in self._variables.items() if name.startswith("ZTROOTED_")}
        paths = {
            "SLURM_CONF": self.conf,
            "ZTROOTED_NODES": str(gate / "nodes.json"),
            "ZTROOTED_TICKETS": str(self.folder / "tickets"),
            "ZTROOTED_PLUGSTACK": str(gate / "plugstack.conf"),
            "ZTROOTED_PYTHON": sys.executable,
        }
        shutil.copy(told["ZTROOTED_ANCHORS"], gate / "anchors.toml")
        exports = {**told, **paths, "ZTROOTED_ANCHORS": str(gate / "anchors.toml")}
        public = {name: value for name, value in exports.items() if "TOKEN" not in name}
        asked = f'f={self.control}/${{SLURM_JOB_NAME:-}}.env; [ ! -e "$f" ] || . "$f"\n'
        waits = (
            f'if [ "${{SLURM_SCRIPT_CONTEXT:-}}" = prolog_slurmd ]; then w={self.control}/$SLURM_JOB_ID; : >"$w.waiting"; '
            f'while [ -e "$w.waiting" ] && [ ! -e "$w.go" ] && [ ! -e {self.control}/free ]; do sleep 0.02; done; fi\n'
        )
        (gate / "controller.env").write_text(_exported(exports) + asked)
        (gate / "node.env").write_text(_exported(public) + waits)
        (gate / "nodes.json").write_text(json.dumps({self.node: self._variables["ZTROOTED_EXECUTOR"]}))
        (gate / "plugstack.conf").write_text(self.plugin())

    def plugin(self) -> str:
        """The line of deploy/slurm/plugstack.conf for here."""
        line = (DEPLOYED / "plugstack.conf").read_text()
        for there, here in (
            ("/usr/lib/ztrooted", self.folder / "gate"),
            ("/etc/ztrooted/slurm", self.folder / "gate"),
            ("/srv/slurm/tickets", self.folder / "tickets"),
            ("/run/ztrooted/executor.sock", self._variables["ZTROOTED_SOCKET"]),
        ):
            line = line.replace(there, str(here))
        return line

    def configure(self, *, gated: bool = True, without: str = "") -> None:
        """slurm.conf with the lines of deploy/slurm, ``without`` those that begin so."""
        gate = self.folder / "gate"
        lines = (DEPLOYED / "slurm.conf.part").read_text().replace("/etc/ztrooted/slurm", str(gate)).splitlines()
        lines = [line for line in lines if gated and not (without and line.startswith(without))]
        host = platform.node().partition(".")[0]
        Path(self.conf).write_text(
            "\n".join(
                [
                    "ClusterName=contract",
                    f"SlurmctldHost={host}(127.0.0.1)",
                    f"SlurmctldPort={self._port}",
                    f"SlurmdPort={self._port + 1}",
                    "SlurmUser=root",
                    "SlurmdUser=root",
                    "AuthType=auth/munge",
                    f"AuthInfo=socket={self.folder}/munge.socket",
                    f"StateSaveLocation={self.folder}/state",
                    f"SlurmdSpoolDir={self.folder}/spool",
                    f"SlurmctldPidFile={self.folder}/slurmctld.pid",
                    f"SlurmdPidFile={self.folder}/slurmd.pid",
                    "ProctrackType=proctrack/linuxproc",
                    "TaskPlugin=task/none",
                    "MpiDefault=none",
                    "SelectType=select/cons_tres",
                    "SelectTypeParameters=CR_Core",
                    "SchedulerParameters=batch_sched_delay=0,sched_interval=1",
                    "SlurmdParameters=config_overrides",
                    "ReturnToService=2",
                    f"PlugStackConfig={gate}/plugstack.conf" if gated else f"PlugStackConfig={gate}/none.conf",
                    f"NodeName={self.node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=16 RealMemory=1000 State=UNKNOWN",
                    "PartitionName=main Nodes=ALL Default=YES State=UP",
                    *lines,
                    "",
                ]
            )
        )
        (gate / "none.conf").touch()

    def run(self, *command: str, check: bool = True, user: int | None = None, **variables: str) -> str:
        """One of Slurm's commands, as root or another."""
        whole = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", *command] if user else [*command]
        known = {"PATH": os.environ["PATH"], "SLURM_CONF": self.conf, "HOME": "/", **variables}
        done = subprocess.run(whole, capture_output=True, text=True, env=known, cwd="/", check=False)
        assert done.returncode == 0 or not check, (command, done.stderr)
        return done.stdout.strip() or done.stderr.strip()

    def submit(self, script: str, name: str, *more: str, user: int | None = None, **variables: str) -> str:
        """Queue a script, ``more`` are its arguments; its number."""
        path = self.control / f"{name}.sh"
        path.write_text(script)
        path.chmod(0o755)
        output = f"--output={self.folder}/control/%j.out"
        (self.control).chmod(0o1777)
        return self.run("sbatch", "--parsable", f"--job-name={name}", output, str(path), *more, user=user, **variables)

    def show(self, job: str) -> Shown:
        line = self.run("scontrol", "--oneliner", "show", "job", job)
        comment = line.partition(" AdminComment=")[2].partition("StdErr=")[0].strip()
        fields = dict(part.partition("=")[::2] for part in line.split() if "=" in part)
        return Shown(job, fields.get("JobState", ""), comment, fields)

    def output(self, job: str) -> str:
        path = self.control / f"{job}.out"
        return path.read_text() if path.exists() else ""

    def node_state(self) -> tuple[str, str]:
        """``State`` and ``Reason``."""
        shown = self.run("scontrol", "--oneliner", "show", "node", self.node)
        return shown.partition(" State=")[2].split()[0], shown.partition(" Reason=")[2].partition(" [")[0]

    def resume(self) -> None:
        """As an operator does who has seen to a node."""
        if "DRAIN" in self.node_state()[0]:
            self.run("scontrol", "update", f"NodeName={self.node}", "State=RESUME", check=False)

    async def until(self, job: str, done: Callable[[Shown], bool], *, within_s: float = 60) -> Shown:
        """Wait for something that Slurm shows of a job."""
        until = asyncio.get_running_loop().time() + within_s
        while not done(shown := await asyncio.to_thread(self.show, job)):
            assert asyncio.get_running_loop().time() < until, (shown, self.node_state(), self.run("squeue"))
            await asyncio.to_thread(self.resume)
            await asyncio.sleep(0.05)
        return shown

    async def requeue(self, job: str) -> None:
        """Have a job run again, at once; Slurm by itself waits for two minutes."""
        await asyncio.to_thread(self.run, "scontrol", "requeue", job)
        await self.until(job, lambda shown: shown.state == "PENDING")
        await asyncio.to_thread(self.run, "scontrol", "update", f"JobId={job}", "StartTime=now")

    async def end_jobs(self) -> None:
        """So that no process of Slurm's is left; while its daemons are there."""
        (self.control / "free").touch()
        for options in (("--state=PENDING",), ("--signal=KILL", "--full")):
            await asyncio.to_thread(self.run, "scancel", "--user=root", *options, check=False)

    async def remove(self) -> None:
        """The folder; Prologs that wait see it go."""
        await asyncio.to_thread(shutil.rmtree, self.folder, ignore_errors=True)


def _exported(variables: Mapping[str, str]) -> str:
    return "".join(f"export {name}='{value}'\n" for name, value in variables.items())


def absent() -> str | None:
    """Why no cluster can be started here, or None."""
    if os.geteuid() != 0:
        return "slurmd needs root, to run jobs as their users"
    lacking = [name for name in PROGRAMS if shutil.which(name) is None]
    if lacking or not Path("/usr/include/slurm/spank.h").exists():
        return f"'scripts/orchestrators slurm' has not installed it ({', '.join(lacking) or 'libslurm-dev'})"
    return None
