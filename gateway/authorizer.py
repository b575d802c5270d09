"""The only place that says yes.

Each public method is one thing that can happen to an authorization. They all follow the same order: prove (a round with the
executor), decide, commit state and records in one transaction, and only then tell anybody. Denial is what is left when
nothing else was reached.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

import structlog

from gateway.channel import Channels, Session
from gateway.decisions import decision_body, note_denial, requested
from gateway.delegations import Asked, ask, ask_again, refuse_early, take_place
from gateway.endings import Endings
from gateway.leases import Lease, Leases, lapsed
from gateway.metrics import Metrics
from gateway.orders import Orders
from gateway.policies import PolicyStore
from gateway.replies import NOTHING, Keep
from gateway.rounds import Round, Rounds
from gateway.schedule import Pace, Schedule
from gateway.storage import authorizations, retirements
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from tpm.observation import observed
from ztrooted.channel_messages import RefusedMessage, StartedMessage
from ztrooted.clock import WatchedClock
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose, live_set_digest
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
        database: Database,
        clock: WatchedClock,
        policies: PolicyStore,
        rounds: Rounds,
        leases: Leases,
        channels: Channels,
        schedule: Schedule,
        pace: Pace,
        metrics: Metrics,
        endings: Endings,
        orders: Orders,
        renew_session: Callable[[Session], Awaitable[None]],
    ) -> None:
        self._database = database
        self._clock = clock
        self._policies = policies
        self._rounds = rounds
        self._leases = leases
        self._channels = channels
        self._schedule = schedule
        self._pace = pace
        self._metrics = metrics
        self._endings = endings
        self._orders = orders
        self._renew_session = renew_session

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
        authorization, body = requested(orchestrator, request, self._clock.now_ms())
        # Written while the executor is asked, since a question decides nothing. Whatever is recorded of the dispatch
        # waits for this, and so does every answer: where it can't be written, that is the answer.
        recorded = asyncio.create_task(self._database.write(lambda tx: authorizations.create(tx, authorization, body)))
        try:
            session = self._reachable(authorization)
            async with session.proving:
                done = await self._rounds.prove(session, Purpose.DISPATCH, (bytes.fromhex(authorization.job_digest),))
                await recorded
                with observed("decision"):
                    lease, denied, revoked = await self._decide(authorization, done, began, keep)
        except GateError as error:
            await recorded
            raise await self._deny(authorization, error.reason, error.detail, keep) from error
        await self._endings.announce(revoked)
        if lease is None:
            raise denied or Denied(GateReason.POLICY_DENIED, "nothing permitted this dispatch", authorization.id)
        self._endings.watch(lease.authorization)
        return lease.grant()

    def _reachable(self, authorization: Authorization) -> Session:
        """The session of the executor that a dispatch is for. GateError where there is nobody to ask, or no need to."""
        refuse_early(self._database.reading, authorization, self._clock.now_ms())
        retirements.require_in_service(self._database.reading, authorization.executor)
        session = self._channels.get(authorization.executor)
        if session is None:
            self._rounds.executor(authorization.executor)  # it may be one that nobody knows
            detail = f"executor {authorization.executor} is not connected"
            raise GateError(GateReason.DISPATCH_EXECUTOR_UNREACHABLE, detail)
        return session

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
                keep.answer(tx, 201, lease.grant())
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
                authorization = self._leases.presented(self._database.reading, session, token)
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
            await session.send(lease.message())
            self._pace.follow(session.executor)

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
            if lapsed(authorizations.get(tx.connection, authorization.id), done):
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
    async def prove_again(self, executor: str) -> None:
        """The next round of an executor: renew what it keeps alive, or revoke it."""
        session = self._channels.get(executor)
        if session is None:
            self._schedule.forget(executor)
            return  # what it was running ends with its lease
        async with session.proving:
            began = self._orders.epoch
            live = authorizations.activated(self._database.reading, executor)
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
                self._pace.next(executor, done.policy, live=still)
        await self._endings.announce(revoked)
        for lease in leases:
            self._endings.watch(lease.authorization)
            await self._channels.tell(executor, lease.message())
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
                if lapsed(current, done):  # on the executor it is over, and nothing here may say otherwise
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
