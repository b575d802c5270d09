"""Operators' orders: revoke, quarantine, release; and who is in quarantine."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import Body, Route, json_of
from gateway.orders import Order, is_known_orchestrator
from gateway.pages import PAGED, Page
from gateway.replies import NOTHING, Keep
from gateway.routes.route import KEEP, json_answer, read_body
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from ztrooted.errors import GateError
from ztrooted.names import EXECUTOR_ID
from ztrooted.operator_models import OrderRequest, OrderView, QuarantineList, Subject
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway

OPERATORS = frozenset({Role.OPERATOR})


class OrderRoutes:
    """What operators order. Each order is recorded with who gave it and why."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route(
                "POST",
                "/v1/revocations",
                OPERATORS,
                self.revoke,
                json_of(OrderView),
                frozenset({404}),
                Body(OrderRequest),
                keyed=True,
            ),
            Route(
                "POST",
                "/v1/quarantines",
                OPERATORS,
                self.quarantine,
                json_of(OrderView),
                frozenset({404}),
                Body(OrderRequest),
                keyed=True,
            ),
            Route(
                "GET",
                "/v1/quarantines",
                frozenset({Role.OPERATOR, Role.AUDITOR}),
                self.quarantined,
                json_of(QuarantineList),
                query=PAGED,
            ),
            Route(
                "POST",
                "/v1/releases",
                OPERATORS,
                self.release,
                json_of(OrderView),
                frozenset({404, 409}),
                Body(OrderRequest),
                keyed=True,
            ),
        )

    async def revoke(self, request: web.Request, caller: Caller) -> web.Response:
        """End everything live of an authorization, executor, orchestrator or class, descendants included."""
        order = await self._order(request, caller)
        return await self._answer(order, await self._gateway.orders.revoke(order, _keep(request)))

    async def quarantine(self, request: web.Request, caller: Caller) -> web.Response:
        """The same, and refuse what comes until it is released."""
        order = await self._order(request, caller, known=False)
        if order.subject.kind == "authorization":
            raise no_quarantine(order.subject)
        return await self._answer(order, await self._gateway.orders.quarantine(order, _keep(request)))

    async def release(self, request: web.Request, caller: Caller) -> web.Response:
        """End a quarantine. What it ended stays ended."""
        asked = await read_body(request, OrderRequest)  # a class that the policy has no more can be released, too
        order = Order(asked.subject, caller.name, asked.reason, self._gateway.clock.now_ms())
        await self._gateway.orders.release(order, _keep(request))
        return await self._answer(order, [])

    async def quarantined(self, request: web.Request, _caller: Caller) -> web.Response:
        """Who is in quarantine, and why."""
        return json_answer(self._gateway.orders.quarantined(Page.wanted(request, int, str, str)).model_dump())

    async def _order(self, request: web.Request, caller: Caller, *, known: bool = True) -> Order:
        asked = await read_body(request, OrderRequest)
        require_subject(self._gateway, asked.subject, known=known)
        return Order(asked.subject, caller.name, asked.reason, self._gateway.clock.now_ms())

    async def _answer(self, order: Order, ended: list[Authorization]) -> web.Response:
        await self._gateway.endings.announce(ended)
        return json_answer(order.view(ended).model_dump())


def _keep(request: web.Request) -> Keep:
    keep: Keep = request.get(KEEP, NOTHING)
    return keep


def require_subject(gateway: "Gateway", subject: Subject, *, known: bool) -> None:
    """GateError for what can't be meant; ``known`` where only what is there can be."""
    if subject.kind == "authorization":
        authorizations.get(gateway.database.reading, subject.id)
    elif subject.kind == "executor":
        if not EXECUTOR_ID.fullmatch(subject.id):
            raise GateError(GateReason.ID_INVALID, "an executor's id is 'ex-' and 32 hexadecimal digits")
        if known:
            gateway.rounds.executor(subject.id)
    elif subject.kind == "orchestrator":
        if not is_known_orchestrator(gateway.database.reading, subject.id):
            raise _no_subject(subject, "no orchestrator of that name has a token, and none has asked for anything")
    elif subject.kind == "class" and subject.id not in gateway.policies.current.appraisal.classes:
        raise _no_subject(subject, "the appraisal policy in force has no such class")


def _no_subject(subject: Subject, why: str) -> GateError:
    return GateError(GateReason.OPERATOR_SUBJECT, f"{subject}: {why}")


def no_quarantine(subject: Subject) -> GateError:
    """Why an authorization can't be put into quarantine."""
    return _no_subject(subject, "an authorization ends for ever; revoke it")
