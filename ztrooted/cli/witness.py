"""``ztrooted witness …``: keep watch over other people's logs."""

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from ztrooted.cli.files import read
from ztrooted.cli.output import JsonFlag, LogFormat, Version, show
from ztrooted.errors import ProofError, UsageProblem
from ztrooted.note_keys import NoteKey, parse_vkey
from ztrooted.reasons import GateReason

app = typer.Typer(no_args_is_help=True)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The witness's folder.")]


@app.callback()
def about(version: Version = False) -> None:
    """Cosign checkpoints of logs that only ever append, so that none can show two histories."""


@app.command()
def init(
    folder: Folder,
    name: Annotated[str, typer.Option(help="The witness's name, such as witness.example.org/w1; part of its keys.")],
    log: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN=VKEY", help="A log to watch and a key of it; again for more of either."),
    ] = None,
    anchors: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Anchors of a gateway whose log is to be watched.")
    ] = None,
    ml_dsa: Annotated[bool, typer.Option("--ml-dsa", help="Sign with a post-quantum key as well.")] = False,
    json: JsonFlag = False,
) -> None:
    """Create a witness: its keys, and a configuration witness.toml that names the logs."""
    from ztrooted.witness_folder import create_witness  # noqa: PLC0415 -- needs SQLite

    made = create_witness(folder, name, _logs(log or [], anchors or []), post_quantum=ml_dsa)
    vkeys = [one.key.vkey for one in made.cosigners]
    lines = [f"Created a witness of {len(made.logs)} logs in {folder}. Its keys, for whoever relies on it:", *vkeys]
    show({"folder": str(folder), "vkeys": vkeys, "logs": list(made.logs)}, "\n".join(lines), json=json)


@app.command()
def serve(
    folder: Folder,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to listen; port 0 takes a free one.")],
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="PEM", help="Serve https with this certificate and its chain.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(metavar="PEM", help="Its private key; its owner's alone.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Log every message.")] = False,
    log_format: LogFormat = "json",
) -> None:
    """Serve until SIGTERM or Ctrl-C. Each event is one line on standard error."""
    from ztrooted.logs import configure, take_over  # noqa: PLC0415
    from ztrooted.witness_folder import load_witness  # noqa: PLC0415
    from ztrooted.witness_service import serve as run  # noqa: PLC0415
    from ztrooted.witness_service import server_tls  # noqa: PLC0415

    configure(verbose=verbose, form=log_format)
    take_over()
    host, _, port = listen.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageProblem(GateReason.CONFIG_INVALID, f"{listen!r} is no HOST:PORT", "such as --listen 127.0.0.1:8444")
    if (tls_certificate is None) is not (tls_key is None):
        raise UsageProblem(
            GateReason.CONFIG_INVALID, "one of --tls-certificate and --tls-key is missing", "give both, or neither"
        )
    tls = None if tls_certificate is None or tls_key is None else server_tls(tls_certificate, tls_key)
    asyncio.run(run(load_witness(folder), host.strip("[]"), int(port), tls))


@app.command()
def keys(folder: Folder, json: JsonFlag = False) -> None:
    """Print the witness's keys, for gateways and auditors that are to rely on it."""
    from ztrooted.witness_folder import load_witness  # noqa: PLC0415

    vkeys = [one.key.vkey for one in load_witness(folder).cosigners]
    show({"vkeys": vkeys}, "\n".join(vkeys), json=json)


def _logs(named: list[str], files: list[Path]) -> dict[str, list[NoteKey]]:
    """The keys of each log. UsageProblem for what names none."""
    from ztrooted.anchors import parse_anchors  # noqa: PLC0415
    from ztrooted.strict_toml import MAX_TOML  # noqa: PLC0415

    found: dict[str, list[NoteKey]] = {}
    for text in named:
        origin, _, vkey = text.partition("=")
        try:
            found.setdefault(origin, []).append(parse_vkey(vkey))
        except ProofError as error:
            raise UsageProblem(error.reason, f"--log {text[:80]!r}: {error.detail}", "give ORIGIN=VKEY") from error
    for file in files:
        known = parse_anchors(read(file, MAX_TOML, GateReason.CONFIG_INVALID), str(file))
        found.setdefault(known.origin, []).append(known.log_key)
    return found
