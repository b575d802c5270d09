"""The HTTP API. Each route names the roles that may use it; one that names none can't be added."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from gateway.auth import Authenticator, Caller, Role
from gateway.channel import Session, listen
from gateway.storage import authorizations, executors
from gateway.storage.authorizations import Authorization
from gateway.storage.executors import Executor
from tpm.errors import EvidenceError
from ztrooted import limits
from ztrooted.appraisal import Verdict
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose
from ztrooted.models import (
    ActivateMessage,
    ActivationRequest,
    AuthorizationView,
    CaptureRequest,
    DispatchRequest,
    EndedMessage,
    Enrolled,
    EnrollmentRequest,
    ExecutorView,
    IssuerMessage,
    Model,
    StartedMessage,
    parse_json,
)
from ztrooted.reasons import GateReason
from ztrooted.reference import capture
from ztrooted.results import tier, tier_name

if TYPE_CHECKING:
    from gateway.app import Gateway

M = TypeVar("M", bound=Model)
Handle = Callable[[web.Request, Caller], Awaitable[web.StreamResponse]]

HEARTBEAT_S = 10.0
CLOSE_S = 1.0  # for the goodbye of a channel; the one that replaces a half-open channel waits for it
FEED_IDLE_S = 15.0


@dataclass(frozen=True, slots=True)
class Route:
    """One route and who may use it."""

    method: str
    path: str
    roles: frozenset[Role]
    handle: Handle


class Api:
    """All handlers."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        people = frozenset({Role.ORCHESTRATOR, Role.AUDITOR, Role.OPERATOR})
        self.routes = (
            Route("GET", "/livez", frozenset({Role.ANYONE}), self.livez),
            Route("GET", "/readyz", frozenset({Role.ANYONE}), self.readyz),
            Route("POST", "/v1/enrollments", frozenset({Role.ANYONE}), self.enroll),
            Route("POST", "/v1/enrollments/{enrollment}/activation", frozenset({Role.ANYONE}), self.activate),
            Route("GET", "/v1/executor/channel", frozenset({Role.EXECUTOR}), self.channel),
            Route("GET", "/v1/executors", people, self.executors),
            Route("POST", "/v1/dispatches", frozenset({Role.ORCHESTRATOR}), self.dispatch),
            Route("GET", "/v1/authorizations", people, self.authorizations),
            Route("GET", "/v1/authorizations/{authorization}", people, self.authorization),
            Route("GET", "/v1/authorizations/{authorization}/bundle", people, self.bundle),
            Route("POST", "/v1/authorizations/{authorization}/revocation", frozenset({Role.OPERATOR}), self.revoke),
            Route("GET", "/v1/events", people, self.events),
            Route("POST", "/v1/baselines", frozenset({Role.OPERATOR}), self.capture),
            Route("POST", "/v1/baselines/{baseline}/approval", frozenset({Role.OPERATOR}), self.approve),
            Route("GET", "/v1/checkpoint", people, self.checkpoint),
        )

    # --- health --------------------------------------------------------------------------------------------------
    async def livez(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The process answers."""
        return _json({"alive": True})

    async def readyz(self, _request: web.Request, _caller: Caller) -> web.Response:
        """Whether an authorization could be given correctly now, and if not, why not."""
        failing = self._gateway.not_ready()
        return _json({"ready": not failing, "failing": failing}, status=503 if failing else 200)

    # --- executors -----------------------------------------------------------------------------------------------
    async def enroll(self, request: web.Request, _caller: Caller) -> web.Response:
        """First half of an enrollment."""
        self._gateway.require_ready()
        challenge = await self._gateway.enrollments.begin(await _read(request, EnrollmentRequest))
        return _json(challenge.model_dump(), status=201)

    async def activate(self, request: web.Request, _caller: Caller) -> web.Response:
        """Second half."""
        self._gateway.require_ready()
        enrollment = request.match_info["enrollment"]
        self._gateway.enrollments.require_pending(enrollment)  # before megabytes are read from anybody at all
        body = await _read(request, ActivationRequest, limits.EVIDENCE_BODY)
        admitted = await self._gateway.enrollments.activate(enrollment, body)
        await self._gateway.endings.announce(list(admitted.revoked))
        executor = admitted.executor
        # The channel of the session before; beside, since a half-open one takes a second to close.
        self._gateway.tasks.start(self._gateway.channels.end(executor.id, GateReason.CHANNEL_SUPERSEDED))
        verdict = executor.verdict
        identity = self._gateway.signer.identity
        enrolled = Enrolled(
            executor=executor.id,
            certificate=admitted.certificate,
            log_key=identity.log_key_spki(),
            issuers=self._gateway.signer.introductions(),
            issuer=self._gateway.config.issuer,
            audience=self._gateway.config.audience,
            virtual=executor.virtual,
            trusted=executor.trusted,
            reason=verdict["reason"],
            detail=Verdict.detail_of(verdict),
        )
        return _json(enrolled.model_dump())

    async def channel(self, request: web.Request, caller: Caller) -> web.WebSocketResponse:
        """The executor's channel."""
        self._gateway.require_ready()
        if caller.session_key is None:
            raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "this needs an executor's session certificate")
        socket = web.WebSocketResponse(
            timeout=CLOSE_S, heartbeat=HEARTBEAT_S, max_msg_size=limits.EVIDENCE_BODY, compress=False
        )
        await socket.prepare(request)
        session = Session(caller.name, caller.session_key, socket, caller.certificate_ends_ms)
        await self._gateway.channels.add(session)
        try:
            for issuer in self._gateway.signer.introductions():
                await session.send(IssuerMessage(issuer=issuer))
            self._gateway.authorizer.schedule(caller.name)
            await listen(session, socket, self._said)
        except GateError as error:  # it hung up already; there is nobody left to tell
            session.log_refusal("channel", error)
        finally:
            await self._gateway.channels.remove(session)
        return socket

    async def _said(self, session: Session, message: ActivateMessage | StartedMessage | EndedMessage) -> None:
        """What an executor reports is settled beside the channel, which must stay free for the evidence it asks for."""

        async def settle() -> None:
            authorizer = self._gateway.authorizer
            try:
                if isinstance(message, ActivateMessage):
                    await authorizer.activate(session, message.artifact)
                elif isinstance(message, StartedMessage):
                    await authorizer.started(session, message)
                else:
                    await self._gateway.endings.ended(session, message)
            except GateError as error:
                session.log_refusal(message.type, error)

        self._gateway.tasks.start(settle())
        await asyncio.sleep(0)

    async def executors(self, request: web.Request, _caller: Caller) -> web.Response:
        """A page of executors, by id."""
        found = executors.every(self._gateway.database.reading, after=request.query.get("after", ""), limit=limits.PAGE)
        views = [self._executor_view(one).model_dump() for one in found]
        return _json({"executors": views, "next": found[-1].id if len(found) == limits.PAGE else None})

    def _executor_view(self, executor: Executor) -> ExecutorView:
        now_ms = self._gateway.clock.now_ms()
        trusted = executor.trusted and now_ms <= executor.proof_due
        policy = self._gateway.rounds.policy_of(executor)
        return ExecutorView(
            executor=executor.id,
            executor_class=executor.executor_class,
            virtual=executor.virtual,
            manufacturer=executor.manufacturer,
            connected=self._gateway.channels.get(executor.id) is not None,
            trusted=trusted,
            reason=executor.verdict["reason"] if not executor.trusted else None if trusted else "attestation.overdue",
            detail=Verdict.detail_of(executor.verdict),
            tier=tier_name(tier(policy, trusted=trusted, virtual=executor.virtual)),
            evidence_age_ms=max(0, now_ms - executor.proved_at),
            next_proof_due=executor.proof_due,
        )

    # --- orchestrators -------------------------------------------------------------------------------------------
    async def dispatch(self, request: web.Request, caller: Caller) -> web.Response:
        """May this job run on this executor, now?"""
        self._gateway.require_ready()
        grant = await self._gateway.authorizer.dispatch(caller.name, await _read(request, DispatchRequest))
        return _json(grant.model_dump(), status=201)

    async def authorizations(self, _request: web.Request, caller: Caller) -> web.Response:
        """The latest authorizations."""
        own = caller.name if caller.role is Role.ORCHESTRATOR else None
        found = authorizations.page(self._gateway.database.reading, orchestrator=own, limit=limits.PAGE)
        return _json({"authorizations": [_authorization_view(one).model_dump() for one in found]})

    async def authorization(self, request: web.Request, caller: Caller) -> web.Response:
        """One authorization."""
        return _json(_authorization_view(self._own(request, caller)).model_dump())

    async def bundle(self, request: web.Request, caller: Caller) -> web.Response:
        """Everything that proves one authorization."""
        found = self._own(request, caller)
        data = await self._gateway.bundles.export(found.id)
        return web.Response(body=data, content_type="application/json", headers={"Cache-Control": "no-store"})

    async def revoke(self, request: web.Request, caller: Caller) -> web.Response:
        """An operator ends an authorization."""
        found = self._own(request, caller)
        detail = f"revoked by operator {caller.name}"
        await self._gateway.endings.revoke(found.id, GateReason.OPERATOR_REVOKED, detail)
        return _json(_authorization_view(self._own(request, caller)).model_dump())

    def _own(self, request: web.Request, caller: Caller) -> Authorization:
        found = authorizations.get(self._gateway.database.reading, request.match_info["authorization"])
        if caller.role is Role.ORCHESTRATOR and found.orchestrator != caller.name:
            raise GateError(GateReason.ARTIFACT_UNKNOWN, f"there is no authorization {found.id!r}")
        return found

    async def events(self, request: web.Request, caller: Caller) -> web.StreamResponse:
        """Server-sent events from record ``from`` on: the lineage of authorizations, as it is written."""
        start = request.query.get("from", "0")
        if not (start.isascii() and start.isdigit() and len(start) < 16):
            raise GateError(GateReason.REQUEST_MALFORMED, "'from' is the number of a record")
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        with suppress(ConnectionError):  # a subscriber that leaves is no error of ours
            async for chunk in self._feed(int(start), caller):
                await response.write(chunk)
        return response

    async def _feed(self, cursor: int, caller: Caller) -> AsyncIterator[bytes]:
        own = caller.name if caller.role is Role.ORCHESTRATOR else None
        while not self._gateway.stopping.is_set():
            rows = self._gateway.database.reading.execute(
                "SELECT r.seq, r.type, r.bytes, a.orchestrator FROM records r"
                " LEFT JOIN authorizations a ON a.id = r.authorization WHERE r.seq >= ? ORDER BY r.seq LIMIT ?",
                (cursor, limits.FEED_BATCH),
            ).fetchall()
            for seq, kind, data, orchestrator in rows:
                cursor = seq + 1
                if orchestrator is not None and own in {None, orchestrator}:
                    yield f"id: {seq}\nevent: {kind}\ndata: ".encode() + bytes(data) + b"\n\n"
            if not rows:
                try:
                    async with asyncio.timeout(FEED_IDLE_S):
                        await self._gateway.database.wait_for_commit()
                except TimeoutError:
                    yield b": still here\n\n"

    # --- operators and auditors ----------------------------------------------------------------------------------
    async def capture(self, request: web.Request, _caller: Caller) -> web.Response:
        """Propose the present, verified state of an executor as the baseline of its class."""
        wanted = (await _read(request, CaptureRequest)).executor
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
            pinned=done.policy.pinned,
            entries=done.appraisal.entries,
            executor=executor.id,
            now_ms=done.now_ms,
        )
        view = await gateway.references.propose(executor, baseline, done.now_ms)
        return _json(view.model_dump(), status=201)

    async def approve(self, request: web.Request, caller: Caller) -> web.Response:
        """Put a proposed baseline in force."""
        gateway = self._gateway
        view = await gateway.references.approve(request.match_info["baseline"], caller.name, gateway.clock.now_ms())
        gateway.prove_all()
        return _json(view.model_dump())

    async def checkpoint(self, _request: web.Request, _caller: Caller) -> web.Response:
        """The newest sealed checkpoint."""
        latest = self._gateway.checkpointer.latest()
        if latest is None:
            raise GateError(GateReason.SERVICE_NOT_READY, "nothing has been sealed yet")
        return web.Response(body=latest[1], content_type="text/plain", charset="utf-8")


