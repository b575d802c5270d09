"""Sessions of people in browsers: a credential that was shown once, kept on this side, and asked about each time.

A session has no rights of its own. With each request its credential is looked at again as the API would: a token that was
revoked, a provider that takes its keys back, a certificate that the connection does not show end the session there.
Sessions are in memory alone; a gateway that restarts knows none of before.

The cookie is random, of this host only, and never seen by scripts. A page of another origin can neither send it
(``SameSite=Strict``) nor guess the number that every form brings besides (OWASP's synchroniser token).
"""

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from aiohttp import web

from gateway.auth import TOKEN_PREFIX, TOKEN_ROLES, Authenticator, Caller, token_hash
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

COOKIE = "__Host-ztrooted"  # the prefix has browsers refuse it from anywhere but this host, by TLS (RFC 6265bis §4.1.3)
LOGIN_COOKIE = "__Host-ztrooted-login"
MAX_LIFE_MS = 8 * 3600 * 1000  # a working day; the credential may end before
MAX_IDLE_S = 1800.0
MAX_SESSIONS = 1024  # some hundred bytes each; one more ends the one that was used longest ago
MAX_SESSIONS_OF_ONE = 16
MAX_NOTES = 8


@dataclass(frozen=True, slots=True)
class Credential:
    """What a session stands on: the hash of a token of ours, a provider's token, or the digest of a certificate.

    ``nonce``: the token is an ID token that somebody signed in for here.
    """

    hashed: str | None = None
    token: str | None = field(default=None, repr=False)
    certificate: bytes | None = None
    nonce: str | None = field(default=None, repr=False)


@dataclass(slots=True, eq=False)
class Session:
    """One browser. ``notes`` are told on the next page, once. ``streams`` end with it."""

    credential: Credential
    caller: Caller
    ends_ms: int
    used: float
    form: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)
    notes: list[str] = field(default_factory=list)
    streams: set[Callable[[], None]] = field(default_factory=set)

    def note(self, text: str) -> None:
        """Have the next page say this."""
        self.notes = [*self.notes, text][-MAX_NOTES:]


class Sessions:
    """All that are open, by the hash of their cookie."""

    def __init__(self, authenticator: Authenticator, clock: Clock) -> None:
        self._who = authenticator
        self._clock = clock
        self._open: dict[str, Session] = {}

    async def begin(self, request: web.Request, token: str | None, nonce: str | None = None) -> tuple[str, Session]:
        """A new session by a token, or without one by the connection's certificate: its cookie, and itself.

        With a ``nonce`` the token is the ID token of a sign-in at a provider.

        GateError ``auth.*`` where the credential is none, or its role is not one of people's.
        """
        if token is None:
            der = self._who.certificate_of(request)
            credential = Credential(certificate=hashlib.sha256(der).digest())
        elif nonce is None and token.startswith(TOKEN_PREFIX):
            credential = Credential(hashed=token_hash(token))
        else:
            credential = Credential(token=token, nonce=nonce)
        caller = await self._identify(request, credential)
        now_ms = self._clock.now_ms()
        ends_ms = min(now_ms + MAX_LIFE_MS, caller.ends_ms or now_ms + MAX_LIFE_MS)
        session = Session(credential, caller, ends_ms, self._clock.monotonic())
        self._make_room(caller)
        cookie = secrets.token_urlsafe(32)
        self._open[cookie_hash(cookie)] = session
        return cookie, session

    async def find(self, request: web.Request) -> Session | None:
        """The session of a request, if it has one that still stands."""
        cookie = request.cookies.get(COOKIE)
        session = None if cookie is None else self._open.get(cookie_hash(cookie))
        if session is None:
            return None
        if self._clock.now_ms() >= self.ends_ms(session):
            self.end(session)
            return None
        try:
            session.caller = await self._identify(request, session.credential)
        except GateError:
            self.end(session)
            return None
        if session not in self._open.values():  # it was ended while a provider was asked
            return None
        session.used = self._clock.monotonic()
        return session

    def ends_ms(self, session: Session) -> int:
        """When it ends unless it is used before then: with its credential, its day, or half an hour of nothing."""
        idle_s = self._clock.monotonic() - session.used
        return min(session.ends_ms, self._clock.now_ms() + round((MAX_IDLE_S - idle_s) * 1000))

    def end(self, session: Session) -> None:
        """Nothing is done in its name any more, and what it listens to is over."""
        self._open = {key: one for key, one in self._open.items() if one is not session}
        for end in list(session.streams):
            end()

    async def _identify(self, request: web.Request, credential: Credential) -> Caller:
        if credential.hashed is not None:
            caller = self._who.of_hash(credential.hashed)
        elif credential.token is not None:
            caller = await self._who.of_token(credential.token, TOKEN_ROLES, credential.nonce)
        else:
            der = self._who.certificate_of(request)
            if not hmac.compare_digest(hashlib.sha256(der).digest(), credential.certificate or b""):
                raise GateError(
                    GateReason.AUTH_CREDENTIAL_INVALID, "this is not the certificate that began the session"
                )
            caller = self._who.of_certificate(request)
        if caller.role not in TOKEN_ROLES:
            raise GateError(GateReason.AUTH_ROLE, f"the console is for people, not for the role {caller.role}")
        return replace(caller, session_key=None)

    def _make_room(self, caller: Caller) -> None:
        same = [one for one in self._open.values() if (one.caller.role, one.caller.name) == (caller.role, caller.name)]
        for sessions, most in ((same, MAX_SESSIONS_OF_ONE), (list(self._open.values()), MAX_SESSIONS)):
            if len(sessions) >= most:
                self.end(min(sessions, key=lambda one: one.used))


def give_cookie(
    response: web.StreamResponse, name: str, value: str, *, samesite: str = "Strict", life_s: int | None = None
) -> None:
    """A cookie that is hidden from scripts, sent by pages of this origin alone, and lasts as long as the browser.

    Unless it has a ``life_s``; or is ``Lax``, and goes with a navigation from elsewhere too (RFC 6265bis §5.6.7).
    """
    response.set_cookie(name, value, path="/", secure=True, httponly=True, samesite=samesite, max_age=life_s)


def take_cookie(response: web.StreamResponse, name: str) -> None:
    """Have the browser forget it."""
    response.del_cookie(name, path="/", secure=True, httponly=True, samesite="Strict")


def cookie_hash(cookie: str) -> str:
    """What is kept of a cookie."""
    return hashlib.sha256(cookie.encode("utf-8", "surrogatepass")).hexdigest()
