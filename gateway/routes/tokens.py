"""Operators' work on credentials: bearer tokens are made, listed and revoked."""

from functools import partial
from typing import TYPE_CHECKING

from aiohttp import web

from gateway import auth
from gateway.auth import Caller, Role
from gateway.declaration import Body, Route, json_of
from gateway.routes.route import json_answer, read_body
from ztrooted.operator_models import TokenCreated, TokenList, TokenRequest, TokenView

if TYPE_CHECKING:
    from gateway.app import Gateway

OPERATORS = frozenset({Role.OPERATOR})


class TokenRoutes:
    """Bearer tokens. To rotate one, make another for the same name, hand it out, and revoke the first."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route("POST", "/v1/tokens", OPERATORS, self.create, json_of(TokenCreated, 201), body=Body(TokenRequest)),
            Route("GET", "/v1/tokens", OPERATORS, self.tokens, json_of(TokenList)),
            Route("DELETE", "/v1/tokens/{token}", OPERATORS, self.revoke, json_of(TokenView)),
        )

    async def create(self, request: web.Request, caller: Caller) -> web.Response:
        """A new token, shown in this answer and never again."""
        asked = await read_body(request, TokenRequest)
        now_ms, life_ms = self._gateway.clock.now_ms(), asked.life_s * 1000
        token = await self._gateway.database.write(
            lambda tx: auth.create_token(tx, Role(asked.role), asked.name, now_ms, life_ms, caller.name)
        )
        made = TokenCreated(
            token=token, id=auth.token_id(token), role=asked.role, name=asked.name, expires=now_ms + life_ms
        )
        return json_answer(made.model_dump(), status=201)

    async def tokens(self, _request: web.Request, _caller: Caller) -> web.Response:
        """Whose tokens there are, and until when."""
        return json_answer(TokenList(tokens=auth.tokens(self._gateway.database.reading)).model_dump())

    async def revoke(self, request: web.Request, caller: Caller) -> web.Response:
        """End a token, and the feeds that it opened.

        What it was used for before stays as it is; to end that, revoke its orchestrator.
        """
        now_ms, wanted = self._gateway.clock.now_ms(), request.match_info["token"]
        revoke = partial(auth.revoke_token, wanted=wanted, now_ms=now_ms, operator=caller.name)
        ended, hashed = await self._gateway.database.write(revoke)
        self._gateway.streams.revoked(hashed)
        return json_answer(ended.model_dump())
