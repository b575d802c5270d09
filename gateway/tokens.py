"""Bearer tokens from the command line: by the local socket of a gateway that serves, or else in its database."""

from collections.abc import Callable
from typing import TypeVar

from gateway import auth, local
from gateway.app import DATABASE
from gateway.auth import Role
from gateway.config import GatewayConfig
from gateway.identity import Identity
from gateway.storage.database import Database, Transaction
from ztrooted.clock import SystemClock
from ztrooted.errors import UsageProblem
from ztrooted.models import Model, compose, parse_json
from ztrooted.names import NAME
from ztrooted.operator_models import TokenCreated, TokenList, TokenRequest, TokenView
from ztrooted.reasons import GateReason
from ztrooted.redaction import redact_text

M = TypeVar("M", bound=Model)


async def create(config: GatewayConfig, role: str, name: str, life_s: int) -> TokenCreated:
    """A new token. UsageProblem for a role that has none, an odd name, a life of no length."""
    if not NAME.fullmatch(name):
        raise UsageProblem(
            GateReason.ID_INVALID,
            f"{name!r:.200} can't be a name",
            "a name is up to 128 letters, digits and . _ : @ / + -, and begins with a letter or digit",
        )
    asked = compose(TokenRequest, role=role, name=name, life_s=life_s)

    def offline(tx: Transaction) -> TokenCreated:
        now_ms = SystemClock().now_ms()
        token = auth.create_token(tx, Role(role), name, now_ms, life_s * 1000)
        return TokenCreated(token=token, id=auth.token_id(token), role=role, name=name, expires=now_ms + life_s * 1000)

    return await _ask(config, "POST", "/v1/tokens", asked.model_dump_json().encode(), TokenCreated, offline)


async def listing(config: GatewayConfig) -> TokenList:
    """Every token that was not revoked."""
    return await _ask(
        config, "GET", "/v1/tokens", None, TokenList, lambda tx: TokenList(tokens=auth.tokens(tx.connection))
    )


async def revoke(config: GatewayConfig, token: str) -> TokenView:
    """End a token, by its id. GateError ``request.not_found``, UsageProblem for what is no id."""
    if len(token) != auth.TOKEN_ID or not set(token) <= set("0123456789abcdef"):
        raise UsageProblem(
            GateReason.ID_INVALID,
            f"{redact_text(token)!r:.80} is no id of a token",  # it may be one itself
            "see them with 'ztrooted gateway tokens'",
        )
    return await _ask(
        config,
        "DELETE",
        f"/v1/tokens/{token}",
        None,
        TokenView,
        lambda tx: auth.revoke_token(tx, token, SystemClock().now_ms(), None)[0],
    )


async def _ask(
    config: GatewayConfig,
    method: str,
    path: str,
    body: bytes | None,
    model: type[M],
    offline: Callable[[Transaction], M],
) -> M:
    answer = await local.call(config.data, method, path, body)
    if answer is not None:
        answered: M = parse_json(model, answer)
        return answered
    trusted = Identity.load(config.data).trusts(config.origin)
    database = Database(config.data / DATABASE, on_failure=lambda: None, trusted=trusted)
    try:
        return await database.write(offline)
    finally:
        await database.close()
