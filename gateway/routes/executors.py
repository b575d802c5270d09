"""Executors: enrollment, their channel, and what people see of them."""

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.addresses import source_of
from gateway.auth import Caller, Role, require_session
from gateway.channel import Said, Session, listen
from gateway.declaration import Answer, Body, Parameter, Route, json_of
from gateway.pages import LIMIT, Page
from gateway.rates import RateExceededError
from gateway.routes.route import PAID, PEOPLE, json_answer, read_body
from gateway.storage import executors, retirements
from gateway.storage.database import Transaction
from gateway.storage.executors import Executor
from gateway.streams import Stream
from ztrooted import limits
from ztrooted.channel_messages import (
    UNDERSTANDS_HEADER,
    ActivateMessage,
    IssuerMessage,
    MeasuredMessage,
    StartedMessage,
)
from ztrooted.errors import GateError, PolicyError
from ztrooted.models import (
    ActivationRequest,
    Enrolled,
    EnrollmentChallenge,
    EnrollmentRequest,
    ExecutorPage,
    ExecutorView,
    LabelsRequest,
    LabelsView,
)
from ztrooted.names import EXECUTOR_ID
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.results import tier, tier_name
from ztrooted.tracing import continued
from ztrooted.verdict import Verdict

if TYPE_CHECKING:
    from gateway.app import Gateway

ENROLLING = frozenset({403, 404, 409, 410, 413, 503})
AFTER = Parameter(
    "after",
    "the id of an executor; those behind it are listed",
    {"type": "string", "pattern": f"^({EXECUTOR_ID.pattern})?$"},
)
TOLD = Parameter(
    UNDERSTANDS_HEADER,
    "what the agent understands besides what the first ones did, such as 'traceparent, verdict'",
    {"type": "string", "pattern": "^[a-z]{1,32}(, [a-z]{1,32}){0,15}$"},
)
CLOSE_S = 1.0  # for the goodbye of a channel; the one that replaces a half-open channel waits for it


