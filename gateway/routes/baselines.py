"""Reference values: captured, proposed, compared and approved by operators."""

import asyncio
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.auth import Caller, Role
from gateway.declaration import JSON, Body, Route, bytes_of, json_of
from gateway.pages import PAGED, Page
from gateway.routes.route import json_answer, read_body, read_bytes
from ztrooted import limits
from ztrooted.baseline_diff import diff
from ztrooted.baseline_models import ApprovalRequest, BaselineList, BaselineView, CaptureRequest, DifferenceList
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose
from ztrooted.reasons import GateReason
from ztrooted.reference import FORMAT, MAXIMUM, capture, parse_baseline

if TYPE_CHECKING:
    from gateway.app import Gateway

READERS = frozenset({Role.OPERATOR, Role.AUDITOR})
PROVED = frozenset({403, 404, 409, 410, 413, 503})  # what can come of asking an executor for proof
BASELINE = {"type": "object", "properties": {"format": {"const": FORMAT}}, "required": ["format"]}


class BaselineRoutes:
    """What operators do about reference values."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        operator = frozenset({Role.OPERATOR})
        self.routes = (
            Route("GET", "/v1/baselines", READERS, self.every, json_of(BaselineList), query=PAGED),
            Route(
                "POST",
                "/v1/baselines",
                operator,
                self.capture,
                json_of(BaselineView, 201),
                PROVED,
                Body(CaptureRequest),
            ),
            Route(
                "POST",
                "/v1/classes/{executor_class}/baselines",
                operator,
                self.propose,
                json_of(BaselineView, 201),
                body=Body(BASELINE, MAXIMUM),
            ),
            Route(
                "GET",
                "/v1/baselines/{baseline}",
                READERS,
                self.bytes,
                bytes_of(JSON, "Its exact bytes.", BASELINE),
                tagged=True,
            ),
            Route("GET", "/v1/baselines/{baseline}/diff/{other}", READERS, self.diff, json_of(DifferenceList)),
            Route(
                "POST",
                "/v1/baselines/{baseline}/approval",
                operator,
                self.approve,
                json_of(BaselineView),
                frozenset({409}),
                Body(ApprovalRequest, required=False),
            ),
        )

    async def every(self, request: web.Request, _caller: Caller) -> web.Response:
        """The baselines, the latest proposal first."""
        shown, following = self._gateway.references.page(Page.wanted(request, int, str, str))
        return json_answer(BaselineList(baselines=shown, next=following).model_dump())

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
        view = await gateway.references.propose(done.executor.executor_class, baseline, done.now_ms)
        return json_answer(view.model_dump(), status=201)

    async def propose(self, request: web.Request, _caller: Caller) -> web.Response:
        """Propose a baseline that was computed elsewhere; the body is its canonical bytes."""
        gateway, executor_class = self._gateway, request.match_info["executor_class"]
        gateway.policies.current.appraisal.for_class(executor_class)
        data = await read_bytes(request)
        baseline = await asyncio.to_thread(parse_baseline, data)  # others are answered meanwhile
        view = await gateway.references.propose(executor_class, baseline, gateway.clock.now_ms())
        return json_answer(view.model_dump(), status=201)

    async def bytes(self, request: web.Request, _caller: Caller) -> web.Response:
        """A baseline's exact bytes."""
        digest = request.match_info["baseline"]
        self._gateway.references.view(digest)
        data = self._gateway.references.data(digest)
        return web.Response(body=data, content_type="application/json", headers={"Cache-Control": "no-store"})

    async def diff(self, request: web.Request, _caller: Caller) -> web.Response:
        """What differs, from the first to the second."""
        references = self._gateway.references
        first, second = request.match_info["baseline"], request.match_info["other"]
        found = await asyncio.to_thread(lambda: diff(references.baseline(first), references.baseline(second)))
        shown = [one.encode() for one in found[: limits.DIFFERENCES]]
        return json_answer({"same": not found, "count": len(found), "differences": shown})

    async def approve(self, request: web.Request, caller: Caller) -> web.Response:
        """Put a proposed baseline in force."""
        gateway, now_ms = self._gateway, self._gateway.clock.now_ms()
        asked = await read_body(request, ApprovalRequest) if request.can_read_body else ApprovalRequest()
        expires_ms = None if asked.expires_in_s is None else now_ms + asked.expires_in_s * 1000
        digest = request.match_info["baseline"]
        view = await gateway.references.approve(digest, caller.name, now_ms, expires_ms=expires_ms)
        gateway.prove_all()
        return json_answer(view.model_dump())
