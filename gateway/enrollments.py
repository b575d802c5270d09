"""Enrollment: a machine proves which TPM it has, that its keys live in it, and what it has booted.

1. EK certificate chain to the configured roots, EK template, EK in the certificate = EK presented.
2. AK attributes; the AK's Name is computed by us from its public area, never taken from the client.
3. A credential that only a TPM holding both keys can open; one answer, right or wrong, burns it.
4. A MAC keyed by the opened secret over the whole transcript, session key included.
5. A quote made for this enrollment and this session key, with event log and measurement list that explain it.

Only then does the executor exist, under an id that follows from its EK. What it shows may still be untrusted.
"""

import asyncio
import hmac
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.certificates import Authority
from gateway.channel import Session
from gateway.config import GatewayConfig
from gateway.orders import Orders
from gateway.rates import Rates
from gateway.references import References
from gateway.rounds import Round, Rounds
from gateway.signer import Signer
from gateway.storage import authorizations, executors, retirements
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Database, Transaction
from gateway.storage.executors import Executor
from tpm.attestation_key import AttestationKey, accept_attestation_key
from tpm.credential import make_credential
from tpm.ek_template import check_ek_template
from tpm.endorsement import EkPolicy, EkRoots, VerifiedEk, verify_ek_certificate
from tpm.observation import observed
from tpm.public import EK, Public, parse_public
from tpm.reasons import EvidenceReason
from ztrooted import keys, limits, names
from ztrooted.appraisal import Question, appraise
from ztrooted.channel_messages import CertificateMessage
from ztrooted.clock import Clock
from ztrooted.enrollment import activation_mac, transcript
from ztrooted.errors import GateError
from ztrooted.evidence import Purpose, qualifying_data, sha256
from ztrooted.models import ActivationRequest, EnrollmentChallenge, EnrollmentRequest
from ztrooted.operator_models import Subject
from ztrooted.progress import Progress
from ztrooted.reasons import GateReason
from ztrooted.records import Record

log = structlog.get_logger()

R = TypeVar("R")

SECRET = 32


@dataclass(frozen=True, slots=True)
class Pending:
    """An enrollment whose credential is under way."""

    id: str
    executor: str
    request: EnrollmentRequest
    ek: VerifiedEk
    ak: AttestationKey
    session_key: ec.EllipticCurvePublicKey
    secret: bytes
    nonce: bytes
    ends: float
    began: int
    source: str = ""
    paid: float = 0.0

    def transcript(self) -> bytes:
        """What the MAC covers: everything that was said so far."""
        return transcript(self.id, self.nonce, self.request)


@dataclass(frozen=True, slots=True)
class Admitted:
    """A new session of an executor."""

    executor: Executor
    certificate: str
    revoked: tuple[Authorization, ...]
    paid: float


