"""A gateway that is the stage of ``ztrooted demo --console``: it plays the story itself, for this machine alone."""

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from gateway.config import GatewayConfig
from ztrooted.errors import EnvironmentProblem
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from ztrooted.demo.player import Player


def player_of(config: GatewayConfig, folder: Path) -> "Player":
    """Who plays the demo that lies in ``folder``. EnvironmentProblem where others than this machine could reach it."""
    from ztrooted.demo.player import Player  # noqa: PLC0415 -- any other gateway has no use for it

    if not _is_loopback(config.listen_host):
        raise EnvironmentProblem(
            GateReason.CONFIG_INVALID,
            f"the demo starts programs for whoever presses its buttons, and {config.listen_host} is not this machine alone",
            "serve the demo at 127.0.0.1",
        )
    return Player(folder)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name leads wherever somebody says
        return False
