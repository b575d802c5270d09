"""What is Slurm's own: hooks that fail open, nodes that could not refuse, and requeues. A real cluster of one node."""

import asyncio
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import RefusedError
from tests.orchestrators.adapters import SCRIPTS, SlurmAdapter
from tests.orchestrators.slurm_cluster import Cluster, Shown
from tests.support.agent_in_process import ROOT, Beats, MachineInProcess
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.guard.executor_set import ExecutorSet
from ztrooted.integrations.slurm import GATE, Slurm, describe_script, read_allocation, require_gate
from ztrooted.integrations.slurm_follower import Follower
from ztrooted.work import PATH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(180)]

NOBODY = 65534
# A plugin that is "required" and fails where a task is about to begin.
FAILS = """
#include <slurm/spank.h>
SPANK_PLUGIN(fails, 1);
int slurm_spank_task_init(spank_t sp, int ac, char **av) { (void)sp; (void)ac; (void)av; return ESPANK_ERROR; }
"""
# The tests' own Python may be in a folder of root's: the same packages, with Debian's.
READABLE = (
    f"""#!/bin/sh
shift 2
exec /usr/bin/python3 -I -c 'import runpy, sys
sys.path[:0] = {[str(ROOT), *(path for path in sys.path if "site-packages" in path)]!r}
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)' "$@"
""".replace("['", '["')
    .replace("']", '"]')
    .replace("', '", '", "')
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def slurm(shared_machine: MachineInProcess) -> AsyncIterator[SlurmAdapter]:
    if reason := SlurmAdapter.absent():
        pytest.skip(reason)
    made = SlurmAdapter(shared_machine)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


@pytest.fixture
def cluster(slurm: SlurmAdapter) -> Cluster:
    (slurm.cluster.control / "free").touch()
    slurm.cluster.resume()
    return slurm.cluster


@contextmanager
def changed(path: Path, text: str) -> Iterator[None]:
    before = path.read_text()
    path.write_text(text)
    try:
        yield
    finally:
        path.write_text(before)


async def called(*command: str | Path, **variables: str) -> tuple[int, str]:
    """A program's exit status and what it says to its standard error."""
    process = await asyncio.create_subprocess_exec(*command, stderr=asyncio.subprocess.PIPE, env=variables)
    _, said = await process.communicate()
    return process.returncode or 0, said.decode()


async def drained(cluster: Cluster) -> None:
    async with asyncio.timeout(60):
        while "DRAIN" not in cluster.node_state()[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def ended(cluster: Cluster, job: str) -> Shown:
    return await cluster.until(job, lambda shown: shown.over)


async def test_a_required_plugin_that_fails_stops_nothing_and_ours_does(slurm: SlurmAdapter, tmp_path: Path) -> None:
    """Tried on the Slurm that is installed: why ours never returns to slurmstepd."""
    await slurm.start_bare()
    bare, plugin = slurm.bare_cluster, tmp_path / "fails.so"
    (tmp_path / "fails.c").write_text(FAILS)
    assert (await called("gcc", "-shared", "-fPIC", "-o", plugin, tmp_path / "fails.c", PATH=PATH))[0] == 0
    (bare.folder / "gate" / "none.conf").write_text(f"required {plugin}\n")
    job = bare.submit(SCRIPTS["write"].replace("BASE", str(tmp_path / "open")), "open")
    assert "task_init() failed" in bare.output((await ended(bare, job)).job)
    assert (tmp_path / "open").read_text() == "done"

    cluster = slurm.cluster
    (cluster.control / "free").touch()
    with changed(cluster.folder / "gate" / "task", "no program\0"):
        job = cluster.submit(SCRIPTS["write"].replace("BASE", str(tmp_path / "shut")), "shut")
        assert (await ended(cluster, job)).state == "FAILED"
    assert "config.invalid" in cluster.output(job)
    assert not (tmp_path / "shut").exists()


async def test_what_is_no_batch_script_is_granted_nothing_and_no_step_runs(cluster: Cluster, tmp_path: Path) -> None:
    touch = ("touch", str(tmp_path / "file"))
    told = await asyncio.to_thread(cluster.run, "srun", *touch, check=False)
    assert "PrologSlurmctld failed" in told
    (cluster.control / "around.env").write_text("exit 0\n")  # as where the controller does not ask
    told = await asyncio.to_thread(cluster.run, "srun", "--job-name=around", *touch, check=False)
    assert "only batch scripts are governed" in told
    assert not (tmp_path / "file").exists()


async def test_a_step_of_a_governed_script_runs_nothing_outside_of_its_lease(cluster: Cluster, tmp_path: Path) -> None:
    srun = f"SLURM_CONF={cluster.conf} srun --task-prolog={tmp_path}/prolog touch {tmp_path}/file"
    (tmp_path / "prolog").write_text(f"#!/bin/sh\ntouch {tmp_path}/prologue\n")
    (tmp_path / "prolog").chmod(0o755)
    shown = await ended(cluster, cluster.submit(f"#!/bin/sh\n{srun}\n", "steps"))
    assert shown.state == "FAILED"
    assert "only batch scripts are governed" in cluster.output(shown.job)
    assert not (tmp_path / "file").exists()
    assert not (tmp_path / "prologue").exists()


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ("export ZTROOTED_NODES={control}/empty.json\n", "config.invalid: the set of executors is empty"),
        ("export ZTROOTED_NODES={control}/none.json\n", "config.missing"),
        ("unset ZTROOTED_ANCHORS\n", "config.missing: ZTROOTED_ANCHORS"),
        ("export SLURM_JOB_NODELIST='a[1-2]'\n", "dispatch.executor_unknown"),
        ("unset SLURM_JOB_NODELIST\n", "config.missing: SLURM_JOB_NODELIST"),
    ],
)
async def test_a_gate_that_lacks_something_denies_and_the_job_says_why(
    slurm: SlurmAdapter, tmp_path: Path, told: str, reason: str
) -> None:
    control = slurm.cluster.control
    (control / "empty.json").write_text("{}")
    with pytest.raises(RefusedError, match="ztrooted: " + re.escape(reason)):
        await slurm.submitted("write", tmp_path / "file", told.format(control=control))
    assert not (tmp_path / "file").exists()


