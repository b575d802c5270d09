"""SIGHUP: reads configuration and files again, takes over what can be changed while serving, and says what can't be.

Everything is read and checked before anything is taken over, so a broken file changes nothing. What decides whether a job
may run is never changed this way: policies and reference values are activated by an operator, by name and on the record.
"""

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from gateway.config import GatewayConfig, load_config, read_policies
from gateway.files import load_client_authorities, load_roots, load_server_key, server_certificate, server_tls
from gateway.webhooks import load_receivers
from ztrooted.errors import GateError
from ztrooted.logs import configure
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

log = structlog.get_logger()

# Settings that take effect at once. EK roots and vendors concern enrollments to come, and nobody who is enrolled.
RELOADABLE = frozenset({"log_level", "log_format", "ek_roots", "ek_vendors", "webhooks"})


class Reloader:
    """Reloads one running gateway. ``flags`` are those that it was started with: they still win."""

    def __init__(self, gateway: "Gateway", flags: Mapping[str, Any]) -> None:
        self._gateway = gateway
        self._flags = flags
        self._contents = _contents(gateway.config)
        self._reloading = asyncio.Lock()

    async def reload(self) -> None:
        """Do it once, after those that were asked for before.

        Never raises for what a person can mend: that is logged, and the old configuration stays.
        """
        async with self._reloading:
            await self._reload()

    async def _reload(self) -> None:
        old = self._gateway.config
        try:
            fresh = load_config(old.data, **self._flags)
            vault = self._gateway.signer.vault
            roots, receivers = load_roots(fresh), load_receivers(fresh)
            server_tls(fresh, load_client_authorities(fresh, self._gateway.authority.certificate), vault)
            policies = read_policies(fresh)
            contents = _contents(fresh)
        except GateError as error:
            log.error("configuration kept", code=error.reason, detail=error.detail, remedy=error.remedy)
            return
        except OSError as error:  # a file that went away while it was read
            log.error("configuration kept", code=GateReason.CONFIG_MISSING, detail=str(error))
            return
        changed = {name for name in GatewayConfig.model_fields if getattr(fresh, name) != getattr(old, name)}
        touched = {name for name in contents if contents[name] != self._contents[name]}
        if changed & {"log_level", "log_format"}:
            configure(verbose=fresh.log_level == "debug", form=fresh.log_format)
        if {"ek_roots", "ek_vendors"} & (changed | touched):
            self._gateway.enrollments.trust(roots, fresh.ek_vendors)
        if "webhooks" in changed | touched:
            await self._gateway.take_receivers(receivers)
        if "tls" in touched:  # connections that are open stay as they are
            load_server_key(self._gateway.tls, fresh, vault)
        taken = {name: getattr(fresh, name) for name in changed & RELOADABLE}
        self._gateway.config = old.model_copy(update=taken)
        self._contents = contents
        for name in sorted(changed & RELOADABLE | touched):
            log.info("reloaded", setting=name)
        for name in sorted(changed - RELOADABLE):
            log.warning("needs a restart", setting=name)
        in_force = self._gateway.policies.current.digests()
        for role, digest in policies.digests().items():
            if digest != in_force[role]:
                log.warning("needs activation", setting=role, remedy="ztrooted policy activate, or a restart")
        log.info("configuration read", reloaded=len(changed & RELOADABLE | touched), restart=len(changed - RELOADABLE))


def _contents(config: GatewayConfig) -> dict[str, bytes]:
    """Digests of the files that belong to a setting; ``tls`` is the certificate of this server and its key."""
    hooks = [config.path(name) for one in config.webhooks for name in (one.secret_file, one.ca) if name is not None]
    return {
        "ek_roots": _digest(sorted(config.path(config.ek_roots).rglob("*"))),
        "webhooks": _digest(hooks),
        "tls": _digest(list(server_certificate(config))),
    }


def _digest(paths: list[Path]) -> bytes:
    found = hashlib.sha256()
    for path in paths:
        if path.is_file():
            found.update(f"{path}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
    return found.digest()