class ExecutorRoutes:
    """Everything between executors and the gateway."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self.routes = (
            Route(
                "POST",
                "/v1/enrollments",
                frozenset({Role.ANYONE}),
                self.enroll,
                json_of(EnrollmentChallenge, 201),
                ENROLLING,
                Body(EnrollmentRequest),
            ),
            Route(
                "POST",
                "/v1/enrollments/{enrollment}/activation",
                frozenset({Role.ANYONE}),
                self.activate,
                json_of(Enrolled),
                ENROLLING,
                Body(ActivationRequest, limits.EVIDENCE_BODY),
            ),
            Route(
                "GET",
                "/v1/executor/channel",
                frozenset({Role.EXECUTOR}),
                self.channel,
                (Answer(101, "From here on a WebSocket (RFC 6455) of JSON messages."),),
                frozenset({503}),
                headers=(TOLD,),
                lasting=True,
            ),
            Route("GET", "/v1/executors", PEOPLE, self.executors, json_of(ExecutorPage), query=(LIMIT, AFTER)),
            Route(
                "PUT",
                "/v1/executors/{executor}/labels",
                frozenset({Role.OPERATOR}),
                self.label,
                json_of(LabelsView),
                body=Body(LabelsRequest),
            ),
        )

    async def enroll(self, request: web.Request, _caller: Caller) -> web.Response:
        """First half of an enrollment."""
        self._gateway.require_ready()
        asked = await read_body(request, EnrollmentRequest)
        challenge = await self._gateway.enrollments.begin(asked, source_of(request), request[PAID])
        return json_answer(challenge.model_dump(), status=201)

    async def activate(self, request: web.Request, _caller: Caller) -> web.Response:
        """Second half."""
        self._gateway.require_ready()
        enrollment = request.match_info["enrollment"]
        self._gateway.enrollments.require_pending(enrollment)  # before megabytes are read from anybody at all
        body = await read_body(request, ActivationRequest)
        admitted = await self._gateway.enrollments.activate(enrollment, body)
        await self._gateway.endings.announce(list(admitted.revoked))
        executor = admitted.executor
        with suppress(RateExceededError):  # who enrolls again and again pays for it like a stranger
            self._gateway.rates.known(Caller(Role.EXECUTOR, executor.id))
            self._gateway.rates.give_back(source_of(request), request[PAID] + admitted.paid)
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
        return json_answer(enrolled.model_dump())

    async def channel(self, request: web.Request, caller: Caller) -> web.WebSocketResponse:
        """The executor's channel."""
        self._gateway.require_ready()
        if caller.session_key is None:
            raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "this needs an executor's session certificate")
        socket = web.WebSocketResponse(timeout=CLOSE_S, max_msg_size=limits.EVIDENCE_BODY, compress=False)
        await socket.prepare(request)
        understands = frozenset(request.headers.get(UNDERSTANDS_HEADER, "").split(", "))
        session = Session(caller.name, caller.session_key, socket, caller.ends_ms or 0, request.transport, understands)

        def end() -> None:
            self._gateway.tasks.start(session.close(GateReason.AUTH_CREDENTIAL_INVALID))

        with self._gateway.streams.open(Stream(lambda: session.certificate_ends_ms, None, end)):
            await self._serve(session, socket)
        return socket

    async def _serve(self, session: Session, socket: web.WebSocketResponse) -> None:
        """One session, from its admission to its end."""
        try:
            await self._gateway.channels.admit(session)  # before it is listened to: until then it is nobody's word
        except GateError as error:
            session.log_refusal("channel", error)
            await self._gateway.halt(session, error)
            return
        try:
            # It waited to be admitted, and may have been replaced or retired meanwhile; nobody could hang up on it then.
            require_session(self._gateway.database.reading, session.executor, session.key)
            for issuer in self._gateway.signer.introductions():
                await session.send(IssuerMessage(issuer=issuer))
            self._gateway.pace.connected(session.executor)
            await listen(session, socket, self._said)
        except GateError as error:  # it hung up already; there is nobody left to tell
            session.log_refusal("channel", error)
        finally:
            await self._gateway.channels.remove(session)

    async def _said(self, session: Session, message: Said) -> None:
        """What an executor reports is settled beside the channel, which must stay free for the evidence it asks for."""

        async def settle() -> None:
            authorizer = self._gateway.authorizer
            try:
                if isinstance(message, ActivateMessage):
                    with continued(message.traceparent):
                        await authorizer.activate(session, message.artifact)
                elif isinstance(message, MeasuredMessage):
                    self._gateway.pace.hurry(session.executor)
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
        page = Page(int(request.query.get("limit", limits.PAGE)))
        after = request.query.get("after", "")
        found = executors.every(self._gateway.database.reading, after=after, limit=page.limit + 1)
        views = [executor_view(self._gateway, one).model_dump() for one in found[: page.limit]]
        return json_answer({"executors": views, "next": views[-1]["executor"] if len(found) > page.limit else None})

    async def label(self, request: web.Request, caller: Caller) -> web.Response:
        """An operator says what an executor is labelled with, from now on; it is proved again at once."""
        executor = request.match_info["executor"]
        if not EXECUTOR_ID.fullmatch(executor):
            raise GateError(GateReason.ID_INVALID, "an executor's id is 'ex-' and 32 hexadecimal digits")
        labels = (await read_body(request, LabelsRequest)).labels
        gateway = self._gateway
        body = {"executor": executor, "labels": labels, "operator": caller.name}
        record = Record("executor.labelled", gateway.clock.now_ms(), body)

        def store(tx: Transaction) -> None:
            executors.set_labels(tx, executor, labels)
            tx.append(record)

        await gateway.database.write(store)
        gateway.prove_soon(executor)
        return json_answer({"executor": executor, "labels": labels})


def executor_view(gateway: "Gateway", executor: Executor) -> ExecutorView:
    """What the gateway knows of one executor, now."""
    now_ms, connection = gateway.clock.now_ms(), gateway.database.reading
    retired = retirements.find(connection, executor.id) is not None
    trusted = executor.trusted and now_ms <= executor.proof_due and not retired
    reason = executor.verdict["reason"] if not executor.trusted else None if trusted else "attestation.overdue"
    return ExecutorView(
        executor=executor.id,
        executor_class=executor.executor_class,
        virtual=executor.virtual,
        manufacturer=executor.manufacturer,
        connected=gateway.channels.get(executor.id) is not None,
        trusted=trusted,
        reason="operator.retired" if retired else reason,
        detail=Verdict.detail_of(executor.verdict),
        tier=_tier(gateway, executor, trusted=trusted),
        labels=dict(executors.labels_of(connection, executor.id)),
        evidence_age_ms=max(0, now_ms - executor.proved_at),
        next_proof_due=executor.proof_due,
    )


def _tier(gateway: "Gateway", executor: Executor, *, trusted: bool) -> str:
    try:
        rules = gateway.rounds.policy_of(executor)
    except PolicyError:  # no class is for it any more
        return tier_name(0)
    return tier_name(tier(rules, trusted=trusted, virtual=executor.virtual))
