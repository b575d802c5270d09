"""Tokens of identity providers (OpenID Connect, Kubernetes service accounts): whose they are, and what they may do.

Issuer, audience, algorithms and the place of the keys are pinned by the configuration; a token chooses nothing but which
of its issuer's keys signed it. Nothing is fetched from an address that a token names.
"""

import asyncio
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import aiohttp
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway.config import GatewayConfig, read_file
from gateway.provider_config import Grant, ProviderConfig
from gateway.provider_http import ask_provider, provider_tls
from gateway.provider_login import ProviderLogin
from ztrooted import limits, strict_json
from ztrooted.clock import Clock
from ztrooted.errors import EnvironmentProblem, GateError
from ztrooted.jose import MAX_TOKEN
from ztrooted.names import NAME
from ztrooted.reasons import GateReason

log = structlog.get_logger()

REFRESH_S = 300.0
AGAIN_S = 30.0  # between two looks for a key that is not known: strangers can ask for any
MAX_JWKS = 1 << 20
MAX_KEYS = 100
RSA_BITS = range(2048, 8193)  # beyond, one verification takes as long as a hundred
_COMPACT = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")


class Providers:
    """All providers of the configuration, with the keys that they have now."""

    def __init__(self, config: GatewayConfig, clock: Clock) -> None:
        self._providers = {one.issuer: _Provider(one, config, clock) for one in config.identity_providers}
        self.logins = {
            one.name: ProviderLogin(one, config, clock)
            for one in config.identity_providers
            if one.client_id is not None
        }

    async def refresh(self) -> None:
        """Get the keys. A provider that can't be reached now is asked again; its tokens are refused until then."""
        await asyncio.gather(*[one.refresh() for one in self._providers.values()])

    async def run(self, sleep: Callable[[float], Awaitable[None]]) -> None:
        """Look for keys, now and for ever: a start waits for no provider."""
        while True:
            await self.refresh()
            await sleep(REFRESH_S)

    async def verify(self, token: str, nonce: str | None = None) -> tuple[str, Sequence[Grant], int]:
        """(name of the bearer, what was granted to it in the order of the configuration, when the token ends in ms).

        With a ``nonce`` it has to be an ID token that was made for it and for our own client, and so none of the API.
        GateError ``auth.credential_invalid`` for any token that is not, now, one of a provider for us;
        ``auth.provider_unavailable`` where its provider's keys could not be had.
        """
        if len(token) > MAX_TOKEN or not _COMPACT.fullmatch(token):
            raise _refuse("it is no token of a form that is known here")
        try:
            issuer = jwt.decode(token, options={"verify_signature": False}).get("iss")
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _refuse("it can't be read") from error
        provider = self._providers.get(issuer) if isinstance(issuer, str) else None
        if provider is None:
            raise _refuse("its issuer is not one of the configured identity providers")
        return await provider.verify(token, nonce)


