"""Who is asking: roles, bearer tokens, and executors by their session certificate.

A route without a declared role does not start the server (``gateway.routes``). Tokens are 256 random bits; only their
SHA-256 is stored. Executors have no tokens: what they are is proved by TLS with the session key that their TPM quoted.
"""

import hashlib
import secrets
import ssl
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from gateway.storage import executors
from gateway.storage.database import Database, Transaction
from ztrooted import keys, names
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason
from ztrooted.records import Record

TOKEN_PREFIX = "zt-"  # noqa: S105 -- so that a token found in a log is recognised as one
TOKEN_LIFE_MS = 90 * 86400 * 1000


class Role(StrEnum):
    """What a caller may be."""

    ANYONE = "anyone"
    EXECUTOR = "executor"
    ORCHESTRATOR = "orchestrator"
    AUDITOR = "auditor"
    OPERATOR = "operator"


TOKEN_ROLES = frozenset({Role.ORCHESTRATOR, Role.AUDITOR, Role.OPERATOR})


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a request, proved."""

    role: Role
    name: str
    session_key: ec.EllipticCurvePublicKey | None = None
    certificate_ends_ms: int = 0


class Authenticator:
    """Finds out who a request is from."""

    def __init__(self, database: Database, clock: Clock, trust_domain: str) -> None:
        self._database = database
        self._clock = clock
        self._prefix = names.executor(trust_domain, "")

    def identify(self, request: web.Request, roles: frozenset[Role]) -> Caller:
        """The caller, if it is one of ``roles``. GateError ``auth.*`` otherwise.

        Where executors may ask as well as others, who sends no token is taken for an executor.
        """
        if Role.ANYONE in roles:
            return Caller(Role.ANYONE, "anyone")
        by_certificate = roles == {Role.EXECUTOR} or (Role.EXECUTOR in roles and "Authorization" not in request.headers)
        caller = self._executor(request) if by_certificate else self._token(request)
        if caller.role not in roles:
            raise GateError(
                GateReason.AUTH_ROLE, f"this needs the role {' or '.join(sorted(roles))}, not {caller.role}"
            )
        return caller

    def _token(self, request: web.Request) -> Caller:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme != "Bearer" or not token:
            raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "send a token: 'Authorization: Bearer zt-…'")
        row = self._database.reading.execute(
            "SELECT role, name, expires FROM tokens WHERE hash = ?", (token_hash(token),)
        ).fetchone()
        if row is None or row[2] <= self._clock.now_ms():
            raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this token is unknown or has expired")
        return Caller(Role(row[0]), row[1])

    def _executor(self, request: web.Request) -> Caller:
        transport = request.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        der = None if not isinstance(tls, ssl.SSLObject) else tls.getpeercert(binary_form=True)
        if not der:
            raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "this needs an executor's session certificate")
        certificate = x509.load_der_x509_certificate(der)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = names.get_values_for_type(x509.UniformResourceIdentifier)
        executor = keys.parse_executor_id(uri.removeprefix(self._prefix))
        key = certificate.public_key()
        known = executors.find(self._database.reading, executor)
        if known is None or not isinstance(key, ec.EllipticCurvePublicKey) or keys.spki(key) != known.session_key:
            raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this session was replaced by a newer enrollment")
        ends_ms = int(certificate.not_valid_after_utc.timestamp() * 1000)
        return Caller(Role.EXECUTOR, executor, key, ends_ms)


def token_hash(token: str) -> str:
    """What is stored of a token: its SHA-256. It has 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def create_token(tx: Transaction, role: Role, name: str, now_ms: int, life_ms: int = TOKEN_LIFE_MS) -> str:
    """A new token; it is shown once and can't be read back."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    tx.execute(
        "INSERT INTO tokens(hash, role, name, created_at, expires) VALUES (?, ?, ?, ?, ?)",
        (token_hash(token), role.value, name, now_ms, now_ms + life_ms),
    )
    # The hash, too, or another's token could be put in the place of this one and nobody would see it.
    body = {"hash": token_hash(token), "role": role.value, "name": name, "expires": now_ms + life_ms}
    tx.append(Record("operator.token_created", now_ms, body))
    return token
