"""The gateway, put together: what it is made of, how it starts, and when it refuses to. ``gateway.serving`` runs it."""

import asyncio
from functools import partial
from typing import TYPE_CHECKING

import structlog
from aiohttp import web

from gateway import orders
from gateway.auth import Authenticator, Role
from gateway.authorizer import Authorizer
from gateway.bundles import Bundles
from gateway.channel import Channels, Session
from gateway.checkpointer import Checkpointer
from gateway.config import GatewayConfig, read_policies
from gateway.console.app import Console
from gateway.deadlines import Deadlines
from gateway.decision_files import DecisionFiles
from gateway.endings import Endings
from gateway.enrollments import Enrollments
from gateway.feed import Feed
from gateway.files import executor_ca, load_authority, load_client_authorities, load_roots, server_tls
from gateway.gauges import measure
from gateway.leases import Leases
from gateway.metrics import Metrics
from gateway.middleware import problems
from gateway.orders import GATEWAY, Order, Orders
from gateway.policies import PolicyStore
from gateway.providers import Providers
from gateway.rates import Rates
from gateway.references import References
from gateway.replies import Replies
from gateway.retirement import Retirements
from gateway.rounds import Rounds
from gateway.routes import add_routes, all_routes
from gateway.routes.route import CALLER
from gateway.schedule import Pace, Schedule
from gateway.signer import Signer
from gateway.storage import authorizations, lineage, retirements
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from gateway.streams import Streams
from gateway.tasks import Tasks
from gateway.webhooks import Receiver, Webhooks, load_receivers
from ztrooted import limits
from ztrooted.channel_messages import RefusedMessage
from ztrooted.clock import Clock, SystemClock, WatchedClock
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.log_memory import HEADER, format_head
from ztrooted.notify import Manager
from ztrooted.operator_models import Subject
from ztrooted.policies import Policies
from ztrooted.reasons import GateReason
from ztrooted.records import Record

if TYPE_CHECKING:
    from ztrooted.demo.player import Player

log = structlog.get_logger()

DATABASE = "gateway.db"
# The deadline task looks at its heap at least once a second; several seconds without a look mean it is stuck.
SWEEP_LATE_S = 5.0
EPOCH_CHECK_S = 30.0
PROBE_S = 5.0  # without a write, then one is tried: a page of four kilobytes
RECHECK_S = 0.02  # between two pieces of it: a tenth of a core