async def test_a_prolog_without_path_and_slurm_conf_denies(slurm: SlurmAdapter) -> None:
    """Slurm gives its PrologSlurmctld neither: whatever loops over what a command prints would find nobody to ask."""
    authorize, environment = (slurm.cluster.folder / "gate" / name for name in ("authorize", "controller.env"))
    slurm.cluster.ticket("1").write_text("of an earlier attempt")
    with changed(environment, environment.read_text() + "unset SLURM_CONF\n"):
        status, said = await called(authorize, SLURM_JOB_ID="1")
    assert not slurm.cluster.ticket("1").exists()
    assert (status, "config.missing: SLURM_CONF" in said) == (1, True), said
    with changed(environment, "exit 3\n"):
        assert (await called(authorize, SLURM_JOB_ID="1"))[0] == 3
    environment.rename(environment.with_suffix(".away"))
    try:
        assert (await called(authorize, SLURM_JOB_ID="1"))[0] != 0
    finally:
        environment.with_suffix(".away").rename(environment)


ALLOCATION = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_RESTART_COUNT": "2",
    "SLURM_JOB_NODELIST": "n1",
    "SLURM_JOB_PARTITION": "main",
    "SLURM_JOB_UID": "0",
    "SLURM_JOB_GID": "0",
    "SLURM_JOB_WORK_DIR": "/",
}


@pytest.mark.parametrize("name", sorted(ALLOCATION))
async def test_what_slurm_does_not_say_is_a_no(name: str) -> None:
    with pytest.raises(EnvironmentProblem, match=f"config.missing: {name}"):
        read_allocation({**ALLOCATION, name: ""})
    if name == "SLURM_JOB_ID":
        with pytest.raises(EnvironmentProblem, match=r"config\.invalid"):
            read_allocation({**ALLOCATION, name: "7; true"})
    if name == "SLURM_JOB_RESTART_COUNT":
        with pytest.raises(UsageProblem, match="attempt"):
            describe_script(read_allocation({**ALLOCATION, name: "once"}), b"#!/bin/sh", "/spool")
        assert describe_script(read_allocation(ALLOCATION), b"#!/bin/sh", "/spool").job.attempt == 3


@pytest.mark.parametrize("lacks", [*GATE, "PrologFlags"])
async def test_a_cluster_that_lacks_a_part_of_its_gate_is_granted_nothing(lacks: str) -> None:
    settings = {**dict.fromkeys(GATE, "/there"), "PrologFlags": "Contain,Alloc"}
    require_gate(settings)
    with pytest.raises(EnvironmentProblem, match=lacks):
        require_gate({name: value for name, value in settings.items() if name != lacks})


async def test_a_slurm_conf_that_lets_nodes_run_what_they_like_grants_nothing(
    slurm: SlurmAdapter, cluster: Cluster, tmp_path: Path
) -> None:
    cluster.configure(without="Prolog=")
    cluster.run("scontrol", "reconfigure")
    try:
        with pytest.raises(RefusedError, match=r"config.invalid: slurm.conf has no Prolog"):
            await slurm.submitted("write", tmp_path / "file", "")
    finally:
        cluster.configure()
        cluster.run("scontrol", "reconfigure")
    assert not (tmp_path / "file").exists()


