"""HTCondor: jobs where they start. Wrapper, task and deputy, executed as condor_starter does (``condor_starter``)."""

import asyncio
import os
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrators import clock
from tests.orchestrators.condor_starter import STARTER, ExecutionPoint, Started, script, start_deputy
from tests.orchestrators.test_slurm import NOBODY, READABLE, called
from tests.support.agent_in_process import BEATS, Beats, MachineInProcess
from ztrooted.errors import GateError
from ztrooted.integrations.htcondor_deputy import describe_attempt, require_starter
from ztrooted.integrations.htcondor_job import Question, read_job_ad
from ztrooted.integrations.htcondor_task import require_attempt
from ztrooted.work import PATH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SHELL = Path("/bin/sh").resolve()
# A library that leaves a mark in whatever program it is loaded into.
MARKS = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void mark(void) { fclose(fopen(getenv("MARK"), "w")); }
"""
TOUCH = "#!/bin/sh\nprintf ran >ran\n"
AD = 'GlobalJobId = "ap#1.0#17"\nNumShadowStarts = 1\nOwner = "alice"\n'


async def test_each_attempt_is_a_dispatch_of_its_own_and_the_job_is_told_what_its_user_set(
    point: ExecutionPoint, shared_machine: MachineInProcess, tmp_path: Path
) -> None:
    program = script(tmp_path, '#!/bin/sh\nprintf "%s %s %s %s" "$1" "$SET" "$_CONDOR_SLOT" "$(pwd)"\nexit 3\n')
    for attempt in ("1", "2"):
        started = await point.start(program, "a b", attempt=attempt, env={"SET": "by the user"})
        status, complained = await started.over()
        assert (status, complained) == (3, ""), "the job's own exit status, and nothing of ours"
        assert started.read("_condor_stdout") == f"a b by the user slot1 {started.scratch}"
    first, second = (record["body"]["job"] for record in shared_machine.gate.records("dispatch.requested")[-2:])
    assert (first["workflow"], first["step"]) == ("htcondor", "alice")
    assert (first["attempt"], second["attempt"]) == (1, 2)
    assert first["run"] == second["run"] == "ap.example/12.0/1764000000"
    issued = {record["authorization"] for record in shared_machine.gate.records("authorization.issued")[-2:]}
    assert len(issued) == 2


async def test_nothing_of_a_jobs_environment_acts_before_the_gate(
    point: ExecutionPoint, shared_machine: MachineInProcess, tmp_path: Path
) -> None:
    """The wrapper that the manual shows is a script, in which a submit file's LD_PRELOAD has run before its first line."""
    (tmp_path / "marks.c").write_text(MARKS)
    library = tmp_path / "marks.so"
    assert (await called("gcc", "-shared", "-fPIC", "-o", library, tmp_path / "marks.c", PATH=PATH))[0] == 0
    hostile = {"LD_PRELOAD": str(library), "PYTHONPATH": str(tmp_path), "BASH_ENV": "/dev/null", "ENV": "/dev/null"}
    shown = script(tmp_path / "shown", '#!/bin/sh\nexit 1\nexec "$@"\n')
    await (await asyncio.create_subprocess_exec(shown, env={**hostile, "MARK": str(tmp_path / "open")})).wait()
    assert (tmp_path / "open").exists()

    await shared_machine.drift()
    try:
        mark = tmp_path / "shut"
        status, complained = await (
            await point.start(script(tmp_path, TOUCH), env={**hostile, "MARK": str(mark)})
        ).over()
    finally:
        await shared_machine.trust()
    assert (status, mark.exists()) == (126, False), complained
    assert "ima.not_allowed" in complained
    status, complained = await (await point.start(script(tmp_path, TOUCH), env={**hostile, "MARK": str(mark)})).over()
    assert (status, mark.exists()) == (0, True), "in the job itself it acts as anywhere"


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"ad": ""}, "job.malformed: the job's ad does not say GlobalJobId"),
        ({"ad": AD.replace("= 1\n", "= 0\n")}, "job.malformed: the job's ad says NumShadowStarts = 0"),
        ({"ad": AD.replace("NumShadowStarts = 1\n", "")}, "job.malformed: the job's ad says NumShadowStarts = ,"),
        ({"ad": AD.replace("= 1\n", "= 1 + 1\n")}, "job.malformed"),
        ({"ad": AD + 'globaljobid = "ap#2.0#17"\n'}, "job.malformed: the job's ad has two attributes globaljobid"),
        ({"ad": AD.replace('"alice"', "Undefined")}, "job.malformed: the job's ad does not say Owner"),
        (
            {"program": "condor_exec.exe"},
            "job.malformed: the job's program is condor_exec.exe, which is no absolute path",
        ),
        ({"program": "/nonexistent"}, "job.file_mismatch"),
        ({"env": {"BYTES": "\udcff"}}, "job.malformed: the job's environment is not UTF-8"),
        ({"around": ("env", "-u", "_CONDOR_JOB_AD")}, "config.missing: _CONDOR_JOB_AD"),
        ({"around": ("sh", "-c", '"$0" "$@"; exit $?')}, "config.invalid: process"),
        ({"ZTROOTED_DEPUTY": "/nonexistent"}, "execution.agent_lost: no deputy answers at /nonexistent"),
        ({"ZTROOTED_ANCHORS": "/nonexistent"}, "config.missing: the anchors"),
        ({"ZTROOTED_EXECUTOR": "ex-" + "0" * 32}, "jws.executor"),
        ({"ZTROOTED_PYTHON": "{0}/ahead"}, "jws.expired"),
        ({"ZTROOTED_PYTHON": "/nonexistent"}, None),
    ],
    ids=lambda one: " ".join(map(str, one)) if isinstance(one, dict) else "",
)
async def test_a_job_that_is_refused_has_not_run_and_htcondor_is_told_why(
    point: ExecutionPoint, tmp_path: Path, told: dict[str, Any], reason: str | None
) -> None:
    """The file that HTCondor looks for has one line: it goes to the job's event log, and the job is queued again."""
    (tmp_path / "ahead").write_text(clock.script(7200))
    (tmp_path / "ahead").chmod(0o755)
    point.configure(**{name: told[name].format(tmp_path) for name in told if name.startswith("ZTROOTED_")})
    program = told.get("program", script(tmp_path, f"#!/bin/sh\nprintf ran >{tmp_path}/ran\n"))
    more = {name: told[name] for name in ("ad", "env", "around") if name in told}
    try:
        started = await point.start(program, scratch=tmp_path, **more)
        status, complained = await started.over()
    finally:
        point.configure()
    assert status != 0
    assert not (tmp_path / "ran").exists()
    if reason is not None:
        assert started.read("_condor_stderr").startswith(f"ztrooted: {reason}"), complained
        if "env" not in told:  # where the wrapper's own variables can't be read, there is only the job's standard error
            assert started.failure.startswith(f"ztrooted: {reason}")
            assert started.failure.count("\n") == 1


