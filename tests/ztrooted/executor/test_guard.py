"""Which enforcement runs, and the guard as a program."""

# ruff: noqa: ASYNC220, ASYNC240 -- nothing else waits in the loops of these tests

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import (
    LONG,
    PATH,
    PATIENCE_S,
    STUBBORN,
    STUBBORN_SIZE,
    Agent,
    Marked,
    Streams,
    refusal,
    start,
    stubborn,
    until,
    until_async,
)
from ztrooted.executor import guard_handle, supervisor
from ztrooted.executor.guard import NOT_MY_AGENT
from ztrooted.executor.supervisor import JobSpec, enforcement_available
from ztrooted.executor.wire import Plan


def usable_by(user: int, python: str) -> bool:
    """Whether ``user`` may run this interpreter, and it is recent enough."""
    try:
        code = "import sys; sys.exit(sys.version_info < (3, 11))"
        return subprocess.run([python, "-I", "-S", "-c", code], user=user, cwd="/", check=False).returncode == 0
    except PermissionError:
        return False


NO_NAMESPACES = (
    "from ztrooted.executor import kernel\n"
    "def refuse(): raise PermissionError(1, 'refused by the test')\n"
    "kernel.new_pid_namespace = refuse\n"
)


class TestEnforcement:
    @pytest.fixture
    def no_namespaces(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A guard on a kernel that grants nothing."""
        *command, boot = guard_handle.GUARD
        first, path, rest = boot.split("; ", 2)
        patched = (*command, f"{first}\n{path}\n{NO_NAMESPACES}{rest}")
        monkeypatch.setattr(guard_handle, "GUARD", patched)
        monkeypatch.setattr(supervisor, "GUARD", patched)

    async def test_without_a_namespace_nothing_starts(
        self, no_namespaces: None, streams: Streams, tmp_path: Path
    ) -> None:
        assert not enforcement_available().available
        assert "refused by the test" in enforcement_available().detail
        trace = tmp_path / "ran"
        refused = await refusal(JobSpec(("touch", str(trace)), {"PATH": PATH}, "/"), streams)
        assert refused.code == "supervision.unavailable"
        assert not trace.exists()

    async def test_allowed_to_be_weak_it_says_so(self, no_namespaces: None, marked: Marked, streams: Streams) -> None:
        spec = marked.python(STUBBORN[: STUBBORN.rindex("time.sleep")] + "os._exit(7)")
        running = await start(spec, streams, allow_weak=True)
        end = await running.wait()
        assert (end.enforcement, end.outcome, end.exit_status) == ("process-group", "exited", 7)
        assert not marked.alive()

    @pytest.mark.parametrize("grace", [0.0, 0.3])
    async def test_weak_interrupts_still_end_the_tree(
        self, no_namespaces: None, marked: Marked, streams: Streams, grace: float
    ) -> None:
        running = await stubborn(marked, streams, allow_weak=True, grace_s=grace)
        assert (await running.interrupt("drift")).reason == "drift"
        assert not marked.alive()

    async def test_weak_leases_end_too(self, no_namespaces: None, marked: Marked, streams: Streams) -> None:
        running = await stubborn(marked, streams, allow_weak=True, lease_s=3.0)
        assert (await running.wait()).reason == "lease.expired"
        assert not marked.alive()

    @pytest.mark.parametrize("victim", ["guard_pid", "init_pid"])
    async def test_weak_supervision_that_is_killed_takes_the_tree_along(
        self, no_namespaces: None, marked: Marked, streams: Streams, victim: str
    ) -> None:
        running = await stubborn(marked, streams, allow_weak=True)
        os.kill(getattr(running, victim), signal.SIGKILL)
        assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).outcome == "killed"
        await until_async(lambda: not marked.alive(), "the tree is dead")

    async def test_weakly_supervised_jobs_die_with_their_init_by_the_kernel(
        self, no_namespaces: None, marked: Marked, streams: Streams
    ) -> None:
        """With the guard stopped nobody sweeps: at least the job itself has to end."""
        running = await start(marked.job("sleep", "600"), streams, allow_weak=True)
        os.kill(running.guard_pid, signal.SIGSTOP)
        os.kill(running.init_pid, signal.SIGKILL)
        await until_async(lambda: not marked.alive(), "the job is dead")
        assert (await asyncio.wait_for(running.wait(), PATIENCE_S)).outcome == "killed"

    async def test_weak_grace_signals_the_job_and_nobody_else(
        self, no_namespaces: None, marked: Marked, streams: Streams
    ) -> None:
        bystander = subprocess.Popen(["sleep", "600"])
        running = await start(marked.job("sleep", "600"), streams, allow_weak=True, grace_s=LONG)
        assert (await running.interrupt("over")).signal == signal.SIGTERM
        assert bystander.poll() is None
        bystander.kill()
        bystander.wait()

    @pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
    def test_an_ordinary_user_gets_a_namespace_by_user(
        self, marked: Marked, agent: Callable[..., Agent], open_copy: Path
    ) -> None:
        nobody = 65534
        python = next((name for name in (sys.executable, "/usr/bin/python3") if usable_by(nobody, name)), None)
        if python is None:
            pytest.skip("no Python 3.11 that an ordinary user may run")
        doomed = agent(marked.job(python, "-I", "-S", "-c", STUBBORN), user=nobody, python=python, root=str(open_copy))
        doomed.wait_until_up()
        assert doomed.by.startswith("pid-namespace+user-namespace")
        until(lambda: len(marked.alive()) == STUBBORN_SIZE, "the whole tree runs")
        assert {Path(f"/proc/{pid}").stat().st_uid for pid in marked.alive()} == {nobody}
        # What a user's process may trace belongs to the user; what is closed to it belongs to root (proc(5)).
        assert {Path(f"/proc/{pid}/mem").stat().st_uid for pid in (doomed.guard, doomed.init)} == {0}
        doomed.signal(signal.SIGKILL)
        until(lambda: not marked.alive(), "the tree is dead")

    @pytest.fixture
    def open_copy(self) -> Iterator[Path]:
        """The executor's package where anybody may read it."""
        with tempfile.TemporaryDirectory() as name:
            root = Path(name)
            root.chmod(0o755)
            shutil.copytree(Path(__file__).parents[3] / "ztrooted", root / "ztrooted", copy_function=shutil.copyfile)
            yield root

    def test_this_machine_can_tell(self) -> None:
        granted = enforcement_available()
        assert granted.available == (granted.kind != "none")
        assert granted.available or (granted.detail and granted.remedy)


class TestGuard:
    def test_it_loads_nothing_slow(self) -> None:
        """Each module here is time between the permission and the job's start."""
        code = guard_handle.GUARD[-1].split("status =")[0] + "print(*sys.modules)"
        loaded = subprocess.run(
            [*guard_handle.GUARD[:-1], code], capture_output=True, check=True, text=True
        ).stdout.split()
        assert "ztrooted.executor.guard" in loaded
        slow = {
            "typing",
            "dataclasses",
            "pathlib",
            "hashlib",
            "asyncio",
            "subprocess",
            "pydantic",
            "aiohttp",
            "cryptography",
        }
        assert slow.isdisjoint(loaded)

    def test_it_refuses_to_serve_another_parent(self, marked: Marked, streams: Streams) -> None:
        """Its agent died before the kernel could be told to tie them: somebody else is its parent by now."""
        spec, far = marked.job("sleep", "600"), time.clock_gettime_ns(time.CLOCK_BOOTTIME) + 10**11
        plan = Plan(
            argv=list(spec.argv), env=dict(spec.env), cwd="/", files={}, stdio=list(streams.all()), lease_until=far,
            run_until=far, allow_weak=False,
        )  # fmt: skip
        plan_fd = os.memfd_create("plan")
        os.write(plan_fd, plan.to_bytes())
        read, write = os.pipe()
        os.write(write, b"go\n")
        fds = (read, streams.write, plan_fd)
        command = [*guard_handle.GUARD, "1", *map(str, fds)]
        ended = subprocess.run(
            command,
            pass_fds=(
                *fds,
                *streams.all(),
            ),
            stdin=subprocess.DEVNULL,
            check=False,
        )
        assert ended.returncode == NOT_MY_AGENT
        for fd in (plan_fd, read, write):
            os.close(fd)

    async def test_a_secret_in_the_environment_is_not_on_its_command_line(
        self, marked: Marked, streams: Streams
    ) -> None:
        running = await start(marked.job("sleep", "600", SECRET="xyzzy-plugh"), streams)
        for pid in (running.guard_pid, running.init_pid):
            for name in ("cmdline", "environ"):
                assert b"xyzzy" not in Path(f"/proc/{pid}/{name}").read_bytes()
        await running.interrupt("over")

    async def test_the_agents_secrets_and_terminal_are_not_its_business(
        self, marked: Marked, streams: Streams, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("AGENT_TOKEN", "xyzzy")
        running = await start(marked.job("sleep", "600"), streams)
        for pid in (running.guard_pid, running.init_pid):
            assert Path(f"/proc/{pid}/environ").read_bytes() == b""
            assert os.getsid(pid) == pid
        await running.interrupt("over")

    def test_an_agent_without_standard_streams_can_start_jobs(self, marked: Marked, streams: Streams) -> None:
        """Its next descriptors are 0 to 2, where guard and job expect something else."""
        spec = marked.job("sh", "-c", "read line; echo got $line")
        code = f"""
import asyncio, os
from ztrooted.executor.cgroups import Limits
from ztrooted.executor.supervisor import JobSpec, Supervisor
async def main():
    given, taken = os.pipe()
    os.write(taken, b"word\\n")
    out = os.dup(1)
    for fd in (0, 1, 2):
        os.close(fd)
    running = await Supervisor.start({spec!r}, lease_s=60, max_runtime_s=60, stdio=(given, out, out))
    os.write(out, b"%d" % (await running.wait()).exit_status)
asyncio.run(main())
"""
        root = str(Path(__file__).parents[3])
        ended = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, check=True, text=True)
        assert ended.stdout == "got word\n0"
