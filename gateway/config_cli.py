"""``ztrooted gateway config …``: what is configured, and whether a gateway could start with it."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ztrooted.cli.output import JsonFlag, show

app = typer.Typer(no_args_is_help=True, help="Look at a gateway's configuration.")

DataFolder = Annotated[Path, typer.Argument(metavar="DATA", help="The gateway's data folder.")]
Host = Annotated[str | None, typer.Option(help="As 'serve' would be told.")]
Port = Annotated[int | None, typer.Option(min=0, max=65535, help="Likewise.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Likewise.")]


def flags_of(host: str | None, port: int | None, *, verbose: bool) -> dict[str, Any]:
    """What the flags of ``serve`` say, by the names of the settings."""
    return {"listen_host": host, "listen_port": port, "log_level": "debug" if verbose else None}


@app.command("check")
def check_command(
    data: DataFolder, host: Host = None, port: Port = None, verbose: Verbose = False, json: JsonFlag = False
) -> None:
    """Read all that a start reads, short of TPM and database. Exit code 3 where something is wrong, and what it is."""
    from gateway.config import load_config  # noqa: PLC0415 -- loads what --help has no use for
    from gateway.config_view import check  # noqa: PLC0415

    config = load_config(data, **flags_of(host, port, verbose=verbose))
    notes = check(config)
    said = [*(f"Note: {note}." for note in notes), f"The configuration in {config.data} is sound."]
    show({"sound": True, "notes": notes}, "\n".join(said), json=json)


@app.command("show")
def show_command(
    data: DataFolder, host: Host = None, port: Port = None, verbose: Verbose = False, json: JsonFlag = False
) -> None:
    """Print every setting with its value and where that came from: flag, environment, file and line, or default."""
    from gateway.config import load_config  # noqa: PLC0415
    from gateway.config_view import settings, text_of  # noqa: PLC0415

    flags = flags_of(host, port, verbose=verbose)
    config = load_config(data, **flags)
    found = settings(config, flags)
    show([one.encode() for one in found], text_of(found, config.data), json=json)
