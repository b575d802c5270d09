"""``ztrooted audit …``: export what proves an authorization, and verify it offline."""

import asyncio
import json as jsonlib
import os
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from ztrooted import limits
from ztrooted.anchors import parse_anchors
from ztrooted.audit_plan import PLAN
from ztrooted.audit_statement import attest as sign_report
from ztrooted.bundle import pack, unpack
from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.files import about, read, read_at_most, write
from ztrooted.cli.monitor import monitor
from ztrooted.cli.output import NO, JsonFlag, counted, show, terminal
from ztrooted.cli.proof import check_proof, proof
from ztrooted.clock import SystemClock, instant
from ztrooted.dsse import MAX_KEY, load_signing_key
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason
from ztrooted.verdict import Status
from ztrooted.verify import Report, verify_bundle

app = typer.Typer(no_args_is_help=True, help="Export proof bundles, and verify them offline with nothing but anchors.")

app.command("monitor")(monitor)
app.command("proof")(proof)
app.command("check-proof")(check_proof)

_COLOUR = {Status.PASS: "green", Status.FAIL: "bold red", Status.NOT_CHECKED: "yellow"}


@app.command()
def export(
    authorization: Annotated[str, typer.Argument(metavar="AUTHORIZATION", help="Which authorization.")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    output: Annotated[Path, typer.Option("--output", "-o", help="Where to write the bundle.", metavar="FILE")],
    json: JsonFlag = False,
) -> None:
    """Fetch the bundle that proves one authorization. The gateway seals a checkpoint first. FILE.gz is compressed."""

    async def fetch() -> bytes:
        async with connect(gateway, ca, token_file) as client:
            return await client.bundle(authorization)

    data = asyncio.run(fetch())
    if output.suffix == ".gz":
        data = pack(data)
    write(output, data)
    show({"bundle": str(output), "bytes": len(data)}, f"Wrote {len(data)} bytes to {output}.", json=json)


@app.command()
def verify(
    bundle: Annotated[Path | None, typer.Argument(metavar="BUNDLE", help="The bundle to verify.")] = None,
    anchors: Annotated[
        Path | None,
        typer.Option(help="Trust anchors, from the gateway's operator: ztrooted gateway anchors.", metavar="FILE"),
    ] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Print what is checked, and verify nothing.")] = False,
    attest: Annotated[
        Path | None,
        typer.Option(metavar="KEY", help="Sign what was found, if it verified: Ed25519 or P-256, PEM. Needs --output."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where the signed statement goes (DSSE, in-toto)."),
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Verify a bundle offline: no network, no TPM. Exit code 0 only if every check passed."""
    if plan:
        _print_plan(json=json)
        return
    if bundle is None or anchors is None:
        raise typer.BadParameter("verifying takes BUNDLE and --anchors FILE; --plan only prints what is checked")
    if (attest is None) is not (output is None):
        raise typer.BadParameter("--attest KEY and --output FILE go together")
    key = None if attest is None else load_signing_key(_secret(attest), str(attest))
    data, trusted = read_at_most(bundle, limits.BUNDLE), read(anchors, limits.BODY, GateReason.CONFIG_INVALID)
    report = verify_bundle(data, parse_anchors(trusted, str(anchors)))
    if json:
        show(report.encode(), "", json=True)
    else:
        _print(report)
    if not report.verified:
        sys.exit(NO)
    if key is not None and output is not None:
        who, now_ms = f"ztrooted {version('ztrooted')}", SystemClock().now_ms()
        envelope = sign_report(report, key, bundle=unpack(data), anchors=trusted, verifier=who, now_ms=now_ms)
        write(output, jsonlib.dumps(envelope).encode() + b"\n")


@app.command()
def redecide(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A decision file ('ztrooted explain -o'), or a bundle.")],
    json: JsonFlag = False,
) -> None:
    """Make recorded decisions again, offline, and compare byte by byte. Exit code 0 only if each comes out the same."""
    from ztrooted.redecide_bundle import redecide_file  # noqa: PLC0415 -- loads much that --help has no use for

    with about(file):
        results = redecide_file(read(file, limits.BUNDLE, GateReason.BUNDLE_TOO_LARGE))
    same = bool(results) and not any(one.differing for one in results)
    lines = [
        f"record {one.index}: {'the same' if not one.differing else 'OTHERWISE: ' + ', '.join(one.differing)}"
        f" ({'permit' if one.permitted else 'deny'})"
        for one in results
    ]
    verdict = f"Made again: {counted(len(results), 'decision')}, {'all the same' if same else 'NOT all the same'}."
    show({"same": same, "decisions": [one.encode() for one in results]}, "\n".join([*lines, verdict]), json=json)
    if not same:
        sys.exit(NO)


@app.command()
def gateway(
    gateway: GatewayUrl,
    ca: CaFile,
    anchors: Annotated[
        Path, typer.Option(help="Trust anchors, from the gateway's operator: ztrooted gateway anchors.", metavar="FILE")
    ],
    json: JsonFlag = False,
) -> None:
    """Have a gateway prove the state of its own machine. Exit code 0 only if it is the anchored one."""
    from ztrooted.client import GatewayClient  # noqa: PLC0415 -- an auditor's machine may have no aiohttp
    from ztrooted.gateway_attestation import GatewayAttestation, verify_gateway  # noqa: PLC0415

    trusted = parse_anchors(read(anchors, limits.BODY, GateReason.CONFIG_INVALID), str(anchors))
    nonce = os.urandom(limits.NONCE)

    async def ask() -> GatewayAttestation:
        async with GatewayClient(gateway, ca=ca) as client:
            return await client.attestation(nonce)

    facts = verify_gateway(asyncio.run(ask()), trusted, nonce)
    kind = "a software TPM (virtual)" if facts["virtual"] else "a hardware TPM"
    log = "with its event log" if facts["event_log"] else "without an event log"
    show({"attested": True, **facts}, f"{facts['origin']} is in the anchored state: {kind}, {log}.", json=json)


@app.command()
def mirror(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the copy is kept.")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    anchors: Annotated[
        Path, typer.Option(help="Trust anchors, from the gateway's operator: ztrooted gateway anchors.", metavar="FILE")
    ],
    every: Annotated[
        float | None, typer.Option(min=0.1, help="Go on for ever, and look again after so many seconds.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Keep a verified copy of the log as a static directory (C2SP tlog-tiles), and raise the alarm when it is not the
    log that it was: exit code 1, with checkpoint.split_view."""
    from ztrooted.mirror import Mirror  # noqa: PLC0415 -- loads what most commands have no use for

    kept = Mirror(folder, parse_anchors(read(anchors, limits.BODY, GateReason.CONFIG_INVALID), str(anchors)))

    async def follow() -> None:
        async with connect(gateway, ca, token_file) as client:
            while True:
                with about(folder):
                    done = await kept.update(client.log_file)
                grown = f"{done.size - done.before} new" if done.size > done.before else "nothing new"
                show(done.encode(), f"{done.size} records, {grown}; root {done.root.hex()}", json=json)
                if every is None:
                    return
                await asyncio.sleep(every)

    try:
        asyncio.run(follow())
    except OSError as error:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_OUTPUT, f"{folder} can't be read or written: {error}", "name another folder"
        ) from error


def _secret(path: Path) -> bytes:
    """A private key's file, which nobody but its owner may read. EnvironmentProblem ``environment.key_file``."""
    data = read(path, MAX_KEY, GateReason.ENVIRONMENT_KEY_FILE)
    if path.is_file() and path.stat().st_mode & 0o077:
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE,
            f"the key {path} can be read by others than its owner",
            f"if nobody has read it: chmod 600 {path}; otherwise make another one",
        )
    return data


def _print_plan(*, json: bool) -> None:
    lines = [f"{number:2}. {name}: {what}." for number, (name, what) in enumerate(PLAN, 1)]
    plan = [{"number": number, "name": name, "what": what} for number, (name, what) in enumerate(PLAN, 1)]
    show({"plan": plan}, "\n".join(lines), json=json)


def _print(report: Report) -> None:
    console = terminal()
    table = Table("", "check", "result", "why", box=None, pad_edge=False)
    for check in report.checks:
        why = f"{check.detail} ({check.reason})" if check.reason else ""
        word = check.status.value.replace("_", " ")
        table.add_row(f"{check.number}", check.name, f"[{_COLOUR[check.status]}]{word}[/]", escape(why))
    console.print(table)
    if report.verified:
        for name, value in report.facts.items():
            shown = instant(value, "milliseconds") if name.endswith("_at") else str(value)
            console.print(f"  {name.replace('_', ' ')}: {escape(shown)}")
        console.print("[bold green]Verified.[/]")
    else:
        console.print("[bold red]Not verified.[/] Believe nothing of what this bundle says.")
