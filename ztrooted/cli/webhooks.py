"""``ztrooted webhooks``: how the gateway's receivers stand."""

import asyncio
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.output import JsonFlag, show
from ztrooted.operator_models import WebhookView


def webhooks(gateway: GatewayUrl, ca: CaFile, token_file: TokenFile, json: JsonFlag = False) -> None:
    """List the webhooks: which record each gets next, and since when it fails."""

    async def ask() -> list[WebhookView]:
        async with connect(gateway, ca, token_file) as client:
            return await client.webhooks()

    views = asyncio.run(ask())
    if json:
        show([view.model_dump() for view in views], "", json=True)
        return
    table = Table("webhook", "url", "next record", "behind", "failing since", "why")
    for view in views:
        since = "" if view.failing_since is None else _time(view.failing_since)
        table.add_row(view.name, escape(view.url), str(view.next), str(view.behind), since, escape(view.detail))
    Console().print(table)


def _time(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="seconds")
