"""Reference values: captured and approved by operators."""

from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.routes.route import Route, json_answer, read_body
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose
from ztrooted.models import CaptureRequest
from ztrooted.reasons import GateReason
from ztrooted.reference import capture

if TYPE_CHECKING:
    from gateway.app import Gateway


class BaselineRoutes:
    """What operators do about reference values."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route("POST", "/v1/baselines", frozenset({Role.OPERATOR}), self.capture),
            Route("POST", "/v1/baselines/{baseline}/approval", frozenset({Role.OPERATOR}), self.approve),
        )

    async def capture(self, request: web.Request, _caller: Caller) -> web.Response:
        """Propose the present, verified state of an executor as the baseline of its class."""
        wanted = (await read_body(request, CaptureRequest)).executor
        gateway = self._gateway
        executor = gateway.rounds.executor(wanted)
        session = gateway.channels.get(wanted)
        if session is None:
            raise GateError(GateReason.DISPATCH_EXECUTOR_UNREACHABLE, f"executor {wanted} is not connected")
        async with session.proving:
            done = await gateway.rounds.prove(session, Purpose.RUNTIME, from_start=True)
        done.appraisal.require_authentic()
        baseline = capture(
            bank=done.policy.bank,
            pcrs=done.appraisal.pcrs,
            entries=done.appraisal.entries,
            event_log=done.appraisal.event_log,
            executor=executor.id,
            now_ms=done.now_ms,
        )
        view = await gateway.references.propose(executor, baseline, done.now_ms)
        return json_answer(view.model_dump(), status=201)

    async def approve(self, request: web.Request, caller: Caller) -> web.Response:
        """Put a proposed baseline in force."""
        gateway = self._gateway
        view = await gateway.references.approve(request.match_info["baseline"], caller.name, gateway.clock.now_ms())
        gateway.prove_all()
        return json_answer(view.model_dump())
