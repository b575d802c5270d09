"""``ztrooted revoke``, ``quarantine`` and ``release``: operators' orders."""

import asyncio
from enum import StrEnum
from typing import Annotated, Literal

import typer

from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.output import JsonFlag, counted, show, show_table
from ztrooted.clock import instant
from ztrooted.operator_models import OrderView, Quarantined


class Kind(StrEnum):
    """What an order may be about."""

    EXECUTOR = "executor"
    ORCHESTRATOR = "orchestrator"
    CLASS = "class"


class Revocable(StrEnum):
    """What may be revoked."""

    AUTHORIZATION = "authorization"
    EXECUTOR = "executor"
    ORCHESTRATOR = "orchestrator"
    CLASS = "class"


Name = Annotated[
    str,
    typer.Argument(metavar="ID", help="An authorization's or executor's id; the name of an orchestrator or class."),
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why, for the lineage and everybody concerned.")]


def revoke(
    kind: Annotated[Revocable, typer.Argument(metavar="KIND", help="authorization, executor, orchestrator or class.")],
    name: Name,
    reason: Reason,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """End what runs now: one authorization, or all of an executor, orchestrator or class. Their jobs are killed."""
    view = _order("revocations", kind.value, name, reason, (gateway, ca, token_file))
    show(view.model_dump(), f"Revoked {counted(len(view.revoked), 'authorization')} of {view.subject}.", json=json)


def quarantine(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="executor, orchestrator or class.")],
    name: Name,
    reason: Reason,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """End what runs now, and refuse everything that comes until it is released."""
    view = _order("quarantines", kind.value, name, reason, (gateway, ca, token_file))
    text = f"In quarantine: {view.subject}. Revoked for it: {counted(len(view.revoked), 'authorization')}."
    show(view.model_dump(), text, json=json)


def release(
    kind: Annotated[Kind, typer.Argument(metavar="KIND", help="executor, orchestrator or class.")],
    name: Name,
    reason: Reason,
    gateway: GatewayUrl,
    ca: CaFile,
    token_file: TokenFile,
    json: JsonFlag = False,
) -> None:
    """End a quarantine. Nothing that it ended comes back; what comes has to prove itself as ever."""
    view = _order("releases", kind.value, name, reason, (gateway, ca, token_file))
    show(view.model_dump(), f"Released: {view.subject}.", json=json)


def quarantined(gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False) -> None:
    """List who is in quarantine, since when, by whom, and why."""

    async def ask() -> list[Quarantined]:
        async with connect(gateway, ca, token_file) as client:
            return await client.quarantined()

    found = asyncio.run(ask())
    if json:
        show([one.model_dump() for one in found], "", json=True)
        return
    rows = [(one.kind, one.id, instant(one.at), one.operator, one.reason) for one in found]
    show_table(("kind", "id", "since", "by", "why"), rows, empty="Nobody is in quarantine.")


def _order(
    what: Literal["revocations", "quarantines", "releases"],
    kind: str,
    name: str,
    reason: str,
    where: tuple[GatewayUrl, CaFile, TokenFile],
) -> OrderView:
    async def ask() -> OrderView:
        async with connect(*where) as client:
            return await client.order(what, kind, name, reason)

    return asyncio.run(ask())
