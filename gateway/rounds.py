"""One round of proof: challenge an executor, appraise what it answers, and write down what was found.

A verdict that is not trusted revokes every live authorization of the executor in the transaction that records it, whatever
the round was for: an orchestrator's question about a new job is as good a witness of drift as the schedule's own.
"""

import asyncio
import secrets
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from gateway.channel import Session
from gateway.event_logs import EventLogs
from gateway.metrics import Metrics
from gateway.references import References
from gateway.storage import authorizations, executors
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from gateway.storage.executors import Executor
from tpm.observation import observed
from ztrooted import canonical, limits
from ztrooted.appraisal import Appraisal, Before, Question, appraise, required_checks
from ztrooted.appraisal_policy import NO_CLASS, NO_RULES, AppraisalClass, AppraisalPolicy, Subject
from ztrooted.clock import Clock
from ztrooted.errors import GateError, PolicyError
from ztrooted.evidence import Evidence, Purpose, qualifying_data
from ztrooted.progress import Progress
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.verdict import Check, Status, Verdict

# Above this much to hash and parse, an appraisal runs on a thread, so that other executors are answered meanwhile.
INLINE_BYTES = 64 << 10
CHALLENGE_ID = 16  # bytes
_SILENCE = frozenset({GateReason.ATTESTATION_OVERDUE, GateReason.CHANNEL_CLOSED})


@dataclass(frozen=True, slots=True)
class Round:
    """What one challenge led to. ``evidence`` is None when none came; then the verdict says overdue.

    ``baseline`` is the digest of the baseline it was judged by, ``baseline_at`` when that was captured.
    """

    challenge: str
    executor: Executor
    purpose: Purpose
    nonce: bytes
    bindings: tuple[bytes, ...]
    previous: Progress
    evidence: Evidence | None
    appraisal: Appraisal
    now_ms: int
    baseline: str | None
    policy: AppraisalClass
    policy_digest: str
    labels: Mapping[str, str]
    baseline_at: int | None = None

    @property
    def trusted(self) -> bool:
        """The verdict in one word."""
        return self.appraisal.verdict.trusted

    def enrolled_at(self, record: int) -> Executor:
        """The executor of an enrollment round, now that its record has an index."""
        return replace(self.executor, enrollment=record)

    def body(self) -> dict[str, object]:
        """What records of this round contain: enough to appraise again, offline, and get the same verdict."""
        return {
            "purpose": self.purpose.value,
            "executor": self.executor.id,
            "enrollment": self.executor.enrollment,
            "nonce": self.nonce.hex(),
            "bindings": [binding.hex() for binding in self.bindings],
            "previous": self.previous.encode(),
            "evidence": None if self.evidence is None else self.evidence.digest(),
            "manifest": None if self.evidence is None else self.evidence.manifest(),
            "class": self.executor.executor_class,
            "labels": dict(self.labels),
            "appraisal_policy": self.policy_digest,
            "baseline": self.baseline,
            "now": self.now_ms,
            "verdict": self.appraisal.verdict.encode(),
        }


