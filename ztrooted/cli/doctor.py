"""``ztrooted doctor``: is this machine fit to be an executor, or a gateway's."""

from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ztrooted.cli.executor import DEFAULT_EVENT_LOG, DEFAULT_IMA, DEFAULT_SOCKET, EventLog, ImaList, Socket, tpm_address
from ztrooted.cli.output import NO, JsonFlag, counted, show, terminal
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from ztrooted.doctor.finding import Finding

_MARKS = {"pass": "[green]pass[/]", "warning": "[yellow]warning[/]", "fail": "[bold red]fail[/]"}


def doctor(
    gateway_data: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Look at a gateway's machine: this is its data folder. Default: an executor's."
        ),
    ] = None,
    tpm: Annotated[
        str,
        typer.Option(
            help="An executor's TPM: device:/dev/tpmrm0, or socket:/path of a software TPM.",
            metavar="ADDRESS",
            callback=tpm_address,
        ),
    ] = "device:/dev/tpmrm0",
    event_log: EventLog = DEFAULT_EVENT_LOG,
    ima: ImaList = DEFAULT_IMA,
    socket: Socket = DEFAULT_SOCKET,
    gateway: Annotated[
        str | None,
        typer.Option(envvar="ZTROOTED_GATEWAY", metavar="URL", help="The gateway that an executor is to reach."),
    ] = None,
    ca: Annotated[
        Path | None, typer.Option(envvar="ZTROOTED_CA", metavar="PEM", help="The gateway's tls/ca.pem.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say what on this machine would keep an executor or a gateway from working, and what to do. Changes nothing.

    Exit code 0 where nothing failed (warnings may be there), 1 where something did, 3 where DIR is no gateway's.
    """
    if (gateway is None) != (ca is None):
        raise UsageProblem(GateReason.CONFIG_MISSING, "--gateway and --ca go together", "give both")
    looked = _executor(tpm, event_log, ima, socket, gateway, ca) if gateway_data is None else _gateway(gateway_data)
    findings = []
    for one in looked:
        findings.append(one)
        if not json:
            _print(one)
    failures = sum(one.level == "fail" for one in findings)
    warnings = sum(one.level == "warning" for one in findings)
    last = f"{counted(len(findings), 'check')}: {counted(failures, 'failure')}, {counted(warnings, 'warning')}."
    show({"sound": not failures, "findings": [one.encode() for one in findings]}, last, json=json)
    raise typer.Exit(NO if failures else 0)


def _executor(
    tpm: str, event_log: Path, ima: Path, socket: Path, gateway: str | None, ca: Path | None
) -> "Iterator[Finding]":
    from ztrooted.doctor import chip, machine, network  # noqa: PLC0415 -- not every command looks at machines

    yield from chip.look_at_tpm(tpm)
    yield machine.look_at_event_log(event_log)
    yield from machine.look_at_ima(ima)
    yield machine.look_at_clock()
    yield machine.look_at_namespaces()
    yield machine.look_at_cgroups()
    yield machine.look_at_socket(socket)
    if gateway is not None and ca is not None:
        yield from network.look_at_gateway(gateway, ca)


def _gateway(data: Path) -> "Iterator[Finding]":
    found = [one for one in entry_points(group="ztrooted.doctor") if one.name == "gateway"]
    if not found:
        raise EnvironmentProblem(
            GateReason.CONFIG_MISSING, "no gateway is installed here", "pip install 'ztrooted[gateway]'"
        )
    looked: Iterator[Finding] = found[0].load()(data)
    return looked


def _print(one: "Finding") -> None:
    from rich.markup import escape  # noqa: PLC0415 -- the same

    from ztrooted.inspect.plain import printable  # noqa: PLC0415

    console = terminal(soft_wrap=True)
    code = "" if one.reason is None else f" [dim]({one.reason})[/]"
    console.print(f"{_MARKS[one.level]}  {one.check}: {escape(printable(one.detail))}{code}")
    if one.reason is not None:
        console.print(f"      {escape(one.meaning)}\n      [bold]What to do:[/] {escape(printable(one.to_do))}")
