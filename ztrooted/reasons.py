"""Every reason code the product can give, explained.

Codes are ``family.detail``; once released, a code never changes its meaning. Evidence is refused with the codes of
``tpm.reasons``; everything else with the ones here. Together they are the one closed set ``Reason`` that lineage, API,
command line, metrics and documentation share.
"""

from enum import StrEnum
from typing import TypeAlias

from tpm.reasons import EvidenceReason


class GateReason(StrEnum):
    """The closed set of codes that are about the gate itself: identity, policy, leases, artifacts, lineage, requests."""

    ARTIFACT_UNKNOWN = "artifact.unknown"
    ARTIFACT_USED = "artifact.used"

    ATTESTATION_DRIFT = "attestation.drift"
    ATTESTATION_GATEWAY_KEY = "attestation.gateway_key"
    ATTESTATION_GATEWAY_QUOTE = "attestation.gateway_quote"
    ATTESTATION_GATEWAY_STATE = "attestation.gateway_state"
    ATTESTATION_NO_BASELINE = "attestation.no_baseline"
    ATTESTATION_OVERDUE = "attestation.overdue"
    ATTESTATION_POLICY = "attestation.policy"
    ATTESTATION_TIER = "attestation.tier"

    AUTH_CREDENTIAL_INVALID = "auth.credential_invalid"
    AUTH_CREDENTIAL_MISSING = "auth.credential_missing"
    AUTH_CROSS_SITE = "auth.cross_site"
    AUTH_PROVIDER_UNAVAILABLE = "auth.provider_unavailable"
    AUTH_ROLE = "auth.role"

    BASELINE_EXPIRED = "baseline.expired"
    BASELINE_MALFORMED = "baseline.malformed"
    BASELINE_NOT_APPROVED = "baseline.not_approved"
    BASELINE_SOURCE = "baseline.source"
    BASELINE_UNKNOWN = "baseline.unknown"

    BOOT_AUTHORITY = "boot.authority"
    BOOT_COMMAND_LINE = "boot.command_line"
    BOOT_EVENT = "boot.event"
    BOOT_FILE = "boot.file"
    BOOT_IMAGE = "boot.image"
    BOOT_KEYS = "boot.keys"
    BOOT_NO_REFERENCE = "boot.no_reference"

    BUNDLE_CONTINUITY = "bundle.continuity"
    BUNDLE_INCOMPLETE = "bundle.incomplete"
    BUNDLE_LIFECYCLE = "bundle.lifecycle"
    BUNDLE_MALFORMED = "bundle.malformed"
    BUNDLE_MISMATCH = "bundle.mismatch"
    BUNDLE_TOO_LARGE = "bundle.too_large"

    CANONICAL_MALFORMED = "canonical.malformed"

    CHALLENGE_EXPIRED = "challenge.expired"
    CHALLENGE_UNKNOWN = "challenge.unknown"
    CHALLENGE_USED = "challenge.used"
    CHALLENGE_WRONG_EXECUTOR = "challenge.wrong_executor"
    CHALLENGE_WRONG_PURPOSE = "challenge.wrong_purpose"

    CHANNEL_CLOSED = "channel.closed"
    CHANNEL_MALFORMED = "channel.malformed"
    CHANNEL_SUPERSEDED = "channel.superseded"

    CHECKPOINT_KEY = "checkpoint.key"
    CHECKPOINT_MALFORMED = "checkpoint.malformed"
    CHECKPOINT_ORIGIN = "checkpoint.origin"
    CHECKPOINT_QUORUM = "checkpoint.quorum"
    CHECKPOINT_SEAL = "checkpoint.seal"
    CHECKPOINT_SPLIT_VIEW = "checkpoint.split_view"
    CHECKPOINT_STALE = "checkpoint.stale"
    CHECKPOINT_UNWITNESSED = "checkpoint.unwitnessed"

    CLOCK_UNTRUSTED = "clock.untrusted"

    CONFIG_INVALID = "config.invalid"
    CONFIG_MISSING = "config.missing"
    CONFIG_UNKNOWN_KEY = "config.unknown_key"

    DATABASE_CORRUPT = "database.corrupt"
    DATABASE_IN_USE = "database.in_use"
    DATABASE_NEWER = "database.newer"
    DATABASE_UNAVAILABLE = "database.unavailable"

    DECISION_UNKNOWN = "decision.unknown"

    DISPATCH_EXECUTOR_UNKNOWN = "dispatch.executor_unknown"
    DISPATCH_EXECUTOR_UNREACHABLE = "dispatch.executor_unreachable"

    EAR_EXPIRED = "ear.expired"
    EAR_MALFORMED = "ear.malformed"
    EAR_PROFILE = "ear.profile"

    ENROLL_ACTIVATION_FAILED = "enroll.activation_failed"
    ENROLL_CHALLENGE_EXPIRED = "enroll.challenge_expired"
    ENROLL_CHALLENGE_USED = "enroll.challenge_used"
    ENROLL_CHANGED = "enroll.changed"
    ENROLL_IDENTITY_CONFLICT = "enroll.identity_conflict"
    ENROLL_RETIRED = "enroll.retired"
    ENROLL_SESSION_KEY = "enroll.session_key"

    ENVIRONMENT_ADDRESS_IN_USE = "environment.address_in_use"
    ENVIRONMENT_DATA_FOLDER = "environment.data_folder"
    ENVIRONMENT_GATEWAY_UNREACHABLE = "environment.gateway_unreachable"
    ENVIRONMENT_KEY_FILE = "environment.key_file"
    ENVIRONMENT_NOT_A_GATEWAY = "environment.not_a_gateway"
    ENVIRONMENT_OUTPUT = "environment.output"
    ENVIRONMENT_TLS = "environment.tls"
    ENVIRONMENT_TPM = "environment.tpm"

    EXECUTION_ABANDONED = "execution.abandoned"
    EXECUTION_AGENT_LOST = "execution.agent_lost"
    EXECUTION_EXITED = "execution.exited"
    EXECUTION_MAX_RUNTIME = "execution.max_runtime"
    EXECUTION_START_FAILED = "execution.start_failed"

    ID_INVALID = "id.invalid"

    INTERNAL_ERROR = "internal.error"

    JOB_FILE_MISMATCH = "job.file_mismatch"
    JOB_MALFORMED = "job.malformed"
    JOB_MISMATCH = "job.mismatch"

    JWS_ALG_NOT_ALLOWED = "jws.alg_not_allowed"
    JWS_AUDIENCE = "jws.audience"
    JWS_BINDING = "jws.binding"
    JWS_CLAIMS = "jws.claims"
    JWS_EXECUTOR = "jws.executor"
    JWS_EXPIRED = "jws.expired"
    JWS_HEADER = "jws.header"
    JWS_ISSUER = "jws.issuer"
    JWS_JOB = "jws.job"
    JWS_JSON = "jws.json"
    JWS_KEY_EXPIRED = "jws.key_expired"
    JWS_KID = "jws.kid"
    JWS_LIFETIME = "jws.lifetime"
    JWS_MALFORMED = "jws.malformed"
    JWS_NOT_YET_VALID = "jws.not_yet_valid"
    JWS_RENEWAL = "jws.renewal"
    JWS_SCOPE = "jws.scope"
    JWS_SIGNATURE = "jws.signature"
    JWS_STALE_EPOCH = "jws.stale_epoch"
    JWS_TOO_LARGE = "jws.too_large"
    JWS_TYP = "jws.typ"

    LEASE_EXPIRED = "lease.expired"

    LIFECYCLE_TRANSITION = "lifecycle.transition"

    LINEAGE_CHAIN_BROKEN = "lineage.chain_broken"
    LINEAGE_KEY = "lineage.key"
    LINEAGE_PROOF_INVALID = "lineage.proof_invalid"
    LINEAGE_RECORD_MALFORMED = "lineage.record_malformed"
    LINEAGE_NO_TILE = "lineage.no_tile"
    LINEAGE_RANGE = "lineage.range"
    LINEAGE_ROLLED_BACK = "lineage.rolled_back"
    LINEAGE_TRUNCATED = "lineage.truncated"

    MACHINE_CGROUPS = "machine.cgroups"
    MACHINE_CLOCK = "machine.clock"
    MACHINE_DISK = "machine.disk"
    MACHINE_EK_CERTIFICATE = "machine.ek_certificate"
    MACHINE_EVENT_LOG = "machine.event_log"
    MACHINE_IMA_LIST = "machine.ima_list"
    MACHINE_IMA_POLICY = "machine.ima_policy"
    MACHINE_PID_NAMESPACE = "machine.pid_namespace"
    MACHINE_PORT = "machine.port"
    MACHINE_SOCKET = "machine.socket"
    MACHINE_TLS_ENDS = "machine.tls_ends"
    MACHINE_TPM_ABSENT = "machine.tpm_absent"
    MACHINE_TPM_BANK = "machine.tpm_bank"
    MACHINE_TPM_FAILING = "machine.tpm_failing"
    MACHINE_TPM_HIERARCHY = "machine.tpm_hierarchy"
    MACHINE_TPM_LOCKOUT = "machine.tpm_lockout"
    MACHINE_TPM_NOT_RUNNING = "machine.tpm_not_running"
    MACHINE_TPM_OTHER = "machine.tpm_other"
    MACHINE_TPM_PERMISSION = "machine.tpm_permission"
    MACHINE_TPM_RAW = "machine.tpm_raw"
    MACHINE_TPM_VIRTUAL = "machine.tpm_virtual"

    NOTE_KEY = "note.key"
    NOTE_MALFORMED = "note.malformed"
    NOTE_SIGNATURE = "note.signature"

    OPERATOR_NOT_QUARANTINED = "operator.not_quarantined"
    OPERATOR_QUARANTINED = "operator.quarantined"
    OPERATOR_RETIRED = "operator.retired"
    OPERATOR_REVOKED = "operator.revoked"
    OPERATOR_SUBJECT = "operator.subject"
    OPERATOR_SUCCESSOR = "operator.successor"

    PARENT_CHILDREN = "parent.children"
    PARENT_DELEGATION = "parent.delegation"
    PARENT_DEPTH = "parent.depth"
    PARENT_ENDED = "parent.ended"
    PARENT_LIFETIME = "parent.lifetime"
    PARENT_SCOPE = "parent.scope"
    PARENT_UNKNOWN = "parent.unknown"

    POLICY_CHANGED = "policy.changed"
    POLICY_DENIED = "policy.denied"
    POLICY_EMPTY = "policy.empty"
    POLICY_ERROR = "policy.error"
    POLICY_INVALID = "policy.invalid"
    POLICY_MISMATCH = "policy.mismatch"
    POLICY_NO_CLASS = "policy.no_class"
    POLICY_PERMITS_ALL = "policy.permits_all"
    POLICY_ROLLBACK = "policy.rollback"

    RECOVERY_PASSPHRASE = "recovery.passphrase"  # noqa: S105 -- a code
    RECOVERY_REFUSED = "recovery.refused"

    REQUEST_CONTENT_TYPE = "request.content_type"
    REQUEST_KEY_IN_USE = "request.key_in_use"
    REQUEST_KEY_LIMIT = "request.key_limit"
    REQUEST_KEY_REUSED = "request.key_reused"
    REQUEST_MALFORMED = "request.malformed"
    REQUEST_METHOD = "request.method"
    REQUEST_NOT_FOUND = "request.not_found"
    REQUEST_RATE = "request.rate"
    REQUEST_TIMEOUT = "request.timeout"
    REQUEST_TOO_LARGE = "request.too_large"

    RESEAL_DOCUMENT = "reseal.document"
    RESEAL_NO_APPROVER = "reseal.no_approver"
    RESEAL_REFUSED = "reseal.refused"

    SECRETS_DAMAGED = "secrets.damaged"
    SECRETS_PLAIN = "secrets.plain"

    SERVICE_BUSY = "service.busy"
    SERVICE_LATE = "service.late"
    SERVICE_NOT_READY = "service.not_ready"
    SERVICE_STOPPING = "service.stopping"
    SESSION_CONFLICT = "session.conflict"

    SUPERVISION_UNAVAILABLE = "supervision.unavailable"

    WEBHOOK_SECRET = "webhook.secret"  # noqa: S105 -- a code
    WEBHOOK_SIGNATURE = "webhook.signature"

    WITNESS_ANSWER = "witness.answer"
    WITNESS_REQUEST = "witness.request"
    WITNESS_UNREACHABLE = "witness.unreachable"


Reason: TypeAlias = EvidenceReason | GateReason


def parse_reason(code: str) -> Reason:
    """The member for ``code``; KeyError when there is none."""
    return _BY_CODE[code]


def all_reasons() -> tuple[Reason, ...]:
    """Every code, evidence first."""
    return (*EvidenceReason, *GateReason)


_BY_CODE: dict[str, Reason] = {str(reason): reason for reason in all_reasons()}
