"""What an operator does from afar: executors, their labels, revocation."""

import asyncio
from pathlib import Path
from typing import Annotated, Literal

import typer

from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.files import write
from ztrooted.cli.output import JsonFlag, show, show_table
from ztrooted.ear import Profile
from ztrooted.models import ExecutorView


def executors(gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False) -> None:
    """List the executors, and whether each is trusted now."""

    async def ask() -> list[ExecutorView]:
        async with connect(gateway, ca, token_file) as client:
            return await client.executors()

    views = asyncio.run(ask())
    if json:
        show([view.model_dump() for view in views], "", json=True)
        return
    columns = ("executor", "class", "TPM", "connected", "trusted", "tier", "labels", "reason")
    show_table(columns, map(_row, views), empty="No executor has enrolled yet.")


def _row(view: ExecutorView) -> tuple[str, ...]:
    return (
        view.executor,
        view.executor_class,
        "virtual" if view.virtual else view.manufacturer,
        "yes" if view.connected else "no",
        "yes" if view.trusted else "no",
        view.tier,
        " ".join(f"{name}={value}" for name, value in view.labels.items()),
        view.reason or "",
    )


def label(
    executor: Annotated[str, typer.Argument(metavar="EXECUTOR", help="Which executor: ex-…, enrolled or not yet.")],
    labels: Annotated[list[str], typer.Argument(metavar="NAME=VALUE…", help="All its labels, from now on.")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """Label an executor. Classes and pools go by labels; an executor can't claim any itself."""
    wanted = {}
    for one in labels:
        name, equals, value = one.partition("=")
        if not equals or name in wanted:
            raise typer.BadParameter(f"{one!r} is not NAME=VALUE, or its name comes twice")
        wanted[name] = value

    async def ask() -> None:
        async with connect(gateway, ca, token_file) as client:
            await client.label(executor, wanted)

    asyncio.run(ask())
    shown = ", ".join(f"{name}={value}" for name, value in wanted.items())
    show({"executor": executor, "labels": wanted}, f"Executor {executor} is labelled {shown}.", json=json)


def result(
    executor: Annotated[str, typer.Argument(metavar="EXECUTOR", help="Which executor: ex-….")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    profile: Annotated[
        Literal["veraison", "ietf"], typer.Option(help="The dialect: what today's tools read, or the draft's.")
    ] = "veraison",
    nonce: Annotated[str | None, typer.Option(help="8 to 88 characters that come back in eat_nonce.")] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the token there.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Fetch an executor's last verdict as a signed attestation result (EAR), for other RATS tools."""
    if nonce is not None and not (8 <= len(nonce) <= 88 and nonce.isascii() and nonce.isprintable()):
        raise typer.BadParameter("a nonce is 8 to 88 printable ASCII characters", param_hint="--nonce")
    wanted = {"veraison": Profile.VERAISON, "ietf": Profile.IETF}[profile]

    async def ask() -> str:
        async with connect(gateway, ca, token_file) as client:
            return await client.result(executor, profile=wanted, nonce=nonce)

    token = asyncio.run(ask())
    if output is not None:
        write(output, f"{token}\n".encode())
    show({"token": token}, token if output is None else f"Wrote the result to {output}.", json=json)
