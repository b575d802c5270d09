"""What travels over HTTP, and what other messages are made of: strict, bounded, and nothing unknown is let in.

Bytes are base64 (RFC 4648 §4, with padding) in JSON; digests and nonces are lower-case hexadecimal.
"""

import base64
import binascii
import re
from itertools import islice
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    SerializerFunctionWrapHandler,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_serializer,
)

from ztrooted import canonical, limits, strict_json
from ztrooted.delegation import Delegation
from ztrooted.errors import GateError, UsageProblem
from ztrooted.evidence import Evidence
from ztrooted.reasons import GateReason
from ztrooted.validation import explain_validation


def _from_base64(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        data = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError("this is not base64") from error
    if base64.b64encode(data).decode() != value:
        raise ValueError("this is not the one base64 form of its bytes")
    return data


Base64 = Annotated[bytes, BeforeValidator(_from_base64), PlainSerializer(lambda data: base64.b64encode(data).decode())]
Hex32 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
Hex = Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{2})*$", max_length=256)]
# What people and orchestrators choose: printable ASCII without spaces, so it can't forge a log line or a file name.
Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:@/+-]{0,127}$")]
Id = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{8,64}$")]
ExecutorId = Annotated[str, StringConstraints(pattern=r"^ex-[0-9a-f]{32}$")]
# Whom a job runs as: user and group number, each written in its one decimal form.
User = Annotated[str, StringConstraints(pattern=r"^(0|[1-9][0-9]{0,9}):(0|[1-9][0-9]{0,9})$")]
# A file that a job names: absolute, printable ASCII, as the names of members in canonical JSON are.
FilePath = Annotated[str, StringConstraints(pattern=r"^/[ -~]*$", max_length=limits.STRING)]
Text = Annotated[str, StringConstraints(max_length=limits.STRING)]
Cursor = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,512}$")]
TraceParent = Annotated[str, StringConstraints(pattern=r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")]
Token = Annotated[str, StringConstraints(max_length=16 << 10)]


class Model(BaseModel):
    """Base of everything on the wire."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


M = TypeVar("M", bound=Model)
B = TypeVar("B", bound=BaseModel)


class Job(Model):
    """What is to run, completely; its canonical bytes name it. ``env`` is the digest of the job's environment.

    ``user`` is ``UID:GID``, or else the agent's own; ``memory`` in bytes, ``pids`` in processes and threads, ``cpu`` in
    percent of one processor, or else no limit. What is not asked for is not in the canonical bytes either.
    """

    workflow: Name
    run: Name
    step: Name
    attempt: Annotated[int, Field(ge=1, le=1_000_000)] = 1
    argv: Annotated[list[Text], Field(min_length=1, max_length=limits.ARGV_ITEMS)]
    env: Hex32
    cwd: Text = "/"
    files: Annotated[dict[FilePath, Hex32], Field(max_length=limits.FILES_ITEMS)] = {}
    user: User | None = None
    memory: Annotated[int, Field(ge=1 << 20, le=limits.JOB_MEMORY)] | None = None
    pids: Annotated[int, Field(ge=1, le=limits.JOB_PIDS)] | None = None
    cpu: Annotated[int, Field(ge=1, le=limits.JOB_CPU)] | None = None

    @field_validator("user")
    @classmethod
    def _known_to_the_kernel(cls, user: str | None) -> str | None:
        if user is not None and max(map(int, user.split(":"))) > limits.JOB_USER:
            raise ValueError(f"user and group numbers end at {limits.JOB_USER}")
        return user

    @model_serializer(mode="wrap")
    def _without_options_not_asked_for(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}

    def digest(self) -> str:
        """SHA-256 of the canonical bytes, hexadecimal."""
        return canonical.digest(self.model_dump())


class DispatchRequest(Model):
    """An orchestrator asks whether one job may run on one executor, now.

    Left out, ``max_runtime_s`` is an hour, or what the parent has left where that is less.
    """

    executor: ExecutorId
    job: Job
    max_runtime_s: Annotated[int, Field(ge=1, le=limits.MAX_RUNTIME_S)] | None = None
    parent: Id | None = None
    delegation: Delegation = Delegation()


class Grant(Model):
    """Yes, and the artifact that says so."""

    authorization: Id
    artifact: Token
    expires: int
    record: int


class Quote(Model):
    """Evidence on the wire."""

    attest: Annotated[Base64, Field(max_length=limits.ATTEST)]
    signature: Annotated[Base64, Field(max_length=limits.SIGNATURE)]
    pcrs: dict[Literal["sha1", "sha256", "sha384", "sha512"], dict[str, Hex]]
    event_log: Annotated[Base64, Field(max_length=limits.EVENT_LOG)] | None = None
    event_log_digest: Hex32
    ima_offset: Annotated[int, Field(ge=0, le=1 << 31)]
    ima: Annotated[Base64, Field(max_length=limits.IMA_LIST)]

    def evidence(self, event_log: bytes) -> Evidence:
        """As evidence, with the event log found out (sent, or known by its digest). GateError for odd PCR indices."""
        pcrs: dict[str, dict[int, bytes]] = {}
        for bank, values in self.pcrs.items():
            pcrs[bank] = {}
            for index, value in values.items():
                if not (index.isascii() and index.isdigit() and len(index) < 3 and index == str(int(index))):
                    raise GateError(GateReason.REQUEST_MALFORMED, f"{index[:8]!r} is not a PCR index")
                pcrs[bank][int(index)] = bytes.fromhex(value)
        return Evidence(self.attest, self.signature, pcrs, event_log, self.ima_offset, self.ima)

    @classmethod
    def of(cls, evidence: Evidence, *, event_log_digest: str, whole_log: bool) -> "Quote":
        """The wire form of evidence, with or without the whole event log."""
        return cls(
            attest=evidence.attest,
            signature=evidence.signature,
            pcrs={
                bank: {str(index): value.hex() for index, value in values.items()}  # type: ignore[misc]
                for bank, values in evidence.pcrs.items()
            },
            event_log=evidence.event_log if whole_log else None,
            event_log_digest=event_log_digest,
            ima_offset=evidence.ima_offset,
            ima=evidence.ima,
        )


Selection: TypeAlias = dict[str, list[int]]


class EnrollmentRequest(Model):
    """A machine says which TPM it has and which session key it made."""

    ek_public: Annotated[Base64, Field(max_length=limits.PUBLIC_AREA)]
    ek_certificate: Annotated[Base64, Field(max_length=limits.EK_CERTIFICATE)] | None
    ek_chain: Annotated[
        list[Annotated[Base64, Field(max_length=limits.EK_CERTIFICATE)]], Field(max_length=limits.EK_CHAIN)
    ]
    ak_public: Annotated[Base64, Field(max_length=limits.PUBLIC_AREA)]
    session_key: Annotated[Base64, Field(max_length=256)]


class EnrollmentChallenge(Model):
    """Prove that the attestation key lives in that TPM, and show what was booted."""

    enrollment: Id
    executor: ExecutorId
    credential: Base64
    encrypted_secret: Base64
    nonce: Hex32
    selection: Selection


class ActivationRequest(Model):
    """The recovered secret as a MAC over the transcript, and the first quote."""

    mac: Hex32
    quote: Quote


class Issuer(Model):
    """An issuing key, introduced by the log key. ``signature`` is DER ECDSA over ``statement`` (canonical JSON)."""

    statement: Base64
    signature: Base64


class IssuerList(Model):
    """The issuing keys whose artifacts may still be alive, each as the log key introduced it."""

    issuers: list[Issuer]


class Enrolled(Model):
    """The machine is known now. Whether it is trusted is another question: ``trusted`` and ``reason`` answer it."""

    executor: ExecutorId
    certificate: Text
    log_key: Base64
    issuers: list[Issuer]
    issuer: Text
    audience: Text
    virtual: bool
    trusted: bool
    reason: str | None
    detail: Text


class LabelsRequest(Model):
    """All labels of an executor, from now on; an operator's word, never the executor's."""

    labels: Annotated[dict[Name, Name], Field(max_length=limits.LABELS)]


class LabelsView(Model):
    """What an executor is labelled with now."""

    executor: ExecutorId
    labels: dict[Name, Name]


class ExecutorView(Model):
    """What the gateway knows of one executor; no class where none of the appraisal policy is for it."""

    executor: ExecutorId
    executor_class: Name | Literal[""]
    virtual: bool
    manufacturer: Text
    connected: bool
    trusted: bool
    reason: str | None
    detail: Text
    tier: str
    evidence_age_ms: int
    next_proof_due: int
    labels: dict[Name, Name]


class ExecutorPage(Model):
    """Executors by id; ``next`` is what to ask for as ``after`` while there are more."""

    executors: list[ExecutorView]
    next: ExecutorId | None


class AuthorizationView(Model):
    """Where one authorization stands."""

    authorization: Id
    executor: ExecutorId
    orchestrator: Name
    state: str
    reason: str | None
    job: Hex32
    workflow: Name
    run: Name
    step: Name
    lease_expires: int | None
    renewals: int
    parent: Id | None
    depth: int
    children: int


class AuthorizationList(Model):
    """Authorizations; ``next`` is what to ask for as ``cursor`` while there are more."""

    authorizations: list[AuthorizationView]
    next: Cursor | None = None


class Problem(Model):
    """RFC 9457 problem details. ``code`` is a member of the closed set of reasons."""

    type: Text
    title: Text
    status: int
    detail: Text
    code: Text
    instance: Text
    remedy: Text = ""
    authorization: Id | None = None


def parse_json(
    model: TypeAdapter[Any] | type[BaseModel], data: bytes, *, maximum: int = limits.BODY, values: int | None = None
) -> Any:
    """``data`` as ``model``. GateError ``request.malformed`` naming each member that is wrong.

    With ``values``, a text with more commas and colons than that, those in strings aside, is refused before it is read:
    a value that nobody asked for takes a few bytes to send, and a thousand times as long to refuse by name.
    """
    if values is not None and len(data) <= maximum and data.count(b",") + data.count(b":") > values:
        found = sum(1 for _ in islice((one for one in _MARKS.finditer(data) if one.group() in _BETWEEN), values + 1))
        if found > values:
            raise _malformed(f"JSON of more than {values} values")
    strict_json.parse(data, _malformed, maximum=maximum)
    try:
        if isinstance(model, TypeAdapter):
            return model.validate_json(data)
        return model.model_validate_json(data)
    except ValidationError as error:
        raise GateError(GateReason.REQUEST_MALFORMED, explain_validation(error)[: limits.STRING]) from error


# Strings whole, so that what is in them is not looked at; one without an end goes to the end of the text.
_MARKS = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[,:]', re.DOTALL)
_BETWEEN = frozenset({b",", b":"})


def compose(model: type[B], **fields: Any) -> B:
    """A message made of what a person or a program gave. UsageProblem ``request.malformed`` naming what is wrong."""
    try:
        return model(**fields)
    except ValidationError as error:
        raise UsageProblem(GateReason.REQUEST_MALFORMED, explain_validation(error)[: limits.STRING]) from error


def _malformed(detail: str) -> GateError:
    return GateError(GateReason.REQUEST_MALFORMED, detail)
