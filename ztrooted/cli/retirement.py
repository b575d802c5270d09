"""``ztrooted executor retire`` and ``replace``: an operator takes a machine out of service."""

import asyncio
from typing import Annotated

import typer

from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.output import JsonFlag, counted, show
from ztrooted.operator_models import RetirementView

app = typer.Typer()

Executor = Annotated[str, typer.Argument(metavar="ID", help="The executor that goes.")]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the lineage and everybody concerned.")]


@app.command()
def retire(
    executor: Executor, reason: Reason, gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False
) -> None:
    """Take an executor out of service, for good: its jobs are killed, and its TPM is never admitted again."""
    view = _retire(executor, None, reason, (gateway, ca, token_file))
    text = f"Retired {executor}. Revoked for it: {counted(len(view.revoked), 'authorization')}."
    show(view.model_dump(), text, json=json)


@app.command()
def replace(
    executor: Executor,
    successor: Annotated[
        str,
        typer.Argument(
            metavar="SUCCESSOR", help="The id of who comes: the fingerprint of its EK, as 'executor enroll' prints it."
        ),
    ],
    reason: Reason,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """The same, where the machine got another TPM: the successor gets the labels. It enrolls as ever."""
    view = _retire(executor, successor, reason, (gateway, ca, token_file))
    labels = ", ".join(f"{name}={value}" for name, value in view.labels.items()) or "none"
    text = (
        f"Retired {executor}. Revoked for it: {counted(len(view.revoked), 'authorization')}."
        f"\n{view.successor} is in its place. Labels passed on: {labels}. Rules that name the old id do not name it."
    )
    show(view.model_dump(), text, json=json)


def _retire(
    executor: str, successor: str | None, reason: str, where: tuple[GatewayUrl, CaFile, TokenFile]
) -> RetirementView:
    async def ask() -> RetirementView:
        async with connect(*where) as client:
            return await client.retire(executor, reason, successor=successor)

    return asyncio.run(ask())
