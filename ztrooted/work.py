"""What somebody wants to have run, described as a job: everything that is authorized, and nothing of the caller's own."""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ztrooted import canonical
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.models import Job
from ztrooted.reasons import GateReason
from ztrooted.validation import explain_validation

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}")  # of a job's workflow, run and step
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass(frozen=True, slots=True)
class Work:
    """A job, and the environment whose digest it names."""

    job: Job
    env: dict[str, str]


def describe(
    argv: Sequence[str],
    *,
    workflow: str,
    run: str,
    step: str,
    env: Mapping[str, str] | None = None,
    files: Iterable[str | Path] = (),
    **options: Any,
) -> Work:
    """Describe a command line. ``files`` must be the same when it starts; ``options`` are further fields of ``Job``.

    UsageProblem ``job.malformed`` for what can't be meant; EnvironmentProblem ``job.file_mismatch`` for a file that can't
    be read here.
    """
    whole = {"PATH": PATH, **(env or {})}
    named = {str(path): _digest(Path(path)) for path in files}
    try:
        job = Job(
            workflow=workflow,
            run=run,
            step=step,
            argv=list(argv),
            env=canonical.digest(dict(whole)),
            files=named,
            **options,
        )
    except ValidationError as error:
        raise UsageProblem(GateReason.JOB_MALFORMED, explain_validation(error)) from error
    return Work(job, whole)


def name_of(text: str) -> str:
    """A name that somebody else gives, as a job's: itself, or its digest where it is too long or has other letters."""
    return text if NAME.fullmatch(text) else f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.JOB_FILE_MISMATCH,
            f"{path}, which the job names, can't be read: {error.strerror}",
            "name files by their absolute path, as they are on the executor",
        ) from error
