"""The configuration for people: each value and where it came from; and whether a gateway could start with it."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from gateway.config import FILE, PREFIX, GatewayConfig, read_policies
from gateway.files import executor_ca, load_client_authorities, load_roots, server_tls
from gateway.providers import Providers
from gateway.reload import RELOADABLE
from gateway.vault import check_files
from gateway.webhooks import load_receivers
from ztrooted.clock import SystemClock
from ztrooted.toml_lines import line_of


@dataclass(frozen=True, slots=True)
class Setting:
    """One value in force. ``origin`` is ``default``, ``FILE:LINE``, ``ZTROOTED_…`` or ``--flag``."""

    name: str
    value: Any
    origin: str
    reloadable: bool

    def encode(self) -> dict[str, Any]:
        """For scripts."""
        return {"name": self.name, "value": self.value, "origin": self.origin, "reloadable": self.reloadable}


def settings(config: GatewayConfig, flags: Mapping[str, Any]) -> list[Setting]:
    """Every setting. Secrets are in files of their own, which are named here and not read."""
    text = (config.data / FILE).read_text()
    values = config.model_dump(mode="json")
    found = []
    for name in GatewayConfig.model_fields:
        if name == "data":
            origin = "command line"
        elif flags.get(name) is not None:
            origin = f"--{name.removeprefix('listen_').replace('_', '-')}"
        elif variable := _variable(name):
            origin = variable
        elif (line := line_of(text, (name,))) is not None:
            origin = f"{FILE}:{line}"
        else:
            origin = "default"
        found.append(Setting(name, _shown(name, values[name]), origin, name in RELOADABLE))
    return found


def check(config: GatewayConfig) -> list[str]:
    """Read whatever a start reads, short of TPM and database; notes for people. GateError for what is wrong."""
    read_policies(config)
    load_roots(config)
    check_files(config.data)
    server_tls(config, load_client_authorities(config, executor_ca(config)), None)
    Providers(config, SystemClock())
    load_receivers(config)
    known = {PREFIX + name.upper() for name in GatewayConfig.model_fields}
    return [
        f"{name} is no setting of a gateway, so it is not read here"
        for name in sorted(os.environ)
        if name.upper().startswith(PREFIX) and name.upper() not in known
    ]


def _variable(name: str) -> str | None:
    """The variable of the environment that sets ``name``; case does not matter to them."""
    wanted = PREFIX + name.upper()
    return next((variable for variable in os.environ if variable.upper() == wanted), None)


def _shown(name: str, value: Any) -> Any:
    """Without what may be a secret: the query of a webhook's address."""
    if name != "webhooks":
        return value
    return [{**one, "url": _without_query(one["url"])} for one in value]


def _without_query(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(query="…").geturl() if parts.query else url


def text_of(found: list[Setting], data: Path) -> str:
    """For people: one line each."""
    width = max(len(one.name) for one in found)
    lines = [f"# {data / FILE}"]
    lines += [f"{one.name:<{width}} = {_toml(one.value)}  # {one.origin}" for one in found]
    return "\n".join(lines)


def _toml(value: Any) -> str:

    return "(none)" if value is None else json.dumps(value, ensure_ascii=False)
