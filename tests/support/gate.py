"""The real thing for end-to-end tests: software TPMs, a gateway, an executor agent and jobs, all real processes.

The slow part (TPMs, the gateway's keys, tokens, an enrollment, an approved baseline) is done once per test run, by the
demo's own ``Story``; each test gets a copy of what it left on disk, under the same keys, and starts its processes on it::

    def test_something(gates):
        gate = gates()                                  # a gateway and a trusted executor; gates(pace=...) for other times
        grant = gate.authorize(gate.job("a"))
        life = gate.run(gate.job("a"), grant)           # a real job whose three processes leave heartbeats

A copy is a clone: two of them have the same executor and the same lineage up to the copy.
"""

import asyncio
import fcntl
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.support.commands import run
from tests.support.fail_closed import LIVED
from tests.support.tpm import missing
from tpm.software import SoftwareTpm, provision
from ztrooted import canonical
from ztrooted.anchors import Anchors, parse_anchors
from ztrooted.client import GatewayClient
from ztrooted.demo.stage import Stage, wait_until
from ztrooted.demo.story import Story
from ztrooted.lifecycle import RECORD_EVENTS, State, advance
from ztrooted.models import AuthorizationView, DispatchRequest, ExecutorView, Grant, Job
from ztrooted.records import Record, parse_record
from ztrooted.verify import Report, verify_bundle

T = TypeVar("T")

_PREFIX = "ztg-"
# Memory where there is some: SQLite syncs at each commit, and socket paths must be short.
_BASE = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else Path(tempfile.gettempdir())
# Short leases, so that their end can be waited for: proofs each half second.
PACE: Mapping[str, float] = {"interval_s": 0.5, "idle_interval_s": 5.0, "response_deadline_s": 1.0, "lease_s": 3.5}
# For tests in which no scheduled round may interfere.
SLOW: Mapping[str, float] = {"interval_s": 20.0, "idle_interval_s": 60.0, "response_deadline_s": 5.0, "lease_s": 40.0}
# What scheduling on a loaded machine may add to a promise.
MARGIN_S = 0.75
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# The job: three processes that want to survive (one plain, one in its own session, one double-forked), each of which
# writes down when it was last alive, by the clock that all processes of the machine share.
LIVES = ("job", "setsid", "orphan")
_LIFE = """
import os, signal, sys, time
for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT): signal.signal(number, signal.SIG_IGN)
def live(name):
    beat = os.open(sys.argv[1] + "." + name, os.O_WRONLY | os.O_CREAT, 0o600)
    while True:
        os.pwrite(beat, b"%020d" % time.monotonic_ns(), 0)
        time.sleep(0.02)
if os.fork() == 0:
    os.setsid()
    live("setsid")
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0: live("orphan")
    os._exit(0)
live("job")
"""


@dataclass
class Life:
    """A job as it is seen from outside. ``process`` is the ``ztrooted exec`` that stands for it."""

    authorization: str
    base: Path
    process: "subprocess.Popen[bytes]"

    def last_ns(self) -> int:
        """When any process of the job was last alive (CLOCK_MONOTONIC)."""
        return max(int((self.base.parent / f"{self.base.name}.{name}").read_text()) for name in LIVES)

    def started(self) -> bool:
        """Whether all of its processes have shown up."""
        return all((self.base.parent / f"{self.base.name}.{name}").exists() for name in LIVES)

    def pids(self) -> list[int]:
        """Its processes that are alive."""
        return [pid for pid, line in command_lines() if line[1:4] == ["-I", "-S", "-c"] and line[-1] == str(self.base)]

    def _lives(self, pid: int) -> bool:
        try:
            return os.fsencode(self.base) in Path("/proc", str(pid), "cmdline").read_bytes()
        except OSError:
            return False

    def alive_at(self, moment_ns: int) -> bool:
        """Whether every process of it was alive after this moment."""
        files = [self.base.parent / f"{self.base.name}.{name}" for name in LIVES]
        return all(int(file.read_text()) > moment_ns for file in files)

    def outlived(self, event_ns: int, within_s: float) -> float:
        """Wait until it is dead; how many seconds after the event it was last alive. Fails where that is too long."""
        known = self.pids()  # looking through all processes all the time would cost more than the job
        wait_until("the death of the job", lambda: not any(self._lives(pid) for pid in known), within_s + 5)
        wait_until("the death of every process of the job", lambda: not self.pids(), 1)
        lived_s = (self.last_ns() - event_ns) / 1e9
        LIVED.append((lived_s, within_s))
        assert lived_s <= within_s, f"the job lived {lived_s:.2f} s beyond the event; {within_s:g} s were promised"
        return lived_s


