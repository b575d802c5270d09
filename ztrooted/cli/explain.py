"""``ztrooted explain``: why a decision was made, from the gateway or from a file."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated

import typer

from ztrooted import limits
from ztrooted.cli.connection import connect
from ztrooted.cli.files import about, read, write
from ztrooted.cli.output import NO, JsonFlag, show
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason


def explain(
    decision: Annotated[
        str,
        typer.Argument(
            metavar="DECISION",
            help="An authorization, an executor, the number of a record; or a decision file, read offline.",
        ),
    ],
    gateway: Annotated[str, typer.Option("--gateway", envvar="ZTROOTED_GATEWAY", metavar="URL")] = "",
    ca: Annotated[Path | None, typer.Option("--ca", envvar="ZTROOTED_CA", metavar="PEM")] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", envvar="ZTROOTED_TOKEN_FILE", metavar="FILE")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Also keep the decision file.")
    ] = None,
    json: JsonFlag = False,
) -> None:
    """Say why something was permitted or denied: what was found, where, by which rule, and what to do.

    Exit code 0 for a yes, 1 for a no.
    """
    from ztrooted.decision_file import parse_decision_file  # noqa: PLC0415 -- loads much that --help has no use for
    from ztrooted.explain import explain as explain_file  # noqa: PLC0415

    if Path(decision).is_file():
        data = read(Path(decision), limits.BUNDLE, GateReason.BUNDLE_TOO_LARGE)
    else:
        if not gateway or ca is None or token_file is None:
            raise EnvironmentProblem(
                GateReason.CONFIG_MISSING,
                f"{decision!r} is not a file, and without --gateway, --ca and --token-file nobody can be asked",
                "name a decision file, or the gateway",
            )

        async def fetch() -> bytes:
            async with connect(gateway, ca, token_file) as client:
                return await client.decision(decision)

        data = asyncio.run(fetch())
    with about(decision):
        found = explain_file(parse_decision_file(data))
    if output is not None:
        write(output, data)
    show(found.encode(), found.text(), json=json)
    if not found.permitted:
        sys.exit(NO)
