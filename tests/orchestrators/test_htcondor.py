"""What is HTCondor's own: expressions over machines that say nothing, jobs' environments that act before a wrapper does.

No daemon of HTCondor's runs here. Its own libraries parse the configuration and evaluate it (``htcondor_classads``), and the
programs of deploy/htcondor are executed as the daemons would (``condor_starter``), with a real gateway and a real agent.
"""

import asyncio
import json
import os
import shlex
import signal
import stat
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.orchestrators.adapter import ENVIRONMENTS, NOT_ASKED, asked
from tests.orchestrators.condor_starter import DEPLOYED, STARTER, ExecutionPoint, Started, absent, script
from tests.orchestrators.test_slurm import NOBODY, READABLE, called
from tests.support.agent_in_process import BEATS, ROOT, Beats, MachineInProcess
from ztrooted.errors import GateError
from ztrooted.integrations.htcondor import BELIEVED_S, attributes
from ztrooted.integrations.htcondor_deputy import require_starter
from ztrooted.integrations.htcondor_job import read_job_ad
from ztrooted.reasons import GateReason
from ztrooted.work import PATH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

SHELL = Path("/bin/sh").resolve()
CLASSADS = ENVIRONMENTS / "htcondor" / "bin" / "python"
VANILLA = {"JobUniverse": "5"}
# A library that leaves a mark in whatever program it is loaded into.
MARKS = """
#include <stdio.h>
#include <stdlib.h>
__attribute__((constructor)) static void mark(void) { fclose(fopen(getenv("MARK"), "w")); }
"""
TOUCH = "#!/bin/sh\nprintf ran >ran\n"


