"""Signing in at an identity provider: where it asks people (OpenID Connect Discovery), and what a code of it stands for.

The authorization code flow of OpenID Connect Core 1.0 §3.1 with PKCE (RFC 7636). The issuer is pinned by the configuration,
and what it says of itself is fetched from below that address alone; its keys stay those of ``gateway.providers``.
"""

import asyncio
import base64
import hashlib
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus, urlencode, urlsplit

import aiohttp
import structlog

from gateway.config import GatewayConfig, read_file
from gateway.provider_config import ProviderConfig
from gateway.provider_http import ask_provider, provider_tls
from ztrooted import strict_json
from ztrooted.clock import Clock
from ztrooted.errors import GateError
from ztrooted.inspect.plain import printable
from ztrooted.jose import MAX_TOKEN
from ztrooted.reasons import GateReason

log = structlog.get_logger()

WELL_KNOWN = "/.well-known/openid-configuration"
KEPT_S = 300.0
AGAIN_S = 5.0  # after one that could not be asked: strangers can have us ask
MAX_METADATA = 256 << 10
MAX_ANSWER = 128 << 10  # of a token endpoint: three tokens
MAX_SECRET = 4096
MAX_EXCHANGES = 8  # at once: strangers can invent codes


@dataclass(frozen=True, slots=True)
class Endpoints:
    """What a provider says of itself (Discovery 1.0 §3). ``names_issuer``: its answers bear ``iss`` (RFC 9207 §3)."""

    authorization: str
    token: str
    names_issuer: bool
    secret_in_form: bool