class Gateway:
    """Everything that lives as long as the process serves."""

    player: "Player | None" = None  # of a gateway that is the demo's

    def __init__(self, config: GatewayConfig, *, clock: Clock | None = None) -> None:
        self.config = config
        self.clock = WatchedClock(clock or SystemClock())
        self.stopping, self.failed = asyncio.Event(), False
        read_policies(config)  # refused before anything is opened or written
        self.roots = load_roots(config)
        self.client_authorities = load_client_authorities(config, executor_ca(config))
        self.providers = Providers(config, self.clock)
        receivers = load_receivers(config)
        self.metrics = Metrics()
        self.signer = Signer(config, self.clock, self.metrics)
        try:
            self.authority = load_authority(config, self.signer.vault)
            self.tls = server_tls(config, self.client_authorities, self.signer.vault)
            trusted = self.signer.identity.trusts(config.origin)
            self.database = Database(config.data / DATABASE, on_failure=self._fail, trusted=trusted)
            for check in (authorizations.check, orders.check, retirements.check):
                check(self.database.reading)
        except EnvironmentProblem:
            self.signer.close()
            raise
        try:
            self.policies = PolicyStore(config, self.database)
        except GateError:
            self.database.abandon()
            self.signer.close()
            raise
        self.rates, self.streams = Rates(config, self.metrics, self.clock.monotonic), Streams(self.clock)
        self.tasks, self.manager = Tasks(self._fail), Manager()
        self.deadlines = Deadlines(self.clock, self.tasks.start, self.manager.feed)
        self.schedule, self.channels = Schedule(self.deadlines, self.clock, self.metrics), Channels()
        self.references = References(self.database)
        self.rounds = Rounds(
            self.database, self.clock, lambda: self.policies.current.appraisal, self.references, self.metrics
        )
        self.orders = Orders(self.database)
        self.retirements = Retirements(self.database, self.orders, self.channels)
        self.enrollments = Enrollments(
            config,
            self.database,
            self.clock,
            self.roots,
            self.authority,
            self.rounds,
            self.references,
            self.signer,
            self.orders,
            self.rates,
        )
        self.endings = Endings(self.database, self.clock, self.channels, self.deadlines)
        self.checkpointer = Checkpointer(config, self.database, self.clock, self.signer, self.metrics)
        try:
            self.checkpointer.anchors.check()
        except EnvironmentProblem:
            self.database.abandon()
            self.signer.close()
            raise
        self.pace = Pace(self.schedule, self.database, self.clock, self.rounds, self._prove_again)
        self.authorizer = Authorizer(
            self.database,
            self.clock,
            self.policies,
            self.rounds,
            Leases(config, self.signer, self.clock, self.checkpointer),
            self.channels,
            self.schedule,
            self.pace,
            self.metrics,
            self.endings,
            self.orders,
            self.enrollments.renew_session,
        )
        self.feed = Feed(self.database, self.checkpointer.head)
        self._sending: dict[str, asyncio.Task[None]] = {}
        self.webhooks = Webhooks(receivers, self.database, self.feed, self.clock)
        self.decision_files = DecisionFiles(self.database)
        self.bundles = Bundles(config, self.database, self.checkpointer)
        self.history = measure(self)

    async def start(self) -> None:
        """Introduce the issuing key, record the start, seal, and take up what an earlier run left unfinished."""
        now_ms = self.clock.now_ms()
        self._refuse_to_go_back(now_ms)
        await self.checkpointer.finish()
        epoch = await self.signer.new_epoch(now_ms // 1000)

        def commit(tx: Transaction) -> None:
            tx.append(Record("gateway.started", now_ms, {"identity": self.signer.identity.encode()}))
            tx.append(_introduction(epoch.introduction.statement, epoch.introduction.signature, now_ms))

        await self.database.write(commit)
        self.signer.adopt(epoch)
        revoked = await self.policies.start(now_ms, self.rounds)
        await self.checkpointer.begin()
        await self.authorizer.resume()
        await self.endings.resume()
        await self.endings.announce(revoked)
        self.tasks.start(self.deadlines.run())
        self.tasks.start(self.checkpointer.run(partial(self.deadlines.sleep, "checkpoint")))
        self.tasks.start(self.providers.run(partial(self.deadlines.sleep, "identity providers")))
        self.tasks.start(self.streams.run(partial(self.deadlines.sleep, "streams")))
        self.tasks.start(self.feed.run())
        self._sending = {name: self.tasks.start(self.webhooks.run(name)) for name in self.webhooks.names}
        self.tasks.start(self._epochs())
        self.tasks.start(self._recheck())
        self.tasks.start(self._probe())
        self.tasks.start(self.history.run(partial(self.deadlines.sleep, "history")))

    async def _recheck(self) -> None:
        """What a long lineage's start did not look at, while we serve. What was altered there ends this process."""
        began = self.clock.monotonic()
        for _ in lineage.recheck(self.database.reading):
            await asyncio.sleep(RECHECK_S)
        log.info("lineage checked", records=lineage.size(self.database.reading), s=self.clock.monotonic() - began)

    async def _epochs(self) -> None:
        """A new issuing key before the present one is worn out."""
        while True:
            await self.deadlines.sleep("issuing key", EPOCH_CHECK_S)
            now_ms = self.clock.now_ms()
            if now_ms // 1000 < self.signer.epoch.not_before + self.config.issuing_key_life_s:
                continue
            try:
                epoch = await self.signer.new_epoch(now_ms // 1000)
                record = _introduction(epoch.introduction.statement, epoch.introduction.signature, now_ms)
                await self.database.write(partial(Transaction.append, record=record))
            except GateError as error:  # the present key goes on until it is worn out, and then readiness ends
                log.error("no new issuing key", code=error.reason, detail=error.detail, remedy=error.remedy)
                continue
            self.signer.adopt(epoch)
            await self.channels.broadcast_issuer(epoch.introduction)

    def _refuse_to_go_back(self, now_ms: int) -> None:
        row = self.database.reading.execute(
            "SELECT COALESCE(MAX(at), 0) FROM (SELECT at FROM records ORDER BY seq DESC LIMIT 1000)"
        ).fetchone()
        if now_ms < int(row[0]) - limits.CLOCK_LEEWAY_S * 1000:
            raise EnvironmentProblem(
                GateReason.CLOCK_UNTRUSTED,
                "this machine's clock is behind the newest record of the lineage",
                "set the clock right, then start again",
            )

    def not_ready(self) -> list[str]:
        """Why an authorization could not be given correctly now; empty when it could."""
        return [
            reason
            for reason, failing in (
                (str(GateReason.SERVICE_STOPPING), self.stopping.is_set()),
                (str(GateReason.DATABASE_UNAVAILABLE), not self.database.alive or self.database.refused),
                (str(GateReason.CLOCK_UNTRUSTED), self.clock.jumped()),
                (str(GateReason.CHECKPOINT_STALE), self.checkpointer.stale),
                (str(GateReason.CHECKPOINT_UNWITNESSED), self.checkpointer.stale and self.checkpointer.unwitnessed),
                (str(GateReason.ENVIRONMENT_TPM), self.signer.failing),
                (str(GateReason.JWS_KEY_EXPIRED), self.signer.worn_out(self.clock.now_ms() // 1000)),
                (str(GateReason.SERVICE_LATE), self.beat_age_s > SWEEP_LATE_S),
                (str(GateReason.SERVICE_NOT_READY), self.tasks.failed),
            )
            if failing
        ]

    @property
    def beat_age_s(self) -> float:
        """Seconds since somebody looked at what is due."""
        return self.clock.monotonic() - self.deadlines.beat

    async def _probe(self) -> None:
        """Find out whether the store can be written while nothing happens that would."""
        while True:
            await asyncio.sleep(PROBE_S)
            await self.database.probe(PROBE_S)

    def require_ready(self) -> None:
        """GateError with the first reason why nothing may be issued now."""
        failing = self.not_ready()
        if failing:
            raise GateError(GateReason(failing[0]), "the gateway can't authorize correctly at the moment")

    async def activate_policies(
        self, policies: Policies, operator: str, *, allow_rollback: bool
    ) -> list[Authorization]:
        """Put policies in force at once; what they do not permit any more is revoked, and returned."""
        now_ms = self.clock.now_ms()
        revoked = await self.policies.activate(policies, operator, now_ms, self.rounds, allow_rollback=allow_rollback)
        log.warning("policies activated", operator=operator, revoked=len(revoked), **policies.digests())
        await self.endings.announce(revoked)
        self.prove_all()
        return revoked

    async def _prove_again(self, executor: str) -> None:
        await self.authorizer.prove_again(executor)

    def prove_soon(self, executor: str) -> None:
        """Ask an executor for proof now, if it is connected."""
        if self.channels.get(executor) is not None:
            self.pace.now(executor)

    async def halt(self, second: Session, conflict: GateError) -> None:
        """Two machines hold one session: neither is believed any more, until an operator releases the executor."""
        self.metrics.conflicts.inc()
        subject = Subject(kind="executor", id=second.executor)
        order = Order(subject, GATEWAY, conflict.detail, self.clock.now_ms(), conflict.reason)
        try:
            revoked = await self.orders.halt(order)
            await self.endings.announce(revoked)
            for one in revoked:
                if one.executor == second.executor:  # a clone runs a copy of the job
                    await second.send(
                        RefusedMessage(authorization=one.id, reason=str(conflict.reason), detail=conflict.detail)
                    )
        except GateError as error:
            # It can't be recorded, or the clone does not listen; both are hung up on all the same.
            log.error("conflict not settled", executor=second.executor, code=error.reason, detail=error.detail)
        await self.channels.end(second.executor, GateReason.SESSION_CONFLICT)
        await second.close(GateReason.SESSION_CONFLICT)

    def prove_all(self) -> None:
        """Ask every connected executor for proof now, for instance because the reference values changed."""
        for executor in self.channels.executors():
            self.prove_soon(executor)

    async def take_receivers(self, receivers: list[Receiver]) -> None:
        """Send to these webhooks from now on; one that stays goes on where it was."""
        for task in self._sending.values():
            task.cancel()
        await asyncio.gather(*self._sending.values(), return_exceptions=True)
        self.webhooks.replace(receivers)
        self._sending = {name: self.tasks.start(self.webhooks.run(name)) for name in self.webhooks.names}

    def _fail(self) -> None:
        self.failed = True
        self.stopping.set()

    async def close(self) -> None:
        """Stop: hang up, seal what was recorded, let go of database and TPM."""
        self.stopping.set()
        await self.channels.close()
        await self.tasks.stop()
        self.enrollments.close()
        if self.database.alive:
            now_ms = self.clock.now_ms()
            await self.database.write(lambda tx: tx.append(Record("gateway.stopped", now_ms, {})))
            try:
                await self.checkpointer.publish(anchor=True)
            except GateError as error:
                log.error("the last records are not published", code=error.reason, detail=error.detail)
        await self.database.close()
        self.signer.close()

    async def _tell_checkpoint(self, request: web.Request, response: web.StreamResponse) -> None:
        """Every answer to somebody we know says what the newest checkpoint is, so that they can remember it."""
        caller, head = request.get(CALLER), self.checkpointer.head()
        if head is not None and caller is not None and caller.role is not Role.ANYONE:
            response.headers[HEADER] = format_head(head)

    def application(self) -> web.Application:
        """The HTTP side."""
        domain = self.config.trust_domain
        who = Authenticator(self.database, self.clock, domain, self.client_authorities, self.providers)
        console = Console(self, who)
        app = web.Application(middlewares=[console.middleware(), problems], client_max_size=limits.BODY)
        app.on_response_prepare.append(self._tell_checkpoint)
        add_routes(app, all_routes(self), who, Replies(self.database, self.clock), self.rates)
        console.add_to(app)
        return app


def _introduction(statement: bytes, signature: bytes, now_ms: int) -> Record:
    return Record("key.introduced", now_ms, {"statement": statement.decode(), "signature": signature.hex()})
