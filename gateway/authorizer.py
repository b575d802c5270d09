"""The only place that says yes.

Each public method is one thing that can happen to an authorization. They all follow the same order: prove (a round with the
executor), decide, commit state and records in one transaction, and only then tell anybody. Denial is what is left when
nothing else was reached.
"""

import asyncio
import secrets
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial

import structlog
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.channel import Channels, Session
from gateway.config import GatewayConfig
from gateway.decisions import decision_body, note_denial
from gateway.delegations import Asked, ask, ask_again, refuse_early, take_place
from gateway.endings import Endings
from gateway.leases import Lease, Leases
from gateway.metrics import Metrics
from gateway.orders import Orders
from gateway.policies import PolicyStore
from gateway.replies import NOTHING, Keep
from gateway.rounds import Round, Rounds
from gateway.schedule import Schedule
from gateway.signer import Signer
from gateway.storage import authorizations, retirements
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from tpm.observation import observed
from ztrooted import artifact
from ztrooted.appraisal_policy import NO_RULES, AppraisalClass
from ztrooted.channel_messages import CertificateMessage, LeaseMessage, RefusedMessage, StartedMessage
from ztrooted.clock import WatchedClock
from ztrooted.delegation import MAX_RUNTIME_S
from ztrooted.errors import GateError, PolicyError
from ztrooted.evidence import Purpose, live_set_digest
from ztrooted.lifecycle import State
from ztrooted.models import DispatchRequest, Grant
from ztrooted.policies import Policies
from ztrooted.reasons import GateReason, Reason
from ztrooted.tracing import trace_member

log = structlog.get_logger()


class Denied(GateError):  # noqa: N818 -- it is an outcome
    """A dispatch was denied; the denial is in the lineage under ``authorization``."""

    def __init__(self, reason: Reason, detail: str, authorization: str) -> None:
        super().__init__(reason, detail)
        self.authorization = authorization