class Rounds:
    """Asks, appraises, and records."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        policy: Callable[[], AppraisalPolicy],
        references: References,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._clock = clock
        self._policy = policy
        self._references = references
        self._metrics = metrics
        self._event_logs = EventLogs(database)

    def executor(self, executor: str) -> Executor:
        """One enrolled executor. GateError ``dispatch.executor_unknown`` when it is none."""
        found = executors.find(self._database.reading, executor)
        if found is None:
            raise _unknown(executor)
        return found

    def _labelled(self, executor: str) -> tuple[Executor, Mapping[str, str]]:
        found = executors.find_labelled(self._database.reading, executor)
        if found is None:
            raise _unknown(executor)
        return found

    def subject(self, executor: str, *, virtual: bool, manufacturer: str) -> Subject:
        """Who an executor is, as far as its class may depend on it."""
        return Subject(executor, virtual, manufacturer, executors.labels_of(self._database.reading, executor))

    def policy_of(self, executor: Executor) -> AppraisalClass:
        """The appraisal rules for this executor. PolicyError ``policy.no_class`` where there are none for it."""
        policy = self._policy()
        subject = self.subject(executor.id, virtual=executor.virtual, manufacturer=executor.manufacturer)
        return policy.for_class(policy.class_of(subject))

    def policy(self) -> AppraisalPolicy:
        """The appraisal policy in force."""
        return self._policy()

    async def prove(
        self, session: Session, purpose: Purpose, bindings: tuple[bytes, ...] = (), *, from_start: bool = False
    ) -> Round:
        """Run one round with a connected executor; the caller holds ``session.proving``.

        Never trusted by default: silence and evidence that can't be read are verdicts too. Where we hang up ourselves there
        is none, since nothing was learned of the executor: ``service.stopping`` is raised. So is ``channel.closed`` where
        the connection was lost during a periodic round: what that should have renewed ends with its lease.
        ``from_start`` asks for the measurement list from its first entry on.
        """
        found, labels = self._labelled(session.executor)
        subject = Subject(found.id, found.virtual, found.manufacturer, labels)
        in_force = self._policy()
        try:
            executor = replace(found, executor_class=in_force.class_of(subject))
        except PolicyError as error:
            return self._without_class(found, subject, in_force, purpose, bindings, error)
        policy = in_force.for_class(executor.executor_class)
        previous = executor.progress
        if from_start or executor.executor_class != found.executor_class:  # what was judged, was by another list
            previous = Progress(previous.clock)
        challenge, nonce = new_challenge()
        reference = self._references.current(executor.executor_class)
        evidence, asked = None, self._clock.monotonic()
        try:
            with observed("challenge", purpose=str(purpose), executor=executor.id):
                quote = await session.challenge(
                    challenge,
                    purpose,
                    nonce,
                    bindings,
                    selection=policy.selection,
                    ima_offset=previous.ima.entries,
                    event_log_digest=executor.event_log,
                    deadline_s=policy.response_deadline_s,
                )
            self._metrics.challenged(str(purpose), self._clock.monotonic() - asked)
            evidence = self._event_logs.complete(quote, executor.event_log)
        except GateError as error:
            if error.reason is GateReason.SERVICE_STOPPING:
                raise
            if error.reason is GateReason.CHANNEL_CLOSED and purpose is Purpose.RUNTIME:
                raise
            appraisal = refused(policy, error, self._clock.now_ms())
        else:
            question = Question(
                key=executor.attestation_key(),
                qualifying_data=qualifying_data(purpose, nonce, *bindings),
                policy=policy,
                reference=reference,
                previous=previous,
                now_ms=self._clock.now_ms(),
                virtual=executor.virtual,
            )
            appraisal = await self._appraise(evidence, question, session.before)
        if found.proved_at:
            self._metrics.replaced((self._clock.now_ms() - found.proved_at) / 1000)
        return Round(
            challenge=challenge,
            executor=executor,
            purpose=purpose,
            nonce=nonce,
            bindings=bindings,
            previous=previous,
            evidence=evidence,
            appraisal=appraisal,
            now_ms=self._clock.now_ms() if evidence is None else appraisal_instant(appraisal, policy),
            baseline=None if reference is None else reference.digest,
            policy=policy,
            policy_digest=in_force.digest,
            labels=subject.labels,
            baseline_at=None if reference is None else reference.baseline.captured_at,
        )

    def last(self, connection: sqlite3.Connection, executor: str, policy: AppraisalPolicy, now_ms: int) -> Round:
        """What is known of an executor without asking it: its last verdict, under the rules it would have in ``policy``.

        GateError ``dispatch.executor_unknown``, PolicyError ``policy.no_class``.
        """
        known = executors.find_labelled(connection, executor)
        if known is None:
            raise _unknown(executor)
        found, labels = known
        executor_class = policy.class_of(Subject(found.id, found.virtual, found.manufacturer, labels))
        reference = self._references.current(executor_class)
        return Round(
            challenge="",
            executor=replace(found, executor_class=executor_class),
            purpose=Purpose.RUNTIME,
            nonce=b"",
            bindings=(),
            previous=found.progress,
            evidence=None,
            appraisal=Appraisal(Verdict.decode(found.verdict), authentic=False),
            now_ms=now_ms,
            baseline=None,
            policy=policy.for_class(executor_class),
            policy_digest=policy.digest,
            labels=labels,
            baseline_at=None if reference is None else reference.baseline.captured_at,
        )

    def _without_class(
        self,
        executor: Executor,
        subject: Subject,
        policy: AppraisalPolicy,
        purpose: Purpose,
        bindings: tuple[bytes, ...],
        error: PolicyError,
    ) -> Round:
        """The round of an executor that no class is for: nothing is asked of it, and nothing is believed."""
        now_ms = self._clock.now_ms()
        verdict = Verdict.without_class(error, now_ms)
        return Round(
            challenge="",
            executor=replace(executor, executor_class=NO_CLASS),
            purpose=purpose,
            nonce=secrets.token_bytes(limits.NONCE),
            bindings=bindings,
            previous=executor.progress,
            evidence=None,
            appraisal=Appraisal(verdict, authentic=False),
            now_ms=now_ms,
            baseline=None,
            policy=NO_RULES,
            policy_digest=policy.digest,
            labels=subject.labels,
        )

    @staticmethod
    async def _appraise(evidence: Evidence, question: Question, before: Before) -> Appraisal:
        with observed("appraisal"):
            if len(evidence.ima) > INLINE_BYTES:
                return await asyncio.to_thread(appraise, evidence, question, before)
            return appraise(evidence, question, before)

    def settle(self, tx: Transaction, done: Round) -> list[Authorization]:
        """Record a round inside ``tx``; returns the authorizations that it revoked, descendants elsewhere included.

        The caller adds the records of success for the authorizations that the round was about.
        """
        before = executors.find(tx.connection, done.executor.id)
        if before is None or before.enrollment != done.executor.enrollment:
            raise GateError(GateReason.CHANNEL_SUPERSEDED, "the executor enrolled again during this round")
        if done.trusted:
            self._references.require_in_force(done.executor.executor_class, done.baseline)
        after = updated(before, done)
        executors.store_verdict(tx, after)
        if done.trusted and done.appraisal.entries and done.evidence is not None:
            executors.keep_entries(tx, after, done.evidence, len(done.appraisal.entries))
        verdict = done.appraisal.verdict
        if before.trusted != done.trusted:
            self.keep(tx, done)
            tx.append(Record("executor.trust_changed", done.now_ms, done.body()))
        if done.trusted:
            return []
        revoked: list[Authorization] = []
        unfinished = authorizations.unfinished(tx.connection, done.executor.id)
        if unfinished:
            self.keep(tx, done)
        kind = "attestation.overdue" if verdict.reason in _SILENCE else "attestation.failed"
        body = canonical.Encoded(done.body())
        for found in unfinished:
            authorization = authorizations.get(tx.connection, found.id)
            if not authorization.live:  # or not any more, since its parent was on this executor too
                continue
            noted, _ = authorizations.note(tx, authorization, kind, done.now_ms, body)
            reason = verdict.reason or GateReason.ATTESTATION_DRIFT
            revoked += authorizations.revoke(tx, noted, done.now_ms, reason, verdict.detail)
        return revoked

    @staticmethod
    def keep(tx: Transaction, done: Round) -> None:
        """Store the evidence of a round that a record refers to."""
        if done.evidence is not None:
            for blob in done.evidence.blobs():
                tx.blob(blob)


def new_challenge() -> tuple[str, bytes]:
    """The id and the nonce of a challenge, neither of which tells anything about the other."""
    random = secrets.token_bytes(CHALLENGE_ID + limits.NONCE)
    return random[:CHALLENGE_ID].hex(), random[CHALLENGE_ID:]


def _unknown(executor: str) -> GateError:
    return GateError(GateReason.DISPATCH_EXECUTOR_UNKNOWN, f"no executor {executor} is enrolled")


def refused(policy: AppraisalClass, error: GateError, now_ms: int) -> Appraisal:
    """The verdict over evidence that never became any."""
    first, *rest = required_checks(policy)
    checks = (
        Check(first, Status.FAIL, error.reason, error.detail),
        *(Check(name, Status.NOT_CHECKED) for name in rest),
    )
    return Appraisal(Verdict(checks, now_ms), authentic=False)


def appraisal_instant(appraisal: Appraisal, policy: AppraisalClass) -> int:
    """The instant an appraisal was made at: its expiry less its life."""
    return appraisal.verdict.expires_ms - policy.verdict_life_ms


def updated(executor: Executor, done: Round) -> Executor:
    """The executor after a round.

    The measurement list is followed further only by trusted rounds: a file that was refused once is judged again, and
    refused again, in every later round, until the baseline changes.
    """
    verdict = done.appraisal.verdict
    progress = executor.progress
    if done.executor.executor_class != executor.executor_class:
        progress = Progress(progress.clock)
    if done.appraisal.progress is not None:
        progress = done.appraisal.progress if done.trusted else Progress(done.appraisal.progress.clock, progress.ima)
    return replace(
        executor,
        executor_class=done.executor.executor_class,
        progress=progress,
        pcrs=done.appraisal.pcrs or executor.pcrs,
        trusted=done.trusted,
        verdict=verdict.encode(),
        proved_at=done.now_ms if done.trusted else executor.proved_at,
        proof_due=verdict.expires_ms if done.trusted else done.now_ms,
    )


def trusted_now(connection: sqlite3.Connection, executor: str, now_ms: int) -> bool:
    """Continuity: trusted, and proved before the stored deadline passed."""
    found = executors.find(connection, executor)
    return found is not None and found.trusted and now_ms <= found.proof_due
