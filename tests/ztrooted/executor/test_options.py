"""What a job may ask for beside its command: another user, and limits that the kernel keeps."""

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.ztrooted.executor.processes import STUBBORN, Marked, Streams, refusal, run, start, until_async
from ztrooted.executor import cgroups
from ztrooted.executor.cgroups import Limits, LimitsError, confine

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may become somebody else")
SOMEBODY = (54321, 54322)

ATTACK = """
import os, sys
print(os.getresuid(), os.getresgid(), os.getgroups())
for way_back in (lambda: os.setuid(0), lambda: os.setgid(0), lambda: os.setgroups([0]), lambda: os.kill(1, 9)):
    try:
        way_back()
    except PermissionError:
        print("refused")
"""


@as_root
class TestUser:
    async def test_it_is_another_user_without_a_way_back(self, marked: Marked, streams: Streams) -> None:
        await run(marked.python_as(SOMEBODY, ATTACK), streams)
        user, group = SOMEBODY
        ids = f"({user}, {user}, {user}) ({group}, {group}, {group}) []"
        assert streams.text().splitlines() == [ids, *["refused"] * 4]

    async def test_it_has_no_capability_left(self, marked: Marked, streams: Streams) -> None:
        await run(
            replace(marked.job("grep", "-E", "^Cap(Inh|Prm|Eff|Amb)", "/proc/self/status"), user=SOMEBODY), streams
        )
        assert {line.split()[1] for line in streams.text().splitlines()} == {"0" * 16}

    async def test_it_dies_as_any_other(self, marked: Marked, streams: Streams) -> None:
        running = await start(marked.python_as(SOMEBODY, STUBBORN), streams)
        await until_async(lambda: len(marked.alive()) > 20, "the tree runs")
        assert {os.stat(f"/proc/{pid}").st_uid for pid in marked.alive()} == {SOMEBODY[0]}  # noqa: PTH116
        began = time.monotonic()
        end = await running.interrupt("operator.revoked")
        assert not marked.alive()
        assert (end.outcome, end.reason) == ("killed", "operator.revoked")
        assert time.monotonic() - began < 5

    @pytest.mark.parametrize("victim", ["guard_pid", "init_pid"])
    async def test_it_dies_with_its_supervision(self, marked: Marked, streams: Streams, victim: str) -> None:
        running = await start(marked.python_as(SOMEBODY, STUBBORN), streams)
        await until_async(lambda: len(marked.alive()) > 20, "the tree runs")
        os.kill(getattr(running, victim), signal.SIGKILL)
        await running.wait()
        assert not marked.alive()

    async def test_a_folder_it_may_not_enter_is_no_working_directory(
        self, marked: Marked, streams: Streams, tmp_path: Path
    ) -> None:
        closed = tmp_path / "closed"
        closed.mkdir(mode=0o700)
        refused = await refusal(replace(marked.job("true"), cwd=str(closed), user=SOMEBODY), streams)
        assert (refused.code, "Permission denied" in refused.message) == ("execution.start_failed", True)

    async def test_a_program_it_may_not_execute_is_none(self, marked: Marked, streams: Streams, tmp_path: Path) -> None:
        program = tmp_path / "program"
        shutil.copy("/bin/true", program)
        program.chmod(0o700)
        refused = await refusal(replace(marked.job(str(program)), user=SOMEBODY), streams)
        assert "Permission denied" in refused.message


@pytest.fixture
def setuid_id() -> Iterator[Path]:
    """A copy of ``id`` that runs as root, whoever starts it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        helper = folder / "id"
        shutil.copy("/usr/bin/id", helper)
        helper.chmod(0o4755)
        yield helper


@as_root
async def test_a_setuid_program_gives_it_nothing(marked: Marked, streams: Streams, setuid_id: Path) -> None:
    spec = marked.job("sh", "-c", f"grep NoNewPrivs /proc/self/status; {setuid_id} -u")
    await run(replace(spec, user=SOMEBODY), streams)
    assert streams.text().split() == ["NoNewPrivs:", "1", str(SOMEBODY[0])]


def limited(**limits: int) -> Limits:
    """Limits that this machine can keep; else the test is skipped."""
    wanted = Limits(**limits)
    try:
        confine(wanted).remove()
    except LimitsError as error:
        pytest.skip(f"no such control group for this user: {error}")
    return wanted


def groups_left() -> list[Path]:
    own = [folder.parent if folder.name == cgroups.LEAF else folder for folder in cgroups._own_groups().values()]
    return [left for folder in own for left in folder.glob(f"ztrooted-{os.getpid()}-*")]


class TestLimits:
    async def test_a_fork_bomb_stays_small_and_dies_at_once(self, marked: Marked, streams: Streams) -> None:
        """It forks for ever, each process of it, and ignores what it can."""
        bomb = """
