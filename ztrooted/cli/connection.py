"""How commands find the gateway: options, or environment variables of the same meaning."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ztrooted.token_file import read_token

if TYPE_CHECKING:
    from ztrooted.client import GatewayClient

GatewayUrl = Annotated[
    str, typer.Option("--gateway", envvar="ZTROOTED_GATEWAY", metavar="URL", help="The gateway, https://host:port.")
]
CaFile = Annotated[
    Path, typer.Option("--ca", envvar="ZTROOTED_CA", metavar="PEM", help="The gateway's tls/ca.pem: what to trust.")
]
TokenFile = Annotated[
    Path,
    typer.Option(
        "--token-file", envvar="ZTROOTED_TOKEN_FILE", metavar="FILE", help="File that holds your bearer token."
    ),
]


def connect(gateway: str, ca: Path, token_file: Path) -> "GatewayClient":
    """A client with a token, which remembers the gateway's log. EnvironmentProblem for a file that is missing or shared."""
    token = read_token(token_file)
    from ztrooted.client import GatewayClient  # noqa: PLC0415 -- an auditor's machine has no aiohttp
    from ztrooted.log_memory import state_folder  # noqa: PLC0415 -- the same

    return GatewayClient(gateway, ca=ca, token=token, state=state_folder())