@dataclass
class Executor:
    """One machine: its TPM, its logs, its agent."""

    name: str
    tpm: SoftwareTpm
    machine: Path
    socket: Path
    id: str = ""
    agent: "subprocess.Popen[bytes] | None" = None
    restarts: int = 0

    def boot(self, *, power_cycle: bool = False, command_line: str = "") -> None:
        """Measure a good boot and the programs that jobs use; or one with another kernel command line."""
        from tpm.boot_simulator import BootSimulator, Machine  # noqa: PLC0415 -- like the next, only where there are TPMs
        from tpm.device import Device  # noqa: PLC0415 -- loads the TSS

        if power_cycle:
            self.tpm.power_cycle()
        with Device.open(self.tpm.address) as device:
            simulator = BootSimulator(device.extend, device.banks(), self.machine)
            simulator.boot(Machine(command_line=command_line) if command_line else None)
            simulator.start_ima()
            for path in good_programs():
                simulator.measure(str(path), path.read_bytes())

    def measure(self, path: Path) -> None:
        """Measure one more file, as IMA does when it is run."""
        from tpm.boot_simulator import BootSimulator  # noqa: PLC0415
        from tpm.device import Device  # noqa: PLC0415

        with Device.open(self.tpm.address) as device:
            BootSimulator(device.extend, device.banks(), self.machine).measure(str(path), path.read_bytes())

    def options(self) -> list[str]:
        """For ``ztrooted executor``."""
        log, ima = self.machine / "binary_bios_measurements", self.machine / "ascii_runtime_measurements"
        return ["--tpm", self.tpm.address, "--event-log", str(log), "--ima", str(ima)]


