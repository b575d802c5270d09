"""Policies: what is in force, trials, and activation; decisions exported and explained."""

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import JSON, TEXT, Answer, Body, Content, Route, bytes_of, json_of
from gateway.policies import check_documents
from gateway.replay import replay
from gateway.routes.route import PEOPLE, json_answer, read_body
from ztrooted import limits
from ztrooted.decision_file import FORMAT
from ztrooted.explain import explain
from ztrooted.policy_models import (
    ActivationOfPolicies,
    ExplanationView,
    PoliciesView,
    PolicyDocuments,
    TrialOfPolicies,
    TrialView,
)

if TYPE_CHECKING:
    from gateway.app import Gateway

DECISION = {"type": "object", "properties": {"format": {"const": FORMAT}}, "required": ["format"]}
EXPLAINED = (Answer(200, "An explanation.", (Content(JSON, ExplanationView), Content("text/plain", TEXT))),)


class PolicyRoutes:
    """What operators do about policies, and what everybody may know of decisions that concern them."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route(
                "GET",
                "/v1/policies",
                frozenset({Role.OPERATOR, Role.AUDITOR}),
                self.in_force,
                json_of(PoliciesView),
                tagged=True,
            ),
            Route(
                "POST",
                "/v1/policies",
                frozenset({Role.OPERATOR}),
                self.activate,
                json_of(PoliciesView),
                frozenset({409}),
                Body(ActivationOfPolicies, limits.POLICY_BODY),
            ),
            Route(
                "POST",
                "/v1/policies/trial",
                frozenset({Role.OPERATOR}),
                self.trial,
                json_of(TrialView),
                body=Body(TrialOfPolicies, limits.POLICY_BODY),
            ),
            Route(
                "GET",
                "/v1/decisions/{decision}",
                PEOPLE,
                self.decision,
                bytes_of(JSON, "A decision file, for 'ztrooted audit redecide'.", DECISION),
            ),
            Route("GET", "/v1/decisions/{decision}/explanation", PEOPLE, self.explanation, EXPLAINED),
        )

    async def in_force(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The policies in force, and who activated them."""
        return json_answer(self._view([]).model_dump())

    async def activate(self, request: web.Request, caller: Caller) -> web.Response:
        """Put policies in force at once; answers with what was revoked for it."""
        asked = await read_body(request, ActivationOfPolicies)
        policies = await asyncio.to_thread(check_documents, asked.by_role())
        revoked = await self._gateway.activate_policies(policies, caller.name, allow_rollback=asked.allow_rollback)
        return json_answer(self._view([one.id for one in revoked]).model_dump())

    async def trial(self, request: web.Request, _caller: Caller) -> web.Response:
        """The last recorded decisions under other policies. Nothing changes."""
        asked = await read_body(request, TrialOfPolicies)
        gateway = self._gateway
        policies = await asyncio.to_thread(check_documents, asked.by_role())
        reading = gateway.database.reading
        found = await asyncio.to_thread(replay, reading, policies, gateway.references.current, asked.last)
        return json_answer(found.model_dump())

    async def decision(self, request: web.Request, caller: Caller) -> web.Response:
        """A decision with every byte that deciding it again needs."""
        file = await self._gateway.decision_files.find(request.match_info["decision"], orchestrator=_own(caller))
        return web.Response(body=file.encode(), content_type="application/json", headers={"Cache-Control": "no-store"})

    async def explanation(self, request: web.Request, caller: Caller) -> web.Response:
        """Why it was decided so; as text for ``Accept: text/plain``."""
        file = await self._gateway.decision_files.find(request.match_info["decision"], orchestrator=_own(caller))
        found = await asyncio.to_thread(explain, file)
        if "text/plain" in request.headers.get("Accept", ""):
            return web.Response(text=found.text() + "\n", headers={"Cache-Control": "no-store"})
        return json_answer(found.encode())

    def _view(self, revoked: list[str]) -> PoliciesView:
        policies, last = self._gateway.policies.current, self._gateway.policies.last_activation()
        documents = {role: data.decode() for role, data in policies.documents().items()}
        return PoliciesView(
            **policies.digests(),
            operator=None if last is None else last.operator,
            activated_at=0 if last is None else last.at,
            trusts_everything=list(policies.trusts_everything()),
            documents=PolicyDocuments(**documents),
            revoked=revoked,
        )


def _own(caller: Caller) -> str | None:
    return caller.name if caller.role is Role.ORCHESTRATOR else None
