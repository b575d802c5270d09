"""How commands find the gateway: options, or environment variables of the same meaning."""

import stat
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

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
    try:
        mode = token_file.stat().st_mode
        if not stat.S_ISREG(mode):
            raise ValueError("it is not a file")
        if mode & 0o077:
            raise EnvironmentProblem(
                GateReason.ENVIRONMENT_KEY_FILE,
                f"the token file {token_file} can be read by others than its owner",
                f"if nobody has read it: chmod 600 {token_file}; otherwise ask for a new token",
            )
        token = token_file.read_text().strip()
        if not token:
            raise ValueError("it is empty")
        if not token.isascii() or not token.isprintable():
            raise ValueError("it does not hold a token")
    except (OSError, ValueError) as error:  # text that isn't UTF-8 is a ValueError
        raise EnvironmentProblem(
            GateReason.ENVIRONMENT_KEY_FILE,
            f"the token file {token_file} can't be used: {getattr(error, 'strerror', None) or error}",
            "the gateway's operator makes tokens with 'ztrooted gateway token --output FILE'",
        ) from error
    from ztrooted.client import GatewayClient  # noqa: PLC0415 -- an auditor's machine has no aiohttp
    from ztrooted.log_memory import state_folder  # noqa: PLC0415 -- the same

    return GatewayClient(gateway, ca=ca, token=token, state=state_folder())
