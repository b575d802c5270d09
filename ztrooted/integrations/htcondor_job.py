"""HTCondor: which attempt of which job, and what its task and the deputy say to each other.

::

    task ── Question, one line of JSON ──▶ deputy
    task ◀── Answer, one line of JSON ──── deputy     with a connection to the agent beside it, where it is a ticket
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import Field

from ztrooted import limits
from ztrooted.errors import GateError
from ztrooted.models import Hex32, Model, Text
from ztrooted.reasons import GateReason
from ztrooted.work import name_of

DEPUTY = Path("/run/ztrooted-htcondor/deputy.sock")
MAX_AD = 1 << 18  # characters of a job's ad
_LINE = re.compile(r"\s*([A-Za-z_][A-Za-z0-9_.]*)\s*=\s*(.*)")
_TEXT = re.compile(r'"([^"\\]*)"')


class Question(Model):
    """What a task wants to have run: the job's ad, its command line and environment, and its program's digest."""

    ad: Annotated[str, Field(max_length=MAX_AD)]
    argv: Annotated[list[Text], Field(min_length=1, max_length=limits.ARGV_ITEMS)]
    env: dict[Text, Text]
    cwd: Text
    program: Hex32


class Answer(Model):
    """A ticket, or why there is none."""

    ticket: str | None = None
    reason: str = ""
    detail: str = ""
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class CondorJob:
    """Which attempt of which job: the names under which it is authorized."""

    run: str
    attempt: int
    owner: str


def read_job_ad(text: str) -> CondorJob:
    """Read ``_CONDOR_JOB_AD`` (HTCondor Manual, "Environment Variables": the format is that of ``condor_q -l``).

    GateError ``job.malformed`` where GlobalJobId, NumShadowStarts or Owner is missing, said twice, or an expression.
    """
    found: dict[str, str] = {}
    for line in text.split("\n"):
        matched = _LINE.fullmatch(line)
        if matched is None:
            continue
        name = matched[1].lower()  # names of attributes are those in any case
        if name in found:
            raise _malformed(f"the job's ad has two attributes {matched[1]!s:.60}")
        found[name] = matched[2].strip()
    job, owner = _text(found, "GlobalJobId"), _text(found, "Owner")
    starts = found.get("numshadowstarts", "")
    if not re.fullmatch(r"[1-9][0-9]{0,5}", starts):
        raise _malformed(f"the job's ad says NumShadowStarts = {starts!s:.40}, so which attempt this is is not known")
    return CondorJob(name_of(job.replace("#", "/")), int(starts), name_of(owner))


def _text(found: dict[str, str], name: str) -> str:
    matched = _TEXT.fullmatch(found.get(name.lower(), ""))
    if matched is None or not matched[1]:
        raise _malformed(f"the job's ad does not say {name}")
    return matched[1]


def _malformed(detail: str) -> GateError:
    return GateError(GateReason.JOB_MALFORMED, detail, "have condor_starter execute this, as its USER_JOB_WRAPPER")
