"""``ztrooted webhooks``: how the gateway's receivers stand."""

import asyncio

from ztrooted.cli.connection import CaFile, GatewayUrl, TokenFile, connect
from ztrooted.cli.output import JsonFlag, show, show_table
from ztrooted.clock import instant
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
    rows = [
        (
            view.name,
            view.url,
            str(view.next),
            str(view.behind),
            "" if view.failing_since is None else instant(view.failing_since),
            view.detail,
        )
        for view in views
    ]
    columns = ("webhook", "url", "next record", "behind", "failing since", "why")
    show_table(columns, rows, empty="The gateway's configuration names no webhook.")