def add_routes(app: web.Application, routes: tuple[Route, ...], authenticator: Authenticator) -> None:
    """Register routes. ValueError for one without a role: it would be open to everybody by accident."""
    for route in routes:
        if not route.roles:
            raise ValueError(f"{route.method} {route.path} declares no role")
        app.router.add_route(route.method, route.path, _guarded(route, authenticator))


def _guarded(route: Route, authenticator: Authenticator) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def guarded(request: web.Request) -> web.StreamResponse:
        return await route.handle(request, authenticator.identify(request, route.roles))

    return guarded


async def _read(request: web.Request, model: type[M], maximum: int = limits.BODY) -> M:
    """The body as ``model``; refused by its declared or real size, its type and its encoding before it is parsed."""
    if request.headers.get("Content-Encoding") or request.content_type != "application/json":
        raise GateError(GateReason.REQUEST_CONTENT_TYPE, "send plain application/json")
    data = bytearray()
    try:
        async with asyncio.timeout(limits.REQUEST_S):
            async for chunk in request.content.iter_chunked(1 << 16):
                data += chunk
                if len(data) > maximum:
                    raise GateError(GateReason.REQUEST_TOO_LARGE, f"the body is over {maximum} bytes")
    except TimeoutError:
        raise GateError(GateReason.REQUEST_TIMEOUT, f"the body did not arrive within {limits.REQUEST_S} s") from None
    try:
        parsed: M = parse_json(model, bytes(data), maximum=maximum)
    except EvidenceError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, error.detail) from error
    return parsed


def _json(value: Any, status: int = 200) -> web.Response:
    text = json.dumps(value)
    return web.Response(
        text=text, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


def _authorization_view(found: Authorization) -> AuthorizationView:
    return AuthorizationView(
        authorization=found.id,
        executor=found.executor,
        orchestrator=found.orchestrator,
        state=found.state.value,
        reason=found.reason,
        job=found.job_digest,
        workflow=found.job.workflow,
        run=found.job.run,
        step=found.job.step,
        lease_expires=found.lease_expires,
        renewals=found.renewals,
    )
