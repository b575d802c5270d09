"""Who is asking: roles, bearer tokens, and executors by their session certificate.

A route without a declared role does not start the server (``gateway.routes``). Orchestrators, auditors and operators
show one of: a bearer token of ours (256 random bits, of which the SHA-256 is stored), a token of a configured identity
provider, a client certificate of the configured CA. Executors have none of these: what they are is proved by TLS with the
session key that their TPM quoted, whose certificate another CA issued. Who may act as the gateway's own user on its
machine is an operator by the local socket.
"""

import hashlib
import secrets
import sqlite3
import ssl
from dataclasses import dataclass
from enum import StrEnum

from aiohttp import web
from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec

from gateway import local
from gateway.certificates import ClientAuthorities
from gateway.providers import Providers
from gateway.storage import executors, retirements
from gateway.storage.database import Database, Transaction
from ztrooted import keys, names
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.operator_models import TokenView
from ztrooted.reasons import GateReason
from ztrooted.records import Record
from ztrooted.redaction import redact_text

TOKEN_PREFIX = "zt-"  # noqa: S105 -- so that a token found in a log is recognised as one
TOKEN_ID = 16
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
    ends_ms: int | None = None  # when the credential that was shown ends; None for the local socket and nobody
    token: str | None = None  # the hash of a token of ours, which may be revoked before that


class Authenticator:
    """Finds out who a request is from."""

    def __init__(
        self, database: Database, clock: Clock, trust_domain: str, authorities: ClientAuthorities, providers: Providers
    ) -> None:
        self._database = database
        self._clock = clock
        self._trust_domain = trust_domain
        self._authorities = authorities
        self._providers = providers

    async def identify(self, request: web.Request, roles: frozenset[Role]) -> Caller:
        """The caller, if it is one of ``roles``. GateError ``auth.*`` otherwise.

        What came by the local socket is recorded before anything is done about it. A token is looked at before a
        certificate, except where executors alone may ask.
        """
        if Role.ANYONE in roles:
            return Caller(Role.ANYONE, "anyone")
        uid = local.user_of(request)
        if uid is not None:
            caller = Caller(Role.OPERATOR, f"local:{uid}")
        elif "Authorization" in request.headers and roles != {Role.EXECUTOR}:
            caller = await self._bearer(request.headers["Authorization"], roles)
        else:
            caller = self.of_certificate(request)
        if caller.role not in roles:
            raise GateError(
                GateReason.AUTH_ROLE, f"this needs the role {' or '.join(sorted(roles))}, not {caller.role}"
            )
        if uid is not None:
            body = {"user": uid, "method": request.method, "path": redact_text(request.raw_path)[:256]}
            record = Record("operator.local_access", self._clock.now_ms(), body)
            await self._database.write(lambda tx: tx.append(record))
        return caller

    def executor_of(self, request: web.Request) -> Caller | None:
        """The executor whose session certificate the connection has shown, where nobody has to show any."""
        try:
            caller = self.of_certificate(request)
        except GateError:
            return None
        return caller if caller.role is Role.EXECUTOR else None

    async def _bearer(self, header: str, roles: frozenset[Role]) -> Caller:
        scheme, _, token = header.partition(" ")
        if scheme != "Bearer" or not token:
            raise GateError(GateReason.AUTH_CREDENTIAL_MISSING, "send a token: 'Authorization: Bearer zt-…'")
        return await self.of_token(token, roles)

    async def of_token(self, token: str, roles: frozenset[Role], nonce: str | None = None) -> Caller:
        """Whose a token is, ours or a provider's. GateError ``auth.*``. Of several roles, one that is among ``roles``.

        With a ``nonce``, an ID token that a provider made for it and for our own client.
        """
        if nonce is None and token.startswith(TOKEN_PREFIX):
            return self.of_hash(token_hash(token))
        name, grants, ends_ms = await self._providers.verify(token, nonce)
        granted = [Role(one.role) for one in grants]
        if not granted:
            raise GateError(GateReason.AUTH_ROLE, f"{name} is known, and no role is granted to it")
        return Caller(next((role for role in granted if role in roles), granted[0]), name, ends_ms=ends_ms)

    def of_hash(self, hashed: str) -> Caller:
        """Whose a token of ours is, by its hash. GateError ``auth.credential_invalid``."""
        row = self._database.reading.execute(
            "SELECT role, name, expires FROM tokens WHERE hash = ?", (hashed,)
        ).fetchone()
        if row is None or row[2] <= self._clock.now_ms():
            raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this token is unknown or has expired")
        return Caller(Role(row[0]), row[1], ends_ms=row[2], token=hashed)

    @staticmethod
    def certificate_of(request: web.Request) -> bytes:
        """The certificate that a connection has shown, in DER. GateError ``auth.credential_missing``."""
        transport = request.transport
        tls = None if transport is None else transport.get_extra_info("ssl_object")
        der = None if not isinstance(tls, ssl.SSLObject) else tls.getpeercert(binary_form=True)
        if not der:
            raise GateError(
                GateReason.AUTH_CREDENTIAL_MISSING,
                "send a token ('Authorization: Bearer zt-…') or a client certificate; an executor its session's",
            )
        return der

    def of_certificate(self, request: web.Request) -> Caller:
        """By the certificate of the TLS connection. That a CA of ours issued it, TLS has verified; here, which one."""
        der = self.certificate_of(request)
        certificate = x509.load_der_x509_certificate(der)
        uri = _only_uri(certificate)
        ends_ms = int(certificate.not_valid_after_utc.timestamp() * 1000)
        if ends_ms <= self._clock.now_ms():
            raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this certificate has expired")
        if _issued_by(certificate, self._authorities.executors):
            return self._executor(certificate, uri, ends_ms)
        if any(_issued_by(certificate, one) for one in self._authorities.others):
            person = names.parse_person(self._trust_domain, uri)
            if person is None or person[0] not in TOKEN_ROLES:
                raise GateError(
                    GateReason.AUTH_CREDENTIAL_INVALID,
                    f"this certificate is not of spiffe://{self._trust_domain}/ROLE/NAME",
                )
            return Caller(Role(person[0]), person[1], ends_ms=ends_ms)
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this certificate's issuer may not vouch for anybody here")

    def _executor(self, certificate: x509.Certificate, uri: str, ends_ms: int) -> Caller:
        executor = uri.removeprefix(names.executor(self._trust_domain, ""))
        key = certificate.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey):
            raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this certificate's key is none of a session")
        require_session(self._database.reading, executor, key)
        return Caller(Role.EXECUTOR, executor, key, ends_ms)


