"""``ztrooted authorize``, ``exec`` and ``watch``: what an orchestrator does around each dispatch."""

import asyncio
import re
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from ztrooted import canonical
from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.executor import DEFAULT_SOCKET, Socket
from ztrooted.cli.files import read, write
from ztrooted.cli.job_options import Cpu, Memory, PassEnv, Pids, RunAs, options, passed
from ztrooted.cli.output import JsonFlag, errors, show
from ztrooted.clock import instant
from ztrooted.control_messages import ExecRequest, ExecStarted
from ztrooted.delegation import Delegation
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.models import DispatchRequest, Job, compose
from ztrooted.reasons import GateReason
from ztrooted.validation import explain_validation

Command = Annotated[list[str], typer.Argument(metavar="-- COMMAND…", help="The command line of the job.")]
Workflow = Annotated[str, typer.Option(help="Workflow that the job belongs to.")]
RunId = Annotated[str, typer.Option("--run", help="Which run of the workflow.")]
Step = Annotated[str, typer.Option(help="Which step of the run.")]
Attempt = Annotated[int, typer.Option(min=1, help="Which attempt; a retry needs its own authorization.")]
Env = Annotated[list[str] | None, typer.Option("--env", metavar="NAME=VALUE", help="The job's whole environment.")]
Cwd = Annotated[str, typer.Option(help="The job's working directory.")]
Files = Annotated[
    list[str] | None,
    typer.Option("--file", metavar="PATH=SHA256", help="A file that must have this digest when the job starts."),
]

START_FAILED = 126
KILLED = 137


