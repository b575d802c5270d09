"""Retirement: an operator takes an executor out of service for good, and may name who comes in its place."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import Body, Route, json_of
from gateway.orders import Order
from gateway.replies import NOTHING
from gateway.routes.route import KEEP, json_answer, read_body
from ztrooted.errors import GateError
from ztrooted.names import EXECUTOR_ID
from ztrooted.operator_models import RetirementRequest, RetirementView, Subject
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.app import Gateway


class RetirementRoutes:
    """One order that can't be taken back."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route(
                "POST",
                "/v1/executors/{executor}/retirement",
                frozenset({Role.OPERATOR}),
                self.retire,
                json_of(RetirementView),
                frozenset({409}),
                Body(RetirementRequest),
                keyed=True,
            ),
        )

    async def retire(self, request: web.Request, caller: Caller) -> web.Response:
        """End what an executor runs and have it never come again; its successor, where one is named, gets its labels."""
        gateway, executor = self._gateway, request.match_info["executor"]
        if not EXECUTOR_ID.fullmatch(executor):
            raise GateError(GateReason.ID_INVALID, "an executor's id is 'ex-' and 32 hexadecimal digits")
        asked = await read_body(request, RetirementRequest)
        gateway.rounds.executor(executor)  # that it is known
        order = Order(Subject(kind="executor", id=executor), caller.name, asked.reason, gateway.clock.now_ms())
        done = await gateway.retirements.retire(order, asked.successor, request.get(KEEP, NOTHING))
        await gateway.endings.announce(list(done.revoked))
        gateway.tasks.start(gateway.retirements.part(executor))
        if asked.successor is not None:
            gateway.prove_soon(asked.successor)
        return json_answer(done.view.model_dump())