def judge(folder: Path, pairs: list[Any], before: str = "") -> dict[str, Any]:
    """What HTCondor's own libraries make of the configuration as it is shipped, after a site's own."""
    if not asked("htcondor"):
        pytest.skip(NOT_ASKED)
    if not CLASSADS.exists():
        pytest.skip("'scripts/orchestrators htcondor' has not installed it")
    config = folder / "condor_config"
    config.write_text(f"{before}\n{(DEPLOYED / 'ztrooted.conf').read_text()}")
    done = subprocess.run(
        [CLASSADS, "-m", "tests.orchestrators.htcondor_classads"],
        input=json.dumps(pairs),
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={"PATH": PATH, "CONDOR_CONFIG": str(config)},
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def said(trusted: str = "True", until: str | None = None) -> dict[str, str]:
    return {"ZtrootedTrusted": trusted, "ZtrootedTrustedUntil": until or str(int(time.time()) + BELIEVED_S)}


def machines() -> dict[str, dict[str, str]]:
    """Ads of machines of which none is to run anything, whatever a job says."""
    now = int(time.time())
    return {
        "nothing said": {},
        "no deadline": {"ZtrootedTrusted": "True"},
        "only a deadline": {"ZtrootedTrustedUntil": str(now + BELIEVED_S)},
        "not trusted": said("False"),
        "expired": said(until=str(now - 1)),
        "undefined": said("undefined"),
        "undefined deadline": said(until="undefined"),
        "error": said("error"),
        "error of a deadline": said(until="error"),
        "text": said('"True"'),
        "text for a deadline": said(until=f'"{now + BELIEVED_S}"'),
        "number": said("1"),
        "real number": said(until=f"{now + BELIEVED_S}.0"),
        "another attribute": said(until="NoSuchAttribute"),
        "a clock that was ahead": said(until=str(now + 7200)),
        "of the job": {"ZtrootedTrusted": "TARGET.ZtrootedTrusted", "ZtrootedTrustedUntil": "Undefined"},
    }


async def test_only_a_machine_that_is_trusted_now_starts_anything_and_no_other_keeps_anything(tmp_path: Path) -> None:
    """A job that claims trust for itself is matched to none of them either: a bare name would be found in its ad."""
    claims = {**VANILLA, **said()}
    named = machines()
    pairs = [
        [said(), VANILLA],
        [said(), None],
        *([ad, claims] for ad in named.values()),
        *([ad, None] for ad in named.values()),
    ]
    found = judge(tmp_path, pairs, "MAXJOBRETIREMENTTIME = 3600\nWANT_SUSPEND = True\n")["judged"]
    good, alone, *bad = found
    assert good["matches"]
    assert (good["START"], good["PREEMPT"], good["KILL"], good["WANT_VACATE"]) == (True, False, False, True)
    assert good["MAXJOBRETIREMENTTIME"] == 3600
    assert alone["START"] == "Undefined", "a trusted machine without a job is not its owner's"
    for name, one in zip([*named, *named], bad, strict=True):
        assert not one["matches"], name
        ended = {"START": False, "PREEMPT": True, "KILL": True, "WANT_VACATE": False, "MAXJOBRETIREMENTTIME": 0}
        assert {key: one[key] for key in ended} == ended, name
        assert one["WANT_SUSPEND"] is one["SUSPEND"] is False, name


@pytest.mark.parametrize(
    "before", ["{0} = error", "{0} = undefined", "{0} = NoSuchAttribute > 3", "{0} = True", "{0} = False"]
)
async def test_no_policy_of_a_site_makes_up_for_trust(tmp_path: Path, before: str) -> None:
    names = ("START", "PREEMPT", "KILL", "WANT_VACATE", "MAXJOBRETIREMENTTIME")
    lines = "\n".join(before.format(name) for name in names)
    yes, no = judge(tmp_path, [[said(), VANILLA], [said("False"), VANILLA]], lines)["judged"]
    assert yes["matches"] is ("= True" in before), "and trust makes up for no policy"
    assert not no["matches"]
    ended = (no["START"], no["PREEMPT"], no["KILL"], no["WANT_VACATE"], no["MAXJOBRETIREMENTTIME"])
    assert ended == (False, True, True, False, 0)


async def test_what_the_wrapper_is_not_executed_for_is_not_started(tmp_path: Path) -> None:
    others = [
        {},
        {"JobUniverse": "7"},
        {"JobUniverse": '"5"'},
        {**VANILLA, "WantDocker": "True"},
        {**VANILLA, "DockerImage": '"debian"'},
        {**VANILLA, "WantContainer": "True"},
        {**VANILLA, "ContainerImage": '"debian.sif"'},
        {**VANILLA, "SingularityImage": '"debian.sif"'},
        {**VANILLA, "PreCmd": '"/bin/sh"'},
        {**VANILLA, "PostCmd": '"/bin/sh"'},
    ]
    found = judge(tmp_path, [[said(), job] for job in [VANILLA, *others]])
    assert [one["matches"] for one in found["judged"]] == [True] + [False] * len(others)
    settings = found["settings"]
    assert settings["USER_JOB_WRAPPER"].startswith("/")
    assert settings["ENABLE_SSH_TO_JOB"] == "False"
    assert settings["STARTER_DISABLE_USER_SUPPLIED_TRANSFER_PLUGINS"] == "True"
    assert settings["STARTD_CRON_JOBLIST"].split() == ["ZTROOTED"]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def point(shared_machine: MachineInProcess) -> AsyncIterator[ExecutionPoint]:
    """deploy/htcondor, installed, with its deputy as a process of its own."""
    if reason := absent() if asked("htcondor") else NOT_ASKED:
        pytest.skip(reason)
    made = ExecutionPoint(shared_machine.folder / "condor", await shared_machine.environment())
    made.install()
    deputy = await _deputy(made)
    yield made
    deputy.kill()
    await deputy.wait()


async def _deputy(point: ExecutionPoint) -> Any:
    process = await asyncio.create_subprocess_exec(str(point.folder / "deputy"), env={"PATH": PATH})
    async with asyncio.timeout(30):
        while not point.deputy.exists():
            assert process.returncode is None
            await asyncio.sleep(0.02)
    return process


async def published(point: ExecutionPoint) -> str:
    process = await asyncio.create_subprocess_exec(
        str(point.folder / "trust"), env={"PATH": PATH}, stdout=asyncio.subprocess.PIPE
    )
    told, _ = await process.communicate()
    assert process.returncode == 0
    assert told.decode().endswith("- update:true\n")
    return told.decode()


async def test_a_machine_says_of_itself_what_the_gateway_says_of_it(
    point: ExecutionPoint, shared_machine: MachineInProcess, tmp_path: Path
) -> None:
    """What the program writes is read by HTCondor's own ClassAds: a reason with quotes in it ends nothing."""
    before = int(time.time())
    yes = await published(point)
    until = int(yes.partition("ZtrootedTrustedUntil = ")[2].split()[0])
    assert before + BELIEVED_S <= until <= time.time() + BELIEVED_S
    await shared_machine.drift()
    try:
        no = await published(point)
    finally:
        await shared_machine.trust()
    odd = attributes("ex-1", now=0, refusal=GateError(GateReason.POLICY_DENIED, 'a "quote" \\\nZtrootedTrusted = True'))
    one, two, three = judge(tmp_path, [[text, VANILLA] for text in (yes, no, odd)])["judged"]
    assert (one["matches"], two["matches"], three["matches"]) == (True, False, False)
    assert two["ZtrootedReason"].startswith("ima.not_allowed: ")
    assert three["ZtrootedReason"].startswith("policy.denied: a 'quote' ''ZtrootedTrusted = True")


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"ZTROOTED_GATEWAY": "https://127.0.0.1:1"}, "environment.gateway_unreachable: "),
        ({"ZTROOTED_GATEWAY": ""}, "config.missing: ZTROOTED_GATEWAY"),
        ({"ZTROOTED_CA": "/etc/hostname"}, "environment."),
        ({"ZTROOTED_TOKEN_FILE": "/nonexistent"}, "environment.key_file: "),
        ({"ZTROOTED_TOKEN_FILE": "{0}/none"}, "auth."),
        ({"ZTROOTED_EXECUTOR": "ex-" + "0" * 32}, "dispatch.executor_unknown: "),
        ({"ZTROOTED_EXECUTOR": ""}, "config.missing: ZTROOTED_EXECUTOR"),
        ({"ZTROOTED_STATE": "/proc/nowhere"}, ""),
    ],
    ids=lambda one: "-".join(one.values()) if isinstance(one, dict) else "",
)
async def test_a_machine_that_can_not_be_asked_about_is_not_trusted(
    point: ExecutionPoint, tmp_path: Path, changed: dict[str, str], told: str
) -> None:
    (tmp_path / "none").write_text("zt_nobody")
    (tmp_path / "none").chmod(0o600)
    point.configure(**{name: value.format(tmp_path) for name, value in changed.items()})
    try:
        found = await published(point)
    finally:
        point.configure()
    assert "ZtrootedTrusted = False\nZtrootedTrustedUntil = 0\n" in found
    assert f'ZtrootedReason = "{told}' in found


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