class Enrollments:
    """Pending enrollments, in memory: after a restart a machine simply starts over."""

    def __init__(  # noqa: PLR0913, PLR0917 -- a machine's whole story meets here
        self,
        config: GatewayConfig,
        database: Database,
        clock: Clock,
        roots: EkRoots,
        authority: Authority,
        rounds: Rounds,
        references: References,
        signer: Signer,
        orders: Orders,
        rates: Rates,
    ) -> None:
        self._config = config
        self._database = database
        self._clock = clock
        self._authority = authority
        self._rounds = rounds
        self._references = references
        self._signer = signer
        self._orders = orders
        self._rates = rates
        self._pending: dict[str, Pending] = {}
        self._examining: Counter[str] = Counter()  # by address
        # Strangers have one thread among them, and take none that the executors' own proofs are judged on.
        self._thread = ThreadPoolExecutor(1, "enrollment")
        self.trust(roots, config.ek_vendors)

    def trust(self, roots: EkRoots, vendors: Sequence[str]) -> None:
        """Believe these makers of TPMs from now on; who is enrolled stays so."""
        self._roots = roots
        self._ek_policy = EkPolicy(vendors=frozenset(vendors) or None)

    async def begin(self, request: EnrollmentRequest, source: str, paid: float = 0.0) -> EnrollmentChallenge:
        """Steps 1 to 3, for somebody at ``source``. EvidenceError or GateError when the machine is refused.

        What it has ``paid`` of its address's rate is given back when it is admitted.
        """
        self._require_room(source)
        began = self._orders.epoch
        self._examining[source] += 1
        try:
            pending, challenge = await self._beside(self._examine, request, began)
        finally:
            self._examining -= Counter({source: 1})
        retirements.require_in_service(self._database.reading, pending.executor)
        self._pending[pending.id] = replace(pending, source=source, paid=paid)
        return challenge

    async def _beside(self, work: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def close(self) -> None:
        """Let go of the thread."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _examine(self, request: EnrollmentRequest, began: int) -> tuple[Pending, EnrollmentChallenge]:
        # 1. The TPM is one our roots vouch for.
        ek_public = parse_public(request.ek_public, reasons=EK)
        check_ek_template(ek_public)
        ek = self._verify_ek(request, ek_public)
        # 2. The attestation key is one that can't lie.
        ak = accept_attestation_key(parse_public(request.ak_public))
        session_key = keys.load_p256(request.session_key)
        # 3. A credential for this AK's Name in that TPM.
        secret, nonce = secrets.token_bytes(SECRET), secrets.token_bytes(limits.NONCE)
        credential = make_credential(ek_public, ak.name, secret)
        pending = Pending(
            id=secrets.token_urlsafe(16),
            executor=keys.executor_id(ek_public.raw),
            request=request,
            ek=ek,
            ak=ak,
            session_key=session_key,
            secret=secret,
            nonce=nonce,
            ends=self._clock.monotonic() + limits.ENROLLMENT_LIFE_S,
            began=began,
        )
        policy = self._rounds.policy()
        subject = self._rounds.subject(pending.executor, virtual=ek.virtual, manufacturer=ek.manufacturer)
        rules = policy.for_class(policy.class_of(subject))
        challenge = EnrollmentChallenge(
            enrollment=pending.id,
            executor=pending.executor,
            credential=credential.id_object,
            encrypted_secret=credential.encrypted_secret,
            nonce=nonce.hex(),
            selection=rules.selection.as_dict(),
        )
        return pending, challenge

    def _verify_ek(self, request: EnrollmentRequest, ek_public: Public) -> VerifiedEk:
        if request.ek_certificate is None:
            raise GateError(EvidenceReason.EK_CHAIN, "the machine has no EK certificate, and we accept no other proof")
        return verify_ek_certificate(
            request.ek_certificate,
            request.ek_chain,
            self._roots,
            at=datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC),
            ek_public=ek_public,
            policy=self._ek_policy,
        )

    async def activate(self, enrollment: str, request: ActivationRequest) -> Admitted:
        """Steps 4 and 5. Whatever the answer is worth, the credential is spent."""
        self.require_pending(enrollment)
        pending = self._pending.pop(enrollment)
        if pending.ends < self._clock.monotonic():
            raise GateError(GateReason.ENROLL_CHALLENGE_EXPIRED, "the enrollment was not finished in time; start over")
        # 4. Both keys live in one TPM, and it heard the same conversation as we did.
        expected = activation_mac(pending.secret, pending.transcript())
        if not hmac.compare_digest(expected, bytes.fromhex(request.mac)):
            await self._note_refusal(pending, GateReason.ENROLL_ACTIVATION_FAILED, "the credential was not opened")
            raise GateError(
                GateReason.ENROLL_ACTIVATION_FAILED,
                "the TPM with this endorsement key does not hold this attestation key",
            )
        # 5. What it booted and loaded explains its quote.
        done = await self._beside(self._appraise, pending, request)
        try:
            done.appraisal.require_authentic()
        except GateError as error:
            await self._note_refusal(pending, error.reason, error.detail)
            raise
        certificate = self.session_certificate(pending.executor, pending.session_key)
        executor, revoked = await self._database.write(lambda tx: self._admit(tx, pending, done))
        return Admitted(executor, certificate, tuple(revoked), pending.paid)

    def require_pending(self, enrollment: str) -> None:
        """GateError ``enroll.challenge_used`` unless this enrollment waits for its second half."""
        if enrollment not in self._pending:
            raise GateError(GateReason.ENROLL_CHALLENGE_USED, "there is no such enrollment, or it was answered already")

    def session_certificate(self, executor: str, key: ec.EllipticCurvePublicKey) -> str:
        """A fresh session certificate, PEM."""
        certificate = self._authority.issue_session(
            key,
            names.executor(self._config.trust_domain, executor),
            datetime.fromtimestamp(self._clock.now_ms() / 1000, UTC),
            timedelta(seconds=self._config.session_life_s),
        )
        return certificate.public_bytes(serialization.Encoding.PEM).decode()

    async def renew_session(self, session: Session) -> None:
        """A good quote is what renews a session certificate, in the second half of its life."""
        if retirements.find(self._database.reading, session.executor) is not None:
            return
        life_ms = self._config.session_life_s * 1000
        now_ms = self._clock.now_ms()
        if session.certificate_ends_ms - now_ms < life_ms / 2:
            session.certificate_ends_ms = now_ms + life_ms
            certificate = self.session_certificate(session.executor, session.key)
            with suppress(GateError):
                await session.send(CertificateMessage(certificate=certificate))

    def _appraise(self, pending: Pending, request: ActivationRequest) -> Round:
        if request.quote.event_log is None or sha256(request.quote.event_log) != request.quote.event_log_digest:
            raise GateError(EvidenceReason.EVIDENCE_MISSING, "an enrollment needs the whole event log, with its digest")
        evidence = request.quote.evidence(request.quote.event_log)
        policy, ek = self._rounds.policy(), pending.ek
        subject = self._rounds.subject(pending.executor, virtual=ek.virtual, manufacturer=ek.manufacturer)
        executor_class = policy.class_of(subject)
        rules, reference = policy.for_class(executor_class), self._references.current(executor_class)
        now_ms = self._clock.now_ms()
        bindings = (pending.request.session_key,)
        question = Question(
            key=pending.ak,
            qualifying_data=qualifying_data(Purpose.ENROLL, pending.nonce, *bindings),
            policy=rules,
            reference=reference,
            previous=Progress(),
            now_ms=now_ms,
            virtual=ek.virtual,
        )
        with observed("appraisal"):
            appraisal = appraise(evidence, question)
        progress = Progress()
        if appraisal.progress is not None:
            progress = appraisal.progress if appraisal.verdict.trusted else Progress(appraisal.progress.clock)
        executor = Executor(
            id=pending.executor,
            executor_class=executor_class,
            virtual=pending.ek.virtual,
            manufacturer=pending.ek.manufacturer,
            ak_public=pending.request.ak_public,
            session_key=pending.request.session_key,
            enrollment=0,
            event_log=request.quote.event_log_digest,
            progress=progress,
            pcrs=appraisal.pcrs,
            trusted=appraisal.verdict.trusted,
            verdict=appraisal.verdict.encode(),
            proved_at=now_ms,
            proof_due=appraisal.verdict.expires_ms,
        )
        return Round(
            challenge=pending.id,
            executor=executor,
            purpose=Purpose.ENROLL,
            nonce=pending.nonce,
            bindings=bindings,
            previous=Progress(),
            evidence=evidence,
            appraisal=appraisal,
            now_ms=now_ms,
            baseline=None if reference is None else reference.digest,
            policy=rules,
            policy_digest=policy.digest,
            labels=subject.labels,
        )

    def _admit(self, tx: Transaction, pending: Pending, done: Round) -> tuple[Executor, list[Authorization]]:
        """Write the executor, and end what an earlier session of it was trusted with."""
        self._orders.require_allowed(tx.connection, pending.began, [Subject(kind="executor", id=pending.executor)])
        before = executors.find(tx.connection, pending.executor)
        if before is not None and before.ak_public != pending.request.ak_public:
            superseded = {"executor": pending.executor, "ak": parse_public(before.ak_public).name.hex()}
            tx.append(Record("executor.superseded", done.now_ms, superseded))
        revoked: list[Authorization] = []
        for authorization in authorizations.unfinished(tx.connection, pending.executor):
            detail = "the executor enrolled anew, so what it ran under its earlier session is gone"
            revoked += authorizations.revoke(tx, authorization, done.now_ms, GateReason.EXECUTION_AGENT_LOST, detail)
        Rounds.keep(tx, done)
        request = pending.request
        certificates = [request.ek_certificate] if request.ek_certificate is not None else []
        body: dict[str, object] = {
            "executor": pending.executor,
            "class": done.executor.executor_class,
            "virtual": pending.ek.virtual,
            "manufacturer": pending.ek.manufacturer,
            "enrollment": pending.id,
            "ek_public": tx.blob(request.ek_public),
            "ek_chain": [tx.blob(one) for one in (*certificates, *request.ek_chain)],
            "ak_public": tx.blob(request.ak_public),
            "ak": pending.ak.name.hex(),
            "session_key": tx.blob(request.session_key),
            "transcript": pending.transcript().hex(),
            "round": done.body(),
        }
        appended = tx.append(Record("executor.enrolled", done.now_ms, body))
        executor = done.enrolled_at(appended.index)
        executors.store(tx, executor)
        if done.trusted and done.evidence is not None and done.appraisal.entries:
            executors.keep_entries(tx, executor, done.evidence, len(done.appraisal.entries))
        return executor, revoked

    async def _note_refusal(self, pending: Pending, reason: object, detail: str) -> None:
        """A refusal of a machine with a genuine TPM goes into the lineage; anybody else's only into the log.

        Whoever knows an EK certificate can be refused in that machine's name, so there is a bound of these, too.
        """
        if not self._rates.may_record(pending.executor, pending.source):
            log.warning("refusal not recorded", executor=pending.executor, code=str(reason), detail=detail)
            return
        body = {"executor": pending.executor, "ak": pending.ak.name.hex(), "reason": str(reason), "detail": detail}
        record = Record("executor.refused", self._clock.now_ms(), body)
        await self._database.write(lambda tx: tx.append(record))

    def _require_room(self, source: str) -> None:
        """GateError ``service.not_ready`` where too many enrollments are under way, of everybody or of one address."""
        now = self._clock.monotonic()
        for pending in [one for one in self._pending.values() if one.ends < now]:
            del self._pending[pending.id]
        under_way = len(self._pending) + self._examining.total()
        of_address = sum(one.source == source for one in self._pending.values()) + self._examining[source]
        if under_way >= limits.PENDING_ENROLLMENTS or of_address >= limits.PENDING_OF_ADDRESS:
            raise GateError(GateReason.SERVICE_NOT_READY, "too many enrollments are under way; try again in a minute")
