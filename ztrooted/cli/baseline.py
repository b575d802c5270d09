"""``ztrooted baseline …``: reference values, from machines and from files."""

import asyncio
import re
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from ztrooted.baseline_diff import Difference, diff
from ztrooted.baseline_models import BaselineView
from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.files import about, read, write
from ztrooted.cli.output import NO, JsonFlag, counted, show, show_table
from ztrooted.errors import EnvironmentProblem
from ztrooted.evidence import sha256
from ztrooted.inspect.plain import printable
from ztrooted.reasons import GateReason
from ztrooted.reference import MAXIMUM, Baseline, parse_baseline

app = typer.Typer(
    no_args_is_help=True, help="Reference values: say what a good machine looks like, compare, and approve it."
)

Digest = Annotated[str, typer.Argument(metavar="BASELINE", help="The digest that 'capture' or 'propose' printed.")]
SHOWN = 20
_UNITS = {"m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


@app.command()
def capture(
    executor: Annotated[str, typer.Argument(metavar="EXECUTOR", help="The executor to take as the example: ex-…")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """Propose the present, verified state of an executor as the baseline of its class. Approve it separately."""

    async def ask() -> BaselineView:
        async with connect(gateway, ca, token_file) as client:
            return await client.capture_baseline(executor)

    _proposed(asyncio.run(ask()), "Captured", json=json)


@app.command()
def propose(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A baseline that 'compute' or 'export' wrote.")],
    executor_class: Annotated[str, typer.Option("--class", metavar="NAME", help="For which class of executors.")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """Propose a baseline from a file for a class. Approve it separately."""
    data = read(file, MAXIMUM, GateReason.BASELINE_MALFORMED)
    with about(file):
        parse_baseline(data)

    async def ask() -> BaselineView:
        async with connect(gateway, ca, token_file) as client:
            return await client.propose_baseline(data, executor_class)

    _proposed(asyncio.run(ask()), "Proposed", json=json)


@app.command()
def approve(
    baseline: Digest,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    expires_in: Annotated[
        str | None, typer.Option(metavar="TIME", help="Until it has to be approved again, such as 12h, 90d, 26w.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Put a proposed baseline in force. Your name goes into the lineage with it."""
    expires_in_s = None if expires_in is None else _seconds(expires_in)

    async def ask() -> BaselineView:
        async with connect(gateway, ca, token_file) as client:
            return await client.approve_baseline(baseline, expires_in_s=expires_in_s)

    view = asyncio.run(ask())
    text = (
        f"Baseline {view.baseline} is in force for class {view.executor_class} as version {view.version},"
        f" approved by {view.approved_by}."
    )
    show(view.model_dump(), text, json=json)


@app.command("list")
def every(gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False) -> None:
    """List the baselines, the latest proposal first."""

    async def ask() -> list[BaselineView]:
        async with connect(gateway, ca, token_file) as client:
            return await client.baselines()

    views = asyncio.run(ask())
    if json:
        show([view.model_dump() for view in views], "", json=True)
        return
    columns = ("baseline", "class", "version", "approved by", "in force", "PCRs", "events", "files")
    rows = [
        (
            view.baseline,
            view.executor_class,
            "" if view.version is None else str(view.version),
            view.approved_by or "",
            "yes" if view.in_force else "no",
            str(view.pcrs),
            str(view.events),
            str(view.files),
        )
        for view in views
    ]
    show_table(
        columns, rows, empty="No baseline was proposed yet: 'ztrooted baseline capture' takes one of an executor."
    )


@app.command()
def export(
    baseline: Digest,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write it.", metavar="FILE")],
    json: JsonFlag = False,
) -> None:
    """Fetch a baseline's exact bytes."""
    data = asyncio.run(_fetch(baseline, gateway, ca, token_file))
    write(output, data)
    show({"baseline": baseline, "bytes": len(data)}, f"Wrote {len(data)} bytes to {output}.", json=json)


@app.command()
def compute(
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the baseline.", metavar="FILE")],
    tree: Annotated[
        list[Path] | None, typer.Option(metavar="DIR", help="Hash every regular file below DIR. Repeatable.")
    ] = None,
    root: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The folder that is / on the machine; without --tree all of it is hashed."),
    ] = Path("/"),
    deb: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Hash the files of a Debian package. Repeatable.")
    ] = None,
    event_log: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Take the facts of a boot from a firmware event log.")
    ] = None,
    pin: Annotated[
        list[int] | None,
        typer.Option(metavar="PCR", min=0, max=23, help="Also take this PCR from the log. Repeatable."),
    ] = None,
    bank: Annotated[Literal["sha256", "sha384", "sha512"], typer.Option(help="PCR bank of the event log.")] = "sha256",
    digest: Annotated[
        Literal["sha256", "sha384", "sha512"], typer.Option(help="With what IMA measures files (ima_hash=).")
    ] = "sha256",
    executable_only: Annotated[
        bool, typer.Option("--executable-only", help="Only files with an execute permission.")
    ] = False,
    at: Annotated[
        int | None, typer.Option(metavar="MS", min=0, help="Time to write into it, for reproducible results.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Compute a baseline from files, offline: directory trees, a root filesystem, Debian packages, an event log."""
    from ztrooted.baseline_sources import Source, existing  # noqa: PLC0415 -- loads much that --help has no use for
    from ztrooted.baseline_sources import compute as compute_baseline  # noqa: PLC0415

    trees = existing(tree or [])
    if not trees and root != Path("/"):
        trees = existing([root])
    if not trees and not deb and event_log is None:
        raise typer.BadParameter("name what to compute it from: --tree, --root, --deb or --event-log")
    source = Source(
        algorithm=digest,
        executable_only=executable_only,
        root=root,
        trees=trees,
        packages=existing(deb or []),
        event_log=event_log,
        bank=bank,
        pins=pin or [],
    )
    baseline = compute_baseline(source, time.time_ns() // 1_000_000 if at is None else at)
    data = baseline.encode()
    write(output, data)
    value = {"baseline": sha256(data), "files": len(baseline.ima), "pcrs": len(baseline.pcrs), "bytes": len(data)}
    text = f"Wrote baseline {value['baseline']}: {value['files']} files, {value['pcrs']} PCRs, {len(data)} bytes."
    show(value, text, json=json)


@app.command("diff")
def compare(
    first: Annotated[str, typer.Argument(metavar="A", help="A file, or the digest of a baseline.")],
    second: Annotated[str, typer.Argument(metavar="B", help="Likewise.")],
    gateway: Annotated[str, typer.Option("--gateway", envvar="ZTROOTED_GATEWAY", metavar="URL")] = "",
    ca: Annotated[Path | None, typer.Option("--ca", envvar="ZTROOTED_CA", metavar="PEM")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", envvar="ZTROOTED_TOKEN_FILE", metavar="FILE")
    ] = None,
    whole: Annotated[bool, typer.Option("--all", help=f"Show all differences, not only {SHOWN} of each part.")] = False,
    json: JsonFlag = False,
) -> None:
    """Say what differs from A to B. Exit code 0 if nothing does, 1 otherwise."""

    def load(name: str) -> Baseline:
        if Path(name).is_file():
            with about(name):
                return parse_baseline(read(Path(name), MAXIMUM, GateReason.BASELINE_MALFORMED))
        if not gateway or ca is None or token_file is None:
            raise EnvironmentProblem(
                GateReason.CONFIG_MISSING,
                f"{name!r} is not a file, and without --gateway, --ca and --token-file nobody can be asked",
                "name files, or the gateway that knows the baseline",
            )
        return parse_baseline(asyncio.run(_fetch(name, gateway, ca, token_file)))

    found = diff(load(first), load(second))
    if json:
        show({"same": not found, "count": len(found), "differences": [one.encode() for one in found]}, "", json=True)
    else:
        _print(found, whole=whole)
    if found:
        sys.exit(NO)


async def _fetch(digest: str, gateway: str, ca: Path, token_file: Path) -> bytes:
    async with connect(gateway, ca, token_file) as client:
        return await client.baseline(digest)


def _proposed(view: BaselineView, verb: str, *, json: bool) -> None:
    text = (
        f"{verb} baseline {view.baseline}: {view.pcrs} PCRs, {view.events} boot events, {view.files} measured files.\n"
        f"It changes nothing until it is approved: ztrooted baseline approve {view.baseline}"
    )
    show(view.model_dump(), text, json=json)


def _seconds(text: str) -> int:
    found = re.fullmatch(r"([1-9][0-9]{0,5})([mhdw])", text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no length of time; write one like 12h, 90d or 26w")
    return int(found[1]) * _UNITS[found[2]]


def _print(found: list[Difference], *, whole: bool) -> None:
    console = Console(highlight=False, soft_wrap=True)
    marks = {"added": "[green]+[/]", "removed": "[red]-[/]", "changed": "[yellow]~[/]"}
    counts: dict[str, int] = {}
    for one in found:
        counts[one.part] = counts.get(one.part, 0) + 1
        if whole or counts[one.part] <= SHOWN:
            change = f": {one.before} → {one.after}" if one.before and one.after else f": {one.before or one.after}"
            shown = escape(printable(one.name + (change if one.before or one.after else "")))
            console.print(f"{marks[one.kind]} {one.part} {shown}")
    left = sum(count - SHOWN for count in counts.values() if count > SHOWN)
    if left and not whole:
        console.print(f"… and {left} more; --all shows them")
    summary = ", ".join(f"{count} of {part}" for part, count in counts.items())
    console.print(f"{counted(len(found), 'difference')}: {summary}." if found else "No difference.")
