"""What an operator does from afar: baselines, executors, revocation."""

import asyncio
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.output import JsonFlag, show
from ztrooted.models import BaselineView, ExecutorView

app = typer.Typer(
    no_args_is_help=True, help="Reference values: capture what a good machine looks like, and approve it."
)


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

    view = asyncio.run(ask())
    text = (
        f"Captured baseline {view.baseline}: {view.pcrs} PCRs, {view.files} measured files.\n"
        f"It changes nothing until it is approved: ztrooted baseline approve {view.baseline}"
    )
    show(view.model_dump(), text, json=json)


@app.command()
def approve(
    baseline: Annotated[str, typer.Argument(metavar="BASELINE", help="The digest that 'capture' printed.")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """Put a captured baseline in force. Your name goes into the lineage with it."""

    async def ask() -> BaselineView:
        async with connect(gateway, ca, token_file) as client:
            return await client.approve_baseline(baseline)

    view = asyncio.run(ask())
    show(view.model_dump(), f"Baseline {view.baseline} is in force, approved by {view.approved_by}.", json=json)


def executors(gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False) -> None:
    """List the executors, and whether each is trusted now."""

    async def ask() -> list[ExecutorView]:
        async with connect(gateway, ca, token_file) as client:
            return await client.executors()

    views = asyncio.run(ask())
    if json:
        show([view.model_dump() for view in views], "", json=True)
        return
    table = Table("executor", "class", "TPM", "connected", "trusted", "tier", "labels", "reason")
    for view in views:
        kind = "virtual" if view.virtual else view.manufacturer
        yes = {True: "yes", False: "no"}
        table.add_row(
            view.executor,
            view.executor_class,
            kind,
            yes[view.connected],
            yes[view.trusted],
            view.tier,
            " ".join(f"{name}={value}" for name, value in view.labels.items()),
            view.reason or "",
        )
    Console().print(table)


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


def revoke(
    authorization: Annotated[str, typer.Argument(metavar="AUTHORIZATION", help="The authorization to end.")],
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """End an authorization now; its job is killed."""

    async def ask() -> dict[str, object]:
        async with connect(gateway, ca, token_file) as client:
            return (await client.revoke(authorization)).model_dump()

    view = asyncio.run(ask())
    show(view, f"Authorization {view['authorization']} is {view['state']}.", json=json)