import os, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
os.write(1, b"up")
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
        running = await start(replace(marked.python(bomb), limits=limited(pids=30)), streams)
        await until_async(lambda: len(marked.alive()) >= 30, "the bomb has gone off")
        assert max(len(marked.alive()) for _ in range(3)) <= 31  # one that died while it was counted
        began = time.monotonic()
        end = await running.interrupt("operator.revoked")
        assert not marked.alive()
        assert (end.outcome, end.reason) == ("killed", "operator.revoked")
        assert time.monotonic() - began < 5
        assert groups_left() == []

    @as_root
    async def test_a_bomb_that_only_its_user_limits_dies_too(self, marked: Marked, streams: Streams) -> None:
        bomb = """
import os, resource
resource.setrlimit(resource.RLIMIT_NPROC, (150, 150))
while True:
    try:
        os.fork()
    except OSError:
        pass
"""
        running = await start(marked.python_as((54399, 54399), bomb), streams)
        await until_async(lambda: len(marked.alive()) >= 100, "the bomb has gone off")
        await running.interrupt("operator.revoked")
        assert not marked.alive()

    async def test_who_takes_too_much_memory_is_killed(self, marked: Marked, streams: Streams) -> None:
        greedy = "import os; os.write(1, b'up'); kept = [bytes(1 << 20).replace(b'\\0', b'x') for _ in range(512)]"
        end = await run(replace(marked.python(greedy), limits=limited(memory=64 << 20)), streams)
        assert (streams.text(), end.outcome, end.signal) == ("up", "exited", signal.SIGKILL)
        assert groups_left() == []

    async def test_it_gets_no_more_than_its_share_of_the_processor(self, marked: Marked, streams: Streams) -> None:
        busy = """
import time
until = time.monotonic() + 1.5
while time.monotonic() < until:
    pass
print(time.process_time())
"""
        await run(replace(marked.python(busy), limits=limited(cpu=20)), streams)
        assert float(streams.text()) < 0.75

    async def test_what_it_leaves_is_in_its_group_too(self, marked: Marked, streams: Streams) -> None:
        source = "import subprocess, sys; sys.exit(subprocess.call(['sh', '-c', 'setsid cat /proc/self/cgroup']))"
        await run(replace(marked.python(source), limits=limited(pids=20)), streams)
        assert f"/ztrooted-{os.getpid()}-" in streams.text()

    async def test_without_a_control_group_nothing_starts(
        self, marked: Marked, streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cgroups, "_own_groups", dict)
        spec = marked.job("touch", str(tmp_path / "ran"))
        refused = await refusal(replace(spec, limits=Limits(memory=64 << 20)), streams)
        assert refused.code == "supervision.unavailable"
        assert "memory" in refused.message
        assert not (tmp_path / "ran").exists()

    async def test_a_group_that_can_not_be_entered_is_none(
        self, marked: Marked, streams: Streams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(cgroups.Group, "entrances", [str(tmp_path / "nowhere" / "cgroup.procs")])
        refused = await refusal(marked.job("true"), streams)
        assert (refused.code, "No such file" in refused.message) == ("supervision.unavailable", True)


class TestVersionTwo:
    """The unified hierarchy, played by files: what would be written where."""

    @pytest.fixture
    def own(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        folder = tmp_path / "agent.service"
        folder.mkdir()
        (folder / "cgroup.controllers").write_text("cpu memory pids\n")
        (folder / "cgroup.subtree_control").write_text("cpu memory pids\n")
        monkeypatch.setattr(cgroups, "_own_groups", lambda: {"": folder})
        honest = Path.mkdir

        def mkdir(path: Path, mode: int = 0o777) -> None:
            honest(path, mode)
            for file in ("memory.max", "memory.swap.max", "memory.oom.group", "pids.max", "cpu.max"):
                (path / file).touch()

        monkeypatch.setattr(Path, "mkdir", mkdir)
        monkeypatch.setattr(cgroups, "REMOVAL_S", 0.0)
        return folder

    def test_one_group_has_all_limits(self, own: Path) -> None:
        group = confine(Limits(memory=1 << 30, pids=7, cpu=150))
        (folder,) = group.folders
        assert folder.parent == own
        written = {path.name: path.read_text() for path in folder.iterdir()}
        assert written == {
            "memory.max": str(1 << 30),
            "memory.swap.max": "0",
            "memory.oom.group": "1",
            "pids.max": "7",
            "cpu.max": "150000 100000",
        }
        assert group.entrances == [str(folder / "cgroup.procs")]

    def test_an_agent_in_a_leaf_divides_what_is_above(self, own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(cgroups, "_own_groups", lambda: {"": own / cgroups.LEAF})
        assert confine(Limits(pids=7)).folders[0].parent == own

    def test_a_controller_that_is_not_there(self, own: Path) -> None:
        (own / "cgroup.controllers").write_text("cpu\n")
        with pytest.raises(LimitsError, match="'pids'"):
            confine(Limits(pids=7))

    def test_a_limit_that_the_kernel_does_not_take_leaves_nothing(
        self, own: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(folder: Path, file: str, text: str) -> None:
            raise PermissionError(13, "Permission denied", str(folder / file))

        monkeypatch.setattr(cgroups, "_write", refuse)
        monkeypatch.setattr(cgroups, "_still_there", lambda folder: bool([one.unlink() for one in folder.iterdir()]))
        with pytest.raises(LimitsError, match="Permission denied"):
            confine(Limits(memory=1 << 30))


def test_what_killed_agents_left_is_removed(tmp_path: Path) -> None:
    dead, alive, other = tmp_path / "ztrooted-4194399-0", tmp_path / f"ztrooted-{os.getpid()}-0", tmp_path / "else-1-2"
    for folder in (dead, alive, other):
        folder.mkdir()
    cgroups._sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted([alive, other])


def test_no_limits_need_no_groups() -> None:
    assert confine(Limits()).entrances == []
