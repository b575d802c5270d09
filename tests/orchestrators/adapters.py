"""The adapters that the contract suite drives."""

import asyncio
import contextlib
import json
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.orchestrators import airflow_home, clock, tools
from tests.orchestrators.adapter import (
    NOBODY,
    NOT_ASKED,
    QUEUE,
    WITHIN_S,
    Adapter,
    Apart,
    Message,
    RefusedError,
    Wrong,
    answers,
    asked,
    free_port,
    listens,
)
from tests.orchestrators.github_adapter import GitHubAdapter
from tests.orchestrators.htcondor_adapter import HTCondorAdapter
from tests.orchestrators.slurm_cluster import Cluster, Shown
from tests.orchestrators.slurm_cluster import absent as absent_slurm
from tests.support.agent_in_process import BEATS, ROOT
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.guard.function import describe_call, perform, require_call
from ztrooted.guard.governed import Gate
from ztrooted.ticket import parse_ticket
from ztrooted.work import Work, describe

PRELOAD = ["--preload", "ztrooted.integrations.dask"]


class InProcess(Adapter):
    """Adapters that need no orchestrator: a ticket is authorized and run here."""

    compared = ""

    def work(self, what: str, base: Path, run: str) -> Work:
        raise NotImplementedError

    async def hand_out(self, what: str, base: Path, *, url: str | None = None, executor: str = QUEUE) -> Message:
        run = secrets.token_hex(4)
        named = ExecutorSet({QUEUE: self.machine.id})[executor]
        async with await self.machine.orchestrator(url) as orchestrator:
            within_s = WITHIN_S if url else 30.0
            dispatch = await orchestrator.authorize(self.work(what, base, run), named, within_s=within_s)
        return Message(what, base, run, dispatch.ticket.encode())

    async def shown_by(self, wrong: Wrong, *program: str) -> str:
        """What a program of its users says, in which something is wrong."""
        nobody = {"ZTROOTED_EXECUTOR": NOBODY} if wrong.executor != QUEUE else {}
        process = await asyncio.create_subprocess_exec(
            *clock.python(wrong.clock_s),
            *program,
            env={**await self.machine.environment(), **wrong.variables, **nobody},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        said, _ = await process.communicate()
        assert process.returncode != 0, said
        return said.decode()


class Subprocess(InProcess):
    """A command line, on this machine's agent."""

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        program = str(ROOT / "docs" / "examples" / "governed_subprocess.py")
        return await self.shown_by(wrong, program, "/bin/sh", "-c", 'printf done > "$0"', str(base))

    def work(self, what: str, base: Path, run: str) -> Work:
        writes = ["/bin/sh", "-c", 'printf done > "$0"', str(base)]
        argv = writes if what == "write" else [sys.executable, "-I", "-S", "-c", BEATS, str(base)]
        return describe(argv, workflow="contract", run=run, step=what)

    async def run(self, message: Message) -> Any:
        process = await self.machine.agent.start(parse_ticket(message.ticket))
        (await process.wait()).demand()
        return message.base.read_text()


class Governed(InProcess):
    """A function behind ``@governed``."""

    _gate: Gate | None = None

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        return await self.shown_by(wrong, "-m", "tests.orchestrators.governed_program", str(base))

    def work(self, what: str, base: Path, run: str) -> Work:
        return self._call(what, base, run).work

    def _call(self, what: str, base: Path, run: str) -> Any:
        return describe_call(getattr(tools, what), [str(base)], workflow="contract", run=run)

    async def run(self, message: Message) -> Any:
        ticket = parse_ticket(message.ticket)
        call = require_call(ticket, self._call(message.what, message.base, message.run).payload)
        _, result = await perform(self.machine.agent, ticket, call)
        return await result

    async def whole(self, what: str, base: Path) -> Any:
        if self._gate is None:
            self._gate = Gate(await self.machine.settings(), self.machine.agent)
            self.stack.push_async_callback(asyncio.to_thread, self._gate.close)
        return await asyncio.to_thread(self._gate.governed(workflow="contract")(getattr(tools, what)), str(base))


class CeleryAdapter(Apart):
    """Celery with Redis."""

    driver = "tests.orchestrators.celery_driver"
    environment = "celery"

    async def start(self) -> None:
        port = free_port()
        self.variables["REDIS"] = f"redis://127.0.0.1:{port}/0"
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
        await self.spawn("redis", "redis-server", *options)
        await self._start_worker("worker", self.worker)

    async def _start_worker(self, name: str, command: list[str]) -> None:
        await self.spawn(name, *command)
        log = self.machine.folder / f"{name}.log"
        async with asyncio.timeout(90):
            while " ready." not in log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def start_bare(self) -> None:
        """A second worker, of an app that is not governed, to compare with."""
        command = [part.replace("celery_app", "celery_bare") for part in self.worker]
        await self._start_worker("bare", [*command, "--queues", "bare"])

    @property
    def worker(self) -> list[str]:
        options = ["--concurrency", "4", "--without-gossip", "--without-mingle", "--without-heartbeat"]
        return [
            self.command("celery"),
            "-A",
            "tests.orchestrators.celery_app",
            "worker",
            "--loglevel",
            "INFO",
            *options,
        ]


class DaskAdapter(Apart):
    """Dask distributed: a scheduler, a worker with its nanny."""

    driver = "tests.orchestrators.dask_driver"
    compared = "call"
    environment = "dask"

    async def start(self) -> None:
        port = free_port()
        self.variables["DASK"] = f"tcp://127.0.0.1:{port}"
        options = ["--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
        once = {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}  # a task that a worker died of is given up
        await self.spawn("dask-scheduler", self.command("dask"), "scheduler", *options, **once)
        await self._join("dask-worker", self.worker(QUEUE))

    async def start_bare(self) -> None:
        """A second worker, without the guard, to compare with."""
        await self._join("dask-bare", [part for part in self.worker("bare") if part not in PRELOAD])

    def worker(self, name: str) -> list[str]:
        options = [
            "--name",
            name,
            "--nthreads",
            "4",
            "--no-dashboard",
            "--local-directory",
            str(self.machine.folder / name),
        ]
        return [self.command("dask"), "worker", self.variables["DASK"], *options, *PRELOAD]

    async def _join(self, name: str, command: list[str]) -> None:
        await self.spawn(name, *command)
        log = self.machine.folder / f"{name}.log"
        async with asyncio.timeout(90):
            while "Registered to" not in log.read_text():  # noqa: ASYNC110
                await asyncio.sleep(0.1)


class RayAdapter(Apart):
    """Ray: a head that is a governed node, too."""

    driver = "tests.orchestrators.ray_driver"
    compared = "call"
    environment = "ray"

    async def start(self) -> None:
        sessions = tempfile.mkdtemp(prefix="ray-", dir="/tmp")  # sockets are in it, so its name is short
        self.stack.callback(shutil.rmtree, sessions, ignore_errors=True)
        self.sessions = Path(sessions)
        port = free_port()
        self.variables |= {"RAY_AT": f"127.0.0.1:{port}", "RAY_USAGE_STATS_ENABLED": "0"}
        place = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={sessions}"]
        await self._join("ray-node", self.node(QUEUE, "4", *place))

    async def start_bare(self) -> None:
        """A second node, without the guard, to compare with."""
        *_, start, name, cpus, block = self.node("bare", "1")
        join = f"--address={self.variables['RAY_AT']}"
        await self._join("ray-bare", [self.command("ray"), start, join, name, cpus, block])

    def logs(self) -> str:
        """What its workers have said."""
        return "".join(file.read_text() for file in self.sessions.glob("session_latest/logs/worker-*.err"))

    def node(self, name: str, cpus: str, *options: str) -> list[str]:
        program = [self.command(), "-m", "ztrooted.integrations.ray_node"]
        return [*program, "start", *options, f"--node-name={name}", f"--num-cpus={cpus}", "--block"]

    async def _join(self, name: str, command: list[str]) -> None:
        node = await self.spawn(name, *command)
        log = self.machine.folder / f"{name}.log"
        async with asyncio.timeout(90):
            while "Ray runtime started" not in log.read_text():
                assert node.returncode is None, log.read_text()
                await asyncio.sleep(0.1)


class TemporalAdapter(Apart):
    """Temporal: its test server, by real time, a worker of activities, and one of workflows beside the sender."""

    driver = "tests.orchestrators.temporal_driver"
    environment = "temporal"

    @property
    def worker(self) -> list[str]:
        return [self.command(), "-m", "tests.orchestrators.temporal_worker"]

    async def start(self) -> None:
        port = free_port()
        self.variables["TEMPORAL"] = f"127.0.0.1:{port}"
        await self.spawn("temporal", self.command("temporal-test-server"), str(port))
        async with asyncio.timeout(60):
            while not await asyncio.to_thread(listens, port):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        await self._join("temporal-worker", self.worker)

    async def start_bare(self) -> None:
        """A second worker, without the guard, to compare with."""
        await self._join("temporal-bare", [*self.worker, "bare"])

    async def _join(self, name: str, command: list[str]) -> None:
        worker = await self.spawn(name, *command, ZTROOTED_TOKEN_FILE="")
        log = self.machine.folder / f"{name}.log"
        async with asyncio.timeout(90):
            while "ready." not in log.read_text():
                assert worker.returncode is None, log.read_text()
                await asyncio.sleep(0.1)


class SlurmAdapter(Apart):
    """Slurm: a controller and a node, each with its gate. A ticket is on its way while the node's Prolog waits."""

    bare_cluster: Cluster

    @classmethod
    def absent(cls) -> str | None:
        return absent_slurm() if asked("slurm") else NOT_ASKED

    async def open(self) -> None:
        self.variables = await self.machine.environment()
        self.cluster = await self._start(QUEUE)
        await self.start_follower()

    async def start_follower(self) -> None:
        command = [sys.executable, "-I", "-m", "ztrooted.integrations.slurm", "follow"]
        nodes = ["--nodes", str(self.cluster.folder / "gate" / "nodes.json")]
        self.follower = await self.spawn("slurm-follower", *command, *nodes, SLURM_CONF=self.cluster.conf)

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        told = "".join(f"export {name}='{value}'\n" for name, value in wrong.variables.items())
        if wrong.clock_s:
            python = self.cluster.control / "off"
            python.write_text(clock.script(wrong.clock_s))
            python.chmod(0o755)
            told += f"export ZTROOTED_PYTHON={python}\n"
        try:
            message = await self.submitted("write", base, told + self._asked(None, wrong.executor))
        except RefusedError as error:
            return str(error)
        raise AssertionError(f"{message} was permitted")

    async def start_bare(self) -> None:
        """A second cluster, without the gate, to compare with."""
        self.bare_cluster = await self._start("bare", gated=False)

    async def _start(self, node: str, *, gated: bool = True) -> Cluster:
        cluster = Cluster(self.spawn, node, self.variables, free_port())
        self.stack.push_async_callback(cluster.remove)
        await cluster.open(gated=gated)
        self.stack.push_async_callback(cluster.end_jobs)
        return cluster

    async def hand_out(self, what: str, base: Path, *, url: str | None = None, executor: str = QUEUE) -> Message:
        return await self.submitted(what, base, self._asked(url, executor))

    def _asked(self, url: str | None, executor: str) -> str:
        """What the controller's gate is told of one job."""
        told = f"export ZTROOTED_GATEWAY={url} ZTROOTED_WITHIN_S={WITHIN_S}\n" if url else ""
        if executor != QUEUE:
            nodes = self.cluster.folder / "gate" / "others.json"
            nodes.write_text(json.dumps({executor + "-2": self.machine.id}))
            told += f"export ZTROOTED_NODES={nodes}\n"
        return told

    async def submitted(self, what: str, base: Path, told: str) -> Message:
        """Queue a script, and wait until it was refused, or its node is about to start it."""
        name = f"{what}-{secrets.token_hex(4)}"
        (self.cluster.control / f"{name}.env").write_text(told)
        self.cluster.control.joinpath("free").unlink(missing_ok=True)
        job = await asyncio.to_thread(self.cluster.submit, SCRIPTS[what].replace("BASE", str(base)), name)
        waiting = self.cluster.control / f"{job}.waiting"
        shown = await self.cluster.until(job, lambda shown: waiting.exists() or _refused(shown))
        if not waiting.exists():
            await asyncio.to_thread(self.cluster.run, "scancel", job)
            raise RefusedError(shown.comment)
        ticket = self.cluster.ticket(job)
        return Message(what, base, job, ticket.read_text() if ticket.exists() else None)

    async def run(self, message: Message) -> Any:
        cluster, job = self.cluster, message.run
        if message.ticket is None:  # as where nobody asks
            job = (await self.submitted(message.what, message.base, "exit 0\n")).run
        elif (await asyncio.to_thread(cluster.show, job)).over:  # queued again, with the ticket that it had
            for mark in ("go", "waiting"):
                (cluster.control / f"{job}.{mark}").unlink()
            await cluster.requeue(job)
            await cluster.until(job, lambda _: (cluster.control / f"{job}.waiting").exists(), within_s=180)
        if message.ticket is not None:
            cluster.ticket(job).write_text(message.ticket)
        (cluster.control / f"{job}.go").touch()
        shown = await cluster.until(job, lambda shown: shown.over)
        if shown.state != "COMPLETED":
            raise RefusedError(f"{shown.state} {shown.comment} {cluster.output(job)}")
        return message.base.read_text()

    async def whole(self, what: str, base: Path) -> Any:
        return await Adapter.whole(self, what, base)  # its users' one step is these two here

    async def bare(self, base: Path) -> None:
        """The same in the cluster without the gate."""
        cluster = self.bare_cluster
        job = await asyncio.to_thread(cluster.submit, SCRIPTS["write"].replace("BASE", str(base)), "bare")
        await cluster.until(job, lambda shown: shown.over)


def _refused(shown: Shown) -> bool:
    return bool(shown.comment) and not shown.authorized


SCRIPTS = {
    "write": "#!/bin/sh\nprintf done >'BASE'\n",
    "beats": f"#!/bin/sh\nexec {sys.executable} -I -S - 'BASE' <<'END'\n{BEATS}END\n",
}


class AirflowAdapter(Apart):
    """Airflow: scheduler with our executor, server of its API, processor of DAGs."""

    driver = "tests.orchestrators.airflow_driver"
    environment = "airflow"

    async def start(self) -> None:
        home = self.machine.folder / "airflow"
        self.variables |= airflow_home.make(home, free_port(), {QUEUE: self.machine.id})
        made = await self.spawn("airflow-db", self.command("airflow"), "db", "migrate")
        assert await asyncio.wait_for(made.wait(), 240) == 0
        await self.spawn("airflow-api", self.command("airflow"), "api-server")
        await self.spawn("airflow-dags", self.command("airflow"), "dag-processor")
        self.scheduler = await self.start_scheduler()
        async with asyncio.timeout(240):
            url = self.variables["AIRFLOW__API__BASE_URL"]
            while not await asyncio.to_thread(airflow_home.is_up, url):  # noqa: ASYNC110
                await asyncio.sleep(0.2)

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        """In the scheduler's log where that does not start, else in the task's events and its log."""
        if wrong.lacks:
            return await self.ended_log("wrong", await self.start_scheduler("wrong", **wrong.variables))
        run = secrets.token_hex(8)
        asked = {"what": "write", "base": str(base), "run": run, "executor": wrong.executor}
        try:
            await self.ask(do="hand_out", **asked, changed=wrong.settings)
        except RefusedError as error:
            told = str(error).partition(": ")[2]
        async with asyncio.timeout(60):
            while told not in (shown := await self.ask(do="shown", dag=wrong.executor, run=run))["events"]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return str(shown["log"])

    async def start_scheduler(self, name: str = "airflow-scheduler", **variables: str) -> Any:
        return await self.spawn(name, self.command("airflow"), "scheduler", **variables)


class PrefectAdapter(Apart):
    """Prefect: its server, and our worker."""

    driver = "tests.orchestrators.prefect_driver"
    environment = "prefect"

    async def start(self) -> None:
        home, port = self.machine.folder / "prefect", free_port()
        (home / "held").mkdir(parents=True)
        self.variables |= {
            "CONTRACT_GRACE_S": "2",
            "CONTRACT_HELD": str(home / "held"),
            "DO_NOT_TRACK": "1",
            "POOL": "contract",
            "PREFECT_API_URL": f"http://127.0.0.1:{port}/api",
            "PREFECT_HOME": str(home),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_WORKER_QUERY_SECONDS": "0.2",
            "ZTROOTED_EXECUTORS": json.dumps({QUEUE: self.machine.id}),
        }
        server = ["server", "start", "--host", "127.0.0.1", "--port", str(port), "--no-ui"]
        await self.spawn("prefect-server", self.command("prefect"), *server)
        async with asyncio.timeout(240):
            while not await answers(f"http://127.0.0.1:{port}/api/health"):  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        self.worker = await self.start_worker()

    async def refusal(self, base: Path, wrong: Wrong) -> str:
        """In the worker's log where that does not start, else in the run's state."""
        if wrong.lacks:
            return await self.ended_log("wrong", await self.start_worker("wrong", **wrong.variables))
        asked = {"base": str(base), "run": secrets.token_hex(8)}
        with contextlib.suppress(RefusedError):
            await self.ask(do="hand_out", what="write", executor=wrong.executor, changed=wrong.settings, **asked)
        try:
            shown = await self.ask(do="shown", **asked)
        except RefusedError as error:
            return str(error)
        raise AssertionError(f"it ran: {shown}")

    async def start_worker(self, name: str = "prefect-worker", **variables: str) -> Any:
        command = [self.command(), "-m", "tests.orchestrators.prefect_worker", "--pool", "contract"]
        return await self.spawn(name, *command, **variables)

    async def start_bare(self) -> None:
        """A worker of Prefect's own, to compare with."""
        await self.spawn(
            "prefect-bare", self.command("prefect"), "worker", "start", "--type", "process", "--pool", "bare"
        )


ADAPTERS: dict[str, type[Adapter]] = {
    "subprocess": Subprocess,
    "governed": Governed,
    "celery": CeleryAdapter,
    "dask": DaskAdapter,
    "ray": RayAdapter,
    "slurm": SlurmAdapter,
    "htcondor": HTCondorAdapter,
    "airflow": AirflowAdapter,
    "prefect": PrefectAdapter,
    "temporal": TemporalAdapter,
    "github": GitHubAdapter,
}