@pytest.mark.parametrize(
    ("file", "line", "told"),
    [
        ("node.env", "export ZTROOTED_SOCKET=/nonexistent", "execution.agent_lost"),
        ("node.env", "unset ZTROOTED_EXECUTOR", "config.missing"),
        ("node.env", "export ZTROOTED_ANCHORS=/nonexistent", "config.missing"),
        ("plugstack.conf", "", "has no line 'required"),
        ("plugstack.conf", "optional /tmp/ztrooted.so task=/t tickets=/t socket=/s", "has no line 'required"),
        ("plugstack.conf", "required /tmp/ztrooted.so task=/t socket=/s", "its tickets"),
        ("node.env", "export ZTROOTED_EXECUTOR=$ZTROOTED_EXECUTOR", "login environment"),  # nothing else is wrong here
    ],
)
async def test_a_node_that_could_not_refuse_does_not_pass_its_prolog(
    slurm: SlurmAdapter, file: str, line: str, told: str
) -> None:
    """Outside of slurmd, login shells can be started, so here that is the last thing that is wrong."""
    path = slurm.cluster.folder / "gate" / file
    text = f"{path.read_text()}{line}\n" if file == "node.env" else f"{line}\n"
    with changed(path, text):
        status, said = await called(slurm.cluster.folder / "gate" / "check")
    assert (status, told in said) == (1, True), said


async def test_a_node_is_drained_for_its_reason_and_drain_sticks_where_down_does_not(
    cluster: Cluster, slurm: SlurmAdapter, tmp_path: Path
) -> None:
    environment = cluster.folder / "gate" / "node.env"
    with changed(environment, environment.read_text() + "export ZTROOTED_SOCKET=/nonexistent\n"):
        job = cluster.submit(SCRIPTS["write"].replace("BASE", str(tmp_path / "file")), "nowhere")
        await drained(cluster)
    cluster.run("scancel", job)
    assert cluster.node_state()[1].startswith("ztrooted: execution.agent_lost")
    assert not (tmp_path / "file").exists()

    await restarted(slurm)
    assert "DRAIN" in cluster.node_state()[0]
    cluster.resume()
    cluster.run("scontrol", "update", f"NodeName={cluster.node}", "State=DOWN", "Reason=whatever")
    await restarted(slurm)
    async with asyncio.timeout(60):
        while "IDLE" not in cluster.node_state()[0]:  # noqa: ASYNC110
            await asyncio.sleep(0.05)


