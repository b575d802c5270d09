"""HTCondor: expressions over machines, among them those that say nothing, and what a machine says of itself.

No daemon of HTCondor's runs here. Its own libraries parse deploy/htcondor's configuration and evaluate it
(``htcondor_classads``), and the program that publishes a machine's trust asks a real gateway.
"""

import asyncio
import json
import socket
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.orchestrators.adapter import ENVIRONMENTS, NOT_ASKED, WITHIN_S, asked
from tests.orchestrators.condor_starter import DEPLOYED, ExecutionPoint
from tests.support.agent_in_process import ROOT, MachineInProcess
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.integrations.htcondor import BELIEVED_S, attributes, require_trusted
from ztrooted.reasons import GateReason
from ztrooted.work import PATH

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(120)]

CLASSADS = ENVIRONMENTS / "htcondor" / "bin" / "python"
VANILLA = {"JobUniverse": "5"}


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


async def test_a_gateway_that_hangs_makes_no_machine_trusted(shared_machine: MachineInProcess) -> None:
    with socket.socket() as hung:
        hung.bind(("127.0.0.1", 0))
        hung.listen()
        url = f"https://127.0.0.1:{hung.getsockname()[1]}"
        settings = replace(await shared_machine.settings(), gateway=url)
        with pytest.raises(EnvironmentProblem, match="no answer"):
            await require_trusted(settings, shared_machine.id, within_s=WITHIN_S)