class Authorizer:
    """Moves authorizations through their lifecycle."""

    def __init__(  # noqa: PLR0913, PLR0917 -- it is where everything meets
        self,
        config: GatewayConfig,
        database: Database,
        clock: WatchedClock,
        policies: PolicyStore,
        rounds: Rounds,
        leases: Leases,
        signer: Signer,
        channels: Channels,
        schedule: Schedule,
        metrics: Metrics,
        endings: Endings,
        orders: Orders,
        session_certificate: Callable[[str, ec.EllipticCurvePublicKey], str],
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._policies = policies
        self._rounds = rounds
        self._signer = signer
        self._leases = leases
        self._channels = channels
        self._schedule = schedule
        self._metrics = metrics
        self._endings = endings
        self._orders = orders
        self._session_certificate = session_certificate

    # --- phases 1 to 3 -------------------------------------------------------------------------------------------
    async def dispatch(self, orchestrator: str, request: DispatchRequest, keep: Keep = NOTHING) -> Grant:
        """Decide one dispatch. Raises ``Denied`` unless the executor proved itself for this job and policy permits it.

        ``keep`` is given the outcome in the transaction that records it.
        """
        try:
            with observed("dispatch", executor=request.executor):
                granted = await self._dispatch(orchestrator, request, keep)
        except GateError as error:
            self._metrics.decided(error.reason)
            raise
        self._metrics.decided(None)
        return granted

    async def _dispatch(self, orchestrator: str, request: DispatchRequest, keep: Keep) -> Grant:
        began = self._orders.epoch
        authorization = await self._request(orchestrator, request)
        session = self._channels.get(request.executor)
        try:
            refuse_early(self._database.reading, authorization, self._clock.now_ms())
            self._rounds.executor(request.executor)
            retirements.require_in_service(self._database.reading, request.executor)
            if session is None:
                raise GateError(
                    GateReason.DISPATCH_EXECUTOR_UNREACHABLE, f"executor {request.executor} is not connected"
                )
            async with session.proving:
                done = await self._rounds.prove(session, Purpose.DISPATCH, (bytes.fromhex(authorization.job_digest),))
                with observed("decision"):
                    lease, denied, revoked = await self._decide(authorization, done, began, keep)
        except GateError as error:
            raise await self._deny(authorization, error.reason, error.detail, keep) from error
        await self._endings.announce(revoked)
        if lease is None:
            raise denied or Denied(GateReason.POLICY_DENIED, "nothing permitted this dispatch", authorization.id)
        self._endings.watch(lease.authorization)
        return _grant(lease)

    async def _request(self, orchestrator: str, request: DispatchRequest) -> Authorization:
        authorization = Authorization(
            id=secrets.token_hex(16),
            executor=request.executor,
            orchestrator=orchestrator,
            state=State.REQUESTED,
            job=request.job,
            job_digest=request.job.digest(),
            max_runtime_s=request.max_runtime_s or (MAX_RUNTIME_S if request.parent is None else 0),
            enrollment=None,
            requested_at=self._clock.now_ms(),
            parent=request.parent,
            delegation=request.delegation,
        )
        body = {
            "orchestrator": orchestrator,
            "executor": request.executor,
            "job": request.job.model_dump(),
            "job_digest": authorization.job_digest,
            "max_runtime_s": authorization.max_runtime_s or None,
            "parent": request.parent,
            "delegation": request.delegation.model_dump(),
            **trace_member(),
        }
        return await self._database.write(lambda tx: authorizations.create(tx, authorization, body))

    async def _decide(
        self, authorization: Authorization, done: Round, began: int, keep: Keep
    ) -> tuple[Lease | None, Denied | None, list[Authorization]]:
        """Evaluate the dispatch policy on the verdict, and record verdict, decision and outcome together.

        A child is asked about inside the transaction, so that its parent and its siblings hold still meanwhile.
        """
        policies = self._policies.current
        trace, beforehand = trace_member(), None
        if authorization.parent is None:
            beforehand = ask(self._database.reading, authorization, done, policies)

        def commit(tx: Transaction) -> tuple[Lease | None, Denied | None, list[Authorization]]:
            self._policies.require_in_force(policies, done)
            self._orders.require_permitted(tx.connection, authorization, done, began)
            revoked = self._rounds.settle(tx, done)
            lease: Lease | None = None
            denied: Denied | None = None
            try:
                asked = beforehand or ask(tx.connection, authorization, done, policies)
            except GateError as error:  # it can't be a child of that parent, so there is nothing to permit
                note_denial(tx, authorization, done.now_ms, error.reason, error.detail)
                denied = Denied(error.reason, error.detail, authorization.id)
            else:
                lease, denied = self._conclude(tx, authorization, done, policies, asked, trace)
            if lease is not None:
                keep.answer(tx, 201, _grant(lease))
            elif denied is not None:
                keep.refusal(tx, denied)
            return lease, denied, revoked

        return await self._database.write(commit)

    def _conclude(
        self,
        tx: Transaction,
        authorization: Authorization,
        done: Round,
        policies: Policies,
        asked: Asked,
        trace: Mapping[str, str],
    ) -> tuple[Lease | None, Denied | None]:
        """Yes, if the executor is trusted and the policy permits; otherwise no."""
        decision, parent = asked.decision, asked.parent
        permitted = done.trusted is True and decision.permitted is True
        self._rounds.keep(tx, done)
        body = {"round": done.body(), **decision_body(policies, asked.request, decision), **trace}
        for data in policies.documents().values():
            tx.blob(data)
        changes = {"enrollment": done.executor.enrollment, "max_runtime_s": asked.max_runtime_s}
        if parent is not None and permitted:
            changes |= {"place": parent.children, "depth": parent.depth + 1}
        noted, _ = authorizations.note(tx, authorization, "policy.evaluated", done.now_ms, body, **changes)
        if permitted:
            if parent is not None:
                take_place(tx, parent, noted, done.now_ms)
            return self._leases.issue(tx, noted, done, policies.digests()), None
        verdict = done.appraisal.verdict
        reason = verdict.reason or decision.reason or GateReason.POLICY_DENIED
        note_denial(tx, noted, done.now_ms, reason, verdict.detail)
        detail = verdict.detail or "the dispatch policy does not permit this dispatch"
        return None, Denied(reason, detail, authorization.id)

    async def _deny(self, authorization: Authorization, reason: Reason, detail: str, keep: Keep = NOTHING) -> Denied:
        """Deny without a verdict: there was nobody to ask, or nothing could be issued."""
        now_ms, denied = self._clock.now_ms(), Denied(reason, detail, authorization.id)

        def commit(tx: Transaction) -> None:
            note_denial(tx, authorization, now_ms, reason, detail)
            keep.refusal(tx, denied)

        await self._database.write(commit)
        return denied

    # --- phase 4 -------------------------------------------------------------------------------------------------
    async def activate(self, session: Session, token: str) -> None:
        """An executor was handed an artifact: let it prove itself once more, for this job, and start the lease chain.

        Single use: the transition out of ``authorized`` happens once, whoever asks and however often.
        """
        authorization = None
        began = self._orders.epoch
        try:
            with observed("activation", executor=session.executor):
                authorization = self._presented(session, token)
                async with session.proving:
                    bindings = (authorization.id.encode(), bytes.fromhex(authorization.job_digest))
                    done = await self._rounds.prove(session, Purpose.START, bindings)
                    lease, revoked = await self._start(authorization, done, began)
        except GateError as error:
            named = None if authorization is None else authorization.id
            log.warning("activation refused", executor=session.executor, code=error.reason, detail=error.detail)
            await session.send(RefusedMessage(authorization=named, reason=str(error.reason), detail=error.detail))
            return
        await self._endings.announce(revoked)
        if lease is not None:
            self._endings.watch(lease.authorization)
            await session.send(_lease_message(lease))
            self.schedule(session.executor)

    def _presented(self, session: Session, token: str) -> Authorization:
        claims = artifact.verify(
            token,
            keys=self._signer.keys(),
            issuer=self._config.issuer,
            audience=self._config.audience,
            now=self._clock.now_ms() // 1000,
            executor=session.executor,
            jkt=artifact.thumbprint(session.key),
        )
        authorization = authorizations.get(self._database.reading, claims.jti)
        if authorization.state is not State.AUTHORIZED:
            raise GateError(
                GateReason.ARTIFACT_USED, f"authorization {authorization.id} is {authorization.state} already"
            )
        if claims.ren.n != 0 or authorization.artifact != artifact.token_digest(token):
            raise GateError(GateReason.ARTIFACT_USED, "only the first artifact of an authorization activates it")
        if authorization.lease_expires is None or authorization.lease_expires < self._clock.now_ms():
            raise GateError(GateReason.LEASE_EXPIRED, "the artifact was not activated in time")
        return authorization

    async def _start(
        self, authorization: Authorization, done: Round, began: int
    ) -> tuple[Lease | None, list[Authorization]]:
        policies = self._policies.current

        def commit(tx: Transaction) -> tuple[Lease | None, list[Authorization]]:
            self._policies.require_in_force(policies, done)
            self._orders.require_permitted(tx.connection, authorization, done, began)
            revoked = self._rounds.settle(tx, done)
            if not done.trusted:
                return None, revoked
            if _lapsed(authorizations.get(tx.connection, authorization.id), done):
                raise GateError(GateReason.LEASE_EXPIRED, "the quote came after the artifact had ended")
            asked = ask_again(tx.connection, authorization, done, policies)  # it may have been permitted by others
            self._rounds.keep(tx, done)
            decision = asked.decision
            body = done.body() | decision_body(policies, asked.request, decision)
            noted, _ = authorizations.note(tx, authorization, "attestation.passed", done.now_ms, body)
            if not decision.permitted:
                reason, detail = decision.reason or GateReason.POLICY_DENIED, "the policy no longer permits it"
                return None, revoked + authorizations.revoke(tx, noted, done.now_ms, reason, detail)
            noted, _ = authorizations.note(
                tx, noted, "authorization.activated", done.now_ms, {}, activated_at=done.now_ms
            )
            return self._leases.renew(tx, noted, done, policies.digests()), revoked

        return await self._database.write(commit)

    # --- phase 5 -------------------------------------------------------------------------------------------------
    async def started(self, session: Session, message: StartedMessage) -> None:
        """The executor says that the job runs."""
        await self._report(session, message.authorization, "execution.started", {"enforcement": message.enforcement})

    # --- phase 6 -------------------------------------------------------------------------------------------------
    def schedule(self, executor: str) -> None:
        """Set the time of the next round with a connected executor."""
        self._schedule_by(executor, self._pace(executor), live=bool(self._activated(executor)))

    def _schedule_by(self, executor: str, policy: AppraisalClass, *, live: bool) -> None:
        interval_s = policy.interval_s if live else policy.idle_interval_s
        self._schedule.within(executor, interval_s, policy.jitter, partial(self.prove_again, executor), live=live)

    def connected(self, executor: str) -> None:
        """The first round after a connection: at once with a live job, and otherwise when it would have been anyway.

        So a connection that is lost and made again neither delays a proof nor adds one, and ten thousand that come at
        once are asked as spread as before.
        """
        idle_s = self._pace(executor).idle_interval_s
        since_s = (self._clock.now_ms() - self._rounds.executor(executor).proved_at) / 1000
        live = bool(self._activated(executor))
        in_s = 0.0 if live else min(max(idle_s - since_s, 0.0), idle_s)
        self._schedule.within(executor, in_s, 0.0, partial(self.prove_again, executor), live=live)

    def hurry(self, executor: str) -> None:
        """An executor says that it has measured something. With a live job it is asked early."""
        if self._activated(executor):
            interval_s = self._pace(executor).interval_s
            self._schedule.early(executor, interval_s, partial(self.prove_again, executor))

    def _pace(self, executor: str) -> AppraisalClass:
        try:
            return self._rounds.policy_of(self._rounds.executor(executor))
        except PolicyError:  # no class is for it; it is asked again, since labels and policies change
            return NO_RULES

    async def prove_again(self, executor: str) -> None:
        """The next round of an executor: renew what it keeps alive, or revoke it."""
        session = self._channels.get(executor)
        if session is None:
            self._schedule.forget(executor)
            return  # what it was running ends with its lease
        async with session.proving:
            began = self._orders.epoch
            live = self._activated(executor)
            self._schedule.asking(executor, live=bool(live))
            asked_s = self._clock.monotonic()
            bindings = (live_set_digest(frozenset(one.id for one in live)),) if live else ()
            try:
                with observed("round", executor=executor, live=len(live)):
                    done = await self._rounds.prove(session, Purpose.RUNTIME, bindings)
            except GateError as error:
                if error.reason is GateReason.CHANNEL_CLOSED:
                    return  # asked again on the next connection, and until then every lease runs on, and out
                raise
            self._schedule.answered(executor)
            try:
                if done.trusted or not live:
                    leases, revoked = await self._renew(live, done, began)
                else:  # the record first in the writer's queue, so that it comes before what the executor says of the end
                    (leases, revoked), _ = await asyncio.gather(
                        self._renew(live, done, began), self._stop_at_once(live, done)
                    )
            except GateError as error:
                if error.reason is GateReason.CHANNEL_SUPERSEDED:
                    return
                if (
                    error.reason is GateReason.POLICY_CHANGED
                ):  # the next round, under the new ones, was asked for already
                    return
                log.error("round not recorded", executor=executor, code=error.reason, detail=error.detail)
                leases, revoked, still = [], [], bool(live)  # they run on under their leases, and are asked about again
            else:
                still = bool(leases)
            self._metrics.round(self._clock.monotonic() - asked_s, live=bool(live), trusted=done.trusted)
            # Before the next round can begin, which may be the start of a job: its interval is the one that counts.
            if self._channels.get(executor) is session:
                self._schedule_by(executor, done.policy, live=still)
        await self._endings.announce(revoked)
        for lease in leases:
            self._endings.watch(lease.authorization)
            await self._channels.tell(executor, _lease_message(lease))
        if self._channels.get(executor) is session:
            with suppress(GateError):  # it hung up; it is told the next time
                await session.judged(trusted=done.trusted, reason=done.appraisal.verdict.reason)
            if done.trusted:
                await self._renew_session(session)

    async def _stop_at_once(self, live: list[Authorization], done: Round) -> None:
        """Jobs on a machine that is not trusted die at the verdict, and wait for no disk to take the record of it.

        Like the record, which counts under any policy: it only takes away.
        """
        await self._endings.stop(live, done.appraisal.verdict.reason or GateReason.ATTESTATION_DRIFT)

    async def _renew_session(self, session: Session) -> None:
        """A good quote is what renews a session certificate, in the second half of its life."""
        if retirements.find(self._database.reading, session.executor) is not None:
            return
        life_ms = self._config.session_life_s * 1000
        now_ms = self._clock.now_ms()
        if session.certificate_ends_ms - now_ms < life_ms / 2:
            session.certificate_ends_ms = now_ms + life_ms
            certificate = self._session_certificate(session.executor, session.key)
            with suppress(GateError):
                await session.send(CertificateMessage(certificate=certificate))

    async def _renew(
        self, live: list[Authorization], done: Round, began: int
    ) -> tuple[list[Lease], list[Authorization]]:
        policies = self._policies.current
        live_ids = sorted(one.id for one in live)
        beforehand = {
            one.id: ask_again(self._database.reading, one, done, policies)
            for one in live
            if done.trusted and one.parent is None
        }

        def commit(tx: Transaction) -> tuple[list[Lease], list[Authorization]]:
            self._policies.require_in_force(policies, done)
            revoked = self._rounds.settle(tx, done)
            leases = []
            # Parents first: what ends takes its descendants along, and none of them may have a new lease by then.
            for authorization in sorted(live, key=lambda one: one.depth) if done.trusted else ():
                current = authorizations.get(tx.connection, authorization.id)
                if not current.live:
                    continue  # revoked meanwhile, and a revocation is never overwritten
                if _lapsed(current, done):  # on the executor it is over, and nothing here may say otherwise
                    detail = "the quote came after the lease had ended"
                    revoked += authorizations.revoke(tx, current, done.now_ms, GateReason.LEASE_EXPIRED, detail)
                    continue
                try:
                    self._orders.require_permitted(tx.connection, current, done, began)
                    asked = beforehand.get(current.id) or ask_again(tx.connection, current, done, policies)
                    self._rounds.keep(tx, done)
                    decision = asked.decision
                    body = done.body() | decision_body(policies, asked.request, decision) | {"live": live_ids}
                    noted, _ = authorizations.note(tx, current, "attestation.passed", done.now_ms, body)
                    if not decision.permitted:
                        raise GateError(decision.reason or GateReason.POLICY_DENIED, "the policy no longer permits it")
                    leases.append(self._leases.renew(tx, noted, done, policies.digests()))
                except GateError as error:
                    revoked += authorizations.revoke(tx, current, done.now_ms, error.reason, error.detail)
            return leases, revoked

        return await self._database.write(commit, patient=not live and done.trusted)

    async def resume(self) -> None:
        """After a start: deny what was being decided when the gateway stopped."""
        for authorization in authorizations.undecided(self._database.reading):
            detail = "the gateway stopped while this was being decided"
            await self._deny(authorization, GateReason.SERVICE_STOPPING, detail)

    async def _report(self, session: Session, authorization: str, kind: str, body: dict[str, object]) -> None:
        now_ms = self._clock.now_ms()

        def commit(tx: Transaction) -> None:
            current = authorizations.get(tx.connection, authorization)
            if current.executor != session.executor:
                raise GateError(GateReason.ARTIFACT_UNKNOWN, "that authorization belongs to another executor")
            authorizations.note(tx, current, kind, now_ms, dict(body))

        await self._database.write(commit)

    def _activated(self, executor: str) -> list[Authorization]:
        unfinished = authorizations.unfinished(self._database.reading, executor)
        return [one for one in unfinished if one.state in {State.ACTIVATED, State.RUNNING}]


def _lapsed(authorization: Authorization, done: Round) -> bool:
    """Whether the lease had ended when a round was judged: a gateway that was stopped for a while finds this."""
    return (authorization.lease_expires or 0) < done.now_ms


def _grant(lease: Lease) -> Grant:
    expires = lease.authorization.lease_expires or 0
    return Grant(authorization=lease.authorization.id, artifact=lease.token, expires=expires, record=lease.record)


def _lease_message(lease: Lease) -> LeaseMessage:
    return LeaseMessage(
        authorization=lease.authorization.id, challenge=lease.challenge, artifact=lease.token, life_ms=lease.life_ms
    )
