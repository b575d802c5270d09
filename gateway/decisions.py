"""What a decision is asked about, and how it is written down."""

import secrets

from gateway.rounds import Round
from gateway.storage import authorizations
from gateway.storage.authorizations import Authorization
from gateway.storage.database import Transaction
from ztrooted.ar4si import vector_of
from ztrooted.delegation import MAX_RUNTIME_S
from ztrooted.dispatch_context import Facts, Parent
from ztrooted.lifecycle import State
from ztrooted.models import DispatchRequest
from ztrooted.policies import Policies
from ztrooted.policy import Decision, Request
from ztrooted.reasons import Reason
from ztrooted.results import tier
from ztrooted.tracing import trace_member


def requested(orchestrator: str, request: DispatchRequest, now_ms: int) -> tuple[Authorization, dict[str, object]]:
    """A dispatch as it is asked for, under an id of its own, and what its first record contains."""
    authorization = Authorization(
        id=secrets.token_hex(16),
        executor=request.executor,
        orchestrator=orchestrator,
        state=State.REQUESTED,
        job=request.job,
        job_digest=request.job.digest(),
        max_runtime_s=request.max_runtime_s or (MAX_RUNTIME_S if request.parent is None else 0),
        enrollment=None,
        requested_at=now_ms,
        parent=request.parent,
        delegation=request.delegation,
    )
    body: dict[str, object] = {
        "orchestrator": orchestrator,
        "executor": request.executor,
        "job": request.job.model_dump(),
        "job_digest": authorization.job_digest,
        "max_runtime_s": authorization.max_runtime_s or None,
        "parent": request.parent,
        "delegation": request.delegation.model_dump(),
        **trace_member(),
    }
    return authorization, body


def facts(authorization: Authorization, done: Round, parent: Parent | None = None) -> Facts:
    """What was verified, as far as a decision may depend on it."""
    executor = done.executor
    return Facts(
        orchestrator=authorization.orchestrator,
        executor=executor.id,
        executor_class=executor.executor_class,
        virtual=executor.virtual,
        proved=tier(done.policy, trusted=done.trusted, virtual=executor.virtual),
        trusted=done.trusted,
        job=authorization.job.model_dump(),
        job_digest=authorization.job_digest,
        now_ms=done.now_ms,
        manufacturer=executor.manufacturer,
        max_runtime_s=authorization.max_runtime_s or MAX_RUNTIME_S,
        labels=done.labels,
        baseline_at=done.baseline_at,
        vector=vector_of(done.appraisal.verdict, done.policy, virtual=executor.virtual).as_context(),
        delegation=authorization.delegation.facts(),
        parent=parent,
    )


def decision_body(policies: Policies, request: Request, decision: Decision) -> dict[str, object]:
    """What records of a decision contain: enough to decide again."""
    return {
        "dispatch_policy": policies.dispatch.digest,
        "entities": policies.entities.digest,
        "request": request.encode(),
        "decision": decision.encode(),
    }


def note_denial(tx: Transaction, authorization: Authorization, now_ms: int, reason: Reason, detail: str) -> None:
    """Deny a dispatch that was requested."""
    body = {"reason": str(reason), "detail": detail}
    authorizations.note(tx, authorization, "authorization.denied", now_ms, body, reason=str(reason))