def require_session(connection: sqlite3.Connection, executor: str, key: ec.EllipticCurvePublicKey) -> None:
    """GateError ``auth.credential_invalid`` or ``enroll.retired`` unless this is the session of an executor in service."""
    known = executors.find(connection, executor)
    if known is None or keys.spki(key) != known.session_key:
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this session was replaced by a newer enrollment")
    retirements.require_in_service(connection, executor)


def _only_uri(certificate: x509.Certificate) -> str:
    try:
        alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        (uri,) = alternative.get_values_for_type(x509.UniformResourceIdentifier)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "this certificate does not name exactly one URI") from error
    return uri


def _issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def token_hash(token: str) -> str:
    """What is stored of a token: its SHA-256. It has 256 random bits, so nothing slower is needed."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()


def create_token(
    tx: Transaction, role: Role, name: str, now_ms: int, life_ms: int = TOKEN_LIFE_MS, operator: str | None = None
) -> str:
    """A new token; it is shown once and can't be read back. Others of the same name stay valid until they end."""
    token = TOKEN_PREFIX + secrets.token_urlsafe(32)
    tx.execute(
        "INSERT INTO tokens(hash, role, name, created_at, expires) VALUES (?, ?, ?, ?, ?)",
        (token_hash(token), role.value, name, now_ms, now_ms + life_ms),
    )
    # The hash, too, or another's token could be put in the place of this one and nobody would see it.
    body = {"hash": token_hash(token), "role": role.value, "name": name, "expires": now_ms + life_ms}
    tx.append(Record("operator.token_created", now_ms, {**body, "operator": operator}))
    return token


def token_id(token: str) -> str:
    """What a token is called in lists and records: the first 16 digits of its hash."""
    return token_hash(token)[:TOKEN_ID]


def tokens(connection: sqlite3.Connection) -> list[TokenView]:
    """Every token that was not revoked, the expired ones too; none can be read back."""
    rows = connection.execute("SELECT hash, role, name, created_at, expires FROM tokens ORDER BY created_at, hash")
    return [
        TokenView(id=row[0][:TOKEN_ID], role=row[1], name=row[2], created_at=row[3], expires=row[4]) for row in rows
    ]


def revoke_token(tx: Transaction, wanted: str, now_ms: int, operator: str | None) -> tuple[TokenView, str]:
    """End a token at once; what it was, and its hash. GateError ``request.not_found`` where there is none of that id."""
    found = next((one for one in tokens(tx.connection) if one.id == wanted), None)
    if found is None:
        raise GateError(GateReason.REQUEST_NOT_FOUND, f"there is no token {wanted!r:.40}")
    (row,) = tx.execute("DELETE FROM tokens WHERE substr(hash, 1, ?) = ? RETURNING hash", (TOKEN_ID, wanted)).fetchall()
    body = {"hash": row[0], "role": found.role, "name": found.name, "operator": operator}
    tx.append(Record("operator.token_revoked", now_ms, body))
    return found, str(row[0])