class _Provider:
    def __init__(self, config: ProviderConfig, gateway: GatewayConfig, clock: Clock) -> None:
        self._config = config
        self._clock = clock
        self._keys: Mapping[str, jwt.PyJWK] = {}
        self._asked: float | None = None
        self._asking = asyncio.Lock()
        self._file = None if config.jwks_file is None else gateway.path(config.jwks_file)
        if self._file is not None:
            self._keys = self._parse(read_file(self._file, f"keys of identity provider {config.name}"))
        self._tls = provider_tls(config, gateway)

    async def verify(self, token: str, nonce: str | None) -> tuple[str, Sequence[Grant], int]:
        key = await self._key(token)
        config = self._config
        try:
            claims = jwt.decode(
                token,
                key=key,
                algorithms=list(config.algorithms),
                audience=config.audience if nonce is None else config.client_id,
                issuer=config.issuer,
                # Times are held against the gateway's own clock below.
                options={
                    "require": ["exp", "iat", "sub"],
                    "verify_exp": False,
                    "verify_nbf": False,
                    "verify_iat": False,
                },
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _refuse(f"it does not verify: {error}"[:200]) from error
        self._check_times(claims)
        if nonce is not None:
            self._check_client(claims, nonce)
        name = f"{config.name}:{claims['sub']}"
        if not NAME.fullmatch(name):
            raise _refuse("its subject can't be a name here")
        ends_ms = int((claims["exp"] + limits.CLOCK_LEEWAY_S) * 1000)
        return name, [one for one in config.grants if _has(claims, one.claims)], ends_ms

    def _check_client(self, claims: Mapping[str, Any], nonce: str) -> None:
        """OpenID Connect Core 1.0 §3.1.3.7: for nobody else (3), by whom it says it was asked for (4, 5), the nonce (11)."""
        client = self._config.client_id
        if client is None or claims["aud"] not in (client, [client]) or claims.get("azp", client) != client:
            raise _refuse("it is not for this client alone")
        said = claims.get("nonce")
        if not isinstance(said, str) or not hmac.compare_digest(said.encode("utf-8", "surrogatepass"), nonce.encode()):
            raise _refuse("it was not made for this sign-in")

    def _check_times(self, claims: Mapping[str, Any]) -> None:
        times = {name: claims[name] for name in ("iat", "nbf", "exp") if name in claims}
        if any(type(value) not in {int, float} for value in times.values()):
            raise _refuse("its times are no numbers")
        now, leeway = self._clock.now_ms() / 1000, limits.CLOCK_LEEWAY_S
        if not times["iat"] - leeway <= now < times["exp"] + leeway or times.get("nbf", 0) - leeway > now:
            raise _refuse("it has expired, or is not valid yet")
        if times["exp"] - times["iat"] > self._config.max_life_s:
            raise _refuse(f"it is valid for more than {self._config.max_life_s} s")

    async def _key(self, token: str) -> jwt.PyJWK:
        try:
            kid = jwt.get_unverified_header(token).get("kid")
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise _refuse("its header can't be read") from error
        if not isinstance(kid, str):
            raise _refuse("it names no key")
        if kid not in self._keys and self._asking.locked():
            async with self._asking:  # it may be among those that are on their way
                pass
        if kid not in self._keys and (self._asked is None or self._clock.monotonic() - self._asked > AGAIN_S):
            await self.refresh()
        if not self._keys:
            raise GateError(
                GateReason.AUTH_PROVIDER_UNAVAILABLE, f"the keys of identity provider {self._config.name} are not known"
            )
        if kid not in self._keys:
            raise _refuse("its provider has no such key")
        return self._keys[kid]

    async def refresh(self) -> None:
        """Ask for the keys; what can't be had or read changes nothing, and is logged."""
        async with self._asking:
            self._asked = self._clock.monotonic()
            try:
                data = await self._fetch()
                self._keys = self._parse(data)
            except (aiohttp.ClientError, TimeoutError, OSError, EnvironmentProblem) as error:
                log.error("no keys of an identity provider", provider=self._config.name, detail=str(error))

    async def _fetch(self) -> bytes:
        if self._file is not None:
            return read_file(self._file, f"keys of identity provider {self._config.name}")
        status, data = await ask_provider(str(self._config.jwks_url), self._tls, MAX_JWKS)
        if status != 200:
            raise _unusable(self._config.name, f"{self._config.jwks_url} answers with status {status}")
        return data

    def _parse(self, data: bytes) -> Mapping[str, jwt.PyJWK]:
        """A JWK Set (RFC 7517 §5) as its keys by name. EnvironmentProblem where not one of them is of use."""
        name = self._config.name
        if len(data) > MAX_JWKS:
            raise _unusable(name, f"over {MAX_JWKS} bytes")
        listed = strict_json.parse(data, lambda detail: _unusable(name, detail), maximum=MAX_JWKS)
        keys = listed.get("keys") if isinstance(listed, dict) else None
        if not isinstance(keys, list) or len(keys) > MAX_KEYS:
            raise _unusable(name, f"this is no JWK Set of at most {MAX_KEYS} keys")
        found: dict[str, jwt.PyJWK] = {}
        for one in keys:
            if (
                not isinstance(one, dict)
                or one.get("use", "sig") != "sig"
                or one.get("kty") not in {"RSA", "EC", "OKP"}
            ):
                continue
            kid = one.get("kid")
            try:
                key = jwt.PyJWK.from_dict(one)
            except (jwt.PyJWTError, ValueError, TypeError):
                continue  # of a kind that others use
            if not isinstance(kid, str) or key.algorithm_name not in self._config.algorithms:
                continue
            if isinstance(key.key, rsa.RSAPrivateKey) or "d" in one:
                raise _unusable(name, f"{kid!r:.80} is a private key")
            if isinstance(key.key, rsa.RSAPublicKey) and key.key.key_size not in RSA_BITS:
                continue
            if kid in found:
                raise _unusable(name, f"two keys are called {kid!r:.80}")
            found[kid] = key
        if not found:
            raise _unusable(name, f"there is no key for {' or '.join(self._config.algorithms)}")
        return found


def _has(claims: Mapping[str, Any], wanted: Mapping[str, str]) -> bool:
    """Whether each wanted claim is exactly that text, or a list with it."""
    return all(
        value in found if isinstance(found := claims.get(name), list) else found == value
        for name, value in wanted.items()
    )


def _refuse(why: str) -> GateError:
    return GateError(GateReason.AUTH_CREDENTIAL_INVALID, f"this token is not accepted: {why}")


def _unusable(name: str, detail: str) -> EnvironmentProblem:
    return EnvironmentProblem(
        GateReason.CONFIG_INVALID,
        f"the keys of identity provider {name} can't be used: {detail}",
        "name the provider's JWK Set with 'jwks_file' or 'jwks_url'",
    )
