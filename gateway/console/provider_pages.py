"""Signing in at an identity provider: a browser is sent there, and what it brings back is taken from that browser alone.

1. The way there (OpenID Connect Core 1.0 §3.1.2.1): ``state``, ``nonce`` and a PKCE verifier (RFC 7636 §4.1) of 256 random
   bits each, kept here; the browser gets a cookie that names them and lives as long.
2. The way back, numbered as in ``ProviderPages.back``:
   1. the cookie is of a sign-in that is not over, and of the provider whose address was called (RFC 9700 §4.4.2.2);
   2. ``state`` is that of the sign-in (RFC 6749 §10.12), which is over with this: nothing is taken twice;
   3. ``iss`` is the issuer that was asked (RFC 9207 §2.4);
   4. there is a code, and the provider gives an ID token for it (Core §3.1.3);
   5. the ID token verifies as any token of that provider does, is for this client alone, and bears the nonce
      (Core §3.1.3.7).

The cookie is ``SameSite=Lax``, for the way back is a navigation from another site. The session's is ``Strict``, and a
browser that came from another site does not send it to where it is redirected; so the answer is a page that leads on by
itself.
"""

import hmac
import re
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from aiohttp import web

from gateway.addresses import source_of
from gateway.console.forms import HEADERS, page_after, redirect
from gateway.console.page import Page, Viewer
from gateway.console.sessions import COOKIE, Session, cookie_hash, give_cookie
from gateway.provider_login import ProviderLogin
from ztrooted.errors import GateError
from ztrooted.reasons import GateReason

if TYPE_CHECKING:
    from gateway.console.app import Console
    from gateway.console.login import LoginPages

FLOW_COOKIE = "__Host-ztrooted-flow"
FLOW_S = 600  # somebody types a password and looks for a second factor
MAX_FLOWS = 4096  # a kilobyte each; one more ends the oldest
MAX_FLOWS_OF_ONE = 256  # of one address, so that a stranger ends their own
MAX_CODE = 4096
_ERROR = re.compile(r"[a-z_]{1,64}")


@dataclass(frozen=True, slots=True)
class Flow:
    """One browser on its way. ``ends`` by the monotonic clock; ``before`` is the session that the next one replaces."""

    provider: str
    state: str
    nonce: str
    verifier: str
    wanted: str
    source: str
    ends: float
    before: Session | None


class ProviderPages:
    """The way there, and the way back."""

    def __init__(self, console: "Console", login: "LoginPages") -> None:
        self._console = console
        self._login = login
        self._flows: dict[str, Flow] = {}  # by the hash of the cookie, the oldest first
        self.pages = (
            Page("GET", "/console/login/{provider}", self.begin, open=True),
            Page("GET", "/console/login/{provider}/callback", self.back, open=True),
        )

    async def begin(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """Off to the provider."""
        wanted = page_after(request.query.get("next", ""))
        provider = self._provider(request)
        try:
            # Another site may not end a sign-in that has begun, by beginning the next.
            if request.headers.get("Sec-Fetch-Site") not in {None, "none", "same-origin"}:
                raise GateError(GateReason.AUTH_CROSS_SITE, "this link was not followed on a page of this gateway")
            if not provider.is_of(request.host):
                place = provider.redirect_uri.partition("/login/")[0]
                raise GateError(
                    GateReason.AUTH_CROSS_SITE, f"{provider.name} sends people back to {place}/; begin there"
                )
            state, nonce, verifier, cookie = (secrets.token_urlsafe(32) for _ in range(4))
            address = await provider.address(state, nonce, verifier)
        except GateError as error:
            return self._login.refuse(request, viewer, wanted, error)
        now, source = self._console.gateway.clock.monotonic(), str(source_of(request))
        self._make_room(now, source)
        self._flows[cookie_hash(cookie)] = Flow(
            provider.name, state, nonce, verifier, wanted, source, now + FLOW_S, viewer.session
        )
        answer = redirect(address)
        give_cookie(answer, FLOW_COOKIE, cookie, samesite="Lax", life_s=FLOW_S)
        return answer

    async def back(self, request: web.Request, viewer: Viewer) -> web.StreamResponse:
        """A session, and on to the page that was asked for."""
        wanted = ""
        try:
            provider = self._provider(request)
            flow = self._take(request, provider)  # 1, 2
            wanted = flow.wanted
            await provider.require_issuer(_one(request, "iss"))  # 3
            token = await provider.exchange(_code(request), flow.verifier)  # 4
            cookie, _ = await self._console.sessions.begin(request, token, flow.nonce)  # 5
        except GateError as error:
            return self._login.refuse(request, viewer, wanted, error)
        for old in (viewer.session, flow.before):
            if old is not None:
                self._console.sessions.end(old)
        answer = self._console.render(request, viewer, "signed_in.html", wanted=wanted)
        answer.headers.update({**HEADERS, "Referrer-Policy": "no-referrer"})  # this address has the code
        give_cookie(answer, COOKIE, cookie)
        return answer

    def _provider(self, request: web.Request) -> ProviderLogin:
        found = self._console.gateway.providers.logins.get(request.match_info["provider"])
        if found is None:
            raise GateError(GateReason.REQUEST_NOT_FOUND, "people do not sign in here at a provider of that name")
        return found

    def _take(self, request: web.Request, provider: ProviderLogin) -> Flow:
        """The sign-in that this browser began, and that is over now."""
        key = cookie_hash(request.cookies.get(FLOW_COOKIE, ""))
        flow = self._flows.get(key)
        if flow is None or flow.provider != provider.name or flow.ends <= self._console.gateway.clock.monotonic():
            raise GateError(GateReason.AUTH_CROSS_SITE, "this browser has begun no such sign-in, or it took too long")
        given = (_one(request, "state") or "").encode("utf-8", "surrogatepass")
        if not hmac.compare_digest(given, flow.state.encode()):
            raise GateError(GateReason.AUTH_CROSS_SITE, "this answer is to a sign-in of another browser")
        del self._flows[key]
        return flow

    def _make_room(self, now: float, source: str) -> None:
        self._flows = {key: one for key, one in self._flows.items() if one.ends > now}
        same = [key for key, one in self._flows.items() if one.source == source]
        for keys, most in ((same, MAX_FLOWS_OF_ONE), (list(self._flows), MAX_FLOWS)):
            if len(keys) >= most:
                self._flows.pop(keys[0], None)


def _one(request: web.Request, name: str) -> str | None:
    """A parameter that may be there once (RFC 6749 §3.1)."""
    given = request.query.getall(name, [])
    if len(given) > 1:
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, f"the provider's answer says {name} twice")
    return given[0] if given else None


def _code(request: web.Request) -> str:
    """RFC 6749 §4.1.2; or what went wrong there (§4.1.2.1), as far as it is one of that standard's words."""
    error, code = _one(request, "error"), _one(request, "code")
    if error is not None:
        why = error if _ERROR.fullmatch(error) else "for no reason of the standard"
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, f"the provider did not sign anybody in: {why}")
    if not code or len(code) > MAX_CODE:
        raise GateError(GateReason.AUTH_CREDENTIAL_INVALID, "the provider's answer has no code")
    return code