async def restarted(slurm: SlurmAdapter) -> None:
    """Another slurmd in the place of the first."""
    pid = int((slurm.cluster.folder / "slurmd.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    await slurm.cluster.start_node()


async def test_a_requeue_is_another_dispatch_and_what_was_there_before_is_dead(
    cluster: Cluster, slurm: SlurmAdapter, tmp_path: Path
) -> None:
    before = len(slurm.machine.gate.records("authorization.issued"))
    beats = Beats(tmp_path / "beats")
    job = cluster.submit(SCRIPTS["beats"].replace("BASE", str(beats.base)), "again")
    await beats.beating()
    first = cluster.show(job).comment
    await cluster.requeue(job)
    assert await beats.still()
    for file in beats.files:
        file.unlink()
    await beats.beating()
    shown = cluster.show(job)
    assert shown.authorized
    assert shown.comment != first
    issued = slurm.machine.gate.records("authorization.issued")[before:]
    assert len({one["authorization"] for one in issued}) == 2
    asked = [one["body"]["job"] for one in slurm.machine.gate.records("dispatch.requested")]
    assert [one["attempt"] for one in asked if one["run"] == job] == [1, 2]
    cluster.run("scancel", job)
    await ended(cluster, job)
    assert await beats.still()


async def test_a_slurmstepd_that_is_killed_takes_its_attempt_along(
    cluster: Cluster, slurm: SlurmAdapter, tmp_path: Path
) -> None:
    """Slurm queues a batch job again that it lost: without this, two of it would run."""
    beats = Beats(tmp_path / "beats")
    job = cluster.submit(SCRIPTS["beats"].replace("BASE", str(beats.base)), "stepd")
    await beats.beating()
    os.kill(parent_of(task_of(job)), signal.SIGKILL)
    async with asyncio.timeout(20):
        while not await beats.still():
            pass
    cluster.run("scancel", job)


def task_of(job: str) -> int:
    """The process that stands for a job, on this machine."""
    script = f"/job{int(job):05d}/slurm_script".encode()
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"ztrooted.integrations.slurm_node" in words and any(word.endswith(script) for word in words):
                return int(folder.name)
    raise AssertionError(f"nothing stands for job {job}")


def parent_of(pid: int) -> int:
    return int((Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[1])


async def test_a_script_runs_as_its_user_with_nothing_of_the_submitters_environment(cluster: Cluster) -> None:
    python = cluster.control / "python"
    python.write_text(READABLE)
    python.chmod(0o755)
    as_nobody = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", str(python), "-I", "-m"]
    if (await called(*as_nobody, "ztrooted.integrations.slurm_node", "--help", PATH=PATH))[0]:
        pytest.skip("this checkout, or Debian's Python of the same version, can't be used by others")
    around = {"LD_PRELOAD": "/nonexistent.so", "PYTHONPATH": "/tmp", "SECRET": "told"}
    environment = cluster.folder / "gate" / "node.env"
    with changed(environment, f"{environment.read_text()}export ZTROOTED_PYTHON={python}\n"):
        job = cluster.submit("#!/bin/sh\nid -u\nenv\n", "who", user=NOBODY, **around)
        shown = await ended(cluster, job)
    said = cluster.output(job)
    assert shown.state == "COMPLETED", (shown, said)
    assert said.splitlines()[0] == str(NOBODY)
    assert f"SLURM_JOB_ID={job}" in said
    assert not [name for name in around if f"{name}=" in said]
    assert "nonexistent" not in said, "nothing is loaded into what stands for the job, either"


async def test_arguments_that_nobody_has_seen_run_nothing(cluster: Cluster, tmp_path: Path) -> None:
    job = cluster.submit(SCRIPTS["write"].replace("BASE", str(tmp_path / "file")), "arguments", "and", "more")
    assert (await ended(cluster, job)).state == "FAILED"
    assert "job.mismatch" in cluster.output(job)
    assert not (tmp_path / "file").exists()


async def test_a_script_that_was_changed_on_its_node_does_not_run(cluster: Cluster, slurm: SlurmAdapter) -> None:
    """What slurmd writes there belongs to the user."""
    folder = cluster.control
    script = f"#!/bin/sh\ntouch {folder}/honest\n"
    task = cluster.folder / "gate" / "task"
    swaps = task.read_text().replace("set -eu", f'set -eu\necho "touch {folder}/other" >>"$1"')
    with changed(task, swaps):
        job = cluster.submit(script, "changed")
        assert (await ended(cluster, job)).state == "FAILED"
    assert "job.file_mismatch" in cluster.output(job)
    assert not (folder / "other").exists()
    assert not (folder / "honest").exists()


async def test_a_drift_drains_the_node_and_the_job_says_why(
    cluster: Cluster, slurm: SlurmAdapter, tmp_path: Path
) -> None:
    beats = Beats(tmp_path / "beats")
    job = cluster.submit(SCRIPTS["beats"].replace("BASE", str(beats.base)), "drifts")
    await beats.beating()
    try:
        await slurm.machine.drift()
        await drained(cluster)
        while not cluster.show(job).over:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        assert cluster.node_state()[1].startswith("ztrooted: ima.not_allowed")
        assert "Killed" in cluster.output(job) or "ima.not_allowed" in cluster.output(job)
        assert await beats.still()
    finally:
        await slurm.machine.trust()
        cluster.resume()


async def test_what_slurm_believes_to_run_after_its_revocation_is_cancelled(
    cluster: Cluster, slurm: SlurmAdapter, tmp_path: Path
) -> None:
    """The process that stands for the job hangs, and nobody followed the feed meanwhile."""
    slurm.follower.kill()
    beats = Beats(tmp_path / "beats")
    job = cluster.submit(SCRIPTS["beats"].replace("BASE", str(beats.base)), "hangs")
    await beats.beating()
    os.kill(task_of(job), signal.SIGSTOP)
    authorization = cluster.show(job).comment.split()[2]
    await slurm.machine.revoke(authorization)
    async with asyncio.timeout(20):
        while not await beats.still():
            pass
    assert cluster.show(job).state == "RUNNING"
    async with await slurm.machine.orchestrator() as orchestrator:
        follower = Follower(orchestrator, Slurm(cluster.conf), ExecutorSet({cluster.node: slurm.machine.id}))
        following = asyncio.create_task(follower.follow())
        shown = await ended(cluster, job)
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
    assert "operator.revoked" in shown.comment
    await slurm.start_follower()