@pytest.mark.parametrize("missing", ["deputy", "agent", "task"])
async def test_without_its_deputy_its_agent_or_its_task_nothing_runs(
    point: ExecutionPoint, shared_machine: MachineInProcess, tmp_path: Path, missing: str
) -> None:
    path = {"deputy": point.deputy, "agent": shared_machine.socket, "task": point.folder / "task"}[missing]
    away = path.with_suffix(".away")
    path.rename(away)
    try:
        started = await point.start(script(tmp_path, TOUCH))
        status, _ = await started.over()
    finally:
        away.rename(path)
    assert status == 126
    assert started.failure.startswith(
        "ztrooted: config.invalid" if missing == "task" else "ztrooted: execution.agent_lost"
    )
    assert started.read("ran") == ""


async def test_a_program_that_is_another_one_by_now_is_not_run(
    point: ExecutionPoint, shared_machine: MachineInProcess, tmp_path: Path
) -> None:
    """Changed after its digest was taken, and before the agent looks: the task is stopped between the two."""
    program = script(tmp_path, TOUCH)
    before = len(shared_machine.gate.records("dispatch.requested"))
    started = await point.start(program)
    async with asyncio.timeout(20):
        while len(shared_machine.gate.records("dispatch.requested")) == before:  # noqa: ASYNC110
            await asyncio.sleep(0)
    program.write_text("#!/bin/sh\nprintf another >ran\n")
    status, complained = await started.over()
    assert (status, started.read("ran")) == (126, ""), complained
    assert "job.file_mismatch" in started.failure


async def beating(point: ExecutionPoint, tmp_path: Path, **more: Any) -> tuple[Started, Beats]:
    beats = Beats(tmp_path / "beats")
    program = script(tmp_path, f"#!/bin/sh\nexec {sys.executable} -I -S - '{beats.base}' <<'END'\n{BEATS}END\n")
    started = await point.start(program, **more)
    await beats.beating()
    return started, beats


async def test_a_job_that_may_not_go_on_is_queued_again_and_its_exit_status_is_not_believed(
    point: ExecutionPoint, shared_machine: MachineInProcess, tmp_path: Path
) -> None:
    started, beats = await beating(point, tmp_path)
    await shared_machine.revoke(shared_machine.gate.records("authorization.issued")[-1]["authorization"])
    assert (await started.over())[0] == 137
    assert await beats.still()
    assert started.failure.startswith("ztrooted: operator.revoked: ")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_an_eviction_ends_all_of_a_job_and_a_signal_that_ended_it_is_shown_as_one(
    point: ExecutionPoint, tmp_path: Path, number: signal.Signals
) -> None:
    started, beats = await beating(point, tmp_path)
    started.process.send_signal(number)
    assert await started.process.wait() == -number
    async with asyncio.timeout(10):
        while not await beats.still():
            pass


