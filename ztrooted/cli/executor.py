"""``ztrooted executor …``: on the machines that run jobs."""

import asyncio
import re
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ztrooted import limits
from ztrooted.cli.connection import CaFile, GatewayUrl
from ztrooted.cli.files import read
from ztrooted.cli.output import JsonFlag, LogFormat, show
from ztrooted.cli.retirement import app as retirement_app
from ztrooted.errors import UsageProblem
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from ztrooted.anchors import Anchors

app = typer.Typer(no_args_is_help=True, help="Make this machine an executor: prove it to a gateway, and run its jobs.")
app.add_typer(retirement_app)  # its commands stand beside ours


def tpm_address(text: str) -> str:
    """The address of a TPM as it was given. UsageProblem for what is none."""
    if not re.fullmatch("(device|swtpm|socket):/.+", text):
        remedy = "write device:/dev/tpmrm0, socket:/path of a running software TPM, or swtpm:/folder of one's state"
        raise UsageProblem(GateReason.CONFIG_INVALID, f"{text!r} is not the address of a TPM", remedy)
    return text


Tpm = Annotated[
    str,
    typer.Option(
        help="This machine's TPM: device:/dev/tpmrm0, or socket:/path of a software TPM.",
        metavar="ADDRESS",
        callback=tpm_address,
    ),
]
Socket = Annotated[
    Path, typer.Option("--socket", envvar="ZTROOTED_SOCKET", help="Unix socket for 'ztrooted exec'.", metavar="PATH")
]
EventLog = Annotated[Path, typer.Option(help="The firmware's event log.")]
ImaList = Annotated[Path, typer.Option(help="The kernel's measurement list, in its ASCII form.")]

AnchorsFile = Annotated[
    Path | None,
    typer.Option(
        "--anchors", metavar="FILE", help="Have nothing to do with a gateway that does not prove the state in here."
    ),
]

Collector = Annotated[
    str | None,
    typer.Option(
        "--otlp-endpoint",
        envvar="ZTROOTED_OTLP_ENDPOINT",
        metavar="URL",
        help="Send traces to this OpenTelemetry collector, such as http://127.0.0.1:4318. Needs the extra 'otel'.",
    ),
]

DEFAULT_SOCKET = Path("/run/ztrooted/executor.sock")
DEFAULT_EVENT_LOG = Path("/sys/kernel/security/tpm0/binary_bios_measurements")
DEFAULT_IMA = Path("/sys/kernel/security/ima/ascii_runtime_measurements")


def _anchors(file: Path | None) -> "Anchors | None":
    from ztrooted.anchors import parse_anchors  # noqa: PLC0415 -- loads what few commands have a use for

    return None if file is None else parse_anchors(read(file, limits.BODY, GateReason.CONFIG_INVALID), str(file))


@app.command()
def enroll(
    gateway: GatewayUrl,
    ca: CaFile,
    tpm: Tpm = "device:/dev/tpmrm0",
    event_log: EventLog = DEFAULT_EVENT_LOG,
    ima: ImaList = DEFAULT_IMA,
    anchors: AnchorsFile = None,
    json: JsonFlag = False,
) -> None:
    """Prove this machine to the gateway once, and print what it was found to be. Nothing is kept."""
    from tpm.device import Device  # noqa: PLC0415 -- loads the TSS
    from ztrooted.executor.agent import Agent, AgentConfig  # noqa: PLC0415

    config = AgentConfig(gateway, ca, tpm, DEFAULT_SOCKET, event_log, ima, anchors=_anchors(anchors))
    with Device.open(tpm) as device:
        enrolled = asyncio.run(Agent(config, device).enroll()).enrolled
    value = enrolled.model_dump(include={"executor", "virtual", "trusted", "reason", "detail"})
    kind = "a software TPM (virtual)" if enrolled.virtual else "a hardware TPM"
    state = "trusted" if enrolled.trusted else f"not trusted: {enrolled.detail} ({enrolled.reason})"
    show(value, f"Enrolled {enrolled.executor}, with {kind}.\nIts present state is {state}.", json=json)


@app.command()
def run(
    gateway: GatewayUrl,
    ca: CaFile,
    tpm: Tpm = "device:/dev/tpmrm0",
    event_log: EventLog = DEFAULT_EVENT_LOG,
    ima: ImaList = DEFAULT_IMA,
    socket: Socket = DEFAULT_SOCKET,
    anchors: AnchorsFile = None,
    allow_weak_enforcement: Annotated[
        bool,
        typer.Option(
            help="Run jobs even where no PID namespace can be made. Records say so; double-forks may survive."
        ),
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every message.")] = False,
    log_format: LogFormat = "json",
    otlp_endpoint: Collector = None,
) -> None:
    """Enroll, then answer challenges and run jobs until SIGTERM or Ctrl-C. Each event is one line on standard error."""
    from tpm.device import Device  # noqa: PLC0415
    from ztrooted.executor.agent import Agent, AgentConfig  # noqa: PLC0415
    from ztrooted.log_memory import state_folder  # noqa: PLC0415
    from ztrooted.logs import configure, take_over  # noqa: PLC0415
    from ztrooted.tracing import tracing_to  # noqa: PLC0415

    configure(verbose=verbose, form=log_format)
    take_over()
    config = AgentConfig(
        gateway, ca, tpm, socket, event_log, ima, allow_weak_enforcement, _anchors(anchors), state_folder()
    )

    async def serve() -> None:
        stop = asyncio.Event()
        for name in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(name, stop.set)
        await Agent(config, device).run(stop)

    tracing = tracing_to(otlp_endpoint, "ztrooted-executor")
    try:
        with Device.open(tpm) as device:
            asyncio.run(serve())
    finally:
        if tracing is not None:
            tracing.close()