class ProviderLogin:
    """One provider at which people sign in for this gateway."""

    def __init__(self, config: ProviderConfig, gateway: GatewayConfig, clock: Clock) -> None:
        self.name, self.issuer = config.name, config.issuer
        self.redirect_uri, self._client, self._scope = str(config.redirect_uri), str(config.client_id), config.scope
        self._clock = clock
        self._tls = provider_tls(config, gateway)
        self._secret: str | None = None
        if config.client_secret_file is not None:
            path = gateway.path(config.client_secret_file)
            what = f"client secret of identity provider {config.name}"
            self._secret = read_file(path, what, secret=True)[:MAX_SECRET].decode("utf-8", "replace").strip()
        self._known: tuple[float, Endpoints] | None = None
        self._failed: float | None = None
        self._asking = asyncio.Lock()
        self._exchanging = asyncio.Semaphore(MAX_EXCHANGES)

    def is_of(self, host: str) -> bool:
        """Whether ``host`` (of a request) is the one that the provider sends people back to."""
        return _place(f"https://{host}") == _place(self.redirect_uri)

    async def address(self, state: str, nonce: str, verifier: str) -> str:
        """Where to send a browser (OpenID Connect Core §3.1.2.1; RFC 7636 §4.3). GateError ``auth.provider_unavailable``."""
        endpoint = (await self.endpoints()).authorization
        query = {
            "response_type": "code",
            "client_id": self._client,
            "redirect_uri": self.redirect_uri,
            "scope": self._scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": challenge_of(verifier),
            "code_challenge_method": "S256",
        }
        return f"{endpoint}{'&' if '?' in endpoint else '?'}{urlencode(query, quote_via=quote)}"

    async def require_issuer(self, said: str | None) -> None:
        """GateError ``auth.credential_invalid`` for an answer that is of another, or does not say whose (RFC 9207 §2.4)."""
        if said != self.issuer and (said is not None or (await self.endpoints()).names_issuer):
            raise _refuse("the answer is not of the issuer that was asked")

    async def exchange(self, code: str, verifier: str) -> str:
        """The ID token that a code stands for (Core §3.1.3; RFC 7636 §4.5), as it came: nothing of it is verified here.

        GateError ``auth.credential_invalid`` for a code that the provider does not take, ``auth.provider_unavailable``
        where it does not answer.
        """
        endpoints = await self.endpoints()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self.redirect_uri,
            "code_verifier": verifier,
        }
        headers = {"Accept": "application/json"}
        if self._secret is None or endpoints.secret_in_form:
            form["client_id"] = self._client
        if self._secret is not None and endpoints.secret_in_form:
            form["client_secret"] = self._secret
        elif self._secret is not None:  # RFC 6749 §2.3.1: both are form-encoded before they become Basic
            both = f"{quote_plus(self._client)}:{quote_plus(self._secret)}"
            headers["Authorization"] = f"Basic {base64.b64encode(both.encode()).decode()}"
        if self._exchanging.locked():
            raise GateError(GateReason.AUTH_PROVIDER_UNAVAILABLE, "too many people sign in at once; try again")
        async with self._exchanging:
            try:
                status, data = await ask_provider(endpoints.token, self._tls, MAX_ANSWER, form=form, headers=headers)
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                raise self._unavailable(f"its token endpoint does not answer: {error!r}") from error
        if status >= 500:
            raise self._unavailable(f"its token endpoint answers with status {status}")
        if status != 200:
            raise _refuse(f"the provider does not take the code (status {status})")
        said = _read(data, MAX_ANSWER)
        token = said.get("id_token")
        if not isinstance(token, str) or len(token) > MAX_TOKEN:
            raise _refuse("the provider's answer has no ID token")
        return token

    async def endpoints(self) -> Endpoints:
        """What the provider says of itself, asked again every five minutes. GateError ``auth.provider_unavailable``."""
        async with self._asking:  # one asks, and whoever comes meanwhile has its answer
            now = self._clock.monotonic()
            if self._known is not None and now - self._known[0] < KEPT_S:
                return self._known[1]
            if self._failed is not None and now - self._failed < AGAIN_S:
                raise GateError(GateReason.AUTH_PROVIDER_UNAVAILABLE, f"identity provider {self.name} can't be asked")
            try:
                found = await self._discover()
            except GateError:
                self._failed = self._clock.monotonic()
                raise
            self._known, self._failed = (now, found), None
            return found

    async def _discover(self) -> Endpoints:
        """Discovery 1.0 §4: below the issuer's address, and of that issuer as it stands (§4.3)."""
        try:
            status, data = await ask_provider(self.issuer.rstrip("/") + WELL_KNOWN, self._tls, MAX_METADATA)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise self._unavailable(f"it does not answer: {error!r}") from error
        if status != 200:
            raise self._unavailable(f"{WELL_KNOWN} answers with status {status}")
        try:
            said = _read(data, MAX_METADATA)
        except GateError as error:
            raise self._unavailable(f"{WELL_KNOWN}: {error.detail}") from error
        places = [said.get(name) for name in ("authorization_endpoint", "token_endpoint")]
        if said.get("issuer") != self.issuer:
            raise self._unavailable(f"{WELL_KNOWN} is of another issuer")
        if not all(isinstance(one, str) and _is_endpoint(one) for one in places):
            raise self._unavailable(f"{WELL_KNOWN} names no endpoints by https")
        methods = said.get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        in_form = isinstance(methods, list) and "client_secret_basic" not in methods and "client_secret_post" in methods
        return Endpoints(
            str(places[0]), str(places[1]), said.get("authorization_response_iss_parameter_supported") is True, in_form
        )

    def _unavailable(self, detail: str) -> GateError:
        log.error("nobody can sign in at an identity provider", provider=self.name, detail=detail)
        return GateError(GateReason.AUTH_PROVIDER_UNAVAILABLE, f"identity provider {self.name} can't be asked")


def challenge_of(verifier: str) -> str:
    """``code_challenge`` of the method S256 (RFC 7636 §4.2)."""
    return base64.urlsafe_b64encode(hashlib.sha256(verifier.encode("ascii")).digest()).rstrip(b"=").decode()


def _is_endpoint(url: str) -> bool:
    """RFC 6749 §3.1, §3.2: by TLS, without a fragment; printable, since it becomes a header."""
    try:
        parts = urlsplit(url)
        bare = parts.username is None and parts.password is None and not parts.fragment
        return parts.scheme == "https" and bool(parts.hostname) and bare and url.isascii() and printable(url) == url
    except ValueError:
        return False


def _place(url: str) -> tuple[str | None, int]:
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port or 443
    except ValueError:
        return None, 0


def _read(data: bytes, most: int) -> dict[str, Any]:
    found = strict_json.parse(data, _refuse, maximum=most)
    if not isinstance(found, dict):
        raise _refuse("the provider's answer is no object")
    return found


def _refuse(why: str) -> GateError:
    return GateError(GateReason.AUTH_CREDENTIAL_INVALID, f"signing in at the provider failed: {why}"[:300])