async def test_a_starter_that_dies_takes_its_attempt_along(point: ExecutionPoint, tmp_path: Path) -> None:
    """HTCondor runs the job again, elsewhere; the grandchild of this attempt must be gone by then."""
    beats = Beats(tmp_path / "beats")
    program = script(tmp_path, f"#!/bin/sh\nexec {sys.executable} -I -S - '{beats.base}' <<'END'\n{BEATS}END\n")
    starts = "import os, subprocess, sys\nsubprocess.Popen(sys.argv[1:]).wait()"
    started = await point.start(program, around=(str(STARTER), "-I", "-S", "-c", starts))
    await beats.beating()
    started.process.kill()
    await started.process.wait()
    async with asyncio.timeout(10):
        while not await beats.still():
            pass


async def test_a_job_runs_as_its_user_who_reads_no_token(point: ExecutionPoint, tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root starts processes of others")
    (point.folder / "readable").write_text(READABLE)
    (point.folder / "readable").chmod(0o755)
    token = Path(shlex.split((point.folder / "gateway.env").read_text().partition("TOKEN_FILE=")[2])[0])
    text = f"#!/bin/sh\nid -u >who\ncat {token} >token 2>&1\ntrue\n"
    point.configure(ZTROOTED_PYTHON=str(point.folder / "readable"))
    for folder in (point.folder, *point.folder.parents):
        if not folder.stat().st_mode & stat.S_IXOTH and folder.stat().st_uid == os.getuid():
            folder.chmod(folder.stat().st_mode | stat.S_IXOTH)
    scratch = point.folder / "dir_user"
    scratch.mkdir()
    program = script(scratch, text)
    try:
        started = await point.start(
            program, scratch=scratch, around=("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        )
        status, complained = await started.over()
    finally:
        point.configure()
    assert (status, complained) == (0, "")
    assert started.read("who").strip() == str(NOBODY)
    assert "Permission denied" in started.read("token")


async def test_who_was_executed_by_no_starter_of_roots_is_refused() -> None:
    """The starter's program is everybody's to execute; root's is not."""

    @contextmanager
    def executed(*around: str) -> Iterator[int]:
        with subprocess.Popen(
            [*around, "/bin/sh", "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True
        ) as one:
            child = int(one.stdout.readline())  # type: ignore[union-attr]
            try:
                yield child
            finally:
                os.kill(child, signal.SIGKILL)

    with executed() as child:
        require_starter(child, SHELL)
        with pytest.raises(GateError, match="was not executed by"):
            require_starter(child, STARTER)
    if os.geteuid() == 0:
        nobody = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
        with executed(*nobody) as child, pytest.raises(GateError, match="was not executed by"):
            require_starter(child, SHELL)


@pytest.mark.parametrize(
    "changed",
    [
        {"argv": ["/bin/true", "b"]},
        {"env": {"SET": "another"}},
        {"cwd": "/"},
        {"program": "0" * 64},
        {"ad": AD.replace("= 1\n", "= 2\n")},
        {"ad": AD.replace("ap#1.0", "ap#2.0")},
    ],
    ids="".join,
)
async def test_a_good_ticket_of_another_attempt_or_for_anything_else_is_not_followed(
    shared_machine: MachineInProcess, changed: dict[str, Any]
) -> None:
    question = Question(ad=AD, argv=["/bin/true", "a"], env={"SET": "this"}, cwd="/tmp", program="1" * 64)
    async with await shared_machine.orchestrator() as orchestrator:
        dispatch = await orchestrator.authorize(describe_attempt(question, "0:0"), shared_machine.id)
    require_attempt(dispatch.ticket, question)
    with pytest.raises(GateError, match=r"the ticket is for attempt 1 of ap/1.0/17 \(/bin/true a\)"):
        require_attempt(dispatch.ticket, question.model_copy(update=changed))


async def test_a_jobs_ad_names_it_whatever_else_is_in_there() -> None:
    found = read_job_ad(AD + 'Requirements = (TARGET.Arch == "X86_64")\nMemory = 1\nno attribute\n')
    assert (found.run, found.attempt, found.owner) == ("ap/1.0/17", 1, "alice")


async def test_a_deputy_that_may_not_ask_tells_the_job_so_and_one_that_could_not_does_not_start(
    point: ExecutionPoint, tmp_path: Path
) -> None:
    (tmp_path / "none").write_text("zt_nobody")
    (tmp_path / "none").chmod(0o600)
    there = {"ZTROOTED_DEPUTY": str(tmp_path / "deputy.sock")}
    point.configure(**there, ZTROOTED_ANCHORS="/nonexistent")
    status, complained = await called(point.folder / "deputy", PATH=PATH)
    assert (status, complained.startswith("ztrooted: config.missing: the anchors")) == (1, True), complained
    point.configure(**there, ZTROOTED_TOKEN_FILE=str(tmp_path / "none"))
    deputy = await start_deputy(point, tmp_path / "deputy.sock")
    try:
        started = await point.start(script(tmp_path, TOUCH))
        status, _ = await started.over()
    finally:
        point.configure()
        deputy.kill()
        await deputy.wait()
    assert (status, started.read("ran")) == (126, "")
    assert started.failure.startswith("ztrooted: auth."), started.failure
