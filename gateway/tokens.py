"""Creates tokens from the command line, while the gateway is stopped: the database has one writer."""

from gateway.app import DATABASE
from gateway.auth import TOKEN_ROLES, Role, create_token
from gateway.config import GatewayConfig
from gateway.signer import Identity
from gateway.storage.database import Database
from ztrooted.clock import SystemClock
from ztrooted.errors import EnvironmentProblem, UsageProblem
from ztrooted.reasons import GateReason


async def create(config: GatewayConfig, role: str, name: str) -> str:
    """A new token for ``name``. EnvironmentProblem for a role that has none, UsageProblem for an odd name."""
    if role not in TOKEN_ROLES:
        choices = ", ".join(sorted(TOKEN_ROLES))
        raise EnvironmentProblem(GateReason.CONFIG_INVALID, f"there is no role {role!r}", f"use one of: {choices}")
    if not name.isascii() or not name.isprintable() or not 0 < len(name) <= 128 or " " in name:
        raise UsageProblem(
            GateReason.ID_INVALID,
            f"{name!r} can't be a name",
            "a name is up to 128 printable ASCII characters without spaces",
        )
    trusted = Identity.load(config.data).trusts(config.origin)
    database = Database(config.data / DATABASE, on_failure=lambda: None, trusted=trusted)
    try:
        return await database.write(lambda tx: create_token(tx, Role(role), name, SystemClock().now_ms()))
    finally:
        await database.close()