def authorize(
    executor: Annotated[str, typer.Option(help="The executor to run on: ex-…", metavar="ID")],
    command: Command,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    workflow: Workflow = "manual",
    run: RunId = "1",
    step: Step = "main",
    attempt: Attempt = 1,
    env: Env = None,
    cwd: Cwd = "/",
    file: Files = None,
    pass_env: PassEnv = None,
    user: RunAs = None,
    memory: Memory = None,
    pids: Pids = None,
    cpu: Cpu = None,
    max_runtime: Annotated[
        int | None,
        typer.Option(min=1, help="Seconds after which the job ends in any case; an hour, or what its parent has left."),
    ] = None,
    parent: Annotated[str | None, typer.Option(help="The live authorization that this is a child of.")] = None,
    delegate_depth: Annotated[int, typer.Option(min=0, help="How many levels there may be below this one.")] = 0,
    delegate_children: Annotated[int, typer.Option(min=0, help="How many children this one may be given.")] = 0,
    delegate_step: Annotated[list[str] | None, typer.Option(help="A step that children may run; any without.")] = None,
    delegate_executor: Annotated[
        list[str] | None, typer.Option(help="An executor that children may run on; any without.", metavar="ID")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the artifact to this file.")] = None,
    json: JsonFlag = False,
) -> None:
    """Ask whether a job may run on an executor, now. Prints the artifact; exit code 1 when the answer is no."""
    env = passed(env, pass_env)
    job = _job(command, workflow, run, step, attempt, env, cwd, file, options(user, memory, pids, cpu))
    delegation = compose(
        Delegation,
        depth=delegate_depth,
        children=delegate_children,
        steps=delegate_step or None,
        executors=delegate_executor or None,
    )
    request = compose(
        DispatchRequest, executor=executor, job=job, max_runtime_s=max_runtime, parent=parent, delegation=delegation
    )

    async def ask() -> dict[str, object]:
        async with connect(gateway, ca, token_file) as client:
            grant = await client.authorize(request)
            return grant.model_dump()

    grant = asyncio.run(ask())
    if output is not None:
        write(output, f"{grant['artifact']}\n".encode())
        output.chmod(0o600)
    until = instant(int(str(grant["expires"])))
    told = f"Authorized as {grant['authorization']}, lease until {until}."
    show(grant, str(grant["artifact"]) if output is None else f"{told}\nArtifact in {output}.", json=json)
    if output is None and not json:
        errors.print(told)


def execute(
    artifact: Annotated[Path, typer.Option("--artifact", help="File with the artifact.", metavar="FILE")],
    command: Command,
    workflow: Workflow = "manual",
    run: RunId = "1",
    step: Step = "main",
    attempt: Attempt = 1,
    env: Env = None,
    cwd: Cwd = "/",
    file: Files = None,
    pass_env: PassEnv = None,
    user: RunAs = None,
    memory: Memory = None,
    pids: Pids = None,
    cpu: Cpu = None,
    socket: Socket = DEFAULT_SOCKET,
    json: JsonFlag = False,
) -> None:
    """Run an authorized job on this executor, through its agent, as if the command had been run here.

    Streams and exit status pass through. 126: it may not run. 137: it was killed because its authorization ended.
    """
    from ztrooted.executor.caller import run_through_agent  # noqa: PLC0415 -- belongs to the executor extra
    from ztrooted.inspect.plain import printable  # noqa: PLC0415 -- the same

    env = passed(env, pass_env)
    job = _job(command, workflow, run, step, attempt, env, cwd, file, options(user, memory, pids, cpu))
    request = compose(ExecRequest, artifact=_read_artifact(artifact), job=job, env=_environment(env))

    def started(event: ExecStarted) -> None:
        if json:
            errors.print_json(event.model_dump_json())

    ended = run_through_agent(socket, request, started)
    if json:
        errors.print_json(ended.model_dump_json())
    elif ended.outcome == "not_started":
        errors.print(f"[bold red]Not started:[/] {escape(printable(ended.detail))} [dim]({ended.reason})[/]")
    elif ended.outcome == "killed":
        errors.print(f"[bold red]Killed:[/] {ended.reason}")
    if ended.outcome == "not_started":
        sys.exit(START_FAILED)
    if ended.outcome == "killed":
        sys.exit(KILLED)
    sys.exit(128 + ended.signal if ended.signal else ended.exit_status or 0)


def watch(
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    start: Annotated[int, typer.Option("--from", min=0, help="First record to show.")] = 0,
    json: JsonFlag = False,
) -> None:
    """Follow the event feed: everything that happens to your authorizations, one line each, resumable by number."""

    async def follow() -> None:
        async with connect(gateway, ca, token_file) as client:
            async for event in client.events(start):
                if json:
                    record = event.record.encode().decode()
                    sys.stdout.write(f'{{"seq": {event.seq}, "record": {record}}}\n')
                else:
                    at = instant(event.record.at, "milliseconds")
                    reason = event.record.body.get("reason") or ""
                    sys.stdout.write(f"{event.seq:>6}  {at}  {event.record.authorization}  {event.type}  {reason}\n")
                sys.stdout.flush()

    asyncio.run(follow())


def _job(
    command: list[str],
    workflow: str,
    run: str,
    step: str,
    attempt: int,
    env: list[str] | None,
    cwd: str,
    files: list[str] | None,
    more: dict[str, Any],
) -> Job:
    named = {}
    for item in files or []:
        path, _, digest = item.rpartition("=")
        if not re.fullmatch("[0-9a-f]{64}", digest) or not path.startswith("/") or path in named:
            what = f"{item!r} is not PATH=SHA256 with an absolute path, or its path comes twice"
            raise typer.BadParameter(what, param_hint="--file")
        named[path] = digest
    try:
        return Job(
            workflow=workflow,
            run=run,
            step=step,
            attempt=attempt,
            argv=command,
            env=canonical.digest(_environment(env)),
            cwd=cwd,
            files=named,
            **more,
        )
    except ValidationError as error:
        raise UsageProblem(GateReason.JOB_MALFORMED, explain_validation(error)) from error


def _given(env: list[str] | None) -> dict[str, str]:
    found: dict[str, str] = {}
    for item in env or []:
        name, equals, value = item.partition("=")
        if not name or not equals or name in found:
            raise typer.BadParameter(f"{item!r} is not NAME=VALUE, or its name comes twice", param_hint="--env")
        found[name] = value
    return found


def _environment(env: list[str] | None) -> dict[str, str]:
    """The job's environment: what was given, and a search path where none was."""
    return {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **_given(env)}


def _read_artifact(path: Path) -> str:
    from ztrooted.jose import MAX_TOKEN  # noqa: PLC0415 -- loads what --help has no use for

    remedy = "name what 'ztrooted authorize' wrote"
    data = read(path, MAX_TOKEN, GateReason.CONFIG_MISSING, remedy)
    if not data.isascii():
        raise EnvironmentProblem(GateReason.CONFIG_MISSING, f"{path} does not hold an artifact", remedy)
    return data.decode().strip()
