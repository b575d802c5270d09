"""A job between its messages and the supervisor: what was asked for, and how it ended."""

from ztrooted.channel_messages import EndedMessage
from ztrooted.control_messages import ExecEnded, ExecRequest
from ztrooted.executor.cgroups import Limits
from ztrooted.executor.supervisor import JobEnd, JobSpec


def spec_of(request: ExecRequest) -> JobSpec:
    """What the supervisor is to run."""
    job = request.job
    user = None
    if job.user is not None:
        uid, _, gid = job.user.partition(":")
        user = int(uid), int(gid)
    limits = Limits(job.memory, job.pids, job.cpu)
    return JobSpec(tuple(job.argv), dict(request.env), job.cwd, dict(job.files), user, limits)


def report_of(authorization: str, end: JobEnd, interrupted_at: float | None) -> EndedMessage:
    """How a job ended, for the gateway; with the time its death took where somebody ended it."""
    kill_ms = None
    if interrupted_at is not None:
        kill_ms = max(0, round((end.ended_monotonic_ns / 1e9 - interrupted_at) * 1000))
    return EndedMessage(
        authorization=authorization,
        outcome=end.outcome,
        exit_status=end.exit_status,
        signal=end.signal,
        reason=end.reason,
        kill_ms=kill_ms,
    )


def ended(authorization: str, end: JobEnd) -> ExecEnded:
    """How it ended, for the caller."""
    return ExecEnded(
        authorization=authorization,
        outcome=end.outcome,
        exit_status=end.exit_status,
        signal=end.signal,
        reason=end.reason,
        detail="",
    )


def not_started(authorization: str | None, reason: str, detail: str) -> ExecEnded:
    """Why it did not start, for the caller."""
    return ExecEnded(
        authorization=authorization,
        outcome="not_started",
        exit_status=None,
        signal=None,
        reason=reason,
        detail=detail[:4096],
    )