AD = 'GlobalJobId = "ap#1.0#17"\nNumShadowStarts = 1\nOwner = "alice"\n'


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        ({"ad": ""}, "job.malformed: the job's ad does not say GlobalJobId"),
        ({"ad": AD.replace("= 1\n", "= 0\n")}, "job.malformed: the job's ad says NumShadowStarts = 0"),
        ({"ad": AD.replace("NumShadowStarts = 1\n", "")}, "job.malformed: the job's ad says NumShadowStarts = ,"),
        ({"ad": AD.replace("= 1\n", "= 1 + 1\n")}, "job.malformed"),
        ({"ad": AD + 'globaljobid = "ap#2.0#17"\n'}, "job.malformed: the job's ad has two attributes globaljobid"),
        ({"ad": AD.replace('"alice"', "Undefined")}, "job.malformed: the job's ad does not say Owner"),
        ({"program": "condor_exec.exe"}, "job."),
        ({"program": "/nonexistent"}, "job.file_mismatch"),
        ({"env": {"BYTES": "\udcff"}}, "job.malformed: the job's environment is not UTF-8"),
        ({"around": ("env", "-u", "_CONDOR_JOB_AD")}, "config.missing: _CONDOR_JOB_AD"),
        ({"around": ("sh", "-c", '"$0" "$@"; exit $?')}, "config.invalid: process"),
        ({"ZTROOTED_DEPUTY": "/nonexistent"}, "execution.agent_lost: no deputy answers at /nonexistent"),
        ({"ZTROOTED_ANCHORS": "/nonexistent"}, "config.missing: the anchors"),
        ({"ZTROOTED_EXECUTOR": "ex-" + "0" * 32}, "jws.executor"),
        ({"ZTROOTED_PYTHON": "/nonexistent"}, None),
    ],
    ids=lambda one: " ".join(map(str, one)) if isinstance(one, dict) else "",
)
async def test_a_job_that_is_refused_has_not_run_and_htcondor_is_told_why(
    point: ExecutionPoint, tmp_path: Path, told: dict[str, Any], reason: str | None
) -> None:
    """The file that HTCondor looks for has one line: it goes to the job's event log, and the job is queued again."""
    point.configure(**{name: told.pop(name) for name in list(told) if name.startswith("ZTROOTED_")})
    program = told.pop("program", script(tmp_path, f"#!/bin/sh\nprintf ran >{tmp_path}/ran\n"))
    try:
        started = await point.start(program, **told)
        status, complained = await started.over()
    finally:
        point.configure()
    assert status != 0
    assert not (tmp_path / "ran").exists()
    if reason is not None:
        where = complained if "ad" in told or "program" in told else started.read("_condor_stderr")
        assert where.startswith(f"ztrooted: {reason}"), complained
        if "env" not in told and "_CONDOR_JOB_AD" not in reason:
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


async def test_a_jobs_ad_names_it_whatever_else_is_in_there() -> None:
    found = read_job_ad(AD + 'Requirements = (TARGET.Arch == "X86_64")\nMemory = 1\nno attribute\n')
    assert (found.run, found.attempt, found.owner) == ("ap/1.0/17", 1, "alice")