@dataclass
class Gate:
    """One gateway with its executors, in a folder of its own. Everything it started ends with ``close``."""

    data: Path
    stage: Stage
    url: str = ""
    executors: dict[str, Executor] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    starts: int = 0

    # --- processes -----------------------------------------------------------------------------------------------
    @property
    def gateway(self) -> Path:
        """The gateway's data folder."""
        return self.data / "gateway"

    @property
    def executor(self) -> Executor:
        """The first executor."""
        return self.executors["executor"]

    def start_gateway(self, *, faulty: bool = False) -> None:
        """Serve; again on the same port, if it served before. ``faulty``: so that it can be told to fail."""
        address = self.gateway / "address"
        address.unlink(missing_ok=True)
        port = self.url.rpartition(":")[2] or "0"
        name = f"gateway{self.starts}"
        self.starts += 1
        if faulty:
            prefix = (sys.executable, "-m", "tests.support.faulty_gateway")
            self.process = self.stage.start(name, str(self.gateway), port, prefix=prefix)
        else:
            self.process = self.stage.start(name, "gateway", "serve", str(self.gateway), "--port", port)

        def ready() -> str:
            self.stage.alive(name)
            return address.read_text().strip() if address.exists() else ""

        self.url = str(wait_until("the gateway's start", ready, 20))

    def fail(self, fault: str) -> int:
        """Cause a fault in a gateway that was started ``faulty``; when, by the monotonic clock."""
        fresh = self.gateway / "fault.new"
        fresh.write_text(fault)
        fresh.replace(self.gateway / "fault")
        at = time.monotonic_ns()
        wait_until(f"the fault '{fault}'", lambda: not (self.gateway / "fault").exists(), 5)
        return at

    def signal_gateway(self, number: signal.Signals) -> int:
        """Send it a signal; when that was, by the monotonic clock."""
        assert self.process is not None
        self.process.send_signal(number)
        at = time.monotonic_ns()
        if number in {signal.SIGKILL, signal.SIGTERM}:
            self.process.wait(15)
        return at

    def add_executor(self, name: str = "executor", *, through: str = "") -> Executor:
        """Switch on one of the prepared machines and start its agent, which enrolls; ``through`` another address."""
        folder = self.data / name
        folder.mkdir()
        executor = Executor(name, SoftwareTpm(self.data / "tpm" / name), folder / "machine", folder / "agent.sock")
        self.executors[name] = executor
        executor.boot()
        self.start_agent(executor, through=through)
        return executor

    def start_agent(self, executor: Executor, *, through: str = "") -> None:
        """Start its agent and wait until it is connected and the gateway has made up its mind."""
        name = f"{executor.name}-agent{executor.restarts}"
        executor.restarts += 1
        before = {view.executor for view in self.views() if view.connected}
        options = ["--gateway", through or self.url, "--ca", str(self.ca), *executor.options()]
        executor.agent = self.stage.start(name, "executor", "run", *options, "--socket", str(executor.socket))

        log = self.data / f"{name}.log"

        def connected() -> str:
            self.stage.alive(name)
            if '"channel open"' not in log.read_text():
                return ""
            fresh = {view.executor for view in self.views() if view.connected} - (before - {executor.id})
            return next(iter(fresh), "")

        executor.id = str(wait_until("the executor's connection", connected, 20))

    def close(self) -> None:
        """End everything, frozen processes included."""
        with suppress(ProcessLookupError):
            if self.process is not None:
                self.process.send_signal(signal.SIGCONT)
        self.stage.close()
        for executor in self.executors.values():
            executor.tpm.close()

    # --- what people and orchestrators do ------------------------------------------------------------------------
    @property
    def ca(self) -> Path:
        """What clients trust."""
        return self.gateway / "tls" / "ca.pem"

    def ask(self, role: str, question: Callable[[GatewayClient], Any]) -> Any:
        """One call of the HTTP API, by the holder of a role's token."""
        token = (self.data / f"{role}.token").read_text().strip()

        async def call() -> Any:
            async with GatewayClient(self.url, ca=self.ca, token=token) as client:
                return await question(client)

        return asyncio.run(call())

    def views(self) -> list[ExecutorView]:
        """What the gateway knows of its executors."""
        found: list[ExecutorView] = self.ask("operator", lambda client: client.executors())
        return found

    def view(self, executor: Executor | None = None) -> ExecutorView:
        """What it knows of one."""
        wanted = (executor or self.executor).id
        return next(view for view in self.views() if view.executor == wanted)

    def connection(self, role: str) -> list[str]:
        """Options of the command line for the holder of a role's token."""
        return ["--gateway", self.url, "--ca", str(self.ca), "--token-file", str(self.data / f"{role}.token")]

    def job(self, step: str, *argv: str) -> Job:
        """A job; without a command line, the one that leaves heartbeats and never ends."""
        command = list(argv) or [sys.executable, "-I", "-S", "-c", _LIFE, str(self.data / step)]
        return Job(workflow="e2e", run="1", step=step, argv=command, env=canonical.digest({"PATH": PATH}))

    def authorize(self, job: Job, executor: Executor | None = None, *, max_runtime_s: int = 3600) -> Grant:
        """Ask for a dispatch as the orchestrator. ``ztrooted.client.Refused`` when the answer is no."""
        request = DispatchRequest(executor=(executor or self.executor).id, job=job, max_runtime_s=max_runtime_s)
        grant: Grant = self.ask("orchestrator", lambda client: client.authorize(request))
        return grant

    def approve_baseline(self) -> None:
        """Capture and approve, as the operator, what the first executor is now."""

        async def both(client: GatewayClient) -> None:
            captured = await client.capture_baseline(self.executor.id)
            await client.approve_baseline(captured.baseline)

        self.ask("operator", both)

    def exec_command(self, job: Job, artifact: str, executor: Executor | None = None) -> list[str]:
        """The command line that runs a job under an artifact."""
        path = self.data / f"{job.step}-{time.monotonic_ns()}.artifact"
        path.write_text(artifact + "\n")
        options = ["--artifact", str(path), "--socket", str((executor or self.executor).socket)]
        named = ["--workflow", job.workflow, "--run", job.run, "--step", job.step, "--attempt", str(job.attempt)]
        return ["exec", *options, *named, "--json", "--", *job.argv]

    def execute(self, job: Job, artifact: str, executor: Executor | None = None) -> "subprocess.CompletedProcess[str]":
        """Run a job to its end."""
        return run(*self.exec_command(job, artifact, executor))

    def start_job(self, job: Job, artifact: str, executor: Executor | None = None) -> "subprocess.Popen[bytes]":
        """Start a job beside the test; what it says goes to ``job-STEP.log``."""
        return self.stage.start(f"job-{job.step}", *self.exec_command(job, artifact, executor))

    def run(self, step: str = "", executor: Executor | None = None, *, grant: Grant | None = None) -> Life:
        """Authorize and start a job that never ends; returns once all of its processes are alive.

        With ``grant`` it is authorized already, as ``job(step)``.
        """
        step = step or f"life-{time.monotonic_ns()}"
        job = self.job(step)
        grant = grant or self.authorize(job, executor)
        life = Life(grant.authorization, self.data / step, self.start_job(job, grant.artifact, executor))

        def started() -> bool:
            self.stage.alive(f"job-{step}")
            return life.started()

        wait_until("the job's signs of life", started, 20)
        return life

    def revoked_at(self, authorization: str) -> int:
        """When the gateway revoked it, by the monotonic clock: what a command takes to get there is no promise of ours."""
        record = self.wait_for("authorization.revoked", authorization)
        return time.monotonic_ns() - (time.time_ns() - record.at * 1_000_000)

    def wait_for(self, kind: str, authorization: str, within_s: float = 10.0, *, count: int = 1) -> Record:
        """The latest record of this kind in the authorization's story, once there are ``count`` of them."""

        def found() -> Record | None:
            records = [record for record in self.story(authorization) if record.type == kind]
            return records[-1] if len(records) >= count else None

        record: Record = wait_until(f"{kind} of {authorization}", found, within_s)
        return record

    # --- what is on disk -----------------------------------------------------------------------------------------
    def rows(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        """Read the gateway's database, whether it runs or not."""
        with closing(sqlite3.connect(f"file:{self.gateway / 'gateway.db'}?mode=ro", uri=True)) as connection:
            connection.execute("PRAGMA busy_timeout = 2000")
            return connection.execute(query, parameters).fetchall()

    def story(self, authorization: str) -> list[Record]:
        """The records of one authorization, in order."""
        rows = self.rows("SELECT bytes FROM records WHERE authorization = ? ORDER BY seq", authorization)
        return [parse_record(bytes(row[0])) for row in rows]

    def kinds(self, authorization: str) -> list[str]:
        """The types of its records, in order."""
        return [record.type for record in self.story(authorization)]

    def state(self, authorization: str) -> State:
        """The state that is stored."""
        return State(self.rows("SELECT state FROM authorizations WHERE id = ?", authorization)[0][0])

    def api_view(self, authorization: str) -> AuthorizationView:
        """The authorization as the API shows it."""
        view: AuthorizationView = self.ask("auditor", lambda client: client.authorization(authorization))
        return view

    def check_states(self) -> None:
        """Every authorization's stored state follows from its records, and nothing is alive beyond its lease."""
        now_ms = time.time_ns() // 1_000_000
        for name, stored, lease_expires in self.rows("SELECT id, state, lease_expires FROM authorizations"):
            state = State.REQUESTED
            for record in self.story(name):
                event = RECORD_EVENTS.get(record.type)
                state = state if event is None else advance(state, event)
            assert state == stored, f"authorization {name} is {stored}, but its records lead to {state}"
            if state in {State.AUTHORIZED, State.ACTIVATED, State.RUNNING}:
                # The sweeper wakes up at least once a second.
                assert lease_expires > now_ms - 2000, f"authorization {name} is {stored} beyond its lease"

    def bundle(self, authorization: str) -> bytes:
        """Export what proves it."""
        data: bytes = self.ask("auditor", lambda client: client.bundle(authorization))
        return data

    def anchors(self) -> Anchors:
        """What its auditors trust."""
        path = self.data / "anchors.toml"
        return parse_anchors(path.read_bytes(), str(path))

    def verify(self, authorization: str) -> Report:
        """Export and verify."""
        return verify_bundle(self.bundle(authorization), self.anchors())


def command_lines() -> Iterator[tuple[int, list[str]]]:
    """Process id and arguments of each process that has some; zombies have none."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
                if len(arguments) > 1:
                    yield int(entry.name), arguments


def processes_naming(text: str) -> dict[int, str]:
    """Processes other than this one in whose command line a path occurs."""
    return {
        pid: " ".join(line)
        for pid, line in command_lines()
        if pid != os.getpid() and any(text in part for part in line)
    }


def good_programs() -> list[Path]:
    """Files of this machine that the approved baseline lists."""
    found = [shutil.which(name) for name in ("sh", "sleep", "true")]
    return sorted({Path(path).resolve() for path in found if path})


def set_pace(policy: Path, pace: Mapping[str, float]) -> None:
    """Put other times into an appraisal policy."""
    text = policy.read_text()
    for name, seconds in pace.items():
        text, replaced = re.subn(rf"(?m)^{name} = .*$", f"{name} = {seconds}", text)
        assert replaced == 1, f"the policy has no {name}"
    policy.write_text(text)


def _prepare(folder: Path) -> None:
    """Make what every environment is a copy of: the demo's story up to the approved baseline, and a second machine."""
    stage = Stage(folder)
    story = Story(stage)
    try:
        story.provision()
        story.close()  # it runs the executor's TPM, which is to be ours
        with ThreadPoolExecutor() as beside:
            other = beside.submit(provision, folder / "tpm" / "other", ca=folder / "tpm" / "ca")
            story.start_gateway()
            other.result()
        gate = Gate(folder, stage, story.connection[1])
        executor = gate.add_executor()
        gate.approve_baseline()
        wait_until("the executor's trust", lambda: gate.view().trusted, 10)
        executor.tpm.close()
    finally:
        stage.close()
        story.close()
    for name in ("gateway", "executor", "other"):
        shutil.rmtree(folder / "tpm" / name / "run", ignore_errors=True)
    shutil.rmtree(folder / "executor")
    (folder / "ready").touch()


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A prepared environment, never run itself."""

    folder: Path

    def copy(self, target: Path, pace: Mapping[str, float]) -> None:
        """Copy it to ``target``, with other times."""
        shutil.copytree(self.folder, target)
        settings = target / "gateway" / "gateway.toml"
        settings.write_text(settings.read_text().replace(str(self.folder), str(target)))
        set_pace(target / "gateway" / "policy" / "appraisal.toml", pace)


def _remove_leftovers() -> None:
    for left in _BASE.glob(f"{_PREFIX}*"):
        pid = left.name.removeprefix(_PREFIX).partition("-")[0]
        if pid.isdigit() and not Path("/proc", pid).exists():
            shutil.rmtree(left, ignore_errors=True)


@pytest.fixture(scope="session")
def blueprint(tmp_path_factory: pytest.TempPathFactory) -> Blueprint:
    """The prepared environment; made by whichever test process comes first, used by all."""
    if reason := missing():
        pytest.skip(reason)
    shared = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        shared = shared.parent
    folder = shared / "gate"
    with (shared / "gate.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "ready").exists():
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            _prepare(folder)
    return Blueprint(folder)


Gates = Callable[..., Gate]


def _environments(blueprint: Blueprint) -> Iterator[Gates]:
    with ExitStack() as running:

        def make(*, pace: Mapping[str, float] = PACE, serve: bool = True, agent: bool = True) -> Gate:
            _remove_leftovers()
            data = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=_BASE))
            running.callback(shutil.rmtree, data, ignore_errors=True)
            blueprint.copy(data / "e", pace)
            gate = Gate(data / "e", Stage(data / "e"))
            running.callback(gate.close)
            if serve:
                gate.start_gateway()
            if agent:
                gate.add_executor()
                wait_until("the executor's trust", lambda: gate.view().trusted, 10)
            return gate

        yield make


@pytest.fixture
def gates(blueprint: Blueprint) -> Iterator[Gates]:
    """Make environments: ``gates()`` has a gateway and one trusted executor with its agent."""
    yield from _environments(blueprint)


@pytest.fixture(scope="module")
def shared_gates(blueprint: Blueprint) -> Iterator[Gates]:
    """The same for a module whose tests leave the environment as they found it."""
    yield from _environments(blueprint)


def processes_named(name: str, *, above: list[int]) -> list[int]:
    """Ancestors of the processes ``above`` that have this name (as in /proc/PID/comm), each once."""
    found: list[int] = []
    for start in above:
        pid = start
        while pid > 1:
            with suppress(OSError):
                if (Path("/proc", str(pid), "comm").read_text().strip() == name) and pid not in found:
                    found.append(pid)
            pid = _parent(pid)
    return found


def _parent(pid: int) -> int:
    try:
        return int(Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
